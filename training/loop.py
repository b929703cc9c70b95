"""The learning loop: from moderators' decisions to a judged challenger, and to a champion when somebody says so.

One training at a time: the registry's `lock` is held by the process that trains, so a killed one leaves nothing locked.
What was begun is done again from what is on disk: vectors are remembered, the full lane resumes from its checkpoint, and
until the very last step (one rename) the registry does not know of the challenger.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from moderation.model import Moderator
from moderation.policy import Policy
from moderation.registry import Change, Registry, write_whole, written
from moderation.schema import LABELS, Comment, UserError
from moderation.store import Filter, Store
from moderation.store.intake import CHUNK
from moderation.store.lessons import thread_of
from moderation.store.library import article_key
from moderation.store.policies import PolicyVersion
from training import evaluate, gate, robustness
from training.cache import cached, encoder_checksum
from training.doubts import doubtful
from training.examine import as_json
from training.examples import read_threads
from training.fit import seal
from training.labelled import Labelled, fingerprint, slice_columns
from training.labelled import read as read_labelled
from training.lanes import THREADS, Challenger, FastLane, flagged, full_lane, refit_thresholds
from training.report import SCORES, scores_csv
from training.versions import STANDARD, Difference, Row, Rules, Version, freeze, gather, is_long, latest, load

#: Fewer decisions to train on than this teach nothing that could be told from noise.
LEAST_TRAIN = 40
#: Comments of the test split that are attacked, for each attack. Recent comments on which workload is counted.
ATTACKED, RECENT = 60, 600
#: Who saves the policies that a promotion brings along.
LOOP = "(learning loop)"

Report = Callable[[str, int, int, float], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training came to.

    Attributes:
        outcome: "promote" (may replace the champion), "refuse", or "undecided" (too few decisions).
        sentence: why. needed: about how many more decisions a judgement takes, 0 where one was made.
        version: the challenger in the registry; "" where there were too few decisions to make one.
        data: the version of the data, "" where there is none. difference: what is new in it.
        doubted: labels that were sent back to be looked at again. seconds: how long it took.
        figures: see `gate.Figure`, as dicts.
    """

    outcome: str
    sentence: str
    needed: int = 0
    version: str = ""
    data: str = ""
    difference: str = ""
    doubted: int = 0
    seconds: float = 0.0
    figures: Sequence[Mapping] = ()


