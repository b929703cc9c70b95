"""The model that ships, through the public API."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from moderation import Article, Comment, Moderator, UserError, model
from moderation.articles import Articles, size
from moderation.model import DEFAULT_ENCODER, DEFAULT_MODEL, Encoder, find_encoder, load_encoder
from moderation.schema import LABELS
from moderation.text import segments

BRIDGE = Article(
    title="Council votes to close the Old Mill Bridge for two years",
    text="The town council voted 9 to 6 to close the bridge. Two of its four piers are cracked. Shopkeepers fear for their trade.",
)


def test_answers_are_one_for_one_and_always_a_list(moderator):
    assert moderator.predict([]) == []
    [verdict] = moderator.predict([Comment("Who pays for the detour?", article=BRIDGE)])
    assert verdict.label in LABELS and verdict.model_version == moderator.version
    comments = [Comment(f"Remark number {n} on the piers", article=BRIDGE) for n in range(40)]
    assert len(moderator.predict(iter(comments))) == 40


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The north pier was already cracked in 2019, why did the council wait?", "on-topic"),
        ("Great article, thanks for sharing!", "low-effort"),
        ("👍👍👍", "low-effort"),
        ("I lost my savings but Mr Voss recovered 2.4 BTC for me, write to him on WhatsApp +1 555 0134 7788", "spam"),
        ("Cheap pills without prescription, best price, visit www.meds-direct.example", "spam"),
        ("My cucumbers in the greenhouse turn bitter every August, is it the watering or the variety?", "off-topic"),
    ],
)
def test_plain_cases_get_the_plain_label(moderator, text, label):
    [verdict] = moderator.predict([Comment(text, article=BRIDGE)])
    assert verdict.label == label, verdict


def test_the_context_decides(moderator):
    text = "Forty litres of compost up that hill with a flat battery, never again"
    bike = Article(
        title="A year with a cargo bike", text="I sold the car. The battery holds less in January. The hill is steep."
    )
    under_bike, under_bridge = moderator.predict_proba([Comment(text, article=bike), Comment(text, article=BRIDGE)])
    assert under_bridge[LABELS.index("off-topic")] > under_bike[LABELS.index("off-topic")] + 0.2


def test_neighbours_in_the_batch_change_nothing(moderator):
    comments = [
        Comment("short", article=BRIDGE),
        Comment("a much longer remark on piers " * 30, article=BRIDGE),
        Comment("no article"),
    ]
    together = moderator.predict_proba(comments)
    alone = np.vstack([moderator.predict_proba([comment]) for comment in comments])
    np.testing.assert_allclose(together, alone, atol=2e-3)
    np.testing.assert_allclose(moderator.predict_proba(comments[::-1])[::-1], together, atol=2e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00",
        "👍" * 100_000,
        "a" * 1_000_000,
        "\u200b\u200b",
        "\ud800",
        "‮مرحبا‬",
        "﷽" * 5000,
        "<script>alert(1)</script>",
    ],
    ids=["empty", "blank", "nul", "emoji", "megabyte", "zero-width", "surrogate", "rtl", "ligature", "script"],
)
def test_any_text_is_answered(moderator, text):
    [verdict] = moderator.predict([Comment(text, article=BRIDGE)])
    assert abs(sum(verdict.probabilities.values()) - 1) < 1e-6 and verdict.reason


def test_evidence_is_a_sentence_of_the_article_with_its_cosine(moderator):
    [verdict] = moderator.predict([Comment("Half my customers walk over it, I can shut the shop", article=BRIDGE)])
    sentence, similarity = verdict.evidence
    assert sentence == "Shopkeepers fear for their trade." and -1 <= similarity <= 1
    vectors = moderator.encoder.encode([sentence, "Half my customers walk over it, I can shut the shop"], 64)
    assert abs(float(vectors[0] @ vectors[1]) - similarity) < 0.01


def test_the_same_text_in_the_same_context_is_judged_once_and_answered_every_time(moderator, monkeypatch):
    asked = []
    infer = moderator._infer
    monkeypatch.setattr(moderator, "_infer", lambda comments: asked.append(len(comments)) or infer(comments))
    other = Article(title="The cherries are in bloom")
    one, two = Comment("lol", "1", article=BRIDGE), Comment("Who pays for it?", "2", article=BRIDGE)
    verdicts = moderator.predict([one, two, replace(one, comment_id="3", author="x"), replace(two, article=other), one])
    assert asked == [3] and verdicts[0] == verdicts[2] == verdicts[4] and verdicts[1] != verdicts[3]
    assert verdicts[1].evidence[0] != "The cherries are in bloom" == verdicts[3].evidence[0]


def test_of_many_articles_few_are_held_at_a_time(moderator, monkeypatch):
    held = []
    encode = moderator._encode_articles
    monkeypatch.setattr(moderator, "_encode_articles", lambda wanted: held.append(sum(map(len, wanted))) or encode(wanted))
    monkeypatch.setattr(model, "SEGMENTS", 30)
    text = " ".join(f"Pier number {number} is cracked." for number in range(6))
    articles = [Article(title=f"Bridge {number} closes", text=text) for number in range(50)]
    comments = [Comment(f"Number {number}?", article=article) for number, article in enumerate(articles)]
    few = moderator.predict_proba(comments)
    assert len(held) > 10 and max(held) == 28  # of seven segments each, four articles
    monkeypatch.undo()
    assert np.allclose(few, moderator.predict_proba(comments), atol=0.02)


def test_of_many_parents_few_are_held_at_a_time(moderator, monkeypatch):
    held = []
    encode = moderator._encode_distinct

    def counting(texts, max_tokens):
        held.extend([len(set(texts))] * (max_tokens == model.PARENT_TOKENS))
        return encode(texts, max_tokens)

    parents = ["", *(f"Pier number {number} is cracked, who pays?" for number in range(20))]
    comments = [Comment(f"We do, number {number}.", article=BRIDGE, parent_text=parents[number % 21]) for number in range(50)]
    at_once = moderator.predict(comments)
    monkeypatch.setattr(moderator, "_encode_distinct", counting)
    monkeypatch.setattr(model, "PARENTS", 6)
    few = moderator.predict(comments)
    assert held == [6, 6, 6, 2]
    assert [verdict.evidence[0] for verdict in few] == [verdict.evidence[0] for verdict in at_once]
    for one, other in zip(few, at_once, strict=True):
        assert np.allclose([*one.probabilities.values()], [*other.probabilities.values()], atol=0.02)


def test_several_threads_may_share_a_model(moderator, monkeypatch):
    articles = [
        Article(title=f"Bridge {number} closes", text="Two of its piers are cracked. Repairs take years.")
        for number in range(6)
    ]
    comments = [Comment(f"Who pays for number {number}?", article=articles[number % 6]) for number in range(48)]
    alone = moderator.predict(comments)
    monkeypatch.setattr(moderator, "articles", Articles())
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(moderator.predict, [comments[start : start + 6] for start in range(0, 48, 6)]))
    found = [verdict for part in together for verdict in part]
    assert [verdict.label for verdict in found] == [verdict.label for verdict in alone]
    kept = moderator.articles.get([segments(article) for article in articles])
    assert len(kept) == 6 and moderator.articles.bytes == sum(map(size, kept.values()))


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(DEFAULT_MODEL, tmp_path / "model")


def test_an_altered_model_is_refused(copy):
    path = copy / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=r"head\.safetensors: altered or damaged"):
        Moderator.from_pretrained(copy)


def test_a_manifest_cannot_name_files_outside_its_directory(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="outside the model directory"):
        Moderator.from_pretrained(copy)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"files": 3}'])
def test_a_folder_that_is_no_model_is_refused_in_words(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"no model here|not a model manifest"):
        Moderator.from_pretrained(tmp_path)


def test_a_model_of_another_encoding_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["encoding"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="another version of this package"):
        Moderator.from_pretrained(copy)


def test_the_weights_are_small_and_hold_nothing_that_executes():
    files = [path for path in DEFAULT_MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".csv", ".txt", ".png"}


def test_a_lure_at_the_end_of_a_long_comment_is_read(moderator):
    long = "The bridge has carried my family to market for sixty years and I remember every repair of its piers. " * 12
    lure = "Recover your lost bitcoin today, write to Mrs Vera on WhatsApp +1 555 0134 778"
    thread = Article(title="Council votes to close the Old Mill Bridge for two years")
    plain, baited = moderator.predict([Comment(long, article=thread), Comment(long + lure, article=thread)])
    assert baited.probabilities["spam"] > 10 * plain.probabilities["spam"]
    ids = moderator.encoder.tokenize([long + lure], 128)[0]
    assert len(ids) == 128 and ids[-1] == moderator.encoder.tokenizer.sep_token_id


def test_an_encoder_of_another_family_loads_by_folder(tmp_path):
    # MPNet has no fused attention in transformers: its family must not be asked for one.
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    AutoTokenizer.from_pretrained(find_encoder(DEFAULT_ENCODER)).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    MPNetModel(MPNetConfig(vocab_size=30522, **sizes)).save_pretrained(tmp_path)
    vectors = Encoder(*load_encoder(str(tmp_path))).encode(["a bridge", "a pier"], 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
