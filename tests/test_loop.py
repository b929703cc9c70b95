"""The learning loop on both databases where the database matters: data versions, training, the gate, promotion, bad cases."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from learning import Site, comments
from learning import row as labelled

from moderation.cli import main
from moderation.model import Moderator
from moderation.policy import Policy
from moderation.registry import Champion
from moderation.schema import LABELS, ROW_FIELDS, Comment, UserError
from moderation.store import Filter, Store
from training import loop, versions
from training.versions import Rules

pytest_plugins = ["databases", "learning"]


def train(site, threads, **options):
    return loop.train(site.store, site.registry, threads=threads, **options)


# -- data versions ------------------------------------------------------------------------------------------------------------


def test_the_rule_for_disagreements_and_weights(store, registry):
    site = Site(store, registry, articles=range(3), each=12)
    store.policies.save(Policy.from_table({}), "lead", double_review=1.0, mode="active")
    items = site.open()
    site.decide(items[:9])
    for number, (item, agrees) in enumerate(zip(items[:6], [True] * 3 + [False] * 3, strict=True)):
        label = site.right(item) if agrees else next(one for one in LABELS if one != site.right(item))
        assert store.decisions.decide(item.id, "second", label, f"second {number}").kind == "second"
    disputed = store.queue.items([items[5].id])[0]
    store.decisions.decide(disputed.id, "lead", "spam", "settled", seen=disputed.decision_id)
    store.decisions.bulk(Filter(text="nice one"), "low-effort", "lead", "all of them")
    rows = {row.number: row for row in versions.gather(store, Rules(holdout=0.0001))}
    assert {rows[item.id].use for item in items[:3]} == {"train"} and all(rows[item.id].confirmed for item in items[:3])
    assert {rows[item.id].use for item in items[3:5]} == {"disputed"}
    assert (rows[items[5].id].use, rows[items[5].id].label) == ("train", "spam"), "a lead settled it in sight of both"
    bulk = [row for row in rows.values() if row.origin == "bulk"]
    assert bulk and {row.weight for row in bulk} == {0.3} and rows[items[0].id].weight == 1.0


def test_a_decision_that_was_undone_teaches_nothing(store, registry):
    site = Site(store, registry, articles=range(2), each=8)
    site.decide(site.open()[:4])
    store.decisions.undo("careful", "oops")
    assert len(versions.gather(store)) == 3


def test_a_version_is_frozen_and_says_what_is_new(site, tmp_path):
    items = site.open()
    site.decide(items[:100])
    folder = tmp_path / "data"
    first = versions.freeze(versions.gather(site.store), Rules(), folder)
    assert versions.freeze(versions.gather(site.store), Rules(), folder).name == first.name
    again = site.store.queue.items([item.id for item in items[:9]])
    for number, item in enumerate(again):
        label = next(one for one in LABELS if one != item.label)
        site.store.decisions.decide(item.id, "lead", label, f"change {number}", seen=item.decision_id)
    site.decide(items[100:130])
    second = versions.freeze(versions.gather(site.store), Rules(), folder)
    assert second.about["difference"] == {"added": 30, "removed": 0, "changed": 9, "since": first.name}
    assert versions.latest(folder).name == second.name and versions.load(folder / first.name).about == first.about
    (folder / first.name / "rows.jsonl").chmod(0o644)
    (folder / first.name / "rows.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="altered or damaged"):
        versions.load(folder / first.name)


def test_the_same_decisions_in_another_store_are_the_same_version(site, registry, tmp_path):
    site.decide(site.open()[:50])
    decided = {item.comment.comment_id for item in site.store.queue.page(Filter(show="decided"), limit=500).items}
    with Store(tmp_path / "other.db") as store:
        other = Site(store, registry)
        other.decide([item for item in reversed(other.open()) if item.comment.comment_id in decided])
        names = {versions.freeze(versions.gather(one.store), Rules(), tmp_path / "data").name for one in (site, other)}
    assert len(names) == 1


def test_the_holdout_keeps_whole_threads_and_grows(site):
    site.decide(site.open()[:200])
    before = versions.gather(site.store)
    uses = {}
    for row in before:
        uses.setdefault(row.thread, set()).add(row.use == "holdout")
    assert all(len(kinds) == 1 for kinds in uses.values()) and {True} in uses.values() and {False} in uses.values()
    site.bring(range(28, 40), 10, seed=3)
    site.decide(site.open())
    after = versions.gather(site.store)
    held = lambda rows: {row.thread for row in rows if row.use == "holdout"}
    assert held(before) < held(after)
    texts = {row.comment.text.lower() for row in after if row.use == "holdout"}
    assert not any(
        row.comment.text.lower() in texts for row in after if row.use == "train" and len(row.comment.text.split()) >= 4
    )


def test_a_platforms_status_teaches_only_when_asked_and_says_so(site):
    odd = [Comment(f"remark {n}", f"s{n}", status=("spam", "approved", "trash")[n % 3]) for n in range(9)]
    site.store.library.add(odd)
    site.decide(site.open()[:0])
    assert versions.gather(site.store) == []
    rows = versions.gather(site.store, Rules(status_weight=0.2, holdout=0.0001))
    assert Counter((row.label, row.origin, row.weight) for row in rows) == {
        ("spam", "status", 0.2): 3,
        ("not-spam", "status", 0.2): 3,
    }
    assert {row.example().answers for row in rows} == {(1, None, None), (0, None, None)}


# -- training, the gate, promotion ------------------------------------------------------------------------------------------------


def test_decisions_make_a_better_model_that_a_person_promotes_and_takes_back(site, registry, small_threads):
    first = registry.champion()
    policy = Policy.from_table({"spam": {"review": 0.5}, "promise": {"workload": 0.6}})
    saved = site.store.policies.save(policy, "lead", mode="active")
    champion = Champion(registry)
    site.decide(site.open()[:300])
    stages = []
    outcome = train(site, small_threads, report=lambda stage, *rest: stages.append(stage))
    assert outcome.outcome == "promote", outcome.sentence
    assert registry.champion() == first, "training promotes nothing"
    assert {"reading the decisions", "encoding", "fitting the head", "judging under attack"} <= set(stages)
    judged = loop.judgement_of(registry, outcome.version)
    assert judged["data"] == outcome.data and judged["holdout"]["n"] >= 60
    assert abs(judged["policies"][0]["flagged_after"] - 0.6) < 0.05, "the promised workload"
    change = loop.promote(registry, site.store, outcome.version, by="lead")
    assert champion.current().version == registry.champion() == outcome.version
    active = site.store.policies.active()
    assert active.version == change.notes["policies"][0]["after"] != saved.version and active.policy.promise == policy.promise
    assert site.store.library.models()[0].version == outcome.version
    loop.rollback(registry, site.store, by="lead")
    assert champion.current().version == first
    assert site.store.policies.active().version == saved.version
    # Judged against a champion that is no more, or not at all: only on demand.
    again = train(site, small_threads)
    assert again.version == outcome.version, "the same decisions give the same model"


def test_a_challenger_taught_by_a_vandal_is_refused(site, registry, small_threads):
    items = site.open()
    site.decide([item for item in items if item.article % 2], errors=0.0)
    good = train(site, small_threads)
    loop.promote(registry, site.store, good.version, by="lead", anyway=True)
    rest = list(site.open())
    swap = {"spam": "on-topic", "on-topic": "spam", "off-topic": "low-effort", "low-effort": "off-topic"}
    held = {row.number for row in versions.gather(site.store) if row.use == "holdout"}
    for number, item in enumerate(rest):  # everything that trains is turned round, the holdout is left right
        thread = versions.thread_of(item)
        label = site.right(item) if versions._held(thread, 0.2) else swap[site.right(item)]
        site.store.decisions.decide(item.id, "vandal", label, f"v{number}")
    for number, item in enumerate(site.store.queue.items(list(range(1, 400)))):
        if item.label and item.id not in held and item.decided_by == "careful":
            site.store.decisions.decide(item.id, "vandal", swap[site.right(item)], f"w{number}", seen=item.decision_id)
    outcome = train(site, small_threads)
    assert outcome.outcome == "refuse" and outcome.sentence.startswith("refused: "), outcome.sentence
    with pytest.raises(UserError, match="is not promoted: refused"):
        loop.promote(registry, site.store, outcome.version, by="lead")
    assert registry.champion() == good.version
    loop.promote(registry, site.store, outcome.version, by="lead", anyway=True)
    assert "anyway, by lead" in registry.changes()[0].why


def test_few_decisions_are_answered_with_how_many_are_missing(site, small_threads):
    site.decide(site.open()[:30])
    outcome = train(site, small_threads)
    assert (
        outcome.outcome == "undecided"
        and outcome.needed
        and "needs about" in outcome.sentence
        and "most useful kind" in outcome.sentence
    )
    site.decide(site.open()[:60])
    outcome = train(site, small_threads)
    assert outcome.version and outcome.outcome == "undecided" and "holdout of" in outcome.sentence and outcome.needed >= 10


def test_labels_flipped_by_a_careless_moderator_are_found_and_do_not_train(site, small_threads, capsys):
    items = site.open()
    site.decide(items[::2], "careful")
    site.decide(items[1::2], "careless", errors=0.3)
    outcome = train(site, small_threads)
    asked = {item.id for item in site.store.queue.page(Filter(show="flagged"), limit=500).items}
    wrong = set(site.flipped)
    with capsys.disabled():
        print(f"\n{len(wrong)} labels flipped, {len(asked)} asked about, {len(wrong & asked)} of them flipped", end=" ")
    assert len(wrong & asked) > 0.5 * len(wrong) and len(asked - wrong) < 0.5 * len(asked)
    assert outcome.doubted == len(asked)
    taught = {row.number for row in versions.load(site.registry.folder / "data" / outcome.data).only("train")}
    assert taught and not taught & asked, "nor in the version of the data, from which the full lane trains"
    rows = {row.number: row for row in versions.gather(site.store)}
    assert {rows[number].use for number in asked} <= {"doubted", "holdout"}
    # Looked at again: what is said a second time holds, whatever the model thinks.
    [item] = site.store.queue.items([min(asked)])
    site.store.decisions.decide(item.id, "lead", item.label, "I am sure", seen=item.decision_id)
    assert site.store.queue.items([item.id])[0].flag == ""
    again = {row.number: row for row in versions.gather(site.store)}[item.id]
    assert again.confirmed and again.use in ("train", "holdout")
    train(site, small_threads)
    assert site.store.queue.items([item.id])[0].flag == "", "and it is not asked about again"


# -- bad cases ------------------------------------------------------------------------------------------------------------------


def test_no_decisions(site, small_threads):
    with pytest.raises(UserError, match="no comment has been decided yet"):
        train(site, small_threads)
    assert loop.status(site.registry)["outcome"]["outcome"] == "failed" and not loop.status(site.registry)["running"]


def test_one_class_only(site, small_threads):
    site.decide([item for item in site.open() if site.right(item) == "spam"])
    outcome = train(site, small_threads)
    assert outcome.outcome == "undecided" and not outcome.version
    assert "decisions are spam" in outcome.sentence and "needs decisions of on-topic, off-topic, low-effort" in outcome.sentence


def test_all_moderators_disagree(site, small_threads):
    site.store.policies.save(Policy.from_table({}), "lead", double_review=1.0, mode="active")
    items = site.open()[:60]
    site.decide(items)
    for number, item in enumerate(items):
        label = next(one for one in LABELS if one != site.right(item))
        site.store.decisions.decide(item.id, "contrarian", label, f"no {number}")
    with pytest.raises(UserError, match="60 are in dispute between moderators"):
        train(site, small_threads)


def test_labels_of_a_table_become_decisions_and_a_typo_in_one_takes_in_none(site, registry, tmp_path):
    site.decide(site.open()[:5])
    pairs = list(comments(range(3), 6, seed=1)) + list(comments(range(40, 42), 8, site="old.example"))
    model = Moderator.from_pretrained()
    table = tmp_path / "labels.csv"

    def write(*answers):
        with table.open("w", newline="") as lines:
            rows = csv.DictWriter(lines, [*ROW_FIELDS, "label"])
            rows.writeheader()
            rows.writerows(labelled(comment, answer) for (comment, _), answer in zip(pairs, answers, strict=True))

    right = [label for _, label in pairs]
    write(*right[:6], "of-topic", *right[7:])
    before = len(versions.gather(site.store))
    with pytest.raises(UserError, match=r"labels\.csv.* 8.*'of-topic'; expected one of on-topic, off-topic, spam, low-effort"):
        loop.bring_labels(site.store, model, [str(table)], "old")
    assert len(versions.gather(site.store)) == before and site.store.queue.count() == len(site.truth) - 5
    write(*right)
    made, read = loop.bring_labels(site.store, model, [str(table)], "old")
    assert read == len(pairs) and len(versions.gather(site.store)) == before + made
    assert loop.bring_labels(site.store, model, [str(table)], "old") == (0, read), "the same table again changes nothing"
    taught = {one.comment.comment_id: one.label for one in versions.gather(site.store) if one.user == "old"}
    assert taught.items() <= {comment.comment_id: label for comment, label in pairs}.items() and made == len(taught)


def test_a_wrong_label_in_the_store_names_the_comment(site, small_threads):
    import sqlalchemy as sa

    site.decide(site.open()[:50])
    with site.store.database.engine.connect() as connection:  # the store's own door refuses such a label
        connection.execute(
            sa.text("UPDATE comments SET label = 'of-topic' WHERE id = (SELECT min(id) FROM comments WHERE open = 0)")
        )
        connection.commit()
    with pytest.raises(UserError, match="was decided as 'of-topic'; expected one of on-topic"):
        train(site, small_threads)


def test_two_trainings_at_once(site, small_threads):
    site.decide(site.open()[:60])
    with loop.exclusive(site.registry):
        assert loop.status(site.registry) is None
        with pytest.raises(UserError, match=f"process {os.getpid()} is training; one at a time"):
            train(site, small_threads)
    assert train(site, small_threads).version


SCRIPT = """
import sys, pathlib, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from moderation.registry import Registry; from moderation.store import Store; from moderation.schema import UserError
from training.loop import train
try:
    out = train(Store(sys.argv[1]), Registry(), threads=pathlib.Path(sys.argv[2]), lane=sys.argv[3], report=lambda *s: print(*s, flush=True))
    print(out.outcome, out.version, flush=True)
