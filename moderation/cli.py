"""The command line: parses arguments, shows progress and results, turns errors into one line and an exit code.

Exit codes: 0 done; 1 the output cannot be written; 2 wrong usage; 3 the input cannot be read; 4 rows were set aside under
--strict; 130 interrupted. Heavy imports happen inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import warnings
from collections.abc import Callable, Collection
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderation.schema import LABELS, ROW_FIELDS, UserError

if TYPE_CHECKING:
    from moderation.score import Summary

app = typer.Typer(
    name="moderation",
    help="Does this comment belong under this article? Labels comments on-topic, off-topic, spam or low-effort.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: One colour and one mark a label; the marks carry the meaning where colours do not.
STYLES = {"on-topic": "green", "off-topic": "yellow", "spam": "red", "low-effort": "blue"}


@app.callback()
def _root() -> None:
    """Keeps `moderation COMMAND` a group even when it has a single command."""


@app.command()
def score(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Exports, saved pages, folders, or - for standard input.")
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Output: .jsonl, .csv or .parquet (ray: a folder). Default: NAME.scored.jsonl here."),
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="Name the input format instead of having it recognised.")
    ] = None,
    map: Annotated[str, typer.Option("--map", help="Columns by name: comment_text=body,article_title=headline")] = "",
    threshold_file: Annotated[Path | None, typer.Option(help="JSON with thresholds by label; see the README.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A model directory or version. Default: the champion, at first the shipped one."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 4 when rows were set aside.")] = False,
    show: Annotated[int, typer.Option("--show", min=0, max=50, help="How many flagged comments to print at the end.")] = 8,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="ray: Parquet from disk or object storage, on many machines.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="With --engine ray: the cluster. Default: this machine alone.")
    ] = None,
    block_rows: Annotated[
        int | None,
        typer.Option("--block-rows", min=1, help="With --engine ray: rows scored and kept at a time (at most 20,000)."),
    ] = None,
) -> None:
    """Label every comment of an export, in one command."""
    from moderation.policy import Policy

    columns = parse_map(map)
    policy = Policy.load(threshold_file) if threshold_file else None
    if engine == "local" and (ray_address or block_rows):
        raise UserError("--ray-address and --block-rows belong to --engine ray")
    if engine == "ray" and format not in (None, "parquet"):
        raise UserError(f"--format {format}: the ray engine reads Parquet and nothing else")
    if out is None:
        stem = "stdin" if paths[0] == "-" else Path(paths[0]).name.split(".")[0] or "comments"
        out = f"{stem}.scored" + (".jsonl" if engine == "local" else "")
    quiet()
    from moderation.score import own_files
    from moderation.score import score as run

    own = own_files(Path(out)) if engine == "local" else None
    with _Progress(paths, format, columns, own) as progress:
        try:
            if engine == "ray":
                from moderation.spread import spread

                more = {"columns": columns, "policy": policy, "block_rows": block_rows, "progress": progress.update}
                summary = spread(paths, out, model, address=ray_address, **more)
            else:
                from moderation.model import Moderator
                from moderation.registry import Champion

                moderator = Moderator.from_pretrained(model) if model else Champion()
                summary = run(paths, out, moderator, format=format, columns=columns, policy=policy, progress=progress.update)
        except KeyboardInterrupt:
            progress.stop()
            print("moderation: interrupted; what is done is kept, run the same command again to go on", file=sys.stderr)
            raise typer.Exit(130) from None
    _show(summary, show)
    if strict and summary.set_aside:
        raise typer.Exit(4)


def parse_map(text: str) -> dict[str, str]:
    """`comment_text=body,article_title=headline` as a dict.

    Raises:
        UserError: a part is no NAME=COLUMN, or the name is no native column.
    """
    columns = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        native, equals, source = part.partition("=")
        native, source = native.strip(), source.strip()
        if not equals or not source or native not in ROW_FIELDS:
            raise UserError(f"--map {part!r}: expected NAME=COLUMN with NAME one of {', '.join(ROW_FIELDS)}")
        columns[native] = source
    return columns


class _Progress:
    """A bar on stderr with rate and time left; the total is counted by a second reading in the background."""

    def __init__(
        self, paths: list[str], format: str | None, columns: dict[str, str], skip: Collection[Path] | None = ()
    ) -> None:
        """`skip`: the run's own files; None when the total need not be counted, because `update` is told."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("loading the model", total=None, rate="")
        self._first: int | None = None
        self._stop = False
        # standard input and pipes can be read only once, and that is not here
        countable = skip is not None and console.is_terminal
        if countable and all(path != "-" and (os.path.isfile(path) or os.path.isdir(path)) for path in paths):
            threading.Thread(target=self._count, args=(paths, format, columns, skip), daemon=True).start()

    def _count(self, paths: list[str], format: str | None, columns: dict[str, str], skip: Collection[Path] = ()) -> None:
        from moderation.readers import Reading

        try:
            total = 0
            for total, _ in enumerate(Reading(paths, format=format, columns=columns, skip=skip), 1):  # noqa: B007
                if self._stop:
                    return
            self._bar.update(self._task, total=total)
        except (UserError, OSError):
            pass  # the main reading reports it

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop = True
        self._bar.stop()

    def update(self, done: int, total: int | None = None) -> None:
        if total is not None:
            self._bar.update(self._task, total=total)
        if self._first is None:
            self._first = done
            self._bar.reset(self._task, completed=done, description="scoring", total=self._bar.tasks[0].total)
            return
        elapsed = self._bar.tasks[0].elapsed or 0
        rate = f"{(done - self._first) / elapsed:,.0f} comments/s" if elapsed > 0 else ""
        self._bar.update(self._task, completed=done, rate=rate)


