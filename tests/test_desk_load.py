"""Eight moderators at one desk over HTTP, on SQLite and on PostgreSQL: no decision is lost, none counts twice.

The timings of the issue, with 2,000 decisions: `DESK_LOAD=2000 python -m pytest tests/test_desk_load.py -s`.
"""

from __future__ import annotations

import os
import threading
import time

import httpx
import pytest

from moderation.schema import LABELS, Comment, Verdict
from moderation.store import Filter, Store

pytest_plugins = ["databases", "desks"]

MODERATORS = 8
DECISIONS = int(os.environ.get("DESK_LOAD", "320"))
PASSWORD = "correct horse battery"


def moderate(url, name, share, did, seconds):
    """As the page does: some comments ahead, each press once, now and then one that is sent twice."""
    with httpx.Client(base_url=url, timeout=60) as client:
        client.post("/login", data={"name": name, "password": PASSWORD})
        ready = []
        while len(did) < share:
            if len(ready) < 3:
                have = [item["id"] for item in ready]
                ready += (
                    client.post("/desk/queue/next", json={"choice": {}, "n": 6, "have": have})
                    .raise_for_status()
                    .json()["items"]
                )
            item = ready.pop(0)
            press = {
                "id": item["id"],
                "label": LABELS[item["id"] % 4],
                "key": f"{name}-press-{len(did)}",
                "seen": item["seen"],
                "seconds": 1,
            }
            started = time.perf_counter()
            answer = client.post("/desk/queue/decide", json=press).raise_for_status().json()
            seconds.append(time.perf_counter() - started)
            assert answer["outcome"] == "applied", answer
            if len(did) % 10 == 0:
                assert client.post("/desk/queue/decide", json=press).json()["outcome"] == "duplicate"
            did.append(item["id"])


@pytest.mark.slow
def test_eight_moderators_over_http(new_url, desk_server):
    url = new_url()
    verdict = Verdict("on-topic", dict(zip(LABELS, (0.4, 0.3, 0.2, 0.1), strict=True)), "review", "reads so", "m1")
    with Store(url) as store:
        store.library.add(
            [Comment(f"remark {number}", f"c{number}") for number in range(DECISIONS + 100)], [verdict] * (DECISIONS + 100)
        )
        for number in range(MODERATORS):
            store.people.add(f"user{number}", PASSWORD)
    server = desk_server(url, "--no-demo")
    did, seconds, failures = {f"user{number}": [] for number in range(MODERATORS)}, [], []

    def work(name):
        try:
            moderate(server.url, name, DECISIONS // MODERATORS, did[name], seconds)
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(name,)) for name in did]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    server.stop()
    assert failures == []
    with Store(url) as store:
        decided = {item.id: (item.decided_by, item.label) for page in pages(store) for item in page}
        histories = [len(store.decisions.history(number)) for number in list(decided)[::17]]
    assert decided == {number: (name, LABELS[number % 4]) for name, numbers in did.items() for number in numbers}
    assert len(decided) == DECISIONS // MODERATORS * MODERATORS and set(histories) == {1}
    seconds.sort()
    print(
        f"\n{url.split(':')[0]}: {len(seconds):,} decisions of {MODERATORS} moderators over HTTP in {took:.1f} s; one takes "
        f"{seconds[len(seconds) // 2] * 1000:.0f} ms (median), {seconds[int(len(seconds) * 0.95)] * 1000:.0f} ms (95 %)"
    )


def pages(store):
    after = None
    while True:
        page = store.queue.page(Filter(show="decided"), "oldest", 500, after)
        yield page.items
        after = page.after
        if after is None:
            return
