"""The compiled encoder: as good as the reference, kept between runs, never in the way."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, SAMPLES

from moderation import Article, Comment, Moderator
from moderation.readers import read_comments
from moderation.runtime import CompiledEncoder

THREAD = Article(
    title="Council votes to close the Old Mill Bridge", text="Two of its four piers are cracked. Repairs cost 2 million."
)
TEXTS = [
    "Half my customers walk over it.",
    "lol",
    "",
    "👍" * 300,
    "word " * 5000,
    "پل خیلی مهم است",
    "<unused0> [CLS] [SEP] [PAD]",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with the default model in it, compiled once for this module."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODERATION_CACHE", str(folder))
        patch.delenv("MODERATION_RUNTIME", raising=False)
        Moderator.from_pretrained()
        yield folder


@pytest.fixture(scope="module")
def compiled(cache):
    """The default model on a compiled encoder, whichever was the quickest on this processor."""
    [folder] = [path.parent for path in cache.glob("compiled/*/compiled.json")]
    facts = json.loads((folder / "compiled.json").read_text())
    if facts["kind"] == "torch":
        pytest.skip(f"PyTorch is quicker than what was compiled here: {facts['measured']}")
    return Moderator.from_pretrained()


@pytest.mark.slow
def test_it_judges_as_the_reference_does(compiled):
    comments = [item for item in read_comments([SAMPLES]) if isinstance(item, Comment)]
    reference = Moderator.from_pretrained(runtime="torch")
    assert isinstance(compiled.encoder, CompiledEncoder) and not isinstance(reference.encoder, CompiledEncoder)
    difference = compiled.predict_proba(comments) - reference.predict_proba(comments)
    assert np.abs(difference).mean() < 0.02
    for text in TEXTS:
        assert compiled.encoder.tokenize([text], 64) == reference.encoder.tokenize([text], 64)
        (ours,), (theirs,) = (model.encoder.encode_tokens([text], 64) for model in (compiled, reference))
        assert ours.ids.tolist() == theirs.ids.tolist() and ours.tokens.shape == theirs.tokens.shape
        assert ours.vector @ theirs.vector > 0.98 and abs(np.linalg.norm(ours.vector) - 1) < 1e-4


def test_a_text_is_encoded_the_same_whatever_its_neighbours(compiled):
    alone = compiled.encoder.encode(TEXTS[:1], 64)
    among = compiled.encoder.encode([*TEXTS, *["another comment of this thread"] * 50], 64)
    assert np.abs(alone[0] - among[0]).max() < 1e-5


def test_where_callers_keep_the_cores_busy_each_does_its_own_work(compiled, monkeypatch):
    ids = compiled.encoder.tokenize([f"comment number {number} of this thread" for number in range(40)], 64)
    batches = [ids[start : start + 8] for start in range(0, len(ids), 8)]
    run, workers = compiled.encoder._run, []
    monkeypatch.setattr(
        compiled.encoder, "_run", lambda batch: workers.append(threading.current_thread().name.split("_")[0]) or run(batch)
    )
    monkeypatch.setattr(compiled.encoder, "_cores", 2)
    alone = list(compiled.encoder.passes(batches))
    assert set(workers) == {"encoder"}
    workers.clear()
    first, second = compiled.encoder.passes(batches), compiled.encoder.passes(batches)
    mixed = [next(first)]  # alone it begins, with what waits for it on other threads
    both = [next(second), *second]
    mixed += first
    assert {"encoder", threading.current_thread().name.split("_")[0]} == set(workers)
    for found in (mixed, both):
        for batch, expected in zip(found, alone, strict=True):
            assert (batch.ids == expected.ids).all() and np.abs(batch.vectors - expected.vectors).max() < 1e-5
    workers.clear()
    abandoned = compiled.encoder.passes(batches)
    next(abandoned)
    abandoned.close()
    workers.clear()
    assert len(list(compiled.encoder.passes(batches))) == 5
    assert threading.current_thread().name not in workers, "who has left is no caller"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps of threads are glibc's")
def test_what_one_thread_frees_another_uses(compiled):
    code = """
import threading
from moderation import Moderator
peak = lambda: int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])
model, kept, before = Moderator.from_pretrained(), [], peak()
first, second = threading.Event(), threading.Event()

def holes():
    blocks = [bytearray(b'x' * 100_000) for _ in range(2000)]
    kept.extend(blocks[::10])
    del blocks
    first.set()
    second.wait()  # a thread that ends leaves its heap to the next

