"""A month of a site in small, end to end: import, 260 decisions, two trainings, one refused, one promoted, one rollback."""

import importlib.util
import json
import sys

import pytest
from conftest import ROOT
from learning import comments

from moderation.store import Store
from training import loop

pytest_plugins = ["learning"]


def month():
    spec = importlib.util.spec_from_file_location("month", ROOT / "benchmarks" / "month.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_month_of_decisions_refuses_one_model_and_promotes_the_next(registry, small_threads, tmp_path, capsys):
    script = month()
    pairs = list(comments(range(28), 12, seed=1))
    export = tmp_path / "site.jsonl"
    export.write_text("".join(json.dumps(comment.to_row()) + "\n" for comment, _ in pairs))
    truth = {comment.comment_id: label for comment, label in pairs}
    with Store(tmp_path / "desk.db") as store:
        plan = script.Month(careless=60, careful=220, careless_errors=0.9)
        lines = []
        figures = script.play(plan, export, truth, store, registry, small_threads, lines.append)
        assert figures["first training"]["outcome"] in ("refuse", "undecided"), figures
        assert figures["second training"]["outcome"] == "promote", figures
        assert figures["promoted"] == figures["second training"]["version"]
        assert figures["rolled back to"] == figures["first"] == registry.champion()
        assert loop.judgement_of(registry, figures["promoted"])["champion"] == figures["first"]
        versions = {item.verdict.model_version for item in store.queue.page(limit=500).items}
        assert versions == {figures["first"]}, "every prediction names its version, and the undecided ones are the champion's"
    with capsys.disabled():
        print("\n" + "\n".join(lines))
