"""Isso: its generic JSON (an array of threads with their comments) and its own SQLite store, ``comments.db``.

In the JSON an id is unique within a thread only, so the thread's address is put before it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote_plus

from moderation.schema import Article, Comment, Reject, RowError, UserError

from .dates import iso_date
from .json_stream import elements, outline
from .records import dict_of, list_of, text_of
from .source import Context, DamagedFile, Source
from .threads import ArticleCache, Threads

_SQLITE = b"SQLite format 3\x00"
_MODES = {"1": "approved", "2": "pending", "4": "deleted"}
_QUERY = (
    "SELECT c.id, c.parent, c.created, c.mode, c.text, c.author, t.uri, t.title "
    "FROM comments AS c LEFT JOIN threads AS t ON t.id = c.tid ORDER BY c.id"
)


def recognise(source: Source) -> str | None:
    """``comments`` for an array of threads with ``comments``, and for an SQLite file with Isso's tables."""
    if source.head.startswith(_SQLITE):
        return "comments" if b"comments" in source.head and b"threads" in source.head else None
    return "comments" if {"item.comments.item.text", "item.id"} <= outline(source) else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The comments, thread by thread from JSON, by id from the store."""
    with Threads() as threads:
        yield from threads.with_parents(_stored(source) if source.head.startswith(_SQLITE) else _exported(source))


def _exported(source: Source) -> Iterator[Comment | Reject]:
    number = 0
    for element, (_, thread) in enumerate(elements(source, "item"), start=1):
        if not isinstance(thread, dict):
            yield Reject(source.name, f"element {element}", "expected a thread with its comments", str(thread)[:2000])
            continue
        uri = text_of(dict_of(thread).get("id"))
        article = Article(uri, _title(text_of(dict_of(thread).get("title"))), "", uri)
        for row in list_of(dict_of(thread).get("comments")):
            number += 1
            row = dict_of(row)
            comment_id, parent = text_of(row.get("id")), text_of(row.get("parent"))
            native = {
                "comment_id": f"{uri}#{comment_id}" if comment_id else "",
                "comment_text": text_of(row.get("text")),
                "parent_id": f"{uri}#{parent}" if parent else "",
                "author": text_of(row.get("author")),
                "created_at": iso_date(row.get("created"), utc=True),
                "status": _MODES.get(text_of(row.get("mode")), ""),
            }
            yield _comment(source, f"comment {number}", native, article)


def _stored(source: Source) -> Iterator[Comment | Reject]:
    if source.compressed:
        raise UserError(f"{source.name}: an Isso database must be unpacked first; expected a plain SQLite file")
    articles = ArticleCache()
    # immutable: nothing is written beside the caller's file; nor may a hostile schema run functions
    uri = f"{Path(source.path).absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as store:
            store.execute("PRAGMA trusted_schema = OFF")
            store.text_factory = lambda data: data.decode("utf-8", "replace")
            for comment_id, parent, created, mode, text, author, thread, title in store.execute(_QUERY):
                native = {
                    "comment_id": text_of(comment_id),
                    "comment_text": text_of(text),
                    "parent_id": text_of(parent),
                    "author": text_of(author),
                    "created_at": iso_date(created),
                    "status": _MODES.get(text_of(mode), ""),
                }
                thread = text_of(thread)
                article = articles.get(thread, text_of(title), "", thread)
                yield _comment(source, f"comment {text_of(comment_id)}", native, article)
    except (sqlite3.Error, ValueError, OverflowError) as error:
        raise DamagedFile(f"the database is damaged or is not Isso's ({error})") from error


def _comment(source: Source, position: str, native: dict[str, str], article: Article) -> Comment | Reject:
    try:
        return Comment.from_row(native, article)
    except RowError as error:
        deleted = native["status"] == "deleted"
        return Reject(source.name, position, "text deleted" if deleted else str(error), str(native)[:2000])


def _title(title: str) -> str:
    """Some exporters leave the title as it stood in a query string."""
    encoded = " " not in title and re.search(r"\w\+\w|%[0-9A-Fa-f]{2}", title)
    return unquote_plus(title) if encoded else title
