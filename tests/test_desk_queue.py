"""Deciding comments at the desk: the real page in Chromium, over the real server, store and model."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sqlite3
import time

import httpx
import pytest
from playwright.sync_api import expect

from moderation.schema import LABELS, Article, Comment
from moderation.store import Filter, Store, database

pytest_plugins = ["desks"]

PASSWORD = "correct horse battery"
BRIDGE = Article(
    "bridge",
    "Council votes to close the Old Mill Bridge for two years",
    "The town council voted 9 to 6 on Tuesday to close the bridge. Two of its four piers are cracked. Shopkeepers fear for their trade.",
)


def remarks(count):
    """As many comments, each different, under one article."""
    subjects = ("the bridge", "Mill Street", "the piers", "the detour", "the council", "the bakery", "the bus")
    says = (
        "{} has waited for ten years, number {}",
        "who pays for {} in year {}?",
        "buy {} decking at shop{}.example now",
        "lol {} {}",
    )
    for number, subject, say in zip(range(count), itertools.cycle(subjects), itertools.cycle(says), strict=False):
        yield Comment(say.format(subject, number), f"c{number}", BRIDGE, author=f"reader{number % 9}")


@pytest.fixture
def filled(tmp_path, moderator):
    """Makes stores: `filled(count)` holds so many scored comments and the users ada (admin), bob and cy (moderators)."""

    def make(count, comments=None):
        path = tmp_path / "desk.db"
        with Store(path) as store:
            comments = list(comments or remarks(count))
            store.library.add_model(moderator.version, manifest=moderator.manifest)
            store.library.add(comments, moderator.predict(comments), site="courier")
            for name, role in (("ada", "admin"), ("bob", "moderator"), ("cy", "moderator")):
                store.people.add(name, PASSWORD, role)
        return path

    return make


@pytest.fixture(scope="module")
def small_desk(desk_here_for_all, tmp_path_factory):
    """One desk for tests that change nothing."""
    path = tmp_path_factory.mktemp("small") / "desk.db"
    with Store(path) as store:
        store.people.add("bob", PASSWORD)
        store.library.add(list(remarks(3)))
    return desk_here_for_all(path)


@pytest.fixture
def desk(desk_here, filled):
    """Starts a desk over a new store: `desk(count)`."""
    return lambda count=12, comments=None, **settings: desk_here(filled(count, comments), **settings)


@pytest.fixture
def visit(browser):
    """Opens the desk in a browser of its own, logged in: `visit(server, "ada")`. Console errors and foreign requests fail the test."""
    contexts, troubles = [], []

    def open_page(server, name="ada", path="/", **settings):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **settings)
        context.set_default_timeout(240_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: "Policy" in message.text and troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(f"error {error}"))
        page.on(
            "request", lambda request: request.url.startswith((server.url, "data:", "blob:")) or troubles.append(request.url)
        )
        page.goto(server.url + path)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        ready(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def ready(page):
    expect(page.locator("#q-stage .card, #q-stage .empty button").first).to_be_visible()


def shown(page):
    """The number of the comment on the screen; waits for one where the server is slower than the keys."""
    expect(page.locator("#q-stage")).to_have_attribute("data-id", re.compile("[0-9]+"))
    return int(page.locator("#q-stage").get_attribute("data-id"))


def look(page):
    """Look at the comment on the screen for the quarter of a second without which no press counts; waits for one."""
    page.wait_for_function(
        "(stage => stage.dataset.id && performance.now() - stage.dataset.shown > 255)(document.getElementById('q-stage'))"
    )


def press(page, key, times=1):
    """Press as a person does who has looked at the comment."""
    for _ in range(times):
        look(page)
        page.keyboard.press(key)


def saved(page):
    expect(page.locator("#q-state")).to_have_text("All saved")


def labels_in(path):
    with Store(path) as store:
        return {item.id: item.label for item in store.queue.page(Filter(show="decided"), limit=500).items}


@pytest.mark.slow
def test_a_hundred_comments_by_keyboard_and_none_is_lost(desk, visit):
    server = desk(110)
    page = visit(server)
    wanted = {}
    for number in range(100):
        look(page)
        comment = shown(page)
        label = LABELS[number % 4]
        page.keyboard.press(str(number % 4 + 1))
        assert shown(page) != comment, "the next comment is there at once"
        wanted[comment] = label
    saved(page)
    assert len(wanted) == 100 and labels_in(server.store) == wanted
    with Store(server.store) as store:
        assert all(entry.seconds and entry.user == "ada" for number in wanted for entry in store.decisions.history(number))


def test_a_key_pressed_twice_fast_labels_one_comment(desk, visit):
    server = desk()
    page = visit(server)
    first = shown(page)
    look(page)
    expect(page.locator("#queue")).to_have_attribute("data-ahead", re.compile("[4-9]|1[0-9]"))
    page.evaluate(
        """Array.from({length: 4}, () => new KeyboardEvent('keydown', {key: '3', code: 'Digit3', bubbles: true}))
           .forEach(event => document.body.dispatchEvent(event))  // made at once, however long the page takes for each"""
    )
    expect(page.locator("#q-last")).to_contain_text("Too fast")
    second = shown(page)
    press(page, "2")
    saved(page)
    assert labels_in(server.store) == {first: "spam", second: "off-topic"}


