"""The encoder compiled for ordinary processors: ONNX Runtime, in 8-bit integers where they prove harmless.

At first use a model's encoder, its adapter merged, is exported to ONNX: with its matrix products in 8-bit integers, else with
fewer steps of these, else as it is. The first that judges `calibration.jsonl` (comments of our own that no model trains on)
on this very processor, whatever instructions that has, as PyTorch does in float32 is kept, unless PyTorch is quicker. The
choice lies in a cache, keyed by the model, the encoder's files and the processor, so that later starts need neither
transformers nor peft:

    $MODERATION_CACHE (else $XDG_CACHE_HOME/moderation, else ~/.cache/moderation) / compiled / KEY /
        encoder.onnx, tokenizer.json, compiled.json (what was measured, checksums)

Beside it, in articles / KEY /, lie the articles that the encoder has read (`moderation.articles`). All of it may be removed at any
time; what is damaged is made anew; where nothing can be written, PyTorch runs the encoder.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import itertools
import json
import logging
import os
import platform
import shutil
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from moderation.batching import Batch
from moderation.model import SEGMENT_TOKENS, Encoder, cores, middle_out
from moderation.quantise import FEWER_STEPS, quantise, ranges, session
from moderation.schema import Article, Comment
from moderation.wordpiece import WordPieces

#: Changes whenever the same model would be compiled to something else.
VERSION = 2
#: What a compiled encoder must reach on the calibration comments: share of labels that stay, mean difference of probabilities.
AGREEMENT, DIFFERENCE = 0.985, 0.01

CALIBRATION = Path(__file__).parent / "calibration.jsonl"
_LOG = logging.getLogger(__name__)

Judge = Callable[[Encoder, list[Comment]], np.ndarray]


class CompiledEncoder(Encoder):
    """What `Encoder` does, for inference on a processor only; several threads may use it at once."""

    token_budget = 1024  # the widest layer of a batch then stays within a core's cache

    def __init__(self, folder: Path) -> None:
        """Load what was compiled into `folder`.

        Raises:
            OSError, ValueError, KeyError: it is missing or damaged.
        """
        from tokenizers import Tokenizer

        _share_freed_memory()
        facts = json.loads((folder / "compiled.json").read_text(encoding="utf-8"))
        model, tokenizer = ((folder / name).read_bytes() for name in ("encoder.onnx", "tokenizer.json"))
        if facts["sha256"] != [hashlib.sha256(part).hexdigest() for part in (model, tokenizer)]:
            raise ValueError(f"{folder}: damaged")
        self.kind: str = facts["kind"]
        self.width: int = facts["width"]
        self._pad: int = facts["pad"]
        whole = Tokenizer.from_str(tokenizer.decode())
        whole.no_padding()
        whole.no_truncation()
        self._is_special = np.isin(np.arange(1 + max(whole.get_vocab().values())), facts["special"])
        self._pieces = WordPieces(whole)
        self.kernel = session(model)
        # One thread a run and one run a core: nobody waits at the end of every layer.
        self._cores = cores()
        self.workers = ThreadPoolExecutor(self._cores, thread_name_prefix="encoder")
        self._lock = threading.Lock()
        self._callers = 0  # of `passes`, at the moment

    @property
    def device(self):
        import torch

        return torch.device("cpu")

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """As `Encoder.tokenize`."""
        return [middle_out(ids, max_tokens) for ids in self._pieces.ids(texts, 4 * max_tokens)]

    def passes(self, batches: Sequence[Sequence[list[int]]]) -> Iterator[Batch]:
        """As `Encoder.passes`, on all cores; a few batches ahead of the caller, whatever their number.

        Where as many callers as cores are at it, each does its own work: threads that take turns on a core empty its cache.
        """
        if len(batches) == 1:
            yield self._run(batches[0])
            return
        with self._lock:
            self._callers += 1
        waiting: deque[Future[Batch]] = deque()
        try:
            for batch in batches:
                if self._callers >= self._cores:
                    while waiting:
                        yield waiting.popleft().result()
                    yield self._run(batch)
                    continue
                waiting.append(self.workers.submit(self._run, batch))
                if len(waiting) > 2 * self._cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            with self._lock:
                self._callers -= 1

    def _run(self, ids: Sequence[list[int]]) -> Batch:
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        mask = np.arange(lengths.max()) < lengths[:, None]
        batch = np.full(mask.shape, self._pad)
        batch[mask] = np.fromiter(itertools.chain.from_iterable(ids), np.int64, lengths.sum())
        given = {"input_ids": batch, "attention_mask": mask.astype(np.int64)}
        vectors, tokens = self.kernel.run(["vector", "tokens"], given)
        return Batch(vectors, tokens, np.where(mask & ~self._is_special[batch], batch, -1))


def _share_freed_memory() -> None:
    """Let threads to come use what others have freed. Else each keeps it for itself in a heap of its own (glibc's arenas): where every
    comment stood under a long article of its own that took 135 MB more, and no less time."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # elsewhere than with glibc
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX


def compiled(manifest: dict, files: Sequence[Path], reference: Callable[[], Encoder], judge: Judge) -> CompiledEncoder | None:
    """The compiled encoder of a model, from the cache or made now; None where PyTorch serves better.

    Args:
        manifest: the model's, already verified. files: those of its base encoder.
        reference: loads the PyTorch encoder, its adapter merged; called only when something has to be made.
        judge: probabilities (N, 4) of comments by this model with the given encoder.
    """
    try:
        folder = cache_folder() / "compiled" / _key(manifest, files)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several processes that start at once compile once
            try:
                return _open(folder)
            except (OSError, ValueError, KeyError, TypeError):
                shutil.rmtree(folder, ignore_errors=True)
            made = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new-"))
            try:
                _compile(made, reference, judge)
                os.rename(made, folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
            return _open(folder)
    except Exception as error:  # whatever an exporter or a file system does, there is still PyTorch
        _LOG.warning("the encoder cannot be compiled (%s: %s); PyTorch runs it", type(error).__name__, error)
        return None


def cache_folder() -> Path:
    """Where compiled models are kept."""
    if chosen := os.environ.get("MODERATION_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moderation"


def calibration_comments() -> list[Comment]:
    """The comments on which a compiled encoder has to prove itself."""
    comments = []
    for line in CALIBRATION.read_text(encoding="utf-8").splitlines():
        thread = json.loads(line)
        article = Article(title=thread["article_title"], text=thread["article_text"])
        comments += [Comment(text, article=article, parent_text=parent) for text, parent in thread["comments"]]
    return comments


def _open(folder: Path) -> CompiledEncoder | None:
    facts = json.loads((folder / "compiled.json").read_text(encoding="utf-8"))
    if facts["kind"] == "torch":
        return None
    encoder = CompiledEncoder(folder)
    encoder.articles_folder = folder.parent.parent / "articles" / folder.name
    return encoder


def _key(manifest: dict, files: Sequence[Path]) -> str:
    import onnxruntime

    try:
        cpu = [
            line for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines() if line[:5] in ("flags", "Featu")
        ]
    except OSError:
        cpu = []
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    facts = [VERSION, onnxruntime.__version__, sorted(manifest["files"].items()), stamps, platform.machine(), cpu[:1]]
    return f"{manifest['version']}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def _compile(folder: Path, reference: Callable[[], Encoder], judge: Judge) -> None:
    """Export, quantise, prove, and leave the quickest that is right in `folder`."""
    comments = calibration_comments()
    torch_encoder = reference()
    ids = sorted(torch_encoder.tokenize([comment.text for comment in comments[::4]], SEGMENT_TOKENS), key=len)
    batches = [ids[start : start + 32] for start in range(0, len(ids), 32)]

    def seconds(encoder: Encoder) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()  # of all threads: what else the machine does must not decide
            list(encoder.passes(batches))
            times.append(time.process_time() - started)
        return min(times)

    measured = {"torch": {"seconds": seconds(torch_encoder)}}
    torch_encoder.exact = True
    expected = judge(torch_encoder, comments)
    tokenizer = torch_encoder.tokenizer.backend_tokenizer.to_str().encode()
    facts: dict = {
        "width": torch_encoder.width,
        "pad": torch_encoder.tokenizer.pad_token_id or 0,
        "special": sorted(torch_encoder.special),
        "measured": measured,
    }
    exported = _export(torch_encoder)
    del torch_encoder  # which takes as much memory as what is made of it
    measured_ranges = ranges(exported, batches)
    candidates: dict[str, Callable[[], bytes]] = {
        "int8": lambda: quantise(exported, measured_ranges),
        "int8 of fewer steps": lambda: quantise(exported, measured_ranges, FEWER_STEPS),
        "fp32": lambda: exported,
    }

    def write(kind: str, encoder: bytes) -> None:
        files = {"encoder.onnx": encoder, "tokenizer.json": tokenizer}
        for name, content in files.items():
            (folder / name).write_bytes(content)
        sums = [hashlib.sha256(content).hexdigest() for content in files.values()]
        (folder / "compiled.json").write_text(json.dumps(facts | {"kind": kind, "sha256": sums}, indent=1), encoding="utf-8")

    content = b""
    for kind, make in candidates.items():
        content = make()
        write(kind, content)
        encoder = CompiledEncoder(folder)
        found = judge(encoder, comments)
        agreement = float((found.argmax(-1) == expected.argmax(-1)).mean())
        difference = float(np.abs(found - expected).mean())
        if agreement >= AGREEMENT and difference <= DIFFERENCE:
            measured[kind] = {"seconds": seconds(encoder), "agreement": agreement, "difference": difference}
            break  # of those compiled the next is the slower one everywhere
        _LOG.info("%s is set aside: labels agree on %.4f, probabilities differ by %.4f", kind, agreement, difference)
        encoder, content = None, b""  # before the next is made: each takes as much memory as the model
    quickest = min(measured, key=lambda kind: measured[kind]["seconds"])
    write(quickest, b"" if quickest == "torch" else content)


def _export(encoder: Encoder) -> bytes:
    """An ONNX model: input_ids and attention_mask (N, T) to unit vectors, `vector` (N, d) and `tokens` (N, T, d) float16.

    The encoder is of no use afterwards: its attention is another one then.
    """
    import torch

    from moderation.network import pool

    class Pooled(torch.nn.Module):
        def __init__(self, transformer) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids, attention_mask):
            hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return pool(hidden, attention_mask), torch.nn.functional.normalize(hidden, dim=-1).half()

    example = torch.randint(5, 1000, (3, 11))
    mask = torch.ones_like(example)
    mask[1, 7:] = 0
    encoder.transformer.set_attn_implementation("eager")  # whose plain products are what ONNX Runtime runs fastest
    axes = {0: "texts", 1: "tokens"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        path = Path(folder) / "exported.onnx"
        torch.onnx.export(
            Pooled(encoder.transformer),
            (example, mask),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["vector", "tokens"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "tokens": axes, "vector": {0: "texts"}},
            opset_version=17,
            dynamo=False,
        )
        return path.read_bytes()
