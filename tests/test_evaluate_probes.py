"""Identity swaps, attacks, yardsticks, and a whole examination of a small real model."""

import json
import random
import unicodedata

import numpy as np
import pytest

from moderation.schema import LABELS, Article, Comment, UserError
from training import fairness, labelled, robustness, yardsticks
from training.evaluate import Bootstrap
from training.examine import Contender, Questions, as_json, examine

THREADS = {
    "the bridge over the river": [
        "the bridge should stay open for trucks",
        "who pays for the river bridge repairs",
        "that river floods the bridge each spring",
    ],
    "school lunch prices": [
        "lunch at my school costs too much",
        "the price of school lunch doubled",
        "free lunch for every school child",
    ],
    "a new football coach": [
        "the coach must play a young striker",
        "our football coach never wins away",
        "this coach ruined the football club",
    ],
    "garden pests in summer": [
        "slugs ate all of my garden lettuce",
        "garlic keeps the garden pests away",
        "which pests come in a dry summer",
    ],
}
SPAM = [
    "buy cheap watches at www.shop.example",
    "earn money at home, contact me on telegram",
    "visit my website for casino bonus",
]
THIN = ["nice", "lol", "first", "great article"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """120 labelled rows in 40 threads, written by rule: enough for a yardstick to learn something."""
    chooser, rows = random.Random(0), []
    titles = list(THREADS)
    for number in range(40):
        title = titles[number % 4]
        other = THREADS[titles[(number + 1) % 4]]
        kinds = [
            (chooser.choice(THREADS[title]), "on-topic"),
            (chooser.choice(other), "off-topic"),
            chooser.choice([(chooser.choice(SPAM), "spam"), (chooser.choice(THIN), "low-effort")]),
        ]
        for place, (text, label) in enumerate(kinds):
            second = label if number % 10 else "on-topic"
            rows.append(
                {
                    "comment_id": f"{number}-{place}",
                    "comment_text": f"{text} {number}",
                    "article_id": str(number),
                    "article_title": title,
                    "article_text": f"{title}. An Afghan baker said so.",
                    "label": label,
                    "second": second,
                }
            )
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return labelled.read([str(path)])


@pytest.fixture(scope="module")
def tfidf(data):
    return Contender("tfidf", yardsticks.tfidf((data.comments, data.truth)))


# --- identity terms


def test_a_swap_changes_comment_parent_and_article_alike():
    article = Article("a", "Hazara elders meet", "The Hazaras left. A Pashtun driver waited.")
    comment = Comment("HAZARA people deserve better than a Pashtun king.", article=article, parent_text="Poor Hazaras!")
    [swap] = [swap for swap in fairness.swaps([comment], per_mention=26) if (swap.source, swap.target) == ("Hazara", "Pashtun")]
    assert swap.comment.text == "PASHTUN people deserve better than a Hazara king."
    assert swap.comment.parent_text == "Poor Pashtuns!"
    assert swap.comment.article.title == "Pashtun elders meet"
    assert swap.comment.article.text == "The Pashtuns left. A Hazara driver waited."


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("He lost his brother and blames her for it.", "She lost her sister and blames him for it."),
        ("MEN and boys; Mr Jones saw her husband.", "WOMEN and girls; Mrs Jones saw his wife."),
        ("The theme of the shed.", "The theme of the shed."),
    ],
)
def test_gender_is_swapped_with_its_pronouns(before, after):
    assert fairness.swap_text(before, "gender", "men", "women") == after


def test_two_swaps_give_the_text_back():
    text = "A Shia cleric, two Sunnis and an Israeli watched Ahmed greet Moshe."
    for category, one, two in (
        ("religion", "Shia", "Hindu"),
        ("nationality", "Israeli", "Somali"),
        ("names", "Muslim world", "Jewish"),
    ):
        changed = fairness.swap_text(text, category, one, two)
        assert changed != text and fairness.swap_text(changed, category, one, two) == text


@pytest.mark.parametrize(
    "text", ["polish the table, turkey is dry", "a white paper on black ice", "anna karenina", "Pashtunistan"]
)
def test_words_that_only_look_like_people_are_left_alone(text):
    assert not any(fairness.mentions(text, category) for category in ("nationality", "ethnicity", "names"))


def test_a_thread_that_names_a_group_is_swapped_even_when_the_comment_does_not(data):
    made = fairness.swaps(data.comments)
    assert made and all("Afghan" not in swap.comment.article.text for swap in made if swap.category == "nationality")


def test_the_same_group_replaces_another_throughout_a_thread():
    article = Article("a", "Russian ships")
    made = fairness.swaps(
        [Comment("The Russian fleet.", article=article), Comment("Russians again.", article=article)], per_mention=2
    )
    assert {swap.target for swap in made if swap.row == 0} == {swap.target for swap in made if swap.row == 1}


