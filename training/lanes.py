"""The two ways to learn from a site's decisions: the fast lane fits the head anew on remembered vectors of the champion's
encoder, the full lane goes on training its adapter. Both replay our own threads, so that nothing is forgotten.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import data
from moderation.model import Moderator
from moderation.network import Head
from moderation.policy import Policy
from moderation.schema import LABELS
from training import calibrate, evaluate
from training.examples import Example, labelled, read_threads
from training.fit import fit, seal, write_model
from training.head import Vectors, Views, answer, fit_head
from training.recipe import Material, recipe_of
from training.versions import Row

#: Our own labelled threads: replayed while learning, and the test split on which nothing may be lost.
THREADS = Path(data.__file__).parent / "threads"
#: Rows of our threads that the fast lane replays, and the least weight of each beside a decision's 1; together they weigh at
#: least as much as the decisions. Whole threads are taken: most of what has to be encoded are the sentences of their articles.
REPLAY, REPLAY_WEIGHT = 1000, 0.5
#: Passes and rate of the fast lane; the head starts from the champion's.
EPOCHS, RATE = 5, 5e-3
#: Different views of every example that the epochs take turns with.
ROUNDS = 3
#: Parts into which the decisions are split, by thread, for probabilities that nobody trained on.
FOLDS = 4

Report = Callable[[str, int, int, float], None]


@dataclass(frozen=True, slots=True)
class Challenger:
    """A trained model directory, with what it would have said of site rows that it did not train on.

    Attributes:
        truth: (N,) labels as indices. probabilities: (N, 4), calibrated on these very labels: thresholds with a promised
            precision are fitted on them.
        judged: (M,) places, among the rows that it was made from, of those by which the gate may judge it beside the holdout.
        crossed: (M, 4) probabilities of these, calibrated on other threads: nothing in them knows the row's label.
    """

    folder: Path
    truth: np.ndarray
    probabilities: np.ndarray
    judged: np.ndarray
    crossed: np.ndarray


def replay(threads: Path, count: int | None, weight: float, seed: int = 1) -> list[Example]:
    """Examples from our own training threads: whole threads at random until there are `count`, or all."""
    return labelled(_some_threads(read_threads(threads, "train"), count, seed), "threads", weight)


def _some_threads(rows: list[dict[str, str]], count: int | None, seed: int = 1) -> list[dict[str, str]]:
    by_thread: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_thread.setdefault(row["article_id"], []).append(row)
    order = sorted(by_thread)
    random.Random(seed).shuffle(order)
    return [row for name in order for row in by_thread[name]][:count]


def folds(threads: Sequence[str], count: int = FOLDS) -> np.ndarray:
    """(N,) numbers of folds; a thread stays together where there are at least two of them, and folds are of like size."""
    sizes: dict[str, int] = {}
    names = list(threads)
    if len(set(names)) < 2:
        names = [str(number) for number in range(len(names))]
    for name in names:
        sizes[name] = sizes.get(name, 0) + 1
    order = sorted(sizes, key=lambda name: (-sizes[name], hashlib.sha256(name.encode("utf-8", "replace")).digest()))
    filled = [0] * max(2, min(count, len(order)))
    place = {}
    for name in order:
        place[name] = int(np.argmin(filled))
        filled[place[name]] += sizes[name]
    return np.array([place[name] for name in names])


class FastLane:
    """The head fitted anew on the champion's vectors.

    >>> lane = FastLane(champion, start, rows)     # every text is encoded once, ever
    >>> guesses = lane.out_of_fold()               # what the other decisions say of each
    >>> lane.write(keep, folder)                   # head, calibration, manifest
    """

    def __init__(
        self,
        champion: Moderator,
        start: Path,
        rows: Sequence[Row],
        report: Report = lambda *step: None,
        threads: Path = THREADS,
        seed: int = 1,
    ) -> None:
        """`start` is the champion's folder, `threads` that of our own threads; rows that are doubted are judged, not learned."""
        self.champion = champion
        self.start = start
        self.threads = threads
        self.rows = list(rows)
        self.taught = np.array([row.use == "train" for row in self.rows], dtype=bool)
        self.fold = folds([row.thread for row in self.rows])
        self.recipe = recipe_of(champion.manifest)
        self.seed = seed
        self._report = report
        # Many decisions from elsewhere would else outweigh what must not be forgotten.
        weight = max(REPLAY_WEIGHT, sum(row.weight for row in self.rows if row.use == "train") / REPLAY)
        self.examples = [row.example() for row in self.rows] + replay(threads, REPLAY, weight)
        report("encoding", 0, 0, 0.0)
        self.vectors = Vectors(self.examples, champion.encoder)
        report("measuring", 0, 0, 0.0)
        mix = self.recipe.mix
        self.views = Views(
            champion.head, self.vectors, self.examples, ROUNDS, self.recipe.moved_weight, mix.title_only, mix.strangers, seed
        )  # fmt: skip
        self.replayed = np.arange(len(self.rows), len(self.examples))

    def out_of_fold(self) -> np.ndarray:
        """Uncalibrated log-probabilities (N, 4) of every row by a head that was fitted on the other folds and the replay."""
        found = np.zeros((len(self.rows), len(LABELS)))
        for number in sorted(set(self.fold)):
            others = np.concatenate([np.flatnonzero((self.fold != number) & self.taught), self.replayed])
            mine = np.flatnonzero(self.fold == number)
            head = self.fit(others, EPOCHS, f"looking for label errors, part {number + 1} of {self.fold.max() + 1}")
            found[mine] = answer(head, self.vectors.only(mine))
        return found

    def write(self, keep: Sequence[int], guesses: np.ndarray, folder: Path, sources: Mapping[str, dict]) -> Challenger:
        """Fit the head on the rows with the indices `keep`, calibrate, and write a model directory.

        Args:
            guesses: what `out_of_fold` found. sources: for the manifest.
        """
        keep = np.asarray(keep, dtype=np.int64)
        head = self.fit(np.concatenate([keep, self.replayed]), EPOCHS, "fitting the head")
        trained = [self.examples[row] for row in keep] + self.examples[len(self.rows) :]
        material = Material(trained, [], dict(sources))
        write_model(folder, replace(self.recipe, rank=0), None, head, None, material, [])
        if (self.start / "adapter").is_dir():
            shutil.copytree(self.start / "adapter", folder / "adapter", copy_function=shutil.copyfile)
        _add_lines(folder / "trained_on.txt", self.start / "trained_on.txt")
        labels = [row for row in keep if self.rows[row].label in LABELS]
        truth = np.array([LABELS.index(self.rows[row].label) for row in labels], dtype=int)
        # Pulled towards the champion's constants: it may have been calibrated on comments that are not at hand here.
        constants = calibrate.vector_scaling(guesses[labels], truth, before=self.champion.manifest["calibration"])
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest |= {name: self.champion.manifest[name] for name in ("encoder", "encoding", "languages", "thresholds", "head")}
        manifest["recipe"] = self.champion.manifest.get("recipe", {})
        manifest["calibration"] = constants
        manifest["continues"] = self.champion.version
        seal(folder, manifest)
        # Also what was doubted just now: rows that contradict the challenger must not be missing where it is judged.
        judged = np.array([place for place, row in enumerate(self.rows) if row.label in LABELS], dtype=int)
        answers = np.array([LABELS.index(self.rows[place].label) for place in judged], dtype=int)
        crossed = _crossed(guesses[judged], answers, self.fold[judged], self.taught[judged], self.champion)
        return Challenger(folder, truth, _calibrated(guesses[labels], constants), judged, crossed)

    def fit(self, rows: np.ndarray, epochs: int, stage: str) -> Head:
        """The champion's head, fitted on the examples with these indices (the rows first, then the replay)."""
        head = copy.deepcopy(self.champion.head).cpu()
        step = lambda *step: self._report(stage, *step)
        fit_head(head, self.views, epochs, RATE, self.seed, step, rows)
        return head.eval()


