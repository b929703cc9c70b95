"""The network: one text encoder used for every text of a thread, and a small head that compares them.

It knows tensors, not comments: `moderation.text` decides what is encoded, `moderation.model` moves the data.

Each text (a comment, its parent, the title, every sentence of the article) is encoded by itself, so an article is encoded
once a thread. A text becomes one unit vector (mean pooling over tokens; Reimers & Gurevych 2019, arXiv:1908.10084) and the
unit vectors of its tokens. The pooled vectors find the article's sentences that come closest to the comment; with these,
the title and the parent the tokens interact late (MaxSim; Khattab & Zaharia 2020, arXiv:2004.12832), so that a name in the
comment can meet the same name in the article. Three yes/no heads follow the guideline's order of questions (spam?
low-effort? off-topic?) and are chained into four probabilities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Article sentences whose tokens meet the comment's, besides the title: those that come closest.
CLOSEST = 3
#: Comments that meet their context at a time, on a processor.
SLICE = 4


class Tokens(NamedTuple):
    """The tokens of texts: unit vectors (..., T, d) and their numbers in the vocabulary (..., T), -1 where there is none."""

    vectors: Tensor
    ids: Tensor


class Context(NamedTuple):
    """The tokens of what each of B comments stands under, kept once however many share it: unit vectors (M, d) of all, perhaps in
    half precision, and their numbers (M,) in the vocabulary; for every comment the rows (B, J) of its own, text after text, -1
    where there is none, and of each which of its texts that is, (B, J)."""

    vectors: Tensor
    numbers: Tensor
    rows: Tensor
    places: Tensor

    @property
    def ids(self) -> Tensor:
        """Numbers in the vocabulary (B, J), -1 where there is none."""
        return torch.where(self.rows < 0, -1, _select(self.numbers, self.rows))

    def meet(self, some: Tokens) -> Tensor:
        """Cosines (B, T, J) of tokens (B, T) with each comment's own context; -1 where either is none."""
        longest = (self.rows >= 0).sum(1).tolist()
        if not any(longest):
            return some.vectors.new_full((*some.ids.shape, self.rows.shape[1]), -1.0)
        # A few comments at a time: what is laid out for them then stays in a core's cache. In the precision of the comments, but not
        # in bfloat16, quick as it is: PyTorch keeps a compiled product for each shape, a thousand in every thread.
        size = SLICE if some.vectors.device.type == "cpu" else len(longest)
        whole = some.vectors.new_full((*some.ids.shape, self.rows.shape[1]), -1.0)
        for start in range(0, len(longest), size):
            few = slice(start, start + size)
            width = max(1, *longest[few])
            others = _select(self.vectors, self.rows[few, :width]).to(some.vectors.dtype)
            whole[few, :, :width] = some.vectors[few] @ others.transpose(1, 2)
        return whole.float().masked_fill_((self.rows < 0)[:, None], -1.0).masked_fill_((some.ids < 0)[:, :, None], -1.0)


class Thread(NamedTuple):
    """Encoded inputs of B comments; d is the encoder's width, S the largest number of segments, K of surface features.

    Shapes: comment (B, d); parent (B, d), zeros where there is none; segments (B, S, d), the title first;
    segment_mask (B, S), false where there is no segment; surface (B, K); comment_tokens (B, T, d).
    In `passages` a comment's texts are 0, the title, 1, the closest sentence, up to `CLOSEST`.
    """

    comment: Tensor
    parent: Tensor
    segments: Tensor
    segment_mask: Tensor
    surface: Tensor
    comment_tokens: Tokens
    parent_tokens: Context
    passages: Context


class Measured(NamedTuple):
    """What a head goes by: the comment (B, d), surface features (B, K), similarities (B, N_SIMILARITIES) scaled to a few
    units, the nearness (B,) of the comment to what it stands under, and whether there is anything to be near to (B,), 0 or 1."""

    comment: Tensor
    surface: Tensor
    similarities: Tensor
    near: Tensor
    comparable: Tensor


