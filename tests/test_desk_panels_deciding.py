"""Bulk decisions and policies at the desk: the real page in Chromium, the real server, the real store."""

from __future__ import annotations

import pytest
from panels import COPIES, Wire
from playwright.sync_api import expect

from moderation.store import Filter, Store
from training.examples import read_threads
from training.lanes import THREADS

pytest_plugins = ["panels"]


@pytest.fixture
def store(panel_desk):
    with Store(panel_desk.store) as store:
        yield store


@pytest.fixture(scope="module")
def bulk(sit_down):
    return sit_down("lea", "Bulk")


@pytest.fixture(scope="module")
def policy(sit_down):
    return sit_down("lea", "Policy")


def drag(page, first, last):
    """Over the histogram, from one column to another."""
    columns = page.locator("#bulk-columns [data-bin]")
    boxes = [columns.nth(place).bounding_box() for place in (first, last)]
    page.mouse.move(boxes[0]["x"] + 2, boxes[0]["y"] + 40)
    page.mouse.down()
    page.mouse.move(boxes[1]["x"] + 2, boxes[1]["y"] + 40)
    page.mouse.up()


@pytest.fixture(scope="module")
def many(panel_desk):
    """The highest column from which on there is more spam than a sample shows, its probability, and the filter of what is there."""
    with Store(panel_desk.store) as store:
        for column in reversed(range(1, 20)):
            chosen = Filter(probability=("spam", column / 20, 1.0))
            if store.queue.count(chosen) > 12:
                return column, column / 20, chosen
    raise AssertionError("the model finds no spam at all")


# -- bulk -------------------------------------------------------------------------------------------------------------------


def test_a_range_is_dragged_looked_at_labelled_and_undone_as_one_step(bulk, store, many):
    first, low, chosen = many
    count = store.queue.count(chosen)
    expect(bulk.locator("#bulk-columns [data-bin]")).to_have_count(20)
    drag(bulk, first, 19)
    expect(bulk.locator("#bulk-count")).to_have_text(
        f"{count} comments undecided with a probability of spam from {low:.2f} to 1.00"
    )
    expect(bulk.locator("#bulk-sample li")).to_have_count(10)
    expect(bulk.locator("#bulk-columns .chosen")).to_have_count(20 - first)
    before = bulk.locator("#bulk-sample").inner_text()
    bulk.get_by_role("button", name="Show ten others").click()
    expect(bulk.locator("#bulk-sample")).not_to_have_text(before, use_inner_text=True)
    apply = bulk.get_by_role("button", name=f"Label {count} comments spam")
    apply.dblclick()
    expect(bulk.locator("#bulk-result")).to_contain_text(f"{count} comments labelled spam, as step")
    expect(bulk.locator("#bulk-count")).to_contain_text("0 comments")
    expect(bulk.locator("#bulk-apply")).to_be_disabled()
    [step] = store.decisions.recent(kind="bulk")
    assert (step.user, step.label, step.count, step.undone) == ("lea", "spam", count, False) and store.queue.count(chosen) == 0
    expect(bulk.locator("#bulk-steps")).to_contain_text(f"spam {low:.2f} to 1.00")
    bulk.get_by_role("button", name="Undo this step").click()
    expect(bulk.locator("#bulk-result")).to_contain_text(f"Step {step.id} is undone: {count} comments as before")
    expect(bulk.locator("#bulk-count")).to_contain_text(f"{count} comments")
    assert store.queue.count(chosen) == count and store.decisions.recent(kind="bulk")[0].undone


def test_the_list_names_who_undid_anothers_step(bulk, store, many):
    _, _, chosen = many
    done = store.decisions.bulk(chosen, "spam", "ada", "ada's bulk")
    bulk.get_by_role("tab", name="Queue").click()
    bulk.get_by_role("tab", name="Bulk").click()
    bulk.locator("#bulk-step input").click()
    bulk.get_by_role("option", name=f"step {done.step}:").click()
    bulk.get_by_role("button", name="Undo this step").click()
    expect(bulk.locator("#bulk-steps tr", has_text="ada").first).to_contain_text("undone by lea")
    assert store.decisions.recent(kind="bulk")[0].undone_by == "lea" and store.queue.count(chosen) == done.count


