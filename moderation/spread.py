"""The batch job on many machines: Parquet in, Parquet out, on local disks or object storage, by Ray Data.

The input is cut into blocks of some thousand rows. A block is one run of `score.score` with all that it does (columns, parents,
rejects, accounting), by an actor that holds the model; Ray Data hands a free actor its next block and gives the block of a
machine that is lost to another. Only descriptions of blocks travel through Ray: actors read rows from the storage and write to it.

What a block gave becomes visible in this order: `part-N.parquet`, `_rejects/part-N.jsonl`, and `_run/done/N.json`, the receipt,
without which the other two do not count and are written again under the same names. So no row can come twice, whoever is killed,
and the same command goes on after the blocks that have a receipt. `_SUCCESS` appears when all rows are accounted for.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from moderation.policy import Policy
from moderation.readers import check_options
from moderation.readers.columns import match_columns
from moderation.readers.source import Source
from moderation.schema import Reject, UserError
from moderation.score import SHOWN, InputError, OutputError, Summary, score

if TYPE_CHECKING:
    import pyarrow as pa

    from moderation.model import Moderator

#: Rows of a block: seconds of work, so that losing one costs little and starting one costs less.
BLOCK_ROWS = 20_000
#: Encodings of an article (one in each block that has comments of it) from which on the input is sorted by article first.
SCATTERED = 1.2
#: How often a block is tried whose reading or writing fails.
ATTEMPTS = 3

_ARTICLE = ("article_id", "article_url", "article_title")
# Where a row came from, and why it cannot be read; they travel with the rows when these are sorted.
_FILE, _ROW, _DAMAGE, _KEY = _OWN = ("_file", "_row", "_damage", "_article")


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `first` to `first + rows` of the Parquet file at `path` in the file system that `root` names."""

    root: str
    path: str
    first: int
    rows: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    """What every actor must know."""

    out: str
    columns: Mapping[str, str]
    policy: Policy | None


def spread(
    paths: Sequence[str],
    out: str,
    model: str | None = None,
    *,
    address: str | None = None,
    columns: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    block_rows: int = BLOCK_ROWS,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Summary:
    """Label every comment in Parquet files and write native rows with verdicts into the folder `out`, as Parquet.

    Args:
        paths: files and folders, local or as URLs (`s3://`, `gs://`, `hdfs://`, whatever `pyarrow.fs` opens).
        out: a folder, local or a URL. With more than one machine, all of them must see it and the input under the same name.
        model: folder of a model or a version; by default the champion. It is sent to the actors, and fixed for the whole run.
        address: of a Ray cluster; by default one is started on this machine (or that used which the process is connected to).
        columns: see `readers.read_comments`. policy: thresholds instead of the model's own.
        progress: called with the number of rows that are done and that there are, after each block.

    Raises:
        InputError: the input cannot be read. OutputError: it cannot be written, or blocks failed; what is done is kept.
    """
    started = time.monotonic()
    check_options(None, columns)
    files = _files(paths)
    model_files, version = _model(model)
    job = _Job(out, dict(columns or {}), policy)
    parts = [files, out, sorted(job.columns.items()), version, policy.to_table() if policy else None]
    identity = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    run = _Run(out)
    plan = run.plan(identity)
    with _cluster(address):
        if plan is None:
            plan = _planned(run, job, files, block_rows)
            run.write(
                "_run/plan.json", json.dumps({"identity": identity, "blocks": [asdict(block) for block in plan]}).encode()
            )
        receipts = run.receipts(plan)
        rows = sum(block.rows for block in plan)
        done = resumed = sum(plan[number].rows for number in receipts)
        progress(done, rows)
        failures: dict[int, str] = {}
        for _ in range(ATTEMPTS):
            todo = [block for block in plan if block.number not in receipts]
            for result in _scored(todo, model_files, job):
                if "fatal" in result:
                    raise InputError(result["fatal"])
                if "error" in result:
                    failures[result["number"]] = result["error"]
                elif result["number"] not in receipts:
                    receipts[result["number"]] = result
                    done += plan[result["number"]].rows
                    progress(done, rows)
            if len(receipts) == len(plan):
                break
    missing = [block for block in plan if block.number not in receipts]
    if missing:
        why = failures.get(missing[0].number, "the machine that had it was lost, or its memory was full")
        raise OutputError(
            f"{out}: {len(missing)} of {len(plan)} blocks could not be scored, the first being rows {missing[0].first + 1:,} to "
            f"{missing[0].first + missing[0].rows:,} of {_name(missing[0])} ({why}); what is done is kept, run the same command again to go on"
        )
    summary = run.publish(plan, receipts)
    summary.resumed = resumed
    summary.seconds = time.monotonic() - started
    return summary


# -- storage ---------------------------------------------------------------------------------------------------------------


@lru_cache
def _storage(url: str):
    """The file system behind a path or URL, and the path in it."""
    from pyarrow import ArrowException, fs

    if "://" not in url:
        return fs.LocalFileSystem(), os.path.abspath(url)
    try:
        return fs.FileSystem.from_uri(url)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{url}: cannot be opened ({_line(error)}); expected a path or a URL such as s3://bucket/folder"
        ) from error


