"""What goes into one step of training: groups of neighbouring articles, moved pairs, thinned context, token ids.

A batch holds groups whose articles are near each other, so that a comment moved to another article of the batch is a
*near* negative, and every article of the batch is encoded once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from moderation.model import COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS, Encoder
from moderation.network import Head, Table, Thread
from moderation.schema import NO_ARTICLE
from moderation.text import view
from training.examples import ANSWERS, Example, Group, move


@dataclass(frozen=True, slots=True)
class Mix:
    """How a batch is mixed; the defaults are the recipe's.

    Attributes:
        groups: groups (articles) in a batch.
        near: how many of a seed group's nearest articles join it.
        near_sources: sources whose nearest articles join; on a blog with one theme a third of such pairs are on-topic.
        moved: in how many other threads of the batch each movable comment also appears; their articles are encoded anyway.
        moved_weight: weight of their loss together, below 1 because half-and-half pairs teach the wrong prior.
        title_only: share of groups that show only the title.
        sentences: most article sentences shown in training, drawn at random.
        strangers: share of spam and low-effort comments shown under another article than their own.
    """

    groups: int = 10
    near: int = 2
    near_sources: tuple[str, ...] = ("threads", "ibm-argq")
    moved: int = 3
    moved_weight: float = 0.6
    title_only: float = 0.35
    sentences: int = 8
    strangers: float = 0.4


def plan(groups: Sequence[Group], neighbours: Sequence[Sequence[int]], mix: Mix, seed: int) -> list[list[int]]:
    """One epoch: every group once, in batches of `mix.groups`; each drawn group brings its nearest unused ones."""
    shuffler = random.Random(seed)
    order = list(range(len(groups)))
    shuffler.shuffle(order)
    used = [False] * len(groups)
    sequence: list[int] = []
    for index in order:
        if used[index]:
            continue
        used[index] = True
        sequence.append(index)
        taken = 0
        for other in neighbours[index] if groups[index].source in mix.near_sources else ():
            if taken == mix.near:
                break
            if not used[other]:
                used[other] = True
                sequence.append(other)
                taken += 1
    batches = [sequence[start : start + mix.groups] for start in range(0, len(sequence), mix.groups)]
    shuffler.shuffle(batches)
    return batches


def nearest_groups(groups: Sequence[Group], encoder: Encoder, count: int = 12) -> list[list[int]]:
    """For every group the groups of the nearest other articles by the encoder's similarity of title and opening."""
    texts = [f"{group.article.title}. {group.article.text[:300]}" for group in groups]
    distinct = list(dict.fromkeys(texts))
    vectors = dict(zip(distinct, encoder.encode(distinct, SEGMENT_TOKENS), strict=True))
    matrix = np.stack([vectors[text] for text in texts])
    result = []
    for start in range(0, len(groups), 512):
        similarity = matrix[start : start + 512] @ matrix.T
        for offset, row in enumerate(similarity):
            index = start + offset
            ranked = np.argpartition(-row, min(4 * count, len(row) - 1))[: 4 * count + 1]
            ranked = ranked[np.argsort(-row[ranked])]
            article = groups[index].article
            result.append(
                [
                    int(other)
                    for other in ranked
                    if groups[other].article is not NO_ARTICLE and groups[other].article != article
                ][:count]
            )
    return result


def mixed(groups: Sequence[Group], mix: Mix, shuffler: random.Random) -> list[Example]:
    """The examples of one batch, with moved pairs and strangers added and context thinned."""
    contexts = [
        (example.comment.article, example.comment.parent_text if example.comment.article is NO_ARTICLE else "")
        for group in groups
        for example in group.examples
    ]
    contexts = [context for context in dict.fromkeys(contexts) if context != (NO_ARTICLE, "")]
    examples: list[Example] = []
    for group in groups:
        for example in group.examples:
            own = (group.article, example.comment.parent_text if group.article is NO_ARTICLE else "")
            others = [context for context in contexts if context != own]
            fixed = example.answers[0] == 1 or example.answers[1] == 1 or example.answers[2] is None
            if others and fixed and shuffler.random() < mix.strangers:
                example = move(example, *shuffler.choice(others), 1.0)
            examples.append(example)
            if example.movable:
                drawn = shuffler.sample(others, min(mix.moved, len(others)))
                examples += [move(example, *other, mix.moved_weight / mix.moved) for other in drawn]
    return examples


