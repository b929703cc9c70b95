"""The head and the table that lays threads out for it, on vectors made for the purpose."""

import pytest
import torch
from torch.nn.functional import normalize

from moderation.network import CLOSEST, N_SIMILARITIES, Head, Table, chain, closest

WIDTH, SURFACE, VOCABULARY = 12, 4, 50


@pytest.fixture
def table():
    """Six texts of 3, 1, 9, 4, 0 and 5 tokens; text 4 has none (a comment of special tokens only)."""
    torch.manual_seed(0)
    lengths = torch.tensor([3, 1, 9, 4, 0, 5])
    total = int(lengths.sum())
    vectors = normalize(torch.randn(6, WIDTH), dim=-1), normalize(torch.randn(total, WIDTH), dim=-1)
    return Table(*vectors, torch.randint(0, VOCABULARY, (total,)), lengths)


@pytest.fixture
def head():
    torch.manual_seed(1)
    head = Head(WIDTH, SURFACE, VOCABULARY).eval()
    torch.nn.init.normal_(head.trend.weight)
    return head


def judge(head, table, comment, parent, segments):
    longest = max(map(len, segments))
    grid = torch.tensor([row + [-1] * (longest - len(row)) for row in segments])
    surface = torch.full((len(comment), SURFACE), 0.5)
    with torch.no_grad():
        return head(table.thread(torch.tensor(comment), torch.tensor(parent), grid, surface))


def test_a_comment_is_judged_the_same_alone_and_beside_longer_neighbours(head, table):
    rows = [(0, -1, [1]), (2, 3, [1, 0, 5, 3, 2]), (3, -1, []), (1, 2, []), (4, 0, [5])]
    together, _ = judge(head, table, *map(list, zip(*rows, strict=True)))
    for number, (comment, parent, segments) in enumerate(rows):
        alone, _ = judge(head, table, [comment], [parent], [segments or [-1]])
        assert torch.allclose(alone[0], together[number], atol=1e-5)


def test_whatever_is_missing_the_answer_is_a_probability(head, table):
    logits, _ = judge(head, table, [4, 0, 4], [-1, -1, 4], [[-1], [-1], [4, 4]])
    assert torch.isfinite(logits).all()
    assert torch.allclose(chain(logits.double()).exp().sum(-1), torch.ones(3, dtype=torch.double))


def test_the_title_and_the_closest_sentences_meet_the_comment_token_by_token(table):
    comment, segments = 2, [5, 0, 1, 3, 4]
    thread = table.thread(torch.tensor([comment]), torch.tensor([-1]), torch.tensor([segments]), torch.zeros(1, SURFACE))
    similarity = table.pooled[segments[1:]] @ table.pooled[comment]
    expected = [5, *(segments[1 + place] for place in similarity.topk(CLOSEST).indices)]
    passages = thread.passages
    there = passages.ids[0] >= 0
    assert passages.rows.shape == passages.places.shape == passages.ids.shape
    for place, text in enumerate(expected):
        start, length = int(table.starts[text]), int(table.lengths[text])
        own = there & (passages.places[0] == place)
        assert passages.ids[0][own].tolist() == table.ids[start : start + length].tolist()
        assert torch.equal(passages.vectors[passages.rows[0][own]], table.tokens[start : start + length])
    assert len(expected) == 1 + CLOSEST and there.sum() == sum(int(table.lengths[text]) for text in expected)


def test_the_same_sentences_are_closest_however_many_texts_there_are():
    random = torch.Generator().manual_seed(3)
    pooled = normalize(torch.randn(9, 16, generator=random), dim=-1)
    comments = normalize(torch.randn(5, 16, generator=random), dim=-1)
    segments = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 8, -1, -1, -1], [-1] * 6, [8, 5, 1, 0, 2, -1], [0, 4, 3, 2, 1, 8]])
    many = torch.cat([pooled, comments[:1].expand(100, 16)])  # the nearest of all, but nobody's
    few = closest(comments, pooled, segments)
    assert torch.equal(few, closest(comments, many, segments))
    assert few[1].tolist()[0] == 6 and set(few[1].tolist()[1:]) == {7, 8, -1} and set(few[2].tolist()) == {-1}


