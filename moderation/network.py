"""The network: one text encoder used for every text of a thread, and a small head that compares them.

It knows tensors, not comments: `moderation.text` decides what is encoded, `moderation.model` moves the data.

Each text (a comment, its parent, the title, every sentence of the article) is encoded by itself to one unit vector
(mean pooling over tokens; Reimers & Gurevych 2019, arXiv:1908.10084). The comment then attends to the article's
segments, so the sentence that comes closest both drives the decision and can be shown as its evidence. Three yes/no
heads follow the guideline's order of questions (spam? low-effort? off-topic?) and are chained into four probabilities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Thread(NamedTuple):
    """Encoded inputs of B comments; d is the encoder's width, S the largest number of segments, K of surface features.

    Shapes: comment (B, d); parent (B, d), zeros where there is none; segments (B, S, d), the title first;
    segment_mask (B, S), false where there is no segment; surface (B, K).
    """

    comment: Tensor
    parent: Tensor
    segments: Tensor
    segment_mask: Tensor
    surface: Tensor


class Head(nn.Module):
    """Compares a comment with its context and answers the guideline's three questions."""

    def __init__(self, width: int, n_surface: int, hidden: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        # Residual projections, zero at first: training starts from the encoder's own sense of similarity.
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.key.weight)
        self.log_sharpness = nn.Parameter(torch.tensor(2.5))
        n_similarities = 5
        style = width + n_surface + n_similarities
        self.spam = _mlp(style, hidden // 2, dropout)
        self.low_effort = _mlp(style, hidden // 2, dropout)
        self.off_topic = _mlp(5 * width + n_surface + n_similarities, hidden, dropout)
        # What is near neither the article nor the parent is off-topic: the zero-shot rule, which the rest then corrects.
        self.nearness = nn.Parameter(torch.tensor([8.0, 2.5]))

    def forget_relevance(self) -> None:
        """Start the off-topic question anew: fresh weights, and the zero-shot rule as the first guess."""
        for layer in self.off_topic:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        with torch.no_grad():
            self.nearness.copy_(torch.tensor([8.0, 2.5]))

    def forward(self, thread: Thread) -> tuple[Tensor, Tensor]:
        """Logits (B, 3) of spam, low-effort and off-topic, and similarities (B, S) of comment and segments."""
        comment = F.normalize(thread.comment + self.query(thread.comment), dim=-1)
        keys = F.normalize(thread.segments + self.key(thread.segments), dim=-1)
        mask = thread.segment_mask
        similarity = torch.einsum("bd,bsd->bs", comment, keys)
        ranked = similarity.masked_fill(~mask, -1.0)
        weight = torch.softmax(ranked * self.log_sharpness.exp(), dim=-1) * mask
        context = torch.einsum("bs,bsd->bd", weight, keys)
        title = keys[:, 0] * mask[:, :1]
        parent = F.normalize(thread.parent + self.key(thread.parent), dim=-1)
        known = mask.any(-1).float()
        count = mask.sum(-1).clamp(min=1)
        nearest = ranked.amax(-1).clamp(min=-0.2) * known
        to_parent = (comment * parent).sum(-1)
        similarities = torch.stack(
            [nearest, (similarity * mask).sum(-1) / count, (comment * title).sum(-1), to_parent, known], dim=-1
        )
        style = torch.cat([thread.comment, thread.surface, similarities], dim=-1)
        relevance = torch.cat(
            [
                thread.comment,
                comment * context,
                (comment - context).abs() * known[:, None],
                comment * title,
                comment * parent,
                thread.surface,
                similarities,
            ],
            dim=-1,
        )
        comparable = torch.maximum(known, (thread.parent != 0).any(-1).float())
        near = torch.maximum(nearest, to_parent)
        far = (self.nearness[1] - self.nearness[0] * near) * comparable
        off_topic = self.off_topic(relevance) + far[:, None]
        logits = torch.cat([self.spam(style), self.low_effort(style), off_topic], dim=-1)
        return logits, ranked


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
