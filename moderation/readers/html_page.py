"""Saved article pages as HTML: the article and the comments in the markup of common themes and comment systems.

In the order of trust: schema.org's ``Comment``, elements of the class ``comment`` (WordPress themes and many others), elements
whose id counts comments, and any class that has "comment" in its name and repeats. A page without any of these is read as
text, like the other saved pages.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

from moderation.schema import Article, Comment, Reject, clean_text

from . import article_page
from .article_page import MAX_PAGE_BYTES, Page, PageComment
from .dates import spelled_date
from .markup import html_to_text
from .source import Context, Source, text_encoding

_CONTAINERS = frozenset(["li", "div", "article", "section", "blockquote", "tr", "dd", "dl", "p"])
_CONTENT = re.compile(
    r"^(?:comment|post|message)(?:[-_]+(?:content|text|body|message|inner|copy)|(?:content|text|body))$|^(?:content|text|body|message)$",
    re.IGNORECASE,
)
_PARTS = re.compile(
    r"(?:^|[-_])(?:meta|metadata|author|vcard|says|avatar|date|time|reply|replies|actions?|buttons?|footer|header|tools?|likes?"
    r"|votes?|share|form|respond|children|links?|permalink|edit|count|list|wrap(?:per)?|section|area|title|nav|policy|moderation"
    r"|awaiting|container|box|feed|open|closed|info|user|name)(?:$|[-_])",
    re.IGNORECASE,
)
_AUTHOR = re.compile(r"^fn$|(?:^|[-_])(?:author|user|username|name)(?:$|[-_])", re.IGNORECASE)
_WHEN = re.compile(r"(?:^|[-_])(?:date|time|timestamp|datetime|posted)(?:$|[-_])", re.IGNORECASE)
_COMMENT_ID = re.compile(r"^(?:li-|div-)?comment[-_]?(\w*\d\w*)$", re.IGNORECASE)
_ASIDES = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "nav",
        "aside",
        "footer",
        "form",
        "figcaption",
        "button",
        "select",
        "iframe",
        "svg",
    ]
)
_NOT_BODY = re.compile(
    r"(?:^|[-_])(?:comments?|respond|share|sharing|social|related|newsletter|breadcrumbs?|byline|caption|advert(?:isement)?|ads?"
    r"|tags?|author[-_]?(?:box|bio))(?:$|[-_])",
    re.IGNORECASE,
)
_SITE_SUFFIX = re.compile(r"\s+[|–—»·-]\s+[^|–—»·]{2,40}$")
_CHARSET = re.compile(rb"""<meta[^>]{0,100}?charset\s*=\s*["']?([A-Za-z0-9._-]{2,40})""", re.IGNORECASE)