thread = threading.Thread(target=holes)
thread.start()
first.wait()
filled = threading.Thread(target=lambda: kept.extend(bytearray(b'x' * 100_000) for _ in range(1700)))
filled.start()
filled.join()
second.set()
print(peak() - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert int(result.stdout) < 280_000  # kilobytes: 200,000 and what is rounded up; 370,000 if each kept its own


def test_a_later_start_needs_neither_transformers_nor_peft(compiled):
    code = (
        "import sys; from moderation import Moderator, Comment; m = Moderator.from_pretrained(); m.predict([Comment('Well')]);"
        "print(type(m.encoder).__name__, [name for name in ('transformers', 'peft', 'onnx') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert result.stdout.strip() == "CompiledEncoder []"


def test_a_damaged_cache_is_made_anew(compiled, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("MODERATION_CACHE", str(shutil.copytree(cache, tmp_path / "cache")))
    monkeypatch.setattr("moderation.runtime._compile", lambda folder, *_: shutil.copytree(whole, folder, dirs_exist_ok=True))
    [whole] = [path.parent for path in cache.glob("compiled/*/compiled.json")]
    for name, damage in (("encoder.onnx", b"\0"), ("compiled.json", b"{}"), ("tokenizer.json", b""), ("compiled.json", b"[")):
        [path] = tmp_path.glob(f"cache/compiled/*/{name}")
        path.write_bytes(damage)
        again = Moderator.from_pretrained()
        assert isinstance(again.encoder, CompiledEncoder) and path.read_bytes() == (whole / name).read_bytes()
    assert not list(tmp_path.glob("cache/compiled/new-*"))


@pytest.mark.slow
def test_where_sums_of_eight_bits_overflow_fewer_steps_are_taken(tmp_path, monkeypatch):
    """As on x86 processors without VNNI: what is compiled with all steps is wrong there, and only its judgements tell."""
    from moderation import runtime
    from moderation.quantise import FEWER_STEPS, STEPS, quantise

    made = []

    def overflowing(exported, measured, steps=STEPS):
        made.append((steps, quantise(exported, measured, steps if steps < STEPS else 3)))
        return made[-1][1]

    monkeypatch.setattr(runtime, "quantise", overflowing)
    monkeypatch.setenv("MODERATION_CACHE", str(tmp_path))
    monkeypatch.delenv("MODERATION_RUNTIME", raising=False)
    Moderator.from_pretrained()
    assert [steps for steps, _ in made] == [STEPS, FEWER_STEPS]
    [folder] = [path.parent for path in tmp_path.glob("compiled/*/compiled.json")]
    facts = json.loads((folder / "compiled.json").read_text())
    found = facts["measured"]["int8 of fewer steps"]
    assert found["agreement"] >= runtime.AGREEMENT and found["difference"] <= runtime.DIFFERENCE
    assert facts["kind"] == min(facts["measured"], key=lambda kind: facts["measured"][kind]["seconds"])
    assert facts["kind"] == "torch" or (folder / "encoder.onnx").read_bytes() == made[1][1]


def test_without_a_place_for_the_cache_pytorch_runs_the_encoder(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MODERATION_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("MODERATION_RUNTIME", raising=False)
    [verdict] = Moderator.from_pretrained().predict([Comment("Half my customers walk over it.", article=THREAD)])
    assert verdict.label == "on-topic" and "cannot be compiled" in caplog.text


def test_the_comments_it_is_proven_on_are_not_trained_on():
    from moderation.runtime import calibration_comments

    trained = {json.loads(line)["comment_text"] for line in (ROOT / "data/threads/train.jsonl").read_text().splitlines()}
    texts = [comment.text for comment in calibration_comments()]
    assert len(texts) > 300 and len(trained.intersection(texts)) < len(texts) / 20  # a "lol" may stand in both


@pytest.mark.slow
def test_what_a_compiled_encoder_gave_is_remembered_apart_from_the_reference(compiled, tmp_path):
    from training.cache import cached

    remembers = cached(compiled, tmp_path)
    fresh, again = (remembers.encoder.encode(TEXTS, 64) for _ in range(2))
    assert np.abs(fresh - compiled.encoder.encode(TEXTS, 64)).max() < 1e-3 and (fresh == again).all()
    assert remembers.encoder.encoded == len(TEXTS) and remembers.predict([Comment("Well")])
    assert cached(Moderator.from_pretrained(runtime="torch"), tmp_path).encoder.path != remembers.encoder.path
