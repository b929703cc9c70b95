"""The Learning tab in a browser: train, compare, promote, roll back, on a store with a month of decisions."""

import pytest
from playwright.sync_api import expect

from moderation.registry import Registry

pytest_plugins = ["desks", "learning"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it trains, in a process of the lowest priority
def test_a_lead_trains_compares_promotes_and_rolls_back(
    site, registry, small_threads, desk_here, browser, tmp_path, monkeypatch
):
    first = registry.champion()
    site.decide(site.open()[:250])
    for name, role in (("mia", "moderator"), ("lena", "lead")):
        site.store.people.add(name, "correct horse battery", role)
    # The desk starts `moderation train` where it stands; our threads in small are found there.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "threads").symlink_to(small_threads)
    monkeypatch.chdir(tmp_path)
    desk = desk_here(tmp_path / "desk.db")
    lena = browser.new_page()
    lena.set_default_timeout(240_000)
    lena.goto(desk.url)
    lena.fill("input[name=name]", "lena")
    lena.fill("input[name=password]", "correct horse battery")
    lena.keyboard.press("Enter")
    lena.get_by_role("tab", name="Learning").click()
    expect(lena.locator("#learning-now")).to_contain_text(first)
    lena.locator("#train-fast").click()
    expect(lena.locator("#learning-result")).to_contain_text("Training has begun")
    expect(lena.locator("#learning-progress")).to_contain_text("Better on the site's decisions", timeout=1_500_000)
    lena.locator("#learning-compare").click()
    expect(lena.locator("#learning-judgement table")).to_contain_text("Macro-F1, all that judges")
    lena.locator("#learning-promote").click()
    expect(lena.locator("#learning-result")).to_contain_text("is champion from now on")
    assert Registry().champion() != first
    lena.locator("#learning-rollback").click()
    expect(lena.locator("#learning-result")).to_contain_text(f"{first} is champion")
    assert Registry().champion() == first
    lena.locator("#learning-order").click()
    expect(lena.locator("#learning-ordered")).to_contain_text("86 undecided comments are in order of value")
    mia = browser.new_context().new_page()
    mia.set_default_timeout(240_000)
    mia.goto(desk.url)
    mia.fill("input[name=name]", "mia")
    mia.fill("input[name=password]", "correct horse battery")
    mia.keyboard.press("Enter")
    expect(mia.get_by_role("tab", name="Queue")).to_be_visible()
    expect(mia.get_by_role("tab", name="Learning")).to_have_count(0)