class Table:
    """Encoded texts by number, from which threads are laid out for the head; -1 stands for "no text".

    Args:
        pooled: (N, d) unit vectors. tokens: (M, d) unit vectors of their tokens, text after text, perhaps in half precision.
        ids: (M,) vocabulary numbers of the tokens. lengths: (N,) tokens of each text.
    """

    def __init__(self, pooled: Tensor, tokens: Tensor, ids: Tensor, lengths: Tensor) -> None:
        self.pooled = torch.cat([pooled, pooled.new_zeros(1, pooled.shape[1])])
        self.tokens = tokens if len(tokens) else tokens.new_zeros(1, pooled.shape[1])
        self.ids = ids if len(ids) else ids.new_full((1,), -1)
        self.lengths = torch.cat([lengths, lengths.new_zeros(1)])
        self.starts = self.lengths.cumsum(0) - self.lengths

    def thread(self, comment: Tensor, parent: Tensor, segments: Tensor, surface: Tensor) -> Thread:
        """The head's input for rows of the table: comment and parent (B,), segments (B, S); -1 is "no text"."""
        vectors = _select(self.pooled, comment)
        chosen = closest(vectors, self.pooled, segments)
        return self.around(vectors, self._tokens(comment), parent, segments, surface, chosen)

    def around(
        self, vectors: Tensor, tokens: Tokens, parent: Tensor, segments: Tensor, surface: Tensor, chosen: Tensor
    ) -> Thread:
        """As `thread`, for comments that are not in the table: unit vectors (B, d), tokens, and what `closest` chose for them;
        of the texts that neither it nor `parent` names, the table needs no tokens."""
        sentences, beside = _select(self.pooled, segments), _select(self.pooled, parent)
        parents, passages = self._context(parent[:, None]), self._context(chosen)
        return Thread(vectors, beside, sentences, segments >= 0, surface, tokens, parents, passages)

    def _tokens(self, texts: Tensor) -> Tokens:
        """Tokens (B, T) of one text each, (B,)."""
        rows = self._context(texts[:, None])
        return Tokens(_select(self.tokens, rows.rows).to(self.pooled.dtype), rows.ids)

    def _context(self, texts: Tensor) -> Context:
        """The tokens of several texts each, (B, n): padded once, not once a text."""
        lengths = self.lengths[texts]
        ends = lengths.cumsum(1)
        place = torch.arange(max(1, int(ends[:, -1].max()) if len(ends) else 1), device=texts.device).expand(len(texts), -1)
        whose = torch.searchsorted(ends, place.contiguous(), right=True).clamp(max=texts.shape[1] - 1)
        rows = place + (self.starts[texts] - ends + lengths).gather(1, whose)
        return Context(self.tokens, self.ids, torch.where(place < ends[:, -1:], rows, -1), whose)


def closest(comments: Tensor, pooled: Tensor, segments: Tensor) -> Tensor:
    """The rows of `pooled` whose tokens meet a comment's, (B, 1 + `CLOSEST`): the title's and those of the sentences that come
    closest, -1 where there are fewer.

    Args:
        comments: (B, d) unit vectors. pooled: (N, d). segments: (B, S) rows of it, the title first, -1 where there is none.
    """
    with torch.no_grad():  # a choice, not a quantity
        if len(pooled) < 4 * segments.shape[1]:  # comments on few articles: one product with all of them
            near = (comments @ pooled.T).gather(1, segments.clamp(min=0))
        else:
            near = torch.einsum("bd,bsd->bs", comments, _select(pooled, segments))
        near.masked_fill_(segments < 0, -2.0)
        near[:, :1] = -2.0
        best = near.topk(min(CLOSEST, near.shape[1]), dim=1)
        return torch.cat([segments[:, :1], segments.gather(1, best.indices).masked_fill(best.values < -1.5, -1)], 1)


def _select(values: Tensor, rows: Tensor) -> Tensor:
    """`values[rows]`, in a quarter of the time; -1 is the last row."""
    rows = torch.where(rows < 0, len(values) - 1, rows)
    return values.index_select(0, rows.flatten()).view(*rows.shape, *values.shape[1:])


#: What `Head` measures between a comment and its context; see `Head._compare`.
N_SIMILARITIES = 19


