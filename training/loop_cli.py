"""`moderation train --from-store` and `moderation models`. Heavy imports happen inside: `--help` must be quick."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderation.desk_cli import Database
from moderation.schema import UserError

if TYPE_CHECKING:
    from moderation.registry import Registry
    from training.loop import Outcome


def train_from_store(
    database: str | None,
    full: bool,
    bulk_weight: float,
    status_weight: float,
    promote: bool,
    threads: Path | None,
    quietly: bool,
    labels: list[str],
) -> None:
    """Learn from the decisions in a store; see `loop.train`. Ends with the judgement, and promotes only when told to."""
    from moderation.cli import quiet

    quiet()
    import os

    from rich.console import Console

    from moderation.registry import Champion, Registry
    from moderation.store import Store
    from training.lanes import THREADS
    from training.loop import bring_labels, train
    from training.versions import Rules

    if quietly:
        os.nice(10)  # the desk comes first
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    registry = Registry()
    rules = Rules(bulk_weight=bulk_weight, status_weight=status_weight)
    console = Console(stderr=True)
    with Store(database) as store:
        if labels:
            made, read = bring_labels(store, Champion(registry).current(), labels, "(labels)")
            print(f"{made:,} of {read:,} labelled rows became decisions; the others had been decided before")
        with _bar(console) as report:
            outcome = train(
                store, registry, lane="full" if full else "fast", rules=rules, report=report, threads=threads or THREADS
            )
        _show(outcome)
        if promote and outcome.outcome == "promote":
            _promote(registry, store, outcome.version, by=_who(), anyway=False)


def _bar(console):
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())

    @contextmanager
    def open_():
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("starting", total=None)

            def report(stage: str, step: int, steps: int, loss: float) -> None:
                bar.update(task, description=stage, completed=step, total=steps or None)

            yield report

    return open_()


def _show(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if outcome.data:
        console.print(f"data {outcome.data}: {outcome.difference}", highlight=False)
    if outcome.doubted:
        console.print(f"{outcome.doubted:,} labels look wrong and wait in the queue: please look again", highlight=False)
    if outcome.figures:
        table = Table(title="Champion and challenger", title_justify="left")
        for name, justify in (("figure", "left"), ("champion", "right"), ("challenger", "right"), ("difference", "left")):
            table.add_column(name, justify=justify, no_wrap=name != "figure")
        for figure in outcome.figures:
            low, high = figure["interval"]
            between = f" ({low:+.3f} to {high:+.3f})" if low == low else ""
            mark = " too much" if figure["lost"] else ""
            table.add_row(
                figure["name"],
                _number(figure["champion"]),
                _number(figure["challenger"]),
                f"{_number(figure['difference'], '+')}{between} {figure['verdict']}{mark}",
            )
        console.print(table)
    if outcome.version:
        console.print(f"challenger {outcome.version}, {outcome.seconds:.0f} s", highlight=False)
    console.print(outcome.sentence, highlight=False, soft_wrap=True)
    if outcome.outcome == "promote":
        console.print(f"promote it: moderation models promote {outcome.version}", highlight=False)


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if value == value else "–"  # unknown where nothing was called so


def models(
    action: Annotated[Literal["list", "show", "compare", "promote", "rollback", "drift"], typer.Argument()] = "list",
    version: Annotated[str, typer.Argument(metavar="[VERSION]", show_default=False)] = "",
    other: Annotated[str, typer.Argument(metavar="[OTHER]", show_default=False)] = "",
    anyway: Annotated[bool, typer.Option("--anyway", help="Promote even if the gate did not say so.")] = False,
    judge_again: Annotated[
        bool, typer.Option("--judge-again/--no-judge-again", help="Judge the undecided comments anew after a change.")
    ] = True,
    database: Database = None,
) -> None:
    """Models: list, show VERSION, compare VERSION [OTHER], promote VERSION, rollback, drift.

    They lie in $MODERATION_MODELS, else moderation-models here.
    """
    from moderation.registry import Registry

    registry = Registry()
    if action in ("show", "promote") and not version:
        raise UserError(f"models {action}: name the version (see: moderation models list)")
    if action == "list":
        _list(registry)
    elif action == "show":
        _describe(registry, version)
    elif action == "compare":
        _compare(registry, version or registry.champion(), other)
    elif action == "drift":
        _drift(registry, database)
    else:
        from moderation.cli import quiet
        from moderation.store import Store

        quiet()
        with Store(database) as store:
            if action == "promote":
                _promote(registry, store, version, by=_who(), anyway=anyway)
            else:
                _rollback(registry, store)
            if judge_again:
                _judge_again(registry, store)


def _list(registry: Registry) -> None:
    import time

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from moderation.cli import printable

    table = Table(title=f"Models in {registry.folder}", title_justify="left")
    for name in ("", "version", "added", "from", "judgement"):
        table.add_column(name, no_wrap=name in ("", "version", "added"))
    for one in registry.versions():
        entry = one.entry
        added = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.added_at)) if one.added_at else ""
        origin = (
            "shipped"
            if one.shipped
            else "damaged"
            if entry.get("damaged")
            else f"{entry.get('lane', '')} {entry.get('data', '')}"
        )
        judged = str(entry.get("sentence", ""))
        table.add_row(*map(Text, ("*" if one.champion else "", one.version, added, origin.strip(), printable(judged))))
    console = Console()
    console.print(table)
    console.print("* is the champion", highlight=False)


def _describe(registry: Registry, version: str) -> None:
    import json

    from training.loop import judgement_of

    found = registry.find(version)
    folder = registry.verified(found.version)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    print(f"{found.version}{' (champion)' if found.champion else ''}{' (shipped)' if found.shipped else ''}: {folder}")
    print("every file is what its SHA-256 says")
    for name in ("continues", "encoder", "thresholds", "calibration", "sources"):
        if name in manifest:
            print(f"{name}: {json.dumps(manifest[name], ensure_ascii=False)}")
    judgement = judgement_of(registry, found.version)
    if judgement:
        print(f"judged against {judgement['champion']}: {judgement['sentence']}")
        for plan in judgement["policies"]:
            where = plan["site"] or "the common policy"
            print(
                f"thresholds of {where}: {plan['flagged_before']:.1%} of recent comments go to a person now, {plan['flagged_unfitted']:.1%} with the "
                f"old thresholds, {plan['flagged_after']:.1%} with the new ones"
            )
            for line in plan["promise"]:
                print(f"  {line}")


def _compare(registry: Registry, version: str, other: str) -> None:
    """Two versions on the rows on which the first was judged: the holdout of its data version, and our test split."""
    from moderation.cli import quiet

    quiet()
    from training.loop import compare

    first = registry.find(version).version
    second = registry.find(other).version if other else registry.champion()
    if first == second:
        raise UserError(f"{first} is the champion; name two versions, or a challenger")
    outcome = compare(registry, first, second)
    print(f"{first} against {second}")
    _show(outcome)


def _promote(registry: Registry, store, version: str, *, by: str, anyway: bool) -> None:
    from training.loop import promote

    change = promote(registry, store, version, by=by, anyway=anyway)
    print(f"{change.version} is champion; running processes follow by themselves (back: moderation models rollback)")
    for plan in change.notes.get("policies", []):
        print(f"policy {plan['before']} of {plan['site'] or 'all sites'} was fitted anew as version {plan['after']}")


def _rollback(registry: Registry, store) -> None:
    from training.loop import rollback

    undone, now = rollback(registry, store, by=_who())
    print(f"back from {undone.version}: {now.version} is champion")


def _judge_again(registry: Registry, store) -> None:
    from moderation.registry import Champion
    from moderation.store import judge_again

    done = judge_again(store, Champion(registry))
    if done:
        print(f"{done:,} undecided comments were judged anew")


def _drift(registry: Registry, database: str | None) -> None:
    from moderation.cli import printable
    from moderation.store import Store
    from training.drift import find

    champion = registry.find(registry.champion())
    with Store(database) as store:
        found = [str(drift) for drift in find(store, weeks=4, learned_at=champion.added_at or None)]
    for line in found or ["no drift: label mix, confidence and agreement are as they were"]:
        print(printable(line))


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return "(command line)"