def test_nothing_happens_when_the_choice_holds_other_comments_by_now(bulk, store, many):
    first, _, chosen = many
    drag(bulk, first, 19)
    count = store.queue.count(chosen)
    expect(bulk.locator("#bulk-apply")).to_have_text(f"Label {count} comments spam")
    [item] = store.queue.page(chosen, limit=1).items
    store.decisions.decide(item.id, "mo", "spam", "in between")
    bulk.locator("#bulk-apply").click()
    expect(bulk.locator("#bulk-result")).to_contain_text(
        f"Nothing was done: the choice holds {count - 1} comments by now, not {count}"
    )
    store.decisions.undo("mo", "back again")
    assert all(step.undone for step in store.decisions.recent(kind="bulk"))


def test_all_copies_of_a_comment_are_decided_at_once(bulk, store):
    bulk.get_by_label("copies of one comment").check()
    bulk.get_by_label(f"{COPIES} × Earn 480").check()
    expect(bulk.locator("#bulk-count")).to_contain_text(f"{COPIES} comments undecided that say the same")
    expect(bulk.locator("#bulk-sample li")).to_have_count(COPIES)
    bulk.get_by_label("low-effort").check()
    bulk.get_by_label("Note (optional)").first.fill("<img src=x onerror=window.pwned=1>")
    bulk.get_by_role("button", name=f"Label {COPIES} comments low-effort").click()
    expect(bulk.locator("#bulk-result")).to_contain_text("labelled low-effort")
    step = store.decisions.recent(kind="bulk")[0]
    assert step.count == COPIES and store.queue.facets(Filter(show="decided", text="Earn 480 a day")).total == COPIES
    bulk.get_by_role("button", name="Undo this step").click()
    expect(bulk.locator("#bulk-result")).to_contain_text(f"Step {step.id} is undone")


def test_a_browser_can_only_have_done_what_it_was_shown(panel_desk, store):
    """Sent by hand: without a sample nothing is chosen; with another range than the sample's nothing is done."""
    wire = Wire(panel_desk, "lea")
    named = {handler["api_name"]: handler for handler in wire.handlers("bulk")}
    range_ = ["a range of probability", "spam", 0.0, 1.0, "every site", None]
    forged = {"wanted": range_, "filter": {}, "count": 9, "key": "k"}
    for selection in (None, forged):
        answer = wire.send(named["apply"], [*range_, "spam", "", selection])
        assert not answer["success"] and "look at its sample first" in answer["output"]["error"]
    assert wire.send(named["preview"], [*range_[:2], 0.99, *range_[3:], "spam"])["success"]
    answer = wire.send(named["apply"], [*range_, "spam", "", None])
    assert not answer["success"] and "look at its sample first" in answer["output"]["error"]
    for event in ({}, {"first": "x", "last": None}, {"first": [], "last": {}}):
        assert not wire.send(named["dragged"], [], event)["success"]
    assert all(step.undone for step in store.decisions.recent(kind="bulk"))


# -- policy -----------------------------------------------------------------------------------------------------------------


