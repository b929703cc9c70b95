"""The store, on SQLite and on PostgreSQL: what comes in, the queue, deciding and undoing, policies, insight, people, exports."""

import csv
import dataclasses
import json
import subprocess
import sys
from collections import Counter

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher

from moderation.policy import DEFAULT, Policy
from moderation.readers import read_comments
from moderation.reason import UNSUPPORTED_LANGUAGE
from moderation.schema import LABELS, Article, Comment, UserError, Verdict
from moderation.store import Filter, LoginRefused, Store, database_url

pytest_plugins = ["databases"]

BRIDGE = Article(
    "a1",
    "City council votes to close the old bridge",
    "The bridge closes in May. Buses go round.",
    "https://news.example/bridge",
)
GARDEN = Article("a2", "Ten plants for the shade", "Ferns are the first.", "https://garden.example/shade")


class Clock:
    def __init__(self, now=1_800_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(store_url, clock, monkeypatch):
    # Argon2 is slow on purpose; here it may be quick.
    monkeypatch.setattr("moderation.store.people.PasswordHasher", lambda: PasswordHasher(1, 8, 1))
    with Store(store_url, clock) as store:
        yield store


def verdict(probabilities, version="m1", action="review", reason="reads so"):
    by_label = dict(zip(LABELS, probabilities, strict=True))
    return Verdict(max(by_label, key=by_label.get), by_label, action, reason, version, ("The bridge closes in May.", 0.5))


def spread(n, article=BRIDGE, start=0):
    """n comments of which the later ones are ever less on topic, with verdicts."""
    items, verdicts = [], []
    for index in range(start, start + n):
        items.append(
            Comment(
                f"{chr(97 + index % 26)}{index} thinks otherwise",
                f"c{index}",
                article,
                created_at=f"2026-05-01T10:{index % 60:02d}:00Z",
            )
        )
        trouble = (index + 1) / (start + n + 1)
        verdicts.append(verdict((1 - trouble, trouble / 2, trouble / 3, trouble / 6)))
    return items, verdicts


@pytest.fixture
def filled(store):
    store.library.add(*spread(20))
    return store


def ids(items):
    return [item.id for item in items]


def keys():
    number = 0
    while True:
        number += 1
        yield f"key {number}"


# -- what comes in ----------------------------------------------------------------------------------------------------------


def test_importing_again_changes_nothing(store):
    items, verdicts = spread(30)
    first = store.library.add(items, verdicts)
    again = store.library.add(items, verdicts)
    assert (first.new, first.known, again.new, again.known, again.changed) == (30, 0, 0, 30, 0)
    assert store.queue.count() == 30 and store.library.missing(items, "m1") == []
    assert store.library.missing(items, "m2") == items


def test_what_went_in_comes_out(store):
    comment = Comment(
        "سلام 🙂\n<script>alert(1)</script>",
        "c:1",
        BRIDGE,
        "c0",
        "parent",
        "'; DROP TABLE comments; --",
        "2026-01-02T03:04:05+02:00",
        "fa",
        "approved",
    )
    given = verdict((0.1, 0.2, 0.3, 0.4))
    store.library.add([comment], [given])
    [item] = store.queue.page().items
    assert item.comment == comment and item.verdict == given and item.site == "news.example"
    assert item.posted == 1767315845 and item.copies == 1 and item.label == item.claimed_by == ""


def test_text_that_no_database_takes_is_cleaned(store):
    store.library.add(
        [Comment("nul \x00 lone \ud800", "\x00x", Article("a\x00", "t\ud800"), author="\x00")], [verdict((1, 0, 0, 0))]
    )
    [item] = store.queue.page(Filter(text="NUL \x00")).items
    assert item.comment.text == "nul  lone \ufffd"


def test_the_same_id_under_another_article_or_site_is_another_comment(store):
    for article in (BRIDGE, GARDEN, dataclasses.replace(BRIDGE, url="https://other.example/x"), Article(title="only a title")):
        store.library.add([Comment("Who pays?", "1", article)])
    store.library.add([Comment("Who pays?", "1", BRIDGE)], site="by hand")
    assert store.queue.count() == 5
    assert store.queue.sites() == ["", "by hand", "garden.example", "news.example", "other.example"]


def test_a_changed_text_is_open_again_and_its_history_stays(store):
    store.library.add([Comment("Who pays?", "1", BRIDGE)], [verdict((0.9, 0.1, 0, 0))])
    [item] = store.queue.claim("ada")
    store.decisions.decide(item.id, "ada", "on-topic", "k1")
    edited = Comment("Buy my watches", "1", BRIDGE)
    assert store.library.missing([edited], "m1") == [edited]
    assert store.library.add([edited], [verdict((0.1, 0, 0.9, 0))]).changed == 1
    now = store.queue.item(item.id)
    assert (now.label, now.decision_id, now.comment.text, now.verdict.label) == ("", 0, "Buy my watches", "spam")
    assert [(entry.kind, entry.label) for entry in store.decisions.history(item.id)] == [("single", "on-topic"), ("edit", "")]
    store.decisions.undo("ada", "u1")  # what was decided about the old text does not come back either
    assert store.queue.item(item.id).decision_id == 0
    assert store.decisions.decide(item.id, "ada", "spam", "k2").outcome == "applied"


def test_a_new_model_replaces_the_current_verdict_and_keeps_the_old_one(filled):
    numbers = ids(filled.queue.page().items)
    assert filled.library.unjudged("m2", limit=5) == sorted(numbers)[:5]
    filled.library.judge(numbers, [verdict((0, 0, 1, 0), "m2")] * len(numbers))
    assert {item.verdict.model_version for item in filled.queue.page().items} == {"m2"}
    assert filled.library.unjudged("m2") == [] and {model.version for model in filled.library.models()} == {"m1", "m2"}
    with filled.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM predictions").scalar() == 40


def test_a_damaged_models_numbers_are_refused(store):
    with pytest.raises(UserError, match="damaged"):
        store.library.add([Comment("x", "1")], [verdict((float("nan"), 0, 0, 0))])
    assert store.queue.count() == 0


def test_copies_find_each_other_however_they_are_disguised(store):
    spam = "Earn 500 dollars a day from home, write to me on telegram and I will show you how"
    texts = [
        spam,
        spam.upper(),
        spam.replace("Earn", "E\u200barn").replace("a day", "а day"),
        spam.replace("500", "900"),
        spam + " today",
        "Nobody will miss that old bridge but the ducks, and even they have moved on",
        "nice",
        "Nice",
        "nice one",
    ]
    store.library.add([Comment(text, f"c{index}") for index, text in enumerate(texts)])
    copies = [item.copies for item in store.queue.page(sort="oldest", limit=20).items]
    assert copies == [5, 5, 5, 5, 5, 1, 2, 2, 1]
    assert store.queue.count(Filter(copies_of=1)) == 5 and len(store.queue.duplicates(1)) == 4
    store.library.add([Comment("I was the first and say something else now", "c0")])
    assert store.queue.count(Filter(copies_of=2)) == 4
    store.library.add([Comment(spam, "late")])
    assert store.queue.count(Filter(copies_of=2)) == 5


def test_near_duplicates_of_different_wording_stay_apart():
    from moderation.store.duplicates import band_values, shingles, similar

    one = shingles("the council should have asked the people who live by the river before it closed the bridge")
    other = shingles("the council should have asked nobody at all because the bridge was about to fall into the river")
    assert not similar(one, other) and not set(band_values(one)) & set(band_values(other))
    assert shingles("nice article") == frozenset() and band_values(frozenset()) == []


# -- the queue --------------------------------------------------------------------------------------------------------------


def test_filters_choose(store):
    items = [
        Comment("The BRIDGE is 100% safe", "1", BRIDGE, language="en", status="approved", created_at="2027-01-10T00:00:00Z"),
        Comment("shade_loving ferns", "2", GARDEN, language="de", created_at="2027-01-14T12:00:00Z"),
        Comment("cheap w\u200batches", "3", GARDEN, language="", status="spam", created_at="no date"),
    ]
    verdicts = [
        verdict((0.8, 0.1, 0.05, 0.05), action="approve"),
        verdict((0.3, 0.6, 0.05, 0.05)),
        verdict((0.1, 0.1, 0.8, 0), action="reject"),
    ]
    store.library.add(items, verdicts)
    garden = store.queue.articles("shade")[0]
    assert (garden.title, garden.comments, garden.undecided) == (GARDEN.title, 2, 2)

    def found(**parts):
        return "".join(sorted(item.comment.comment_id for item in store.queue.page(Filter(**parts)).items))

    for parts, expected in [
        ({}, "123"),
        ({"labels": ["on-topic", "spam"]}, "13"),
        ({"probability": ("spam", 0.05, 0.05)}, "12"),
        ({"probability": ("spam", 0.8, 1)}, "3"),
        ({"actions": ["review", "reject"]}, "23"),
        ({"article": garden.id}, "23"),
        ({"site": "news.example"}, "1"),
        ({"languages": ["en", "de"]}, "12"),
        ({"languages": [""]}, "3"),
        ({"statuses": ["approved"]}, "1"),
        ({"max_days": 5}, "123"[1:]),
        ({"min_days": 3}, "1"),
        ({"text": "bridge"}, "1"),
        ({"text": "100%"}, "1"),
        ({"text": "0% safe"}, "1"),
        ({"text": "%"}, "1"),
        ({"text": "e_l"}, "2"),
        ({"text": "watches"}, "3"),
        ({"text": "\\"}, ""),
        ({"text": "' OR 1=1 --"}, ""),
        ({"labels": ["spam"], "languages": ["en"]}, ""),
        ({"show": "decided"}, ""),
        ({"show": "mine", "user": "ada"}, ""),
        ({"show": "disputed"}, ""),
        ({"show": "flagged"}, ""),
        ({"show": "all"}, "123"),
    ]:
        assert found(**parts) == expected, parts
        assert store.queue.count(Filter(**parts)) == store.queue.facets(Filter(**parts)).total == len(expected)
    [number] = ids(store.queue.page(Filter(text="ferns")).items)
    store.decisions.decide(number, "ada", "off-topic", "k")
    [lesson] = store.lessons.decided()
    assert store.lessons.doubt({number: (lesson.decision, "on-topic", 0.1)}) == 1
    for parts in (
        {"show": "decided"},
        {"show": "mine", "user": "ada"},
        {"show": "flagged"},
        {"show": "all", "decided": ["off-topic"]},
    ):
        assert found(**parts) == "2", parts
    assert found(show="mine", user="bob") == "" and found() == "13"


@pytest.mark.parametrize(
    "parts",
    [
        {"labels": ["ham"]},
        {"actions": ["delete"]},
        {"show": "everything"},
        {"show": "mine"},
        {"decided": ["x"]},
        {"probability": ("spam", 0.9, 0.1)},
        {"probability": ("ham", 0, 1)},
    ],
)
def test_a_filter_that_means_nothing_is_refused(parts):
    with pytest.raises(UserError):
        Filter(**parts)


def test_a_filter_survives_json():
    chosen = Filter(labels=["spam"], probability=("spam", 0.5, 1.0), text="x", max_days=3)
    assert Filter(**json.loads(chosen.to_json())) == dataclasses.replace(chosen, probability=["spam", 0.5, 1.0])


@pytest.mark.parametrize("sort", ["trouble", "doubt", "newest", "oldest", "value"])
def test_pages_follow_each_other_without_a_gap(filled, sort):
    filled.lessons.order({number: float(number % 3) for number in range(1, 21)})
    seen, after = [], None
    while True:
        page = filled.queue.page(sort=sort, limit=7, after=after)
        seen += page.items
        after = page.after
        if after is None:
            break
    assert len(seen) == len(set(ids(seen))) == 20
    value = {
        "trouble": lambda item: -(1 - item.verdict.probabilities["on-topic"]),
        "doubt": lambda item: max(item.verdict.probabilities.values()),
        "newest": lambda item: -item.posted,
        "oldest": lambda item: item.posted,
        "value": lambda item: -item.priority,
    }[sort]
    assert [value(item) for item in seen] == sorted(value(item) for item in seen)


def test_facets_histogram_and_sample(filled):
    facets = filled.queue.facets()
    assert facets.total == facets.undecided == 20 and facets.decided == 0
    assert facets.labels == Counter({"on-topic": 14, "off-topic": 6}) and facets.actions == {"review": 20}
    chances = [item.verdict.probabilities["on-topic"] for item in filled.queue.page().items]
    assert filled.queue.histogram("on-topic", bins=4) == [
        sum(int(chance * 4) == place for chance in chances) for place in range(4)
    ]
    filled.library.add([Comment("certain", "c"), Comment("unseen", "d")], None)
    filled.library.judge([21], [verdict((0, 0, 1.0, 0))])
    assert filled.queue.histogram("spam")[-1] == 1 and sum(filled.queue.histogram("spam")) == 21
    chosen = Filter(probability=("off-topic", 0.3, 1))
    sample = filled.queue.sample(chosen, 5, seed=1)
    assert len(set(ids(sample))) == 5 and all(item.verdict.probabilities["off-topic"] >= 0.3 for item in sample)
    assert len(filled.queue.sample(chosen, 1000)) == filled.queue.count(chosen)
    with pytest.raises(UserError):
        filled.queue.histogram("ham")


def test_the_thread_around_a_comment(store):
    def said(number, parent=""):
        return Comment(f"remark {number}", number, BRIDGE, parent, created_at=f"2026-05-01T10:00:{int(number):02d}Z")

    store.library.add(
        [
            said("1"),
            said("2", "1"),
            said("3", "2"),
            said("4", "3"),
            said("5", "2"),
            said("6"),
            said("7", "4"),
            said("8", "gone"),
        ]
    )
    store.library.add([Comment("elsewhere", "9", GARDEN, "3")])

    def around(number):
        [item] = store.queue.page(Filter(text=f"remark {number}")).items
        return "".join(item.comment.comment_id for item in store.queue.thread(item.id))

    assert [around(number) for number in (3, 1, 6, 7, 8)] == ["12345", "12", "6", "12347", "8"]
    with pytest.raises(UserError):
        store.queue.thread(99)


def test_a_thread_that_goes_in_circles_ends(store):
    store.library.add([Comment("one", "1", BRIDGE, "2"), Comment("two", "2", BRIDGE, "1"), Comment("self", "3", BRIDGE, "3")])
    assert len(store.queue.thread(1)) == 2 and ids(store.queue.thread(3)) == [3]


# -- claiming ---------------------------------------------------------------------------------------------------------------


def test_two_moderators_never_get_the_same_comment_until_it_expires(filled, clock):
    ada, bob = filled.queue.claim("ada", n=5), filled.queue.claim("bob", n=5)
    assert len(ada) == len(bob) == 5 and not set(ids(ada)) & set(ids(bob))
    assert ids(ada) == ids(filled.queue.page(limit=5).items) == filled.queue.held("ada")
    assert {item.claimed_by for item in filled.queue.page(limit=10).items} == {"ada", "bob"}
    clock.now += 200
    assert ids(filled.queue.claim("ada", n=5)) == ids(ada)  # a reload: the same, and the lease begins anew
    clock.now += 200
    assert ids(filled.queue.claim("eve", n=20))[:5] == ids(bob) and filled.queue.held("ada") == ids(ada)
    clock.now += 200
    assert ids(filled.queue.claim("bob", n=3)) == ids(ada)[:3]


def test_claims_top_up_leave_out_and_go_back(filled):
    first = filled.queue.claim("ada", n=3)
    assert ids(filled.queue.claim("ada", n=2, exclude=ids(first)[:2]))[0] == first[2].id
    assert filled.queue.release("ada", [first[0].id]) == 1
    assert ids(filled.queue.claim("bob"))[0] == first[0].id
    assert filled.queue.release("ada") == 3 and filled.queue.held("ada") == []
    assert filled.queue.claim("ada", Filter(labels=["low-effort"])) == [] and filled.queue.claim("ada", n=0) == []


def test_a_skipped_comment_comes_back_when_nothing_else_is_left(filled):
    [first] = filled.queue.claim("ada")
    filled.queue.skip("ada", first.id)
    filled.queue.skip("ada", first.id)
    rest = filled.queue.claim("ada", n=20)
    assert len(rest) == 19 and first.id not in ids(rest)
    for index, item in enumerate(rest):
        filled.decisions.decide(item.id, "ada", "on-topic", f"k{index}")
    assert ids(filled.queue.claim("ada", n=5)) == [first.id]
    with pytest.raises(UserError):
        filled.queue.skip("ada", 999)


# -- deciding ---------------------------------------------------------------------------------------------------------------


def test_a_key_press_counts_once_and_never_for_another_comment(filled):
    one, two = filled.queue.claim("ada", n=2)
    done = filled.decisions.decide(one.id, "ada", "spam", "press 1", seconds=1.5, note="shop\x00")
    assert (done.outcome, done.kind, done.count) == ("applied", "single", 1)
    again = filled.decisions.decide(one.id, "ada", "spam", "press 1")
    assert dataclasses.replace(again, outcome="applied") == done and again.outcome == "duplicate"
    # The second of two fast presses still names the first comment.
    assert filled.decisions.decide(one.id, "ada", "off-topic", "press 2").outcome == "stale"
    # A key that is sent with another comment is the first press, not a new one.
    assert filled.decisions.decide(two.id, "ada", "spam", "press 1").comment_id == one.id
    assert filled.queue.item(two.id).label == ""
    [entry] = filled.decisions.history(one.id)
    assert (entry.user, entry.label, entry.previous, entry.seconds, entry.note) == ("ada", "spam", "", 1.5, "shop")
    assert (entry.model_label, entry.model_version) == (one.verdict.label, "m1")


def test_a_comment_of_another_moderator_is_stale(filled, clock):
    [item] = filled.queue.claim("ada")
    assert filled.decisions.decide(item.id, "bob", "spam", "b1").outcome == "stale"
    clock.now += 301  # ada went away
    assert filled.decisions.decide(item.id, "bob", "spam", "b2").outcome == "applied"
    late = filled.decisions.decide(item.id, "ada", "on-topic", "a1")
    assert (late.outcome, late.label) == ("stale", "spam")
    shown = filled.queue.item(item.id)
    assert filled.decisions.decide(item.id, "ada", "on-topic", "a2", seen=shown.decision_id).outcome == "applied"
    assert [entry.previous for entry in filled.decisions.history(item.id)] == ["", "spam"]


@pytest.mark.parametrize(
    ("number", "label", "key"), [(999, "spam", "k"), (1, "ham", "k"), (1, "spam", ""), (1, "spam", "k" * 201)]
)
def test_a_decision_that_means_nothing_is_refused(filled, number, label, key):
    with pytest.raises(UserError):
        filled.decisions.decide(number, "ada", label, key)
    assert filled.queue.facets(Filter(show="all")).decided == 0


def test_undo_goes_back_as_far_as_one_likes(filled):
    key = keys()
    items = filled.queue.claim("ada", n=3)
    for item in items:
        filled.decisions.decide(item.id, "ada", "spam", next(key))
    assert [filled.decisions.undo("ada", next(key)).comment_id for _ in items] == ids(items)[::-1]
    assert filled.decisions.undo("ada", next(key)) is None
    assert filled.queue.count() == 20 and filled.queue.held("ada")  # what was undone is before the user again
    entries = filled.decisions.history(items[0].id)
    assert [(entry.kind, entry.label, entry.previous, entry.undone) for entry in entries] == [
        ("single", "spam", "", True),
        ("undo", "", "spam", False),
    ]


def test_an_undo_sent_twice_undoes_once(filled):
    key = keys()
    items = filled.queue.claim("ada", n=2)
    for item in items:
        filled.decisions.decide(item.id, "ada", "spam", next(key))
    assert filled.decisions.undo("ada", "undo 1") == filled.decisions.undo("ada", "undo 1")
    assert filled.queue.item(items[0].id).label == "spam"
    with pytest.raises(UserError):
        filled.decisions.undo("ada", "")


def test_undo_gives_back_the_label_before_and_spares_the_decisions_of_others(filled):
    key = keys()
    [item] = filled.queue.claim("ada")

    def decide(user, label):
        shown = filled.queue.item(item.id)
        assert filled.decisions.decide(item.id, user, label, next(key), seen=shown.decision_id).outcome == "applied"

    decide("ada", "spam")
    decide("bob", "off-topic")
    filled.decisions.undo("ada", next(key))  # hers no longer counted
    assert filled.queue.item(item.id).label == "off-topic"
    filled.decisions.undo("bob", next(key))
    assert filled.queue.item(item.id).label == ""
    decide("bob", "on-topic")
    decide("bob", "low-effort")
    filled.decisions.undo("bob", next(key))
    assert filled.queue.item(item.id).label == "on-topic"


def test_the_database_itself_refuses_to_rewrite_history(filled):
    filled.decisions.decide(1, "ada", "spam", "k")
    for statement in (
        "UPDATE decisions SET label = 'on-topic'",
        "DELETE FROM decisions",
        "DELETE FROM steps",
        "UPDATE steps SET at = 0",
    ):
        with pytest.raises(Exception, match="only grows"):
            filled.database.write(lambda connection, statement=statement: connection.exec_driver_sql(statement))


def test_bulk_is_one_step_and_so_is_its_undo(filled):
    chosen = Filter(probability=("off-topic", 0.3, 1))
    count = filled.queue.count(chosen)
    [own] = filled.queue.claim("bob")  # the top of the queue, which the bulk covers
    filled.decisions.decide(filled.queue.page(sort="oldest").items[0].id, "ada", "on-topic", "k0")
    stale = filled.decisions.bulk(chosen, "off-topic", "ada", "b0", count=count + 1)
    assert (stale.outcome, stale.count) == ("stale", count) and filled.queue.count(chosen) == count
    done = filled.decisions.bulk(chosen, "off-topic", "ada", "b1", count=count)
    assert (done.outcome, done.count, done.kind) == ("applied", count, "bulk") and filled.queue.count(chosen) == 0
    assert filled.decisions.bulk(chosen, "off-topic", "ada", "b1", count=count).outcome == "duplicate"
    assert filled.decisions.decide(own.id, "bob", "spam", "late").outcome == "stale" and filled.queue.held("bob") == []
    [step] = filled.decisions.recent(kind="bulk")
    assert (step.count, step.undone, Filter(**json.loads(step.selection)).show) == (count, False, "undecided")
    undone = filled.decisions.undo("ada", "u1", step=step.id)
    assert (undone.count, undone.comment_id, undone.kind) == (count, 0, "bulk")
    assert filled.queue.count(chosen) == count and filled.queue.facets(Filter(show="all")).decided == 1
    assert filled.decisions.undo("ada", "u2", step=step.id) is None
    assert filled.decisions.undo("ada", "u3").kind == "single"
    with pytest.raises(UserError):
        filled.decisions.undo("bob", "u4", step=step.id)
    assert filled.decisions.bulk(Filter(text="nothing like it"), "spam", "ada", "b2").outcome == "stale"


def test_an_undo_of_anothers_step_stands_under_the_name_of_who_undid(filled):
    done = filled.decisions.bulk(Filter(), "spam", "ada", "b1")
    assert filled.decisions.undo("lea", "u1", step=done.step, anyones=True).count == done.count == filled.queue.count()
    assert filled.decisions.undo("lea", "u1", step=done.step, anyones=True).undoes == done.step, "sent again"
    assert filled.decisions.undo("ada", "u2", step=done.step) is None and filled.decisions.undo("ada", "u3") is None
    [step] = filled.decisions.recent(kind="bulk")
    assert (step.user, step.undone, step.undone_by) == ("ada", True, "lea")
    first = filled.queue.page(sort="oldest").items[0].id
    assert [(entry.user, entry.kind) for entry in filled.decisions.history(first)] == [("ada", "bulk"), ("lea", "undo")]
    assert filled.decisions.undo("lea", "u4") is None, "an undo is not taken back, and nothing else is hers"
    single = filled.decisions.decide(first, "ada", "spam", "k1")
    filled.decisions.undo("lea", "u5", step=single.step, anyones=True)
    assert filled.queue.held("lea") == filled.queue.held("ada") == [], "nobody asked for it"


def test_what_is_posted_most_often_comes_first(store):
    texts = (
        ["the same words again and again, friends"] * 3
        + ["buy my wonderful cheap carpets here today"] * 2
        + ["once only, this"]
    )
    items = [Comment(text, f"c{place}", BRIDGE) for place, text in enumerate(texts)]
    store.library.add(items, [verdict((0.1, 0.1, 0.7, 0.1))] * 6)
    assert [(item.id, count) for item, count in store.queue.repeated()] == [(1, 3), (4, 2)]
    store.decisions.decide(2, "ada", "spam", "k")
    assert [(item.id, count) for item, count in store.queue.repeated()] == [(1, 2), (4, 2)]
    assert [item.id for item, _ in store.queue.repeated(limit=1)] == [1]
    assert store.queue.repeated(Filter(article=99)) == []


def test_bulk_over_all_duplicates(store):
    store.library.add(
        [Comment("win a phone at our shop today friends", f"c{index}") for index in range(14)] + [Comment("what a pity", "x")]
    )
    item = store.queue.item(1)
    assert item.copies == 14
    assert store.decisions.bulk(Filter(copies_of=item.id), "spam", "ada", "b", count=14).count == 14
    assert store.queue.count() == 1


# -- double review ----------------------------------------------------------------------------------------------------------


def test_a_share_of_decisions_is_judged_again_by_another_and_blind(filled, clock):
    filled.policies.save(DEFAULT, "lead", mode="active", double_review=1.0)
    first = filled.queue.claim("ada", n=2)
    for index, item in enumerate(first):
        filled.decisions.decide(item.id, "ada", "spam", f"a{index}")
    assert not set(ids(filled.queue.claim("ada", n=20))) & set(ids(first))
    filled.queue.release("ada")
    seconds = []
    for _ in first:
        batch = filled.queue.claim("bob", n=5)
        for item in batch:
            assert (item.label, item.decided_by, item.decision_id, item.second) == ("", "", 0, 0)
        [mine] = [item for item in batch if item.id in ids(first) and item.id not in seconds]
        seconds.append(mine.id)
        label = "spam" if len(seconds) == 1 else "on-topic"
        assert filled.decisions.decide(mine.id, "bob", label, f"b{mine.id}").kind == "second"
    agreed, disputed = map(filled.queue.item, seconds)
    assert (agreed.second, disputed.second) == (2, 3) and disputed.label == "spam"
    assert ids(filled.queue.page(Filter(show="disputed")).items) == [disputed.id]
    [pair, together] = filled.insight.agreement_between_moderators()
    assert (pair.first, pair.second, pair.comments, pair.agreed) == ("ada", "bob", 2, 1)
    assert together.labels == {("spam", "spam"): 1, ("spam", "on-topic"): 1}
    rows = {row["comment_id"]: row["second_label"] for row in filled.export.rows("labels")}
    assert sorted(rows.values()) == ["on-topic", "spam"]
    # A lead settles it; an undo of the opinion takes it back.
    filled.decisions.decide(disputed.id, "lead", "on-topic", "l", seen=disputed.decision_id)
    assert filled.queue.item(disputed.id).second == 0 and filled.queue.count(Filter(show="disputed")) == 0
    filled.decisions.undo("bob", "u1")
    filled.decisions.undo("bob", "u2")
    assert filled.queue.item(agreed.id).second == 1


def test_a_late_decision_on_a_comment_that_wants_a_second_opinion_becomes_one(filled, clock):
    filled.policies.save(DEFAULT, "lead", mode="active", double_review=1.0)
    [item] = filled.queue.claim("ada")
    clock.now += 301
    assert filled.decisions.decide(item.id, "bob", "spam", "b").kind == "single"
    assert filled.decisions.decide(item.id, "ada", "on-topic", "a").kind == "second"
    assert filled.queue.item(item.id).second == 3


# -- policies ---------------------------------------------------------------------------------------------------------------


def test_policies_are_versions_and_actions_follow_the_active_one(filled, clock):
    assert filled.policies.active().version == 0
    clock.now += 1
    filled.library.add_model("m9", manifest={"thresholds": {"spam": {"review": 0.11}}})
    assert filled.policies.active().policy.review["spam"] == 0.11  # until one is saved, the model's own
    filled.library.add(*spread(5, GARDEN, start=50))
    strict = Policy(review={"off-topic": 0.2, "spam": 0.2, "low-effort": 0.2}, reject={"off-topic": 0.45}, approve=0.3)
    draft = filled.policies.save(strict, "ada", note="try")
    assert draft.mode == "draft" and filled.policies.get(draft.version) == draft
    expected = filled.policies.effect(strict)
    assert sum(expected.values()) == 25 and expected["reject"] == filled.queue.count(Filter(probability=("off-topic", 0.45, 1)))
    filled.policies.activate(draft.version)
    assert {name: filled.queue.facets().actions[name] for name in expected} == expected
    other = filled.policies.save(
        Policy(review=strict.review, reject={"off-topic": 0.2}), "ada", site="garden.example", mode="active"
    )
    assert filled.policies.active("garden.example").version == other.version
    assert filled.policies.active("news.example").version == filled.policies.active().version == draft.version
    assert filled.policies.effect(other.policy, "garden.example")["reject"] == filled.queue.count(
        Filter(site="garden.example", actions=["reject"])
    )
    third = filled.policies.save(DEFAULT, "ada", mode="active")
    assert [version.mode for version in filled.policies.versions("")] == ["active", "retired"]
    filled.library.add([Comment("more", "more", BRIDGE)], [verdict((0.55, 0.45, 0, 0), action="reject")])
    assert filled.queue.page(Filter(text="more")).items[0].verdict.action == "approve" and third.version


@pytest.mark.parametrize(
    "policy", [DEFAULT, Policy({"off-topic": 0.2, "spam": 0.1, "low-effort": 0.3}, {"spam": 0.3, "off-topic": 0.6}, 0.7)]
)
def test_the_database_and_the_policy_itself_propose_the_same(store, policy):
    import random

    draw = random.Random(1)
    verdicts = []
    for index in range(200):
        parts = [draw.random() ** 3 + 1e-6 for _ in LABELS]
        verdicts.append(verdict([part / sum(parts) for part in parts], reason=UNSUPPORTED_LANGUAGE if index % 10 == 0 else "x"))
    store.library.add([Comment(f"c {index}", f"c{index}") for index in range(200)], verdicts)
    store.policies.save(policy, "ada", mode="active")
    for item in store.queue.page(limit=500).items:
        assert item.verdict.action == policy.action(item.verdict.probabilities, item.verdict.reason != UNSUPPORTED_LANGUAGE)


def test_a_policy_in_shadow_mode_writes_down_what_it_would_do_and_does_nothing(filled):
    harsh = Policy({"off-topic": 0.1, "spam": 0.1, "low-effort": 0.1}, {"off-topic": 0.1}, 0.5)
    shadow = filled.policies.save(harsh, "ada", mode="shadow")
    items, verdicts = spread(10, GARDEN, start=30)
    filled.library.add(items, verdicts)
    filled.library.add(items, verdicts)
    report = filled.policies.shadow_report(shadow.version)
    assert sum(report.actions.values()) == 10 and report.actions["review", "reject"] == 10 and not report.decided
    assert filled.queue.facets(Filter(site="garden.example")).actions == {"review": 10}
    [item] = filled.queue.page(Filter(site="garden.example"), limit=1).items
    filled.decisions.decide(item.id, "ada", "on-topic", "k")
    assert filled.policies.shadow_report(shadow.version).decided == {("reject", "on-topic"): 1}
    log = filled.policies.shadow_log(shadow.version)
    assert len(log) == 10 and {(entry.action, entry.would) for entry in log} == {("review", "reject")}
    assert {entry.comment_id: entry.label for entry in log}[item.id] == "on-topic"
    assert len(filled.policies.shadow_log(shadow.version, limit=3)) == 3
    assert filled.policies.set_mode(shadow.version, "retired").mode == "retired"
    for wrong in (lambda: filled.policies.get(99), lambda: filled.policies.set_mode(shadow.version, "active"), lambda: filled.policies.save(DEFAULT, "a", mode="x"),
                  lambda: filled.policies.save(DEFAULT, "a", double_review=2)):  # fmt: skip
        with pytest.raises(UserError):
            wrong()


# -- insight ----------------------------------------------------------------------------------------------------------------


def test_insight_counts_what_stands(filled, clock):
    key = keys()
    for index, item in enumerate(filled.queue.claim("ada", n=4)):
        filled.decisions.decide(item.id, "ada", "off-topic" if index < 3 else "spam", next(key), seconds=2)
        clock.now += 1
    [item] = filled.queue.claim("bob")
    clock.now += 3600
    filled.decisions.decide(item.id, "bob", "spam", next(key))
    filled.decisions.undo("bob", next(key))
    filled.decisions.bulk(Filter(labels=["on-topic"]), "on-topic", "bob", next(key))
    [work] = filled.insight.work()
    assert (work.user, work.decisions, work.seconds, work.hour % 3600) == ("ada", 4, 2.0, 0)
    [day] = filled.insight.agreement_with_model()
    assert (day.decisions, day.agreed, day.model_version) == (4, 3, "m1")
    bins = filled.insight.reliability()
    assert sum(each.comments for each in bins) == 4 and all(each.low <= each.confidence < each.high for each in bins)
    assert filled.insight.confusion() == {("off-topic", "off-topic"): 3, ("off-topic", "spam"): 1}
    [mix] = filled.insight.mix_by_article()
    assert mix.title == BRIDGE.title and mix.counts == {"on-topic": 14, "off-topic": 5, "spam": 1, "low-effort": 0}
    assert sum(sum(mix.counts.values()) for mix in filled.insight.mix_by_day(days=None)) == 20
    judged = filled.insight.judged()
    assert len(judged) == 4 and all(label in LABELS and abs(sum(row) - 1) < 1e-6 for label, row in judged)
    assert filled.insight.agreement_between_moderators() == []
    clock.now += 200 * 86_400
    assert filled.insight.work() == [] and filled.insight.agreement_with_model() == []


def test_insight_of_an_empty_store(store):
    for name in ("work", "agreement_with_model", "agreement_between_moderators", "reliability", "mix_by_article", "mix_by_day"):
        assert getattr(store.insight, name)() == []
    assert store.insight.confusion() == {} and store.queue.facets().total == 0 and store.queue.claim("ada") == []


# -- people -----------------------------------------------------------------------------------------------------------------

PASSWORD = "correct horse battery"


def test_users_log_in_and_are_refused_alike_whatever_is_wrong(store, clock):
    assert not store.people.configured()
    ada = store.people.add("ada", PASSWORD, "admin")
    assert store.people.configured() and store.people.verify("ada", PASSWORD) == ada
    assert ada.may("lead") and not dataclasses.replace(ada, role="moderator").may("lead")
    said = set()
    for name, password in [("ada", "wrong"), ("nobody", PASSWORD), ("ada", ""), ("' OR 1=1", "x")]:
        with pytest.raises(LoginRefused) as refused:
            store.people.verify(name, password)
        said.add(str(refused.value))
    assert len(said) == 1
    with store.database.read() as connection:
        stored = connection.exec_driver_sql("SELECT password FROM users").scalar()
    assert stored.startswith("$argon2id$") and PASSWORD not in stored


def test_a_hash_of_other_settings_is_renewed_at_a_login_and_the_password_stays_good(store):
    longest = "p" * 1000  # of a longer one no more is looked at
    store.people.add("ada", longest)
    old = PasswordHasher(2, 8, 1).hash(longest)
    store.database.write(lambda connection: connection.execute(sa.text("UPDATE users SET password = :old"), {"old": old}))
    assert store.people.verify("ada", longest + "q").name == "ada"
    with store.database.read() as connection:
        assert connection.exec_driver_sql("SELECT password FROM users").scalar() != old
    assert store.people.verify("ada", longest).name == "ada"


def test_guessing_is_slowed_down(store, clock):
    store.people.add("ada", PASSWORD)
    for _ in range(5):
        with pytest.raises(LoginRefused):
            store.people.verify("ada", "guess", "10.0.0.1")
        clock.now += 1
    with pytest.raises(LoginRefused, match="too many attempts") as refused:
        store.people.verify("ada", PASSWORD, "10.0.0.1")
    assert 0 < refused.value.wait <= 900
    assert store.people.verify("ada", PASSWORD, "10.0.0.2").name == "ada"  # from elsewhere she may
    clock.now += 900
    assert store.people.verify("ada", PASSWORD, "10.0.0.1").name == "ada"


def test_a_success_starts_the_count_anew(store, clock):
    store.people.add("ada", PASSWORD)
    for _ in range(3):
        for _ in range(4):
            clock.now += 1
            with pytest.raises(LoginRefused):
                store.people.verify("ada", "typo", "10.0.0.1")
        clock.now += 1
        store.people.verify("ada", PASSWORD, "10.0.0.1")


def test_last_seen_is_the_last_login_or_the_last_step(filled, clock):
    people = filled.people
    people.add("ada", "long enough for it")
    people.add("bob", "long enough for it", "lead")
    assert people.last_seen() == {}
    people.verify("ada", "long enough for it", "::1")
    with pytest.raises(LoginRefused):
        people.verify("bob", "wrong wrong wrong", "::1")
    assert people.last_seen() == {"ada": clock.now}
    clock.now += 60
    filled.decisions.decide(1, "bob", "spam", "k")
    filled.decisions.decide(2, "ada", "spam", "k")
    assert people.last_seen() == {"ada": clock.now, "bob": clock.now}


def test_sessions_end(store, clock):
    store.people.add("ada", PASSWORD, "admin")
    store.people.add("bob", PASSWORD)
    token = store.people.start_session("bob", seconds=60)
    assert store.people.session_user(token).name == "bob" and store.people.session_user("forged") is None
    with store.database.read() as connection:
        assert token not in str(connection.exec_driver_sql("SELECT * FROM sessions").all())
    clock.now += 61
    assert store.people.session_user(token) is None
    for end in (
        lambda: store.people.disable("bob"),
        lambda: store.people.set_password("bob", PASSWORD + "!"),
        lambda: store.people.end_session(token),  # noqa: B023 - called in the same turn
    ):
        store.people.disable("bob", False)
        token = store.people.start_session("bob")
        assert store.people.session_user(token)
        end()
        assert store.people.session_user(token) is None
    store.people.disable("bob")
    with pytest.raises(UserError):
        store.people.start_session("bob")
    with pytest.raises(LoginRefused):
        store.people.verify("bob", PASSWORD + "!")


def test_people_cannot_lock_themselves_out_or_share_a_name(store):
    store.people.add("ada", PASSWORD, "admin")
    for wrong in (
        lambda: store.people.disable("ada"),
        lambda: store.people.set_role("ada", "lead"),
        lambda: store.people.add("Ada", PASSWORD),
        lambda: store.people.add("<b>", PASSWORD),
        lambda: store.people.add("", PASSWORD),
        lambda: store.people.add("bob", "short"),
        lambda: store.people.add("bob", PASSWORD, "god"),
        lambda: store.people.get("bob"),
        lambda: store.people.set_password("bob", PASSWORD),
    ):
        with pytest.raises(UserError):
            wrong()
    store.people.add("bob", PASSWORD, "admin")
    store.people.disable("ada")
    assert [(user.name, user.disabled) for user in store.people.all()] == [("ada", True), ("bob", False)]


# -- what goes out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "decisions", "rows"])
def test_every_format_holds_the_same_rows(filled, tmp_path, kind):
    import pyarrow.parquet as pq
    from datasets import load_from_disk

    for index, item in enumerate(filled.queue.claim("ada", n=3)):
        filled.decisions.decide(item.id, "ada", "spam", f"k{index}", note="why", seconds=1)
    expected = 20 if kind == "rows" else 3
    for name in ("o.jsonl", "o.csv", "o.parquet", "folder", "folder"):
        assert filled.export.write(tmp_path / name, kind) == expected
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    with (tmp_path / "o.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    parquet = pq.read_table(tmp_path / "o.parquet").to_pylist()
    folder = load_from_disk(str(tmp_path / "folder"))
    assert lines == parquet == list(folder) and len(table) == expected
    for line, row in zip(lines, table, strict=True):
        assert {name: "" if value is None else str(value) for name, value in line.items()} == row
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "o", "folder"))) == [
        "folder",
        "o.csv",
        "o.jsonl",
        "o.parquet",
    ]


