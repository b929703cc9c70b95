"""Versions of the training data: what the decisions of a store teach, frozen under a hash of their content.

A version is a folder `NAME/` with `rows.jsonl` (native rows and the columns of `COLUMNS`) and `manifest.json`. It is never
changed; the same decisions give the same name. Each row has one use:

    train      it trains, with its `weight`
    holdout    its thread is kept for judging models and never trains
    disputed   moderators differ about it; it waits for another decision
    doubted    its label is probably an error; a moderator was asked to look again
    copy       its text stands in the holdout too, so it may not train

The holdout is chosen thread by thread, by a hash of the article, so it never changes its mind and grows as threads come in.
Only labels that a person gave one by one count there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from moderation.registry import write_whole, written
from moderation.schema import LABELS, ROW_FIELDS, Comment, UserError
from moderation.store import Store
from moderation.store.lessons import Lesson, thread_of
from training.examples import ANSWERS, Example

#: Columns of a row beside the native ones.
COLUMNS = ("number", "decision", "thread", "label", "weight", "use", "origin")
USES = ("train", "holdout", "disputed", "doubted", "copy")
#: What a platform's status says, where it says anything: removed comments were removed for many reasons, spam for one.
STATUSES = {"spam": "spam", "approved": "not-spam", "published": "not-spam"}
#: Texts of fewer words are everybody's and no sign of a copy.
_COPY_WORDS = 4


@dataclass(frozen=True, slots=True)
class Rules:
    """How decisions become training data.

    Attributes:
        bulk_weight: weight of a label that was given in bulk; one that was given by itself weighs 1.
        status_weight: weight of what the platform's own status says of undecided comments; 0 leaves them out.
        most_weak: the largest number of such rows.
        holdout: part of the threads that only judge.
    """

    bulk_weight: float = 0.3
    status_weight: float = 0.0
    most_weak: int = 2000
    holdout: float = 0.2

    def __post_init__(self) -> None:
        """Raises:
        UserError: a weight or share that is none.
        """
        if not (0 <= self.bulk_weight <= 1 and 0 <= self.status_weight <= 1 and 0 < self.holdout < 1):
            raise UserError("weights must lie within 0 and 1, and the holdout between them")


#: The rules where nobody says otherwise.
STANDARD = Rules()


@dataclass(frozen=True, slots=True)
class Row:
    """One comment with what is known of it; `label` is one of LABELS, or "not-spam" where only a status says so.

    Who decided it (`user`), and whether it was `confirmed`, helps to find errors and is not kept in the version.
    """

    comment: Comment
    number: int
    decision: int
    thread: str
    label: str
    weight: float
    use: str
    origin: str
    user: str = ""
    confirmed: bool = False

    def example(self) -> Example:
        """What the row answers, for training."""
        answers = ANSWERS.get(self.label, (0, None, None))
        movable = self.label == "on-topic" and len(self.comment.text.split()) >= 6 and not self.comment.parent_text
        return Example(self.comment, answers, self.weight, movable, f"site:{self.origin}")

    def to_json(self) -> dict[str, object]:
        """The line of `rows.jsonl`."""
        return self.comment.to_row() | {name: getattr(self, name) for name in COLUMNS}


@dataclass(frozen=True, slots=True)
class Difference:
    """What one version has that another has not, by comment."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    since: str = ""

    def __str__(self) -> str:
        if not self.since:
            return f"+{self.added:,} labels, the first version"
        gone = f", {self.removed:,} gone" if self.removed else ""
        return f"+{self.added:,} labels, {self.changed:,} changed{gone} since {self.since}"


@dataclass(frozen=True, slots=True)
class Version:
    """A frozen data set: its name, its rows, and `about` (counts, rules, the difference from the last)."""

    name: str
    rows: Sequence[Row] = field(repr=False)
    about: Mapping = field(repr=False)

    def only(self, use: str) -> list[Row]:
        """The rows of one use."""
        return [row for row in self.rows if row.use == use]


def gather(store: Store, rules: Rules = STANDARD) -> list[Row]:
    """What the decisions say now; `doubted` marks only what an earlier training doubted.

    Raises:
        UserError: a label in the store is none (a typo in an import).
    """
    lessons = list(store.lessons.decided())
    rows = [_row(lesson, rules) for lesson in lessons]
    kept = {_words(row.comment) for row in rows if row.use == "holdout"} - {""}
    rows = [replace(row, use="copy") if row.use == "train" and _words(row.comment) in kept else row for row in rows]
    if rules.status_weight:
        weak = 0
        for item in store.lessons.undecided(list(STATUSES)):
            thread = thread_of(item)
            if weak < rules.most_weak and not _held(thread, rules.holdout) and _words(item.comment) not in kept:
                label = STATUSES[item.comment.status]
                rows.append(Row(item.comment, item.id, 0, thread, label, rules.status_weight, "train", "status"))
                weak += 1
    return rows


