"""Yardsticks: simple classifiers to hold a model against, each a few lines on a kept library.

Each is called by name (`--yardstick`): `majority`, `tfidf`, `cosine`, `setfit`, or `hub:NAME` for any text-classification
model of the Hugging Face Hub (or a folder) with a label map. Those that learn do so from the rows of `--train`, or else
by five-fold cross-validation over the threads of the very rows that are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from moderation.schema import LABELS, Comment, UserError
from training.examine import Contender
from training.labelled import Labelled, fingerprint

NAMES = ("majority", "tfidf", "cosine", "setfit")
Train = tuple[Sequence[Comment], Sequence[str]]
Predict = Callable[[Sequence[Comment]], np.ndarray]

#: Comments a class from which SetFit learns: it is made for few examples, and its cost grows with their pairs.
SETFIT_EXAMPLES = 24
#: Phrases to which the zero-shot yardstick compares a comment, and the similarity that counts as "belongs here".
SPAM_PHRASES = (
    "Buy now, click the link and visit my website for the best offer.",
    "Contact me on WhatsApp to earn money with crypto investment.",
    "Subscribe to my channel please.",
)
THIN_PHRASES = ("Nice article!", "lol", "First", "Thanks for sharing.", "I love this.")
BELONGS = 0.3


def contender(
    name: str,
    data: Labelled,
    train: Labelled | None = None,
    label_map: Mapping[str, str] | None = None,
    positive_label: str | None = None,
    seed: int = 0,
) -> Contender:
    """The yardstick of that name, ready to be examined on `data`.

    Args:
        train: rows to learn from; those of the same threads as `data`, or with the same text, are left out. Without it the
            yardstick is cross-validated on `data`.
        label_map: for `hub:NAME`, our label by the model's.
        positive_label: for rows of one question, what 1 means; 0 then counts as on-topic (or off-topic, if 1 is on-topic).

    Raises:
        UserError: no such yardstick, or nothing to learn from.
    """
    check_name(name)
    if name.startswith("hub:"):
        return Contender(name, hub(name.removeprefix("hub:"), label_map or {}))
    if name == "cosine":
        from moderation.model import DEFAULT_ENCODER, Encoder, load_encoder

        return Contender(name, cosine(Encoder(*load_encoder(DEFAULT_ENCODER))), note="Zero-shot, nothing fitted.")
    fits = {"majority": majority, "tfidf": tfidf, "setfit": lambda rows: _setfit_default(rows, seed)}
    fit = fits[name]
    if train is not None:
        threads, texts = (
            set(data.groups),
            {fingerprint(comment.text) for comment in data.comments if len(comment.text.split()) >= 4},
        )
        kept = [
            row
            for row in range(len(train))
            if train.groups[row] not in threads and fingerprint(train.comments[row].text) not in texts
        ]
        if not kept:
            raise UserError("--train: every row of it also stands among the rows to evaluate; expected other threads")
        predict = fit(([train.comments[row] for row in kept], [train.truth[row] for row in kept]))
        return Contender(
            name,
            predict,
            note=f"Learned from {f'{SETFIT_EXAMPLES} a label of ' if name == 'setfit' else ''}{len(kept):,} other rows.",
        )
    other = "off-topic" if positive_label == "on-topic" else "on-topic"
    labels = data.truth if positive_label is None else [positive_label if answer else other for answer in data.positive]
    found = cross_validated(fit, data.comments, labels, data.groups)
    place = {id(comment): row for row, comment in enumerate(data.comments)}
    return Contender(
        name,
        lambda comments: found[[place[id(comment)] for comment in comments]],
        note="Cross-validated on these rows, by thread.",
    )


def check_name(name: str) -> None:
    """Refuse what is no yardstick.

    Raises:
        UserError: with the names that there are.
    """
    if name not in NAMES and not name.startswith("hub:"):
        raise UserError(f"--yardstick {name!r}; expected one of {', '.join(NAMES)} or hub:NAME")


def _setfit_default(train: Train, seed: int) -> Predict:
    from moderation.model import DEFAULT_ENCODER, find_encoder

    return setfit(train, find_encoder(DEFAULT_ENCODER), seed=seed)


def majority(train: Train) -> Predict:
    """The class shares of the training rows, whatever the comment says (scikit-learn's DummyClassifier)."""
    from sklearn.dummy import DummyClassifier

    model = DummyClassifier(strategy="prior").fit(np.zeros((len(train[1]), 1)), list(train[1]))
    return lambda comments: _ordered(model.predict_proba(np.zeros((len(comments), 1))), model.classes_)


def tfidf(train: Train) -> Predict:
    """TF-IDF of the comment's words and pairs, its TF-IDF cosine to article and parent, and logistic regression."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    comments, labels = train
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=100_000)
    words.fit([part for comment in comments for part in (comment.text, comment.article.text)])

    def features(chosen: Sequence[Comment]):
        own = words.transform([comment.text for comment in chosen])
        sides = []
        for side in (lambda one: f"{one.article.title} {one.article.text}", lambda one: one.parent_text):
            sides.append(csr_matrix(own.multiply(words.transform([side(comment) for comment in chosen])).sum(1)) * 5)
        return hstack([own, *sides]).tocsr()

    model = LogisticRegression(C=10, max_iter=1000, class_weight="balanced").fit(features(comments), list(labels))
    return lambda chosen: _ordered(model.predict_proba(features(chosen)), model.classes_)


def cosine(encoder) -> Predict:
    """Zero-shot, by similarity alone (`encoder` is a `moderation.model.Encoder`).

    A softmax (temperature 0.05) over: nearest of title, article sentences and parent (on-topic); the constant `BELONGS`
    (off-topic); nearest spam phrase; nearest thin phrase. Nothing is fitted.
    """
    from moderation.text import fold, segments

    def encode(texts: Sequence[str], tokens: int) -> dict[str, np.ndarray]:
        distinct = list(dict.fromkeys(text for text in texts if text))
        return dict(zip(distinct, encoder.encode(distinct, tokens), strict=True)) if distinct else {}

    spam, thin = (np.stack(list(encode(phrases, 64).values())) for phrases in (SPAM_PHRASES, THIN_PHRASES))

    def predict(comments: Sequence[Comment]) -> np.ndarray:
        own = encode([fold(comment.text) or " " for comment in comments], 128)
        sides = [[*segments(comment.article), fold(comment.parent_text)] for comment in comments]
        context = encode([side for parts in sides for side in parts], 96)
        result = []
        for comment, parts in zip(comments, sides, strict=True):
            vector = own[fold(comment.text) or " "]
            near = max((float(vector @ context[part]) for part in parts if part), default=BELONGS)
            values = {
                "on-topic": near,
                "off-topic": BELONGS,
                "spam": float((spam @ vector).max()),
                "low-effort": float((thin @ vector).max()),
            }
            powers = np.exp(np.array([values[label] for label in LABELS]) / 0.05)
            result.append(powers / powers.sum())
        return np.array(result).reshape(-1, len(LABELS))

    return predict


def setfit(train: Train, encoder_folder: str, examples: int = SETFIT_EXAMPLES, seed: int = 0) -> Predict:
    """SetFit (Tunstall et al. 2022, arXiv:2209.11055) on the encoder in `encoder_folder`, from `examples` a class.

    Raises:
        UserError: the package `setfit` is not installed.
    """
    try:
        from setfit import SetFitModel, Trainer, TrainingArguments
    except ImportError as error:
        raise UserError("the yardstick setfit needs the package of that name; run: pip install setfit") from error
    import contextlib
    import io
    import logging
    import tempfile

    from datasets import Dataset

    comments, labels = train
    generator = np.random.default_rng(seed)
    present = [label for label in LABELS if label in set(labels)]
    rows = []
    for label in present:
        members = np.flatnonzero(np.asarray(labels) == label)
        rows += generator.choice(members, min(examples, len(members)), replace=False).tolist()
    data = Dataset.from_dict(
        {"text": [_as_text(comments[row]) for row in rows], "label": [present.index(labels[row]) for row in rows]}
    )
    logging.getLogger("setfit").setLevel(logging.ERROR)
    model = SetFitModel.from_pretrained(encoder_folder, labels=present, device="cpu")
    model.model_body.max_seq_length = 128
    # Its trainer prints what it does; the report says what comes of it.
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        settings = TrainingArguments(
            output_dir=folder,
            batch_size=16,
            num_epochs=1,
            num_iterations=5,
            seed=seed,
            report_to="none",
            save_strategy="no",
            show_progress_bar=False,
        )
        Trainer(model=model, args=settings, train_dataset=data).train()
    head = model.model_head

    def predict(chosen: Sequence[Comment]) -> np.ndarray:
        vectors = model.model_body.encode([_as_text(comment) for comment in chosen], show_progress_bar=False)
        return _ordered(head.predict_proba(vectors), [present[number] for number in head.classes_])

    return predict


def hub(name: str, label_map: Mapping[str, str]) -> Predict:
    """A text-classification model of the Hub (or a folder), its labels mapped to ours.

    The comment goes in with the article's title as second text. Probabilities of labels mapped to the same one add up.

    Args:
        label_map: our label by the model's, for every label that the model has.

    Raises:
        UserError: the model cannot be loaded, or the map leaves a label of it out or names an unknown one.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(name, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise UserError(
            f"hub:{name}: cannot be loaded; expected a text-classification model with safetensors weights ({str(error).splitlines()[0]})"
        ) from error
    theirs = [model.config.id2label[number] for number in range(model.config.num_labels)]
    missing = [label for label in theirs if label not in label_map]
    unknown = sorted(set(label_map.values()) - set(LABELS))
    if missing or unknown:
        problem = f"leaves out {', '.join(missing)}" if missing else f"names {', '.join(unknown)}; expected {', '.join(LABELS)}"
        raise UserError(f"hub:{name}: the label map {problem} (the model's labels: {', '.join(theirs)})")
    onto = np.zeros((len(theirs), len(LABELS)))
    for number, label in enumerate(theirs):
        onto[number, LABELS.index(label_map[label])] = 1

    def predict(comments: Sequence[Comment]) -> np.ndarray:
        parts = []
        for start in range(0, len(comments), 32):
            chunk = comments[start : start + 32]
            titles = [comment.article.title for comment in chunk]
            inputs = tokenizer(
                [comment.text for comment in chunk],
                titles if any(titles) else None,
                truncation="longest_first",
                max_length=min(256, tokenizer.model_max_length),
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                parts.append(model(**inputs).logits.double().softmax(-1).numpy() @ onto)
        return np.concatenate(parts) if parts else np.zeros((0, len(LABELS)))

    return predict


def cross_validated(
    fit: Callable[[Train], Predict], comments: Sequence[Comment], labels: Sequence[str], groups: Sequence[str], folds: int = 5
) -> np.ndarray:
    """Probabilities (N, 4) for every row by a yardstick that was fitted on other threads only.

    Raises:
        UserError: fewer than two threads.
    """
    from sklearn.model_selection import GroupKFold

    threads = len(set(groups))
    if threads < 2:
        raise UserError("a yardstick that learns needs rows of at least two threads, or training rows of its own (--train)")
    result = np.zeros((len(comments), len(LABELS)))
    for learn, test in GroupKFold(min(folds, threads)).split(comments, groups=groups):
        predict = fit(([comments[row] for row in learn], [labels[row] for row in learn]))
        result[test] = predict([comments[row] for row in test])
    return result


def _as_text(comment: Comment) -> str:
    return f"{comment.article.title[:150]}\n\n{comment.text[:1000]}"


def _ordered(probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    result = np.zeros((len(probabilities), len(LABELS)))
    for place, label in enumerate(classes):
        result[:, LABELS.index(str(label))] = probabilities[:, place]
    return result