def test_exported_labels_are_native_rows_that_our_readers_read(filled, tmp_path):
    filled.decisions.decide(1, "ada", "spam", "k")
    filled.export.write(tmp_path / "labels.csv", "labels")
    [read] = read_comments([tmp_path / "labels.csv"])
    assert read == filled.queue.item(1).comment


def test_a_spreadsheet_runs_nothing_of_ours(store, tmp_path):
    evil = ['=HYPERLINK("http://x.example")', "+1", "-1", "@SUM(A1)", "\t=1", "'=1"]
    store.library.add([Comment(text, f"=c{index}", Article("=a", "=t"), author="=cmd") for index, text in enumerate(evil)])
    store.decisions.bulk(Filter(), "spam", "=ada", "k", note="=note")
    for kind in ("labels", "decisions", "rows"):
        store.export.write(tmp_path / "o.csv", kind)
        with (tmp_path / "o.csv").open(encoding="utf-8-sig", newline="") as file:
            cells = [cell for row in csv.DictReader(file) for cell in row.values()]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]


def test_an_export_appears_whole_or_not_at_all(filled, tmp_path, monkeypatch):
    (tmp_path / "o.csv").write_text("before")
    (tmp_path / "mine").mkdir()
    rows = filled.export.rows

    def broken(*arguments):
        yield from rows(*arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filled.export, "rows", broken)
    with pytest.raises(OSError):
        filled.export.write(tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text() == "before"
    monkeypatch.undo()
    for out, kind in [("o.txt", "rows"), ("mine", "rows"), ("x.csv", "everything")]:
        with pytest.raises(UserError):
            filled.export.write(tmp_path / out, kind)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    filled.database.write(lambda connection: None)
    assert filled.export.write(tmp_path / "empty", "labels") == 0


# -- opening ----------------------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_that_the_code_knows(new_url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from moderation.store.tables import metadata

    with Store(new_url(empty=True)) as store, store.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_database_of_a_newer_version_is_refused(new_url):
    url = new_url()
    with Store(url) as store:
        store.database.write(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="newer version"):
        Store(url)


def test_many_processes_may_open_a_new_database_at_once(new_url):
    url = new_url(empty=True)
    code = "import sys; from moderation.store import Store; sys.stdin.read(1); Store(sys.argv[1]).close()"
    running = [
        subprocess.Popen([sys.executable, "-c", code, url], stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    errors = [process.communicate(b"x")[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * 3, errors
    with Store(url) as store:
        assert store.queue.count() == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///nowhere/at/all.db", "unable to open"),
        ("sqlite://", "SQLite file"),
        ("mysql://u:secret@h/x", "expected an sqlite"),
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot be opened"),
        ("postgresql://u:secret@h:port/x", "cannot be read"),
        ("://", "cannot be read"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line_without_the_password(tmp_path, monkeypatch, url, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as refused:
        Store(url)
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_database_or_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "text.db").write_text("not a database at all " * 100)
    with pytest.raises(UserError, match="not a database"):
        Store(tmp_path / "text.db")


def test_a_new_file_is_for_its_owner_only(tmp_path):
    with Store(tmp_path / "new.db") as store:
        store.people.add("ada", PASSWORD)
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_where_the_store_is(monkeypatch):
    monkeypatch.delenv("MODERATION_DATABASE_URL", raising=False)
    assert database_url() == "sqlite:///moderation.db" and database_url("/x/y.db") == "sqlite:////x/y.db"
    monkeypatch.setenv("MODERATION_DATABASE_URL", "postgres://h/x")
    assert database_url() == "postgresql+psycopg://h/x" and database_url("other.db") == "sqlite:///other.db"
