"""How long does a moderator wait? From a key press to the next comment painted, in Chromium, at a desk on this machine.

    python benchmarks/desk.py [--presses 200] [--training full]

The browser itself measures: the Event Timing API gives, for every key press, the milliseconds from the press to the next frame
that shows what it did (W3C Event Timing, `duration`, in steps of 8 ms; a press that took less than 16 ms has no entry). Comments
are those of the demo thread, many times over, each with another beginning; the moderator looks at each for 0.4 s. One JSON line.
With `--training` the learning loop trains meanwhile on 600 decisions, started as the desk starts it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from playwright.sync_api import sync_playwright

from data import __file__ as data
from moderation import Comment, Moderator
from moderation.readers import read_comments
from moderation.registry import Registry
from moderation.store import Store

#: The steps of the API, milliseconds: what is shorter than this is not reported.
LEAST = 16


def fill(path: Path, count: int) -> None:
    """A store with so many scored comments."""
    moderator = Moderator.from_pretrained()
    known = [row for row in read_comments([Path(data).parent / "samples"]) if isinstance(row, Comment)]
    verdicts = moderator.predict(known)
    with Store(path) as store:
        store.library.add_model(moderator.version, manifest=moderator.manifest)
        comments = [
            dataclasses.replace(known[n % len(known)], comment_id=f"c{n}", text=f"{n}: {known[n % len(known)].text}")
            for n in range(count)
        ]
        store.library.add(comments, [verdicts[n % len(known)] for n in range(count)], site="bench")


def measure(url: str, presses: int) -> list[float]:
    """Milliseconds from each press to the frame that shows the next comment."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.locator("#q-stage .card").wait_for()
        page.evaluate(
            """least => { window.took = []; new PerformanceObserver(list => { for (const one of list.getEntries())
               if (one.name === 'keydown') window.took.push(one.duration); }).observe({type: 'event', durationThreshold: least}); }""",
            LEAST,
        )
        for number in range(presses):
            page.wait_for_function(
                "(stage => stage.dataset.id && performance.now() - stage.dataset.shown > 400)(document.getElementById('q-stage'))"
            )
            page.keyboard.press(str(number % 4 + 1))
        page.wait_for_timeout(500)
        took = page.evaluate("window.took")
        browser.close()
    return sorted([float(LEAST)] * (presses - len(took)) + took)


@contextmanager
def training(folder: Path, lane: str) -> Iterator[None]:
    """A training in the background, from when it has read the decisions."""
    from training.examples import read_threads
    from training.lanes import THREADS
    from training.loop import status

    rows = read_threads(THREADS, "train")[:600]
    labels = {row["comment_id"]: row["label"] for row in rows}
    with Store(folder / "site.db") as store:
        store.library.add([Comment.from_row(row) for row in rows])
        for item in list(store.lessons.undecided()):
            store.decisions.decide(item.id, "mia", labels[item.comment.comment_id], f"key {item.id}")
    registry = Registry(folder / "models")
    command = [
        sys.executable,
        "-m",
        "moderation.cli",
        "train",
        "--from-store",
        "--background",
        "--database",
        str(folder / "site.db"),
    ]
    with (folder / "train.log").open("wb") as log:
        process = subprocess.Popen(
            command + ["--full"] * (lane == "full"), stdout=log, stderr=log, env=os.environ | {"MODERATION_MODELS": str(registry.folder)}
        )  # fmt: skip
    try:
        while process.poll() is None and (status(registry) or {}).get("stage") in (None, "reading the decisions"):
            time.sleep(0.5)
        yield
        print(f"the training is at: {(status(registry) or {}).get('stage')}", file=sys.stderr)
        if process.poll() is not None:
            print("the training ended before the presses did", file=sys.stderr)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--presses", type=int, default=200)
    arguments.add_argument("--training", choices=("fast", "full"))
    options = arguments.parse_args()
    presses = options.presses
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "desk.db"
        fill(path, presses + 50)
        command = [sys.executable, "-m", "moderation.cli", "review", "--database", str(path), "--port", "0", "--no-demo"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            with training(Path(folder), options.training) if options.training else nullcontext():
                took = measure(url, presses)
        finally:
            server.terminate()
            server.wait()
    at = {f"p{share}": took[min(len(took) - 1, int(len(took) * share / 100))] for share in (50, 95, 99)}
    print(json.dumps({"presses": presses, "training": options.training, "milliseconds": at | {"most": took[-1]}}))


if __name__ == "__main__":
    main()
