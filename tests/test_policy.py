import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.policy import DEFAULT, Policy
from moderation.schema import ACTIONS, LABELS, UserError


def mix(on=0.0, off=0.0, spam=0.0, low=0.0):
    return dict(zip(LABELS, (on, off, spam, low), strict=True))


def test_by_default_nothing_is_rejected_unseen():
    assert DEFAULT.action(mix(spam=1.0)) == "review"
    assert DEFAULT.action(mix(on=0.9, off=0.1)) == "approve"


def test_a_reject_threshold_rejects_from_its_value_on():
    policy = Policy.from_table({"spam": {"review": 0.3, "reject": 0.95}})
    assert [policy.action(mix(spam=p, on=1 - p)) for p in (0.2, 0.3, 0.94, 0.95)] == ["approve", "review", "review", "reject"]


def test_a_hesitant_on_topic_goes_to_a_person():
    policy = Policy.from_table({"on-topic": {"approve": 0.7}})
    assert policy.action(mix(on=0.6, off=0.4)) == "review"


def test_an_unsupported_language_is_never_decided_alone():
    policy = Policy.from_table({"spam": {"reject": 0.5}})
    assert policy.action(mix(spam=0.99), supported_language=False) == "review"


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_more_caution_never_approves_more(values):
    strict = Policy.from_table({label: {"review": 0.2} for label in LABELS[1:]} | {"on-topic": {"approve": 0.8}})
    probabilities = mix(*values)
    assert strict.action(probabilities) in ACTIONS
    if strict.action(probabilities) == "approve":
        assert DEFAULT.action(probabilities) == "approve"


def test_a_table_survives_the_round_trip():
    policy = Policy.from_table({"spam": {"review": 0.3, "reject": 0.95}, "on-topic": {"approve": 0.7}})
    assert Policy.from_table(json.loads(json.dumps(policy.to_table()))) == policy


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ham": {"review": 0.5}}, "unknown label 'ham'"),
        ({"spam": {"review": 1.5}}, "from 0 to 1"),
        ({"spam": {"review": True}}, "from 0 to 1"),
        ({"spam": {"approve": 0.5}}, "expected an object with"),
        ({"spam": {"review": 0.9, "reject": 0.5}}, "must not be below"),
        ([], "expected an object"),
    ],
)
def test_a_wrong_threshold_file_is_refused_with_its_fault(tmp_path, table, message):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match=message) as error:
        Policy.load(path)
    assert str(path) in str(error.value)


def test_a_missing_threshold_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: cannot read"):
        Policy.load(tmp_path / "absent.json")
