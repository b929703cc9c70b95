"""Reddit dumps: comments as JSON lines (mostly ``.zst``), and the submissions they stand under as a companion.

A comment is Markdown. ``[removed]`` says that a moderator took the text away, ``[deleted]`` that its author did.
"""

from __future__ import annotations

from collections.abc import Iterator

from moderation.schema import Article, Comment, Reject, RowError

from .dates import iso_date
from .json_stream import outline
from .records import objects, text_of
from .source import Context, DamagedFile, Source
from .threads import Threads

_GONE = {
    "[removed]": "text removed by a moderator",
    "[deleted]": "text deleted by its author",
    "[ removed by reddit ]": "text removed by Reddit",
}


def recognise(source: Source) -> str | None:
    """``comments`` or ``submissions`` by the fields of the first objects."""
    names = {path.removeprefix("item.") for path in outline(source)}
    if {"body", "link_id", "parent_id"} <= names:
        return "comments"
    return "submissions" if {"title", "selftext", "subreddit"} <= names else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The comments in the order of the dump."""
    with Threads() as threads:
        for companion in context.companions.get("submissions", ()):
            _index_submissions(companion, threads)
        yield from threads.with_parents(_comments(source, threads))


def _index_submissions(source: Source, threads: Threads) -> None:
    try:
        for _, row in objects(source):
            if isinstance(row, Reject):
                continue
            text = _unescaped(text_of(row.get("selftext")))
            article = Article(
                text_of(row.get("id")),
                _unescaped(text_of(row.get("title"))),
                "" if text.strip().casefold() in _GONE else text,
                text_of(row.get("url")),
            )
            threads.add_article(article.article_id, article)
    except (DamagedFile, OSError):
        pass  # the submissions before the break are of use, and a comment without its article is still a comment


def _comments(source: Source, threads: Threads) -> Iterator[Comment | Reject]:
    for position, row in objects(source):
        if isinstance(row, Reject):
            yield row
            continue
        body = text_of(row.get("body"))
        if reason := _GONE.get(body.strip().casefold()):
            yield Reject(source.name, position, reason, text_of(row.get("permalink")) or text_of(row.get("id")))
            continue
        link = text_of(row.get("link_id")).removeprefix("t3_")
        parent = text_of(row.get("parent_id"))
        author = text_of(row.get("author"))
        native = {
            "comment_id": text_of(row.get("id")),
            "comment_text": _unescaped(body),
            # a parent t3_… is the submission itself
            "parent_id": "" if parent.startswith("t3_") else parent.removeprefix("t1_"),
            "author": "" if author == "[deleted]" else author,
            "created_at": iso_date(row.get("created_utc")),
        }
        try:
            yield Comment.from_row(native, threads.article(link) or Article(link, text_of(row.get("link_title"))))
        except RowError as error:
            yield Reject(source.name, position, str(error), str(row)[:2000])


def _unescaped(text: str) -> str:
    """The dumps hold Markdown with these three characters escaped, and no other entity."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
