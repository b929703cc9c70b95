"""Commento: its JSON export, ``comments`` (Markdown) and ``commenters`` in one document."""

from __future__ import annotations

from collections.abc import Iterator

from moderation.schema import Comment, Reject, RowError

from .dates import iso_date
from .json_stream import elements, outline
from .markup import html_to_text
from .records import dict_of, objects, text_of
from .source import Context, DamagedFile, Source
from .threads import ArticleCache, Threads

_COMMENTS, _COMMENTERS = "comments.item", "commenters.item"


def recognise(source: Source) -> str | None:
    """``comments`` for an array ``comments`` whose elements have a ``commentHex``."""
    return "comments" if f"{_COMMENTS}.commentHex" in outline(source) else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The comments in their order; a deleted one that kept its text has the status ``deleted``."""
    with Threads() as threads:
        try:
            for _, row in elements(source, _COMMENTERS):  # they stand below the comments
                threads.add_name(text_of(dict_of(row).get("commenterHex")), text_of(dict_of(row).get("name")))
        except DamagedFile:
            pass  # reported when the comments are read
        yield from threads.with_parents(_comments(source, threads))


def _comments(source: Source, threads: Threads) -> Iterator[Comment | Reject]:
    articles = ArticleCache()
    for position, row in objects(source, _COMMENTS):
        if isinstance(row, Reject):
            yield row
            continue
        deleted = row.get("deleted") is True
        parent = text_of(row.get("parentHex"))
        domain, path = text_of(row.get("domain")), text_of(row.get("url"))
        url = f"https://{domain}{path}" if domain else path
        text = text_of(row.get("markdown")) or html_to_text(text_of(row.get("html")))
        native = {
            "comment_id": text_of(row.get("commentHex")),
            "comment_text": "" if deleted and text.strip() == "[deleted]" else text,
            "parent_id": "" if parent == "root" else parent,
            "author": threads.name(text_of(row.get("commenterHex"))),
            "created_at": iso_date(row.get("creationDate")),
            "status": "deleted" if deleted else text_of(row.get("state")).lower(),
        }
        try:
            yield Comment.from_row(native, articles.get(url, "", "", url))
        except RowError as error:
            yield Reject(source.name, position, "text deleted" if deleted else str(error), str(row)[:2000])
