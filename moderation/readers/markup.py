"""HTML to the text that a reader of the page would see, with the targets of links kept visible."""

from __future__ import annotations

import html
import re

from moderation.schema import clean_text

_TAG = re.compile(r"<(?:[A-Za-z/!?])")
_INVISIBLE = frozenset(["script", "style", "head", "title", "noscript", "template"])
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "br",
        "li",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "blockquote",
        "pre",
        "table",
        "tr",
        "hr",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "section",
        "article",
        "aside",
        "header",
        "footer",
        "nav",
        "figure",
        "figcaption",
        "form",
        "fieldset",
        "main",
        "address",
        "details",
        "summary",
    ]
)
_PARAGRAPHS = frozenset(["p", "blockquote", "pre", "ul", "ol", "table", "h1", "h2", "h3", "h4", "h5", "h6", "figure"])
_EMBEDS = frozenset(["iframe", "embed", "video", "audio", "source"])
_SCHEME = re.compile(r"^(?:https?:)?//(?:www\.)?|^mailto:", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\f\v\u00a0]+")

# Where a block or a paragraph begins or ends; characters that clean_text leaves in no text.
_BLOCK, _PARAGRAPH = "\x01", "\x02"
_BREAKS = re.compile(f"[ {_BLOCK}{_PARAGRAPH}]*[{_BLOCK}{_PARAGRAPH}][ {_BLOCK}{_PARAGRAPH}]*")


def html_to_text(markup: str, *, keep_newlines: bool = False) -> str:
    """Turn an HTML fragment into plain text.

    ``<a href="https://x">text</a>`` becomes ``text (https://x)``, or only the address where the text is the address. Blocks
    and ``<br>`` become line ends, entities are decoded once, scripts and styles vanish.

    Args:
        markup: the HTML; text without any tag is fine.
        keep_newlines: whether line ends of the source count, as WordPress (wpautop) has it. HTML itself says no.
    """
    markup = clean_text(markup)
    if not _TAG.search(markup):
        text = html.unescape(markup) if "&" in markup else markup
        return clean_text(text).strip()
    from lxml import etree

    target = _TextTarget(keep_newlines)
    # libxml2 takes the byte string at its word only when told the encoding, and wants at least one element around the text
    parser = etree.HTMLParser(target=target, encoding="utf-8", no_network=True, huge_tree=False)
    parser.feed(("<div>" + markup + "</div>").encode("utf-8", "replace"))
    try:
        text = parser.close()
    except etree.XMLSyntaxError:  # not even the start of a document, such as a lone comment
        text = target.close()
    return clean_text(text)


class _TextTarget:
    """Collects the visible text of the events of an HTML parser."""

    def __init__(self, keep_newlines: bool) -> None:
        self._keep_newlines = keep_newlines
        self._parts: list[str] = []
        self._hidden = 0
        self._preformatted = 0
        self._links: list[tuple[str, int]] = []

    def start(self, tag: str, attributes) -> None:
        if tag in _INVISIBLE:
            self._hidden += 1
        if self._hidden:
            return
        if tag in _BLOCKS:
            self._parts.append("\n" if tag == "br" else _PARAGRAPH if tag in _PARAGRAPHS else _BLOCK)
        if tag == "pre":
            self._preformatted += 1
        elif tag == "a":
            self._links.append((attributes.get("href", "").strip(), len(self._parts)))
        elif tag == "img":
            self._parts.append(attributes.get("alt", "").strip() or _address(attributes.get("src", "")))
        elif tag in _EMBEDS and (address := _address(attributes.get("src", ""))):
            self._parts.append(f" {address} ")

    def end(self, tag: str) -> None:
        if tag in _INVISIBLE:
            self._hidden = max(0, self._hidden - 1)
            return
        if self._hidden:
            return
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        elif tag == "a" and self._links:
            self._close_link(*self._links.pop())
        if tag in _BLOCKS and tag != "br":
            self._parts.append(_PARAGRAPH if tag in _PARAGRAPHS else _BLOCK)

    def data(self, text: str) -> None:
        if self._hidden:
            return
        if not (self._keep_newlines or self._preformatted):
            text = text.replace("\n", " ")
        self._parts.append(text)

    def close(self) -> str:
        text = _SPACE.sub(" ", "".join(self._parts))
        text = _BREAKS.sub(lambda found: "\n\n" if _PARAGRAPH in found[0] else "\n", text)
        text = re.sub(r" ?\n ?", "\n", text)
        return re.sub(r"\n{3,}", "\n\n", text).strip()

    def _close_link(self, href: str, start: int) -> None:
        address = _address(href)
        text = "".join(self._parts[start:]).strip()
        if not address or _bare(text) == _bare(address):
            if address:
                self._parts[start:] = [address]
        else:
            self._parts.append(f" ({address})" if text else address)


def _address(href: str) -> str:
    """A link's target where it leads off the page; "#top" and "javascript:" say nothing about a comment."""
    href = href.strip()
    return "" if href.startswith("#") or re.match(r"(?:javascript|data|about):", href, re.IGNORECASE) else href


def _bare(address: str) -> str:
    return _SCHEME.sub("", address).rstrip("/").casefold()
