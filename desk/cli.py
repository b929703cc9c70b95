"""`moderation review`: opens the store, fills an empty one with the demo thread, and serves the desk."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from moderation.desk_cli import Database
from moderation.schema import UserError

#: The site of the comments that an empty store is filled with.
DEMO = "demo"


def review(
    database: Database = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model directory or version. Default: the champion.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than this machine's only once users are configured.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; the next free one is taken if it is in use.", min=0, max=65535)
    ] = 7860,
    sso_header: Annotated[str, typer.Option(help="Header in which the proxies named below say who has logged in.")] = "",
    proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a proxy whose headers are believed; may be repeated.")
    ] = None,
    certificate: Annotated[str | None, typer.Option(help="TLS certificate (PEM), to serve https.")] = None,
    key: Annotated[str | None, typer.Option(help="The certificate's private key (PEM).")] = None,
    session_hours: Annotated[float, typer.Option(help="Hours until a login expires.", min=0.0001, max=720)] = 12.0,
    demo: Annotated[bool, typer.Option(help="Fill an empty store with the demo thread.")] = True,
) -> None:
    """Open the review desk in the browser: read, decide, import, watch."""
    from moderation.cli import quiet

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if sso_header and not proxy:
        raise UserError("--sso-header: name the address of the proxy that sets it with --proxy; nobody else is believed")
    quiet()
    from desk.frame import Desk, Settings
    from desk.web import server
    from moderation.store import Store

    with Store(database) as store:
        users = store.people.configured() or bool(sso_header)
        if not users and host not in ("127.0.0.1", "localhost", "::1"):
            raise UserError(
                f"--host {host}: without a user the desk serves this machine only; first: moderation users add NAME --role admin"
            )
        port = _free(host, port)
        desk = Desk(store, Settings(model, sso_header.lower(), tuple(proxy or ()), session_hours * 3600))
        if demo:
            fill(desk)
        scheme = "https" if certificate else "http"
        shown = f"[{host}]" if ":" in host else host
        print(f"The review desk is open at {scheme}://{shown}:{port}   (Ctrl-C closes it)", flush=True)
        if not users:
            print(
                "No user is configured, so it serves this machine only. Add one: moderation users add NAME --role admin",
                flush=True,
            )
        server(desk, host, port, certificate, key).run()


def fill(desk) -> None:
    """Put the demo thread, scored, into a store that has nothing in it."""
    import data
    from moderation.store import Filter, take_in

    if desk.store.queue.count(Filter(show="all")):
        return
    print("The store is empty: preparing the demo thread …", file=sys.stderr, flush=True)
    take_in(desk.store, [Path(data.__file__).parent / "samples"], desk.moderator(), site=DEMO)


def _free(host: str, port: int) -> int:
    """This port, or the next that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [0] if port == 0 else range(port, min(port + 20, 65536)):
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, candidate))
                return trial.getsockname()[1]
            except OSError as error:
                reason = error.strerror or str(error)
    raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another")


def main() -> None:
    """`python app.py`: the same with its errors as one line."""
    from moderation.cli import main as run

    sys.argv[1:1] = ["review"]
    run()
