"""Comments that are written again and again, so that each is not encoded again and again.

Within a chunk the same text is encoded once; a campaign's spam, "first" and "lol" come in every chunk. A text that comes a second
time is kept: most never do, and a kept text takes some 20 kB.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from moderation.batching import Batch, Encoded

#: Bytes of encoded texts that are kept, and texts that are recognised when they come again, some 30 MB of hashes.
KEPT, SEEN = 32 << 20, 1 << 18


class Recurring:
    """Encoded texts that came more than once; those used least recently go. Threads may share it."""

    def __init__(self, kept: int = KEPT, seen: int = SEEN) -> None:
        """Args:
        kept: bytes of encoded texts. seen: texts; with more, all are forgotten that did not come twice.
        """
        self.most, self.most_seen = kept, seen
        self.bytes = 0
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def get(self, texts: Sequence[str]) -> dict[str, Encoded]:
        """Those of `texts` that are kept."""
        with self._lock:
            found = {text: self._kept[text] for text in texts if text in self._kept}
            for text in found:
                self._kept.move_to_end(text)
        return found

    def put(self, texts: Sequence[str], batch: Batch) -> None:
        """What became of texts, row by row; those that came before are kept."""
        with self._lock:
            for row, text in enumerate(texts):
                number = hash(text)  # of two texts with one number the second is kept too early, and no more
                if number not in self._seen:
                    self._seen.add(number)
                elif text not in self._kept:
                    self._kept[text] = encoded = batch.text(row)
                    self.bytes += encoded.nbytes
            while self.bytes > self.most:
                self.bytes -= self._kept.popitem(last=False)[1].nbytes
            if len(self._seen) > self.most_seen:
                self._seen.clear()
