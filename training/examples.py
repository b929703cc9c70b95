"""From labelled and weakly labelled rows to what the network is trained on.

An `Example` answers some of the guideline's three questions (spam? low-effort? off-topic?) for one comment in its
thread; a question that the source cannot answer is left open and contributes no loss. Examples of one article travel
together as a `Group`, so that the article is encoded once a batch and its neighbours serve as near negatives.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moderation.schema import LABELS, NO_ARTICLE, Article, Comment, UserError

#: Answers to (spam, low-effort, off-topic) by label; None is "not asked": an earlier yes decides.
ANSWERS: dict[str, tuple[int | None, int | None, int | None]] = {
    "spam": (1, None, None),
    "low-effort": (0, 1, None),
    "off-topic": (0, 0, 1),
    "on-topic": (0, 0, 0),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One comment with the answers that are known of it and the weight of its loss.

    `movable` says that the comment belongs to its own article so clearly that under another it is off-topic; `near` that it is off-topic
    although the country, the people or the theme are the article's.
    """

    comment: Comment
    answers: tuple[int | None, int | None, int | None]
    weight: float = 1.0
    movable: bool = False
    source: str = ""
    near: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A few examples of one article (or of none)."""

    article: Article
    examples: tuple[Example, ...]
    source: str


def labelled(rows: Iterable[Mapping[str, str]], source: str, weight: float = 1.0) -> list[Example]:
    """Examples from rows with a `label`.

    Raises:
        UserError: a label outside `schema.LABELS`.
    """
    examples = []
    articles: dict[tuple[str, str], Article] = {}
    for number, row in enumerate(rows, 1):
        label = row.get("label") or ""
        if label not in ANSWERS:
            raise UserError(f"{source}, row {number}: label {label!r}; expected one of {', '.join(LABELS)}")
        comment = _comment(row, articles)
        movable = label == "on-topic" and len(comment.text.split()) >= 6 and not comment.parent_text
        examples.append(Example(comment, ANSWERS[label], weight, movable, source, row.get("slice") == "near"))
    return examples


def weak(rows: Iterable[Mapping[str, str]], source: str, weight: float, limit: int, seed: int) -> list[Example]:
    """At most `limit` examples from rows whose `target` is only weakly known, drawn at random with `seed`.

    A comment under its own article in a moderated place counts as on-topic when it has eight words or more, and as
    low-effort with three or fewer; in between nothing is assumed.
    """
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    examples: list[Example] = []
    articles: dict[tuple[str, str], Article] = {}
    for row in rows:
        if len(examples) >= limit:
            break
        comment = _comment(row, articles)
        words = len(comment.text.split())
        if row["target"] == "spam":
            examples.append(Example(comment, ANSWERS["spam"], weight, source=source))
        elif row["target"] == "not-spam":
            examples.append(Example(comment, (0, None, None), weight, source=source))
        elif row["target"] == "own" and words >= 8:
            examples.append(Example(comment, ANSWERS["on-topic"], weight, True, source))
        elif row["target"] == "own" and words <= 3 and comment.article is not NO_ARTICLE:
            examples.append(Example(comment, (None, 1, None), weight, source=source))
    return examples


def read_threads(folder: Path, split: str) -> list[dict[str, str]]:
    """The rows of one split (`train`, `validation` or `test`) of our own threads."""
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: missing; expected our own labelled threads, as in data/threads of the repository")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def group(examples: Iterable[Example], size: int, seed: int) -> list[Group]:
    """Pack the examples of each article, shuffled, into groups of at most `size`."""
    shuffler = random.Random(seed)
    by_article: dict[Article, list[Example]] = defaultdict(list)
    for example in examples:
        by_article[example.comment.article].append(example)
    groups = []
    for article, members in by_article.items():
        shuffler.shuffle(members)
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            groups.append(Group(article, tuple(chunk), chunk[0].source))
    return groups


def move(example: Example, article: Article, parent_text: str, weight: float) -> Example:
    """The example in another thread: what was on-topic is off-topic there, spam stays spam and so on."""
    moved = replace(example.comment, article=article, parent_text=parent_text)
    answers = ANSWERS["off-topic"] if example.answers == ANSWERS["on-topic"] else example.answers
    return replace(example, comment=moved, answers=answers, weight=example.weight * weight)


def _comment(row: Mapping[str, str], articles: dict[tuple[str, str], Article]) -> Comment:
    key = (row.get("article_title") or "", row.get("article_text") or "")
    if not any(key):
        article = NO_ARTICLE
    else:
        article = articles.setdefault(key, Article(row.get("article_id") or "", key[0], key[1], row.get("article_url") or ""))
    return Comment.from_row(row, article)
