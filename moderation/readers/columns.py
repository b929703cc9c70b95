"""Which column of a table is which native column: by the caller's map, by name, or guessed where there is only one way."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from moderation.schema import ROW_FIELDS, Article, Comment, Reject, RowError, UserError, clean_text

from .dates import iso_date
from .source import Source
from .threads import ArticleCache, Threads

# Names that other systems give our columns, the more telling ones first: within one tier two matches are one too many.
_SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "comment_id": (("id", "commentid", "post_id", "uid"),),
    "comment_text": (
        ("comment_content", "comment_body", "comment_message", "post_raw", "textoriginal"),
        ("comment", "commenttext"),
        ("text", "body", "content", "message"),
    ),
    "article_id": (("story_id", "thread_id", "link_id", "post_id", "article", "storyid", "video_id", "videoid"),),
    "article_title": (("headline", "topic_title", "story_title", "thread_title", "post_title", "title"),),
    "article_text": (("article_body", "article_content", "story_text", "post_content", "selftext"),),
    "article_url": (("story_url", "page_url", "permalink", "link", "url"),),
    "parent_id": (("parentid", "in_reply_to", "reply_to", "comment_parent", "parent_comment_id"),),
    "parent_text": (("parent_body", "parent_comment", "parent_content"),),
    "author": (("user", "username", "author_name", "user_name", "comment_author", "name"),),
    "created_at": (
        ("created", "createdat", "created_utc", "comment_date_gmt", "published_timestamp", "publishedat"),
        ("date", "timestamp", "datetime", "time", "published_at"),
    ),
    "language": (("lang",),),
    "status": (("moderation_status", "state"),),
}


def normalised(name: str) -> str:
    """A column name without the differences that mean nothing: case, spaces, hyphens."""
    return re.sub(r"[\s\-./]+", "_", name.strip().lstrip("\ufeff").casefold())


def match_columns(names: Collection[str], columns: Mapping[str, str], source: Source) -> dict[str, str]:
    """The column of the source for every native column that it has.

    Raises:
        UserError: when a mapped column is not there, or no column (or more than one) can be the comment's text.
    """
    found = dict(columns)
    for native, name in columns.items():
        if name not in names:
            raise UserError(f"{source.name}: no column {name!r} for {native}; its columns are: {_listed(names)}")
    free = {normalised(name): name for name in reversed(list(names)) if name not in found.values()}
    for native in ROW_FIELDS:
        if native not in found and native in free:
            found[native] = free.pop(native)
    ambiguous: list[str] = []
    for native, tiers in _SYNONYMS.items():
        for tier in tiers if native not in found else ():
            matches = [name for name in tier if name in free]
            if len(matches) == 1:
                found[native] = free.pop(matches[0])
            elif native == "comment_text":
                ambiguous = matches
            if matches:
                break
    for native, name in found.items():
        if list(names).count(name) > 1:
            raise UserError(f"{source.name}: more than one column is called {name!r} (taken for {native}); rename one of them")
    if "comment_text" not in found:
        why = (
            f"more than one column may be the comment's text ({_listed(ambiguous)})"
            if ambiguous
            else ("no column is the comment's text")
        )
        raise UserError(f"{source.name}: {why}; its columns are: {_listed(names)}. Name it with --map comment_text=COLUMN.")
    return found


def looks_like_comments(names: Collection[str]) -> bool:
    """Whether a table with these columns can be read without a map."""
    try:
        match_columns(names, {}, Source(""))
    except UserError:
        return False
    return True


_ARTICLE = ("article_id", "article_title", "article_text", "article_url")


class RowReader:
    """Turns the rows of one table into comments.

    Args:
        source: where the rows come from.
        fields: column of the source by native column.
        threads: tells equal comments without an id apart; two readers may both say "Excellent".
        restore: whether the file is one of ours, so that cells neutralised against CSV injection are to be restored.
    """

    def __init__(self, source: Source, fields: Mapping[str, str], threads: Threads, *, restore: bool = False) -> None:
        self._source = source
        self._fields = fields
        self._threads = threads
        self._articles = ArticleCache()
        self._restore = restore
        self._last: tuple[tuple[object, ...], Article | None] = ((), None)

    def comment(self, position: str, row: Mapping[str, object], raw: str = "") -> Comment | Reject:
        """The comment of a row (by the source's column names), or why it is none."""
        native: dict[str, object] = {}
        for name, column in self._fields.items():
            value = row.get(column)
            if type(value) is str:  # as a rule, so that is asked first
                native[name] = restore(value) if self._restore else value
                continue
            if value is None or isinstance(value, dict | list):
                value = iso_date(value) if name == "created_at" else ""
            elif isinstance(value, float) and value.is_integer() and name.endswith("_id"):
                value = int(value)  # a column of ids with gaps that some tool stored as numbers
            elif isinstance(value, bytes):
                value = value.decode("utf-8", "replace")  # Parquet has columns of bytes that mean text
                value = restore(value) if self._restore else value
            native[name] = value
        native["created_at"] = iso_date(native.get("created_at"))
        native["status"] = str(native.get("status") or "").lower()
        columns = tuple(native.get(name) for name in _ARTICLE)
        known = self._last[1] if columns == self._last[0] else None  # as a rule the row before stands under the same article
        try:
            comment = Comment.from_row(native, known)
        except (RowError, ValueError) as error:
            return Reject(self._source.name, position, str(error), raw or _raw(row))
        if known is None:
            article = comment.article
            shared = self._articles.get(article.article_id, article.title, article.text, article.url)
            comment = replace(comment, article=shared)
            if all(isinstance(value, str) for value in columns):  # 1 and True are equal, too
                self._last = columns, shared
        if not clean_text(native.get("comment_id")) and (times := self._threads.times(comment.comment_id)) > 1:
            comment = replace(comment, comment_id=f"{comment.comment_id}-{times}")
        return comment


# A spreadsheet runs a cell that begins like this as a formula (OWASP, CSV injection). An apostrophe in front stops that;
# a cell that begins with apostrophes before such a character gets one more, so that `restore` is an exact inverse.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NEUTRALISED = re.compile(r"'+[=+\-@\t\r]")


def neutralise(cell: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return "'" + cell if _FORMULA.match(cell) else cell


def restore(cell: str) -> str:
    """The cell before `neutralise`."""
    return cell[1:] if _NEUTRALISED.match(cell) else cell


def _raw(row: Mapping[str, object]) -> str:
    return repr({name: value for name, value in row.items() if value})[:2000]


def _listed(names: Collection[str]) -> str:
    shown = [str(name)[:60] for name in list(names)[:40]]
    return ", ".join(shown) + (" …" if len(names) > 40 else "") if shown else "(none)"
