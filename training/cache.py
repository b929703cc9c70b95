"""Encoded texts that are remembered on disk, so that no text is encoded twice by the same encoder."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from moderation.batching import Batch, Encoded, plan
from moderation.model import Encoder, Moderator, find_encoder
from moderation.schema import UserError

#: Texts that are encoded before they are written down: what a kill can lose.
_CHUNK = 1024
#: Encoders whose vectors are kept; those used least recently go.
_KEPT = 3


class CachedEncoder(Encoder):
    """An `Encoder` that looks into a file first. Vectors are kept as float16, which changes a similarity by less than 0.001."""

    def __init__(self, encoder: Encoder, path: Path) -> None:
        """Raises:
        UserError: the file cannot be used.
        """
        # Not Encoder's own beginning: what is remembered may come from a compiled encoder, which has no transformer.
        self.inner = encoder
        self.width = encoder.width
        self.path = path
        self.encoded = 0  # texts that were not in the file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(path, timeout=60)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    @property
    def device(self):
        return self.inner.device

    def encode_tokens(self, texts: Sequence[str], max_tokens: int) -> list[Encoded]:
        """As `Encoder.encode_tokens`.

        Raises:
            UserError: the file cannot be written (the disk is full).
        """
        keys = [
            hashlib.blake2b(f"{max_tokens}\x1f{text}".encode("utf-8", "replace"), digest_size=16).digest() for text in texts
        ]
        try:
            known: dict[bytes, bytes] = {}
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                known |= dict(self._file.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part))
            encoded = [self._unpack(known.get(key, b"")) for key in keys]
            missing = [row for row, found in enumerate(encoded) if found is None]
            for start in range(0, len(missing), _CHUNK):
                rows = missing[start : start + _CHUNK]
                packed = [_pack(text) for text in self.inner.encode_tokens([texts[row] for row in rows], max_tokens)]
                for row, blob in zip(rows, packed, strict=True):
                    encoded[row] = self._unpack(blob)  # so that what comes from the file and what does not are alike
                self.encoded += len(rows)
                with self._file:
                    self._file.executemany(
                        "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                        [(keys[row], blob) for row, blob in zip(rows, packed, strict=True)],
                    )
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        return encoded

    def encode_batches(self, texts: Sequence[str], max_tokens: int) -> Iterator[tuple[list[int], Batch]]:
        """As `Encoder.encode_batches`.

        Raises:
            UserError: see `encode_tokens`.
        """
        encoded = self.encode_tokens(texts, max_tokens)
        for chosen in plan([len(text.ids) + 1 for text in encoded], self.token_budget):
            yield chosen, Batch.of([encoded[index] for index in chosen])

    def _unpack(self, blob: bytes) -> Encoded | None:
        """What `_pack` packed; None when it is not that (another version's, or nothing)."""
        row = 2 * self.width
        count, rest = divmod(len(blob) - row, row + 4)
        if count < 0 or rest:
            return None
        vector = np.frombuffer(blob, dtype=np.float16, count=self.width).astype(np.float32)
        tokens = np.frombuffer(blob, dtype=np.float16, count=count * self.width, offset=row).reshape(count, self.width)
        ids = np.frombuffer(blob, dtype=np.int32, count=count, offset=row * (count + 1)).astype(np.int64)
        return Encoded(vector, tokens, ids)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _trouble(self, error: sqlite3.Error) -> UserError:
        full = "full" in str(error) or "disk I/O" in str(error)
        why = "the disk is full" if full else str(error)
        return UserError(f"{self.path}: vectors cannot be kept there ({why}); the champion stays as it is")


def _pack(text: Encoded) -> bytes:
    return text.vector.astype(np.float16).tobytes() + text.tokens.tobytes() + text.ids.astype(np.int32).tobytes()


def cached(moderator: Moderator, folder: Path) -> Moderator:
    """The same model with an encoder that remembers in `folder`; models that share the encoder share the file."""
    # A compiled encoder's vectors differ a little from PyTorch's, so they are kept apart.
    kind = getattr(moderator.encoder, "kind", "torch")
    path = folder / f"{encoder_checksum(moderator.manifest)}-{kind}.db"
    others = sorted((other for other in folder.glob("*.db") if other != path), key=lambda other: -other.stat().st_mtime)
    for old in others[_KEPT - 1 :]:
        for part in folder.glob(old.name + "*"):
            part.unlink(missing_ok=True)
    return Moderator(CachedEncoder(moderator.encoder, path), moderator.head, moderator.manifest)


def encoder_checksum(manifest: Mapping) -> str:
    """Sixteen hex digits that change whenever a model's vectors may: base weights, adapter, and what text is encoded."""
    base = Path(find_encoder(manifest["encoder"]))
    weights = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(base.glob("*.safetensors"))}
    adapter = {name: digest for name, digest in manifest["files"].items() if name.startswith("adapter/")}
    parts = [manifest["encoder"], manifest["encoding"], weights, adapter]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
