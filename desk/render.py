"""Text of strangers to HTML. Nothing else in the desk makes HTML out of what it did not write itself.

Every function returns `markupsafe.Markup`; every piece of text in it went through `markupsafe.escape`. Markup that comes out
of here may be nested in more of it with `join` and `tag`; anything else that is nested is escaped.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable

from markupsafe import Markup, escape

from moderation.explain import Piece, Span, direction, reveal
from moderation.text import links

#: Characters of a stranger's text that are shown at most.
SHOWN = 20_000

#: Elements that fetch, run, link or take input are not among them.
_NAMES = frozenset(
    re.findall(
        r"\w+",
        "abbr article aside b blockquote code dd details div dl dt em figure figcaption h2 h3 h4 header kbd li mark ol p pre s section "
        "small span strong summary table tbody td th thead time tr ul",
    )
)
_VOID = frozenset(["br", "hr"])
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element: `tag("p", text, class_="note")`. Content and values of attributes are escaped unless they are Markup.

    Attributes are written as Python allows (`class_`, `aria_label`); None and False leave one out, True gives it no value.
    Elements and attributes that could fetch or run something do not exist here.
    """
    if name not in _NAMES and name not in _VOID:
        raise ValueError(f"no element {name!r} is made here")
    parts = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if not (key in ("class", "dir", "lang", "title", "id", "role", "hidden", "open", "tabindex", "style", "colspan", "scope")
                or key.startswith(("aria-", "data-"))):  # fmt: skip
            raise ValueError(f"no attribute {key!r} is made here")
        if value is None or value is False:
            continue
        parts.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    opening = f"<{name}{''.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(content)}</{name}>")


def join(pieces: Iterable[object]) -> Markup:
    """Pieces one after the other; what is not Markup is escaped."""
    return Markup("".join([str.__str__(piece if isinstance(piece, Markup) else escape(str(piece))) for piece in pieces]))


def text(value: object) -> Markup:
    """Any text as HTML that shows exactly this text."""
    return escape(str(value))


def revealed(value: str, spans: Iterable[Span] = (), links_too: bool = True, most: int = SHOWN) -> Markup:
    """A stranger's text with what it hides made visible, its links marked (and dead), and the words that spoke for a label.

    Characters that turn the direction of reading or have no width are not put into the page: a sign stands in their place.

    Args:
        spans: see `moderation.explain.attribute`; stronger ones are tinted more.
        most: characters shown; of a longer text the rest is counted.
    """
    shown, rest = value[:most], max(0, len(value) - most)
    spans = [span for span in spans if span.start < len(shown)]
    strongest = max((span.weight for span in spans), default=1.0)
    inside = _links(shown) if links_too else []
    cuts = {0, len(shown), *(place for pair in inside for place in pair)}
    cuts.update(min(place, len(shown)) for span in spans for place in (span.start, span.end))
    out: list[Markup] = []
    position = 0
    for piece in reveal(shown):
        end = position + len(piece.text)
        steps = sorted({position, end, *(cut for cut in cuts if position < cut < end)}) if not piece.kind else [position, end]
        for start, stop in itertools.pairwise(steps):
            html = _marked(shown[start:stop], piece)
            if any(low <= start < high for low, high in inside):
                html = tag("span", html, class_="link")
            weight = max((span.weight for span in spans if span.start <= start < span.end), default=0.0)
            if weight:
                html = tag("mark", html, class_=f"why why-{1 + min(2, int(3 * weight / strongest))}")
            out.append(html)
        position = end
    if rest:
        out.append(tag("span", f" … {rest:,} more characters", class_="more"))
    return join(out)


def block(value: str, name: str = "p", class_: str = "", spans: Iterable[Span] = (), most: int = SHOWN) -> Markup:
    """An element with a stranger's text in it, running in the direction of its script and kept apart from what is around."""
    return tag(name, revealed(value, spans, most=most), class_=f"strange {class_}".strip(), dir=direction(value))


def name(value: str, otherwise: str = "") -> Markup:
    """A stranger's name or title within a line."""
    value = " ".join(value.split())
    return (
        tag("span", revealed(value, links_too=False, most=200), class_="strange", dir=direction(value))
        if value
        else text(otherwise)
    )


def hidden_kinds(value: str) -> list[str]:
    """What a text hides, for a line beneath it: "2 invisible characters", "look-alike letters (read: paypal)"."""
    pieces = reveal(value[:SHOWN])
    found = Counter(piece.kind for piece in pieces if piece.kind)
    said = []
    if count := found["hidden"]:
        said.append(f"{count:,} invisible character{'s' * (count > 1)}")
    if count := found["bidi"]:
        said.append(f"{count:,} sign{'s' * (count > 1)} turning the direction of reading")
    for kind, what in (("lookalike", "letters of another script that look Latin"), ("styled", "letters dressed up as symbols")):
        if found[kind]:
            letters = " ".join(dict.fromkeys(piece.meaning for piece in pieces if piece.kind == kind))
            said.append(f"{what} (read as: {letters[:40]})")
    return said


def _marked(value: str, piece: Piece) -> Markup:
    if piece.kind == "hidden":
        return tag("abbr", "·", class_="hid", title=f"invisible: {piece.meaning}")
    if piece.kind == "bidi":
        return tag("abbr", "⇄", class_="hid", title=f"turns the direction of reading: {piece.meaning}")
    if piece.kind:
        return tag("abbr", value, class_="alike", title=f"reads as {piece.meaning}")
    return text(_CONTROL.sub("\ufffd", value))


def _links(value: str) -> list[tuple[int, int]]:
    places, position = [], 0
    for link in links(value):
        start = value.find(link, position)
        position = start + len(link)
        places.append((start, position))
    return places
