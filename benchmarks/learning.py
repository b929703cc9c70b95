"""How many labels does it take, and how long? Measurements of the learning loop.

    python benchmarks/learning.py order --corpora FOLDER     # choosing what to label against taking what comes
    python benchmarks/learning.py adapt --corpora FOLDER     # another site: what 50, 100, 200, 500 of its labels bring
    python benchmarks/learning.py fast                       # `train --from-store` on 1,000 decisions, stage by stage

"fast" takes the champion as it ships and threads of ours that the fast lane does not replay, so no corpora. For the others the encoder is the untouched base (the shipped adapter has seen the pool's labels), the head starts from nothing ("order")
or from a head that never saw the site ("adapt"). Every figure is the mean of three seeds; JSON lines go to stdout.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from data import corpora
from moderation import text as encoding
from moderation.model import DEFAULT_ENCODER, Encoder, Moderator, load_encoder
from moderation.network import Head
from moderation.policy import DEFAULT
from moderation.schema import LABELS, Comment
from training import evaluate
from training.batches import Mix
from training.cache import CachedEncoder
from training.calibrate import vector_scaling
from training.choose import WEIGHTS, disagreement, neighbours, rank, uncertainty
from training.examples import labelled, read_threads
from training.head import Vectors, Views, answer, fit_head
from training.lanes import EPOCHS, REPLAY, ROUNDS, THREADS, FastLane, replay
from training.versions import Row

SIZES = (400, 800, 1600, 3200)
SEEDS = (1, 2, 3)
CACHE = Path("benchmarks/cache")
#: Tokens of the base encoder's vocabulary.
VOCABULARY = 30522


def base_encoder() -> CachedEncoder:
    tokenizer, transformer = load_encoder(DEFAULT_ENCODER)
    return CachedEncoder(Encoder(tokenizer, transformer), CACHE / "base.db")


def unfitted(vectors: Vectors, seed: int) -> Head:
    """A head that knows nothing but how often words occur."""
    torch.manual_seed(seed)
    head = Head(vectors.table.pooled.shape[1], len(encoding.SURFACE), VOCABULARY)
    head.informativeness.copy_(vectors.informativeness(VOCABULARY))
    return head


def fitted(views: Views, rows, seed: int) -> Head:
    """A head from nothing on some of the examples; small sets get more passes, so that all get at least 100 steps."""
    head = unfitted(views.vectors, seed)
    epochs = max(4, round(100 / max(1, len(rows) / min(256, max(16, len(rows) // 16)))))
    fit_head(head, views, epochs, 2e-2, seed, rows=np.asarray(rows))
    return head


def f1(truth: np.ndarray, scores: np.ndarray) -> float:
    """Macro-F1 of the label with the highest score."""
    return float(evaluate.scores(truth, scores, evaluate.Bootstrap([0] * len(truth), 0))["macro_f1"][0])


def macro_f1(head: Head, vectors: Vectors, truth: np.ndarray) -> float:
    return f1(truth, answer(head, vectors))


def tfidf(rows, test) -> np.ndarray:
    """What a site gets without our model: TF-IDF of comment and title with logistic regression on its own labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = lambda row: f"{row['comment_text']} | {row['article_title']}"
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(max_iter=1000, class_weight="balanced")
    )
    model.fit(list(map(words, rows)), [LABELS.index(row["label"]) for row in rows])
    scores = np.zeros((len(test), len(LABELS)))
    scores[:, model.classes_] = model.predict_proba(list(map(words, test)))
    return scores


def order(folder: Path, seeds) -> None:
    encoder = base_encoder()
    pool = (
        read_threads(THREADS, "train") + corpora.rows("gold-train", folder, "train") + corpora.rows("labels", folder, "train")
    )
    examples = labelled(pool, "pool")
    truth = np.array([LABELS.index(row["label"]) for row in pool])
    threads = [row["article_title"] or row["parent_text"][:80] for row in pool]
    vectors = Vectors(examples, encoder)
    views = Views(unfitted(vectors, 0), vectors, examples, 2, 0.5, 0.35, 0.4, 0)
    vectors.plain(unfitted(vectors, 0))  # now, and not for every part of the pool
    comment = vectors.table.pooled[vectors.comment].numpy()
    tests = {}
    for name, rows in (("own test", read_threads(THREADS, "test")), ("gold-dev", corpora.rows("gold-dev", folder))):
        tests[name] = Vectors(labelled(rows, name), encoder), np.array([LABELS.index(row["label"]) for row in rows])
    for seed in seeds:
        for strategy in ("random", "uncertainty", "value"):
            draw = random.Random(seed)
            chosen = draw.sample(range(len(pool)), SIZES[0])
            for place, size in enumerate(SIZES):
                head = fitted(views, chosen, seed)
                figures = {name: round(macro_f1(head, *test), 4) for name, test in tests.items()}
                print(json.dumps({"strategy": strategy, "seed": seed, "labels": size, **figures}), flush=True)
                if place + 1 == len(SIZES):
                    break
                left = sorted(set(range(len(pool))) - set(chosen))
                want = SIZES[place + 1] - size
                if strategy == "random":
                    chosen += draw.sample(left, want)
                    continue
                probabilities = np.exp(answer(head, vectors.only(left)))
                values = [uncertainty(probabilities)]
                if strategy == "value":
                    known = neighbours(comment[left], comment[chosen], truth[chosen], len(LABELS))
                    busy = {threads[row]: 0 for row in range(len(pool))}
                    for row in chosen:
                        busy[threads[row]] += 1
                    values += [disagreement(probabilities, known), np.array([-busy[threads[row]] for row in left], float)]
                    ranked = rank(values, comment[left], seed=seed, weights=WEIGHTS[:3])
                else:
                    ranked = rank(values, None, share=0.0, seed=seed)
                chosen += [left[number] for number in ranked.order[:want]]


