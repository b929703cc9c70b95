"""Disqus: the XML of its export tool, posts and the threads they belong to.

Known traps: threads without ``<id>``, posts whose thread is missing, posts that stand there twice. Spam and deleted posts
are in the export and keep that status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moderation.schema import NO_ARTICLE, Article, Comment, Reject, RowError

from .dates import iso_date
from .markup import html_to_text
from .source import Context, DamagedFile, Source
from .threads import Threads
from .xml_stream import child_text, elements, local_name

_ID = "{http://disqus.com/disqus-internals}id"


def recognise(source: Source) -> str | None:
    """``comments`` for XML whose root is ``disqus`` in Disqus's namespace."""
    text = source.head_text
    if not text.lstrip().startswith("<"):
        return None  # a comment may quote an export
    return "comments" if re.search(r"<disqus\b", text) and re.search(r"""["']https?://disqus\.com["']""", text) else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The posts in their order; the second of two posts with one id is set aside."""
    with Threads() as threads:
        _index_threads(source, threads)
        yield from threads.with_parents(_posts(source, threads))


def _index_threads(source: Source, threads: Threads) -> None:
    """Remember every thread: a post may stand before its own."""
    try:
        for _, element in elements(source, starts=(), ends={"thread"}, whole={"thread", "post"}):
            # within a post, <thread dsq:id="…"/> only refers to one
            parent = element.getparent()
            key = _id(element)
            if key and (parent is None or local_name(parent) != "post"):
                title = html_to_text(child_text(element, "title"))
                url = child_text(element, "link")
                text = html_to_text(child_text(element, "message"))
                threads.add_article(key, Article(key, title, text, url))
    except DamagedFile:
        pass  # reported when the posts are read


def _posts(source: Source, threads: Threads) -> Iterator[Comment | Reject]:
    number = 0
    for _, element in elements(source, starts=(), ends={"post"}, whole={"thread", "post"}):
        number += 1
        key = _id(element)
        message = child_text(element, "message")
        references = {local_name(child): _id(child) for child in element if isinstance(child.tag, str)}
        author = next((child for child in element if isinstance(child.tag, str) and local_name(child) == "author"), None)
        flags = [name for name in ("isDeleted", "isSpam") if child_text(element, name).lower() == "true"]
        row = {
            "comment_id": key,
            "comment_text": html_to_text(message),
            "parent_id": references.get("parent", ""),
            "author": "" if author is None else child_text(author, "name") or child_text(author, "username"),
            "created_at": iso_date(child_text(element, "createdAt")),
            "status": "spam" if "isSpam" in flags else "deleted" if flags else "approved",
        }
        position = f"post {key or f'#{number}'}"
        if key and not threads.first_time(key):
            yield Reject(source.name, position, "duplicate id: a post with the same id stands above", message)
            continue
        try:
            yield Comment.from_row(row, threads.article(references.get("thread", "")) or NO_ARTICLE)
        except RowError as error:
            reason = "text deleted" if "isDeleted" in flags else str(error)
            yield Reject(source.name, position, reason, message)


def _id(element) -> str:
    return (element.get(_ID) or "").strip()
