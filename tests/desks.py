"""A running desk for the browser tests: the real server in a process of its own, on a free port, over a store of its own.

A test module that wants it says `pytest_plugins = ["desks"]`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

expect.set_options(timeout=240_000)  # a machine that does much else at the same time is slow, not wrong

ROOT = Path(__file__).parent.parent


def barriers(page) -> list[str]:
    """What axe-core finds on a page against WCAG 2.2 A and AA and its best practices (contrast of every text included)."""
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    # Gradio's field for files calls itself otherwise than what stands in it; no parameter changes either.
    found = Axe().run(page, {"exclude": [[".upload-container"]]}, {"runOnly": rules, "resultTypes": ["violations"]})
    return [f"{rule['id']}: {node['html'][:300]}" for rule in found.response["violations"] for node in rule["nodes"]]


class Server:
    """`moderation review` (or `python app.py`) over `store`; `url` once it runs. It can be killed and started again on the same port."""

    def __init__(self, store: str | os.PathLike, *options: object, folder: str | os.PathLike, app: bool = False) -> None:
        self.store, self.options, self.folder = store, list(map(str, options)), folder
        self.program = [str(ROOT / "app.py")] if app else ["-m", "moderation.cli", "review"]
        self.port, self.url, self.output = "0", "", []

    def start(self) -> Server:
        command = [sys.executable, *self.program, "--database", str(self.store), "--port", self.port]
        self.process = subprocess.Popen(
            [*command, *self.options],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )
        for line in self.process.stdout:
            self.output.append(line)
            if found := re.search(r"open at (https?://\S+:(\d+))", line):
                self.url, self.port = found.groups()
                break
        else:
            pytest.fail("the desk did not start:\n" + "".join(self.output))
        # The rest is read too, or the server would stop when the pipe is full.
        threading.Thread(target=lambda: self.output.extend(self.process.stdout), daemon=True).start()
        self._wait()
        return self

    def _wait(self) -> None:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=5)
                return
            except OSError:
                time.sleep(0.05)
        pytest.fail("the desk does not answer:\n" + "".join(self.output))

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)

    def kill(self) -> None:
        """As a power cut would."""
        self.stop(signal.SIGKILL)


class Here:
    """The same server in a thread of the tests' own process, which starts at once; `url` and `store` as of `Server`.

    `clock` is the time by which leases and sessions end.
    """

    def __init__(self, path: str | os.PathLike, moderator, clock: Callable[[], float] = time.time, **settings) -> None:
        from desk.frame import Desk, Settings
        from desk.web import server
        from moderation.store import Store

        self.path = path
        self._store = Store(path, clock)
        desk = Desk(self._store, Settings(**settings))
        desk._model = moderator  # loaded once for all tests
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._server = server(desk, port=int(self.url.rsplit(":", 1)[1]))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the desk did not start"
            time.sleep(0.01)

    @property
    def store(self):
        return self.path

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._store.close()


def _desks_here(moderator):
    running: list[Here] = []

    def start(path: str | os.PathLike, **settings) -> Here:
        running.append(Here(path, moderator, **settings))
        return running[-1]

    yield start
    for here in running:
        here.stop()


#: Start desks in this process: `desk_here(store_file, session=3600, ...)` with the fields of `frame.Settings`. They end with the
#: test, or with the module.
desk_here = pytest.fixture(_desks_here, name="desk_here")
desk_here_for_all = pytest.fixture(_desks_here, scope="module", name="desk_here_for_all")


@pytest.fixture(scope="module")
def desk_server(tmp_path_factory):
    """Starts desks: `desk_server(store_file, "--option", ...)` gives a running `Server`; all end with the module."""
    running: list[Server] = []

    def start(store: str | os.PathLike, *options: object, app: bool = False) -> Server:
        server = Server(store, *options, folder=tmp_path_factory.mktemp("desk"), app=app)
        running.append(server)
        return server.start()

    yield start
    for server in running:
        server.stop()
