"""Encoded articles, so that each is encoded once: kept in memory while the process lives, and on disk from run to run.

On disk an article is a safetensors file named after a hash of its segments, in a folder that belongs to one compiled encoder (see
`moderation.runtime`), so that what is found there is what encoding it gave. The folder may be removed at any time, what is damaged is
encoded anew, and where nothing can be written all goes on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from moderation.batching import Encoded

#: Bytes of encoded articles that are kept; one of twenty sentences takes about 400 kB.
IN_MEMORY, ON_DISK = 128 << 20, 1 << 30
#: Bytes written after which the folder is looked through for what is too much.
TIDY = 64 << 20
#: Segments of an article from which on reading it is worth a file.
WORTH = 4

_LOG = logging.getLogger(__name__)
Segments = tuple[str, ...]


class Articles:
    """The articles encoded before, by their segments; those used least recently go. Threads and processes may share a folder."""

    def __init__(self, folder: Path | None = None, in_memory: int = IN_MEMORY, on_disk: int = ON_DISK) -> None:
        """Args:
        folder: where they are kept from run to run, beside the folders of other encoders; nowhere if None.
        in_memory, on_disk: bytes that they may take; on disk those of all encoders together.
        """
        self.folder = folder
        self.in_memory, self.on_disk = in_memory, on_disk
        self.bytes = 0
        self._kept: OrderedDict[Segments, list[Encoded]] = OrderedDict()
        self._written = TIDY  # so that the first look is at the first article
        self._lock = threading.Lock()

    def get(self, wanted: Collection[Segments]) -> dict[Segments, list[Encoded]]:
        """Those of `wanted` that are known, each with an `Encoded` for every segment."""
        found: dict[Segments, list[Encoded]] = {}
        with self._lock:
            for segments in wanted:
                if segments in self._kept:
                    found[segments] = self._kept[segments]
                    self._kept.move_to_end(segments)
        if self.folder:
            read = {segments: self._read(segments) for segments in wanted if segments not in found}
            known = {segments: article for segments, article in read.items() if article}
            self._keep(known)
            found |= known
        return found

    def put(self, articles: Mapping[Segments, list[Encoded]]) -> None:
        """Keep what was encoded."""
        self._keep(articles)
        if self.folder:
            for segments, article in articles.items():
                if len(segments) >= WORTH:
                    self._write(segments, article)

    def _keep(self, articles: Mapping[Segments, list[Encoded]]) -> None:
        with self._lock:
            for segments, article in articles.items():
                if segments not in self._kept:  # else another thread was quicker
                    self._kept[segments] = article
                    self.bytes += size(article)
            while self.bytes > self.in_memory and len(self._kept) > 1:
                self.bytes -= size(self._kept.popitem(last=False)[1])

    def _path(self, segments: Segments) -> Path:
        assert self.folder
        digest = hashlib.blake2b("\x1f".join(segments).encode("utf-8", "replace"), digest_size=16).hexdigest()
        return self.folder / f"{digest}.safetensors"

    def _read(self, segments: Segments) -> list[Encoded] | None:
        if len(segments) < WORTH:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self._path(segments)
        try:
            parts = load(path.read_bytes())
            os.utime(path)
            vectors, tokens, ids, lengths = (parts[name] for name in ("vectors", "tokens", "ids", "lengths"))
            if not len(vectors) == len(lengths) == len(segments) or not len(tokens) == len(ids) == lengths.sum():
                return None
        except (OSError, SafetensorError, KeyError):
            return None
        ends = np.cumsum(lengths)[:-1]
        # Views: what they are views of is this article and nothing else.
        return [
            Encoded(*one)
            for one in zip(vectors, np.split(tokens, ends), np.split(ids.astype(np.int64), ends), strict=True)
        ]  # fmt: skip

    def _write(self, segments: Segments, article: list[Encoded]) -> None:
        from safetensors.numpy import save

        path = self._path(segments)
        content = save(
            {
                "vectors": np.stack([text.vector for text in article]),
                "tokens": np.concatenate([text.tokens for text in article]),
                "ids": np.concatenate([text.ids for text in article]).astype(np.int32),
                "lengths": np.array([len(text.ids) for text in article]),
            }
        )
        unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(content)
            os.replace(unfinished, path)
            with self._lock:
                self._written += len(content)
                full, self._written = self._written > TIDY, self._written % TIDY
            if full:
                self._tidy()
        except OSError as error:
            _LOG.warning("%s: articles cannot be kept for the next run (%s)", path.parent, error.strerror)
            self.folder = None
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def _tidy(self) -> None:
        """Remove what was used least recently, of all encoders, until three quarters of `on_disk` are left."""
        assert self.folder
        files = []
        for path in self.folder.parent.glob("*/*"):
            try:
                facts = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            files.append((facts.st_mtime, facts.st_size, path))
        total = sum(taken for _, taken, _ in files)
        if total > self.on_disk:
            for _, taken, path in sorted(files, key=lambda file: file[0]):
                path.unlink(missing_ok=True)
                total -= taken
                if total <= 0.75 * self.on_disk:
                    break


def size(article: list[Encoded]) -> int:
    """Bytes of an encoded article."""
    return sum(segment.nbytes for segment in article)