def _files(paths: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """(root, path, size, time) of every Parquet file behind the paths, the hidden ones and those in `_folders` left out."""
    from pyarrow import fs

    found = []
    for given in paths:
        storage, path = _storage(given)
        try:
            info = storage.get_file_info(path)
            if info.type == fs.FileType.Directory:
                inside = storage.get_file_info(fs.FileSelector(path, recursive=True))
                below = len(info.path.rstrip("/")) + 1
                visible = (one for one in inside if not any(part[0] in "._" for part in one.path[below:].split("/")))
                infos = sorted((one for one in visible if one.extension == "parquet"), key=lambda one: one.path)
                if not infos:
                    raise InputError(f"{given}: holds no .parquet file; the ray engine reads Parquet and nothing else")
            elif info.type == fs.FileType.NotFound:
                raise InputError(f"{given}: no such file or folder; expected Parquet files, a folder or a URL of them")
            else:
                infos = [info]
        except OSError as error:
            raise InputError(f"{given}: cannot be listed ({_line(error)}); expected Parquet files that you may read") from error
        found += [(given, one.path, one.size or 0, one.mtime_ns or 0) for one in infos]
    return found


def _name(block: Block) -> str:
    return block.root.split("://")[0] + "://" + block.path if "://" in block.root else block.path


def _line(error: BaseException) -> str:
    """The line that says it: the first, or of a traceback from another machine the last."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "ray::" in lines[0] else 0].strip()[:200]


class _Run:
    """The output folder: what is planned, what is done, and what is written there."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.storage, self.root = _storage(out)

    def plan(self, identity: str) -> list[Block] | None:
        """The blocks of an earlier, interrupted run of the same job; None where there was none.

        Raises:
            OutputError: the folder holds something else.
        """
        from pyarrow import fs

        with self._written():
            info = self.storage.get_file_info(self.root)
            if info.type == fs.FileType.File:
                raise OutputError(
                    f"{self.out}: is a file; the ray engine writes a folder of Parquet files, choose another --out"
                )
            text = self.read("_run/plan.json")
            if text is None:
                names = self._names("") if info.type == fs.FileType.Directory else {}
                if set(names) - {"_run"}:
                    raise OutputError(f"{self.out}: holds other files ({min(names)}, …); choose another --out")
                return None
            table = json.loads(text)
            if table["identity"] != identity:
                raise OutputError(
                    f"{self.out}: holds the output of another run (other input, columns, model or thresholds); "
                    f"choose another --out, or remove it"
                )
            return [Block(**block) for block in table["blocks"]]

    def receipts(self, plan: Sequence[Block]) -> dict[int, dict]:
        """What is known of each block that is done and whose rows are where they were written."""
        from concurrent.futures import ThreadPoolExecutor

        with self._written():
            sizes = self._names("")
            names = [f"_run/done/{name}" for name in self._names("_run/done") if name.endswith(".json")]
            with ThreadPoolExecutor(16) as threads:
                texts = list(threads.map(self.read, names))
        found = (json.loads(text) for text in texts if text)
        return {one["number"]: one for one in found if sizes.get(_part(one["number"])) == one["bytes"]} if plan else {}

    def publish(self, plan: Sequence[Block], receipts: Mapping[int, dict]) -> Summary:
        """Count all that was written against all that was read, and say so in `_SUCCESS`."""
        summary = Summary(Path(self.out))
        summary.out = self.out if "://" in self.out else Path(self.out)
        with self._written():
            sizes = self._names("")
        flagged: list[dict] = []
        for block in plan:
            receipt = receipts[block.number]
            if receipt["rows"] + receipt["set_aside"] != block.rows or sizes.get(_part(block.number)) != receipt["bytes"]:
                raise OutputError(f"{self.out}/{_part(block.number)}: is not what was written; run the same command again")
            summary.rows += receipt["rows"]
            summary.set_aside += receipt["set_aside"]
            for name in ("labels", "actions", "reasons"):
                getattr(summary, name).update(receipt[name])
            flagged = heapq.nlargest(
                SHOWN, [*flagged, *receipt["flagged"]], key=lambda row: row["p_" + row["label"].replace("-", "_")]
            )
        summary.flagged = flagged
        if summary.set_aside:
            summary.rejects = self.out.rstrip("/") + "/_rejects"
        counts = {name: getattr(summary, name) for name in ("rows", "set_aside", "labels", "actions", "reasons")}
        self.write("_SUCCESS", json.dumps(counts, indent=1).encode())
        self.remove("_run/grouped")
        return summary

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file in one piece: an object store shows it when it is whole, a disk when it is renamed."""
        from pyarrow import fs

        path = f"{self.root}/{name}"
        local = isinstance(self.storage, fs.LocalFileSystem)
        folder, _, base = path.rpartition("/")
        target = f"{folder}/.{base}.{os.getpid()}.{time.monotonic_ns()}" if local else path
        with self._written():
            if local:
                os.makedirs(folder, exist_ok=True)
            with self.storage.open_output_stream(target) as stream:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, stream, 1 << 20)
                else:
                    stream.write(content)
            if local:
                os.replace(target, path)

    def read(self, name: str) -> bytes | None:
        try:
            with self.storage.open_input_stream(f"{self.root}/{name}") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        from contextlib import suppress

        with suppress(OSError):
            self.storage.delete_dir(f"{self.root}/{name}")

    def _names(self, folder: str) -> dict[str, int]:
        """Size by name of what lies in a folder; nothing where there is none."""
        from pyarrow import fs

        selector = fs.FileSelector(f"{self.root}/{folder}".rstrip("/"), allow_not_found=True)
        return {one.base_name: one.size or 0 for one in self.storage.get_file_info(selector) if one.base_name[0] != "."}

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written ({_line(error)}); choose another --out, or make room") from error


def _part(number: int) -> str:
    return f"part-{number:06d}.parquet"


# -- the plan --------------------------------------------------------------------------------------------------------------


def _planned(run: _Run, job: _Job, files: Sequence[tuple], block_rows: int) -> list[Block]:
    """All rows in blocks that end where an article ends; sorted by article first where its comments are scattered.

    Only the article's column is read for this, by tasks, a file each. Sorting moves every row through Ray's object store, once;
    it is worth it because an article costs twenty comments' work in every block that has one of its comments.
    """
    places = [(root, path) for root, path, *_ in files]
    blocks, encodings = _surveyed(places, job.columns, block_rows)
    if encodings > SCATTERED:
        import ray

        run.remove("_run/grouped")
        target = f"{run.root}/_run/grouped"
        rows = ray.data.from_items(
            [json.dumps(asdict(block)) for block in blocks], override_num_blocks=len(blocks)
        ).map_batches(_read_for_sorting, fn_args=(job.columns,), batch_size=1)
        with _as_one_line("the input cannot be sorted by article"):
            # Sorted, and not shuffled by hash: the tasks of a sort keep nothing that a lost machine could take along for good.
            rows.sort(_KEY).write_parquet(target, filesystem=run.storage, row_group_size=block_rows)
        places = [(run.out, f"{target}/{name}") for name in sorted(run._names("_run/grouped"))]
        sorted_blocks, _ = _surveyed(places, {"article_id": _KEY, "comment_text": _KEY}, block_rows)
        counts = [sum(block.rows for block in some) for some in (blocks, sorted_blocks)]
        if counts[0] != counts[1]:
            raise OutputError(
                f"{run.out}: {counts[0]:,} rows were to be sorted but {counts[1]:,} were; run the same command again"
            )
        blocks = sorted_blocks
    return [Block(**(asdict(block) | {"number": number})) for number, block in enumerate(blocks)]


def _surveyed(places: Sequence[tuple[str, str]], columns: Mapping[str, str], block_rows: int) -> tuple[list[Block], float]:
    """Blocks of the files, in their order, and how often an article is encoded, by a sample of the articles."""
    import ray

    items = [json.dumps([number, *place]) for number, place in enumerate(places)]
    blocks: dict[int, list[Block]] = {}
    met: list[str] = []
    with _as_one_line("the input cannot be read"):
        for row in (
            ray.data.from_items(items).map_batches(_survey, fn_args=(dict(columns), block_rows), batch_size=1).iter_rows()
        ):
            result = json.loads(row["survey"])
            if "fatal" in result:
                raise InputError(result["fatal"])
            blocks[result["number"]] = [Block(**block) for block in result["blocks"]]
            met += result["met"]
    ordered = [block for number in range(len(places)) for block in blocks[number]]
    return ordered, len(met) / max(1, len(set(met)))


def _survey(batch: dict, columns: Mapping[str, str], block_rows: int) -> dict:
    """Where a file is cut, and which articles of the sample each block meets."""
    [item] = batch["item"]
    number, root, path = json.loads(item)
    here = Block(root, path, 0, 0)
    try:
        file = _open(here)
        fields = match_columns(file.schema_arrow.names, columns, Source(path, _name(here)))
        keys = [fields[name] for name in _ARTICLE if name in fields][:1]
        rows = file.metadata.num_rows
        every = max(1, rows // 1_000_000)
        blocks, met, first, row, last = [], [], 0, 0, None
        seen: set[object] = set()
        for key in _keys(file, keys) if keys else (None for _ in range(rows)):
            size = row - first
            # To the end of the article, unless it has so many comments that this would never come.
            if size >= block_rows and (key is None or key != last or size >= 2 * block_rows):
                blocks.append(asdict(Block(root, path, first, size)))
                met += _sampled(seen, every)
                seen, first = set(), row
            if key is not None:
                seen.add(key)
            last, row = key, row + 1
        if rows > first:
            blocks.append(asdict(Block(root, path, first, rows - first)))
            met += _sampled(seen, every)
    except UserError as error:
        return {"survey": [json.dumps({"fatal": str(error)})]}
    return {"survey": [json.dumps({"number": number, "blocks": blocks, "met": met})]}


def _keys(file, columns: Sequence[str]) -> Iterator[object]:
    """The article's key of every row; what cannot be decoded has none (its rows are set aside when they are to be scored)."""
    import pyarrow as pa

    for group in range(file.metadata.num_row_groups):
        left = file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(batch_size=10_000, row_groups=[group], columns=columns):
                yield from batch.column(0).to_pylist()
                left -= batch.num_rows
        except (pa.ArrowException, OSError, ValueError):
            yield from [None] * left


def _sampled(keys: set[object], every: int) -> list[str]:
    texts = (str(key).encode("utf-8", "replace") for key in keys)
    return [hashlib.blake2b(text, digest_size=8).hexdigest() for text in texts if zlib.crc32(text) % every == 0]


# -- in the workers --------------------------------------------------------------------------------------------------------


def _open(block: Block):
    import pyarrow as pa
    import pyarrow.parquet as pq

    storage, _ = _storage(block.root)
    try:
        return pq.ParquetFile(block.path, filesystem=storage)
    except FileNotFoundError as error:
        raise InputError(
            f"{_name(block)}: is not on the machine {os.uname().nodename}; every machine must see the input"
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{_name(block)}: cannot be read as Parquet ({_line(error)}); mend or leave out this file") from error


def _read(block: Block) -> pa.Table:
    """The rows of a block with where they came from; rows that cannot be decoded are there with the reason and nothing else.

    Raises:
        OSError: the storage does not answer; another time it may.
    """
    import pyarrow as pa

    file = _open(block)
    end, start = block.first + block.rows, 0
    parts = [_tagged(file.schema_arrow.empty_table(), block, 0)]  # so that all columns are there
    for group in range(file.metadata.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        row, last = max(block.first, start), min(end, stop)
        if row < last:
            at = start
            try:
                for batch in file.iter_batches(batch_size=10_000, row_groups=[group]):
                    piece = batch.slice(max(0, row - at), max(0, last - max(row, at)))
                    at += batch.num_rows
                    if piece.num_rows:
                        parts.append(_tagged(pa.Table.from_batches([piece]), block, row))
                        row += piece.num_rows
                    if row >= last:
                        break
            except (pa.ArrowException, OSError, ValueError) as error:
                _reach(file, block, group)
                damaged = pa.table({_DAMAGE: [f"the file is damaged here ({_line(error)})"] * (last - row)})
                parts.append(_tagged(damaged, block, row))
        start = stop
    return pa.concat_tables(parts, promote_options="permissive")


def _tagged(table: pa.Table, block: Block, first: int) -> pa.Table:
    import pyarrow as pa

    if _FILE in table.column_names:  # sorted rows carry it
        return table
    if _DAMAGE not in table.column_names:
        table = table.append_column(_DAMAGE, pa.nulls(table.num_rows, pa.string()))
    table = table.append_column(_FILE, pa.array([_name(block)] * table.num_rows, pa.string()))
    return table.append_column(_ROW, pa.array(range(first + 1, first + 1 + table.num_rows), pa.int64()))


def _reach(file, block: Block, group: int) -> None:
    """Read a group of rows without decoding it: an error here is the storage's, not the file's."""
    storage, _ = _storage(block.root)
    with storage.open_input_file(block.path) as stream:
        for column in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(column)
            stream.read_at(chunk.total_compressed_size, chunk.dictionary_page_offset or chunk.data_page_offset)


def _read_for_sorting(batch: dict, columns: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    [item] = batch["item"]
    table = _read(Block(**json.loads(item)))
    fields = match_columns([name for name in table.column_names if name not in _OWN], columns, Source(""))
    key = next((fields[name] for name in _ARTICLE if name in fields), None)
    keys = table[key].to_pylist() if key else [None] * table.num_rows
    places = zip(keys, table[_FILE].to_pylist(), table[_ROW].to_pylist(), strict=True)
    # What has no article need not be together, and all of it might be too much for one machine.
    texts = [f"\x00{row}\x00{file}" if key in (None, "") else str(key) for key, file, row in places]
    return table.append_column(_KEY, pa.array(texts, pa.string()))


class _Scorer:
    """An actor: holds the model and scores one block after the other."""

    def __init__(self, model: Mapping[str, bytes], job: _Job) -> None:
        self._files = model
        self._job = job
        self._moderator: Moderator | None = None
        self._run: _Run | None = None

    def __call__(self, batch: dict) -> dict:
        [item] = batch["item"]
        block = Block(**json.loads(item))
        try:
            receipt = self._score(block)
        except OutputError as error:
            receipt = {"number": block.number, "error": str(error)}
        except UserError as error:
            receipt = {"fatal": str(error)}
        except Exception as error:  # the driver decides, and tells the person; a traceback here would reach nobody
            receipt = {"number": block.number, "error": f"{type(error).__name__}: {_line(error)}"}
        return {"receipt": [json.dumps(receipt)]}

    def _score(self, block: Block) -> dict:
        import pyarrow.parquet as pq

        if self._moderator is None:
            self._moderator, self._run = self._load(), _Run(self._job.out)
        began = time.process_time()
        table = _read(block)
        damage, files, numbers = (table[name].to_pylist() for name in (_DAMAGE, _FILE, _ROW))
        whole = [row for row, reason in enumerate(damage) if reason is None]
        rejects = [Reject(files[row], f"row {numbers[row]}", damage[row]) for row in range(len(damage)) if damage[row]]
        with tempfile.TemporaryDirectory(prefix="moderation-") as folder:
            source, result = Path(folder, "in.parquet"), Path(folder, _part(block.number))
            summary = Summary(result)
            if whole:
                # The very job of one machine: same columns, same parents, same rejects, same model, same counts.
                rows = table.take(whole) if len(whole) < len(damage) else table
                pq.write_table(rows.drop_columns([name for name in rows.column_names if name in _OWN]), source)
                del table, rows
                summary = score(
                    [source], result, self._moderator, format="parquet", columns=self._job.columns, policy=self._job.policy
                )
                self._run.write(_part(block.number), result)
            else:
                self._run.write(_part(block.number), _no_rows())
            for line in summary.rejects.read_text(encoding="utf-8").splitlines() if summary.rejects else ():
                reject = json.loads(line)
                row = whole[int(reject["position"].removeprefix("row ")) - 1]
                rejects.append(Reject(files[row], f"row {numbers[row]}", reject["reason"], reject["raw"]))
            size = self._run.storage.get_file_info(f"{self._run.root}/{_part(block.number)}").size
        if rejects:
            lines = "".join(json.dumps(reject.to_row(), ensure_ascii=False) + "\n" for reject in rejects)
            self._run.write(f"_rejects/part-{block.number:06d}.jsonl", lines.encode())
        if summary.rows + len(rejects) != block.rows:
            raise OutputError(f"{block.rows} rows were read, {summary.rows} scored and {len(rejects)} set aside")
        receipt = {
            "number": block.number,
            "rows": summary.rows,
            "set_aside": len(rejects),
            "bytes": size,
            "labels": summary.labels,
            "actions": summary.actions,
            "reasons": _counted(rejects),
            "flagged": [_shown(row) for row in summary.flagged],
            "machine": _machine(),
            "cpu_seconds": round(time.process_time() - began, 3),
        }
        self._run.write(f"_run/done/{block.number:06d}.json", json.dumps(receipt, ensure_ascii=False).encode())
        return receipt

    def _load(self) -> Moderator:
        from moderation.cli import quiet

        quiet()
        os.environ["MODERATION_CORES"] = "1"  # the others belong to other actors; Ray tells PyTorch so, too
        from moderation.model import Moderator

        with tempfile.TemporaryDirectory(prefix="moderation-") as folder:
            for name, content in self._files.items():
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            return Moderator.from_pretrained(folder)


def _no_rows() -> bytes:
    from io import BytesIO

    import pyarrow as pa
    import pyarrow.parquet as pq

    from moderation.schema import ROW_FIELDS, VERDICT_FIELDS

    names = (*ROW_FIELDS, *VERDICT_FIELDS)
    schema = pa.schema([(name, pa.float64() if name.startswith("p_") else pa.string()) for name in names])
    pq.write_table(schema.empty_table(), buffer := BytesIO())
    return buffer.getvalue()


def _counted(rejects: Sequence[Reject]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reject in rejects:
        counts[reject.reason] = counts.get(reject.reason, 0) + 1
    return counts


def _shown(row: Mapping) -> dict:
    """What the summary of the whole run shows of a flagged row."""
    probability = "p_" + row["label"].replace("-", "_")
    return {
        "comment_text": row["comment_text"][:200],
        "label": row["label"],
        probability: row[probability],
        "reason": row["reason"],
    }


def _machine() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


# -- Ray -------------------------------------------------------------------------------------------------------------------


def _model(name: str | None) -> tuple[dict[str, bytes], str]:
    """The files of a model by their names, and its version."""
    from moderation.model import read_manifest
    from moderation.registry import resolve

    folder = resolve(name)
    manifest = read_manifest(folder)
    return {name: (folder / name).read_bytes() for name in ("manifest.json", *manifest["files"])}, str(manifest["version"])


def _scored(blocks: Sequence[Block], model: Mapping[str, bytes], job: _Job) -> Iterator[dict]:
    """What an actor says of each block, as they get done; of a block that is lost again and again, nothing."""
    import ray

    if not blocks:
        return
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    actors = min(len(blocks), gpus or max(1, int(resources.get("CPU", 1))))
    blocks_of_ray = ray.data.from_items([json.dumps(asdict(block)) for block in blocks], override_num_blocks=len(blocks))
    results = blocks_of_ray.map_batches(
        _Scorer,
        fn_constructor_args=(model, job),
        batch_size=1,
        # One core an actor: two actors of one core score more than one of two. As many as there are cores, at once; more
        # when machines join, fewer at the end, so that the actors of a lost machine find a place.
        compute=ray.data.ActorPoolStrategy(
            min_size=1, initial_size=actors, max_size=len(blocks), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        max_restarts=-1,
        max_task_retries=ATTEMPTS,  # of a block that takes its machine along every time
    )
    results.context.max_errored_blocks = -1  # a block that is lost is missed by the caller
    with _as_one_line("the cluster gave up"):
        for row in results.iter_rows():
            yield json.loads(row["receipt"])


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Ray, connected to or started; what was started is stopped."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_worker_niceness", "0")  # else what runs here would wait for whatever else runs here
    if not address and "RAY_AUTH_MODE" not in os.environ:  # and nobody else on the network may use what is started here
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("the ray engine is not installed; run: pip install 'moderation[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        # Only descriptions of blocks and, for a while, what is sorted lie in the store of objects; more spills to the disk.
        local = {"include_dashboard": False, "object_store_memory": 1 << 30, "_node_ip_address": "127.0.0.1"}
        try:
            host, _, port = (address or "").removeprefix("ray://").rpartition(":")
            if host and port.isdecimal():  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=20).close()
            ray.init(address or "local", log_to_driver=False, logging_level="CRITICAL", **({} if address else local))
        except Exception as error:  # Ray raises a bare one where a machine is too busy to start it within 30 seconds
            if address:
                why = f"--ray-address {address}: no Ray cluster ({_line(error)}); expected HOST:PORT or auto"
            else:
                why = f"Ray cannot be started here ({_line(error)}); run the same command again, or without --engine ray"
            raise UserError(why) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its log goes on in a file
            handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _as_one_line(what: str) -> Iterator[None]:
    import ray

    try:
        yield
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        raise OutputError(f"{what} ({_line(error)}); what is done is kept, run the same command again to go on") from error
