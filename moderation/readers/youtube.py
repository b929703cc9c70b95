"""YouTube: answers of the Data API's ``commentThreads.list`` and ``comments.list``, in one document, several, or as lines.

The videos' titles and descriptions come from a companion, the answer of ``videos.list``.
"""

from __future__ import annotations

from collections.abc import Iterator

from moderation.schema import Article, Comment, Reject, RowError

from .dates import iso_date
from .json_stream import elements, outline
from .markup import html_to_text
from .records import dict_of, json_lines, list_of, text_of
from .source import Context, DamagedFile, Source
from .threads import Threads

# Where the resources may stand: an answer, several answers in an array, an array of resources.
_PATHS = ("items.item", "item.items.item", "item")


def recognise(source: Source) -> str | None:
    """``comments`` or ``videos`` by the fields of the first resources."""
    return _shape(source)[0]


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The top-level comments, each followed by the replies that its thread holds."""
    with Threads() as threads:
        for companion in context.companions.get("videos", ()):
            try:
                for _, resource in _resources(companion):
                    snippet = dict_of(dict_of(resource).get("snippet"))
                    key = text_of(dict_of(resource).get("id"))
                    title, text = text_of(snippet.get("title")), text_of(snippet.get("description"))
                    threads.add_article(key, Article(key, title, text, _url(key)))
            except (DamagedFile, OSError):
                pass  # a comment without its video's title is still a comment
        yield from threads.with_parents(_comments(source, threads))


def _shape(source: Source) -> tuple[str | None, str]:
    """The role of the file and the path of its resources (the empty string for lines)."""
    names = outline(source)
    for path in (*_PATHS, ""):
        prefix = f"{path}." if path else ""
        if f"{prefix}snippet.topLevelComment" in names or f"{prefix}snippet.textDisplay" in names:
            return "comments", path
        if f"{prefix}snippet.textOriginal" in names:
            return "comments", path
        if f"{prefix}snippet.title" in names and f"{prefix}snippet.channelId" in names:
            return "videos", path
    return None, ""


def _resources(source: Source) -> Iterator[tuple[str, object]]:
    path = _shape(source)[1]
    if not path:
        yield from json_lines(source)
        return
    for number, (_, resource) in enumerate(elements(source, path), start=1):
        yield f"element {number}", resource


def _comments(source: Source, threads: Threads) -> Iterator[Comment | Reject]:
    for position, resource in _resources(source):
        if isinstance(resource, Reject):
            yield resource
            continue
        snippet = dict_of(dict_of(resource).get("snippet"))
        if "topLevelComment" not in snippet:
            yield _comment(source, position, resource, "", "", threads)
            continue
        video, top = text_of(snippet.get("videoId")), snippet["topLevelComment"]
        yield _comment(source, position, top, video, "", threads)
        replies = list_of(dict_of(dict_of(resource).get("replies")).get("comments"))
        for number, reply in enumerate(replies, start=1):
            parent = text_of(dict_of(top).get("id"))
            yield _comment(source, f"{position}, reply {number}", reply, video, parent, threads)


def _comment(source: Source, position: str, resource: object, video: str, parent: str, threads: Threads) -> Comment | Reject:
    snippet = dict_of(dict_of(resource).get("snippet"))
    video = video or text_of(snippet.get("videoId"))
    row = {
        "comment_id": text_of(dict_of(resource).get("id")),
        # textOriginal is there for the comment's author only, textDisplay is HTML unless asked for as plain text
        "comment_text": text_of(snippet.get("textOriginal")) or html_to_text(text_of(snippet.get("textDisplay"))),
        "parent_id": text_of(snippet.get("parentId")) or parent,
        "author": text_of(snippet.get("authorDisplayName")),
        "created_at": iso_date(snippet.get("publishedAt")),
        "status": text_of(snippet.get("moderationStatus")).lower(),
    }
    try:
        return Comment.from_row(row, threads.article(video) or Article(article_id=video, url=_url(video)))
    except RowError as error:
        return Reject(source.name, position, str(error), str(resource)[:2000])


def _url(video: str) -> str:
    return f"https://www.youtube.com/watch?v={video}" if video else ""
