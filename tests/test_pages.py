"""Our pages of public life, and what an encoder learns from them."""

import json
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from test_training import recipe, threads, tiny_encoder  # noqa: F401

from moderation.model import Encoder
from moderation.schema import UserError
from training.fit import fingerprint, fit
from training.pages import BATCH, SIBLINGS, Page, Pages, contrast, read_pages
from training.recipe import gather


@pytest.fixture(scope="module")
def ours():
    return read_pages(ROOT / "data/threads/pages.jsonl")


def words(text):
    return re.findall(r"\w+", text.lower())


def test_there_are_enough_of_them_each_with_several_remarks(ours):
    remarks = [remark for page in ours for remark in page.comments]
    assert len(ours) > 2000 and len(remarks) > 20_000 and min(len(page.comments) for page in ours) >= 3
    assert len({page.title for page in ours}) == len(ours)
    assert Counter(map(str.lower, remarks)).most_common(1)[0][1] <= 2
    siblings = Counter(page.theme for page in ours)
    assert sum(count for count in siblings.values() if count >= SIBLINGS) > 0.9 * len(ours)
    assert not [text for text in remarks if "http" in text or "www." in text or re.search(r"\S@\S+\.\w", text)]


def test_no_remark_is_in_the_threads_that_calibrate_and_test(ours):
    runs = {tuple(text[at : at + 8]) for page in ours for remark in page.comments for text in [words(remark)] for at in range(len(text) - 7)}  # fmt: skip
    for split in ("validation", "test"):
        for line in (ROOT / f"data/threads/{split}.jsonl").read_text(encoding="utf-8").splitlines():
            text = words(json.loads(line)["comment_text"])
            assert not runs.intersection(tuple(text[at : at + 8]) for at in range(len(text) - 7)), line


@pytest.mark.parametrize(
    "line", ["no json", '{"theme": "a", "title": "b"}', '{"theme": "a", "title": "b", "standfirst": "", "comments": []}']
)
def test_a_line_that_is_no_page_is_named(tmp_path, line):
    path = tmp_path / "pages.jsonl"
    path.write_text(json.dumps({"theme": "a", "title": "b", "standfirst": "", "comments": ["c"]}) + f"\n{line}\n")
    with pytest.raises(UserError, match=r"pages\.jsonl, line 2: no page"):
        read_pages(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_pages(tmp_path / "absent.jsonl")


def test_a_batch_holds_siblings_and_a_remark_of_each(ours):
    drawn = Pages(ours).draw(random.Random(0))
    assert BATCH // 2 < len(drawn) <= BATCH and len({page.title for page, _ in drawn}) == len(drawn)
    assert all(remark in page.comments for page, remark in drawn)
    assert Counter(page.theme for page, _ in drawn).most_common(1)[0][1] == SIBLINGS
    assert Pages([]).draw(random.Random(0)) == []


@pytest.fixture
def small(threads):  # noqa: F811
    """Pages beside the threads whose remarks share no word with their headline, so that only training can tell."""
    subjects = [("bridge", "piers crack"), ("espresso", "gasket leaks"), ("bike", "chain snaps"), ("school", "roof drips")]
    pages = [
        Page("all", f"The {subject} of the week", "", tuple(f"{trouble} {number} times again" for number in range(9)))
        for subject, trouble in subjects
    ]
    lines = [{"theme": p.theme, "title": p.title, "standfirst": p.standfirst, "comments": p.comments} for p in pages]
    (threads / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return pages


def loss(model, pages):
    with torch.no_grad():
        encoder = Encoder(model.encoder.tokenizer, model.encoder.transformer)
        return float(contrast(encoder, [(page, page.comments[0]) for page in pages]))


def test_an_encoder_that_is_shown_pages_finds_the_page_of_a_remark(recipe, threads, small, tmp_path):  # noqa: F811
    whole = replace(recipe, full=True, rank=32, learning_rate=2e-3, epochs=3)
    shown = replace(whole, pages=1.0, pages_every=1)
    material = gather(shown, None, threads)
    assert material.pages == small and material.sources["threads/pages"]["rows"] == 4 and not gather(whole, None, threads).pages
    without = fit(whole, gather(whole, None, threads), tmp_path / "without")
    model = fit(shown, material, tmp_path / "with")
    assert loss(model, small) < 0.5 * loss(without, small)
    known = set((tmp_path / "with" / "trained_on.txt").read_text().split())
    assert {fingerprint(remark) for page in small for remark in page.comments} <= known


def test_a_soup_is_the_mean_of_its_runs_and_takes_up_those_that_are_whole(recipe, threads, small, tmp_path, monkeypatch):  # noqa: F811
    import training.fit
    from moderation.model import Moderator, load_encoder

    stirred = replace(recipe, full=True, rank=32, learning_rate=1e-3, soup=(0.0, 1.0))
    material = gather(stirred, None, threads)
    ran = []
    run = training.fit._run

    def killed_in_the_second(recipe, *rest):
        ran.append(recipe.pages)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run(recipe, *rest)

    monkeypatch.setattr(training.fit, "_run", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        fit(stirred, material, tmp_path / "soup")
    alone = fit(replace(stirred, soup=(), pages=1.0), material, tmp_path / "alone")
    first = Moderator.from_pretrained(tmp_path / "soup.training" / "run-1", runtime="torch")
    mean = fit(stirred, material, tmp_path / "soup")
    assert ran == [0.0, 1.0, 1.0, 1.0], "the first run was whole and is not made again"
    base, *states = (
        dict(one.state_dict())
        for one in (load_encoder(recipe.encoder)[1], *(model.encoder.transformer for model in (first, alone, mean)))
    )
    changed = [name for name in base if not torch.equal(states[0][name], states[1][name])]
    assert changed
    for name in changed:
        change = (states[0][name] + states[1][name]) / 2 - base[name]
        assert torch.allclose(states[2][name] - base[name], change, atol=0.02 * float(change.abs().max()))
    assert mean.manifest["training"]["mean_of"] == [first.version, alone.version]
    assert "threads/pages" in mean.manifest["sources"] and "threads/pages" not in first.manifest["sources"]
    assert not (tmp_path / "soup.training").exists()
    assert (tmp_path / "soup" / "loss.csv").read_text().count("\n") == (tmp_path / "alone" / "loss.csv").read_text().count("\n")


def test_a_soup_of_untrained_encoders_is_refused(recipe, threads, tmp_path):  # noqa: F811
    untrained = replace(recipe, rank=0, soup=(0.0, 0.0))
    with pytest.raises(UserError, match="rank above 0"):
        fit(untrained, gather(untrained, None, threads), tmp_path / "soup")
