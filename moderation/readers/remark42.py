"""remark42: its backup, JSON lines of which the first describes users and posts and every other is a comment."""

from __future__ import annotations

from collections.abc import Iterator

from moderation.schema import Comment, Reject, RowError

from .dates import iso_date
from .json_stream import outline
from .markup import html_to_text
from .records import dict_of, objects, text_of
from .source import Context, Source
from .threads import ArticleCache, Threads


def recognise(source: Source) -> str | None:
    """``comments`` by the fields of the first lines."""
    names = {path.removeprefix("item.") for path in outline(source)}
    comment = {"locator.url", "text", "user.name"} <= names
    return "comments" if comment or {"version", "users", "posts"} <= names else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The comments in the order of the backup; a deleted one that kept its text has the status ``deleted``."""
    with Threads() as threads:
        yield from threads.with_parents(_comments(source))


def _comments(source: Source) -> Iterator[Comment | Reject]:
    articles = ArticleCache()
    for position, row in objects(source):
        if isinstance(row, Reject):
            yield row
            continue
        if "version" in row and "posts" in row and "text" not in row:
            continue  # the description of the backup is no comment
        deleted = row.get("delete") is True
        url = text_of(dict_of(row.get("locator")).get("url"))
        native = {
            "comment_id": text_of(row.get("id")),
            "comment_text": html_to_text(text_of(row.get("text"))) or text_of(row.get("orig")),
            "parent_id": text_of(row.get("pid")),
            "author": text_of(dict_of(row.get("user")).get("name")),
            "created_at": iso_date(row.get("time")),
            "status": "deleted" if deleted else "approved",
        }
        try:
            yield Comment.from_row(native, articles.get(url, text_of(row.get("title")), "", url))
        except RowError as error:
            yield Reject(source.name, position, "text deleted" if deleted else str(error), str(row)[:2000])
