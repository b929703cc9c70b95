"""The panels' HTML without a browser: every payload stays text in every plot, table and sample; what a plot shows is what it was given."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from hostile import PAYLOADS
from test_desk_look import contrast

from desk import bulk, insight, intake, page, plots, policy, render
from moderation import LABELS, Article, Comment, Verdict
from moderation.policy import DEFAULT, Policy
from moderation.store import Agreement, Imported, Intake, Item, Mix, Pairs, PolicyVersion, User, Work


class Seen(HTMLParser):
    """Elements, attributes and text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.attributes, self.words, self.titles = Counter(), set(), "", []
        self.feed(html)

    def handle_starttag(self, name, attributes):
        self.elements[name] += 1
        for key, value in attributes:
            self.attributes.add(key)
            if key == "title":
                self.titles.append(value)

    def handle_data(self, text):
        self.words += text


ADA = User("ada", "admin", False, 0.0)
COUNTS = {"on-topic": 3, "off-topic": 1, "spam": 2, "low-effort": 0}


def shown(payload):
    """Everything that the panels make of a stranger's text (and of names, which the store restricts, as if it did not)."""
    verdict = Verdict("spam", dict.fromkeys(LABELS, 0.25), "review", payload, payload)
    article = Article("a", payload, payload, payload)
    item = Item(1, Comment(payload, payload, article), 1, payload, 0.0, verdict, 0, "", "", 0.0, 0, 3, "", payload, 0.0)
    version = PolicyVersion(1, payload, "draft", DEFAULT, 0.1, payload, 0.0, payload)
    job = intake.Job(payload, [payload], total=9, ready=True, rows=3)
    yield intake._progress(job)
    job.result = Intake(Imported(1, 2, 0), 1, 1, 1.0, labels=Counter(spam=1))
    job.rejects = [{"file": f"/tmp/x/{payload}", "position": payload, "reason": payload}]
    yield intake._summary(job)
    job.error = payload
    yield intake._summary(job)
    yield bulk._sample([item], "spam", 12)
    yield plots.table(("by",), [(bulk._describe(json.dumps({"site": payload})),)])
    yield policy._versions([version])
    yield policy._holds(version)
    yield insight._by_article([Mix("1", payload, COUNTS)])
    yield insight._work([Work(payload, 0.0, 3, 1.0), Work("ada", 3600.0, 2, None)], 1, ADA)
    yield insight._with_model([Agreement(0.0, payload, 4, 3)])
    yield insight._between(
        [Pairs(payload, "mo", 2, 1, 0.0, {("spam", "spam"): 1}), Pairs("", "", 2, 1, 0.0, {("spam", "spam"): 1})], ADA
    )


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_payload_stays_text_in_every_panel(payload):
    words = "".join(payload.split())
    for html in shown(payload):
        seen = Seen(html)
        assert set(seen.elements) <= render._NAMES | render._VOID
        assert not any(name.startswith("on") or name in ("href", "src", "srcdoc", "action") for name in seen.attributes)
    everything = "".join("".join(Seen(html).words.split()) for html in shown(payload))
    assert words[:40] in everything


def test_heights_are_shares_of_the_top_and_a_root_lifts_the_small_ones():
    data = [plots.Column("a", [4]), plots.Column("b", [1], mark=2, chosen=True), plots.Column("c", [0])]
    plain = plots.columns("t", data, {"n": "red"}, top=4)
    assert (
        plain.count("height:100.00%") == 1
        and "height:25.00%" in plain
        and "bottom:50.00%" in plain
        and plain.count(" chosen") == 1
    )
    root = plots.columns("t", data, {"n": "red"}, top=4, root=True)
    assert "height:50.00%" in root and "height:100.00%" in root
    stacked = plots.columns("t", [plots.Column("a", [1, 3])], {"x": "red", "y": "blue"}, top=4, root=True)
    assert "height:25.00%" in stacked and "height:75.00%" in stacked
    assert "Nothing to show yet." in plots.columns("t", [], {"n": "red"})


def test_what_a_policy_would_do_to_many_is_what_it_does_to_each():
    random = np.random.default_rng(0)
    rows = random.dirichlet(np.ones(4) / 2, 500)
    evidence = policy.Evidence(random.integers(4, size=500), rows, "")
    for tried in (DEFAULT, Policy({"off-topic": 0.2, "spam": 0.1, "low-effort": 0.9}, {"spam": 0.7, "off-topic": 0.95}, 0.6)):
        taken = policy.try_out(tried, evidence)
        for place, row in enumerate(rows):
            action = tried.action(dict(zip(LABELS, row, strict=True)))
            assert [name for name in taken if taken[name][place]] == [action]
        assert policy.to_policy(policy.to_values(tried)) == tried


def test_only_uploads_may_be_named_as_files(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "get_upload_folder", lambda: str(tmp_path / "up"))
    inside = tmp_path / "up" / "x" / "a.csv"
    inside.parent.mkdir(parents=True)
    inside.write_text("a")
    (tmp_path / "secret.csv").write_text("s")
    (tmp_path / "up" / "x" / "link.csv").symlink_to(tmp_path / "secret.csv")
    for fine in (None, "text", 3, [], {"key": "a"}, {"path": str(inside)}, [{"path": str(inside)}, {"path": None}]):
        page.refuse_paths(fine)
    wrong = ["/etc/passwd", str(tmp_path / "secret.csv"), str(inside.parent / "link.csv"), f"{inside}/../../../secret.csv", "a.csv", "a\x00b",
             "http://evil.example/a.csv", 3, ["/etc/passwd"]]  # fmt: skip
    for path in wrong:
        for value in ({"path": path}, [[{"value": {"path": path, "meta": {}}}]]):
            with pytest.raises(gr.Error):
                page.refuse_paths(value)


@pytest.mark.parametrize(("theme", "ground"), [(":root", "#ffffff"), (".dark", "#1a2129")])
def test_series_can_be_seen_on_both_grounds(theme, ground):
    css = (Path(plots.__file__).parent / "static" / "panels.css").read_text(encoding="utf-8")
    block = re.search(rf"^{re.escape(theme)} \{{(.*?)^\}}", css, re.M | re.S)[1]
    colours = dict(re.findall(r"--(series-\d): (#[0-9a-f]{6})", block))
    assert len(colours) == plots.SERIES == len(set(colours.values()))
    for name, colour in colours.items():
        assert contrast(colour, ground) >= 3, name


def test_names_of_colleagues_are_for_leads():
    work = [Work(name, 0.0, count, 1.0) for name, count in (("mo", 5), ("mia", 3), ("lea", 1))]
    assert set(insight._names(work, SimpleNamespace(name="mo", may=lambda role: False)).values()) == {"mo", insight.OTHERS}
    assert set(insight._names(work, ADA).values()) == {"mo", "mia", "lea"}
    many = [Work(f"user{place}", 0.0, 20 - place, 1.0) for place in range(12)]
    assert len(set(insight._names(many, ADA).values())) == plots.SERIES
