"""Tokenising by the word: most of what people write is the same words again.

For BERT's tokenizer (WordPiece over words in lower case) a text in printable ASCII is what its words are, one after the other,
so each word's pieces are asked of the tokenizer once and looked up from then on, in a fifth of the time. Any other text, and
any other tokenizer, goes through the tokenizer as a whole. The tokens are the same either way.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Words that are remembered, some 20 MB; then it begins anew.
WORDS = 1 << 16
#: What BERT takes for a word in ASCII: letters and digits together, any other character by itself.
_WORD = re.compile(r"[a-z0-9]+|[^ a-z0-9]")


class WordPieces:
    """Token numbers of texts by one tokenizer; several threads may use it at once."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Args:
        tokenizer: taken over as it is, without padding or truncation. max_tokens: of a text, the special ones included; what
            is beyond is cut off, the last special one kept.
        """
        self._words = type(tokenizer).from_str(tokenizer.to_str())
        self._words.no_truncation()
        self._whole = type(tokenizer).from_str(tokenizer.to_str())
        self._whole.enable_truncation(max_tokens)
        self._limit = max_tokens
        self._known: dict[str, Sequence[int]] = {}
        facts = json.loads(tokenizer.to_str())
        self._added = [token["content"] for token in facts["added_tokens"]]  # found in the middle of words as well
        around = self._words.encode("a").ids
        self._around = around[:1], around[2:]
        self._by_word = (
            facts["model"]["type"] == "WordPiece"
            and facts["pre_tokenizer"] == {"type": "BertPreTokenizer"}
            and (facts["normalizer"] or {}).get("type") == "BertNormalizer"
            and facts["normalizer"]["lowercase"]
            and all(token["special"] for token in facts["added_tokens"])
            and len(around) == 3
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text with the special ones around them."""
        texts = list(texts)
        found: list[list[int] | None] = [None] * len(texts)
        split = [(place, _WORD.findall(text.lower())) for place, text in enumerate(texts) if self._is_simple(text)]
        known = self._known
        if new := {word for _, words in split for word in words}.difference(known):
            if len(known) + len(new) > WORDS:
                self._known = known = {}  # others may go on with the old one
                new = {word for _, words in split for word in words}
            words = list(new)
            encoded = self._words.encode_batch_fast(words, add_special_tokens=False)
            known.update((word, tuple(pieces.ids)) for word, pieces in zip(words, encoded, strict=True))
        first, last = self._around
        for place, words in split:
            ids = [*first, *itertools.chain.from_iterable(map(known.__getitem__, words)), *last]
            if len(ids) <= self._limit:
                found[place] = ids
        others = [place for place, ids in enumerate(found) if ids is None]
        for place, encoding in zip(others, self._whole.encode_batch_fast([texts[place] for place in others]), strict=True):
            found[place] = encoding.ids
        return found  # type: ignore[return-value]

    def _is_simple(self, text: str) -> bool:
        return self._by_word and text.isascii() and text.isprintable() and not any(token in text for token in self._added)
