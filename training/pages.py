"""Our pages of public life: which remark belongs under which headline, learned beside everything else.

A page (`data/threads/pages.jsonl`) is a headline with what readers say under it, often without a word in common. Pages of one
theme are about the same government, dispute or person, each about another matter of it. Labels teach an encoder to tell the threads
that are labelled; this keeps it acquainted with far more of public life than those: a remark is to be nearer its own page than the
others of a batch, siblings of its theme among them. InfoNCE (van den Oord et al. 2018, arXiv:1807.03748), in both directions.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from moderation.batching import plan
from moderation.model import COMMENT_TOKENS, SEGMENT_TOKENS, Encoder
from moderation.schema import UserError
from moderation.text import fold

#: Pages in a batch, of as many themes as there are with `SIBLINGS` of each.
BATCH, SIBLINGS = 64, 4
TEMPERATURE = 0.05
#: Tokens in one pass of the encoder, with padding.
BUDGET = 2048


@dataclass(frozen=True, slots=True)
class Page:
    """A headline, perhaps a sentence below it, and remarks that belong under it and under no other page of its theme."""

    theme: str
    title: str
    standfirst: str
    comments: tuple[str, ...]


def read_pages(path: Path) -> list[Page]:
    """Our pages.

    Raises:
        UserError: the file is missing, or a line of it is no page.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected our pages, as in data/threads of the repository"
        ) from error
    pages = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            pages.append(Page(row["theme"], row["title"], row["standfirst"], (row["comments"][0], *row["comments"][1:])))
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: no page; expected theme, title, standfirst and at least one of comments"
            ) from error
    return pages


class Pages:
    """Pages by theme, to draw batches from."""

    def __init__(self, pages: Sequence[Page]) -> None:
        themes: dict[str, list[Page]] = defaultdict(list)
        for page in pages:
            themes[page.theme].append(page)
        self.themes = [themes[name] for name in sorted(themes)]

    def draw(self, shuffler: random.Random) -> list[tuple[Page, str]]:
        """Up to `BATCH` pages, each with one of its remarks."""
        themes = shuffler.sample(self.themes, min(len(self.themes), BATCH // SIBLINGS))
        return [
            (page, shuffler.choice(page.comments))
            for theme in themes
            for page in shuffler.sample(theme, min(len(theme), SIBLINGS))
        ]


def contrast(encoder: Encoder, drawn: Sequence[tuple[Page, str]]) -> torch.Tensor:
    """The mean loss of finding the page by the remark, the remark by the headline, and the remark by the sentence below it."""
    remarks = _vectors(encoder, [remark for _, remark in drawn], COMMENT_TOKENS)
    titles = _vectors(encoder, [page.title for page, _ in drawn], SEGMENT_TOKENS)
    found = [_nearest(remarks, titles, range(len(drawn))), _nearest(titles, remarks, range(len(drawn)))]
    below = [place for place, (page, _) in enumerate(drawn) if page.standfirst]
    if below:
        found.append(
            _nearest(_vectors(encoder, [drawn[place][0].standfirst for place in below], SEGMENT_TOKENS), remarks, below)
        )
    return torch.stack(found).mean()


def _vectors(encoder: Encoder, texts: Sequence[str], limit: int) -> torch.Tensor:
    """Unit vectors (N, d) with gradients."""
    ids = encoder.tokenize([fold(text) for text in texts], limit)
    batches = plan([len(row) for row in ids], BUDGET)
    vectors = torch.cat([encoder.forward([ids[place] for place in batch])[0] for batch in batches])
    order = torch.tensor([place for batch in batches for place in batch], device=encoder.device)
    return vectors[torch.argsort(order)]


def _nearest(some: torch.Tensor, others: torch.Tensor, own: Sequence[int]) -> torch.Tensor:
    """InfoNCE: each of `some` is nearer to the one of `others` that `own` names than to the rest."""
    target = torch.tensor(list(own), device=some.device)
    return torch.nn.functional.cross_entropy(some @ others.T / TEMPERATURE, target)
