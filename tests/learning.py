"""A small world for the learning loop: our threads in small, a first champion, a site and its moderators.

Everything is real but the size; the threads are made of words that belong to their articles. A module that wants it says `pytest_plugins = ["learning"]`.
"""

from __future__ import annotations

import json
import random
import shutil

import pytest

from moderation.model import Moderator
from moderation.registry import Registry
from moderation.schema import LABELS, Article, Comment
from moderation.store import Store

_NOUNS = [
    "bridge",
    "harbour",
    "library",
    "orchard",
    "tram",
    "bakery",
    "museum",
    "hospital",
    "reservoir",
    "theatre",
    "bicycle",
    "school",
    "market",
    "forest",
    "chapel",
    "airport",
    "stadium",
    "kitchen",
    "glacier",
    "printer",
    "telescope",
    "vineyard",
    "ferry",
    "windmill",
    "pharmacy",
    "quarry",
    "aquarium",
    "bookshop",
    "tunnel",
    "lighthouse",
]
_DOINGS = [
    "opening",
    "repair",
    "budget",
    "closing",
    "staff",
    "noise",
    "history",
    "queue",
    "roof",
    "ticket",
    "garden",
    "winter",
    "fire",
    "vote",
    "smell",
    "colour",
]


def topic(number):
    """The words of an article; no two share a noun."""
    draw = random.Random(f"topic {number}")
    return [_NOUNS[number % len(_NOUNS)], *draw.sample(_DOINGS, 4)]


def article(number, site="site.example"):
    words = topic(number)
    text = f"The {words[0]} and its {words[1]}. A report about the {words[0]} {words[2]}. What the {words[3]} means for the {words[4]}."
    return Article(f"a{number}", f"The {words[0]} {words[1]}", text, f"https://{site}/a{number}")


def comments(articles, each, seed=0, site="site.example", start=0):
    """(comment, label) pairs: `each` comments under each article, the four labels in turn."""
    draw = random.Random(seed)
    for number in articles:
        own = article(number, site)
        words = topic(number)
        for place in range(each):
            label = LABELS[(place + number) % 4]
            other = topic((number + 7 + place) % len(_NOUNS))
            w, o = draw.sample(words[1:], 3), draw.sample(other[1:], 3)
            text = {
                "on-topic": f"I think the {words[0]} {w[0]} and the {words[0]} {w[1]} need more {w[2]} than was said",
                "off-topic": f"I think the {other[0]} {o[0]} and the {other[0]} {o[1]} need more {o[2]} than was said",
                "spam": f"earn money fast with {draw.choice(o)} offers, visit www.shop{draw.randrange(999)}.example and buy cheap",
                "low-effort": draw.choice(["nice one", "first", "lol true", "so good", "wow", "this !!!", "same here"]),
            }[label]
            yield Comment(text, f"{site}-{number}-{place + start}", own), label


def row(comment, label):
    return comment.to_row() | {"label": label}


@pytest.fixture(scope="session")
def small_threads(tmp_path_factory):
    """Our threads in small: few to train on, so that a site has something to teach."""
    folder = tmp_path_factory.mktemp("threads")
    for split, articles, each in (("train", range(20, 24), 6), ("validation", range(24, 27), 8), ("test", range(24, 30), 16)):
        lines = [json.dumps(row(*pair)) + "\n" for pair in comments(articles, each, seed=split, site="ours.example")]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def first_model(small_threads, tmp_path_factory):
    """A model directory that learned little."""
    from training.batches import Mix
    from training.fit import fit
    from training.recipe import Recipe, gather

    folder = tmp_path_factory.mktemp("first") / "model"
    recipe = Recipe(head_epochs=2, epochs=1, rank=2, hidden=32, gold=0.0, mix=Mix(groups=4))
    fit(recipe, gather(recipe, None, small_threads), folder)
    return folder


@pytest.fixture(scope="session")
def vectors(tmp_path_factory):
    """Where the tests of a session share the vectors of their texts."""
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture
def registry(first_model, vectors, tmp_path, monkeypatch):
    """A registry whose champion is the first model."""
    monkeypatch.setenv("MODERATION_MODELS", str(tmp_path / "models"))
    registry = Registry()
    registry.promote(registry.add(first_model), by="test", why="the first")
    (registry.folder / "cache").symlink_to(vectors)
    return registry


@pytest.fixture(scope="session")
def filled(first_model, tmp_path_factory):
    """A store with a site's comments, judged by the first model; tests work on copies."""
    path = tmp_path_factory.mktemp("site") / "desk.db"
    with Store(path) as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODERATION_MODELS", str(path.parent / "models"))
        registry = Registry()
        registry.promote(registry.add(first_model), by="test", why="the first")
        Site(store, registry)
    return path


@pytest.fixture
def site(filled, registry, tmp_path):
    """A site of 336 comments under 28 articles, none of them decided."""
    shutil.copyfile(filled, tmp_path / "desk.db")
    with Store(tmp_path / "desk.db") as store:
        yield Site(store, registry, filled=True)


class Site:
    """A store with a site's comments, and moderators who know the right label of each."""

    def __init__(self, store, registry, articles=range(28), each=12, seed=1, site="site.example", filled=False):
        self.store, self.registry, self.truth, self.flipped = store, registry, {}, {}
        self._keys = 0
        if filled:  # a copy of a store that holds them already
            self.truth = {comment.comment_id: label for comment, label in comments(articles, each, seed, site)}
        else:
            self.bring(articles, each, seed, site)

    def bring(self, articles, each, seed, site="site.example", start=0):
        pairs = list(comments(articles, each, seed, site, start))
        self.truth |= {comment.comment_id: label for comment, label in pairs}
        model = Moderator.from_pretrained()
        items = [comment for comment, _ in pairs]
        self.store.library.add(items, model.predict(items))
        self.store.library.use_model(model.version, manifest=model.manifest)

    def right(self, item):
        return self.truth[item.comment.comment_id]

    def open(self):
        """All that is undecided, in an order that says nothing."""
        items = list(self.store.lessons.undecided())
        random.Random(5).shuffle(items)
        return items

    def decide(self, items, user="careful", errors=0.0, seed=2):
        """Decide items one by one; with `errors` that part of the labels is any of the three wrong ones."""
        draw = random.Random(seed)
        for item in items:
            label = self.right(item)
            if draw.random() < errors:
                label = draw.choice([one for one in LABELS if one != label])
                self.flipped[item.id] = label
            self._keys += 1
            done = self.store.decisions.decide(item.id, user, label, f"key {self._keys}", seen=item.decision_id)
            assert done.outcome == "applied"