class Batch:
    """Token ids and targets of one step; `thread` encodes them with gradients."""

    def __init__(self, examples: Sequence[Example], encoder: Encoder, mix: Mix, shuffler: random.Random) -> None:
        thinned: dict[tuple[str, ...], tuple[str, ...]] = {}
        views = []
        for example in examples:
            seen = view(example.comment)
            if seen.segments not in thinned:
                thinned[seen.segments] = _thin(seen.segments, mix, shuffler)
            chosen = thinned[seen.segments]
            surface = list(seen.surface)
            surface[-2] = float(len(chosen) > 1)
            views.append(replace(seen, segments=chosen, surface=tuple(surface)))
        texts: dict[tuple[str, int], int] = {}

        def number(text: str, limit: int) -> int:
            return texts.setdefault((text, limit), len(texts))

        self.comment = [number(seen.comment, COMMENT_TOKENS) for seen in views]
        self.parent = [number(seen.parent, PARENT_TOKENS) if seen.parent else -1 for seen in views]
        self.segments = [[number(s, SEGMENT_TOKENS) if s else -1 for s in seen.segments] for seen in views]
        self.ids: list[list[int]] = [[] for _ in texts]
        for limit in (COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS):
            chosen = [(text, place) for (text, cap), place in texts.items() if cap == limit]
            if chosen:
                for (_, place), ids in zip(chosen, encoder.tokenize([text for text, _ in chosen], limit), strict=True):
                    self.ids[place] = ids
        self.surface = torch.tensor([seen.surface for seen in views], dtype=torch.float32)
        self.answers = torch.tensor(
            [[-1.0 if answer is None else float(answer) for answer in example.answers] for example in examples]
        )
        self.weight = torch.tensor([example.weight for example in examples])
        self.own = [example.movable and example.answers == ANSWERS["on-topic"] for example in examples]

    def thread(self, encoder: Encoder, budget: int = 2048) -> Thread:
        """Encode every distinct text once, in passes of similar length, and lay the vectors out for the head."""
        order = sorted(range(len(self.ids)), key=lambda index: len(self.ids[index]))
        parts, start = [], 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(self.ids[order[stop]]) <= budget:
                stop += 1
            parts.append(encoder.forward([self.ids[index] for index in order[start:stop]]))
            start = stop
        pooled, tokens = (torch.cat(side) for side in zip(*parts, strict=True))
        plain = [encoder.plain(self.ids[index]) for index in order]
        table = Table(
            pooled,
            tokens,
            torch.tensor([token for ids in plain for token in ids], dtype=torch.long, device=pooled.device),
            torch.tensor([len(ids) for ids in plain], device=pooled.device),
        )
        place = torch.empty(len(order) + 1, dtype=torch.long, device=pooled.device)
        place[torch.tensor(order, device=pooled.device)] = torch.arange(len(order), device=pooled.device)
        place[-1] = -1  # no text
        longest = max(1, max(map(len, self.segments)))
        grid = torch.tensor([[*row, *[-1] * (longest - len(row))] for row in self.segments], device=pooled.device)
        return table.thread(
            place[torch.tensor(self.comment, device=pooled.device)],
            place[torch.tensor(self.parent, device=pooled.device)],
            place[grid],
            self.surface.to(pooled.device),
        )

    def loss(self, encoder: Encoder, head: Head, contrast: float = 0.0) -> torch.Tensor:
        """Weighted binary cross-entropy over the answered questions, plus `contrast` times `contrastive`."""
        thread = self.thread(encoder)
        logits, _ = head(thread)
        answers = self.answers.to(logits.device)
        weight = (answers >= 0) * self.weight.to(logits.device)[:, None]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, answers.clamp(min=0), reduction="none")
        loss = (entropy * weight).sum() / weight.sum().clamp(min=1.0)
        return loss + contrast * self.contrastive(thread) if contrast else loss

    def contrastive(self, thread: Thread, temperature: float = 0.05) -> torch.Tensor:
        """InfoNCE (van den Oord et al. 2018, arXiv:1807.03748): a comment is nearer its own thread than the batch's others.

        Nearness is the encoder's own cosine to the nearest segment, or to the parent where there is no article, so this
        shapes the encoder and not the head.
        """
        contexts: dict[tuple, int] = {}
        for row, (segments, parent) in enumerate(zip(self.segments, self.parent, strict=True)):
            contexts.setdefault(tuple(segments) if segments else (parent,), row)
        place = {key: number for number, key in enumerate(contexts)}
        rows = torch.tensor(list(contexts.values()), device=thread.comment.device)
        own = [row for row in range(len(self.own)) if self.own[row]]
        if len(place) < 2 or not own:
            return thread.comment.new_zeros(())
        target = [place[tuple(self.segments[row]) if self.segments[row] else (self.parent[row],)] for row in own]
        similarity = torch.einsum("bd,csd->bcs", thread.comment[own], thread.segments[rows])
        similarity = similarity.masked_fill(~thread.segment_mask[rows], -1.0).amax(-1)
        to_parent = thread.comment[own] @ thread.parent[rows].T
        similarity = torch.where(thread.segment_mask[rows].any(-1), similarity, to_parent)
        return torch.nn.functional.cross_entropy(similarity / temperature, torch.tensor(target, device=similarity.device))


def _thin(segments: tuple[str, ...], mix: Mix, shuffler: random.Random) -> tuple[str, ...]:
    if len(segments) < 2:
        return segments
    if segments[0] and shuffler.random() < mix.title_only:
        return segments[:1]
    body = range(1, len(segments))
    kept = sorted(shuffler.sample(body, min(len(body), mix.sentences)))
    return (segments[0], *(segments[index] for index in kept))
