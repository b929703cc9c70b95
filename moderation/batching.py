"""How texts are packed: what an encoded text is, which texts share a pass of the encoder, and which a pass of the head.

Packing decides speed and nothing else: whatever the division, each text gets the same vectors, within rounding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

#: What a pass of the encoder costs besides its tokens, in tokens.
PASS = 12
#: Comments that are laid out for the head at a time, and their tokens with padding: some megabytes with those of their context.
LAYOUT, LAYOUT_TOKENS = 256, 4096


class Encoded(NamedTuple):
    """One encoded text: its unit vector (d,) float32, unit vectors (T, d) float16 of its tokens, their numbers (T,)."""

    vector: np.ndarray
    tokens: np.ndarray
    ids: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self)


class Batch(NamedTuple):
    """The texts of one pass: unit vectors (B, d) float32, unit vectors (B, T, d) of their tokens, and their numbers (B, T), -1
    where there is none (padding, what the tokenizer adds)."""

    vectors: np.ndarray
    tokens: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Encoded]) -> Batch:
        """Texts that were encoded one by one, laid out together."""
        ids = np.full((len(texts), max(1, max(len(text.ids) for text in texts))), -1)
        tokens = np.zeros((*ids.shape, texts[0].vector.shape[0]), dtype=np.float16)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
            tokens[row, : len(text.ids)] = text.tokens
        return cls(np.stack([text.vector for text in texts]), tokens, ids)

    def text(self, row: int) -> Encoded:
        """One text by itself. A copy: a view would keep the arrays of the whole batch alive."""
        plain = self.ids[row] >= 0
        return Encoded(self.vectors[row].copy(), self.tokens[row][plain].astype(np.float16, copy=False), self.ids[row][plain])

    def texts(self) -> Iterator[Encoded]:
        """Each text by itself."""
        return map(self.text, range(len(self.ids)))


def plan(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Batches of indices, shortest texts first: at most `budget` tokens with padding (or one text), with as little padding as is
    worth a pass of its own (`PASS`): the cheapest division of the lengths into ranges, by dynamic programming."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    counts = Counter(lengths)
    sizes = sorted(counts)
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the texts up to a size, and where the last range begins
    for end in range(1, len(sizes) + 1):
        size, texts = sizes[end - 1], 0
        found = (math.inf, 0)
        for start in range(end - 1, -1, -1):
            texts += counts[sizes[start]]
            passes = -(-texts // max(1, budget // max(1, size)))
            found = min(found, (best[start][0] + texts * size + PASS * passes, start))
        best.append(found)
    ranges = []
    end = len(sizes)
    while end:
        start = best[end][1]
        ranges.append((sizes[end - 1], sum(counts[size] for size in sizes[start:end])))
        end = start
    batches, at = [], 0
    for size, texts in reversed(ranges):
        most = max(1, budget // max(1, size))
        passes = -(-texts // most)
        for number in range(passes):  # of like size, lest the last be a small one
            stop = at + (texts * (number + 1)) // passes - (texts * number) // passes
            batches.append(order[at:stop])
            at = stop
    return batches


def room(longest: int) -> int:
    """How many texts of at most `longest` tokens are laid out for the head at a time."""
    return max(1, min(LAYOUT, LAYOUT_TOKENS // max(1, longest)))


def regrouped(batches: Iterable[tuple[list[int], Batch]]) -> Iterator[tuple[list[int], Batch]]:
    """Batches of the encoder's, neighbours joined while there is `room`: a group costs the head something whatever its size."""
    held: list[tuple[list[int], Batch]] = []
    texts = longest = 0
    for chosen, batch in batches:
        texts, longest = texts + len(chosen), max(longest, batch.ids.shape[1])
        if held and texts > room(longest):
            yield _joined(held)
            held, texts, longest = [], len(chosen), batch.ids.shape[1]
        held.append((chosen, batch))
    if held:
        yield _joined(held)


def _joined(batches: Sequence[tuple[list[int], Batch]]) -> tuple[list[int], Batch]:
    if len(batches) == 1:
        return batches[0]
    count, longest = sum(len(chosen) for chosen, _ in batches), max(batch.ids.shape[1] for _, batch in batches)
    width = batches[0][1].vectors.shape[1]
    whole = Batch(
        np.concatenate([batch.vectors for _, batch in batches]),
        np.zeros((count, longest, width), dtype=batches[0][1].tokens.dtype),
        np.full((count, longest), -1),
    )
    start = 0
    for chosen, batch in batches:
        part = slice(start, start + len(chosen)), slice(0, batch.ids.shape[1])
        whole.tokens[part], whole.ids[part] = batch.tokens, batch.ids
        start += len(chosen)
    return [index for chosen, _ in batches for index in chosen], whole