def recognise(source: Source) -> str | None:
    """``comments`` for a document that begins as HTML does."""
    start = re.sub(r"^(?:\s+|<\?xml.*?\?>|<!--.*?-->)*", "", source.head_text[:20_000], flags=re.DOTALL)[:200].lower()
    return "comments" if re.match(r"<!doctype\s+html|<html[\s>]", start) else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The comments of a page, in its order; one `Reject` more when the page announces another number of them."""
    with source.open() as stream:
        data = stream.read(MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        yield Reject(source.name, "page", f"the page has more than {MAX_PAGE_BYTES:,} bytes; expected one saved article")
        return
    page, url = parse_html_page(data.decode(_encoding(source), "replace"))
    yield from article_page.page_items(page, source, Article(title=page.title, text=page.body, url=url))


def parse_html_page(markup: str) -> tuple[Page, str]:
    """Take a saved HTML page apart; returns the page and its own address. What is not there is empty."""
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=False, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(clean_text(markup).encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        return Page("", "", "", ()), ""
    containers = _containers(root)
    url = _first(root, "//link[@rel='canonical']/@href") or _first(root, "//meta[@property='og:url']/@content")
    title = _title(root, containers)
    announced = _announced(root)
    comments = tuple(_comments(containers))
    author, body = _page_author(root), _body(root, title, containers)
    has_form = False
    if not containers:
        page = article_page.parse_page(html_to_text(markup))
        comments = page.comments
        announced = page.announced if announced is None else announced
        has_form = page.has_form
        author = author or page.author
        if any(comment.text in body for comment in comments):  # the markup does not tell the article from its comments
            body = page.body
    return Page(title, author, body, comments, announced, has_form), url


def _encoding(source: Source) -> str:
    """The encoding of the bytes, and what the page says of itself only where they are no UTF-8."""
    if source.encoding == "cp1252" and (found := _CHARSET.search(source.head[:4096])):
        return text_encoding(found[1].decode("ascii")) or source.encoding
    return source.encoding


def _containers(root) -> list:
    """The elements that hold one comment each, in the order of the page."""
    found = [
        element for element in root.xpath("//*[@itemtype]") if re.search(r"/(?:User)?Comments?/?$", element.get("itemtype"))
    ]
    if not found:
        found = [e for e in _tagged(root, "class") if {"comment", "pingback", "trackback"} & set(_classes(e))]
    if not found:
        found = [element for element in _tagged(root, "id") if _COMMENT_ID.match(element.get("id"))]
    if not found:
        by_class: dict[str, list] = {}
        for element in _tagged(root, "class"):
            for name in _classes(element):
                if "comment" in name and "comments" not in name and not _PARTS.search(name):
                    by_class.setdefault(name, []).append(element)
        found = max(by_class.values(), key=len, default=[])
    # a theme may put the class on the item and on the box within it: the outer one is the comment
    chosen = set(found)
    return [e for e in found if not ((parent := e.getparent()) in chosen and _own_text(parent) == _own_text(e))]


def _tagged(root, attribute: str) -> list:
    return [e for e in root.xpath(f"//body//*[@{attribute}]") if e.tag in _CONTAINERS]


def _comments(containers: list) -> Iterator[PageComment]:
    chosen = set(containers)
    ids = {element: _comment_id(element) for element in containers}
    for element in containers:
        parent = next((above for above in element.iterancestors() if above in chosen), None)
        own = _without_nested(element, chosen)
        author = _part_text(own, "author", _AUTHOR)
        when = _first(own, ".//time/@datetime") or _first(
            own, ".//*[@itemprop='dateCreated' or @itemprop='datePublished']/@content"
        )
        when = when or _part_text(own, "dateCreated", _WHEN)
        text = html_to_text(_markup(_content(own)))  # last, for it takes the other parts out
        text = "\n".join(line for line in text.splitlines() if not article_page.is_action(line)).strip()
        author = re.sub(r"\s+(?:says|said):?$", "", author)
        yield PageComment(text, author, spelled_date(when), ids[element], ids.get(parent, ""))


def _without_nested(element, chosen: set):
    """A copy of a comment's element without the replies inside it."""
    marks = [number for number, inner in enumerate(element.iter()) if inner is not element and inner in chosen]
    own = copy.deepcopy(element)
    own.tail = None
    inner = list(own.iter())
    for number in marks:
        if inner[number].getparent() is not None:
            _drop(inner[number])
    return own


def _content(own):
    """The element with the text of a comment: marked as such, or all of the comment but its known parts."""
    for inner in own.iter():
        if isinstance(inner.tag, str) and inner.get("itemprop") in ("text", "commentText"):
            return inner
    marked = [inner for inner in own.iter() if inner is not own and any(map(_CONTENT.match, _classes(inner)))]
    # the innermost of nested boxes: WordPress puts .comment-content into .comment-body
    content = next(
        (inner for inner in marked if not any(other is not inner and inner in other.iterancestors() for other in marked)),
        own,
    )
    for inner in list(content.iter()):
        if inner is content or not isinstance(inner.tag, str):
            continue
        if inner.tag in _ASIDES or inner.tag == "time" or any(map(_PARTS.search, _classes(inner))):
            _drop(inner)
    return content


def _comment_id(element) -> str:
    for name in ("data-comment-id", "data-commentid", "data-id"):
        if element.get(name):
            return element.get(name).strip()
    found = _COMMENT_ID.match(element.get("id", "").strip())
    return found[1] if found else element.get("id", "").strip()


