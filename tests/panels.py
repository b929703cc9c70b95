"""A store as a desk has it after some weeks, for the tests of the panels: real comments of the demo thread with the real model's
verdicts, copies of one of them, hostile names and titles, and the decisions of four people.

A test module that wants it says `pytest_plugins = ["panels"]`; it brings the fixtures of `desks` along.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hostile import PAYLOADS

from moderation import Article, Comment
from moderation.readers import read_comments
from moderation.store import Filter, Store

pytest_plugins = ["desks"]

SAMPLES = Path(__file__).parent.parent / "data" / "samples"
PASSWORD = "correct horse battery"
#: Roles by name; the names are what a user may be called, the rest of the hostility stands in titles, texts and notes.
PEOPLE = {"ada": "admin", "lea": "lead", "mo": "moderator", "mia": "moderator"}
COPIES = 7
DAY = 86_400.0


def fill(store: Store, moderator, samples) -> None:
    """The comments, with what the model says of them."""
    now = time.time()
    known = [item for item in read_comments([samples]) if isinstance(item, Comment)]
    comments = [
        dataclasses.replace(item, comment_id=f"s{place}", created_at=_ago(now, place % 21)) for place, item in enumerate(known)
    ]
    spam = "Earn 480 a day from home, write to me on WhatsApp +1 555 0134 778"
    comments += [
        Comment(spam, f"copy{place}", known[place * 7].article, created_at=_ago(now, place % 20)) for place in range(COPIES)
    ]
    for place, payload in enumerate(PAYLOADS):
        article = Article(f"h{place}", payload, f"{payload} stands in the article.", f"https://news{place}.example/a")
        comments.append(
            Comment(
                f"{payload} and why not, the bridge is closed",
                f"h{place}",
                article,
                author=payload,
                created_at=_ago(now, place),
            )
        )
    store.library.add_model(moderator.version, manifest=moderator.manifest)
    store.library.add(comments, moderator.predict(comments), site="news.example")


def decide(path, count: int = 30) -> None:
    """Decisions of the moderators over two weeks, some of them double ones, with hostile notes; no copy is decided."""
    random_ = random.Random(3)
    real = time.time()
    at = [real]
    with Store(path, lambda: at[0]) as store:
        policy = store.policies.active("").policy
        store.policies.save(policy, "lea", double_review=0.5, mode="active", note=PAYLOADS[8])
        items = [item for item in store.queue.page(Filter(), "newest", limit=200).items if item.copies == 1][:count]
        for place, item in enumerate(items):
            at[0] = real - (count - place) / count * 13 * DAY
            first, second = ("mo", "mia") if place % 2 else ("mia", "mo")
            label = item.verdict.label if random_.random() < 0.8 else "on-topic"
            note = PAYLOADS[place % len(PAYLOADS)]
            store.decisions.decide(item.id, first, label, f"test {place}", seconds=3 + random_.random() * 9, note=note)
            if store.queue.item(item.id).second == 1:
                store.decisions.decide(item.id, second, label if random_.random() < 0.8 else "off-topic", f"second {place}")


@pytest.fixture(scope="session")
def filled_store(tmp_path_factory, moderator):
    """The path of such a store, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "desk.db"
    with Store(path) as store:
        for name, role in PEOPLE.items():
            store.people.add(name, PASSWORD, role)
        fill(store, moderator, SAMPLES)
    decide(path)
    return path


@pytest.fixture(scope="module")
def panel_desk(desk_here_for_all, filled_store, tmp_path_factory):
    """A running desk over a copy of the filled store."""
    path = tmp_path_factory.mktemp("panel") / "desk.db"
    shutil.copyfile(filled_store, path)
    return desk_here_for_all(path)


@pytest.fixture(scope="module")
def sit_down(panel_desk, browser):
    """Logs someone in: `sit_down("lea", "Bulk")` gives the page with that tab open. Every page notes what it must not do."""
    pages = {}

    def open_page(name: str, tab: str, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        page = context.new_page()
        page.set_default_timeout(240_000)
        page.alarms = []
        page.on("dialog", lambda dialog: (page.alarms.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: leaves(request.url, panel_desk.url) and page.alarms.append(f"request {request.url}"))
        page.on("pageerror", lambda error: page.alarms.append(f"error {error}"))
        page.goto(f"{panel_desk.url}/login")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button").click()
        page.get_by_role("tab", name=tab, exact=True).click()
        pages[page] = context
        return page

    yield open_page
    found = [(page.alarms, page.evaluate("window.pwned")) for page in pages]
    for context in pages.values():
        context.close()
    assert found == [([], None)] * len(found)


class Wire:
    """Talks to the desk without its page: what a hidden button's handler answers to somebody who knows its number."""

    def __init__(self, server, name: str) -> None:
        self.http = httpx.Client(base_url=server.url, timeout=120)
        assert self.http.post("/login", data={"name": name, "password": PASSWORD}).headers["location"] == "/"
        self.config = self.http.get("/config").json()
        self.session = f"wire{name}{id(self)}"

    def handlers(self, tab: str) -> list[dict]:
        """The handlers on the components of a tab (its id)."""
        inside = set()

        def walk(node: dict, within: bool) -> None:
            within = within or node["id"] in own
            inside.update([node["id"]] if within else [])
            for child in node.get("children") or ():
                walk(child, within)

        own = [part["id"] for part in self.config["components"] if part["type"] == "tabitem" and part["props"].get("id") == tab]
        walk(self.config["layout"], False)
        return [
            handler
            for handler in self.config["dependencies"]
            if handler["backend_fn"] and inside & {*handler["inputs"], *handler["outputs"], *(at for at, _ in handler["targets"])}
            and not handler["api_name"].startswith("open_tabs")
        ]  # fmt: skip

    def send(self, handler: dict, data: list | None = None, event: dict | None = None) -> dict:
        """What a handler answers to these inputs (or those that the page begins with): `{"success": …, "output": …}`."""
        begins = {part["id"]: part["props"].get("value") for part in self.config["components"]}
        body = {
            "fn_index": handler["id"],
            "data": data if data is not None else [begins[at] for at in handler["inputs"]],
            "event_data": event,
            "session_hash": self.session,
        }
        joined = self.http.post("/gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    return message
        raise AssertionError("no answer")


def leaves(url: str, own: str) -> bool:
    """Whether a request goes anywhere but to the desk."""
    return not url.startswith((own, "data:", "blob:", "about:"))


def _ago(now: float, days: float) -> str:
    return datetime.fromtimestamp(now - days * DAY, UTC).isoformat()
