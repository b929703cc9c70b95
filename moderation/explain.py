"""What to show a moderator of a comment: the words that spoke for a label, what is hidden in the text, which way it runs.

Attribution is occlusion (Zeiler & Fergus 2014, arXiv:1311.2901; for words, Li, Monroe & Jurafsky 2016, arXiv:1612.08220):
leave words out and look how far the label falls. The words are left out of the text itself rather than of a tensor, as a
library would, because half of what the model reads (links, contacts, capitals) is counted in the text.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moderation.schema import LABELS, Comment
from moderation.text import COMMENT_HEAD, COMMENT_TAIL, HIDDEN, LOOKALIKES, WORD, links, unmask

if TYPE_CHECKING:
    from moderation.model import Moderator

#: A comment is divided into at most this many pieces: single words if it is short, else phrases of equal length.
PIECES = 32
# Spans below this weight, and below this share of the strongest one's, are left out: they are the model's noise.
_LEAST, _LEAST_SHARE = 0.05, 0.2
#: A probability's log-odds are bounded by this probability's; beyond, the calibration says nothing any more.
_CERTAIN = 1 - 1e-5

_BIDI_MARKS = frozenset("\u061c\u200e\u200f")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = frozenset("\u200c\u200d")
# Letters without ink, which the Unicode standard calls no format characters: Hangul fillers, the empty Braille cell.
_BLANKS = frozenset("\u3164\uffa0\u2800")
# Mathematical, circled and full-width letters; superscripts and fractions are how people write.
_STYLED = re.compile("[\U0001d400-\U0001d7ff\u24b6-\u24e9\uff21-\uff3a\uff41-\uff5a]")
_TOKEN = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` of a comment; without these words the label's log-odds fall by `weight` (natural log, above 0)."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text as it was written.

    Attributes:
        kind: "" for plain text; "hidden": a character without width; "bidi": one that turns the direction of reading;
            "lookalike": letters of another script that pass for Latin ones; "styled": letters dressed up as symbols.
        meaning: for "lookalike" and "styled" what a reader takes it for; for the invisible ones their Unicode name.
    """

    text: str
    kind: str = ""
    meaning: str = ""


def attribute(moderator: Moderator, comment: Comment, label: str) -> list[Span]:
    """The words that spoke for `label`, in the order of the text; [] where none did.

    Every piece of the comment is left out by itself and together with its neighbours (so that two links do not cover for
    each other); its weight is the mean of both falls in log-odds, the second one shared by the pieces left out. Of a very
    long comment only what the model reads, the beginning and the end, is looked at. Takes one batch of at most 2 * `PIECES`
    predictions.

    Args:
        label: one of `LABELS`, not necessarily the most probable one.
    """
    text = comment.text
    head, tail = 2 * COMMENT_HEAD, 2 * COMMENT_TAIL
    cut = [(0, len(text))] if len(text) <= 2 * (head + tail) else [(0, head), (len(text) - tail, len(text))]
    pieces = _pieces(text, cut)
    if not pieces:
        return []

    def without(first: int, last: int) -> Comment:
        """The comment without the pieces first..last."""
        start, end = pieces[first][0], pieces[last][1]
        kept = [text[low : min(high, start)] + text[max(low, end) : high] for low, high in cut]
        return dataclasses.replace(comment, text="\n".join(kept))

    count = len(pieces)
    windows = [(place, place) for place in range(count)]
    around = [(max(0, place - 1), min(count - 1, place + 1)) for place in range(count)] if count > 2 else []
    whole = dataclasses.replace(comment, text="\n".join(text[low:high] for low, high in cut))
    variants = [whole, *(without(first, last) for first, last in [*windows, *around])]
    probability = moderator.predict_proba(variants)[:, LABELS.index(label)].clip(1 - _CERTAIN, _CERTAIN)
    odds = np.log(probability / (1 - probability))
    fall = odds[0] - odds[1:]
    weights = fall[:count]
    if around:
        share = fall[count:] / [last - first + 1 for first, last in around]
        weights = (weights + share) / 2
    least = max(_LEAST, _LEAST_SHARE * float(weights.max()))
    spans: list[Span] = []
    for (start, end), weight in zip(pieces, weights.tolist(), strict=True):
        if weight < least:
            continue
        last = spans[-1] if spans else None
        if last is not None and not text[last.end : start].strip():
            spans[-1] = Span(last.start, end, max(last.weight, weight))
        else:
            spans.append(Span(start, end, weight))
    return spans