def test_steadiness_counts_flips_and_signed_shifts():
    made = [fairness.Swap(row, "religion", "Hindu", "Sikh", Comment("x")) for row in range(4)]
    clean, changed = np.tile([0.9, 0.1, 0, 0], (4, 1)), np.tile([0.9, 0.1, 0, 0], (4, 1))
    changed[0] = [0.1, 0.9, 0, 0]
    entry = fairness.steadiness(made, clean, changed, Bootstrap(range(4), 50))["religion"]
    assert (entry["n"], entry["flipped"]) == (4, 0.25)
    assert entry["groups"]["Sikh"]["shift"] == pytest.approx(0.2)


def test_false_alarms_are_counted_among_on_topic_comments_only():
    comments = [Comment("A Somali baker.")] * 10 + [Comment("A Somali crook.")] * 5 + [Comment("Bread.")] * 5
    truth = np.array([0] * 10 + [2] * 5 + [0] * 5)
    probabilities = np.eye(4)[[1] * 4 + [0] * 6 + [2] * 5 + [0] * 5]
    found = fairness.false_alarms(comments, truth, probabilities)
    assert found["groups"]["nationality"]["Somali"]["rate"] == 0.4
    assert found["everyone"]["n"] == 15


# --- attacks


@pytest.mark.parametrize("name", robustness.ATTACKS)
def test_every_attack_changes_the_text_the_same_way_each_time(name):
    comment = Comment(
        "Tickets for the last train should never cost more than a loaf of bread, honestly.", parent_text="Too dear?"
    )
    [first], [second] = robustness.attack([comment], name)[1], robustness.attack([comment], name)[1]
    assert first == second and first.text != comment.text and first.article is comment.article


def test_look_alike_letters_are_other_letters_that_look_the_same():
    [changed] = robustness.attack([Comment("a possible escape " * 5)], "look-alike letters")[1]
    foreign = [letter for letter in changed.text if not letter.isascii()]
    assert len(foreign) > 10 and all(unicodedata.category(letter).startswith("L") for letter in foreign)


def test_zero_width_characters_hide_between_letters_and_nothing_else_changes():
    [changed] = robustness.attack([Comment("hidden in plain sight, all of it")], "zero-width characters")[1]
    assert (
        "".join(letter for letter in changed.text if unicodedata.category(letter) != "Cf") == "hidden in plain sight, all of it"
    )


def test_a_parent_is_quoted_only_where_there_is_one():
    rows, comments = robustness.attack([Comment("yes"), Comment("no", parent_text="Well?")], "parent quoted")
    assert rows == [1] and comments[0].text == "> Well?\n\nno"


