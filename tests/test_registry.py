"""The registry: versions never change, one pointer names the champion, and whoever runs follows it."""

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT, SAMPLES

from moderation.model import DEFAULT_MODEL, Moderator, cores
from moderation.registry import Champion, Registry, shipped
from moderation.schema import Article, Comment, UserError
from moderation.score import chunk_sizes, score
from training.fit import seal

COMMENT = Comment("Cheap flooring, best price, visit www.deckworld.example", article=Article(title="The bridge is closed"))


def variant(folder, bias):
    """The shipped model with another calibration, as a model directory of its own."""
    shutil.copytree(DEFAULT_MODEL, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["calibration"]["bias"] = [bias, 0.0, 0.0, 0.0]
    seal(folder, manifest)
    return folder


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("MODERATION_MODELS", str(tmp_path / "models"))
    return Registry()


@pytest.fixture
def two(registry, tmp_path):
    return [registry.add(variant(tmp_path / name, bias)) for name, bias in (("a", 1.0), ("b", 9.0))]


def test_until_one_is_promoted_the_shipped_model_is_champion(registry):
    assert registry.champion() == shipped()
    [only] = registry.versions()
    assert only.shipped and only.champion and only.folder == DEFAULT_MODEL
    assert Moderator.from_pretrained().version == shipped()
    assert not registry.folder.exists(), "looking writes nothing"


def test_promote_and_roll_back_step_by_step(registry, two):
    a, b = two
    registry.promote(a, by="ada", why="better")
    registry.promote(b, by="ada")
    assert Moderator.from_pretrained().version == b
    undone, now = registry.rollback(by="bob")
    assert (undone.version, now.version, now.by) == (b, a, "bob") and registry.champion() == a
    assert registry.rollback()[1].version == shipped()
    with pytest.raises(UserError, match="nothing to go back to"):
        registry.rollback()
    kinds = [json.loads(line)["kind"] for line in (registry.folder / "history.jsonl").read_text().splitlines()]
    assert kinds == ["promote", "promote", "rollback", "rollback"]


def test_a_version_is_found_by_the_beginning_of_its_name(registry, two):
    assert registry.find(two[0].removeprefix("thread-")[:6]).version == two[0]
    with pytest.raises(UserError, match="no version is called 'nonsense'"):
        registry.find("nonsense")
    with pytest.raises(UserError, match="several versions are called"):
        registry.find("thread-")


def test_adding_the_same_model_again_changes_nothing(registry, two, tmp_path):
    before = registry.find(two[0]).added_at
    assert registry.add(tmp_path / "a") == two[0]
    assert registry.find(two[0]).added_at == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "head.safetensors").chmod(0o644) or (folder / "head.safetensors").write_bytes(b"x"),
            "altered",
        ),
        (lambda folder: (folder / "manifest.json").chmod(0o644) or (folder / "manifest.json").write_text("{}"), "altered"),
        (lambda folder: (folder / "loss.csv").unlink(), "is missing"),
        (lambda folder: (folder / "more.bin").write_text("x"), "was put in"),
        (lambda folder: (folder / "entry.json").write_text("{"), "damaged"),
    ],
)
def test_a_damaged_version_is_refused_and_the_champion_stays(registry, two, damage, message):
    champion = Champion(registry)
    registry.promote(two[0])
    folder = registry.find(two[1]).folder
    (folder / "entry.json").chmod(0o644)
    damage(folder)
    with pytest.raises(UserError, match=message):
        registry.promote(two[1])
    assert registry.champion() == two[0] == champion.current().version


@pytest.mark.parametrize("kind", ["empty", "pickle", "traversal", "name", "link"])
def test_a_foreign_directory_is_refused(registry, tmp_path, kind):
    folder = tmp_path / "foreign"
    if kind in ("empty", "pickle"):
        folder.mkdir()
        if kind == "pickle":
            (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
            (folder / "config.json").write_text('{"architectures": ["X"]}')
    else:
        variant(folder, 2.0)
        manifest = json.loads((folder / "manifest.json").read_text())
        if kind == "link":
            (folder / "notes").symlink_to("/etc/passwd")
        elif kind == "traversal":
            manifest["files"]["../../etc/passwd"] = "0" * 64
        else:
            manifest["version"] = "../../elsewhere"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="foreign"):
        registry.add(folder)
    assert registry.champion() == shipped() and not list(registry.folder.rglob(".incoming-*"))