def freeze(rows: Sequence[Row], rules: Rules, folder: Path) -> Version:
    """Keep rows as a version in `folder`; the same content again is the same version and changes nothing.

    Raises:
        UserError: it cannot be written.
    """
    rows = sorted(rows, key=lambda row: (row.thread, row.comment.comment_id, row.number))
    lines = [json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
    # Numbers are the database's and mean nothing elsewhere, so they do not count as content.
    content = [{k: v for k, v in row.to_json().items() if k not in ("number", "decision")} for row in rows]
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")).hexdigest()
    name = f"data-{digest[:10]}"
    target = folder / name
    if (target / "manifest.json").exists():
        return load(target)
    last = latest(folder)
    uses = {use: dict(Counter(row.label for row in rows if row.use == use)) for use in USES}
    about = {
        "version": name,
        "made_at": time.time(),
        "rules": asdict(rules),
        "uses": {use: counts for use, counts in uses.items() if counts},
        "origins": dict(Counter(row.origin for row in rows)),
        "threads": len({row.thread for row in rows}),
        "holdout_threads": len({row.thread for row in rows if row.use == "holdout"}),
        "difference": asdict(compare(last.rows if last else (), rows, last.name if last else "")),
        "sha256": hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest(),
    }
    with written(folder):
        target.mkdir(parents=True, exist_ok=True)
        write_whole(target / "rows.jsonl", "".join(lines))
        (target / "rows.jsonl").chmod(0o444)
        write_whole(target / "manifest.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")  # last: now it is whole
        (target / "manifest.json").chmod(0o444)
    return Version(name, rows, about)


def load(folder: Path) -> Version:
    """A version from its folder, after checking it against its hash.

    Raises:
        UserError: it is no version, or was altered.
    """
    try:
        about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        data = (folder / "rows.jsonl").read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no version of the data here ({error})") from error
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise UserError(f"{folder / 'rows.jsonl'}: altered or damaged (its SHA-256 is not the manifest's)")
    rows = []
    for line in data.decode("utf-8", "surrogatepass").splitlines():
        found = json.loads(line)
        comment = Comment.from_row({name: found[name] for name in ROW_FIELDS})
        rows.append(Row(comment, *(found[name] for name in COLUMNS)))
    return Version(folder.name, rows, about)


def latest(folder: Path) -> Version | None:
    """The newest version in a folder; None where there is none."""
    found = []
    for path in folder.glob("data-*/manifest.json"):
        try:
            found.append((json.loads(path.read_text(encoding="utf-8"))["made_at"], path.parent))
        except (OSError, ValueError, KeyError):
            continue
    return load(max(found)[1]) if found else None


def compare(before: Iterable[Row], after: Iterable[Row], since: str = "") -> Difference:
    """Labels that came, went and changed, by thread and comment."""
    old, new = ({(row.thread, row.comment.comment_id): row.label for row in rows} for rows in (before, after))
    changed = sum(old[key] != label for key, label in new.items() if key in old)
    return Difference(len(new.keys() - old.keys()), len(old.keys() - new.keys()), changed, since)


def _row(lesson: Lesson, rules: Rules) -> Row:
    if lesson.label not in LABELS:
        raise UserError(
            f"comment {lesson.item.id} was decided as {lesson.label!r}; expected one of {', '.join(LABELS)} (decide it again)"
        )
    held = _held(lesson.thread, rules.holdout)
    single = lesson.kind == "single"
    if lesson.state == "disputed":
        use = "disputed"
    elif held:
        # A doubt changes nothing in the holdout before a person has looked: a model must not choose its judges.
        use = "holdout" if single else "copy"
    else:
        use = "doubted" if lesson.state == "doubted" else "train"
    weight = 1.0 if single else rules.bulk_weight
    confirmed = lesson.state == "confirmed"
    return Row(
        lesson.item.comment, lesson.item.id, lesson.decision, lesson.thread, lesson.label, weight, use, lesson.kind, lesson.user,
        confirmed,
    )  # fmt: skip


def _held(thread: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(f"holdout:{thread}".encode("utf-8", "replace")).digest()[:4], "big") < share * 2**32


def is_long(comment: Comment) -> bool:
    """Whether the same text elsewhere is a sign of a copy."""
    return len(comment.text.split()) >= _COPY_WORDS


def _words(comment: Comment) -> str:
    return " ".join(comment.text.lower().split()) if is_long(comment) else ""
