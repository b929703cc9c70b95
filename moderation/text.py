"""What the model sees of a comment and its thread.

Training, scoring and evaluation all pass through `view`: it turns a `Comment` into the few strings and numbers that the
network reads. Changing what the model sees means changing this module and training again, and nothing else.

A comment becomes one folded text; the article becomes *segments*: the title and then its sentences, each encoded by
itself, so that an article is encoded once a thread and the nearest sentence can be shown as the evidence.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import string
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from moderation.schema import Article, Comment, clean_text

#: Version of this encoding; a model trained under another one refuses to load.
ENCODING = 2

#: An article contributes its title and at most this many sentences, taken from its beginning.
MAX_SENTENCES = 24
#: What lies behind so many characters of an article's text, or of its title, is not looked at.
MAX_ARTICLE_CHARS = 20_000
#: Of a long comment the model reads the beginning and the end (spam likes to hide there); in characters.
COMMENT_HEAD, COMMENT_TAIL = 1200, 300

#: Names of the columns of `View.surface`, in order.
SURFACE = (
    "log_words",
    "links",
    "contact",
    "digit_share",
    "upper_share",
    "symbol_share",
    "emoji_share",
    "exclamations",
    "questions",
    "foreign_share",
    "hidden_characters",
    "mixed_script_words",
    "repetition",
    "longest_run",
    "log_lines",
    "has_article_text",
    "has_parent",
)

#: Characters without width: what they hide between letters is folded away.
HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"')\]]+"
    r"|\b[a-z0-9](?:[a-z0-9-]{0,62}\.)+(?:com|net|org|info|biz|io|co|ru|cn|tk|xyz|me|tv|ly|uk|in|ng|ca|de|top|club|online|site|shop|example|win)\b(?:/[^\s<>\"')\]]*)?",
    re.IGNORECASE,
)
#: Finds something in every text that `_LINK` does, in a fifth of the time.
_LINK_HINT = re.compile(r"://|\.[a-z]|www\.", re.IGNORECASE)
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.\w+|(?:^|\s)@\w{3,}")
_NUMBER = re.compile(r"\+?\d[\d\s().-]{7,}\d")
_CALL = re.compile(
    r"\b(?:whats?\s?app|telegram|t\.me|wa\.me|skype|signal|inbox me|dm me|text me|call me|e-?mail)\b", re.IGNORECASE
)
#: One of these is in every text that `_CALL` finds something in, if it is in ASCII.
_CALLS = ("app", "telegram", ".me", "skype", "signal", " me", "mail")
#: A word as it is counted.
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ASCII = re.compile("[\x00-\x7f]+")
_CAPITALS, _DIGITS, _SPACES = (string.ascii_uppercase.encode(), string.digits.encode(), b"\t\n\v\f\r\x1c\x1d\x1e\x1f ")
_LETTERS = string.ascii_letters.encode()
#: Finds something in every text that `_RUN` does, in a fifth of the time.
_THRICE = re.compile(r"(.)\1\1", re.DOTALL)
_RUN = re.compile(r"([^\d\s])\1{2,}")
_SENTENCE_END = re.compile(r"(?<=[.!?…。؟।])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[^\sa-z])|\n+")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Sen|Rep|Gen|Col|Lt|Prof|vs|No|Inc|Jr|Sr)|\b[A-Z])\.$")

#: Letters of other scripts that look like Latin ones (Unicode TR 39, the confusables that spam uses). They are folded
#: only inside words that also hold Latin letters: a Russian word stays Russian.
LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝьвмткнАВЕКМНОРСТУХІЈЅαορνιτκеΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijshdqwbbmtkhABEKMHOPCTYXIJSaopvitkeABEZHIKMNOPTYX",
)


@dataclass(frozen=True, slots=True)
class View:
    """One comment as the network reads it.

    Attributes:
        comment: the folded comment text.
        parent: the folded text of the comment it answers, or "".
        segments: the title (first, may be "") and the sentences of the article; empty without an article.
        surface: one float for each name in `SURFACE`, roughly in 0..3.
    """

    comment: str
    parent: str
    segments: tuple[str, ...]
    surface: tuple[float, ...]


def view(comment: Comment) -> View:
    """The one encoding path: what the model is shown of `comment`."""
    parent = fold(comment.parent_text)
    return View(
        comment=fold(comment.text),
        parent=parent,
        segments=segments(comment.article),
        surface=surface(comment.text, bool(comment.article.text.strip()), bool(parent)),
    )


def fold(text: str) -> str:
    """Undo what hides words from a tokenizer, and cut a long text to its beginning and end.

    Unicode compatibility forms (NFKC), zero-width characters, look-alike letters inside Latin words, stretched letters
    and long link tails are folded; words, order and punctuation stay.
    """
    text = clean_text(text)
    if len(text) > 4 * (COMMENT_HEAD + COMMENT_TAIL):
        text = text[: 2 * COMMENT_HEAD] + "\n" + text[-2 * COMMENT_TAIL :]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", HIDDEN.sub("", text))
        text = WORD.sub(lambda word: unmask(word[0]), text)
    if _may_link(text):
        text = _LINK.sub(lambda link: _shorten_link(link[0]), text)
    if _THRICE.search(text):
        text = _RUN.sub(lambda run: run[1] * (3 if run[1] in ".!?" else 2), text)
    text = " ".join(text.split())
    if len(text) > COMMENT_HEAD + COMMENT_TAIL:
        text = text[:COMMENT_HEAD] + " … " + text[-COMMENT_TAIL:]
    return text


def unmask(word: str) -> str:
    """A word that mixes Latin letters with look-alikes, in Latin letters; any other as it is. The length stays."""
    if word.isascii() or not any(letter.isascii() and letter.isalpha() for letter in word):
        return word
    return word.translate(LOOKALIKES)


def _shorten_link(link: str) -> str:
    host, _, path = re.sub(r"^(?:https?://)?(?:www\.)?", "", link, flags=re.IGNORECASE).partition("/")
    return f"http {host} {path[:16]}".rstrip()


def segments(article: Article) -> tuple[str, ...]:
    """Title and sentences of an article, each short enough to be encoded by itself; () without an article.

    The first segment is always the title, even when it is empty.
    """
    # What is kept is what is read: a cache of whole articles could be of any size.
    return _segments(article.title[:MAX_ARTICLE_CHARS], article.text[:MAX_ARTICLE_CHARS])


@functools.lru_cache(maxsize=1024)
def _segments(title: str, text: str) -> tuple[str, ...]:
    title = fold(title)
    found = [folded for _, _, folded in itertools.islice(sentences(text), MAX_SENTENCES)]
    return (title, *found) if title or found else ()


def sentences(text: str) -> Iterator[tuple[int, int, str]]:
    """The sentences of an article's text as (start, end, what the model reads of it), of its first `MAX_ARTICLE_CHARS`.

    Those of fewer than four words are joined with the next.
    """
    text = text[:MAX_ARTICLE_CHARS]
    held, start = "", 0
    ends = [(found.start(), found.end()) for found in _SENTENCE_END.finditer(text)]
    begin = 0
    for end, following in [*ends, (len(text), len(text))]:
        piece = " ".join(text[begin:end].split())
        if piece:
            start = start if held else begin
            held = f"{held} {piece}" if held else piece
            last = end
            if len(held.split()) >= 4 and not _ABBREVIATION.search(held):
                yield start, end, fold(held)[:400]
                held = ""
        begin = following
    if held:
        yield start, last, fold(held)[:400]


def links(text: str) -> list[str]:
    """The links of a text as written, bare domains included."""
    return [found[0] for found in _LINK.finditer(text)] if _may_link(text) else []


def _may_link(text: str) -> bool:
    return ("." in text or "://" in text) and _LINK_HINT.search(text) is not None


def has_contact(text: str) -> bool:
    """Whether a text holds a phone number, an e-mail address, a handle or a call to write elsewhere."""
    # Most texts hold nothing of the kind, and a look for a word is a hundred times as quick as a pattern.
    if "@" in text and _ADDRESS.search(text):
        return True
    if _NUMBER.search(text):
        return True
    lower = text.lower()
    return (not text.isascii() or any(call in lower for call in _CALLS)) and _CALL.search(text) is not None


class _Counts(NamedTuple):
    letters: int
    capitals: int
    digits: int
    symbols: int
    emoji: int
    foreign: int


def _count(text: str) -> _Counts:
    """Characters of a text by their kind. In ASCII they are counted by what is left when they are deleted, which is quick."""
    plain = text.encode("ascii", "ignore")
    left = lambda kind: len(plain.translate(None, kind))
    letters, digits, spaces = (len(plain) - left(kind) for kind in (_LETTERS, _DIGITS, _SPACES))
    capitals = len(plain) - left(_CAPITALS)
    symbols = len(plain) - letters - digits - spaces
    if len(plain) == len(text):
        return _Counts(letters, capitals, digits, symbols, 0, 0)
    rest = _ASCII.sub("", text)
    alphabetic = [letter for letter in rest if letter.isalpha()]
    return _Counts(
        letters + len(alphabetic),
        capitals + sum(map(str.isupper, rest)),
        digits + sum(map(str.isdigit, rest)),
        symbols + sum(not letter.isalnum() and not letter.isspace() for letter in rest),
        sum(unicodedata.category(letter) in ("So", "Sk") for letter in rest) + len(plain) - left(b"^`"),
        sum(ord(letter) > 0x24F for letter in alphabetic),
    )


def surface(text: str, has_article_text: bool = False, has_parent: bool = False) -> tuple[float, ...]:
    """Countable features that an encoder's subwords blur; values in the order of `SURFACE`."""
    text = text[:20_000]
    ascii = text.isascii()
    words = WORD.findall(text.lower() if ascii else text)  # what else has case may change its length with it
    counts = _count(text)
    letters = counts.letters or 1
    length = len(text) or 1
    distinct = len(set(words if ascii else map(str.lower, words)))
    run = max((len(found[0]) for found in _RUN.finditer(text)), default=0) if _THRICE.search(text) else 0
    return (
        math.log1p(len(words)) / 2,
        min(len(links(text)), 3) / 1.0,
        float(has_contact(text)),
        3 * counts.digits / length,
        2 * counts.capitals / letters,
        3 * counts.symbols / length,
        2 * counts.emoji / length,
        min(text.count("!"), 6) / 3,
        min(text.count("?"), 3) / 2,
        2 * counts.foreign / letters,
        min(len(HIDDEN.findall(text)), 6) / 3 if not ascii else 0.0,
        min(sum(unmask(word) != word for word in words), 3) / 1.5 if not ascii else 0.0,
        3 * (1 - distinct / len(words)) if words else 0.0,
        math.log1p(run) / 2,
        math.log1p(text.count("\n")) / 2,
        float(has_article_text),
        float(has_parent),
    )


