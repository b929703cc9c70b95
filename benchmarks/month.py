"""A scripted month of a site: import, decisions by a careless and a careful moderator, trainings, promotion, rollback.

    python benchmarks/month.py --corpora FOLDER      # haacked-blog as the site, 600 decisions of each, some minutes
    python benchmarks/month.py --shipped             # our validation threads as the site, the model that ships as champion

The first champion of haacked-blog is a head that was trained on our threads alone, on the untouched encoder: the model that
ships has trained on that blog's labels. Weeks 1 and 2: 600 decisions, all by the careless moderator (30 % of the labels
wrong), training. Weeks 3 and 4: 600 by the careful one (2 % wrong), who first looks again at what the training doubted;
training, promotion, rollback. `tests/test_month.py` runs the same in small.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data import corpora
from moderation.registry import Champion, Registry
from moderation.schema import LABELS, Comment
from moderation.store import Filter, Store, judge_again, take_in
from training import loop
from training.examples import read_threads
from training.lanes import THREADS


@dataclass(frozen=True, slots=True)
class Month:
    """What happens.

    Attributes:
        careless, careful: decisions of each. careless_errors, careful_errors: part of their labels that is wrong.
    """

    careless: int = 600
    careful: int = 600
    careless_errors: float = 0.3
    careful_errors: float = 0.02
    seed: int = 1


def play(
    month: Month,
    export: Path,
    truth: Mapping[str, str],
    store: Store,
    registry: Registry,
    threads: Path,
    say: Callable[[str], None],
) -> dict:
    """Play the month; returns its figures.

    Args:
        export: the site's comments. truth: the right label by comment id. say: told what happens, line by line.
    """
    champion = Champion(registry)
    first = registry.champion()
    figures: dict = {"first": first}
    taken = take_in(store, [export], champion)
    store.library.use_model(first, manifest=champion.current().manifest)
    say(f"imported {taken.imported.new} comments, judged by {first}")
    draw = random.Random(month.seed)
    wrong: dict[int, str] = {}
    keys = iter(range(10**9))

    def decide(items, user: str, errors: float) -> None:
        for item in items:
            label = truth[item.comment.comment_id]
            wrong.pop(item.id, None)
            if draw.random() < errors:
                label = draw.choice([one for one in LABELS if one != label])
                wrong[item.id] = label
            store.decisions.decide(item.id, user, label, f"{user} {next(keys)}", seen=item.decision_id)

    def opened(count: int):
        items = list(store.lessons.undecided())
        draw.shuffle(items)
        return items[:count]

    def trained(name: str) -> loop.Outcome:
        outcome = loop.train(store, registry, threads=threads)
        asked = {item.id for item in store.queue.page(Filter(show="flagged"), limit=500).items}
        figures[name] = {
            "outcome": outcome.outcome, "sentence": outcome.sentence, "difference": outcome.difference, "seconds": outcome.seconds,
            "wrong labels": len(wrong), "asked about": len(asked), "of them wrong": len(asked & wrong.keys()), "version": outcome.version,
            "figures": {one["name"]: [round(value, 3) for value in (one["champion"], one["challenger"], one["difference"], *one["interval"])] for one in outcome.figures},
        }  # fmt: skip
        say(f"{name}: {outcome.difference}; {outcome.sentence} ({outcome.seconds:.0f} s)")
        say(f"  {len(wrong)} labels are wrong, {len(asked)} were asked about, {len(asked & wrong.keys())} of them rightly")
        return outcome

    decide(opened(month.careless), "careless", month.careless_errors)
    one = trained("first training")
    if one.outcome != "promote":
        say("  not promoted")
    again = store.queue.page(Filter(show="flagged"), limit=500).items
    decide(again, "careful", month.careful_errors)
    say(f"the careful moderator looked again at {len(again)} labels")
    decide(opened(month.careful), "careful", month.careful_errors)
    two = trained("second training")
    if two.outcome == "promote":
        loop.promote(registry, store, two.version, by="lead")
        done = judge_again(store, champion)
        figures["promoted"] = champion.current().version
        say(f"promoted {two.version}; {done} undecided comments judged anew")
        undone, now = loop.rollback(registry, store, by="lead")
        judge_again(store, champion)
        figures["rolled back to"] = champion.current().version
        say(f"rolled back from {undone.version} to {now.version}")
    return figures


def _first_model(folder: Path) -> Path:
    """A head trained on our threads alone, on the untouched encoder."""
    from training.fit import fit
    from training.recipe import Recipe, gather

    recipe = Recipe(head_epochs=4, epochs=0, rank=1, gold=0.0, contrast=0.0)
    fit(recipe, gather(recipe, None, THREADS), folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--shipped", action="store_true")
    parser.add_argument("--careless", type=int, default=Month().careless)
    parser.add_argument("--careful", type=int, default=Month().careful)
    parser.add_argument("--seed", type=int, default=Month().seed)
    options = parser.parse_args(sys.argv[1:])
    work = Path(tempfile.mkdtemp(prefix="month-"))
    os.environ["MODERATION_MODELS"] = str(work / "models")
    if options.shipped:
        rows = read_threads(THREADS, "validation")
    else:
        root = corpora.find(options.corpora)
        real = corpora.rows("gold-train", root, "train") + corpora.rows("labels", root, "train")
        rows = [row | {"article_id": ""} for row in real if row["status"].startswith("haacked-blog")]
    for number, row in enumerate(rows):
        row |= {"comment_id": f"c{number}", "status": ""}
    export = work / "site.jsonl"
    native = [Comment.from_row(row).to_row() for row in rows]
    export.write_text("".join(json.dumps(row) + "\n" for row in native))
    registry = Registry()
    if not options.shipped:
        registry.promote(registry.add(_first_model(work / "first")), by="month", why="the first model")
    with Store(work / "desk.db") as store:
        found = play(
            Month(options.careless, options.careful, seed=options.seed),
            export,
            {row["comment_id"]: row["label"] for row in rows},
            store,
            registry,
            THREADS,
            print,
        )
    print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