def slide(page, id, value):
    """Set a slider by its number."""
    field = page.locator(f"#{id} input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    field.blur()


def boxes(page):
    return [int(text.replace(",", "")) for text in page.locator("#policy-queue .boxes strong").all_inner_texts()]


def test_thresholds_show_their_effect_while_they_move(policy, store):
    active = store.policies.active("").policy
    expect(policy.locator("#policy-holds")).to_contain_text("holds, saved by lea")
    evaluated = len(read_threads(THREADS, "test"))
    expect(policy.locator("#policy-expected")).to_contain_text(f"{evaluated:,} labelled test comments")
    assert boxes(policy) == list(store.policies.effect(active).values())
    slide(policy, "review-spam", 0.01)
    expect(policy.locator("#policy-queue")).to_contain_text("against what holds")
    expect(policy.locator("#policy-expected")).to_contain_text("read from 0.01")
    now = boxes(policy)
    assert now[1] > store.policies.effect(active)["review"] and sum(now) == store.queue.count()


def test_expectations_come_from_what_was_decided_here_if_asked(policy):
    policy.get_by_label("what was decided here").check()
    expect(policy.locator("#policy-expected")).to_contain_text("30 comments that people decided here one by one")
    policy.get_by_label("the model's evaluation").check()
    expect(policy.locator("#policy-expected")).to_contain_text("labelled test comments")


def test_thresholds_are_proposed_for_what_can_be_read(policy):
    policy.locator("#reads input").fill("20")
    policy.locator("#arrivals input").fill("100")
    policy.get_by_role("button", name="Propose thresholds").click()
    expect(policy.locator("#policy-expected")).to_contain_text(
        "A person reads 20% of what arrives: about 20 of 100 a day, you read 20."
    )


def test_a_version_is_saved_watches_is_activated_and_retires(policy, store, moderator):
    slide(policy, "review-spam", 0.2)
    slide(policy, "double", 0.25)
    policy.get_by_label("Note (optional)").last.fill("</style><script>window.pwned=1</script>")
    policy.get_by_role("button", name="Save, only watch").click()
    expect(policy.locator("#policy-result")).to_contain_text("saved; it watches from now on")
    version = store.policies.versions()[0]
    assert (version.mode, version.policy.review["spam"], version.double_review, version.saved_by) == (
        "shadow",
        0.2,
        0.25,
        "lea",
    )
    assert store.policies.active("").version != version.version

    from moderation import Comment

    fresh = [
        Comment(f"number {place}: please look at my channel, it has more on bridges", f"shadow{place}") for place in range(5)
    ]
    store.library.add(fresh, moderator.predict(fresh))
    policy.get_by_role("tab", name="Queue").click()
    policy.get_by_role("tab", name="Policy").click()
    expect(policy.locator("#policy-shadow")).to_contain_text("It has watched 5 comments")

    policy.get_by_role("button", name="Activate", exact=True).click()
    expect(policy.locator("#policy-result")).to_contain_text(f"Version {version.version} holds from now on")
    expect(policy.locator("#policy-holds")).to_contain_text(f"Version {version.version} holds")
    assert store.policies.active("").version == version.version
    assert {one.mode for one in store.policies.versions()[1:]} == {"retired"}


def test_a_policy_for_one_site_and_one_that_rejects_unseen(policy, store):
    policy.locator("#policy-site input").click()
    policy.get_by_role("option", name="news.example", exact=True).click()
    policy.get_by_role("button", name="Reject unseen").click()
    policy.locator("#may-spam input").check()
    slide(policy, "reject-spam", 0.9)
    expect(policy.locator("#policy-expected")).to_contain_text("on-topic comments would be rejected unseen")
    policy.get_by_role("button", name="Save as draft").click()
    expect(policy.locator("#policy-result")).to_contain_text("saved as a draft")
    saved = store.policies.versions()[0]
    assert (saved.site, saved.mode, saved.policy.reject) == ("news.example", "draft", {"spam": 0.9})
    slide(policy, "review-spam", 0.95)
    policy.get_by_role("button", name="Save as draft").click()
    expect(policy.get_by_text("must not be below review")).to_be_visible()
    assert store.policies.versions()[0] == saved


# -- who may ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tab", ["bulk", "policy"])
def test_a_moderator_is_shown_neither_tab_and_refused_by_every_handler(panel_desk, tab, store):
    wire = Wire(panel_desk, "mo")
    handlers = wire.handlers(tab)
    assert len(handlers) > 5
    for handler in handlers:
        answer = wire.send(handler)
        assert not answer["success"] and "needs the role lead" in str(answer["output"]), handler["api_name"]


def test_the_page_shows_each_role_its_tabs(sit_down):
    page = sit_down("mo", "Queue")
    expect(page.get_by_role("tab", name="Queue")).to_be_visible()
    expect(page.get_by_role("tab", name="Bulk")).to_have_count(0)
