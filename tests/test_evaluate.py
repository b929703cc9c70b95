"""The figures: against scikit-learn, against values worked out by hand, and by properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from moderation.schema import LABELS, UserError
from training import evaluate
from training.evaluate import Bootstrap


def sample(rows=400, threads=40, skill=0.6, seed=0):
    """Labels, probabilities and threads of a model of some skill."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(4, size=rows)
    probabilities = generator.dirichlet([0.7] * 4, size=rows)
    probabilities[np.arange(rows), truth] += skill
    probabilities /= probabilities.sum(1, keepdims=True)
    return truth, probabilities, [f"thread {number}" for number in generator.integers(threads, size=rows)]


def named(truth):
    return [LABELS[index] for index in truth]


@pytest.fixture(scope="module")
def measured():
    truth, probabilities, groups = sample()
    return truth, probabilities, evaluate.measure(named(truth), probabilities, groups, draws=200)


@pytest.mark.parametrize("label", LABELS)
def test_precision_recall_and_f1_are_those_of_scikit_learn(measured, label):
    truth, probabilities, result = measured
    expected = metrics.precision_recall_fscore_support(truth, probabilities.argmax(1))
    found = result["per_class"][label]
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx(
        [part[LABELS.index(label)] for part in expected[:3]]
    )


def test_whole_figures_are_those_of_scikit_learn(measured):
    truth, probabilities, result = measured
    predicted = probabilities.argmax(1)
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert result["kappa"] == pytest.approx(metrics.cohen_kappa_score(truth, predicted))
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert result["brier"] == pytest.approx(sum(((truth == c) - probabilities[:, c]) ** 2 for c in range(4)).mean())
    assert result["confusion"] == metrics.confusion_matrix(truth, predicted).tolist()


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.3, 0.5, 0.9, 1.0])), min_size=2, max_size=40))
def test_auc_and_average_precision_are_those_of_scikit_learn_even_with_ties(rows):
    positive, score = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    drawn = Bootstrap(range(len(rows)), 0).ranking(positive, score)
    if 0 < positive.sum() < len(rows):
        assert drawn["auc"][0] == pytest.approx(metrics.roc_auc_score(positive, score))
    else:
        assert math.isnan(drawn["auc"][0])
    if positive.any():
        assert drawn["ap"][0] == pytest.approx(metrics.average_precision_score(positive, score))
        best = max(metrics.f1_score(positive, score >= threshold) for threshold in set(score))
        assert drawn["best_f1"][0] == pytest.approx(best)


def test_weighted_draws_are_those_of_scikit_learn_with_sample_weights():
    truth, probabilities, groups = sample(120, 12)
    bootstrap = Bootstrap(groups, 5)
    drawn = evaluate.scores(truth, probabilities, bootstrap)
    areas = bootstrap.ranking(truth == 2, probabilities[:, 2])
    for draw in range(6):
        weights = bootstrap.weights[draw][bootstrap.index]
        assert drawn["macro_f1"][draw] == pytest.approx(
            metrics.f1_score(truth, probabilities.argmax(1), average="macro", sample_weight=weights)
        )
        assert drawn["kappa"][draw] == pytest.approx(
            metrics.cohen_kappa_score(truth, probabilities.argmax(1), sample_weight=weights)
        )
        assert areas["auc"][draw] == pytest.approx(
            metrics.roc_auc_score(truth == 2, probabilities[:, 2], sample_weight=weights)
        )
        assert areas["ap"][draw] == pytest.approx(
            metrics.average_precision_score(truth == 2, probabilities[:, 2], sample_weight=weights)
        )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_rows_changes_nothing(seed):
    truth, probabilities, groups = sample(60, 9)
    order = np.random.default_rng(seed).permutation(60)
    straight = evaluate.measure(named(truth), probabilities, groups, draws=50)
    shuffled = evaluate.measure(named(truth[order]), probabilities[order], [groups[index] for index in order], draws=50)
    assert shuffled["intervals"].keys() == straight["intervals"].keys()
    for name, pair in straight["intervals"].items():
        assert shuffled["intervals"][name] == pytest.approx(pair, nan_ok=True), name
    assert shuffled["macro_f1"] == pytest.approx(straight["macro_f1"])


