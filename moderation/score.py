"""The batch job: any export in, one labelled row out for every comment, resumable and accounted for.

Chunks are read ahead and judged by workers, one a core, and written in the order of the input; the cores wait neither for
reading nor for writing.

While it runs, everything lies in a folder beside the output, `OUT.partial/`: rows and rejects are appended there and a
journal says how far both are known to be complete. A run that was interrupted, however, is taken up from the journal's
last whole line. The output itself appears at the end, in one rename.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import gc
import hashlib
import heapq
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import orjson

from moderation.policy import Policy
from moderation.readers import Reading, check_options, inputs
from moderation.readers.columns import neutralise
from moderation.schema import ROW_FIELDS, VERDICT_FIELDS, Comment, Reject, UserError, probability_column

if TYPE_CHECKING:
    from moderation.model import Moderator
    from moderation.registry import Champion

#: Comments that are read, scored and committed together; the more, the less of what the encoder reads is padding.
CHUNK = 2048
#: Characters of comments, parents and articles that end a chunk before: each row carries all of them from end to end.
CHUNK_CHARACTERS = 8 << 20
#: Flagged rows that a summary keeps, the most certain first.
SHOWN = 50

FORMATS = (".jsonl", ".csv", ".parquet")
_FIELDS = (*ROW_FIELDS, *VERDICT_FIELDS)


class InputError(UserError):
    """The input cannot be read at all."""


class OutputError(UserError):
    """The output cannot be written; what is done is kept and the same command goes on from there."""


@dataclass(slots=True)
class Summary:
    """What a run did.

    Attributes:
        rows: comments scored; set_aside: rows that could not be read; resumed: how many of both an earlier run had done.
        labels, actions: counts. reasons: why rows were set aside, with counts.
    """

    out: Path | str
    rows: int = 0
    set_aside: int = 0
    resumed: int = 0
    seconds: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rejects: Path | str | None = None
    _top: list[tuple[float, int, Mapping]] = field(default_factory=list, repr=False)
    _seen: int = field(default=0, repr=False)

    @property
    def flagged(self) -> list[Mapping]:
        """Up to `SHOWN` rows that are not approved, the most certain first."""
        return [row for _, _, row in sorted(self._top, key=lambda entry: entry[:2], reverse=True)]

    def count(self, row: Mapping) -> None:
        """One more row of the output."""
        self.rows += 1
        self.labels[row["label"]] += 1
        self.actions[row["action"]] += 1
        if row["action"] != "approve":
            self.flag(row)

    def flag(self, row: Mapping) -> None:
        """Keep a row that is not approved if it is among the most certain; of equals, the first."""
        certainty = row[probability_column(row["label"])] - (row["label"] == "on-topic")
        self._seen += 1
        entry = (certainty, -self._seen, row)
        (heapq.heappush if len(self._top) < SHOWN else heapq.heappushpop)(self._top, entry)

    def count_reject(self, row: Mapping) -> None:
        """One more row set aside."""
        self.set_aside += 1
        self.reasons[row["reason"]] += 1


def score(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    moderator: Moderator | Champion,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Summary:
    """Label every comment in `paths` and write native rows with verdicts to `out` (.jsonl, .csv or .parquet).

    Where a folder of `paths` is searched, the run's own files are passed over.
    Rows that cannot be read go to `OUT.rejects.jsonl` with file, position and reason. Interrupted and started again with
    the same arguments it goes on where it was; with other arguments, or if the input changed, it starts anew.

    Args:
        moderator: a `Champion` is asked before each chunk, so that a promotion takes effect in the middle of a run; every row
            names the version that judged it.
        format, columns: see `readers.read_comments`.
        policy: thresholds instead of the model's own.
        progress: called with the number of input rows done so far, after each chunk.

    Raises:
        InputError: the input cannot be read. OutputError: the output cannot be written, or another run is writing it.
    """
    started = time.monotonic()
    out = Path(out)
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: expected an output file that ends in {', '.join(FORMATS)}")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; expected the name of a file")
    check_options(format, columns)
    model = moderator.current()
    own = own_files(out)
    with _as_input_error():
        files = inputs(paths, own)
    if not files:
        raise InputError(f"{paths[0]}: holds no file to read; expected comment exports or saved pages")
    taken = {os.path.realpath(path) for path in own}
    if any(file.path != "-" and os.path.realpath(file.path) in taken for file in files):
        raise UserError(f"{out}: is also an input; choose another --out")
    identity = hashlib.sha256(
        json.dumps(
            [
                [(os.path.abspath(file.path) if file.path != "-" else "-", file.size, file.mtime) for file in files],
                [str(out.absolute()), format, sorted((columns or {}).items())],
                [model.version, (policy or model.policy).to_table(), CHUNK],
            ]
        ).encode()
    ).hexdigest()
    with _as_input_error():  # before anything is written: what cannot be read leaves no trace
        reading = Reading(paths, format=format, columns=columns, skip=own)
    with _as_output_error(out), _Spool.open(out, identity) as spool:
        spool.take_up(reading)
        progress(spool.items)
        with closing(_ahead(_chunks(spool.rest), lambda chunk: _label(chunk, moderator.current(), policy))) as done:
            for chunk, rows, lines in done:
                spool.commit(chunk, rows, lines)
                progress(spool.items)
        summary = spool.publish()
    summary.seconds = time.monotonic() - started
    return summary


def own_files(out: Path) -> tuple[Path, Path, Path]:
    """What a run writes: the output, the rejects beside it, and the folder that is there while it runs."""
    return out, out.with_name(out.name + ".rejects.jsonl"), out.with_name(out.name + ".partial")


class Labelled(NamedTuple):
    """A chunk, the output rows of its comments, and the same as lines of JSON."""

    chunk: Sequence[Comment | Reject]
    rows: Sequence[Mapping]
    lines: Sequence[bytes]


class _Spool:
    """The folder `OUT.partial/`: rows.jsonl, rejects.jsonl and the journal that says what of them counts."""

    def __init__(self, out: Path, identity: str) -> None:
        self.out = out
        self.identity = identity
        _, self.rejects, self.folder = own_files(out)
        self.items = 0
        self.summary = Summary(out)
        self.rest: Iterator[Comment | Reject] = iter(())
        self._digest = hashlib.blake2b(digest_size=16)
        self._rows: IO[bytes]
        self._rejects: IO[bytes]
        self._journal: IO[bytes]

    @classmethod
    @contextmanager
    def open(cls, out: Path, identity: str) -> Iterator[_Spool]:
        spool = cls(out, identity)
        spool.folder.mkdir(parents=True, exist_ok=True)
        lock = (spool.folder / "lock").open("w")
        locked = False
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(f"{out}: another run is writing it; wait for it or choose another --out") from None
            locked = True
            with (
                (spool.folder / "rows.jsonl").open("ab") as spool._rows,
                (spool.folder / "rejects.jsonl").open("ab") as spool._rejects,
                (spool.folder / "journal.jsonl").open("ab") as spool._journal,
            ):
                yield spool
            shutil.rmtree(spool.folder)
        except UserError:
            if locked and not (spool.folder / "journal.jsonl").stat().st_size:
                shutil.rmtree(spool.folder)  # nothing was done, so nothing is to be taken up
            raise
        finally:
            lock.close()

    def take_up(self, reading: Iterable[Comment | Reject]) -> None:
        """Skip what an earlier run has done, if it read the very same rows; else start anew."""
        entry = self._last_entry()
        self.rest = iter(reading)
        if entry and entry["items"]:
            with _as_input_error():
                for item in itertools.islice(self.rest, entry["items"]):
                    self._digest.update(_key(item))
            if self._digest.hexdigest() == entry["digest"]:
                self.items = self.summary.resumed = entry["items"]
            else:
                self._digest = hashlib.blake2b(digest_size=16)
                entry = None
                self.rest = iter(reading)
        self._rows.truncate(entry["rows"] if entry else 0)
        self._rejects.truncate(entry["rejects"] if entry else 0)
        self._journal.truncate(entry["end"] if entry else 0)
        if entry:
            for row in self._kept("rows.jsonl"):
                self.summary.count(row)
            for row in self._kept("rejects.jsonl"):
                self.summary.count_reject(row)

    def _kept(self, name: str) -> Iterator[dict]:
        with (self.folder / name).open("rb") as lines:
            try:
                yield from map(orjson.loads, lines)
            except orjson.JSONDecodeError as error:
                raise OutputError(f"{self.folder / name}: damaged ({error}); remove the folder {self.folder} and start again") from error  # fmt: skip

    def _last_entry(self) -> dict | None:
        entry, end = None, 0
        for line in (self.folder / "journal.jsonl").read_bytes().splitlines(keepends=True):
            try:
                read = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                read = None
            if read is None or read.get("identity") != self.identity:
                break
            end += len(line)
            entry = read | {"end": end}
        sizes = [os.path.getsize(self.folder / name) for name in ("rows.jsonl", "rejects.jsonl")]
        if entry and (entry["rows"] > sizes[0] or entry["rejects"] > sizes[1]):
            return None  # the journal promises more than the disk kept
        return entry

    def commit(self, chunk: Sequence[Comment | Reject], rows: Sequence[Mapping], lines: Sequence[bytes]) -> None:
        """Append a chunk's rows and rejects, make them durable, and only then say so in the journal."""
        rejects = [item.to_row() for item in chunk if isinstance(item, Reject)]
        for file, some in ((self._rows, lines), (self._rejects, map(_line, rejects))):
            file.write(b"".join(some))
            file.flush()
            os.fsync(file.fileno())
        for item in chunk:
            self._digest.update(_key(item))
        self.items += len(chunk)
        entry = {
            "identity": self.identity,
            "items": self.items,
            "rows": self._rows.seek(0, os.SEEK_END),
            "rejects": self._rejects.seek(0, os.SEEK_END),
            "digest": self._digest.hexdigest(),
        }
        self._journal.write(json.dumps(entry).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        for row in rows:
            self.summary.count(row)
        for row in rejects:
            self.summary.count_reject(row)

    def publish(self) -> Summary:
        """Turn the spool into the output files, count them against the input, and move them into place."""
        summary = self.summary
        finished = self.folder / ("finished" + self.out.suffix)
        written = self._finish(finished)
        if written != summary.rows or written + summary.set_aside != self.items:
            raise OutputError(
                f"{self.out}: {self.items} rows were read but {written} scored and {summary.set_aside} set aside; "
                f"the folder {self.folder} is damaged, remove it and start again"
            )
        if summary.set_aside:
            shutil.copyfile(self.folder / "rejects.jsonl", self.folder / "finished.rejects")
            _sync(self.folder / "finished.rejects")
            os.replace(self.folder / "finished.rejects", self.rejects)
            summary.rejects = self.rejects
        else:
            self.rejects.unlink(missing_ok=True)
        _sync(finished)
        os.replace(finished, self.out)
        return summary

    def _finish(self, path: Path) -> int:
        """Write the rows in the output's format; returns how many there are."""
        if path.suffix != ".jsonl":
            return _write(self._kept("rows.jsonl"), path)
        written = 0  # as they are: to read and write each again took a fiftieth of a run's time
        with (self.folder / "rows.jsonl").open("rb") as source, path.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
                written += block.count(b"\n")
        return written


def _key(item: Comment | Reject) -> bytes:
    # all of it: a comment whose article changed is another one, too
    return "\x1f".join(item.to_row().values()).encode("utf-8", "replace") + b"\x1e"


def chunk_sizes() -> Iterator[int]:
    """Up to `CHUNK`, starting small: all cores have work soon, and a small input is work for more than one."""
    size = 256
    yield size
    while True:
        yield size
        size = min(2 * size, CHUNK)


def _chunks(items: Iterator[Comment | Reject]) -> Iterator[list[Comment | Reject]]:
    for size in chunk_sizes():
        chunk: list[Comment | Reject] = []
        characters = 0
        with _as_input_error():
            for item in itertools.islice(items, size):
                chunk.append(item)
                if isinstance(item, Comment):
                    characters += len(item.text) + len(item.parent_text) + len(item.article.text)
                if characters >= CHUNK_CHARACTERS:
                    break
        if not chunk:
            return
        yield chunk


def _label(chunk: Sequence[Comment | Reject], moderator: Moderator, policy: Policy | None) -> Labelled:
    """A chunk with the rows of its comments, and the same as lines."""
    comments = [item for item in chunk if isinstance(item, Comment)]
    verdicts = moderator.predict(comments, policy)
    rows = [comment.to_row() | verdict.to_row() for comment, verdict in zip(comments, verdicts, strict=True)]
    return Labelled(chunk, rows, list(map(_line, rows)))


def _ahead(chunks: Iterator[list[Comment | Reject]], judge: Callable[[list[Comment | Reject]], Labelled]) -> Iterator[Labelled]:
    """Chunks as they are judged, in the order of the input; while one is written, others are read and judged.

    Where reading fails, what was read before is still handed on.
    """
    import torch

    from moderation.model import cores

    # Python itself keeps no more than a few cores busy, and each chunk takes memory.
    workers = min(cores(), 8)
    waiting: deque[Future[Labelled]] = deque()
    failure: InputError | None = None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the parallelism; threads within them would only wait for each other
    patience = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # seconds that one who only needs Python for a moment waits for one who needs it for long
    gc.freeze()  # what is loaded stays: to look through all of it for garbage stops every worker for a tenth of a second
    pool = ThreadPoolExecutor(workers, thread_name_prefix="judge", initializer=_be_patient)
    try:
        more = True
        while more or waiting:
            while more and len(waiting) <= workers:
                try:
                    chunk = next(chunks, None)
                except InputError as error:
                    chunk, failure = None, error
                more = chunk is not None
                if chunk is not None:
                    waiting.append(pool.submit(judge, chunk))
            if waiting:
                yield waiting.popleft().result()
        if failure:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()
        sys.setswitchinterval(patience)
        torch.set_num_threads(threads)


def _be_patient() -> None:
    """Let this thread give way less often, and to whoever is in a hurry: each turn of another empties a core's cache."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _line(row: Mapping) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _write(rows: Iterable[dict], path: Path) -> int:
    """Write rows as CSV or Parquet; returns how many there were."""
    written = 0
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, _FIELDS)
            writer.writeheader()
            for row in rows:
                writer.writerow({name: neutralise(cell) if isinstance(cell := row[name], str) else cell for name in _FIELDS})
                written += 1
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.float64() if name.startswith("p_") else pa.string()) for name in _FIELDS])
        with pq.ParquetWriter(path, schema) as writer:
            rows = iter(rows)
            while batch := list(itertools.islice(rows, 10_000)):
                writer.write_table(pa.Table.from_pylist(batch, schema))
                written += len(batch)
    return written


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _as_input_error() -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except UserError as error:
        raise InputError(str(error)) from error


@contextmanager
def _as_output_error(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why, remedy = (
                "the disk is full",
                f"make room there and in {tempfile.gettempdir()}, and run the same command again to go on",
            )
        else:
            why, remedy = error.strerror or str(error), "expected a place where you may write; choose another --out"
        raise OutputError(f"{out}: cannot be written ({why}); {remedy}") from error
