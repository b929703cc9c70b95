"""Coral: the CSV files of coral-importer (without header rows) and mongoexport's JSON of the database.

Both name the story and the author of a comment by id; ``stories`` and ``users`` are companions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moderation.schema import Article, Comment, Reject, RowError

from . import delimited
from .dates import iso_date
from .json_stream import outline
from .markup import html_to_text
from .records import dict_of, list_of, objects, text_of
from .source import Context, DamagedFile, Source
from .threads import Threads

_STATUSES = frozenset({"APPROVED", "REJECTED", "NONE", "PREMOD", "SYSTEM_WITHHELD"})
_ROLES = frozenset({"COMMENTER", "STAFF", "MODERATOR", "ADMIN", "MEMBER"})
_COMMENT_COLUMNS = ("id", "author_id", "story_id", "created_at", "body", "parent_id", "status", "rating")
_DATE = re.compile(r"^\d{4}-\d\d-\d\d")
_URL = re.compile(r"^https?://")


def recognise_csv(source: Source) -> str | None:
    """``comments``, ``stories`` or ``users`` by the number of cells and what stands in them."""
    rows = delimited.head_rows(source, ",")
    if not rows:
        return None

    def most(test) -> bool:
        return sum(bool(test(row)) for row in rows) * 2 > len(rows)

    if most(lambda row: len(row) in (7, 8) and row[6] in _STATUSES and _DATE.match(row[3])):
        return "comments"
    if most(lambda row: len(row) == 7 and _URL.match(row[1]) and (not row[4] or _DATE.match(row[4]))):
        return "stories"
    if most(lambda row: len(row) == 6 and row[3].upper() in _ROLES and row[4].lower() in ("true", "false", "")):
        return "users"
    return None


def recognise_json(source: Source) -> str | None:
    """``comments``, ``stories`` or ``users`` by the fields of the first documents."""
    names = {path.removeprefix("item.") for path in outline(source)}
    if {"storyID", "revisions"} <= names:
        return "comments"
    if "tenantID" in names and {"url", "metadata"} <= names:
        return "stories"
    return "users" if {"tenantID", "username"} <= names else None


def read_csv(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The rows of ``comments.csv`` with their stories and authors."""
    with Threads() as threads:
        for companion in context.companions.get("stories", ()):
            for row in _companion_rows(companion, 4):
                threads.add_article(row[0], Article(row[0], row[2], "", row[1]))
        for companion in context.companions.get("users", ()):
            for row in _companion_rows(companion, 3):
                threads.add_name(row[0], row[2])
        yield from threads.with_parents(_csv_comments(source, threads))


def _companion_rows(source: Source, width: int) -> Iterator[list[str]]:
    try:
        for _, row in delimited.records(source, header=False):
            if isinstance(row, list) and len(row) >= width:
                yield row
    except (DamagedFile, OSError):
        pass  # a comment without its story is still a comment


def _csv_comments(source: Source, threads: Threads) -> Iterator[Comment | Reject]:
    for position, row in delimited.records(source, header=False):
        if isinstance(row, Reject):
            yield row
        elif len(row) not in (7, 8):
            reason = f"the row has {len(row)} cells; expected 8: {', '.join(_COMMENT_COLUMNS)}"
            yield Reject(source.name, position, reason, ",".join(row)[:2000])
        else:
            yield _comment(source, position, dict(zip(_COMMENT_COLUMNS, row, strict=False)), threads)


def read_json(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The documents of ``comments``; of each its last revision, the text that stands on the site."""
    with Threads() as threads:
        for companion in context.companions.get("stories", ()):
            for row in _documents(companion):
                metadata = dict_of(row.get("metadata"))
                title, text = text_of(metadata.get("title")), text_of(metadata.get("description"))
                key = text_of(row.get("id"))
                threads.add_article(key, Article(key, title, text, text_of(row.get("url"))))
        for companion in context.companions.get("users", ()):
            for row in _documents(companion):
                threads.add_name(text_of(row.get("id")), text_of(row.get("username")))
        yield from threads.with_parents(_json_comments(source, threads))


def _documents(source: Source) -> Iterator[dict]:
    try:
        for _, row in objects(source):
            if isinstance(row, dict):
                yield row
    except (DamagedFile, OSError):
        pass  # a comment without its story is still a comment


def _json_comments(source: Source, threads: Threads) -> Iterator[Comment | Reject]:
    for position, row in objects(source):
        if isinstance(row, Reject):
            yield row
            continue
        revisions = list_of(row.get("revisions"))
        fields = {
            "id": text_of(row.get("id")),
            "author_id": text_of(row.get("authorID")),
            "story_id": text_of(row.get("storyID")),
            "created_at": iso_date(row.get("createdAt")),
            "body": text_of(dict_of(revisions[-1]).get("body")) if revisions else "",
            "parent_id": text_of(row.get("parentID")),
            "status": text_of(row.get("status")),
        }
        yield _comment(source, position, fields, threads, deleted=bool(row.get("deletedAt")))


def _comment(
    source: Source, position: str, fields: dict[str, str], threads: Threads, *, deleted: bool = False
) -> Comment | Reject:
    row = {
        "comment_id": fields["id"],
        "comment_text": html_to_text(fields["body"]),
        "parent_id": fields["parent_id"],
        "author": threads.name(fields["author_id"]),
        "created_at": iso_date(fields["created_at"]),
        "status": "deleted" if deleted else fields["status"].strip().lower(),
    }
    try:
        return Comment.from_row(row, threads.article(fields["story_id"]) or Article(fields["story_id"]))
    except RowError as error:
        return Reject(source.name, position, "text deleted" if deleted else str(error), fields["body"] or str(fields))
