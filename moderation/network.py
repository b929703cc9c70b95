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


class Tokens(NamedTuple):
    """The tokens of texts: unit vectors (..., T, d) and their numbers in the vocabulary (..., T), -1 where there is none."""

    vectors: Tensor
    ids: Tensor


class Thread(NamedTuple):
    """Encoded inputs of B comments; d is the encoder's width, S the largest number of segments, K of surface features.

    Shapes: comment (B, d); parent (B, d), zeros where there is none; segments (B, S, d), the title first;
    segment_mask (B, S), false where there is no segment; surface (B, K); comment_tokens and parent_tokens (B, T, d);
    article_tokens (B, J, d): those of the title and of the closest sentences, one after the other; article_places (B, J)
    says of each whose it is: 0 the title, 1 the closest sentence, up to `CLOSEST`.
    """

    comment: Tensor
    parent: Tensor
    segments: Tensor
    segment_mask: Tensor
    surface: Tensor
    comment_tokens: Tokens
    parent_tokens: Tokens
    article_tokens: Tokens
    article_places: Tensor


class Measured(NamedTuple):
    """What a head goes by: the comment (B, d), surface features (B, K), similarities (B, N_SIMILARITIES) scaled to a few
    units, the nearness (B,) of the comment to what it stands under, and whether there is anything to be near to (B,), 0 or 1."""

    comment: Tensor
    surface: Tensor
    similarities: Tensor
    near: Tensor
    comparable: Tensor


class Table:
    """Encoded texts by number, from which threads are laid out for the head; the last row stands for "no text".

    Args:
        pooled: (N, d) unit vectors. tokens: (M, d) unit vectors of all their tokens, text after text, perhaps in half precision.
        ids: (M,) vocabulary numbers of the tokens. lengths: (N,) tokens of each text.
    """

    def __init__(self, pooled: Tensor, tokens: Tensor, ids: Tensor, lengths: Tensor) -> None:
        self.pooled = torch.cat([pooled, pooled.new_zeros(1, pooled.shape[1])])
        self.tokens = torch.cat([tokens, tokens.new_zeros(1, tokens.shape[1])])
        self.ids = torch.cat([ids, ids.new_full((1,), -1)])
        self.lengths = torch.cat([lengths, lengths.new_zeros(1)])
        self.starts = self.lengths.cumsum(0) - self.lengths

    def thread(self, comment: Tensor, parent: Tensor, segments: Tensor, surface: Tensor) -> Thread:
        """The head's input for rows of the table: comment and parent (B,), segments (B, S); -1 is "no text"."""
        return self.around(self.pooled[comment], self._tokens(comment), parent, segments, surface)

    def around(self, vectors: Tensor, tokens: Tokens, parent: Tensor, segments: Tensor, surface: Tensor) -> Thread:
        """As `thread`, for comments that are not in the table: unit vectors (B, d) and tokens."""
        mask = segments >= 0
        sentences = self._of(self.pooled, segments)
        with torch.no_grad():  # which sentences are closest is a choice, not a quantity
            near = torch.einsum("bd,bsd->bs", vectors, sentences).masked_fill(~mask, -2.0)
            near[:, :1] = -2.0
            closest = near.topk(min(CLOSEST, near.shape[1]), dim=1)
            chosen = segments.gather(1, closest.indices).masked_fill(closest.values < -1.5, -1)
            chosen = torch.cat([segments[:, :1], chosen], 1)
        return Thread(vectors, self.pooled[parent], sentences, mask, surface, tokens, self._tokens(parent), *self._part(chosen))

    def _tokens(self, texts: Tensor) -> Tokens:
        """Tokens (B, T) of one text each, (B,)."""
        return self._row(texts[:, None])[0]

    def _row(self, texts: Tensor) -> tuple[Tokens, Tensor]:
        """The tokens of several texts each, (B, n), one text after the other: padded once, not once a text. And whose
        each is: (B, J), from 0; meaningless where there is no token."""
        lengths = self.lengths[texts]
        ends = lengths.cumsum(1)
        place = torch.arange(max(1, int(ends[:, -1].max()) if len(ends) else 1), device=texts.device).expand(len(texts), -1)
        whose = torch.searchsorted(ends, place.contiguous(), right=True).clamp(max=texts.shape[1] - 1)
        index = place + (self.starts[texts] - ends + lengths).gather(1, whose)
        index = torch.where(place < ends[:, -1:], index, len(self.ids) - 1)
        return Tokens(self.comparable(self._of(self.tokens, index)), self._of(self.ids, index)), whose

    def _part(self, texts: Tensor) -> tuple[Tokens, Tensor]:
        """As `_row`; what is to be converted is converted once a text, however many comments it meets."""
        if self.tokens.dtype == self.pooled.dtype:
            return self._row(texts)
        used, again = torch.unique(torch.where(texts < 0, len(self.lengths) - 1, texts), return_inverse=True)
        lengths = self.lengths[used]
        ends = lengths.cumsum(0)
        rows = torch.arange(int(ends[-1]), device=used.device) + (self.starts[used] - ends + lengths).repeat_interleave(lengths)
        tokens = self.comparable(self.tokens.index_select(0, rows))
        return Table(self.pooled[used], tokens, self.ids[rows], lengths)._row(again)

    def comparable(self, tokens: Tensor) -> Tensor:
        """Vectors of tokens in the precision in which they are compared, that of `pooled`."""
        # Not in bfloat16, quick as it is: PyTorch keeps a compiled product for each shape, a thousand in every thread.
        return tokens.to(self.pooled.dtype)

    @staticmethod
    def _of(values: Tensor, rows: Tensor) -> Tensor:
        """`values[rows]`, in a quarter of the time."""
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
        article, article_weight = thread.article_tokens, self._weight(thread.article_tokens)
        met = _meet(said, article)
        covered = met.amax(-1).clamp(min=-0.2) * known[:, None]  # of each token of the comment, by the article
        shown = met.amax(1).clamp(min=-0.2)  # of each token of the article, by the comment
        in_title, in_body = (article_weight * (thread.article_places == place) for place in (0, 1))
        title_shown = _mean(shown, in_title)
        body_shown = torch.where(in_body.sum(-1) > 0, _mean(shown, in_body), title_shown)
        answer = _meet(said, thread.parent_tokens)
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

    def _weight(self, tokens: Tokens) -> Tensor:
        return self.informativeness[tokens.ids.clamp(min=0)] * (tokens.ids >= 0)


def _meet(some: Tokens, others: Tokens) -> Tensor:
    """Cosines (B, I, J) of tokens (B, I) and (B, J); -1 where either is none."""
    if not (others.ids >= 0).any():
        return some.vectors.new_full((*some.ids.shape, others.ids.shape[1]), -1.0, dtype=torch.float32)
    met = (some.vectors @ others.vectors.transpose(1, 2)).float()
    return met.masked_fill_((others.ids < 0)[:, None], -1.0).masked_fill_((some.ids < 0)[:, :, None], -1.0)


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
