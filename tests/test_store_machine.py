"""Hypothesis drives decide, bulk and undo in any order and holds the store against ten lines that say what must be true."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from moderation.schema import LABELS, Comment, Verdict
from moderation.store import Filter, Store

pytest_plugins = ["databases"]

COMMENTS = 6
users, labels, numbers = st.sampled_from(["ada", "bob"]), st.sampled_from(LABELS), st.integers(1, COMMENTS)


def machine(make_url):
    class Machine(RuleBasedStateMachine):
        """`self.steps`: every step as [user, {comment: label}, stands]; the newest that stands says what a comment's label is."""

        @initialize()
        def fill(self):
            self.store = Store(make_url())
            self.steps, self.results, self.sent = [], {}, 0
            for index in range(COMMENTS):
                chance = index / COMMENTS
                verdict = Verdict("spam", dict(zip(LABELS, (1 - chance, 0, chance, 0), strict=True)), "review", "x", "m")
                self.store.library.add([Comment(f"remark {index}", f"c{index}")], [verdict])

        def label(self, number):
            return next((labels[number] for _, labels, stands in reversed(self.steps) if stands and number in labels), "")

        def key(self):
            self.sent += 1
            return f"key {self.sent}"

        @rule(number=numbers, user=users, label=labels, fresh=st.booleans())
        def decide(self, number, user, label, fresh):
            seen, key = self.store.queue.item(number).decision_id, self.key()
            stale = (not fresh and bool(seen)) or self.store.queue.item(number).claimed_by not in ("", user)
            done = self.store.decisions.decide(number, user, label, key, seen=seen if fresh else 0)
            assert done.outcome == ("stale" if stale else "applied")
            if not stale:
                self.steps.append([user, {number: label}, True])
                self.results[user, key] = (number, label, done.step)

        @rule(data=st.data())
        def send_again(self, data):
            if self.results:
                (user, key), (number, label, step) = data.draw(st.sampled_from(sorted(self.results.items())))
                done = self.store.decisions.decide(number, user, label, key)
                assert (done.outcome, done.step) == ("duplicate", step)

        @rule(user=users, label=labels, low=numbers, undecided=st.booleans())
        def bulk(self, user, label, low, undecided):
            chosen = Filter(show="undecided" if undecided else "all", probability=("spam", (low - 1) / COMMENTS, 1))
            expected = [number for number in range(low, COMMENTS + 1) if not (undecided and self.label(number))]
            done = self.store.decisions.bulk(chosen, label, user, self.key())
            assert (done.outcome, done.count) == ("applied" if expected else "stale", len(expected))
            if expected:
                self.steps.append([user, dict.fromkeys(expected, label), True])

        @rule(user=users, twice=st.booleans())
        def undo(self, user, twice):
            key = self.key()
            done = self.store.decisions.undo(user, key)
            last = next((step for step in reversed(self.steps) if step[0] == user and step[2]), None)
            assert (done.count if done else None) == (len(last[1]) if last else None)
            if last:
                last[2] = False
                assert not twice or self.store.decisions.undo(user, key) == done

        @invariant()
        def labels_are_what_the_steps_say(self):
            if hasattr(self, "store"):
                items = self.store.queue.items(range(1, COMMENTS + 1))
                assert [item.label for item in items] == [self.label(item.id) for item in items]
                assert self.store.queue.count() == sum(not self.label(item.id) for item in items)

        def teardown(self):
            if hasattr(self, "store"):
                self.store.close()

    return Machine


def test_any_order_of_steps_leaves_the_labels_that_still_stand(new_url):
    run_state_machine_as_test(
        machine(lambda: new_url(shared=True)),
        settings=settings(max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)),
    )
