"""The parts of the learning loop that need no model: the gate, label errors, thresholds, what to label next, drift."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.policy import DEFAULT, Policy
from moderation.schema import LABELS, Article, Comment, UserError, Verdict
from moderation.store import Filter
from training import choose, doubts, drift, gate
from training.lanes import flagged, folds, refit_thresholds

pytest_plugins = ["databases"]


def judged(truth, right, draw, sure=0.8):
    """Probabilities that call a part `right` of the rows by their true label."""
    called = np.where(draw.random(len(truth)) < right, truth, (truth + draw.integers(1, 4, len(truth))) % 4)
    return np.full((len(truth), 4), (1 - sure) / 3) + np.eye(4)[called] * (sure - (1 - sure) / 3)


def rows(n=400, champion=0.7, challenger=0.7, threads=20, seed=0, truth=None):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 4, n) if truth is None else truth
    names = [f"t{number % threads}" for number in range(n)]
    return gate.Rows(truth, judged(truth, champion, draw), judged(truth, challenger, draw), names)


# -- the gate -----------------------------------------------------------------------------------------------------------------


def test_a_clearly_better_challenger_may_be_promoted():
    found = gate.judge(rows(challenger=0.9), rows(seed=1), rows(seed=2, challenger=0.7), DEFAULT, 0.2)
    assert found.outcome == "promote" and found.sentence.startswith("better on the site's decisions: macro-F1 0.9")
    names = {one.name for one in found.figures}
    assert {"macro-F1", "holdout macro-F1", "spam precision", "off-topic recall", "robustness"} <= names
    assert {"base macro-F1", "base spam precision", "base off-topic recall"} <= names


def test_a_worse_one_is_refused_and_so_is_one_that_is_no_better():
    assert gate.judge(rows(challenger=0.5), None, None, DEFAULT, 0.2).sentence.startswith(
        "refused: worse on the site's decisions"
    )
    same = rows()
    same = gate.Rows(same.truth, same.champion, same.champion, same.groups)
    assert gate.judge(same, None, None, DEFAULT, 0.2).sentence.startswith("refused: no better")


def test_decisions_outside_the_holdout_help_to_tell_and_the_holdout_stays_the_last_word():
    little = rows(n=120, champion=0.7, challenger=0.76, threads=20, seed=9)
    more = rows(n=900, champion=0.7, challenger=0.76, threads=80, seed=10)
    assert gate.judge(little, None, None, DEFAULT, 0.2).outcome != "promote"
    assert gate.judge(little, None, None, DEFAULT, 0.2, crossed=more).outcome == "promote"
    worse = rows(n=120, champion=0.8, challenger=0.6, threads=20, seed=6)
    found = gate.judge(worse, None, None, DEFAULT, 0.2, crossed=rows(n=3000, challenger=0.85, threads=80, seed=7))
    assert found.outcome == "refuse" and "holdout macro-F1 would fall" in found.sentence and "may not fall" in found.sentence
    young = gate.judge(rows(n=20), None, None, DEFAULT, 0.2, crossed=rows(n=900, challenger=0.9, threads=80, seed=8))
    assert young.outcome == "undecided" and "holdout of 20 decisions" in young.sentence, "no promotion without a holdout"
    assert gate.judge(rows(n=20), None, None, DEFAULT, 0.2, crossed=rows(n=900, challenger=0.5, seed=8)).outcome == "refuse"


def test_a_protected_figure_that_falls_is_named_with_both_figures_and_the_limit():
    better = rows(challenger=0.9)
    base = rows(n=1000, seed=1, champion=0.9, challenger=0.9)
    worse = base.challenger.copy()
    on_topic = np.flatnonzero(base.truth == 0)[:80]
    worse[on_topic] = np.eye(4)[2] * 0.8 + 0.05  # on-topic comments called spam
    base = gate.Rows(base.truth, base.champion, worse, base.groups)
    found = gate.judge(better, base, None, DEFAULT, 0.2)
    assert found.outcome == "refuse" and "may be lost" in found.sentence and "base " in found.sentence
    assert any(one.lost for one in found.figures)
    lenient = Policy.from_table({"limits": {"base macro-F1": 0.5, "base spam precision": 0.9, "base off-topic recall": 0.9}})
    assert gate.judge(better, base, None, lenient, 0.2).outcome == "promote"


@pytest.mark.parametrize(("name", "label"), [("spam precision", 2), ("off-topic recall", 1)])
def test_the_sites_spam_precision_and_off_topic_recall_are_protected(name, label):
    better = rows(n=800, champion=0.7, challenger=0.95)
    worse = better.challenger.copy()
    hit = np.flatnonzero(better.truth == (0 if label == 2 else label))[:100]
    worse[hit] = np.eye(4)[2 if label == 2 else 3] * 0.8 + 0.05
    found = gate.judge(gate.Rows(better.truth, better.champion, worse, better.groups), None, None, DEFAULT, 0.2)
    assert found.outcome == "refuse" and f"refused: {name} would fall" in found.sentence


def test_a_handful_of_comments_shuts_no_gate():
    better = rows(n=400, champion=0.6, challenger=0.9, truth=np.random.default_rng(0).choice([0, 1, 3], 400))
    champion, challenger = (
        np.where(p.argmax(1)[:, None] == 2, np.roll(p, 1, axis=1), p) for p in (better.champion, better.challenger)
    )
    champion[:3] = challenger[3:5] = np.eye(4)[2] * 0.8 + 0.05
    truth = better.truth.copy()
    truth[:3] = 2  # three of three against none of two
    found = gate.judge(gate.Rows(truth, champion, challenger, better.groups), None, None, DEFAULT, 0.2)
    figure = next(one for one in found.figures if one.name == "spam precision")
    assert (figure.champion, figure.challenger, figure.lost, figure.verdict) == (1, 0, False, "too few to tell")
    assert "spam precision" not in found.sentence


def test_a_line_drawn_elsewhere_is_no_forgetting_but_another_order_is():
    base = rows(n=1500, seed=1, champion=0.85, challenger=0.85)
    bolder = base.champion.copy()
    bolder[:, 1] *= np.random.default_rng(0).uniform(0.05, 0.06, len(bolder))
    bolder /= bolder.sum(1, keepdims=True)
    base = gate.Rows(base.truth, base.champion, bolder, base.groups)
    found = gate.judge(rows(challenger=0.9), base, None, Policy.from_table({"limits": {"base macro-F1": 1.0}}), 0.2)
    recall = next(one for one in found.figures if one.name == "base off-topic recall")
    assert recall.challenger == pytest.approx(recall.champion, abs=0.03) and not recall.lost
    blind = base.champion.copy()
    blind[base.truth == 1] = np.roll(blind[base.truth == 1], 1, axis=0)[:, [0, 3, 2, 1]]
    found = gate.judge(
        rows(challenger=0.9), gate.Rows(base.truth, base.champion, blind, base.groups), None,
        Policy.from_table({"limits": {"base macro-F1": 1.0}}), 0.2,
    )  # fmt: skip
    assert "base off-topic recall would fall" in found.sentence


def test_forgetting_is_refused_even_if_the_site_gains():
    found = gate.judge(rows(challenger=0.9), rows(n=1000, seed=1, champion=0.9, challenger=0.8), None, DEFAULT, 0.2)
    assert found.outcome == "refuse" and "base" in found.sentence


def test_too_few_labels_are_an_answer_with_a_number_and_a_kind():
    found = gate.judge(rows(n=30), None, None, DEFAULT, 0.2)
    assert (found.outcome, found.needed) == ("undecided", 150)
    assert "holdout of 30 decisions from 20 threads: needs about 150 more decisions, most useful kind: " in found.sentence
    assert "from 1 thread:" in gate.judge(rows(threads=1), None, None, DEFAULT, 0.2).sentence
    truth = np.random.default_rng(0).choice([0, 1, 3], 120)
    found = gate.judge(rows(n=120, challenger=0.73, seed=3, truth=truth), None, None, DEFAULT, 0.2)
    assert found.outcome != "promote"
    if found.outcome == "undecided":
        assert found.needed and "most useful kind: spam" in found.sentence and "none in the holdout yet" in found.sentence


def test_a_small_gain_asks_for_more_decisions_and_fewer_when_the_gain_is_larger():
    needed = {}
    for gain in (0.03, 0.06):
        answers = [gate.judge(rows(n=200, challenger=0.7 + gain, seed=seed), None, None, DEFAULT, 0.2) for seed in range(12)]
        counts = [one.needed for one in answers if one.outcome == "undecided"]
        needed[gain] = np.median(counts) if counts else 0
    assert needed[0.03] > needed[0.06]


@pytest.mark.parametrize(("n", "threads"), [(300, 12), (600, 60)])
def test_an_equal_challenger_is_promoted_one_time_in_twenty(n, threads):
    found = [
        gate.judge(
            rows(n // 5, threads=max(5, threads // 5), seed=seed), None, None, DEFAULT, 0.2, draws=200,
            crossed=rows(n - n // 5, threads=threads, seed=10_000 + seed),
        ).figures[0].verdict
        for seed in range(300)
    ]  # fmt: skip
    # 300 tries at 5 %: more than 27 are chance once in 1,000; the simulation of docs/LOG.md has unequal and unlike threads.
    assert found.count("better") <= 27 and found.count("worse") <= 27, Counter(found)


# -- label errors -------------------------------------------------------------------------------------------------------------


def test_errors_are_found_where_they_are_made_and_careful_people_are_left_in_peace():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 4, 1200)
    users = np.array(["careful", "careless"] * 600)
    wrong = draw.random(1200) < np.where(users == "careless", 0.3, 0.02)
    given_ = np.where(wrong, (truth + draw.integers(1, 4, 1200)) % 4, truth)
    probabilities = judged(truth, 0.82, draw, sure=0.85)  # the model errs more often than the careful moderator
    found = doubts.doubtful(given_, probabilities, users)
    places = [row for row, _, _ in found]
    _, rates = doubts.errors(given_, probabilities, users)
    assert rates["careful"] < 0.06 < 0.2 < rates["careless"] < 0.4
    assert wrong[places].mean() > 0.5 and wrong[places].sum() > 0.6 * wrong.sum()
    assert (users[places] == "careful").sum() < 0.05 * 600
    assert np.mean([suggested == truth[row] for row, suggested, _ in found if wrong[row]]) > 0.7
    chances = [chance for _, _, chance in found]
    assert chances == sorted(chances, reverse=True)


def test_one_class_or_nothing_has_no_errors_to_find():
    assert doubts.doubtful(np.zeros(0, int), np.zeros((0, 4)), []) == []
    assert doubts.doubtful(np.zeros(50, int), np.full((50, 4), 0.25), ["a"] * 50) == []


# -- thresholds ---------------------------------------------------------------------------------------------------------------


def spread(n, seed, sharpness):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 4, n)
    scores = np.exp(sharpness * (draw.normal(size=(n, 4)) + 1.5 * np.eye(4)[truth]))
    return truth, scores / scores.sum(1, keepdims=True)


def test_a_promised_workload_holds_under_the_new_model():
    truth, now = spread(1000, 1, 2.5)
    then = spread(1000, 1, 1.0)[1]
    for share in (0.05, 0.3, 0.9):
        policy = Policy.from_table({"spam": {"review": 0.4, "reject": 0.97}, "promise": {"workload": share}})
        fitted = refit_thresholds(policy, truth, now, now, then)
        assert flagged(fitted, now) <= share + 1e-9 and flagged(fitted, now) > share - 0.05
        assert Policy.from_table(fitted.to_table()) == fitted


def test_a_promised_precision_holds_on_rows_that_nobody_trained_on():
    truth, now = spread(2000, 2, 2.0)
    policy = Policy.from_table({"spam": {"review": 0.4, "reject": 0.6}, "promise": {"precision": {"spam": 0.97}}})
    fitted = refit_thresholds(policy, truth, now, now, now)
    caught = now[:, 2] >= fitted.reject["spam"]
    assert caught.any() and (truth[caught] == 2).mean() >= 0.97 and fitted.promise == policy.promise
    unreachable = refit_thresholds(policy, np.zeros(2000, int), now, now, now)
    assert unreachable.reject["spam"] == 1.0, "what cannot be promised is not done unseen"


def test_without_a_promise_every_threshold_catches_as_many_as_before():
    truth, now = spread(1500, 3, 3.0)
    then = spread(1500, 3, 1.0)[1]
    policy = Policy.from_table({"spam": {"review": 0.4, "reject": 0.8}})
    fitted = refit_thresholds(policy, truth, now, now, then)
    for label, limit in fitted.review.items():
        number = LABELS.index(label)
        assert abs((now[:, number] >= limit).sum() - (then[:, number] >= policy.review[label]).sum()) <= 1
    assert fitted.reject["spam"] >= policy.reject["spam"], "nothing is rejected unseen more easily"
    assert refit_thresholds(policy, truth[:0], now[:0], now[:0], then[:0]) == policy, "no comment, no change"


@pytest.mark.parametrize(
    "table",
    [{"promise": {"workload": 0}}, {"promise": {"precision": {"on-topic": 0.9}}}, {"promise": {"recall": 0.5}}, {"promise": 3},
     {"promise": {"workload": 0.1, "precision": {"spam": 0.9}}}, {"limits": {"speed": 0.1}}, {"limits": {"robustness": 2}}],
)  # fmt: skip
def test_a_wrong_promise_or_limit_is_refused(table):
    with pytest.raises(UserError, match=r"thresholds: (promise|limits): expected"):
        Policy.from_table(table)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60))
def test_folds_keep_threads_together_and_are_never_empty(threads):
    found = folds(threads)
    assert len(set(found)) >= 2 and set(found) == set(range(max(found) + 1))
    if len(set(threads)) > 1:
        for name in set(threads):
            assert len({found[place] for place, one in enumerate(threads) if one == name}) == 1


# -- what to label next ---------------------------------------------------------------------------------------------------------


def test_the_order_holds_all_once_begins_with_the_most_valuable_and_leaves_a_share_to_chance():
    values = np.linspace(0, 1, 200)
    ranked = choose.rank([values], share=0.25, seed=4)
    assert sorted(ranked.order) == list(range(200)) and 25 <= len(ranked.drawn) <= 80
    by_value = [place for place in ranked.order if place not in ranked.drawn]
    assert by_value == sorted(by_value, reverse=True)
    assert choose.rank([values], share=0.0).order == tuple(range(199, -1, -1))
    assert choose.rank([values], share=0.25, seed=4) == ranked


def test_of_comments_that_are_alike_one_is_asked_about_first():
    vectors = np.eye(20)[np.repeat(np.arange(20), 10)] + 0.01 * np.random.default_rng(0).normal(size=(200, 20))
    values = np.repeat(np.linspace(0, 1, 20), 10)  # by value alone ten copies of one comment would come first
    ranked = choose.rank([values], vectors, share=0.0)
    assert len({place // 10 for place in ranked.order[:20]}) >= 12


def test_uncertainty_and_disagreement():
    sure, torn = np.array([[0.97, 0.01, 0.01, 0.01], [0.4, 0.4, 0.1, 0.1]])
    assert choose.uncertainty(np.array([sure, torn])).argmax() == 1
    np.testing.assert_allclose(choose.disagreement(np.eye(4)[[0, 1]], np.eye(4)[[0, 2]]), [0, 1])
    near = choose.neighbours(np.eye(3)[:1], np.eye(3), np.array([2, 0, 1]), 4, k=1)
    assert (
        near[0].argmax() == 2 and choose.neighbours(np.eye(3), np.zeros((0, 3)), np.zeros(0, int), 4)[0].tolist() == [0.25] * 4
    )


def test_equal_values_give_equal_ranks():
    values = [np.zeros(50), np.r_[np.ones(5), np.zeros(45)]]
    assert set(choose.rank(values, share=0.0).order[:5]) == set(range(5))


def test_the_queue_goes_by_value_and_remembers_what_chance_chose(store):
    store.library.add([Comment(f"remark {n}", f"c{n}", Article("a", "Bridge")) for n in range(6)])
    numbers = [item.id for item in store.queue.page(sort="oldest").items]
    store.lessons.order({number: value for value, number in enumerate(numbers)}, drawn=numbers[:2])
    assert [item.id for item in store.queue.claim("ada", sort="value", n=3)] == numbers[:2:-1]
    store.lessons.order({numbers[0]: 1.0}, drawn=numbers[:1])
    assert store.queue.page(sort="value").items[0].id == numbers[0]
    assert [item.priority for item in store.queue.items(numbers)] == [1.0, 0, 0, 0, 0, 0]


# -- the store's part -------------------------------------------------------------------------------------------------------------


def verdict(label, confidence=0.9, version="m1"):
    rest = (1 - confidence) / 3
    return Verdict(label, {one: confidence if one == label else rest for one in LABELS}, "review", "why", version)


def test_a_doubt_is_asked_once_and_ends_with_the_next_decision(store):
    store.library.add([Comment("remark", "c", Article("a", "Bridge"))], [verdict("spam")])
    [item] = store.queue.page().items
    store.decisions.decide(item.id, "ada", "spam", "one")
    [lesson] = store.lessons.decided()
    assert (lesson.state, lesson.user, lesson.kind, lesson.thread) == ("counts", "ada", "single", "|id:a")
    assert store.lessons.doubt({item.id: (lesson.decision, "on-topic", 0.1)}) == 1
    [flagged_item] = store.queue.page(Filter(show="flagged")).items
    assert flagged_item.flag == "please look again: similar comments were labelled on-topic"
    assert next(store.lessons.decided()).state == "doubted"
    store.decisions.decide(item.id, "ada", "spam", "two", seen=lesson.decision)
    assert next(store.lessons.decided()).state == "confirmed" and not store.queue.page(Filter(show="flagged")).items
    assert store.lessons.doubt({item.id: (lesson.decision, "on-topic", 0.1)}) == 0, "a decision that counts no more"


def test_the_model_in_use_gives_the_thresholds_until_a_policy_is_saved(store):
    for version, limit in (("old", 0.3), ("new", 0.7)):
        store.library.use_model(version, manifest={"thresholds": {"spam": {"review": limit}}})
    assert store.policies.active().policy.review["spam"] == 0.7
    store.library.use_model("old", manifest={"thresholds": {"spam": {"review": 0.3}}})
    assert store.policies.active().policy.review["spam"] == 0.3 and store.library.models()[0].version == "old"


WEEK = 604_800.0


def fill(store, counts, week, title, confidence=0.9, right=1.0):
    start = 100 * WEEK + week * WEEK
    article = Article(f"{title}-{week}", title)
    labels = [label for label, count in counts.items() for _ in range(count)]
    items = [
        Comment(f"{title} {week} {n}", f"{title}-{week}-{n}", article, created_at=stamp(start + 60 * n))
        for n, _ in enumerate(labels)
    ]
    store.library.add(items, [verdict(label, confidence) for label in labels])
    found = {item.comment.comment_id: item for item in store.queue.page(Filter(show="undecided"), limit=500).items}
    for n, item in enumerate(items):
        label = labels[n] if n < right * len(items) else LABELS[(LABELS.index(labels[n]) + 1) % 4]
        store.decisions.decide(found[item.comment_id].id, "ada", label, f"{title}-{week}-{n}")


def stamp(seconds):
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_drift_is_told_with_the_articles_behind_it(store):
    now = [0.0]
    store.decisions._clock = lambda: now[0]
    usual = {"on-topic": 40, "off-topic": 10, "spam": 5, "low-effort": 5}
    for week in range(3):
        now[0] = 100 * WEEK + week * WEEK + 1000
        fill(store, usual, week, "The usual")
    assert drift.find(store) == [], "weeks alike give no warning"
    now[0] = 103 * WEEK + 1000
    fill(store, usual, 3, "The usual")
    fill(store, {"spam": 40}, 3, "A raffle", confidence=0.6, right=0.2)
    found = {one.kind + one.label: one for one in drift.find(store)}
    assert {"mixspam", "confidence", "agreement"} <= set(found)
    assert found["mixspam"].articles[0] == ("A raffle", 40) and found["agreement"].articles[0][0] == "A raffle"
    sentence = str(found["mixspam"])
    assert "45% of the comments are called spam (8% before); behind it: “A raffle” (40)" in sentence
    rarer = next(one for one in found.values() if one.label == "on-topic")
    assert rarer.after < rarer.before and rarer.articles == (("A raffle", 27),), "40 comments, two thirds of which used to be"
    assert "behind it: “A raffle” (27 fewer)" in str(rarer) and len(rarer.numbers) == 1
    assert {one.kind for one in drift.find(store, learned_at=101 * WEEK)} >= {"mix"}


def test_the_articles_behind_a_drift_are_asked_about_earlier(store, moderator, monkeypatch):
    now = [0.0]
    store.decisions._clock = lambda: now[0]
    for week in range(4):
        now[0] = 100 * WEEK + week * WEEK + 1000
        fill(store, {"on-topic": 40, "off-topic": 10, "spam": 5, "low-effort": 5}, week, "The usual")
    fill(store, {"spam": 80}, 3, "A raffle")  # with more decisions than the others, so that newness speaks against it
    names = ("A raffle-3", "The usual-3")
    stays = [Comment(f"the same {n}", f"open {n} {name}", Article(name, name[:-2])) for n in range(10) for name in names]
    store.library.add(stays, [verdict("spam")] * len(stays))

    def places():
        ranked = choose.order_queue(store, moderator, share=0.0)
        assert len(ranked.order) == len(stays) and not ranked.drawn
        titles = [item.comment.article.title for item in store.queue.page(sort="value", limit=20).items]
        return sum(place for place, title in enumerate(titles) if title == "A raffle")

    seen = places()
    monkeypatch.setattr(choose, "DRIFT_WEEKS", 0)
    assert seen < places()


def test_few_comments_give_no_alarm(store):
    for week, label in enumerate(("on-topic", "spam")):
        fill(store, {label: 20}, week, "Small")
    assert drift.find(store) == []


def test_estimates_from_what_chance_chose(store):
    store.library.add([Comment(f"remark {n}", f"c{n}") for n in range(4)], [verdict("spam")] * 4)
    items = store.queue.page().items
    store.lessons.order({}, drawn=[items[0].id, items[1].id])
    for number, (item, label) in enumerate(zip(items, ("spam", "on-topic", "spam", "spam"), strict=True)):
        store.decisions.decide(item.id, "ada", label, f"k{number}")
    assert store.insight.drawn() == {("spam", "spam"): 1, ("spam", "on-topic"): 1}
