"""A text that comes again and again is encoded twice and then kept."""

import numpy as np
import pytest

from moderation import Article, Comment
from moderation.batching import Batch, Encoded
from moderation.recurring import Recurring

BRIDGE = Article(title="Council votes to close the bridge", text="Two of its four piers are cracked, says the engineer.")
FERRY = Article(title="Ferry line to open in May", text="It will cross every twenty minutes, the port says.")
SPAM = "WIN a free phone, write to Anna on Telegram now"


def encoded(number, tokens=3):
    return Encoded(np.full(4, number, np.float32), np.full((tokens, 4), number, np.float16), np.arange(tokens))


def test_what_came_twice_is_known_the_third_time():
    recurring = Recurring()
    for _ in range(2):
        assert recurring.get(["lol", "once"]) == {}
        recurring.put(["lol"], Batch.of([encoded(1)]))
    recurring.put(["once", "longer"], Batch.of([encoded(2), encoded(3, 5)]))
    known = recurring.get(["lol", "once", "longer"])
    assert known.keys() == {"lol"}
    assert all((here == there).all() for here, there in zip(known["lol"], encoded(1), strict=True))


def test_those_used_least_recently_go():
    recurring = Recurring(kept=3 * encoded(0).nbytes)
    for name in "abcb":
        for _ in range(2):
            recurring.put([name], Batch.of([encoded(1)]))
    recurring.get(["a"])
    for _ in range(2):
        recurring.put(["d"], Batch.of([encoded(1)]))
    assert recurring.get(list("abcd")).keys() == {"a", "c", "d"} and recurring.bytes == 3 * encoded(0).nbytes


def test_the_memory_of_what_came_once_is_bounded():
    recurring = Recurring(seen=100)
    for number in range(1000):
        recurring.put([f"text {number}"], Batch.of([encoded(1)]))
    assert len(recurring._seen) <= 100


@pytest.fixture
def asked(moderator, monkeypatch):
    """The texts of comments that the encoder was asked for, call by call."""
    calls = []
    encode = moderator.encoder.encode_batches
    monkeypatch.setattr(
        moderator.encoder, "encode_batches", lambda texts, limit: calls.append(list(texts)) or encode(texts, limit)
    )
    monkeypatch.setattr(moderator, "recurring", Recurring())
    return calls


def test_a_campaign_is_judged_under_each_article_but_encoded_no_more_than_twice(moderator, asked):
    comments = [Comment(SPAM, article=article) for article in (BRIDGE, FERRY)] + [Comment("Which pier?", article=BRIDGE)]
    first = moderator.predict(comments)
    asked.clear()
    later = [moderator.predict([*comments, Comment(f"No. {number}", article=FERRY)]) for number in range(3)]
    texts = [[text for text in texts if text.startswith(("WIN", "Which", "No."))] for texts in asked]
    assert [texts for texts in texts if texts] == [[SPAM, "Which pier?", "No. 0"], ["No. 1"], ["No. 2"]]
    for verdicts in later:
        for verdict, before in zip(verdicts[:3], first, strict=True):
            assert (verdict.label, verdict.reason, verdict.action) == (before.label, before.reason, before.action)
            assert verdict.probabilities == pytest.approx(before.probabilities, abs=1e-4)
