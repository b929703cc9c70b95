"""Fit the head alone, on vectors of a frozen encoder: every text is encoded once, then an epoch takes seconds.

It runs before the adapter is trained, so that a random head does not first destroy the encoder's sense of similarity
(Kumar et al. 2022, arXiv:2202.10054), and once more after it, on the vectors of the adapted encoder.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from moderation.model import COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS, Encoded, Encoder
from moderation.network import Head, Table, Thread, chain
from moderation.text import MAX_SENTENCES, view
from training.examples import Example

BATCH = 256


class Vectors:
    """All texts of the examples encoded, with the numbers of the texts that each example needs.

    Attributes:
        table: the encoded texts. comment, parent: (N,) rows of it; parent is -1 where there is none.
        segments: (N, S) rows, -1 where there is no segment. surface: (N, K).
    """

    def __init__(self, examples: Sequence[Example], encoder: Encoder) -> None:
        texts: dict[tuple[str, int], int] = {}

        def number(text: str, limit: int) -> int:
            return texts.setdefault((text, limit), len(texts)) if text else -1

        views = [view(example.comment) for example in examples]
        self.comment = torch.tensor([texts.setdefault((seen.comment, COMMENT_TOKENS), len(texts)) for seen in views])
        self.parent = torch.tensor([number(seen.parent, PARENT_TOKENS) for seen in views])
        self.segments = torch.full((len(views), MAX_SENTENCES + 1), -1)
        for row, seen in enumerate(views):
            for column, segment in enumerate(seen.segments):
                self.segments[row, column] = number(segment, SEGMENT_TOKENS)
        self.surface = torch.tensor([seen.surface for seen in views])
        encoded: list[Encoded] = [None] * len(texts)  # type: ignore[list-item]
        for limit in (COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS):
            chosen = [(text, place) for (text, cap), place in texts.items() if cap == limit]
            for start in range(0, len(chosen), 4000):
                part = chosen[start : start + 4000]
                for (_, place), text in zip(part, encoder.encode_tokens([text for text, _ in part], limit), strict=True):
                    encoded[place] = text
        self.table = Table(
            torch.from_numpy(np.stack([text.vector for text in encoded])),
            torch.from_numpy(np.concatenate([text.tokens for text in encoded])),
            torch.from_numpy(np.concatenate([text.ids for text in encoded])),
            torch.tensor([len(text.ids) for text in encoded]),
        )

    def only(self, rows: Sequence[int] | np.ndarray) -> Vectors:
        """The same for some of the examples; the table is shared."""
        part = copy.copy(self)
        chosen = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        for name in ("comment", "parent", "segments", "surface"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def thread(self, comment, parent, segments, surface) -> Thread:
        """The head's input for rows of the table."""
        return self.table.thread(comment, parent, segments, surface)

    def informativeness(self, vocabulary: int) -> torch.Tensor:
        """Inverse document frequency (V,) of every token over the texts (Spärck Jones 1972), at most that of two texts."""
        texts = torch.repeat_interleave(torch.arange(len(self.table.lengths)), self.table.lengths)
        pairs = torch.unique(torch.stack([texts, self.table.ids[:-1]]), dim=1)
        frequency = torch.bincount(pairs[1], minlength=vocabulary)[:vocabulary].clamp(min=2)
        return torch.log((len(self.table.lengths) + 1) / frequency.float())