def _part_text(own, prop: str, names: re.Pattern) -> str:
    """The text of the first part of a comment with an itemprop, or else a class, that says what it is."""
    for inner in own.iter():
        if isinstance(inner.tag, str) and inner.get("itemprop") == prop:
            name = _first(inner, ".//*[@itemprop='name']//text()") or " ".join("".join(inner.itertext()).split())
            return name[:200]
    parts = [inner for inner in own.iter() if inner is not own and any(map(names.search, _classes(inner)))]
    exact = [inner for inner in parts if "fn" in _classes(inner)]
    return " ".join("".join((exact or parts)[0].itertext()).split())[:200] if parts else ""


def _title(root, containers: list) -> str:
    title = _first(root, "//meta[@property='og:title']/@content")
    if not title:
        titles = [" ".join("".join(h1.itertext()).split()) for h1 in root.xpath("//article//h1 | //main//h1 | //h1")]
        title = next(filter(None, titles), "")
    return title or _SITE_SUFFIX.sub("", _first(root, "//title/text()"))


def _page_author(root) -> str:
    author = _first(root, "//meta[@name='author']/@content") or _first(
        root, "//*[@itemprop='author']//*[@itemprop='name']/text()"
    )
    if not author:
        author = _first(root, "//*[@rel='author']//text()")
    for element in root.xpath("//*[@class]") if not author else ():
        if "byline" in " ".join(_classes(element)):
            author = " ".join("".join(element.itertext()).split())[:80]
            break
    return re.sub(r"^by:?\s+", "", author, flags=re.IGNORECASE)


def _body(root, title: str, containers: list) -> str:
    """The article: what is marked as its body, else the longest <article>, else the element with the most paragraphs."""
    chosen = set(containers)

    def outside(element) -> bool:
        return element not in chosen and not any(above in chosen for above in element.iterancestors())

    found = root.xpath("//*[@itemprop='articleBody']") or [e for e in root.xpath("//article") if outside(e)]
    if not found:
        weight: dict = {}
        for paragraph in root.xpath("//p"):
            parent = paragraph.getparent()
            if parent is not None and (parent in weight or outside(parent)):
                weight[parent] = weight.get(parent, 0) + len("".join(paragraph.itertext()))
        found = [max(weight, key=weight.__getitem__)] if weight else []
    if not found:
        return ""
    body = _without_nested(max(found, key=lambda element: len("".join(element.itertext()))), chosen)
    for inner in list(body.iter()):
        if inner is not body and isinstance(inner.tag, str):
            names = [*_classes(inner), inner.get("id", "")]
            if inner.tag in _ASIDES or inner.tag == "h1" or any(map(_NOT_BODY.search, names)):
                _drop(inner)
    lines = [line for line in html_to_text(_markup(body)).splitlines() if not article_page.is_furniture(line)]
    while lines and (not lines[0] or lines[0] == title):
        lines.pop(0)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _announced(root) -> int | None:
    for heading in root.xpath("//h2 | //h3 | //h4 | //h5 | //*[contains(@class, 'comments-title')]"):
        count = article_page.announced_count(" ".join("".join(heading.itertext()).split()))
        if count is not None:
            return count
    return None


def _first(element, path: str) -> str:
    found = element.xpath(path)
    return " ".join(str(found[0]).split()) if found else ""


def _classes(element) -> list[str]:
    return element.get("class", "").split() if isinstance(element.tag, str) else []


def _own_text(element) -> str:
    return "".join("".join(element.itertext()).split())


def _markup(element) -> str:
    from lxml import etree

    return etree.tostring(element, encoding="unicode", method="html", with_tail=False)


def _drop(element) -> None:
    """Remove an element but not the text behind it."""
    parent = element.getparent()
    if parent is None:
        return
    before = element.getprevious()
    if element.tail and before is not None:
        before.tail = (before.tail or "") + element.tail
    elif element.tail:
        parent.text = (parent.text or "") + element.tail
    parent.remove(element)