class Head(nn.Module):
    """Compares a comment with its context and answers the guideline's three questions."""

    def __init__(self, width: int, n_surface: int, vocabulary: int, hidden: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        # How much a token says, by its number in the vocabulary: its inverse document frequency in the training texts.
        self.register_buffer("informativeness", torch.ones(vocabulary))
        style = width + n_surface + N_SIMILARITIES
        self.spam = _mlp(style, 2 * hidden, dropout)
        self.low_effort = _mlp(style, 2 * hidden, dropout)
        # Relevance sees similarities and a narrow view of the comment: given whole vectors, it learns the training topics.
        self.manner = nn.Linear(width, 16, bias=False)
        self.off_topic = _mlp(16 + n_surface + N_SIMILARITIES, hidden, dropout)
        self.trend = nn.Linear(n_surface + N_SIMILARITIES, 1)
        nn.init.zeros_(self.trend.weight)
        # What is near neither the article nor the parent is off-topic: the zero-shot rule, which the rest then corrects.
        self.nearness = nn.Parameter(torch.tensor([8.0, 2.5]))

    def relevance(self) -> list[nn.Parameter]:
        """The parameters that answer the off-topic question alone."""
        return [*self.manner.parameters(), *self.off_topic.parameters(), *self.trend.parameters(), self.nearness]

    def forget_relevance(self) -> None:
        """Start the off-topic question anew: fresh weights, and the zero-shot rule as the first guess."""
        for layer in (self.manner, *self.off_topic):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        with torch.no_grad():
            self.trend.weight.zero_()
            self.trend.bias.zero_()
            self.nearness.copy_(torch.tensor([8.0, 2.5]))

    def forward(self, thread: Thread) -> tuple[Tensor, Tensor]:
        """Logits (B, 3) of spam, low-effort and off-topic, and similarities (B, S) of comment and segments."""
        measured, ranked = self.measure(thread)
        return self.judge(measured), ranked

    def measure(self, thread: Thread) -> tuple[Measured, Tensor]:
        """What `judge` goes by, and similarities (B, S) of comment and segments. Costly, and nothing in it is learned here:
        under a frozen encoder it is worked out once for all heads with the same `informativeness`."""
        similarities, ranked, near = self._compare(thread)
        comparable = (thread.segment_mask.any(-1) | (thread.parent != 0).any(-1)).float()
        return Measured(thread.comment, thread.surface, similarities, near, comparable), ranked

    def judge(self, seen: Measured) -> Tensor:
        """Logits (B, 3) of spam, low-effort and off-topic."""
        style = torch.cat([seen.comment, seen.surface, seen.similarities], dim=-1)
        measured = torch.cat([seen.surface, seen.similarities], dim=-1)
        far = (self.nearness[1] - self.nearness[0] * seen.near) * seen.comparable
        off_topic = (
            self.off_topic(torch.cat([self.manner(seen.comment), measured], dim=-1)) + self.trend(measured) + far[:, None]
        )
        return torch.cat([self.spam(style), self.low_effort(style), off_topic], dim=-1)

    def _compare(self, thread: Thread) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities (B, N_SIMILARITIES), scaled to a few units, those of the segments (B, S), and the nearness (B,)."""
        mask = thread.segment_mask
        known = mask.any(-1).float()
        replies = (thread.parent != 0).any(-1).float()
        similarity = torch.einsum("bd,bsd->bs", thread.comment, thread.segments)
        ranked = similarity.masked_fill(~mask, -1.0)
        nearest = ranked.amax(-1).clamp(min=-0.2) * known
        mean = (similarity * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        title = similarity[:, 0] * mask[:, 0]
        to_parent = (thread.comment * thread.parent).sum(-1)
        between = torch.einsum("bd,bsd->bs", thread.parent, thread.segments).masked_fill(~mask, -1.0).amax(-1) * known * replies

        said, weight = thread.comment_tokens, self._weight(thread.comment_tokens)
        passages, passage_weight = thread.passages, self._weight(thread.passages)
        met = passages.meet(said)
        covered = met.amax(-1).clamp(min=-0.2) * known[:, None]  # of each token of the comment, by the article
        shown = met.amax(1).clamp(min=-0.2)  # of each token of the article, by the comment
        in_title, in_body = (passage_weight * (passages.places == place) for place in (0, 1))
        title_shown = _mean(shown, in_title)
        body_shown = torch.where(in_body.sum(-1) > 0, _mean(shown, in_body), title_shown)
        answer = thread.parent_tokens.meet(said)
        parent_weight = self._weight(thread.parent_tokens)
        present = (said.ids >= 0).float()
        count = present.sum(-1)
        order = covered.masked_fill(said.ids < 0, 2.0).sort(-1).values  # padding last
        quarter = (count / 4).clamp(min=1)[:, None]
        place = torch.arange(order.shape[1], device=order.device)
        lowest = _mean(order, ((place < quarter) & (order < 1.5)).float())
        highest = _mean(order, ((place >= count[:, None] - quarter) & (order < 1.5)).float())
        alien = _mean(torch.sigmoid((0.45 - covered) / 0.05), weight) * known
        cosines = torch.stack(
            [
                nearest,
                mean,
                title,
                to_parent,
                between,
                _mean(covered, weight),
                _mean(covered, present),
                highest,
                lowest,
                title_shown * known,
                body_shown * known,
                _mean(answer.amax(2).clamp(min=-0.2), weight) * replies,
                _mean(answer.amax(1).clamp(min=-0.2), parent_weight) * replies,
                torch.maximum(_mean(covered, weight), _mean(answer.amax(2).clamp(min=-0.2), weight) * replies),
            ],
            dim=-1,
        )
        others = torch.stack([alien, weight.sum(-1).log1p() / 3, nearest - mean, known, replies], dim=-1)
        # A parent vouches for its answer as far as it is itself near the article.
        vouched = to_parent * torch.where(known > 0, (2 * between).clamp(0, 1), 1.0)
        return torch.cat([4 * (cosines - 0.4), others], dim=-1), ranked, torch.maximum(nearest, vouched)

    def _weight(self, tokens: Tokens | Context) -> Tensor:
        ids = tokens.ids
        return self.informativeness[ids.clamp(min=0)] * (ids >= 0)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the last axis; 0 where nothing has weight."""
    return (values * weight).sum(-1) / weight.sum(-1).clamp(min=1e-6)


def _mlp(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1))


def chain(logits: Tensor) -> Tensor:
    """Log-probabilities (B, 4) in the order of `schema.LABELS` from the three logits (B, 3).

    The first yes decides, as in the guideline: P(low-effort) = P(not spam) · P(low-effort | not spam), and so on.
    """
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    spam, low_effort, off_topic = yes.unbind(-1)
    not_spam, not_low, not_off = no.unbind(-1)
    return torch.stack([not_spam + not_low + not_off, not_spam + not_low + off_topic, spam, not_spam + low_effort], dim=-1)


def pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Unit vectors (N, d): the mean of the token vectors (N, T, d) where `attention_mask` (N, T) is 1."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-6), dim=-1)
