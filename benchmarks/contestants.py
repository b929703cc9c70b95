"""Who takes part in the benchmark of speed: each a function that gets ready and returns its work and its share of padding."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

Rows = list[dict]
Work = Callable[[], object]

#: Tokens of article and comment together for those who read them as a pair, and rows in a batch of theirs.
PAIR_TOKENS, BATCH = 256, 32

#: Name to what it is, in the order of their turns: who is compared most closely follows at once. The slow ones get every
#: `--stride`-th row, which keeps the mix of lengths.
CONTESTANTS = {
    "ours": "`score`, file to file: read, label, explain, write, account",
    "limit": "the same kernel (encoder and head) alone: every distinct text once, tokenised, packed and laid out before",
    "limit (encoder alone)": "the same without the head",
    "ours (model only)": "`Moderator.predict` on comments in memory",
    "pipeline": "transformers `pipeline('text-classification')`, fp32",
    "CrossEncoder": "sentence-transformers `CrossEncoder.predict`",
    "SentenceTransformer": "`encode` of comments and of each article once, and a linear head",
    "SetFit": "`SetFitModel.predict`, article and comment as one text",
    "ONNX Runtime (naive)": "the same compiled encoder, pairs in batches as they come",
}
SLOW = {"pipeline", "CrossEncoder", "SetFit", "ONNX Runtime (naive)"}


def comments_of(rows: Rows) -> list:
    from moderation import Article, Comment

    articles: dict[Article, Article] = {}
    comments = [Comment.from_row(row) for row in rows]
    return [replace(comment, article=articles.setdefault(comment.article, comment.article)) for comment in comments]


def _pairs(rows: Rows) -> list[tuple[str, str]]:
    return [(f"{row['article_title']}\n{row['article_text']}".strip(), row["comment_text"]) for row in rows]


def _counting(moderator) -> Callable[[], float]:
    """Have the encoder count what it is given; returns a function for the share of padding."""
    cells = [0, 0]
    passes = moderator.encoder.passes

    def counted(batches):
        for batch in batches:
            cells[0] += len(batch) * max(map(len, batch))
            cells[1] += sum(map(len, batch))
        return passes(batches)

    moderator.encoder.passes = counted
    return lambda: 1 - cells[1] / cells[0] if cells[0] else 0.0


def _score(rows: Rows, folder: Path) -> tuple[Work, Callable[[], float]]:
    from moderation import Moderator
    from moderation.articles import Articles
    from moderation.recurring import Recurring
    from moderation.score import score

    source = folder / f"{len(rows)}.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    moderator = Moderator.from_pretrained()
    padding = _counting(moderator)

    runs = itertools.count()

    def work() -> None:
        # Every run encodes what it reads anew, and keeps its articles.
        moderator.articles, moderator.recurring = Articles(folder / "articles" / str(next(runs))), Recurring()
        score([source], folder / f"{len(rows)}.out.jsonl", moderator)

    return work, padding


def _predict(rows: Rows, folder: Path) -> tuple[Work, Callable[[], float]]:
    from moderation import Moderator
    from moderation.articles import Articles
    from moderation.recurring import Recurring

    moderator, comments = Moderator.from_pretrained(), comments_of(rows)
    moderator.articles = Articles()  # none that an earlier run left
    padding = _counting(moderator)

    def work() -> None:
        moderator.recurring = Recurring()
        for start in range(0, len(rows), 1024):
            moderator.predict(comments[start : start + 1024])

    return work, padding


def _limit(rows: Rows, folder: Path, with_head: bool = True) -> tuple[Work, Callable[[], float]]:
    """Nothing but what the model computes: all texts are tokenised before and packed together, whatever their order."""
    import torch

    from moderation import Moderator
    from moderation import text as encoding
    from moderation.batching import plan
    from moderation.model import COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS

    moderator = Moderator.from_pretrained()
    encoder = moderator.encoder
    comments = comments_of(rows)
    views = [encoding.view(comment) for comment in comments]
    texts = {COMMENT_TOKENS: {view.comment for view in views}, PARENT_TOKENS: {view.parent for view in views if view.parent}}
    texts[SEGMENT_TOKENS] = {segment for view in views for segment in view.segments}
    batches = []
    for limit, some in texts.items():
        ids = encoder.tokenize(list(some), limit) if some else []
        batches += [[ids[index] for index in chosen] for chosen in plan([len(row) for row in ids], encoder.token_budget)]
    jobs: list[Callable[[], object]] = []
    if hasattr(encoder, "kernel"):
        for batch in batches:
            padded, mask = (np.zeros((len(batch), max(map(len, batch))), dtype=np.int64) for _ in range(2))
            for place, row in enumerate(batch):
                padded[place, : len(row)], mask[place, : len(row)] = row, 1
            jobs.append(partial(encoder.kernel.run, None, {"input_ids": padded, "attention_mask": mask}))
    else:
        jobs += [partial(list, encoder.passes([batch])) for batch in batches]
    padding = 1 - sum(len(row) for batch in batches for row in batch) / sum(
        len(batch) * max(map(len, batch)) for batch in batches
    )
    if with_head:
        torch.set_num_threads(1)  # as in `score`
        jobs += _head_alone(moderator, list(dict.fromkeys(comments)))
    with_workers = encoder.workers.map if hasattr(encoder, "workers") else map
    return lambda: list(with_workers(lambda job: job(), jobs)), lambda: padding


def _head_alone(moderator, comments: list) -> list[Callable[[], object]]:
    """The head on just what it is given for these comments, all of it laid out before."""
    import torch

    from moderation.network import chain

    seen = []
    forward = moderator.head.forward
    moderator.head.forward = lambda thread: seen.append(thread) or forward(thread)
    moderator.predict_proba(comments)
    del moderator.head.forward

    def job(thread) -> None:
        with torch.inference_mode():
            chain(moderator.head(thread)[0].double())

    return [partial(job, thread) for thread in seen]


def _classifier(folder: Path):
    """The encoder of the default model with a classification head; its weights are random, which costs the same."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from moderation.model import DEFAULT_ENCODER, find_encoder

    path = find_encoder(DEFAULT_ENCODER)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=4, dtype="float32")
    return AutoTokenizer.from_pretrained(path), model


