"""The commands `moderation train` and `moderation evaluate`. Heavy imports happen inside them: `--help` must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the new model directory goes.")] = Path("models/new"),
    corpora: Annotated[Path | None, typer.Option(envvar="MODERATION_CORPORA", help="Folder of the public corpora.")] = None,
    threads: Annotated[Path, typer.Option(help="Folder of our own labelled threads.")] = Path("data/threads"),
    recipe: Annotated[Path | None, typer.Option(help="Recipe to train by. Default: training/recipe.toml.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Another encoder: a folder or a hub name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed than the recipe's.")] = None,
) -> None:
    """Fine-tune a model on labelled threads; the same command continues after an interruption."""
    import dataclasses

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from training.fit import RECIPE, Recipe, fit, gather

    chosen = Recipe.load(recipe or RECIPE)
    if encoder:
        chosen = dataclasses.replace(chosen, encoder=encoder)
    if seed is not None:
        chosen = dataclasses.replace(chosen, seed=seed)
    console = Console(stderr=True)
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
    console.print(f"model {moderator.version} written to {out}")
    console.print(f"how good is it: moderation evaluate LABELLED.jsonl --model {out}")


def evaluate(
    paths: Annotated[list[str], typer.Argument(metavar="LABELLED…", help="Native rows with a label column (JSONL).")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="A model directory. Default: the shipped model.")] = None,
) -> None:
    """Say how good a model is on labelled rows."""
    import json

    from rich.console import Console
    from rich.table import Table

    from moderation.model import Moderator
    from moderation.schema import LABELS, Comment, UserError
    from training.evaluate import measure

    rows = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as lines:
                rows += [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: expected JSON lines of native rows with a label ({error})") from error
    moderator = Moderator.from_pretrained(model)
    truth = [row.get("label", "") for row in rows]
    result = measure(truth, moderator.predict_proba([Comment.from_row(row) for row in rows]))
    console = Console()
    table = Table(title=f"{moderator.version} on {len(rows):,} comments", title_justify="left")
    for heading in ("label", "n", "precision", "recall", "F1"):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for label in LABELS:
        one = result["per_class"][label]
        table.add_row(label, f"{one['n']}", f"{one['precision']:.3f}", f"{one['recall']:.3f}", f"{one['f1']:.3f}")
    console.print(table)
    console.print(f"macro-F1 {result['macro_f1']:.3f}   accuracy {result['accuracy']:.3f}   kappa {result['kappa']:.3f}", highlight=False)