def _show(summary: Summary, show: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    flagged = sum(count for action, count in summary.actions.items() if action != "approve")
    if summary.flagged and show:
        table = Table(
            title=f"Flagged, the most certain first ({min(show, flagged)} of {flagged:,})", title_justify="left", expand=True
        )
        table.add_column("label", no_wrap=True)
        table.add_column("p", justify="right", no_wrap=True)
        table.add_column("comment", ratio=3)
        table.add_column("why", ratio=4)
        for row in summary.flagged[:show]:
            # Text, not markup: what strangers wrote is never interpreted by the terminal library.
            text = " ".join(printable(row["comment_text"]).split())
            table.add_row(
                Text(row["label"], STYLES[row["label"]]),
                f"{row['p_' + row['label'].replace('-', '_')]:.2f}",
                Text(text if len(text) <= 140 else text[:139] + "…"),
                Text(printable(row["reason"]), "dim"),
            )
        console.print(table)
    counts = Table(title="Summary", title_justify="left")
    counts.add_column("label")
    counts.add_column("comments", justify="right")
    counts.add_column("share", justify="right")
    for label in LABELS:
        share = summary.labels[label] / summary.rows if summary.rows else 0
        counts.add_row(Text(label, STYLES[label]), f"{summary.labels[label]:,}", f"{share:.0%}")
    console.print(counts)
    resumed = f" ({summary.resumed:,} of them by an earlier run)" if summary.resumed else ""
    console.print(
        f"{summary.rows + summary.set_aside:,} rows{resumed}: {summary.rows:,} scored, {flagged:,} flagged, "
        f"{summary.set_aside:,} set aside, {summary.seconds:.1f} s",
        highlight=False,
    )
    for reason, count in summary.reasons.most_common(5):
        console.print(Text(f"  set aside {count:,}: {printable(reason)}"))
    console.print(Text(f"Labelled rows: {summary.out}"))
    if summary.rejects:
        console.print(Text(f"Set aside:     {summary.rejects}"))


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control and bidirectional format characters become visible marks."""
    return "".join(
        "�" if (ord(letter) < 32 and letter not in "\n\t") or 0x7F <= ord(letter) < 0xA0 or letter in _BIDI else letter
        for letter in text
    )


_BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"


def quiet() -> None:
    """Keep the libraries' own chatter off the terminal and their threads polite; must run before torch is imported."""
    for name, value in (
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        # Threads that wait by spinning make torch several times slower as soon as anything else wants a core.
        ("OMP_WAIT_POLICY", "passive"),
        # oneDNN keeps a compiled kernel for each of 1,024 shapes of batch, which lets memory creep up for an hour.
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"),
    ):
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _commands() -> None:
    # `train` and `evaluate` live in the package `training`, which imports this one; entry points let the command line
    # offer them without an import in the other direction.
    for entry in sorted(entry_points(group="moderation.commands"), key=lambda entry: entry.name):
        command: Callable[..., None] = entry.load()
        app.command(entry.name)(command)


def main() -> None:
    """Entry point of the `moderation` command."""
    # A terminal or a pipe that has no such letter gets its code instead; a file name need not even be text.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _commands()
    try:
        app()
    except UserError as error:
        from moderation.score import InputError, OutputError

        print(f"moderation: {printable(str(error))}", file=sys.stderr)
        sys.exit(3 if isinstance(error, InputError) else 1 if isinstance(error, OutputError) else 2)


if __name__ == "__main__":
    main()