def test_the_same_press_sent_again_counts_once(desk):
    server = desk()
    client = login(server, "bob")
    [item, *_] = client.post("/desk/queue/next", json={"choice": {}, "n": 3}).json()["items"]
    body = {"id": item["id"], "label": "spam", "key": "one-press-of-bob", "seen": item["seen"]}
    outcomes = [client.post("/desk/queue/decide", json=body).json()["outcome"] for _ in range(3)]
    assert outcomes == ["applied", "duplicate", "duplicate"]
    with Store(server.store) as store:
        assert len(store.decisions.history(item["id"])) == 1


def test_every_key_does_what_the_help_says(desk, visit):
    server = desk()
    page = visit(server)
    first = shown(page)
    page.keyboard.press("?")
    expect(page.locator("#q-help")).to_be_visible()
    press(page, "3")
    page.keyboard.press("Escape")
    expect(page.locator("#q-help")).to_be_hidden()
    assert shown(page) == first and labels_in(server.store) == {}, "keys are dead while a dialog is open"
    press(page, "s")
    second = shown(page)
    press(page, "j")
    third = shown(page)
    press(page, "k")
    assert shown(page) == second and third not in (first, second)
    agreed = page.locator("#q-agree").inner_text()
    press(page, "a")
    assert shown(page) == third
    saved(page)
    [(number, label)] = labels_in(server.store).items()
    assert number == second and label in agreed.lower()
    press(page, "k")
    assert shown(page) == second
    expect(page.locator(".yours")).to_contain_text("You decided")
    other = "1" if label != "on-topic" else "2"
    press(page, other)
    saved(page)
    assert labels_in(server.store) == {second: LABELS[int(other) - 1]}
    with Store(server.store) as store:
        assert [entry.label for entry in store.decisions.history(second)] == [label, LABELS[int(other) - 1]]


def test_undo_takes_back_any_number_of_decisions_in_their_order(desk, visit):
    server = desk()
    page = visit(server)
    order = []
    for key in "1234":
        order.append(shown(page))
        press(page, key)
    saved(page)
    for key, number in zip(("u", "Backspace", "u", "u"), reversed(order), strict=True):
        page.keyboard.press(key)
        expect(page.locator("#q-stage")).to_have_attribute("data-id", str(number))
        expect(page.locator("#q-last")).to_contain_text("Taken back")
    assert labels_in(server.store) == {}
    page.keyboard.press("u")
    expect(page.locator("#q-last")).to_have_text("Nothing to take back")
    press(page, "3")
    saved(page)
    assert labels_in(server.store) == {order[0]: "spam"}


