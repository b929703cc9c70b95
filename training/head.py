"""Fit the head alone, on vectors of a frozen encoder: every text is encoded once, then an epoch takes seconds.

What a head measures between texts has no weights, so it is worked out once too (`Views`), and an epoch costs next to nothing.
It runs before the adapter is trained, so that a random head does not first destroy the encoder's sense of similarity
(Kumar et al. 2022, arXiv:2202.10054), and once more after it, on the vectors of the adapted encoder.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from moderation.batching import Encoded
from moderation.model import COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS, Encoder
from moderation.network import N_SIMILARITIES, Head, Measured, Table, chain
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
        self._plain: tuple[torch.Tensor, Measured] | None = None

    def only(self, rows: Sequence[int] | np.ndarray) -> Vectors:
        """The same for some of the examples; the table is shared."""
        part = copy.copy(self)
        chosen = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        for name in ("comment", "parent", "segments", "surface"):
            setattr(part, name, getattr(self, name)[chosen])
        if self._plain is not None:
            part._plain = self._plain[0], Measured(*(column[chosen] for column in self._plain[1]))
        return part

    def measure(self, head: Head, comment, parent, segments, surface) -> Measured:
        """What `head` goes by, for rows of the table (B,), (B,), (B, S) and surface features (B, K); without gradients.

        `Measured.comment` holds the rows of the table instead of the vectors, which many views share.
        """
        order = torch.argsort(self.table.lengths[comment])  # comments of like length together: little padding
        parts: list[Measured] = []
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                seen, _ = head.measure(self.table.thread(comment[rows], parent[rows], segments[rows], surface[rows]))
                parts.append(seen._replace(comment=comment[rows]))
        if not parts:
            nothing = torch.zeros(0)
            return Measured(comment, surface, torch.zeros(0, N_SIMILARITIES), nothing, nothing)
        back = torch.argsort(order)
        return Measured(*(torch.cat(column)[back].clone() for column in zip(*parts, strict=True)))

    def plain(self, head: Head) -> Measured:
        """What `head` goes by, for every example as it is; remembered for heads with the same `informativeness`."""
        if self._plain is None or not torch.equal(self._plain[0], head.informativeness):
            measured = self.measure(head, self.comment, self.parent, self.segments, self.surface)
            self._plain = head.informativeness.clone(), measured
        return self._plain[1]

    def judged(self, head: Head, measured: Measured) -> torch.Tensor:
        """The head's logits (B, 3) of what `measure` measured."""
        return head.judge(measured._replace(comment=self.table.pooled[measured.comment]))

    def informativeness(self, vocabulary: int) -> torch.Tensor:
        """Inverse document frequency (V,) of every token over the texts (Spärck Jones 1972), at most that of two texts."""
        texts = torch.repeat_interleave(torch.arange(len(self.table.lengths)), self.table.lengths)
        pairs = torch.unique(torch.stack([texts, self.table.ids]), dim=1)
        frequency = torch.bincount(pairs[1], minlength=vocabulary)[:vocabulary].clamp(min=2)
        return torch.log((len(self.table.lengths) + 1) / frequency.float())