def test_a_model_whose_head_does_not_fit_is_not_promoted(registry, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = variant(tmp_path / "wrong", 3.0)
    tensors = load_file(folder / "head.safetensors")
    save_file(
        {name: tensor[:1].clone() if tensor.dim() else tensor for name, tensor in tensors.items()}, folder / "head.safetensors"
    )
    seal(folder, json.loads((folder / "manifest.json").read_text()))
    version = registry.add(folder)
    with pytest.raises(UserError, match="does not fit"):
        registry.promote(version)
    assert registry.champion() == shipped()


def test_a_running_champion_follows_and_survives_a_bad_pointer(registry, two):
    champion = Champion(registry)
    before = champion.current().predict_proba([COMMENT])
    registry.promote(two[1])
    assert champion.current().version == two[1]
    assert not np.allclose(champion.current().predict_proba([COMMENT]), before, atol=0.01)
    registry.pointer.write_text("{")
    assert champion.current().version == two[1] and "cannot be read" in champion.trouble
    with pytest.raises(UserError, match="name the champion again"):
        Moderator.from_pretrained()
    registry.promote(two[0])
    assert champion.current().version == two[0] and champion.trouble == ""


def test_a_promotion_drops_no_request_and_each_answer_is_of_one_version(registry, two):
    champion = Champion(registry)
    expected = {version: Moderator.from_pretrained(version).predict_proba([COMMENT])[0] for version in (shipped(), *two)}
    answers, failures, stop = [], [], threading.Event()

    def ask():
        try:
            while not stop.is_set():
                model = champion.current()
                [verdict] = model.predict([COMMENT])
                answers.append((verdict.model_version, np.array(list(verdict.probabilities.values()))))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in (*two, shipped(), two[0]):
        registry.promote(version)
        deadline = time.monotonic() + 60
        while version != champion.current().version and time.monotonic() < deadline:
            time.sleep(0.02)
        count = len(answers)
        while len(answers) < count + 5 and time.monotonic() < deadline:
            time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert {version for version, _ in answers} == set(expected)
    for version, probabilities in answers:
        np.testing.assert_allclose(probabilities, expected[version], atol=1e-3)


def test_scoring_picks_a_promotion_up_in_the_middle_of_a_run(registry, two, tmp_path):
    source = tmp_path / "in.csv"
    sizes = list(
        itertools.islice(chunk_sizes(), min(cores(), 8) + 5)
    )  # the workers take some chunks ahead with the model of that moment
    rows = sum(sizes)
    source.write_text("comment_text\n" + "".join(f"I like bridge {number}\n" for number in range(rows)))
    promoted = []

    def promote(done):
        if done and not promoted:
            promoted.append(registry.promote(two[0]))

    summary = score([source], tmp_path / "out.jsonl", Champion(registry), progress=promote)
    versions = [json.loads(line)["model_version"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    chunks = [set(versions[end - size : end]) for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
    assert summary.rows == len(versions) == rows, "no row lost, none judged twice"
    # While one worker loads the new champion, the others go on with the one before; a chunk never mixes the two.
    assert all(len(chunk) == 1 for chunk in chunks) and chunks[0] == {shipped()} and set(versions) == {shipped(), two[0]}


def test_a_full_disk_leaves_registry_and_champion_as_they_were(registry, two, tmp_path):
    registry.promote(two[0])
    folder = variant(tmp_path / "c", 4.0)
    code = (
        "import sys; from moderation.registry import Registry; from moderation.schema import UserError\n"
        "try: Registry().add(sys.argv[1])\n"
        "except UserError as error: print(error); sys.exit(7)"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    done = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + code, str(folder)],
        capture_output=True, text=True, preexec_fn=limit, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 7 and "disk is full" in done.stdout, done.stderr
    assert registry.champion() == two[0] and len(registry.versions()) == 3
    assert not list(registry.folder.rglob(".incoming-*"))


def test_two_at_once_add_and_promote_without_harm(registry, two, tmp_path):
    code = "import sys; from moderation.registry import Registry as R; r = R(); v = r.add(sys.argv[1]); print(v)"
    folder = variant(tmp_path / "c", 4.0)
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        for _ in range(3)
    ]  # fmt: skip
    names = {run.communicate()[0].strip() for run in runs}
    assert len(names) == 1 and all(run.returncode == 0 for run in runs)
    assert registry.verified(names.pop())


def test_samples_are_scored_by_a_version_named_on_the_command_line(registry, two, command):
    done = command("score", SAMPLES / "video-comments.csv", "--out", "out.jsonl", "--model", two[1])
    assert done.returncode == 0, done.stderr
