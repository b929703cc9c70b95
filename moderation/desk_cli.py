"""The commands of the review desk: `moderation import`, `export` and `users`. The store is loaded inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from moderation.schema import LABELS, UserError

#: The option of every command that opens a store.
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="SQLite file, or URL (postgresql://…). Default: $MODERATION_DATABASE_URL, else moderation.db here.",
        show_default=False,
    ),
]


def import_(
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Exports, saved pages, folders, or - for standard input.")
    ],
    database: Database = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model directory or version. Default: the champion.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="Name the input format instead of having it recognised.")
    ] = None,
    map: Annotated[str, typer.Option("--map", help="Columns by name: comment_text=body,article_title=headline")] = "",
    site: Annotated[
        str | None, typer.Option(help="Where the comments come from. Default: the host of the article's URL.")
    ] = None,
    rejects: Annotated[Path | None, typer.Option(help="List of rows set aside. Default: NAME.rejects.jsonl here.")] = None,
) -> None:
    """Put comments with the model's verdicts into the review queue; the same file again changes nothing."""
    from rich.console import Console

    from moderation.cli import _Progress, parse_map, printable, quiet

    columns = parse_map(map)
    if rejects is None:
        stem = "stdin" if paths[0] == "-" else Path(paths[0]).name.split(".")[0] or "comments"
        rejects = Path(f"{stem}.rejects.jsonl")
    quiet()
    from moderation.readers import inputs
    from moderation.score import OutputError
    from moderation.store import Store
    from moderation.store.intake import as_input_error, take_in

    with as_input_error():
        inputs(paths)  # a mistyped name is told at once, not after the model is loaded
    with Store(database) as store, _Progress(paths, format, columns) as progress:
        from moderation.model import Moderator
        from moderation.registry import Champion

        moderator = Moderator.from_pretrained(model) if model else Champion()
        try:
            done = take_in(
                store,
                paths,
                moderator,
                format=format,
                columns=columns,
                site=site,
                rejects=rejects,
                progress=progress.update,
            )
        except OSError as error:
            raise OutputError(f"{rejects}: cannot be written ({error.strerror or error})") from error
        undecided = store.queue.count()
        name = str(store.database)
    console = Console()
    labels = ", ".join(f"{done.labels[label]:,} {label}" for label in LABELS if done.labels[label])
    lines = [
        f"{done.imported.new:,} new, {done.imported.known:,} known, {done.imported.changed:,} of them changed, "
        f"{done.set_aside:,} set aside; {done.scored:,} scored in {done.seconds:.1f} s" + (f": {labels}" if labels else ""),
        *(f"  set aside {count:,}: {printable(reason)}" for reason, count in done.reasons.most_common(5)),
        f"{undecided:,} undecided comments in {name}",
    ]
    if done.rejects:
        lines.append(f"Set aside: {done.rejects}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help=".jsonl, .csv, .parquet, or a folder for a `datasets` data set.")],
    labels: Annotated[bool, typer.Option("--labels", help="Decided comments as native rows with their label.")] = False,
    decisions: Annotated[bool, typer.Option("--decisions", help="What the site needs to act on decided comments.")] = False,
    database: Database = None,
) -> None:
    """Write labelled rows, decisions, or (by default) all comments with verdict and label."""
    from moderation.score import OutputError
    from moderation.store import Store

    if labels and decisions:
        raise UserError("--labels and --decisions: name one of them")
    kind = "labels" if labels else "decisions" if decisions else "rows"
    with Store(database) as store:
        try:
            count = store.export.write(out, kind)
        except OSError as error:
            raise OutputError(f"{out}: cannot be written ({error.strerror or error})") from error
    print(f"{count:,} rows: {out}")


def users(
    action: Annotated[Literal["add", "list", "disable", "enable", "role", "password"], typer.Argument()],
    name: Annotated[str, typer.Argument(metavar="[NAME]", show_default=False)] = "",
    role: Annotated[str, typer.Option(help="moderator, lead or admin.")] = "moderator",
    password_file: Annotated[
        Path | None, typer.Option(help="Read the password from the first line of this file (- for standard input).")
    ] = None,
    database: Database = None,
) -> None:
    """Who may use the review desk: add, list, disable or enable users, change a role or a password."""
    from moderation.cli import printable
    from moderation.store import Store

    if action != "list" and not name:
        raise UserError(f"users {action}: name the user")
    with Store(database) as store:
        people = store.people
        if action == "list":
            for user in people.all():
                print(printable(f"{user.name}\t{user.role}\t{'disabled' if user.disabled else 'active'}"))
            if not people.configured():
                print("no user yet; the desk serves this machine only. Add one: moderation users add NAME --role admin")
            return
        if action == "add":
            user = people.add(name, _password(password_file), role)
            print(printable(f"added {user.name} as {user.role}"))
        elif action == "password":
            people.get(name)
            people.set_password(name, _password(password_file))
            print(printable(f"{name} has a new password; open sessions have ended"))
        elif action == "role":
            people.set_role(name, role)
            print(printable(f"{name} is {role} now"))
        else:
            people.disable(name, action == "disable")
            print(printable(f"{name} is {'disabled' if action == 'disable' else 'active'} now"))


def _password(file: Path | None) -> str:
    if file is not None and str(file) != "-":
        try:
            with file.open(encoding="utf-8") as lines:
                return lines.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot read the password ({getattr(error, 'strerror', None) or error})") from error
    if file is not None or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return typer.prompt("Password", hide_input=True, confirmation_prompt=True)
