"""The commands `moderation train` and `moderation evaluate`. Heavy imports happen inside them: `--help` must be quick."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from moderation.desk_cli import Database
from moderation.schema import UserError


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the new model directory goes.")] = Path("models/new"),
    corpora: Annotated[Path | None, typer.Option(envvar="MODERATION_CORPORA", help="Folder of the public corpora.")] = None,
    threads: Annotated[Path, typer.Option(help="Folder of our own labelled threads.")] = Path("data/threads"),
    recipe: Annotated[Path | None, typer.Option(help="Recipe to train by. Default: training/recipe.toml.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Another encoder: a folder or a hub name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed than the recipe's.")] = None,
    from_store: Annotated[
        bool, typer.Option("--from-store", help="Learn from the desk's decisions instead, starting from the champion.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="With --from-store: train the adapter too, not only the head.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="With --from-store: make it champion if the gate says so.")
    ] = False,
    bulk_weight: Annotated[float, typer.Option(min=0, max=1, help="Weight of a label given in bulk.")] = 0.3,
    status_weight: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of the platform's own status of undecided comments; 0 ignores it.")
    ] = 0.0,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="With --from-store: tables of labelled rows that become decisions first; repeat for several."),
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="Leave the processor to others.")] = False,
    database: Database = None,
) -> None:
    """Fine-tune a model on labelled threads; the same command continues after an interruption."""
    import dataclasses

    if from_store:
        from training.loop_cli import train_from_store

        ours = threads if threads.is_dir() else None
        train_from_store(database, full, bulk_weight, status_weight, promote, ours, background, labels or [])
        return
    if full or promote or labels:
        raise UserError("--full, --promote and --labels belong to --from-store")

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from training.fit import fit
    from training.recipe import RECIPE, Recipe, gather

    chosen = Recipe.load(recipe or RECIPE)
    if encoder:
        chosen = dataclasses.replace(chosen, encoder=encoder)
    if seed is not None:
        chosen = dataclasses.replace(chosen, seed=seed)
    # Of the processes that `torchrun` or `accelerate launch` numbers, the first speaks.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    material = gather(chosen, corpora, threads)
    for name, source in material.sources.items():
        console.print(f"  {name}: {source['used']:,} of {source['rows']:,} rows", highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=None, loss="")
        smooth: list[float] = []

        def report(stage: str, step: int, steps: int, loss: float) -> None:
            smooth.append(loss)
            mean = sum(smooth[-50:]) / len(smooth[-50:])
            bar.update(task, description=stage, completed=step, total=steps, loss=f"{mean:.3f}")

        moderator = fit(chosen, material, out, report)
    if moderator is None:
        return
    console.print(f"model {moderator.version} written to {out}")
    test = threads / "test.jsonl"
    if test.is_file():
        figures = out.with_name(out.name + ".report")
        evaluate([str(test)], model=[str(out)], out=figures, probe=False)
        shutil.copyfile(figures / "scores.csv", out / "scores.csv")  # for the desk's expectations
    console.print(f"on your own rows: moderation evaluate LABELLED.jsonl --model {out}")


def evaluate(
    paths: Annotated[
        list[str], typer.Argument(metavar="LABELLED…", help="Rows with a label: JSONL, CSV, Parquet; or corpus:NAME.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A model directory; several are compared. Default: the shipped model."),
    ] = None,
    yardstick: Annotated[
        list[str] | None, typer.Option(help="Compare with majority, tfidf, cosine, setfit or hub:NAME; repeat for several.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.html, report.json, report.md and more.")
    ] = None,
    budget: Annotated[str, typer.Option(help="What people can read: 200/5000, 4% or 0.04.")] = "4%",
    auto_precision: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Precision at which a label may be given unseen.")
    ] = 0.99,
    slice: Annotated[list[str] | None, typer.Option("--slice", help="A column to slice by, besides the standard ones.")] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="A column of membership (0..1) for subgroup metrics.")
    ] = None,
    positive_label: Annotated[
        str | None, typer.Option(help="Rows answer one question, `positive` 0 or 1: the label it stands for.")
    ] = None,
    label: Annotated[str, typer.Option(help="Column of the human label.")] = "label",
    second_label: Annotated[
        str | None, typer.Option(help="Column of a second person's label: their agreement is the ceiling.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Table of comment_id,label for an export without labels.")
    ] = None,
    map: Annotated[str, typer.Option("--map", help="Columns by name: comment_text=body,article_title=headline")] = "",
    train: Annotated[
        list[str] | None, typer.Option("--train", help="Labelled rows from which yardsticks learn; else cross-validated.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="Time split: measure rows from this date on, yardsticks learn from those before.")
    ] = None,
    label_map: Annotated[str, typer.Option(help="For hub:NAME, THEIRS=OURS,…: LABEL_0=on-topic,LABEL_1=spam")] = "",
    corpora: Annotated[
        Path | None, typer.Option(envvar="MODERATION_CORPORA", help="Folder of the public corpora, for corpus:NAME.")
    ] = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Run the attacks and the identity swaps.")] = True,
    draws: Annotated[int, typer.Option(min=0, max=10_000, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
) -> None:
    """Say how good a model is on labelled rows, for whom, and how sure one can be."""
    from moderation.cli import parse_map, quiet

    quiet()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from training import report
    from training.examine import Contender, Questions, check, examine
    from training.labelled import parse_budget, read, split_by_date
    from training.yardsticks import check_name, contender

    questions = Questions(
        budget=parse_budget(budget),
        auto_precision=auto_precision,
        slices=tuple(slice or ()),
        identities=tuple(group or ()),
        second_label=second_label,
        positive_label=positive_label,
        probe=probe and positive_label is None,
        draws=draws,
        seed=seed,
    )
    columns = parse_map(map)
    binary = positive_label is not None
    data = read(paths, columns=columns, label=label, labels_file=labels, corpora=corpora, binary=binary)
    learn = read(train, columns=columns, label=label, corpora=corpora) if train else None
    if after:
        before, data = split_by_date(data, after)
        learn = learn or (before if len(before) and not binary else None)
    check(data, questions)
    for name in yardstick or ():
        check_name(name)
    from moderation.model import DEFAULT_MODEL, Moderator  # torch takes seconds: wrong usage should not wait for it

    contenders = []
    for name in model or [None]:
        moderator = Moderator.from_pretrained(name)
        title = (
            moderator.version if moderator.version not in [one.name for one in contenders] else f"{moderator.version} ({name})"
        )
        contenders.append(Contender(title, moderator.predict_proba, moderator, str(name or DEFAULT_MODEL)))
    console = Console(stderr=True)
    columns_shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns_shown, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what[:40], completed=done, total=total or None)

        for name in yardstick or ():
            show(f"yardstick {name}", 0, 0)
            contenders.append(contender(name, data, learn, _pairs(label_map), positive_label, seed))
        result = examine(data, contenders, questions, show)
    if out is not None:
        report.write(result, out)
    report.to_terminal(result, Console(), out)


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        theirs, equals, ours = part.rpartition("=")
        if not equals or not theirs:
            raise UserError(f"--label-map {part!r}: expected THEIRS=OURS")
        pairs[theirs] = ours
    return pairs
