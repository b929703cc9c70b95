"""Text of strangers to HTML. Nothing else in the desk makes HTML out of what it did not write itself.

Every function returns `markupsafe.Markup`; every piece of text in it went through `markupsafe.escape`. Markup that comes out
of here may be nested in more of it with `join` and `tag`; anything else that is nested is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

#: Elements that fetch, run, link or take input are not among them.
_NAMES = frozenset(
    re.findall(
        r"\w+",
        "abbr article aside b blockquote code dd details div dl dt em figure figcaption h2 h3 h4 header kbd li mark ol p pre s section "
        "small span strong summary table tbody td th thead time tr ul",
    )
)
_VOID = frozenset(["br", "hr"])


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element: `tag("p", text, class_="note")`. Content and values of attributes are escaped unless they are Markup.

    Attributes are written as Python allows (`class_`, `aria_label`); None and False leave one out, True gives it no value.
    Elements and attributes that could fetch or run something do not exist here.
    """
    if name not in _NAMES | _VOID:
        raise ValueError(f"no element {name!r} is made here")
    parts = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if not (key in ("class", "dir", "lang", "title", "id", "role", "hidden", "open", "tabindex", "style", "colspan", "scope")
                or key.startswith(("aria-", "data-"))):  # fmt: skip
            raise ValueError(f"no attribute {key!r} is made here")
        if value is None or value is False:
            continue
        parts.append(Markup(" ") + key if value is True else Markup(' {}="{}"').format(Markup(key), str(value)))
    opening = Markup("<{}{}>").format(Markup(name), Markup("").join(parts))
    return opening if name in _VOID else opening + join(content) + Markup("</{}>").format(Markup(name))


def join(pieces: Iterable[object]) -> Markup:
    """Pieces one after the other; what is not Markup is escaped."""
    return Markup("").join(piece if isinstance(piece, Markup) else escape(str(piece)) for piece in pieces)


def text(value: object) -> Markup:
    """Any text as HTML that shows exactly this text."""
    return escape(str(value))