def test_resistance_counts_agreement_and_escapes():
    truth = np.array([2, 2, 0])
    clean = np.eye(4)[[2, 2, 0]]
    found = robustness.resistance(truth, clean, np.eye(4)[[0, 2, 0]], np.arange(3), Bootstrap(range(3), 0))
    assert (found["agreement"], found["accuracy"], found["clean_accuracy"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 1.0)
    assert (found["caught"], found["escaped"]) == (2, 0.5)


# --- yardsticks


def test_the_majority_yardstick_is_the_class_shares(data):
    shares = yardsticks.majority((data.comments, data.truth))(data.comments[:2])
    assert shares[0] == pytest.approx([data.truth.count(label) / len(data) for label in LABELS])


def test_tfidf_learns(data):
    other = yardsticks.contender("tfidf", data)
    probabilities = other.predict(data.comments)
    assert np.mean([LABELS[index] for index in probabilities.argmax(1)] == np.array(data.truth)) > 0.6
    assert "by thread" in other.note


def test_cross_validation_never_learns_from_the_thread_that_it_measures(data):
    seen = []

    def fit(train):
        threads = {comment.article.article_id for comment in train[0]}
        return lambda comments: (
            seen.append(threads & {comment.article.article_id for comment in comments}) or np.full((len(comments), 4), 0.25)
        )

    yardsticks.cross_validated(fit, data.comments, data.truth, data.groups)
    assert seen and not any(seen)


def test_rows_to_learn_from_leave_out_the_threads_that_are_measured(data):
    with pytest.raises(UserError, match="every row of it also stands"):
        yardsticks.contender("majority", data, data)


def test_the_cosine_yardstick_tells_own_from_foreign():
    judge = yardsticks.contender("cosine", labelled.Labelled([], [], [], [], [])).predict
    article = Article("a", "River bridge closed", "The old bridge over the river was closed to trucks after cracks were found.")
    own, foreign, ad = judge(
        [
            Comment("Cracks in that bridge were known for years.", article=article),
            Comment("My sourdough never rises in winter.", article=article),
            Comment("Click the link to buy now, best offer on my website", article=article),
        ]
    )
    assert [LABELS[row.argmax()] for row in (own, foreign, ad)] == ["on-topic", "off-topic", "spam"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny text-classification model with random weights, as a folder of the Hub's layout."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from moderation.model import DEFAULT_ENCODER, find_encoder

    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(find_encoder(DEFAULT_ENCODER))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "HAM", 1: "SPAM", 2: "JUNK"},
        label2id={"HAM": 0, "SPAM": 1, "JUNK": 2},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_hub_classifier_is_mapped_onto_our_labels(classifier, data):
    predict = yardsticks.hub(str(classifier), {"HAM": "on-topic", "SPAM": "spam", "JUNK": "spam"})
    probabilities = predict(data.comments[:40])
    assert probabilities.sum(1) == pytest.approx(np.ones(40))
    assert (probabilities[:, [1, 3]] == 0).all() and (probabilities[:, [0, 2]] > 0).all()


@pytest.mark.parametrize(
    ("labels", "said"),
    [({"HAM": "on-topic"}, "leaves out SPAM, JUNK"), ({"HAM": "ham", "SPAM": "spam", "JUNK": "spam"}, "names ham")],
)
def test_a_label_map_must_cover_every_label(classifier, labels, said):
    with pytest.raises(UserError, match=said):
        yardsticks.hub(str(classifier), labels)


def test_setfit_learns_on_the_same_encoder(data):
    from moderation.model import DEFAULT_ENCODER, find_encoder

    spam = [row for row, label in enumerate(data.truth) if label == "spam"][:2]
    rest = [row for row, label in enumerate(data.truth) if label == "on-topic"][:2]
    train = ([data.comments[row] for row in spam + rest], [data.truth[row] for row in spam + rest])
    probabilities = yardsticks.setfit(train, find_encoder(DEFAULT_ENCODER), examples=2)(
        [data.comments[spam[-1]], data.comments[rest[-1]]]
    )
    assert probabilities.shape == (2, 4) and [LABELS[row.argmax()] for row in probabilities] == ["spam", "on-topic"]


def test_an_unknown_yardstick_is_refused(data):
    with pytest.raises(UserError, match="majority, tfidf, cosine, setfit or hub:NAME"):
        yardsticks.contender("gpt", data)


# --- the whole


def test_an_examination_holds_every_part(data, tfidf):
    report = as_json(examine(data, [tfidf, yardsticks.contender("majority", data)], Questions(draws=50, second_label="second")))
    assert report["schema_version"] == 1
    assert {"macro_f1", "kappa", "ece", "n", "intervals"} <= report.keys()
    assert {"precision", "recall", "f1", "ap"} <= report["per_class"]["spam"].keys()
    assert report["comparisons"][0]["macro_f1"]["verdict"] == "better"
    assert set(report["robustness"]) == set(robustness.ATTACKS)
    assert report["fairness"]["swaps"]["nationality"]["n"] > 0
    assert report["agreement"]["n"] == 120
    json.dumps(report, allow_nan=False)


def test_an_examination_does_not_depend_on_the_order_of_rows(data, tfidf):
    straight = as_json(examine(data, [tfidf], Questions(draws=30, probe=False)))
    backwards = as_json(examine(data.only(range(len(data))[::-1]), [tfidf], Questions(draws=30, probe=False)))
    for name in ("macro_f1", "kappa", "data", "confusion", "errors"):
        assert straight[name] == backwards[name]
    assert straight["intervals"]["macro_f1"] == pytest.approx(backwards["intervals"]["macro_f1"], abs=1e-6)


def test_few_rows_of_one_class_are_measured_under_warning(data, tfidf):
    only_spam = data.only([row for row, label in enumerate(data.truth) if label == "spam"][:10])
    report = as_json(examine(only_spam, [tfidf], Questions(draws=50, probe=False)))
    assert {"few-rows", "one-class"} <= {one["code"] for one in report["warnings"]}
    assert report["per_class"]["spam"]["auc"] is None


def test_a_missing_class_is_named(data, tfidf):
    rest = data.only([row for row, label in enumerate(data.truth) if label != "spam"])
    warnings = examine(rest, [tfidf], Questions(draws=0, probe=False))["warnings"]
    assert any(one["code"] == "missing-classes" and "spam" in one["text"] for one in warnings)


def test_leakage_is_warned_of_and_measured_without(data, tfidf, tmp_path):
    (tmp_path / "trained_on.txt").write_text("\n".join(labelled.fingerprint(comment.text) for comment in data.comments[:30]))
    report = examine(data, [Contender("leaky", tfidf.predict, folder=str(tmp_path))], Questions(draws=0, probe=False))
    assert report["leakage"][0]["rows"] == 30
    assert any(one["code"] == "leakage" for one in report["warnings"])
    assert report["without_trained_on"]["n"] == 90


def test_a_model_that_gives_no_numbers_is_refused(data):
    with pytest.raises(UserError, match="broken gave 120 of 120 rows"):
        examine(data, [Contender("broken", lambda comments: np.full((len(comments), 4), np.nan))])


def test_membership_columns_give_subgroup_metrics(data, tfidf):
    for row in data.rows:
        row["minority"] = "1" if int(row["article_id"]) % 2 else ""
    report = examine(data, [tfidf], Questions(draws=0, probe=False, identities=("minority",)))
    assert report["fairness"]["subgroups"]["groups"]["minority"]["n"] == 60
