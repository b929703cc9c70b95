"""Articles are encoded once, in a process and from run to run, whatever happens to the folder they are kept in."""

import os

import numpy as np
import pytest

from moderation import Article, Comment
from moderation.articles import Articles, size
from moderation.batching import Encoded
from moderation.text import segments

BRIDGE = Article(
    title="Council votes to close the bridge",
    text="Two of its four piers are cracked. Shopkeepers fear for their trade. The mayor expects repairs to take two years. "
    "A ferry is to cross every twenty minutes.",
)
COMMENTS = [Comment(text, article=BRIDGE) for text in ("Half my customers walk over it.", "Which of the piers?", "Nice hat")]


def article(number, texts=5):
    """An encoded article told by its numbers."""
    return [Encoded(np.full(8, number, np.float32), np.full((n, 8), number, np.float16), np.arange(n)) for n in range(texts)]


def named(name, texts=5):
    return tuple(f"{name} {place}" for place in range(texts))


def same(some, others):
    return len(some) == len(others) and all(
        (here == there).all() and here.dtype == there.dtype and here.shape == there.shape
        for one, other in zip(some, others, strict=True)
        for here, there in zip(one, other, strict=True)
    )


def test_the_next_run_encodes_no_article_of_this_one_and_judges_alike(moderator, tmp_path, monkeypatch):
    asked = []
    encode = moderator.encoder.encode_tokens
    monkeypatch.setattr(
        moderator.encoder, "encode_tokens", lambda texts, limit: asked.append(list(texts)) or encode(texts, limit)
    )
    found = []
    for _ in range(2):
        monkeypatch.setattr(moderator, "articles", Articles(tmp_path / "articles" / "one"))
        found.append(moderator.predict(COMMENTS))
    assert [set(texts) for texts in asked] == [set(segments(BRIDGE))] and found[0] == found[1]
    assert found[0][0].evidence


def test_what_is_read_is_what_was_written(tmp_path):
    Articles(tmp_path / "one").put({named("a"): article(1), named("b"): article(2)})
    again = Articles(tmp_path / "one")
    read = again.get([named("a"), named("b"), named("c")])
    assert read.keys() == {named("a"), named("b")} and same(read[named("a")], article(1)) and same(read[named("b")], article(2))
    assert again.bytes == sum(map(size, read.values()))
    assert not Articles(tmp_path / "another encoder").get([named("a")])


def test_an_article_of_few_sentences_is_not_worth_a_file(tmp_path):
    articles = Articles(tmp_path / "one")
    articles.put({named("a", 2): article(1, 2)})
    assert articles.get([named("a", 2)]) and not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: b"", lambda content: b"\xff" * len(content)])
def test_a_damaged_file_is_as_good_as_none(tmp_path, damage):
    Articles(tmp_path / "one").put({named("a"): article(1)})
    [path] = (tmp_path / "one").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    articles = Articles(tmp_path / "one")
    assert not articles.get([named("a")])
    articles.put({named("a"): article(1)})
    assert same(Articles(tmp_path / "one").get([named("a")])[named("a")], article(1))


def test_what_was_used_least_recently_goes_first_whose_encoder_it_ever_was(tmp_path):
    for number, folder in enumerate(("old", "new", "new", "new")):
        Articles(tmp_path / folder).put({named(str(number)): article(number)})
        [path] = {path for path in tmp_path.rglob("*.safetensors") if path.stat().st_mtime > 1e6}
        os.utime(path, (number, number))
    [taken] = {path.stat().st_size for path in tmp_path.rglob("*.safetensors")}
    assert Articles(tmp_path / "new").get([named("1")])  # used now
    articles = Articles(tmp_path / "new", on_disk=4 * taken)
    articles.put({named("4"): article(4)})
    left = Articles(tmp_path / "new").get([named(str(number)) for number in range(5)])
    assert left.keys() == {named("1"), named("3"), named("4")} and not list((tmp_path / "old").iterdir())


def test_in_memory_those_used_least_recently_go(tmp_path):
    articles = Articles(in_memory=3 * size(article(0)))
    for number in range(3):
        articles.put({named(str(number)): article(number)})
    articles.get([named("0")])
    articles.put({named("3"): article(3)})
    assert articles.get([named(str(number)) for number in range(4)]).keys() == {named("0"), named("2"), named("3")}
    assert articles.bytes == 3 * size(article(0))


def test_where_nothing_can_be_written_all_goes_on(moderator, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(moderator, "articles", Articles(tmp_path / "file" / "articles"))
    assert len(moderator.predict(COMMENTS)) == len(moderator.predict(COMMENTS)) == 3
    assert caplog.text.count("cannot be kept for the next run") == 1