def test_all_copies_are_decided_in_bulk_from_the_queue_and_taken_back_as_one(desk, visit):
    """The queue leads to Bulk, does not offer what was decided there, and takes it back as one."""
    spam = "Cheap decking for every bridge, free delivery, visit www.deckworld.example today"
    copies = [Comment(f"{spam} {number}", f"s{number}", BRIDGE) for number in range(9)]
    server = desk(0, [*remarks(4), *copies])
    page = visit(server)
    page.locator("[name=text]").fill("deckworld")
    page.locator("[name=text]").press("Enter")
    expect(page.locator("#q-stage .said")).to_contain_text("deckworld")
    page.locator(".same summary").click()
    page.get_by_role("button", name="Decide them all in Bulk").click()
    expect(page.locator("#bulk-count")).to_contain_text("9 comments undecided that say the same")
    expect(page.locator("#bulk-sample li")).to_have_count(9)
    page.get_by_role("button", name="Label 9 comments spam").click()
    expect(page.locator("#bulk-result")).to_contain_text("9 comments labelled spam, as step")
    assert list(labels_in(server.store).values()) == ["spam"] * 9
    page.get_by_role("tab", name="Queue").click()
    expect(page.locator("#q-stage .empty h2")).to_have_text("Nothing more here")
    page.locator("[name=text]").fill("")
    page.locator("[name=text]").press("Enter")
    number = shown(page)
    press(page, "1")
    saved(page)
    assert len(labels_in(server.store)) == 10
    page.keyboard.press("u")
    expect(page.locator("#q-last")).to_have_text("Taken back: On-topic")
    assert shown(page) == number
    page.keyboard.press("u")
    expect(page.locator("#q-last")).to_have_text("Taken back: Spam on 9 comments")
    assert labels_in(server.store) == {}


def test_who_has_chosen_a_filter_goes_on_with_the_keys(desk, visit):
    server = desk()
    page = visit(server)
    order = page.locator("[name=sort]")
    order.dispatch_event("pointerdown")
    order.focus()
    order.select_option("newest")
    first = shown(page)
    press(page, "3")
    page.locator("[name=text]").fill("council")
    page.keyboard.press("Enter")
    expect(page.locator("#q-stage .said")).to_contain_text("council")
    second = shown(page)
    press(page, "2")
    saved(page)
    assert labels_in(server.store) == {first: "spam", second: "off-topic"} and order.input_value() == "newest"
    order.focus()
    order.select_option("oldest")  # by keyboard, who may want to go on to the next option
    assert page.evaluate("document.activeElement.name") == "sort"


def test_keys_are_dead_in_text_fields_and_a_note_goes_with_its_decision(desk, visit):
    server = desk()
    page = visit(server)
    first = shown(page)
    press(page, "n")
    page.keyboard.type("asku 1234 j?")
    page.keyboard.press("Backspace")
    assert page.locator("#q-note").input_value() == "asku 1234 j" and shown(page) == first
    page.keyboard.press("Escape")
    press(page, "2")
    expect(page.locator("#q-note")).to_be_hidden()
    page.locator("[name=text]").click()
    page.keyboard.type("s4u")
    look(page)
    saved(page)
    assert labels_in(server.store) == {first: "off-topic"}
    with Store(server.store) as store:
        assert store.decisions.history(first)[0].note == "asku 1234 j"


def test_two_moderators_at_once_never_get_the_same_comment(desk, visit):
    server = desk(40)
    pages = {name: visit(server, name) for name in ("ada", "bob")}
    did = {name: [] for name in pages}
    for _ in range(14):
        for name, page in pages.items():
            look(page)
            did[name].append(shown(page))
        assert did["ada"][-1] != did["bob"][-1]
        for name, page in pages.items():
            look(page)
            page.keyboard.press("1" if name == "ada" else "2")
    for page in pages.values():
        saved(page)
    assert not set(did["ada"]) & set(did["bob"])
    with Store(server.store) as store:
        by = {item.id: item.decided_by for item in store.queue.page(Filter(show="decided"), limit=500).items}
    assert by == {number: name for name, numbers in did.items() for number in numbers}


def test_a_comment_that_another_decided_meanwhile_is_not_decided_again(desk, visit):
    server = desk()
    page = visit(server)
    number = shown(page)
    with Store(server.store) as store:
        store.queue.release("ada")
        assert store.decisions.decide(number, "cy", "low-effort", "cy was first").outcome == "applied"
    press(page, "3")
    expect(page.locator("#q-notice")).to_contain_text("was not counted. Not counted: cy labelled it low-effort meanwhile")
    assert labels_in(server.store) == {number: "low-effort"}
    page.get_by_role("button", name="Show it").click()
    assert shown(page) == number
    press(page, "3")
    saved(page)
    assert labels_in(server.store) == {number: "spam"}, "seen, it may be changed"