def _pair_padding(rows: Rows) -> Callable[[], float]:
    from transformers import AutoTokenizer

    from moderation.model import DEFAULT_ENCODER, find_encoder

    first, second = zip(*_pairs(rows), strict=True)
    tokenizer = AutoTokenizer.from_pretrained(find_encoder(DEFAULT_ENCODER))
    lengths = list(map(len, tokenizer(list(first), list(second), truncation=True, max_length=PAIR_TOKENS)["input_ids"]))
    batches = [lengths[start : start + BATCH] for start in range(0, len(lengths), BATCH)]
    share = 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)
    return lambda: share


def _pipeline(rows: Rows, folder: Path) -> tuple[Work, Callable[[], float]]:
    from transformers import pipeline

    tokenizer, model = _classifier(folder)
    run = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    inputs = [{"text": article, "text_pair": comment} for article, comment in _pairs(rows)]
    return lambda: run(inputs, batch_size=BATCH, truncation=True, max_length=PAIR_TOKENS), _pair_padding(rows)


def _cross_encoder(rows: Rows, folder: Path) -> tuple[Work, Callable[[], float]]:
    from sentence_transformers import CrossEncoder

    from moderation.model import DEFAULT_ENCODER, find_encoder

    model = CrossEncoder(find_encoder(DEFAULT_ENCODER), num_labels=4, max_length=PAIR_TOKENS, device="cpu")
    return lambda: model.predict(_pairs(rows), batch_size=BATCH, show_progress_bar=False), lambda: None


def _sentence_transformer(rows: Rows, folder: Path) -> tuple[Work, Callable[[], float]]:
    from sentence_transformers import SentenceTransformer

    from moderation.model import DEFAULT_ENCODER, find_encoder

    model = SentenceTransformer(find_encoder(DEFAULT_ENCODER), device="cpu")
    model.max_seq_length = PAIR_TOKENS
    weights = np.zeros((2 * model.get_sentence_embedding_dimension(), 4), np.float32)

    def work() -> np.ndarray:
        articles, comments = zip(*_pairs(rows), strict=True)
        distinct = list(dict.fromkeys(articles))
        vectors = dict(zip(distinct, model.encode(distinct, batch_size=BATCH, show_progress_bar=False), strict=True))
        encoded = model.encode(list(comments), batch_size=BATCH, show_progress_bar=False)
        return np.hstack([encoded, np.stack([vectors[article] for article in articles])]) @ weights

    return work, lambda: None


def _setfit(rows: Rows, folder: Path) -> tuple[Work, Callable[[], float]]:
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel
    from sklearn.linear_model import LogisticRegression

    from moderation.model import DEFAULT_ENCODER, find_encoder

    body = SentenceTransformer(find_encoder(DEFAULT_ENCODER), device="cpu")
    body.max_seq_length = PAIR_TOKENS
    head = LogisticRegression().fit(
        np.random.default_rng(0).normal(size=(8, body.get_sentence_embedding_dimension())), [0, 1, 2, 3] * 2
    )
    model = SetFitModel(model_body=body, model_head=head)
    texts = [f"{article}\n{comment}" for article, comment in _pairs(rows)]
    return lambda: model.predict(texts, batch_size=BATCH, show_progress_bar=False), lambda: None


def _naive(rows: Rows, folder: Path) -> tuple[Work, Callable[[], float]]:
    from transformers import AutoTokenizer

    from moderation import Moderator
    from moderation.model import DEFAULT_ENCODER, find_encoder

    encoder = Moderator.from_pretrained().encoder
    tokenizer = AutoTokenizer.from_pretrained(find_encoder(DEFAULT_ENCODER))
    pairs = _pairs(rows)

    def work() -> None:
        for start in range(0, len(pairs), BATCH):
            first, second = zip(*pairs[start : start + BATCH], strict=True)
            list(encoder.passes([tokenizer(list(first), list(second), truncation=True, max_length=PAIR_TOKENS)["input_ids"]]))

    return work, _pair_padding(rows)


READY = {
    "ours": _score,
    "limit": _limit,
    "limit (encoder alone)": partial(_limit, with_head=False),
    "ours (model only)": _predict,
    "pipeline": _pipeline,
    "CrossEncoder": _cross_encoder,
    "SentenceTransformer": _sentence_transformer,
    "SetFit": _setfit,
    "ONNX Runtime (naive)": _naive,
}