def full_lane(
    champion: Moderator,
    start: Path,
    rows: Sequence[Row],
    folder: Path,
    sources: Mapping[str, dict],
    report: Report = lambda *step: None,
    threads: Path = THREADS,
) -> Challenger:
    """Go on training the champion's adapter with the site's rows and all of our threads; resumable under the same `folder`.

    One thread in six calibrates instead of training. Rows that are doubted never train, but those of these threads are judged.
    """
    fold = folds([row.thread for row in rows], 12)
    aside = fold < 2
    judged = np.array([place for place, row in enumerate(rows) if aside[place] and row.label in LABELS], dtype=int)
    taught = np.array([row.use == "train" for row in rows], dtype=bool)
    held = [rows[place].example() for place in judged]
    truth = np.array([LABELS.index(rows[place].label) for place in judged], dtype=int)
    trained = [row.example() for row, fit in zip(rows, taught & ~aside, strict=True) if fit]
    trained += replay(threads, None, REPLAY_WEIGHT)
    recipe = replace(recipe_of(champion.manifest), epochs=1, head_epochs=2, contrast=0.0, pages=0.0, soup=(), weak={})
    recipe = replace(recipe, learning_rate=recipe.learning_rate / 3)
    material = Material(trained, [], dict(sources))
    model = fit(recipe, material, folder, report, start=start)
    _add_lines(folder / "trained_on.txt", start / "trained_on.txt")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    guesses = answer(model.head, Vectors(held, model.encoder)) if held else np.zeros((0, len(LABELS)))
    sure = taught[judged]
    constants = calibrate.vector_scaling(guesses[sure], truth[sure], before=champion.manifest["calibration"])
    manifest["calibration"] = constants
    manifest["thresholds"] = champion.manifest["thresholds"]
    manifest["continues"] = champion.version
    seal(folder, manifest)
    crossed = _crossed(guesses, truth, fold[judged], sure, champion)
    return Challenger(folder, truth[sure], _calibrated(guesses[sure], constants), judged, crossed)