def test_a_reload_in_the_middle_loses_nothing_and_shows_the_same_comment(desk, visit):
    server = desk(30)
    page = visit(server)
    done = []

    def some():
        for key in "132":
            done.append(shown(page))
            press(page, key)

    for _ in range(2):
        some()
        here = shown(page)
        saved(page)
        page.reload()
        ready(page)
        assert shown(page) == here
    with Store(server.store) as store:  # a server that is held up: three presses wait when the page goes
        held_up = store.database.engine.connect().execution_options(immediate=True)
        with held_up.begin():
            some()
            expect(page.locator("#queue")).to_have_attribute("data-unsaved", "3")
            page.reload(wait_until="commit")
        held_up.close()
    expect(page.locator("#q-count")).to_have_text("21 comments to do")
    assert set(labels_in(server.store)) == set(done) and len(set(done)) == 9


@pytest.mark.slow
def test_a_killed_server_loses_no_decision(desk_server, filled, visit):
    server = desk_server(filled(30), "--no-demo")
    page = visit(server)
    wanted = {}

    def some(keys):
        for key in keys:
            look(page)
            wanted[shown(page)] = LABELS[int(key) - 1]
            page.keyboard.press(key)

    some("1234")
    expect(page.locator("#queue")).to_have_attribute("data-ahead", re.compile("[4-9]|1[0-9]"))
    server.kill()
    some("123")  # what is held ready can still be decided
    expect(page.locator("#q-notice")).to_contain_text("does not answer")
    expect(page.locator("#q-state")).to_contain_text("not saved yet")
    server.start()
    saved(page)
    expect(page.locator("#q-notice")).to_be_hidden()
    some("42")
    saved(page)
    assert len(wanted) == 9 and labels_in(server.store) == wanted


