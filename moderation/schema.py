"""The vocabulary of the product: the four labels, a comment in its thread, and a verdict on it.

Everything else speaks in these types. The flat *native row* (one dict of strings a comment, the same in CSV, JSONL and
Parquet) is how comments travel in files; `Comment.from_row` and `Comment.to_row` are the only place that knows its columns.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

#: The labels in the order of the model's outputs. What each means is defined in data/GUIDELINE.md.
LABELS = ("on-topic", "off-topic", "spam", "low-effort")

#: What a policy may propose to do with a comment.
ACTIONS = ("approve", "review", "reject")

#: Columns of the native row, in their order in files. Only `comment_text` is required.
ROW_FIELDS = (
    "comment_id",
    "comment_text",
    "article_id",
    "article_title",
    "article_text",
    "article_url",
    "parent_id",
    "parent_text",
    "author",
    "created_at",
    "language",
    "status",
)

#: Columns that scoring adds to a native row.
VERDICT_FIELDS = (
    "label",
    "p_on_topic",
    "p_off_topic",
    "p_spam",
    "p_low_effort",
    "action",
    "reason",
    "model_version",
)

#: A comment longer than this (in characters) is no comment but a broken or hostile row; readers set it aside.
MAX_COMMENT_CHARS = 1_000_000

_UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class RowError(ValueError):
    """A row that cannot become a `Comment`; the message says what was expected."""


class UserError(Exception):
    """A mistake of the caller's that the command line shows as one line, without a traceback."""


def clean_text(value: object) -> str:
    """Turn a cell into text that any file format can hold.

    `None` and NaN become the empty string. Control characters (but tab and newline), lone surrogates and
    noncharacters become U+FFFD or vanish; nothing that a reader can see is changed.
    """
    if value is None or value != value:  # NaN is the only value unequal to itself
        return ""
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():  # also nothing at all; this takes a tenth of the look below
        return text
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNWRITABLE.sub(lambda found: "\ufffd" if found[0] >= "\ud800" else "", text)


@dataclass(frozen=True, slots=True)
class Article:
    """What a comment stands under: a news article, a blog post, a video page, a forum question.

    Comments of one thread should share one `Article` object: it is encoded once.
    """

    article_id: str = ""
    title: str = ""
    text: str = ""
    url: str = ""


NO_ARTICLE = Article()


@dataclass(frozen=True, slots=True)
class Comment:
    """One comment with the context that it is judged in.

    `created_at` is ISO 8601 where the source gave a date; `language` an ISO 639-1 code where the source named one;
    `status` the platform's own moderation state in lower case (``approved``, ``spam``, ``trash``, ``removed``, …).
    """

    text: str
    comment_id: str = ""
    article: Article = NO_ARTICLE
    parent_id: str = ""
    parent_text: str = ""
    author: str = ""
    created_at: str = ""
    language: str = ""
    status: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, object], article: Article | None = None) -> Comment:
        """Build a comment from a native row; unknown columns are ignored.

        `article` replaces the row's own article columns (so that a thread can share one object).

        Raises:
            RowError: when `comment_text` is missing, blank or absurdly long.
        """
        text = clean_text(row.get("comment_text"))
        if not text.strip():
            raise RowError("comment_text is empty; expected the text of a comment")
        if len(text) > MAX_COMMENT_CHARS:
            raise RowError(f"comment_text has {len(text):,} characters; expected at most {MAX_COMMENT_CHARS:,}")
        if article is None:
            article = Article(
                article_id=clean_text(row.get("article_id")),
                title=clean_text(row.get("article_title")),
                text=clean_text(row.get("article_text")),
                url=clean_text(row.get("article_url")),
            )
        rest = {
            name: clean_text(row.get(name))
            for name in ("comment_id", "parent_id", "parent_text", "author", "created_at", "language", "status")
        }
        if not rest["comment_id"]:
            rest["comment_id"] = make_comment_id(article, rest["author"], rest["created_at"], text)
        return cls(text=text, article=article, **rest)

    def to_row(self) -> dict[str, str]:
        """The native row: every column of `ROW_FIELDS`, absent values as the empty string."""
        return {
            "comment_id": self.comment_id,
            "comment_text": self.text,
            "article_id": self.article.article_id,
            "article_title": self.article.title,
            "article_text": self.article.text,
            "article_url": self.article.url,
            "parent_id": self.parent_id,
            "parent_text": self.parent_text,
            "author": self.author,
            "created_at": self.created_at,
            "language": self.language,
            "status": self.status,
        }


def make_comment_id(article: Article, author: str, created_at: str, text: str) -> str:
    """An id for a comment whose source has none: the same content gives the same id in every run."""
    key = "\x1f".join((article.article_id or article.url or article.title, author, created_at, text))
    return "c-" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def probability_column(label: str) -> str:
    """The column of an output row that holds the probability of `label`."""
    return "p_" + label.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model and the policy say of one comment.

    Attributes:
        label: the most probable of `LABELS`.
        probabilities: calibrated probability by label; they sum to 1.
        action: one of `ACTIONS`, proposed by the policy.
        reason: one sentence that a moderator can check against the text.
        model_version: which model said so.
        evidence: the article sentence that came closest and its cosine similarity, where there is an article.
    """

    label: str
    probabilities: Mapping[str, float]
    action: str
    reason: str
    model_version: str
    evidence: tuple[str, float] | None = field(default=None)

    def to_row(self) -> dict[str, str | float]:
        """The columns of `VERDICT_FIELDS`; probabilities are rounded to four decimals."""
        columns: dict[str, str | float] = {"label": self.label}
        for label in LABELS:
            columns[probability_column(label)] = round(float(self.probabilities[label]), 4)
        columns.update(action=self.action, reason=self.reason, model_version=self.model_version)
        return columns


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was set aside instead of scored: where it stood and why.

    `position` is what helps a person find it in the source: a line, a row or an element id.
    """

    file: str
    position: str
    reason: str
    raw: str = ""

    def to_row(self) -> dict[str, str]:
        """The line that goes into the rejects file; `raw` keeps at most 2,000 characters of the source."""
        return {
            "file": clean_text(self.file),
            "position": clean_text(self.position),
            "reason": clean_text(self.reason),
            "raw": clean_text(self.raw)[:2000],
        }