except UserError as error:
    print(error); sys.exit(7)
"""


def begin(site, threads, lane="fast", limit=None):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(site.store.database.url.database), str(threads), lane],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
    )  # fmt: skip


def test_killed_in_the_middle_of_training(site, registry, small_threads):
    site.decide(site.open()[:200])
    before = registry.changes(), [one.version for one in registry.versions()]
    run = begin(site, small_threads)
    for line in run.stdout:
        if line.startswith("fitting the head"):
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert (registry.changes(), [one.version for one in registry.versions()]) == before
    assert loop.status(registry)["running"] is False, "a killed process holds no lock"
    assert train(site, small_threads).version and not list((registry.folder / "work").iterdir())


def test_the_disk_is_full(site, registry, small_threads):
    site.decide(site.open()[:200])
    champion = registry.champion()
    run = begin(site, small_threads, limit=60_000)
    output = run.communicate()[0]
    assert run.returncode == 7 and "the disk is full" in output and "champion stays" in output, output
    assert registry.champion() == champion and Moderator.from_pretrained().version == champion
    assert train(site, small_threads).version


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_full_lane_continues_the_adapter_and_goes_on_after_a_kill(site, registry, small_threads):
    site.decide(site.open()[:200])
    run = begin(site, small_threads, "full")
    for line in run.stdout:
        if line.startswith("training"):
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    frozen = [path.name for path in (registry.folder / "data").iterdir()]
    run = begin(site, small_threads, "full")
    seen = list(run.stdout)
    run.wait()
    assert run.returncode == 0, seen[-5:]
    assert not any(line.startswith("looking for label errors") for line in seen), "what was found before the kill still holds"
    assert [path.name for path in (registry.folder / "data").iterdir()] == frozen
    version = seen[-1].split()[1]
    manifest = json.loads((registry.verified(version) / "manifest.json").read_text())
    assert manifest["continues"] == registry.champion()
    assert any(line.startswith("training") for line in seen)
    names = [name for name in manifest["files"] if name.startswith("adapter/") and name.endswith("safetensors")]
    assert (
        names
        and (registry.verified(version) / names[0]).read_bytes()
        != (registry.verified(registry.champion()) / names[0]).read_bytes()
    )
    probabilities = Moderator.from_pretrained(version).predict_proba([item.comment for item in site.open()[:20]])
    np.testing.assert_allclose(probabilities.sum(1), 1)


# -- the commands -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_list_train_promote_and_take_back(site, registry, small_threads, command, monkeypatch, capsys):
    def run(*arguments):  # a process of its own
        done = command(*arguments, timeout=1200)
        return SimpleNamespace(returncode=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())

    def say(*arguments):  # in this one: to start Python is most of what the others would cost
        monkeypatch.setattr(sys, "argv", ["moderation", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return SimpleNamespace(returncode=end.value.code, **capsys.readouterr()._asdict())

    monkeypatch.setenv("COLUMNS", "140")
    first = registry.champion()
    registry.folder = registry.folder.absolute()
    assert "is the champion" in say("models").out
    site.decide(site.open()[:250])
    database = ["--database", site.store.database.url.database]
    done = run("train", "--from-store", "--threads", small_threads, *database)
    assert done.returncode == 0, done.stderr
    assert "Champion and challenger" in done.stdout and "macro-F1" in done.stdout and "promote it: " in done.stdout
    version = next(one.version for one in registry.versions() if not one.champion and not one.shipped)
    listed = say("models", "list").out
    assert version in listed and first in listed
    assert "every file is what its SHA-256 says" in say("models", "show", version).out
    promoted = say("models", "promote", version, *database)
    assert promoted.returncode == 0, promoted.err
    assert f"{version} is champion" in promoted.out and "undecided comments were judged anew" in promoted.out
    assert f"{first} is champion" in say("models", "rollback", *database).out
    assert "no drift" in say("models", "drift", *database).out
    wrong = run("models", "promote", "nonsense", *database)
    assert wrong.returncode == 2 and wrong.stderr.startswith("moderation: ") and len(wrong.stderr.splitlines()) == 1
    assert "name the version" in say("models", "show").err
    assert "belong to --from-store" in say("train", "--full").err