def test_a_press_waits_while_the_database_takes_nothing(desk, visit, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    server = desk()
    page = visit(server)
    number = shown(page)
    with contextlib.closing(sqlite3.connect(server.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # as a long import of another program would
        press(page, "3")
        expect(page.locator("#q-state")).to_contain_text("1 not saved yet, trying again")
        other.execute("ROLLBACK")
    saved(page)
    expect(page.locator("#q-notice")).to_be_hidden()
    assert labels_in(server.store) == {number: "spam"}


def test_a_session_that_ends_costs_no_decision(desk, visit):
    server = desk()
    page = visit(server)
    with Store(server.store) as store:
        store.people.set_password("ada", PASSWORD + "!")  # ends every session
    number = shown(page)
    press(page, "3")
    expect(page.locator("#q-notice")).to_contain_text("Your session has ended. 1 presses wait here")
    assert labels_in(server.store) == {}
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Log in again").click()
    other = opened.value
    other.get_by_label("Name").fill("ada")
    other.get_by_label("Password").fill(PASSWORD + "!")
    other.get_by_role("button", name="Log in").click()
    saved(page)
    assert labels_in(server.store) == {number: "spam"}


def test_what_waits_is_never_counted_for_another_user(desk):
    server = desk()
    client = login(server, "bob")
    [item, *_] = client.post("/desk/queue/next", json={"choice": {}, "n": 3}).json()["items"]
    body = {"id": item["id"], "label": "spam", "key": "pressed-by-cy", "seen": item["seen"]}
    assert client.post("/desk/queue/decide", json=body, headers={"x-desk-user": "cy"}).status_code == 409
    assert labels_in(server.store) == {}


def test_a_short_session_expires(desk):
    now = [time.time()]
    server = desk(3, session=600.0, clock=lambda: now[0])
    client = login(server, "bob")
    assert client.get("/desk/me").json()["name"] == "bob"
    now[0] += 601
    assert client.get("/desk/me").status_code == 401
    assert client.post("/desk/queue/next", json={"choice": {}}).status_code == 401


def test_filters_and_orders_choose_and_count(desk, visit):
    server = desk(40)
    page = visit(server)
    with Store(server.store) as store:
        label, count = store.queue.facets().labels.most_common()[-1]
    expect(page.locator("#q-count")).to_have_text("40 comments to do")
    chip = page.get_by_role("button", name=f"{label.capitalize()} {count}", exact=True)
    chip.click()
    expect(page.locator("#q-count")).to_have_text(f"{count} comment{'s' * (count > 1)} to do")
    ready(page)
    for _ in range(count):
        expect(page.locator(".bars .top")).to_contain_text(label.capitalize())
        press(page, "j")
    expect(page.locator("#q-stage .empty h2")).to_have_text("Nothing more here")
    chip.click()
    page.locator("[name=text]").fill("BAKERY")
    ready(page)
    expect(page.locator("#q-stage .said")).to_contain_text("bakery")
    page.locator("[name=text]").fill("")
    page.locator("#q-more").click()
    page.locator("[name=p-label]").select_option("on-topic")
    page.locator("[name=p-low]").fill("90")
    page.locator("[name=p-high]").fill("100")
    page.locator("[name=p-high]").press("Tab")
    with Store(server.store) as store:
        sure = store.queue.count(Filter(probability=("on-topic", 0.9, 1.0)))
    expect(page.locator("#q-count")).to_have_text(f"{sure} comment{'s' * (sure != 1)} to do")
    page.locator("#q-reset").click()
    expect(page.locator("#q-count")).to_have_text("40 comments to do")
    for order in ("doubt", "newest", "oldest", "value", "trouble"):
        page.locator("[name=sort]").select_option(order)
        ready(page)
        with Store(server.store) as store:
            assert shown(page) == store.queue.page(sort=order, limit=1).items[0].id, order


def test_decided_comments_can_be_looked_at_and_corrected(desk, visit):
    server = desk()
    page = visit(server)
    first = shown(page)
    press(page, "1")
    saved(page)
    page.locator("[name=show]").select_option("mine")
    expect(page.locator("#q-stage")).to_have_attribute("data-id", str(first))
    press(page, "4")
    saved(page)
    assert labels_in(server.store) == {first: "low-effort"}


def test_a_skipped_comment_goes_to_somebody_else(desk, visit):
    server = desk(3)
    ada, bob = visit(server, "ada"), None
    number = shown(ada)
    press(ada, "s")
    saved(ada)
    bob = visit(server, "bob")
    assert shown(bob) == number


def test_what_was_skipped_comes_back_when_nothing_else_is_left(desk, visit):
    page = visit(desk(3))
    order = [shown(page)]
    press(page, "s")
    order.append(shown(page))
    press(page, "s")
    press(page, "1")
    expect(page.locator("#q-stage")).to_have_attribute("data-id", str(order[0]))
    press(page, "2")
    assert shown(page) == order[1]
    press(page, "3")
    expect(page.locator(".empty h2")).to_have_text("All done")


def test_a_second_opinion_is_asked_for_blind(desk, visit):
    server = desk(3)
    with Store(server.store) as store:
        store.policies.save(store.policies.active().policy, "ada", double_review=1.0, mode="active")
        [number] = [item.id for item in store.queue.claim("cy", n=1)]
        store.decisions.decide(number, "cy", "off-topic", "first opinion")
    page = visit(server, "bob")
    for _ in range(3):
        if shown(page) == number:
            break
        press(page, "j")
    assert shown(page) == number
    text = page.locator("#q-stage").inner_text()
    assert "cy" not in text.split() and "decided" not in text.lower()
    for choice, expected in (({"show": "decided"}, [(number, "")]), ({"show": "decided", "decided": ["off-topic"]}, [])):
        items = login(server, "bob").post("/desk/queue/next", json={"choice": choice}).json()["items"]
        assert [(item["id"], item["label"]) for item in items] == expected, "what was decided first shows nowhere"
    press(page, "3")
    saved(page)
    with Store(server.store) as store:
        item = store.queue.item(number)
        assert (item.label, item.decided_by, item.second) == ("off-topic", "cy", 3)


def test_why_article_thread_and_copies_are_shown(desk, visit):
    spam = "Cheap decking and garden timber for every bridge, free delivery, visit www.deckworld.example today"
    comments = [
        Comment("Two of the four piers are cracked, and they knew it.", "p", BRIDGE, author="Ines"),
        Comment("And who reads the survey of the piers then?", "r", BRIDGE, parent_id="p", author="Tomas"),
        *[Comment(f"{spam} {number}", f"s{number}", BRIDGE, author=f"shop{number}") for number in range(14)],
        Comment("Get p\u0430ypal\u200b credit \u202enow", "o", BRIDGE),
        Comment("دا پل باید ژر تر ژره جوړ شي، خلک له دې لارې تېریږي.", "ps", BRIDGE, language="ps"),
    ]
    server = desk(0, comments)
    page = visit(server)

    def search(text):
        page.locator("[name=text]").fill(text)
        expect(page.locator("#q-stage .said")).to_contain_text(text)

    search("decking")
    expect(page.locator(".chip.copies")).to_have_text("posted 14 times")
    page.locator(".same summary").click()
    expect(page.locator(".same li")).to_have_count(13)
    expect(page.locator(".said mark").first).to_be_visible()
    assert "www.deckworld.example" in page.locator(".said .link").inner_text()
    assert page.locator("#q-stage a").count() == 0, "links are dead"
    assert page.locator(".bars li").count() == 4
    expect(page.locator(".article h2")).to_have_text(BRIDGE.title)
    search("who reads the survey")
    expect(page.locator(".answered header")).to_contain_text("It answers Ines")
    expect(page.locator(".context .nearest")).to_contain_text("similarity")
    page.locator("[name=text]").fill("credit")
    expect(page.locator(".hiding")).to_contain_text("1 invisible character; 1 sign turning the direction")
    assert page.locator(".said .hid").count() == 2 and page.locator(".said .alike").count() == 1
    assert "\u202e" not in page.content() and "\u200b" not in page.locator(".said").inner_text()
    page.locator("[name=text]").fill("پل")
    expect(page.locator(".said")).to_have_attribute("dir", "rtl")


def test_an_empty_queue_says_so(desk, visit):
    server = desk(1)
    page = visit(server)
    press(page, "1")
    expect(page.locator(".empty h2")).to_have_text("All done")


def test_the_tour_has_five_lines_and_is_shown_once(desk, visit):
    page = visit(desk(3))
    assert page.locator("#q-tour li").count() == 5
    page.get_by_role("button", name="Understood").click()
    expect(page.locator("#q-tour")).to_be_hidden()
    page.reload()
    ready(page)
    expect(page.locator("#q-tour")).to_be_hidden()


def test_the_browser_keeps_no_text(desk, visit):
    page = visit(desk())
    press(page, "1", 2)
    saved(page)
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert set(itertools.chain(*json.loads(kept))) <= {"desk-tour", "desk-theme"}, kept
    assert page.evaluate("indexedDB.databases().then(all => all.length)") == 0
    assert page.context.cookies()[0] | {"httpOnly": True, "sameSite": "Strict"} == page.context.cookies()[0]


def test_a_private_endpoint_asks_for_the_session_too(desk):
    server = desk(3)
    for path in ("next", "decide", "undo", "skip", "why", "counts", "hold", "articles"):
        assert httpx.post(f"{server.url}/desk/queue/{path}", json={}).status_code == 401
        assert login(server, "bob").post(f"/desk/queue/{path}", content=b"{nonsense").status_code == 422


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("decide", '{"id": 1e400, "label": "spam", "key": "12345678"}'),
        ("decide", '{"id": 99999999999999999999, "label": "spam", "key": "12345678"}'),
        ("decide", '{"id": 1, "label": "spam", "key": "12345678", "note": "\\ud800"}'),
        ("decide", '{"id": 1, "label": "<b>", "key": "12345678"}'),
        ("next", '{"choice": {"article": 99999999999999999999}}'),
        ("next", '{"choice": {}, "have": [-99999999999999999999]}'),
        ("next", '{"choice": {}, "n": 1000000}'),
        ("next", '{"choice": {"show": "all"}, "after": [1, 99999999999999999999]}'),
        ("why", '{"id": 99999999999999999999}'),
        ("counts", '{"probability": ["spam", "NaN", 1]}'),
    ],
)
def test_what_no_page_sends_is_refused_without_an_echo(small_desk, path, body):
    answer = login(small_desk, "bob").post(
        f"/desk/queue/{path}", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()) in (
        (422, {"detail": "This request cannot be understood."}),
        (400, {"detail": "a probability range must lie within 0 and 1, found nan to 1.0"}),
    )


def login(server, name):
    client = httpx.Client(base_url=server.url)
    assert client.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
    return client