class Views:
    """What a head is shown of the examples, round after round, measured once for all heads that are fitted on it.

    In each round every example appears as it is, or changed: a share `title_only` loses the article's sentences, and a share
    `strangers` of spam and low-effort rows stands under another article. Beside it every movable comment has a twin in another
    thread, mostly of the same source (so that neither style nor platform gives the label away), as off-topic with
    `moved_weight`.
    """

    def __init__(
        self,
        head: Head,
        vectors: Vectors,
        examples: Sequence[Example],
        rounds: int,
        moved_weight: float,
        title_only: float,
        strangers: float,
        seed: int,
    ) -> None:
        """`head` is one of the heads to be fitted: they share its `informativeness`."""
        self.vectors = vectors
        self.rounds = rounds
        count = len(examples)
        answers = torch.tensor([[-1.0 if answer is None else float(answer) for answer in one.answers] for one in examples])
        weight = torch.tensor([example.weight for example in examples])
        settled = (answers[:, 0] == 1) | (answers[:, 1] == 1) | (answers[:, 2] < 0)
        anywhere = np.flatnonzero((vectors.segments >= 0).any(1).numpy())
        draw = np.random.default_rng(seed)
        laid: list[tuple[torch.Tensor, ...]] = []
        self.own = torch.arange(rounds * count).reshape(rounds, count)  # (R, N) numbers of views
        self.twin = torch.full((rounds, count), -1)  # (R, N) numbers of views, -1 where a comment has no twin in that round
        twins, made = [], rounds * count
        for number in range(rounds):
            segments = vectors.segments
            if len(anywhere):
                elsewhere = settled & torch.from_numpy(draw.random(count) < strangers)
                segments = torch.where(elsewhere[:, None], vectors.segments[draw.choice(anywhere, count)], segments)
            laid.append(self._lay(vectors.comment, vectors.parent, segments, vectors.surface, title_only, draw))
            here, there = self._partners(examples, anywhere, draw)
            # What answers a comment is moved under another comment, what stands under an article under another article.
            talk = (vectors.segments[here] < 0).all(1)
            parent = torch.where(talk, vectors.parent[there], -1)
            segments = torch.where(talk[:, None], -1, vectors.segments[there])
            twins.append(self._lay(vectors.comment[here], parent, segments, vectors.surface[here], title_only, draw))
            self.twin[number, here] = torch.arange(made, made + len(here))
            made += len(here)
            weight = torch.cat([weight, weight[:count][here] * moved_weight])
        moved = made - rounds * count
        self.answers = torch.cat([answers.repeat(rounds, 1), torch.tensor([[0.0, 0.0, 1.0]]).expand(moved, 3)])
        self.weight = torch.cat([weight[:count].repeat(rounds), weight[count:]])
        self.measured = vectors.measure(head, *(torch.cat(column) for column in zip(*laid, *twins, strict=True)))

    def _lay(self, comment, parent, segments, surface, title_only: float, draw: np.random.Generator):
        """Rows for `Vectors.measure`; a share `title_only` loses the sentences."""
        bare = torch.from_numpy(draw.random(len(segments)) < title_only) & (segments[:, 0] >= 0)
        segments = torch.where(bare[:, None] & (torch.arange(segments.shape[1]) > 0), -1, segments)
        surface = surface.clone()
        surface[:, -2] = (segments[:, 1:] >= 0).any(1).float()
        surface[:, -1] = (parent >= 0).float()
        return comment, parent, segments, surface

    @staticmethod
    def _partners(examples: Sequence[Example], anywhere: np.ndarray, draw: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """Movable examples, and for each one whose thread it is shown in."""
        by_source: dict[str, list[int]] = defaultdict(list)
        for index, example in enumerate(examples):
            by_source[example.source].append(index)
        here, there = [], []
        for index, example in enumerate(examples):
            if example.movable:
                near = draw.random() < 0.7 or not len(anywhere)
                other = int(draw.choice(by_source[example.source] if near else anywhere))
                if example.comment.article != examples[other].comment.article or not example.comment.article.title:
                    here.append(index)
                    there.append(other)
        return torch.tensor(here, dtype=torch.int64), torch.tensor(there, dtype=torch.int64)


def fit_head(
    head: Head,
    views: Views,
    epochs: int,
    rate: float,
    seed: int,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    rows: np.ndarray | None = None,
) -> None:
    """Fit `head` in place, on the CPU, on the examples with the indices `rows` (on all without); each epoch sees a round."""
    chosen = np.arange(views.own.shape[1]) if rows is None else np.asarray(rows)
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    size = min(BATCH, max(16, len(chosen) // 16))  # a small set still needs its steps
    steps = epochs * max(1, len(chosen) // size)
    optimizer = torch.optim.AdamW([part for part in head.parameters() if part.requires_grad], lr=rate, weight_decay=0.01)
    # A warm-up of exactly one step would divide by zero in there.
    warm = max(0.1, 1.5 / (steps + 1))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=warm)
    head.train()
    order = torch.from_numpy(np.concatenate([draw.permutation(chosen) for _ in range(epochs)]))
    rounds = torch.arange(epochs).repeat_interleave(len(chosen)) % views.rounds
    for step in range(steps):
        part = slice(step * size, (step + 1) * size)
        own, twins = (numbers[rounds[part], order[part]] for numbers in (views.own, views.twin))
        seen = torch.cat([own, twins[twins >= 0]])
        asked = views.answers[seen]
        logits = views.vectors.judged(head, Measured(*(column[seen] for column in views.measured)))
        factor = (asked >= 0) * views.weight[seen][:, None]
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
    with torch.inference_mode():
        return chain(vectors.judged(head, vectors.plain(head)).double()).numpy()