#: Words that make up English and that no other language has much of.
_PLAIN = """
the and that this they you your what with have would because there which should about was were is are of for it not just
from their when can like who how been has had i my he she we if
"""
_ENGLISH = frozenset(_PLAIN.split())
_LOADING = threading.Lock()


@functools.cache
def _identifier():  # -> py3langid.langid.LanguageIdentifier; loaded at first use, it takes a moment
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.nb_ptc = identifier.nb_ptc.astype("float32")  # else it does so with some rows for each text
    return identifier


def detect_language(text: str) -> str:
    """ISO 639-1 code of a text by py3langid (Lui & Baldwin 2012), or "" when the text is too short to be sure.

    Short comments ("Excellent", "lol") defeat every identifier, so a code is given only for 20 letters or more at
    a probability of 0.9 or more, links aside; two letters of a script that English never uses are enough. ASCII text of which
    every sixth word is one of `_ENGLISH`, and not always the same, is plainly English, which saves asking.
    """
    text = text[:5000]
    if text.isascii():
        words = text.lower().split()
        plain = _ENGLISH.intersection(words)
        if len(plain) > 1 and 6 * sum(map(_ENGLISH.__contains__, words)) >= len(words):
            return "en"
    if _may_link(text):
        text = _LINK.sub(" ", text)
    counts = _count(text)
    letters, foreign = counts.letters, counts.foreign
    if letters < 20 and not (foreign >= 2 and foreign > letters / 2):
        return ""
    with _LOADING:  # once, however many threads ask first
        identifier = _identifier()
    language, probability = identifier.classify(" ".join(text.split()))
    if probability >= 0.9 or foreign > letters / 2:
        return language
    return ""