def refit_thresholds(
    policy: Policy,
    truth: np.ndarray,
    probabilities: np.ndarray,
    now: np.ndarray,
    then: np.ndarray,
) -> Policy:
    """The policy with thresholds that keep its promise under the challenger.

    Args:
        truth, probabilities: site rows that the challenger did not train on, for a promised precision.
        now, then: probabilities (M, 4) of the site's recent comments by the challenger and the champion: what a queue holds
            is counted there, decided or not.
    """
    if "precision" in policy.promise:
        review, reject = dict(policy.review), dict(policy.reject)
        for label, wanted in policy.promise["precision"].items():
            number = LABELS.index(label)
            found = evaluate.recall_at_precision(truth == number, probabilities[:, number], float(wanted))
            limit = round(float(found["threshold"]), 4) if found["flagged"] else 1.0
            (reject if label in reject else review)[label] = limit
            if label in reject:
                review[label] = min(review[label], limit)
        return replace(policy, review=review, reject=reject)
    if "workload" in policy.promise:
        return _to_workload(policy, float(policy.promise["workload"]), now)
    match = lambda number, limit: _same_share(now[:, number], then[:, number], limit)
    review = {label: match(LABELS.index(label), limit) for label, limit in policy.review.items()}
    # What is rejected unseen must not become easier to reach because the new model is bolder.
    reject = {label: max(limit, match(LABELS.index(label), limit), review[label]) for label, limit in policy.reject.items()}
    on_topic = LABELS.index("on-topic")
    return replace(policy, review=review, reject=reject, approve=match(on_topic, policy.approve))


def flagged(policy: Policy, probabilities: np.ndarray) -> float:
    """The part of the comments that a policy does not approve."""
    actions = [policy.action(dict(zip(LABELS, row, strict=True))) for row in probabilities.tolist()]
    return sum(action != "approve" for action in actions) / max(1, len(actions))


def _to_workload(policy: Policy, share: float, now: np.ndarray) -> Policy:
    """One common shift of all review thresholds, in log-odds, at which the promised part of recent comments is flagged."""

    def shifted(by: float) -> Policy:
        move = lambda limit: float(1 / (1 + (1 / min(max(limit, 1e-4), 1 - 1e-4) - 1) * np.exp(-by)))
        review = {label: round(move(limit), 8) for label, limit in policy.review.items()}
        reject = {label: max(limit, review[label]) for label, limit in policy.reject.items()}
        return replace(policy, review=review, reject=reject, approve=round(1 - move(1 - policy.approve), 8))

    low, high = -16.0, 16.0  # a higher shift flags less
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if flagged(shifted(middle), now) > share else (low, middle)
    return shifted(high)


def _same_share(now: np.ndarray, then: np.ndarray, limit: float) -> float:
    """The threshold that as many of `now` reach as of `then` reach `limit`; the old one where that is none or all of them."""
    count = int((then >= limit).sum())
    if not 0 < count < len(now):
        return limit
    ordered = np.sort(now)[::-1]
    return round(float(np.clip((ordered[count - 1] + ordered[count]) / 2, 0.0, 1.0)), 4)


def _crossed(
    log_probabilities: np.ndarray, truth: np.ndarray, fold: np.ndarray, sure: np.ndarray, champion: Moderator
) -> np.ndarray:
    """Probabilities (N, 4), each fold's calibrated on the `sure` rows of the other folds."""
    before = champion.manifest["calibration"]
    found = np.zeros_like(log_probabilities)
    for number in set(fold.tolist()):
        others, mine = (fold != number) & sure, fold == number
        constants = (
            calibrate.vector_scaling(log_probabilities[others], truth[others], before=before) if others.any() else before
        )
        found[mine] = _calibrated(log_probabilities[mine], constants)
    return found


def _calibrated(log_probabilities: np.ndarray, constants: Mapping[str, Sequence[float]]) -> np.ndarray:
    scores = log_probabilities * constants["scale"] + constants["bias"]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def _add_lines(path: Path, other: Path) -> None:
    """What the champion was trained on, its challenger was too."""
    if other.is_file():
        lines = set(path.read_text().split()) | set(other.read_text().split())
        path.write_text("\n".join(sorted(lines)) + "\n")


__all__ = ["Challenger", "FastLane", "flagged", "folds", "full_lane", "refit_thresholds", "replay"]