def test_the_order_of_rows_changes_nothing_without_threads_either():
    truth, probabilities, _ = sample(60)
    straight = evaluate.measure(named(truth), probabilities, draws=50)
    turned = evaluate.measure(named(truth[::-1]), probabilities[::-1], draws=50)
    assert turned["intervals"]["macro_f1"] == pytest.approx(straight["intervals"]["macro_f1"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=40))
def test_a_perfect_model_scores_one(indices):
    truth = [0, 1, 2, 3, *indices]
    result = evaluate.measure(named(truth), np.eye(4)[truth], draws=0)
    figures = [result["macro_f1"], result["kappa"], result["accuracy"], result["macro"]["ap"], result["macro"]["auc"]]
    assert figures == pytest.approx([1.0] * 5)
    assert [result["ece"], result["brier"], result["classwise_ece"]] == pytest.approx([0.0] * 3)


def test_a_shuffled_model_scores_chance():
    truth, probabilities, groups = sample(4000, 400)
    shuffled = np.random.default_rng(1).permutation(probabilities)
    result = evaluate.measure(named(truth), shuffled, groups, draws=0)
    assert result["kappa"] == pytest.approx(0, abs=0.04)
    assert result["macro"]["auc"] == pytest.approx(0.5, abs=0.03)
    assert result["macro_f1"] == pytest.approx(0.25, abs=0.03)


def test_calibration_error_worked_out_by_hand():
    # Two rows promised 0.9 of which one is right, two promised 0.6 of which both are: (2|.5-.9| + 2|1-.6|) / 4 = 0.4.
    probabilities = np.array([[0.9, 0.1, 0, 0], [0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0]])
    result = evaluate.measure(["on-topic", "off-topic", "on-topic", "on-topic"], probabilities, draws=0)
    assert result["ece"] == pytest.approx(0.4)


def test_bins_hold_their_upper_edge_so_that_certainty_is_in_the_last():
    diagram = evaluate.reliability(np.array([0, 0]), np.array([[1.0, 0, 0, 0], [0.95, 0.05, 0, 0]]))
    assert [one["n"] for one in diagram["top"]] == [2]