def fit_head(
    head: Head,
    vectors: Vectors,
    examples: Sequence[Example],
    epochs: int,
    rate: float,
    moved_weight: float,
    title_only: float,
    strangers: float,
    seed: int,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> None:
    """Fit `head` in place, on the CPU.

    In each batch every movable comment is also shown in another thread, mostly of the same source (so that neither style
    nor platform gives the label away), as off-topic with `moved_weight`; a share `title_only` of the rows loses the article's
    sentences, and a share `strangers` of spam and low-effort rows stands under another article.
    """
    answers = torch.tensor([[-1.0 if answer is None else float(answer) for answer in example.answers] for example in examples])
    weight = torch.tensor([example.weight for example in examples])
    movable = np.array([example.movable for example in examples])
    articles = [example.comment.article for example in examples]
    by_source: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        by_source[example.source].append(index)
    anywhere = np.flatnonzero((vectors.segments >= 0).any(1).numpy())
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    size = min(BATCH, max(16, len(examples) // 16))  # a small set still needs its steps
    steps = epochs * max(1, len(examples) // size)
    optimizer = torch.optim.AdamW([part for part in head.parameters() if part.requires_grad], lr=rate, weight_decay=0.01)
    # A warm-up of exactly one step would divide by zero in there.
    warm = max(0.1, 1.5 / (steps + 1))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=warm)
    head.train()
    order = np.concatenate([draw.permutation(len(examples)) for _ in range(epochs)])
    for step in range(steps):
        rows = order[step * size : (step + 1) * size]
        movers = rows[movable[rows]]
        others = np.array(
            [
                draw.choice(by_source[examples[index].source])
                if draw.random() < 0.7 or not len(anywhere)
                else draw.choice(anywhere)
                for index in movers
            ],
            dtype=int,
        )
        kept = np.array(
            [articles[a] != articles[b] or not articles[a].title for a, b in zip(movers, others, strict=True)], dtype=bool
        )
        movers, others = movers[kept], others[kept]
        own, here, there = torch.from_numpy(rows), torch.from_numpy(movers), torch.from_numpy(others)
        # What answers a comment is moved under another comment, what stands under an article under another article.
        talk = (vectors.segments[here] < 0).all(1) if len(movers) else torch.zeros(0, dtype=torch.bool)
        comment = torch.cat([vectors.comment[own], vectors.comment[here]])
        parent = torch.cat([vectors.parent[own], torch.where(talk, vectors.parent[there], -1)])
        segments = torch.cat([vectors.segments[own], torch.where(talk[:, None], -1, vectors.segments[there])])
        asked = torch.cat([answers[own], torch.tensor([[0.0, 0.0, 1.0]]).expand(len(movers), 3)])
        weights = torch.cat([weight[own], weight[here] * moved_weight])
        settled = (asked[:, 0] == 1) | (asked[:, 1] == 1) | (asked[:, 2] < 0)
        if len(anywhere):
            elsewhere = settled & (torch.rand(len(settled)) < strangers)
            segments = torch.where(elsewhere[:, None], vectors.segments[draw.choice(anywhere, len(settled))], segments)
        bare = (torch.rand(len(segments)) < title_only) & (segments[:, 0] >= 0)
        segments = torch.where(bare[:, None] & (torch.arange(segments.shape[1]) > 0), -1, segments)
        surface = torch.cat([vectors.surface[own], vectors.surface[here]])
        surface[:, -2] = (segments[:, 1:] >= 0).any(1).float()
        surface[:, -1] = (parent >= 0).float()
        logits, _ = head(vectors.thread(comment, parent, segments, surface))
        factor = (asked >= 0) * weights[:, None]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, asked.clamp(min=0), reduction="none")
        loss = (entropy * factor).sum() / factor.sum().clamp(min=1.0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report(step + 1, steps, float(loss.detach()))


def answer(head: Head, vectors: Vectors) -> np.ndarray:
    """Uncalibrated log-probabilities (N, 4) of a head for every example."""
    head.eval()
    parts = [np.zeros((0, 4))]
    with torch.inference_mode():
        for start in range(0, len(vectors.comment), BATCH):
            part = vectors.only(np.arange(start, min(start + BATCH, len(vectors.comment))))
            logits, _ = head(part.thread(part.comment, part.parent, part.segments, part.surface))
            parts.append(chain(logits.double()).numpy())
    return np.concatenate(parts)