def reveal(text: str) -> list[Piece]:
    """The text in pieces, those marked that hide something; joined together the pieces are the text.

    What writing needs is not marked: joiners in Persian or Hindi words and in emoji, direction marks in right-to-left text.
    """
    if text.isascii():
        return [Piece(text)] if text else []
    pieces: list[Piece] = []
    latin = sum(letter.isascii() and letter.isalpha() for letter in text)
    mostly_latin = 2 * latin > sum(map(str.isalpha, text))
    marks: dict[int, Piece] = {}
    # Words are looked for where nothing invisible splits them: what stays of the text, and where each letter of it stood.
    seen = [place for place, letter in enumerate(text) if not HIDDEN.match(letter)]
    for found in WORD.finditer("".join(text[place] for place in seen)):
        word = found[0]
        if word.isascii():
            continue
        likely = unmask(word)
        if likely == word and mostly_latin and len(word) > 2 and all(ord(letter) in LOOKALIKES for letter in word):
            likely = word.translate(LOOKALIKES)
        for offset, (letter, like) in enumerate(zip(word, likely, strict=True)):
            if letter != like:
                marks[seen[found.start() + offset]] = Piece(letter, "lookalike", like)
    has_rtl = any(letter.isalpha() and unicodedata.bidirectional(letter) in ("R", "AL") for letter in text)
    for place, letter in enumerate(text):
        mark = marks.get(place) or _mark(text, place, letter, has_rtl)
        if not mark.kind and pieces and not pieces[-1].kind:
            pieces[-1] = Piece(pieces[-1].text + letter)
        elif mark.kind in ("lookalike", "styled") and pieces and pieces[-1].kind == mark.kind:
            pieces[-1] = Piece(pieces[-1].text + letter, mark.kind, pieces[-1].meaning + mark.meaning)
        else:
            pieces.append(mark)
    return pieces


def direction(text: str) -> str:
    """ "rtl" when most letters of a text, links aside, belong to a script that runs from right to left, else "ltr"."""
    for link in links(text[:20_000]):
        text = text.replace(link, " ", 1)
    kinds = [unicodedata.bidirectional(letter) for letter in text[:20_000] if letter.isalpha()]
    return "rtl" if kinds.count("R") + kinds.count("AL") > kinds.count("L") else "ltr"


def _pieces(text: str, cut: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most `PIECES` stretches of whole words; a word as long as a phrase is a piece of its own."""
    words = [(low + found.start(), low + found.end()) for low, high in cut for found in _TOKEN.finditer(text[low:high])]
    if len(words) <= PIECES:
        return words
    each = -(-len(words) // PIECES)
    groups = [words[start : start + each] for start in range(0, len(words), each)]
    return [(group[0][0], group[-1][1]) for group in groups]


def _mark(text: str, place: int, letter: str, has_rtl: bool) -> Piece:
    if letter.isascii():
        return Piece(letter)
    if letter in _BIDI or (letter in _BIDI_MARKS and not has_rtl):
        return Piece(letter, "bidi", _name(letter))
    if letter in _BIDI_MARKS:
        return Piece(letter)
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if letter in _JOINERS and _joins(before) and _joins(after):
        return Piece(letter)
    if "\ufe00" <= letter <= "\ufe0f" and before and not before.isspace() and not before.isalpha():
        return Piece(letter)  # chooses the picture of the emoji or sign before it
    if _is_tag(letter) and _flag_before(text, place):
        return Piece(letter)
    if (
        HIDDEN.match(letter)
        or letter in _BLANKS
        or (unicodedata.category(letter) == "Cf" and not "\u0600" <= letter <= "\u08ff")
    ):
        return Piece(letter, "hidden", _name(letter))
    if _STYLED.match(letter):
        plain = unicodedata.normalize("NFKC", letter)
        return Piece(letter, "styled", plain) if plain.isalpha() else Piece(letter)
    return Piece(letter)


def _is_tag(letter: str) -> bool:
    return "\U000e0020" <= letter <= "\U000e007f"


def _flag_before(text: str, place: int) -> bool:
    """Whether tag characters end here that began behind a black flag: how the flags of England, Scotland and Wales are written."""
    start = place
    while start > 0 and place - start < 8 and _is_tag(text[start]):
        start -= 1
    return text[start] == "\U0001f3f4"


def _joins(letter: str) -> bool:
    """Whether a joiner beside this letter is ordinary spelling: scripts that join (Arabic to Sinhala), emoji."""
    if not letter:
        return False
    return "\u0600" <= letter <= "\u0dff" or letter == "\ufe0f" or unicodedata.category(letter) in ("So", "Sk")


def _name(letter: str) -> str:
    return unicodedata.name(letter, f"U+{ord(letter):04X}").lower()