def test_intervals_hold_the_figure_and_grow_when_comments_share_threads():
    truth, probabilities, _ = sample(600, seed=3)
    good = np.arange(600) % 60 < 30  # whole threads in which the model is right, and others in which it guesses
    probabilities[good] = np.eye(4)[truth[good]]
    by_row = evaluate.measure(named(truth), probabilities, draws=300)
    by_thread = evaluate.measure(named(truth), probabilities, [index % 60 // 10 for index in range(600)], draws=300)
    widths = [result["intervals"]["macro_f1"][1] - result["intervals"]["macro_f1"][0] for result in (by_row, by_thread)]
    assert widths[1] > 1.5 * widths[0]
    for name, (low, high) in by_row["intervals"].items():
        value = by_row
        for part in name.split("."):
            value = value[part]
        assert low <= value <= high, name


def test_the_interval_of_accuracy_covers_about_as_often_as_it_says():
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(150):
        right = np.repeat(generator.random(40) < 0.7, 5)  # threads of five that are right or wrong together
        probabilities = np.where(right[:, None], np.eye(4)[0], np.eye(4)[1])
        drawn = evaluate.scores(np.zeros(200, dtype=int), probabilities, Bootstrap(np.arange(200) // 5, 200, trial))
        low, high = evaluate.interval(drawn["accuracy"])
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 150 <= 0.99


def test_one_thread_gives_no_interval():
    truth, probabilities, _ = sample(50)
    result = evaluate.measure(named(truth), probabilities, ["the same"] * 50)
    assert all(math.isnan(value) for value in result["intervals"]["macro_f1"])


def test_a_class_that_does_not_occur_is_unknown_and_not_zero():
    truth, probabilities, groups = sample()
    truth[truth == 3] = 0
    result = evaluate.measure(named(truth), probabilities, groups, draws=30)
    missing = result["per_class"]["low-effort"]
    assert all(math.isnan(missing[name]) for name in ("precision", "recall", "f1", "ap", "auc"))
    assert result["macro_f1"] == pytest.approx(
        metrics.f1_score(truth, probabilities.argmax(1), average=None, labels=[0, 1, 2]).mean()
    )


def test_a_single_class_has_no_kappa_and_no_auc():
    result = evaluate.measure(["spam"] * 12, np.full((12, 4), 0.25) + np.eye(4)[2] * 0.0, draws=0)
    assert math.isnan(result["per_class"]["spam"]["auc"])
    assert result["kappa"] == 0 or math.isnan(result["kappa"])


@pytest.mark.parametrize(
    ("truth", "probabilities", "said"),
    [
        ([], np.zeros((0, 4)), "nothing to evaluate"),
        (["good"], np.eye(4)[:1], "label 'good'; expected one of on-topic"),
        (["spam"], np.array([[math.nan, 0, 0, 1]]), "no number; first in row 1"),
        (["spam"], np.array([[0.5, 0, 0, 0.1]]), "do not sum to 1"),
        (["spam"], np.array([[0.5, 0.5]]), r"shape \(1, 2\)"),
        (["spam", "spam"], np.eye(4)[:1], r"shape \(1, 4\)"),
    ],
)
def test_what_would_give_a_silent_wrong_figure_is_refused(truth, probabilities, said):
    with pytest.raises(UserError, match=said):
        evaluate.measure(truth, probabilities)


def test_ten_thousand_rows_take_seconds():
    import time

    truth, probabilities, groups = sample(10_000, 700)
    started = time.monotonic()
    bootstrap = Bootstrap(groups)
    evaluate.measure(named(truth), probabilities, bootstrap=bootstrap)
    evaluate.threshold_table(truth, probabilities, bootstrap)
    evaluate.slices(truth, probabilities, {"a": groups, "b": [str(index % 30) for index in range(10_000)]}, bootstrap)
    evaluate.compare(truth, probabilities, probabilities[::-1], bootstrap, {"a": groups})
    assert time.monotonic() - started < 60


# --- the moderator's view


def test_the_threshold_table_counts_rightly():
    truth = np.array([2, 2, 0, 0, 0])
    probabilities = np.array([[0.05, 0, 0.95, 0], [0.55, 0, 0.45, 0], [0.35, 0, 0.65, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    half = next(
        row for row in evaluate.threshold_table(truth, probabilities, Bootstrap(range(5), 0))["spam"] if row["threshold"] == 0.5
    )
    assert (half["flagged"], half["precision"], half["recall"], half["queue_per_1000"]) == (2, 0.5, 0.5, 400)


@pytest.mark.parametrize("share", [0.01, 0.04, 0.2, 1.0])
def test_the_queue_stays_within_the_budget(share):
    truth, probabilities, groups = sample(500)
    found = evaluate.workload(truth, probabilities, share, Bootstrap(groups, 50))
    assert found["queue_per_1000"] <= 1000 * share + 1e-6
    flagged = np.zeros(500, dtype=bool)
    for label, threshold in found["thresholds"].items():
        flagged |= probabilities[:, LABELS.index(label)] >= threshold
    assert found["queue_per_1000"] == pytest.approx(1000 * flagged.mean())
    assert found["recall"] == pytest.approx((flagged & (truth != 0)).sum() / (truth != 0).sum())


def test_the_budget_is_spent_as_well_as_any_thresholds_could():
    truth, probabilities, groups = sample(40, seed=9)
    found = evaluate.workload(truth, probabilities, 0.2, Bootstrap(groups, 0))
    best = 0.0
    columns = [np.append(np.unique(probabilities[:, number]), 2.0) for number in (1, 2, 3)]
    for one in columns[0]:
        for two in columns[1]:
            for three in columns[2]:
                flagged = (probabilities[:, 1] >= one) | (probabilities[:, 2] >= two) | (probabilities[:, 3] >= three)
                if flagged.sum() <= 8:
                    best = max(best, (flagged & (truth != 0)).sum() / (truth != 0).sum())
    assert found["recall"] == pytest.approx(best)


def test_recall_at_a_precision_is_that_of_the_precision_recall_curve():
    truth, probabilities, _ = sample(300)
    precision, recall, _ = metrics.precision_recall_curve(truth == 2, probabilities[:, 2])
    for wanted in (0.5, 0.8, 0.95):
        found = evaluate.recall_at_precision(truth == 2, probabilities[:, 2], wanted)["recall"]
        assert found == pytest.approx(recall[precision >= wanted].max())


def test_a_precision_out_of_reach_gives_recall_zero_and_no_threshold():
    found = evaluate.recall_at_precision(np.array([False, True]), np.array([0.9, 0.1]), 0.9)
    assert (found["recall"], found["flagged"]) == (0.0, 0) and math.isnan(found["threshold"])


def test_few_lucky_rows_assure_nothing_and_many_do():
    certain = np.tile(np.eye(4)[2], (400, 1))
    few, many = ([LABELS.index("spam")] * count for count in (20, 400))
    for count, assured in ((20, False), (400, True)):
        found = evaluate.automation(np.array(few if count == 20 else many), certain[:count], 0.99, Bootstrap(range(count), 0))
        assert (found["share"], found["per_class"]["spam"]["assured"]) == (1.0, assured)


def test_automation_keeps_the_precision_it_was_asked_for():
    truth, probabilities, groups = sample(2000)
    found = evaluate.automation(truth, probabilities, 0.95, Bootstrap(groups, 0))
    settled = sum(one["settled"] for one in found["per_class"].values())
    assert found["share"] == pytest.approx(settled / 2000)
    assert all(one["precision"] >= 0.95 for one in found["per_class"].values() if one["settled"])


# --- slices, comparisons, agreement


def test_slices_are_measured_by_themselves_and_small_ones_are_marked():
    truth, probabilities, groups = sample(200)
    column = ["big"] * 180 + ["tiny"] * 20
    big, tiny = evaluate.slices(truth, probabilities, {"c": column}, Bootstrap(groups, 50))
    assert (big["n"], tiny["n"], big["small"], tiny["small"]) == (180, 20, False, True)
    assert big["macro_f1"] == pytest.approx(metrics.f1_score(truth[:180], probabilities[:180].argmax(1), average="macro"))
    assert tiny["accuracy"] == pytest.approx((truth[180:] == probabilities[180:].argmax(1)).mean())


def test_the_worst_slices_come_first_and_no_small_one_is_among_them():
    truth, probabilities, groups = sample(600)
    column = ["bad" if index % 3 == 0 else "good" for index in range(600)]
    wrong = np.arange(600) % 3 == 0
    probabilities[wrong] = np.roll(np.eye(4)[truth[wrong]], 1, axis=1)
    column[0] = "rare"
    worst = evaluate.worst_slices(evaluate.slices(truth, probabilities, {"c": column}, Bootstrap(groups, 50)))
    assert [entry["value"] for entry in worst] == ["bad", "good"]


def test_a_model_against_itself_cannot_be_told_apart():
    truth, probabilities, groups = sample()
    result = evaluate.compare(truth, probabilities, probabilities, Bootstrap(groups, 100), {"c": groups})
    assert result["macro_f1"] == {"difference": 0.0, "interval": [0.0, 0.0], "verdict": "cannot tell"}
    assert result["mcnemar"]["p"] == 1.0
    assert {entry["verdict"] for entry in result["slices"]} == {"cannot tell"}


def test_a_much_better_model_is_called_better_and_the_other_worse():
    truth, good, groups = sample(skill=2)
    _, bad, _ = sample(skill=0.1)
    bootstrap = Bootstrap(groups, 100)
    assert evaluate.compare(truth, good, bad, bootstrap)["macro_f1"]["verdict"] == "better"
    backwards = evaluate.compare(truth, bad, good, bootstrap)
    assert backwards["macro_f1"]["verdict"] == "worse" and backwards["mcnemar"]["p"] < 0.001


def test_mcnemar_worked_out_by_hand():
    # Ten rows on which they differ, nine for the first: 2 * (C(10,0) + C(10,1)) / 2**10.
    ours, theirs = np.array([True] * 9 + [False] + [True] * 5), np.array([False] * 9 + [True] + [True] * 5)
    assert evaluate.mcnemar(ours, theirs) == {"only_first": 9, "only_second": 1, "p": pytest.approx(22 / 1024)}


def test_agreement_between_people_is_kappa():
    truth, probabilities, groups = sample()
    second = named(probabilities.argmax(1))
    result = evaluate.agreement(named(truth), second, groups, draws=50)
    assert result["kappa"] == pytest.approx(metrics.cohen_kappa_score(named(truth), second))


def test_an_unknown_second_label_is_refused():
    with pytest.raises(UserError, match="second label 'ham'"):
        evaluate.agreement(["spam"], ["ham"], ["a"])


# --- one question, and groups of people


def test_flagging_everything_is_the_floor_of_best_f1():
    positive = np.array([1, 0, 0, 0])
    result = evaluate.binary(positive, np.zeros(4), range(4), draws=30)
    assert result["flag_all_f1"] == pytest.approx(metrics.f1_score(positive, np.ones(4)))
    assert result["best_f1"] == pytest.approx(result["flag_all_f1"])
    assert result["auc"] == 0.5


def test_binary_scores_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="1 of 2 rows"):
        evaluate.binary([0, 1], [0.5, math.nan], ["a", "b"])


def test_subgroup_metrics_follow_borkan():
    # Harmless comments of the group score above harmful ones of the others: BPSN is 0, the rest is perfect.
    positive = np.array([True, False, True, False])
    score = np.array([0.9, 0.8, 0.4, 0.1])
    result = evaluate.subgroups(positive, score, {"g": np.array([True, True, False, False])}, Bootstrap(range(4), 0))
    entry = result["groups"]["g"]
    assert (entry["subgroup_auc"], entry["bpsn_auc"], entry["bnsp_auc"]) == (1.0, 0.0, 1.0)


def test_the_generalised_mean_is_drawn_to_the_worst_group():
    positive, score = np.array([True, False] * 4), np.array([0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.6, 0.5])
    members = {"fine": np.array([1, 1, 1, 1, 0, 0, 0, 0], bool), "half": np.array([0, 0, 1, 1, 1, 1, 0, 0], bool)}
    result = evaluate.subgroups(positive, score, members, Bootstrap(range(8), 0))
    area = result["groups"]["half"]["subgroup_auc"]
    assert result["means"]["subgroup_auc"] == pytest.approx(((1 + area**-5) / 2) ** (-1 / 5))


def test_wrong_labels_in_the_data_are_found():
    truth, probabilities, _ = sample(400, skill=4)
    spoiled = truth.copy()
    spoiled[:8] = (truth[:8] + 1) % 4
    found = [row for row, _ in evaluate.label_issues(spoiled, probabilities)]
    assert len(found) >= 6 and set(found) <= set(range(8))


def test_no_label_is_doubted_where_there_is_one_class():
    assert evaluate.label_issues(np.zeros(30, dtype=int), np.full((30, 4), 0.25)) == []


def test_the_wilson_interval_worked_out_by_hand():
    from scipy.stats import binomtest

    expected = binomtest(7, 20).proportion_ci(method="wilson")
    assert evaluate.wilson(7, 20) == pytest.approx([expected.low, expected.high])