def test_tokens_kept_in_half_precision_are_compared_in_full_and_judged_alike(head, table):
    half = Table(table.pooled[:-1], table.tokens.half(), table.ids, table.lengths[:-1])
    rows = [0, 2, 3, 4], [-1, 3, 1, 0], [[1, 5, 3, 2], [1, 0, 5, 4], [4, 4, -1, -1], [5, -1, -1, -1]]
    (exact, ranked), (near, ranked_too) = judge(head, table, *rows), judge(head, half, *rows)
    assert torch.equal(ranked, ranked_too) and torch.allclose(exact, near, atol=0.01)
    thread = half.thread(torch.tensor([0]), torch.tensor([-1]), torch.tensor([[5, 3, 2]]), torch.zeros(1, SURFACE))
    assert thread.passages.meet(thread.comment_tokens).dtype == thread.comment.dtype == torch.float32


def test_a_comment_meets_its_own_context_and_no_other(table):
    rows = torch.tensor([0, 2, 3]), torch.tensor([-1, 3, -1]), torch.tensor([[1, 5, 3], [1, 5, 0], [4, -1, -1]])
    thread = table.thread(*rows, torch.zeros(3, SURFACE))
    met = thread.passages.meet(thread.comment_tokens)
    assert met.shape == (*thread.comment_tokens.ids.shape, *thread.passages.rows.shape[1:])
    start = lambda text: int(table.starts[text])
    assert torch.isclose(met[1, 0, 0], table.tokens[start(2)] @ table.tokens[start(1)], atol=1e-6)
    assert (met[2] == -1).all() and (met[0, 3:] == -1).all()  # no context; no token of the comment
    assert (thread.parent_tokens.meet(thread.comment_tokens)[[0, 2]] == -1).all()


def test_a_name_that_comment_and_article_share_brings_them_nearer():
    """The pooled vectors are equally far; only a token of the comment recurs in the title."""
    same, other = torch.eye(WIDTH)[0], torch.eye(WIDTH)[1:5]
    pooled = normalize(torch.ones(3, WIDTH), dim=-1)
    tokens = torch.stack([same, other[0], same, other[1], other[2], other[3]])
    table = Table(pooled, tokens, torch.arange(6), torch.tensor([2, 2, 2]))
    head = Head(WIDTH, SURFACE, VOCABULARY)
    thread = table.thread(torch.tensor([0, 0]), torch.tensor([-1, -1]), torch.tensor([[1], [2]]), torch.zeros(2, SURFACE))
    similarities, _, nearness = head._compare(thread)
    assert similarities.shape == (2, N_SIMILARITIES) and nearness[0] == nearness[1]
    covered = similarities[:, 5]
    assert covered[0] > covered[1]
    head.informativeness[0] = 9.0  # the shared token is the rare one
    assert head._compare(thread)[0][0, 5] > covered[0]


def test_a_parent_vouches_for_its_answer_only_as_far_as_it_is_near_the_article():
    axes = torch.eye(WIDTH)
    comment = normalize(axes[0] + 0.1 * axes[1], dim=0)
    pooled = torch.stack(
        [comment, axes[0], axes[5], normalize(axes[0] + axes[5], dim=0)]
    )  # comment, stray parent, article, near parent
    table = Table(pooled, pooled, torch.arange(4), torch.ones(4, dtype=torch.long))
    thread = table.thread(torch.tensor([0, 0]), torch.tensor([1, 3]), torch.tensor([[2], [2]]), torch.zeros(2, SURFACE))
    nearness = Head(WIDTH, SURFACE, VOCABULARY)._compare(thread)[2]
    assert nearness[1] > nearness[0] + 0.3