@contextmanager
def exclusive(registry: Registry) -> Iterator[None]:
    """Hold the registry's lock: one training at a time.

    Raises:
        UserError: another process trains.
    """
    with written(registry.folder):
        registry.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(registry.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _lock(handle)
        except OSError as error:
            who = os.pread(handle, 100, 0).decode("ascii", "replace").strip() or "another process"
            raise UserError(f"{registry.folder}: {who} is training; one at a time, wait for it to end") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Take the lock; whoever only looks whether it is held (`status`) has it for an instant, so a refusal is asked twice."""
    for attempt in range(5):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if attempt == 4:
                raise
            time.sleep(0.05)


class Status:
    """How far a training is, for whoever watches: `status.json` in the registry, and a callback."""

    def __init__(self, registry: Registry, lane: str, report: Report) -> None:
        self._path = registry.folder / "status.json"
        self._report = report
        self._written = 0.0
        self._state = {"process": os.getpid(), "lane": lane, "started_at": time.time(), "outcome": None}

    def __call__(self, stage: str, step: int = 0, steps: int = 0, loss: float = 0.0) -> None:
        """Say what is being done; a change of the stage is written at once, steps twice a second."""
        fresh = stage != self._state.get("stage")
        self._state |= {"stage": stage, "step": step, "steps": steps, "loss": round(loss, 4)}
        if fresh or time.monotonic() - self._written > 0.5:
            self._write()
        self._report(stage, step, steps, loss)

    def end(self, outcome: Mapping) -> None:
        """Say how it ended."""
        self._state |= {"stage": "done", "outcome": as_json(dict(outcome))}
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._state["at"] = time.time()
        with written(self._path.parent):
            write_whole(self._path, json.dumps(self._state))


def status(registry: Registry) -> dict | None:
    """What `Status` last wrote; `running` says whether that process still trains. None where nothing ever did."""
    try:
        state = json.loads((registry.folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    try:
        with (registry.folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return state | {"running": False}
    except OSError:
        return state | {"running": True}
    return state | {"running": False}


def train(
    store: Store,
    registry: Registry,
    *,
    lane: str = "fast",
    rules: Rules = STANDARD,
    report: Report = lambda stage, step, steps, loss: None,
    threads: Path = THREADS,
) -> Outcome:
    """Learn from the decisions in a store, judge the result against the champion, and put it into the registry.

    Nothing is promoted. Labels that are probably wrong are marked in the store ("please look again") and do not train.

    Args:
        lane: "fast" (head only, seconds) or "full" (adapter too, minutes to hours; the same call resumes after a kill).
        report: called with the stage, the step, the number of steps and the loss.
        threads: our own labelled threads, which are replayed and on whose test split nothing may be lost.

    Raises:
        UserError: nothing was decided yet, another training runs, the champion is damaged, or the disk is full.
    """
    if lane not in ("fast", "full"):
        raise UserError(f"unknown lane {lane!r}; expected fast or full")
    started = time.monotonic()
    with exclusive(registry):
        tell = Status(registry, lane, report)
        try:
            outcome = replace(_train(store, registry, lane, rules, tell, threads), seconds=round(time.monotonic() - started, 1))
        except BaseException as error:
            tell_end(tell, error)
            raise
        tell.end(asdict(outcome))
        return outcome


def tell_end(tell: Status, error: BaseException) -> None:
    """Let watchers know that a training failed, if that much can still be written."""
    with suppress(UserError):
        tell.end({"outcome": "failed", "sentence": str(error) or type(error).__name__})


def _train(store: Store, registry: Registry, lane: str, rules: Rules, tell: Status, threads: Path) -> Outcome:
    tell("reading the decisions")
    rows = gather(store, rules)
    short = _too_few(rows)
    if short is not None:
        return short
    start = registry.verified(registry.champion())
    # The fast lane learns on the vectors that the site is judged with; the full lane changes what gives them.
    champion = cached(Moderator.from_pretrained(start, runtime="torch" if lane == "full" else None), registry.folder / "cache")
    work = registry.folder / "work"
    for old in work.glob("fast-*"):
        shutil.rmtree(old, ignore_errors=True)
    begun = _begun(work, champion.version, rows) if lane == "full" else None
    quick, doubts = None, []
    if begun is not None:
        data = load(registry.folder / "data" / begun)  # killed before: the same rows again, or the checkpoint would not fit
    else:
        candidates = [row for row in rows if row.use == "train"]
        waiting = [row for row in rows if row.use == "doubted"]
        quick = FastLane(champion, start, [*candidates, *waiting], tell, threads)
        guesses = quick.out_of_fold()
        held = [row for row in rows if row.use == "holdout"]
        tell("looking for label errors", 0, len(held))
        # The champion has not seen the holdout. Its rows are asked about but stay: only a person may change them.
        probabilities = np.concatenate([np.exp(guesses[: len(candidates)]), _predict(champion, [row.comment for row in held])])
        doubts = _doubts([*candidates, *held], probabilities)
        store.lessons.doubt({row.number: (row.decision, suggested, 1 - wrong) for row, suggested, wrong in doubts})
        doubted = {row.number for row, _, _ in doubts if row.use == "train"}
        fresh = [replace(row, use="doubted") if row.number in doubted and row.use == "train" else row for row in rows]
        data = freeze(fresh, rules, registry.folder / "data")
    about = {"data": data.name, "lane": lane, "continues": champion.version, "difference": data.about["difference"]}
    sources = {
        "decisions": {
            "rows": len(data.rows),
            "used": len(data.only("train")),
            "sha256": data.about["sha256"],
            "version": data.name,
        }
    }
    with written(registry.folder):
        work.mkdir(parents=True, exist_ok=True)
        if lane == "fast":
            keep = [place for place, row in enumerate(candidates) if row.number not in doubted]
            made = quick.write(keep, guesses, work / f"fast-{os.getpid()}", sources)
            seen = [quick.rows[place] for place in made.judged]
        else:
            for old in work.glob("full-*"):
                if not old.name.startswith(f"full-{champion.version}-{data.name}"):
                    shutil.rmtree(old, ignore_errors=True)
            write_whole(work / "full.json", json.dumps({"key": _key(champion.version, rows), "data": data.name}))
            folder = work / f"full-{champion.version}-{data.name}"
            shown = [*data.only("train"), *data.only("doubted")]
            made = full_lane(champion, start, shown, folder, sources, tell, threads)
            seen = [shown[place] for place in made.judged]
        crossed = _not_learned(start, seen, made.crossed, champion)
        judged = _judge(store, registry, champion, made, crossed, data, rules, tell, threads)
        manifest = json.loads((made.folder / "manifest.json").read_text(encoding="utf-8"))
        seal(made.folder, manifest | {"thresholds": judged["thresholds"], "learned": judged["learned"]})
        write_whole(made.folder / SCORES, scores_csv(judged["challenger"], judged.pop("scores")))
        write_whole(made.folder / "judgement.json", json.dumps(as_json(judged), indent=1, ensure_ascii=False) + "\n")
        version = registry.add(made.folder, about | {"outcome": judged["outcome"], "sentence": judged["sentence"]})
    shutil.rmtree(made.folder, ignore_errors=True)
    if lane == "full":
        (work / "full.json").unlink(missing_ok=True)
    return Outcome(
        judged["outcome"], judged["sentence"], judged["needed"], version, data.name, _said(data), len(doubts), 0.0, judged["figures"]
    )  # fmt: skip


def _key(champion: str, rows: Sequence[Row]) -> str:
    """What a full training must have in common with one that was killed, to go on from its checkpoint."""
    parts = [champion, sorted((row.number, row.decision) for row in rows)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _begun(work: Path, champion: str, rows: Sequence[Row]) -> str | None:
    """The data version of a full training that was killed and had the same champion and decisions; None if there is none."""
    try:
        begun = json.loads((work / "full.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return begun["data"] if begun.get("key") == _key(champion, rows) else None


def _too_few(rows: Sequence[Row]) -> Outcome | None:
    decided = [row for row in rows if row.origin != "status"]
    if not decided:
        raise UserError(
            "nothing to learn from: no comment has been decided yet; open the desk and decide some, or import with labels"
        )
    usable = [row for row in decided if row.use in ("train", "holdout")]
    waiting = Counter(row.use for row in decided)
    if not usable:
        raise UserError(
            f"nothing to learn from: of {len(decided):,} decided comments {waiting['disputed']:,} are in dispute between moderators and "
            f"{waiting['doubted']:,} wait for another look; decide them again (filters “disputed” and “flagged”)"
        )
    kinds = Counter(row.label for row in usable)
    if len(kinds) == 1:
        [label] = kinds
        others = ", ".join(one for one in LABELS if one != label)
        sentence = f"all {len(usable):,} decisions are {label}, so there is nothing to tell apart: needs decisions of {others}"
        return Outcome("undecided", sentence, LEAST_TRAIN)
    train_rows = [row for row in usable if row.use == "train"]
    if len(train_rows) < LEAST_TRAIN:
        needed = max(10, LEAST_TRAIN - len(train_rows))
        rarest = min(LABELS, key=lambda label: kinds[label])
        sentence = f"{len(train_rows)} decisions to train on are too few: needs about {needed} more decisions, most useful kind: {rarest}"
        return Outcome("undecided", sentence, needed)
    return None


def _doubts(rows: Sequence[Row], probabilities: np.ndarray) -> list[tuple[Row, str, float]]:
    """Rows whose label is probably an error: the row, the label that it more likely is, the probability of the error.

    What two people said, or one said again after a doubt, is not doubted; weak labels are not worth a look.
    """
    places = [place for place, row in enumerate(rows) if row.label in LABELS and row.origin != "status"]
    truth = np.array([LABELS.index(rows[place].label) for place in places], dtype=int)
    users = [rows[place].user for place in places]
    found = [
        (rows[places[index]], LABELS[label], wrong) for index, label, wrong in doubtful(truth, probabilities[places], users)
    ]
    return [entry for entry in found if not entry[0].confirmed]


def _judge(
    store: Store,
    registry: Registry,
    champion: Moderator,
    made: Challenger,
    crossed: gate.Rows,
    data: Version,
    rules: Rules,
    tell: Status,
    threads: Path,
) -> dict:
    """The judgement with everything that it rests on, and the thresholds for a promotion; see docs/LOOP.md."""
    # The full lane's encoder is new; it is compiled when it is promoted, not for a judgement.
    challenger = Moderator.from_pretrained(made.folder, runtime="torch")
    if encoder_checksum(challenger.manifest) == encoder_checksum(champion.manifest):
        challenger = Moderator(champion.encoder, challenger.head, challenger.manifest)
    else:
        challenger = cached(challenger, registry.folder / "cache")
    holdout, base, attacked = _all_rows(data.only("holdout"), champion, challenger, threads, tell)
    active = _active(store, champion)
    judgement = gate.judge(holdout, base, attacked, active[0].policy, rules.holdout, crossed=crossed)
    recent = [item.comment for item in _recent(store)]
    tell("fitting the thresholds", 0, len(recent))
    now, then = _predict(challenger, recent), _predict(champion, recent)
    own = refit_thresholds(champion.policy, made.truth, made.probabilities, now, then)
    policies = []
    for one in active:
        policy = refit_thresholds(one.policy, made.truth, made.probabilities, now, then)
        policies.append(
            {
                "site": one.site,
                "version": one.version,
                "before": one.policy.to_table(),
                "after": policy.to_table(),
                "flagged_before": flagged(one.policy, then),
                "flagged_unfitted": flagged(one.policy, now),
                "flagged_after": flagged(policy, now),
                "promise": _promise_kept(policy, holdout, now),
            }
        )
    return {
        "outcome": judgement.outcome,
        "sentence": judgement.sentence,
        "needed": judgement.needed,
        "champion": champion.version,
        "challenger": challenger.version,
        "data": data.name,
        "figures": [asdict(figure) for figure in judgement.figures],
        "holdout": _measured(holdout),
        "crossed": {"n": len(crossed.truth)},
        "base": _measured(base),
        "attacked": {"n": len(attacked.truth)},
        "recent": len(recent),
        "thresholds": own.to_table(),
        "policies": policies,
        "doubts": len(data.only("doubted")),
        "learned": _learned(data, made),
        "scores": [
            (LABELS[truth], *(round(float(p), 4) for p in row)) for truth, row in zip(base.truth, base.challenger, strict=True)
        ],
    }


def _not_learned(start: Path, rows: Sequence[Row], crossed: np.ndarray, champion: Moderator) -> gate.Rows:
    """Cross-fitted rows by which the gate may judge: labelled one by one, and their text not known to the champion."""
    known = _lines(start / "trained_on.txt")
    fair = [
        place
        for place, row in enumerate(rows)
        if row.origin == "single" and not (fingerprint(row.comment.text) in known and is_long(row.comment))
    ]
    comments = [rows[place].comment for place in fair]
    truth = np.array([LABELS.index(rows[place].label) for place in fair], dtype=int)
    return gate.Rows(truth, _predict(champion, comments), crossed[fair], [rows[place].thread for place in fair])


def _lines(path: Path) -> set[str]:
    return set(path.read_text(encoding="ascii", errors="replace").split()) if path.is_file() else set()


def _all_rows(
    held: Sequence[Row], champion: Moderator, challenger: Moderator, threads: Path, tell: Report
) -> tuple[gate.Rows, gate.Rows, gate.Rows]:
    """Both models on the site's holdout, on our test split, and on its comments in disguise."""
    tell("judging on the site's holdout", 0, len(held), 0.0)
    comments, labels, names = [row.comment for row in held], [row.label for row in held], [row.thread for row in held]
    holdout = _rows(comments, labels, names, champion, challenger)
    if held:
        holdout = replace(holdout, slices=slice_columns(Labelled([{}] * len(held), comments, labels, [], names, [])))
    rows = read_threads(threads, "test")
    comments, labels, names = (
        [Comment.from_row(row) for row in rows],
        [row["label"] for row in rows],
        [row["article_id"] for row in rows],
    )
    tell("judging on our test split", 0, len(rows), 0.0)
    base = _rows(comments, labels, names, champion, challenger)
    tell("judging under attack", 0, 0, 0.0)
    disguised = _attacked(comments)
    attacked = _rows(
        [comment for _, comment in disguised],
        [labels[row] for row, _ in disguised],
        [names[row] for row, _ in disguised],
        champion,
        challenger,
    )
    return holdout, base, attacked


def _promise_kept(policy: Policy, holdout: gate.Rows, now: np.ndarray) -> list[str]:
    """What the promise is on rows that fitted no threshold: the holdout for a precision, recent comments for a workload."""
    if "workload" in policy.promise:
        return [
            f"workload {flagged(policy, now):.3f} of the {policy.promise['workload']:.3f} promised, on {len(now)} recent comments"
        ]
    lines = []
    for label, wanted in dict(policy.promise.get("precision", {})).items():
        number = LABELS.index(label)
        caught = holdout.challenger[:, number] >= policy.reject.get(label, policy.review[label])
        hits, count = int((caught & (holdout.truth == number)).sum()), int(caught.sum())
        low, high = evaluate.wilson(hits, count)
        lines.append(
            f"{label}: {hits} of {count} caught in the holdout are right ({low:.2f} to {high:.2f}), promised {wanted:.2f}"
            if count
            else f"{label}: nothing in the holdout reaches the threshold, promised {wanted:.2f}"
        )
    return lines


def _measured(rows: gate.Rows) -> dict:
    if not len(rows.truth):
        return {"n": 0}
    bootstrap = evaluate.Bootstrap(rows.groups)
    names = [LABELS[number] for number in rows.truth]
    result: dict = {"n": len(names), "threads": bootstrap.threads}
    for who, probabilities in (("champion", rows.champion), ("challenger", rows.challenger)):
        figures = evaluate.measure(names, probabilities, bootstrap=bootstrap)
        result[who] = {
            name: figures[name] for name in ("macro_f1", "accuracy", "kappa", "ece", "per_class", "confusion", "intervals")
        }
    result["comparison"] = evaluate.compare(rows.truth, rows.challenger, rows.champion, bootstrap, rows.slices)
    return result


def _learned(data: Version, made: Challenger) -> dict:
    """How the site looked when the model learned: what drift is measured against."""
    decided = [row.label for row in data.rows if row.origin != "status" and row.use in ("train", "holdout")]
    counts = Counter(decided)
    right = made.probabilities.argmax(1) == made.truth if len(made.truth) else np.zeros(0)
    return {
        "decisions": len(decided),
        "mix": {label: counts[label] / max(1, len(decided)) for label in LABELS},
        "confidence": float(made.probabilities.max(1).mean()) if len(made.truth) else None,
        "agreement": float(right.mean()) if len(made.truth) else None,
    }


def _rows(
    comments: Sequence[Comment], labels: Sequence[str], threads: Sequence[str], champion: Moderator, challenger: Moderator
) -> gate.Rows:
    truth = np.array([LABELS.index(label) for label in labels], dtype=int)
    return gate.Rows(truth, _predict(champion, comments), _predict(challenger, comments), list(threads))


def _predict(model: Moderator, comments: Sequence[Comment]) -> np.ndarray:
    # Comments of like length together, so that little is padding.
    order = sorted(range(len(comments)), key=lambda place: len(comments[place].text))
    found = np.zeros((len(comments), len(LABELS)))
    for start in range(0, len(order), 512):
        chosen = order[start : start + 512]
        found[chosen] = model.predict_proba([comments[place] for place in chosen])
    return found


def _attacked(comments: Sequence[Comment]) -> list[tuple[int, Comment]]:
    """(row, disguised comment): the same rows and disguises every time, so that their vectors are remembered."""
    order = sorted(range(len(comments)), key=lambda row: hashlib.sha256(comments[row].comment_id.encode()).digest())
    found = []
    for name in robustness.ATTACKS:
        places, disguised = robustness.attack([comments[row] for row in order], name)
        found += [(order[place], comment) for place, comment in list(zip(places, disguised, strict=True))[:ATTACKED]]
    return found


def _recent(store: Store):
    page = store.queue.page(Filter(show="all"), sort="newest", limit=500)
    items = list(page.items)
    if page.after and len(items) < RECENT:
        items += store.queue.page(Filter(show="all"), sort="newest", limit=RECENT - len(items), after=page.after).items
    return items


def _active(store: Store, champion: Moderator) -> list[PolicyVersion]:
    """The policies that hold: the common one first (the champion's own where none was saved), then those of single sites."""
    common = store.policies.active("")
    if not common.version:
        common = replace(common, policy=champion.policy)
    return [common, *(one for one in store.policies.versions() if one.mode == "active" and one.version != common.version)]


def _said(data: Version) -> str:
    return str(Difference(**data.about["difference"]))


def bring_labels(
    store: Store, champion: Moderator, sources: Sequence[str], by: str, columns: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """Take labelled tables into the store as decisions of `by`: what a site labelled before it had a desk.

    What was decided in the desk stays as it is. Returns how many decisions were made, and how many rows were read.

    Raises:
        UserError: unreadable, or a label that is none (file and row are named); nothing is taken in then.
    """
    found = read_labelled(sources, columns=columns)
    store.library.add_model(champion.version, manifest=champion.manifest)
    for start in range(0, len(found), CHUNK):
        part = found.comments[start : start + CHUNK]
        fresh = store.library.missing(part, champion.version)
        store.library.add(fresh, champion.predict(fresh))
    names = [
        (f"{site}|{key or 'comment:' + one.comment_id}", one.comment_id)
        for one in found.comments
        for site, key in [article_key(one.article)]
    ]
    labels = dict(zip(names, found.truth, strict=True))
    made = 0
    for item in list(store.lessons.undecided()):
        label = labels.get((thread_of(item), item.comment.comment_id))
        if label is not None:
            made += store.decisions.decide(item.id, by, label, f"label of {item.id}").outcome == "applied"
    return made, len(found)


def compare(registry: Registry, version: str, other: str, threads: Path = THREADS) -> Outcome:
    """Two versions side by side, as the gate would judge the first against the second: on the holdout of the newest data
    version, on our test split and under attack. Changes nothing.

    Raises:
        UserError: a version cannot be used.
    """
    first, second = (
        cached(Moderator.from_pretrained(registry.verified(name), runtime="torch"), registry.folder / "cache")
        for name in (version, other)
    )
    data = latest(registry.folder / "data")
    rows = _all_rows(data.only("holdout") if data else [], second, first, threads, lambda *step: None)
    share = Rules(**data.about["rules"]).holdout if data else STANDARD.holdout
    judgement = gate.judge(*rows, first.policy, share)
    return Outcome(
        judgement.outcome if judgement.outcome != "promote" else "better",
        judgement.sentence,
        judgement.needed,
        figures=[asdict(figure) for figure in judgement.figures],
    )


# -- promotion ------------------------------------------------------------------------------------------------------------


def promote(registry: Registry, store: Store | None, version: str, *, by: str, anyway: bool = False) -> Change:
    """Make a judged challenger the champion, with the thresholds that keep each policy's promise.

    Args:
        store: whose policies and models follow; None where there is none.
        anyway: also when the gate did not say "promote"; the history says so.

    Raises:
        UserError: the gate refused it or could not tell, it was judged against another champion, or it cannot be used.
    """
    found = registry.find(version)
    judgement = judgement_of(registry, found.version)
    why = judgement["sentence"] if judgement else "not judged"
    if not anyway:
        if judgement is None and not found.shipped:
            raise UserError(f"{found.version} was not judged against the champion; promote it anyway with --anyway")
        if judgement and judgement["outcome"] != "promote":
            raise UserError(f"{found.version} is not promoted: {why} (--anyway does it regardless)")
        if judgement and judgement["champion"] != registry.champion():
            raise UserError(
                f"{found.version} was judged against {judgement['champion']}, but {registry.champion()} is champion now; train again (--anyway does it regardless)"
            )
    else:
        why = f"anyway, by {by}: {why}"
    registry.verified(found.version)
    saved = _drafts(store, judgement, found.version) if store is not None and judgement else []
    try:
        change = registry.promote(found.version, by=by, why=why, notes={"policies": saved})
    except UserError:
        for plan in saved:
            store.policies.set_mode(plan["after"], "retired")
        raise
    if store is not None:
        _use(store, registry, found.version)
        for plan in saved:
            store.policies.activate(plan["after"])
        if not saved:
            store.policies.apply()
    return change


def _drafts(store: Store, judgement: Mapping, version: str) -> list[dict]:
    """Save the fitted thresholds for the policies that still are as they were; a changed one is a person's will."""
    saved = []
    for plan in judgement["policies"]:
        if plan["version"] and plan["after"] != plan["before"]:
            now = store.policies.get(plan["version"])
            if now.mode == "active" and now.policy.to_table() == plan["before"]:
                made = store.policies.save(
                    Policy.from_table(plan["after"]), LOOP, site=now.site, double_review=now.double_review, note=f"fitted anew for {version}"
                )  # fmt: skip
                saved.append({"site": now.site, "before": now.version, "after": made.version})
    return saved


def rollback(registry: Registry, store: Store | None, *, by: str, why: str = "") -> tuple[Change, Change]:
    """Go back to the champion before this one, and to the policies that it had, where nobody has changed them since.

    Raises:
        UserError: there is none to go back to, or it cannot be used.
    """
    undone, now = registry.rollback(by=by, why=why)
    if store is not None:
        _use(store, registry, now.version)
        renewed = False
        for plan in undone.notes.get("policies", []):
            if store.policies.get(plan["after"]).mode == "active":
                store.policies.activate(plan["before"])
                renewed = True
        if not renewed:
            store.policies.apply()
    return undone, now


def _use(store: Store, registry: Registry, version: str) -> None:
    folder = registry.verified(version)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    store.library.use_model(version, str(folder), manifest)


def judgement_of(registry: Registry, version: str) -> dict | None:
    """The judgement that a challenger came with; None for a model that came otherwise."""
    try:
        return json.loads((registry.find(version).folder / "judgement.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
