"""Many moderators at once, in threads and in processes: no decision is lost, none is made twice. Run by hand for the timings:
`python -m pytest tests/test_store_load.py -s`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moderation.schema import LABELS, Comment, Verdict
from moderation.store import Filter, Store

pytest_plugins = ["databases"]

MODERATORS, COMMENTS = 8, 2000


def fill(store, n):
    probabilities = dict(zip(LABELS, (0.4, 0.3, 0.2, 0.1), strict=True))
    verdict = Verdict("on-topic", probabilities, "review", "reads so", "m1")
    store.library.add([Comment(f"remark {index}", f"c{index}") for index in range(n)], [verdict] * n)


def moderate(store, user, claimed, seconds):
    """Decide until the queue is empty, as the desk does: some comments ahead, some presses sent twice, now and then an undo."""
    number = 0
    while items := store.queue.claim(user, n=5):
        for item in items:
            claimed.append(item.id)
            number += 1
            started = time.perf_counter()
            done = store.decisions.decide(item.id, user, LABELS[item.id % 4], f"{user}-{number}", seen=item.decision_id)
            seconds.append(time.perf_counter() - started)
            assert done.outcome == "applied", done
            if number % 10 == 0:
                assert store.decisions.decide(item.id, user, "spam", f"{user}-{number}").outcome == "duplicate"
            if number % 25 == 0:
                assert store.decisions.undo(user, f"{user}-undo-{number}").comment_id == item.id
                again = store.decisions.decide(item.id, user, LABELS[item.id % 4], f"{user}-again-{number}")
                assert again.outcome == "applied", again


def main(url, users):
    """In a process of its own: these moderators, each in a thread. Prints what they did as JSON."""
    did = {user: {"claimed": [], "seconds": []} for user in users}
    failures = []
    with Store(url) as store:

        def work(user):
            try:
                moderate(store, user, **did[user])
            except BaseException as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=work, args=(user,)) for user in users]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(json.dumps({"did": did, "failures": failures}))


@pytest.mark.slow
def test_eight_moderators_in_two_processes_lose_nothing_and_double_nothing(store, store_url):
    fill(store, COMMENTS)
    code = "import sys, test_store_load; test_store_load.main(sys.argv[1], sys.argv[2:])"
    users = [f"user{index}" for index in range(MODERATORS)]
    started = time.perf_counter()
    running = [
        subprocess.Popen([sys.executable, "-c", code, store_url, *half], stdout=subprocess.PIPE, cwd=Path(__file__).parent)
        for half in (users[::2], users[1::2])
    ]
    reports = [json.loads(process.communicate(timeout=300)[0]) for process in running]
    took = time.perf_counter() - started
    assert [report["failures"] for report in reports] == [[], []]
    did = {user: part for report in reports for user, part in report["did"].items()}
    claimed = [number for part in did.values() for number in part["claimed"]]
    assert len(claimed) == len(set(claimed)) == COMMENTS
    assert sum(bool(part["claimed"]) for part in did.values()) >= 2  # on a busy machine a late starter may find nothing left
    facets = store.queue.facets(Filter(show="all"))
    assert (facets.decided, facets.undecided) == (COMMENTS, 0)
    with store.database.read() as connection:
        standing = connection.exec_driver_sql(
            "SELECT d.comment_id, c.label, c.decided_by FROM decisions d JOIN comments c ON c.id = d.comment_id "
            "WHERE d.kind = 'single' AND NOT EXISTS (SELECT 1 FROM steps u WHERE u.undoes = d.step_id)"
        ).all()
    assert sorted(row[0] for row in standing) == sorted(claimed)
    owner = {number: user for user, part in did.items() for number in part["claimed"]}
    assert all(label == LABELS[number % 4] and user == owner[number] for number, label, user in standing)
    seconds = sorted(second for part in did.values() for second in part["seconds"])
    print(
        f"\n{store.database.engine.dialect.name}: {COMMENTS:,} decisions of {MODERATORS} moderators in {took:.1f} s; "
        f"a decision takes {seconds[len(seconds) // 2] * 1000:.0f} ms (median), {seconds[int(len(seconds) * 0.95)] * 1000:.0f} ms (95 %)"
    )


def at_once(*calls):
    """The results of calls made in threads that start together."""
    results, ready = [None] * len(calls), threading.Barrier(len(calls))

    def run(index, call):
        ready.wait()
        try:
            results[index] = call()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_one_key_sent_at_once_from_everywhere_counts_once(store):
    fill(store, 1)
    results = at_once(*[lambda: store.decisions.decide(1, "ada", "spam", "one press")] * 6)
    assert sorted(result.outcome for result in results) == ["applied"] + ["duplicate"] * 5, results
    results = at_once(*[lambda: store.decisions.undo("ada", "one undo")] * 6)
    assert len({result.step for result in results}) == 1, results
    assert len(store.decisions.history(1)) == 2


def test_one_comment_decided_at_once_by_many_is_decided_by_one(store):
    fill(store, 1)
    results = at_once(*[lambda user=f"u{index}": store.decisions.decide(1, user, "spam", "k") for index in range(6)])
    assert sorted(result.outcome for result in results) == ["applied"] + ["stale"] * 5, results


def test_bulk_and_single_decisions_at_once_leave_one_truth(store):
    fill(store, 60)
    singles = [lambda number=number: store.decisions.decide(number, "bob", "on-topic", f"k{number}") for number in range(1, 9)]
    bulk, *rest = at_once(lambda: store.decisions.bulk(Filter(show="undecided"), "spam", "ada", "b"), *singles)
    assert bulk.outcome == "applied" and bulk.count >= 52
    by_bob = sum(result.outcome == "applied" for result in rest)
    assert bulk.count + by_bob == 60 and store.queue.facets(Filter(show="all")).decided == 60
    assert store.decisions.undo("ada", "u").count == bulk.count
    assert store.queue.facets(Filter(show="all")).decided == by_bob


def test_the_same_export_imported_twice_at_once_is_there_once(store):
    items = [Comment(f"remark number {index % 7} on the bridge and the river", f"c{index}") for index in range(80)]
    results = at_once(*[lambda: store.library.add(items)] * 3)
    assert sum(result.new for result in results) == 80, results
    assert store.queue.count() == 80 and {item.copies for item in store.queue.page(limit=80).items} == {80}
