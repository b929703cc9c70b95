"""WordPress: WXR, the XML of Tools > Export (every namespace version), and the CSV of ``wp comment list``.

A WXR never has spam (the exporter leaves it out); the CSV has it but names the post by number only. Given both, the CSV's
comments get their article and parent from the WXR, and those that the WXR has too are set aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moderation.schema import Article, Comment, Reject, RowError

from . import delimited
from .columns import normalised
from .dates import iso_date
from .markup import html_to_text
from .source import Context, DamagedFile, Source
from .threads import Threads
from .xml_stream import child_text, elements, local_name

_STATUS = {"1": "approved", "0": "pending", "approve": "approved", "hold": "pending", "unapproved": "pending"}
_FIELDS = {"title": "title", "link": "url", "encoded": "text", "post_id": "article_id"}
_CSV_COLUMNS = frozenset({"comment_id", "comment_content"})


def recognise_wxr(source: Source) -> str | None:
    """``comments`` for RSS in which WordPress's export namespace is declared."""
    text = source.head_text
    if not text.lstrip().startswith("<"):
        return None  # a comment may quote an export
    return "comments" if re.search(r"<rss\b", text) and re.search(r"""["']https?://wordpress\.org/export/""", text) else None


def recognise_csv(source: Source) -> str | None:
    """``comments`` for a table with ``comment_ID`` and ``comment_content``."""
    header = next(iter(delimited.head_rows(source)), [])
    return "comments" if {normalised(name) for name in header} >= _CSV_COLUMNS else None


def read_wxr(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The comments of every item, pingbacks among them, under the item as their article."""
    with Threads() as threads:
        yield from threads.with_parents(_wxr_comments(source))


def _wxr_comments(source: Source) -> Iterator[Comment | Reject]:
    number = 0
    for item in _wxr(source):
        if isinstance(item, Article):
            continue
        number += 1
        element, article = item
        fields = {local_name(child): child_text(element, local_name(child)) for child in element if isinstance(child.tag, str)}
        yield _comment(source, f"comment {fields.get('comment_id') or f'#{number}'}", fields, article)


def _wxr(source: Source) -> Iterator[Article | tuple]:
    """For every item its comments as ``(element, article)``, and at its end the article itself."""
    fields: dict[str, str] = {}
    article: Article | None = None
    for event, element in elements(source, starts={"item"}, ends={"comment", "item", *_FIELDS}, whole={"comment"}):
        tag = local_name(element)
        if tag == "item" and event == "start":
            fields, article = {}, None
        elif tag == "comment":
            # the exporter writes an item's own fields before its comments
            article = article or _article(fields)
            yield element, article
        elif tag == "item":
            yield article or _article(fields)
        elif (
            (above := element.getparent()) is not None
            and local_name(above) == "item"
            and (tag != "encoded" or "/content/" in element.tag)
        ):
            # content:encoded is the article, excerpt:encoded is not
            fields.setdefault(_FIELDS[tag], "".join(element.itertext()).strip())


def _article(fields: dict[str, str]) -> Article:
    url = fields.get("url", "")
    return Article(
        article_id=fields.get("article_id", "") or url,
        title=html_to_text(fields.get("title", "")),
        text=html_to_text(fields.get("text", ""), keep_newlines=True),
        url=url,
    )


def read_csv(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The rows of ``wp comment list --format=csv``; the companions' WXR files give articles and parents."""
    with Threads() as threads:
        for companion in context.companions.get("wxr", ()):
            _index_wxr(companion, threads)
        yield from threads.with_parents(_csv_comments(source, threads))


def _index_wxr(source: Source, threads: Threads) -> None:
    try:
        for item in _wxr(source):
            if isinstance(item, Article):
                threads.add_article(item.article_id, item)
                continue
            element, article = item
            comment_id, text = child_text(element, "comment_id"), child_text(element, "comment_content")
            if comment_id and text:
                threads.add_comment(Comment(html_to_text(text, keep_newlines=True), comment_id, article))
    except (DamagedFile, OSError):
        pass  # reported where the file itself is read; what stands before the break is of use


def _csv_comments(source: Source, threads: Threads) -> Iterator[Comment | Reject]:
    rows = delimited.records(source)
    _, header = next(rows, ("", []))
    names = [normalised(name) for name in header] if isinstance(header, list) else []
    for position, row in rows:
        if isinstance(row, Reject):
            yield row
        elif len(row) != len(names):
            reason = f"the row has {len(row)} cells; expected {len(names)}, as in the header"
            yield Reject(source.name, position, reason, ",".join(row)[:2000])
        else:
            fields = dict(zip(names, row, strict=True))
            post = fields.get("comment_post_id", "").strip()
            article = threads.article(post) or Article(article_id=post)
            key = fields.get("comment_id", "").strip()
            if key and threads.has_comment(article, key):
                reason = f"duplicate id: comment {key} stands above or in the WXR beside this file"
                yield Reject(source.name, position, reason, fields.get("comment_content", ""))
            else:
                yield _comment(source, position, fields, article)


def _comment(source: Source, position: str, fields: dict[str, str], article: Article) -> Comment | Reject:
    """A comment from the columns of WordPress's table of comments, which both exports have."""
    status = fields.get("comment_approved", "").strip().lower()
    parent = fields.get("comment_parent", "").strip()
    row = {
        "comment_id": fields.get("comment_id", "").strip(),
        "comment_text": html_to_text(fields.get("comment_content", ""), keep_newlines=True),
        "parent_id": "" if parent == "0" else parent,
        "author": fields.get("comment_author", "").strip(),
        "created_at": iso_date(fields.get("comment_date_gmt"), utc=True) or iso_date(fields.get("comment_date")),
        "status": _STATUS.get(status, status),
    }
    try:
        return Comment.from_row(row, article)
    except RowError as error:
        return Reject(source.name, position, str(error), fields.get("comment_content", "") or repr(fields))
