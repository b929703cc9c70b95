"""Tokenising by the word: most of what people write is the same words again.

For BERT's tokenizer (WordPiece over words in lower case) a text in printable ASCII is what its words are, one after the other,
so each word's pieces are asked of the tokenizer once and looked up from then on, in a fifth of the time. Any other text, and
any other tokenizer, goes through the tokenizer as a whole. The tokens are the same either way.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Words that are remembered, some 20 MB, and letters of the longest; with more it begins anew.
WORDS, LONGEST = 1 << 16, 64
#: What BERT takes for a word in ASCII: letters and digits together, any other character by itself.
_WORD = re.compile(r"[a-z0-9]+|[^ a-z0-9]")


class WordPieces:
    """Token numbers of texts by one tokenizer; several threads may use it at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Args:
        tokenizer: one that neither pads nor truncates; it is not to be changed any more.
        """
        self._tokenizer = tokenizer
        self._whole: dict[int, Tokenizer] = {}
        self._lock = threading.Lock()
        self._known: dict[str, Sequence[int]] = {}
        facts = json.loads(tokenizer.to_str())
        self._added = [token["content"] for token in facts["added_tokens"]]  # found in the middle of words as well
        around = tokenizer.encode("a").ids
        self._around = around[:1], around[2:]
        self._by_word = (
            facts["model"]["type"] == "WordPiece"
            and facts["pre_tokenizer"] == {"type": "BertPreTokenizer"}
            and (facts["normalizer"] or {}).get("type") == "BertNormalizer"
            and facts["normalizer"]["lowercase"]
            and all(token["special"] for token in facts["added_tokens"])
            and len(around) == 3
        )

    def ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """The tokens of each text with the special ones around them, `max_tokens` at most: what is beyond is cut off, the last
        special one kept."""
        found: list[list[int] | None] = [None] * len(texts)
        split = []
        for place, text in enumerate(texts):
            if self._by_word and text.isascii() and text.isprintable() and not any(token in text for token in self._added):
                words = _WORD.findall(text.lower())
                if len(max(words, key=len, default="")) <= LONGEST:
                    split.append((place, words))
        known = self._looked_up({word for _, words in split for word in words})
        first, last = self._around
        for place, words in split:
            ids = [*first, *itertools.chain.from_iterable(map(known.__getitem__, words)), *last]
            if len(ids) <= max_tokens:
                found[place] = ids
        others = [place for place, ids in enumerate(found) if ids is None]
        encodings = self._cut_at(max_tokens).encode_batch_fast([texts[place] for place in others])
        for place, encoding in zip(others, encodings, strict=True):
            found[place] = encoding.ids
        return found  # type: ignore[return-value]

    def _looked_up(self, words: set[str]) -> dict[str, Sequence[int]]:
        """The pieces of at least these words."""
        known = self._known
        if new := words.difference(known):
            if len(known) + len(new) > WORDS:
                self._known = known = {}  # others may go on with the old one
                new = words
            asked = list(new)
            encodings = self._tokenizer.encode_batch_fast(asked, add_special_tokens=False)
            known.update((word, tuple(encoding.ids)) for word, encoding in zip(asked, encodings, strict=True))
        return known

    def _cut_at(self, max_tokens: int) -> Tokenizer:
        with self._lock:
            if max_tokens not in self._whole:  # the limit is a state of the tokenizer's, so each limit has its own
                whole = type(self._tokenizer).from_str(self._tokenizer.to_str())
                whole.enable_truncation(max_tokens)
                self._whole[max_tokens] = whole
            return self._whole[max_tokens]
