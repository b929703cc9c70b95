"""How texts are packed: every one once, as cheaply as can be, and the same after as before."""

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moderation.batching import LAYOUT, LAYOUT_TOKENS, PASS, Batch, Encoded, plan, regrouped, room


def test_batches_hold_every_text_once_within_budget_and_hardly_padded():
    random = np.random.default_rng(0)
    lengths = np.minimum(128, random.lognormal(3, 0.8, 2000).astype(int) + 3).tolist()
    batches = plan(lengths, 1024)
    assert sorted(index for batch in batches for index in batch) == list(range(2000))
    cells = [len(batch) * max(lengths[index] for index in batch) for batch in batches]
    assert max(cells) <= 1024 and 1 - sum(lengths) / sum(cells) < 0.05
    assert plan([5000], 1024) == [[0]] and plan([], 1024) == []


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(40, 120))
def test_no_division_of_the_lengths_is_cheaper(lengths, budget):
    def cost(groups):
        passes = [-(-len(group) // (budget // group[-1])) for group in groups]
        return sum(len(group) * group[-1] + PASS * count for group, count in zip(groups, passes, strict=True))

    ordered = sorted(lengths)
    cuts = [place for place in range(1, len(ordered)) if ordered[place - 1] < ordered[place]]
    cheapest = math.inf
    for count in range(len(cuts) + 1):
        for chosen in itertools.combinations(cuts, count):
            edges = [0, *chosen, len(ordered)]
            cheapest = min(cheapest, cost([ordered[a:b] for a, b in itertools.pairwise(edges)]))
    batches = plan(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    paid = sum(len(batch) * max(lengths[index] for index in batch) + PASS for batch in batches)
    assert paid <= cheapest


def text(number, tokens):
    """A text told by its vector, with so many tokens."""
    vector = np.array([number, 0], dtype=np.float32)
    return Encoded(vector, np.full((tokens, 2), number, dtype=np.float16), np.arange(tokens) + number)


def test_small_batches_are_joined_and_each_text_stays_what_it_was():
    sizes = [200, 40, 20, LAYOUT + 5, 1, 2]
    numbers = iter(range(1000))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    batches = [(group, Batch.of([text(number, number % 7) for number in group])) for group in groups]
    joined = list(regrouped(batches))
    assert [len(chosen) for chosen, _ in joined] == [240, 20, LAYOUT + 5, 3]
    assert [number for chosen, _ in joined for number in chosen] == list(range(sum(sizes)))
    for chosen, batch in joined:
        for number, found in zip(chosen, batch.texts(), strict=True):
            expected = text(number, number % 7)
            assert all((here == there).all() and here.shape == there.shape for here, there in zip(found, expected, strict=True))
    assert list(regrouped([])) == []


def test_what_is_laid_out_at_a_time_is_bounded_by_texts_and_by_tokens():
    long = LAYOUT_TOKENS // 3
    batches = [([number], Batch.of([text(number, long)])) for number in range(7)]
    assert [chosen for chosen, _ in regrouped(batches)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [room(tokens) for tokens in (0, 1, long, 10 * LAYOUT_TOKENS)] == [LAYOUT, LAYOUT, 3, 1]