def adapt(folder: Path, seeds) -> None:
    encoder = base_encoder()
    real = corpora.rows("gold-train", folder, "train") + corpora.rows("labels", folder, "train")
    of = lambda row, name: row["status"].startswith(name)
    site = [row for row in real if of(row, "haacked-blog")]
    home = read_threads(THREADS, "train") + [row for row in real if of(row, "youtube-spam")]
    print(json.dumps({"home": len(home), "site": len(site), "posts": len({row["article_title"] for row in site})}), flush=True)
    home_examples = labelled(home, "home")
    home_vectors = Vectors(home_examples, encoder)
    home_views = Views(unfitted(home_vectors, 0), home_vectors, home_examples, ROUNDS, 0.5, 0.35, 0.4, 0)
    manifest = {
        "version": "home", "encoder": DEFAULT_ENCODER, "encoding": encoding.ENCODING, "languages": ["en"], "thresholds": DEFAULT.to_table(),
        "calibration": {"scale": [1.0] * 4, "bias": [0.0] * 4}, "head": {"vocabulary": VOCABULARY, "hidden": 64, "dropout": 0.2}, "files": {}, "recipe": {"mix": asdict(Mix())},
    }  # fmt: skip
    rows = read_threads(THREADS, "validation")[:1000]
    settled, settled_truth = Vectors(labelled(rows, "validation"), encoder), [LABELS.index(row["label"]) for row in rows]
    for seed in seeds:
        head = fitted(home_views, range(len(home)), seed)
        manifest["calibration"] = vector_scaling(answer(head, settled), np.array(settled_truth))
        champion = Moderator(encoder, head, manifest)
        posts = sorted({row["article_title"] for row in site})
        random.Random(seed).shuffle(posts)
        tested = set(posts[: len(posts) // 2])
        test = [row for row in site if row["article_title"] in tested]
        rest = [row for row in site if row["article_title"] not in tested]
        random.Random(seed).shuffle(rest)
        test_vectors, truth = Vectors(labelled(test, "test"), encoder), np.array([LABELS.index(row["label"]) for row in test])
        for count in (0, 50, 100, 200, 500):
            used = rest[:count]
            if count:
                rows = [
                    Row(Comment.from_row(row), n, n, row["article_title"], row["label"], 1.0, "train", "single")
                    for n, row in enumerate(used)
                ]
                lane = FastLane(champion, Path(), rows, seed=seed)
                guesses = lane.out_of_fold()
                adapted = lane.fit(np.concatenate([np.arange(len(rows)), lane.replayed]), EPOCHS, "adapting")
                # As the loop does: calibrated on what the other folds say, which also mends the prior of moved comments.
                known = np.array([LABELS.index(row.label) for row in rows])
                constants = vector_scaling(guesses, known, before=manifest["calibration"])
                alone = tfidf(used, test)
            else:
                adapted, constants, alone = head, manifest["calibration"], None
            scores = answer(adapted, test_vectors) * constants["scale"] + constants["bias"]
            result = {"seed": seed, "labels": len(used), "tested on": len(test), "macro-F1": round(f1(truth, scores), 4)}
            if alone is not None:
                result["tfidf on the same labels"] = round(f1(truth, alone), 4)
            print(json.dumps(result), flush=True)


def fast() -> None:
    """1,000 decisions through a store, three times: with nothing remembered, then 1,000 others, then the same again."""
    import os
    import tempfile
    import time

    from moderation.registry import Registry
    from moderation.store import Store
    from training import loop

    replayed = {example.comment.article.title for example in replay(THREADS, REPLAY, 1.0)}
    rows = [row for row in read_threads(THREADS, "train") if row["article_title"] not in replayed]
    work = Path(tempfile.mkdtemp(prefix="fast-"))
    os.environ["MODERATION_MODELS"] = str(work / "models")
    registry, stages = Registry(), {}

    def told(stage: str, *_) -> None:
        stages.setdefault(stage.split(", part")[0], time.monotonic())

    with Store(work / "desk.db") as store:
        for name, start in (("nothing remembered", 0), ("1,000 more, the base remembered", 1000), ("all remembered", None)):
            if start is not None:
                part = rows[start : start + 1000]
                store.library.add([Comment.from_row(row) for row in part])
                labels = {row["comment_id"]: row["label"] for row in part}
                for item in list(store.lessons.undecided()):
                    store.decisions.decide(item.id, "mia", labels[item.comment.comment_id], f"key {item.id}")
            stages.clear()
            began, processor = time.monotonic(), time.process_time()
            outcome = loop.train(store, registry, report=told)
            ended = [*list(stages.values())[1:], time.monotonic()]
            spent = {stage: round(end - at, 1) for (stage, at), end in zip(stages.items(), ended, strict=True)}
            result = {
                "case": name,
                "seconds": round(time.monotonic() - began, 1),
                "processor": round(time.process_time() - processor, 1),
            }
            print(
                json.dumps(
                    result
                    | {
                        "champion": registry.champion(),
                        "said": outcome.sentence,
                        "stages": spent,
                        "figures": {
                            one["name"]: [round(one[key], 3) for key in ("champion", "challenger")] for one in outcome.figures
                        },
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("order", "adapt", "fast"))
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args(sys.argv[1:])
    if options.what == "fast":
        fast()
    else:
        {"order": order, "adapt": adapt}[options.what](corpora.find(options.corpora), options.seeds)
