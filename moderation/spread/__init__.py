"""The batch job on many machines: Parquet in, Parquet out, on local disks or object storage, by Ray Data.

The input is cut into blocks of some thousand rows. A block is one run of `score.score` with all that it does (parents, rejects,
accounting), by an actor that holds the model; Ray Data hands a free actor its next block and gives the block of a machine that is
lost to another. Only descriptions of blocks travel through Ray: actors read rows from the storage and write to it.

What a block gave becomes visible in this order: `part-N.parquet`, `_rejects/part-N.jsonl`, and `_run/done/N.json`, the receipt,
without which the other two do not count and are written again under the same names. So no row can come twice, whoever is killed,
and the same command goes on after the blocks that have a receipt. `_SUCCESS` appears when all rows are accounted for.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moderation.policy import Policy
from moderation.readers import check_options
from moderation.schema import Reject, UserError, probability_column
from moderation.score import InputError, OutputError, Summary, score

from .blocks import DAMAGE, FILE, ROW, Block, handed_out, planned, read, taken
from .cluster import cluster, told
from .storage import File, Folder, line, parquet_files

if TYPE_CHECKING:
    from moderation.model import Moderator

#: How often a block is tried whose reading or writing fails.
ATTEMPTS = 3


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
    block_rows: int | None = None,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Summary:
    """Label every comment in Parquet files and write native rows with verdicts into the folder `out`, as Parquet.

    Args:
        paths: files and folders, local or as URLs (`s3://`, `gs://`, `hdfs://`, whatever `pyarrow.fs` opens).
        out: a folder, local or a URL. With more than one machine, all of them must see it and the input under the same name.
        model: folder of a model or a version; by default the champion. It is sent to the actors, and fixed for the whole run.
        address: of a Ray cluster; by default one is started on this machine (or that used which the process is connected to).
        columns: see `readers.read_comments`. policy: thresholds instead of the model's own.
        block_rows: rows scored and kept at a time; by default 20,000, or fewer where not all cores would have work.
        progress: called with the number of rows that are done and that there are, after each block.

    Raises:
        InputError: the input cannot be read. OutputError: it cannot be written, or blocks failed; what is done is kept.
    """
    started = time.monotonic()
    check_options(None, columns)
    files = parquet_files(paths)
    model_files, version = _model(model)
    job = _Job(out, dict(columns or {}), policy)
    run = _Run(job, files, version)
    plan = run.plan()
    with cluster(address):
        if plan is None:
            plan = planned(files, job.columns, run.folder, block_rows)
            run.keep(plan)
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
        first = missing[0]
        why = failures.get(first.number, "the machine that had it was lost, or its memory was full")
        raise OutputError(
            f"{out}: {len(missing)} of {len(plan)} blocks could not be scored, the first being rows {first.first + 1:,} to "
            f"{first.first + first.rows:,} of {first.name} ({why}); what is done is kept, run the same command again to go on"
        )
    summary = run.publish(plan, receipts)
    summary.resumed = resumed
    summary.seconds = time.monotonic() - started
    return summary


class _Run:
    """What of the output folder counts: the plan, receipts of the blocks that are done, the totals."""

    def __init__(self, job: _Job, files: Sequence[File], version: str) -> None:
        self.folder = Folder(job.out)
        parts = [[asdict(file) for file in files], job.out, sorted(job.columns.items()), version]
        self._identity = hashlib.sha256(
            json.dumps([*parts, job.policy.to_table() if job.policy else None]).encode()
        ).hexdigest()

    def plan(self) -> list[Block] | None:
        """The blocks of an earlier, interrupted run of the same job; None where there was none.

        Raises:
            OutputError: the folder holds something else.
        """
        out = self.folder.name
        if self.folder.is_file():
            raise OutputError(f"{out}: is a file; the ray engine writes a folder of Parquet files, choose another --out")
        text = self.folder.read("_run/plan.json")
        if text is None:
            if names := set(self.folder.sizes()) - {"_run"}:
                raise OutputError(f"{out}: holds other files ({min(names)}, …); choose another --out")
            return None
        table = json.loads(text)
        if table["identity"] != self._identity:
            raise OutputError(
                f"{out}: holds the output of another run (other input, columns, model or thresholds); "
                f"choose another --out, or remove it"
            )
        return [Block(**block) for block in table["blocks"]]

    def keep(self, plan: Sequence[Block]) -> None:
        table = {"identity": self._identity, "blocks": [asdict(block) for block in plan]}
        self.folder.write("_run/plan.json", json.dumps(table).encode())

    def receipts(self, plan: Sequence[Block]) -> dict[int, dict]:
        """What is known of each block that is done and whose rows are where they were written."""
        names = [f"_run/done/{name}" for name in self.folder.sizes("_run/done") if name.endswith(".json")]
        with ThreadPoolExecutor(16) as threads:
            found = [json.loads(text) for text in threads.map(self.folder.read, names) if text]
        sizes = self.folder.sizes()
        return {one["number"]: one for one in found if sizes.get(_part(one["number"])) == one["bytes"]} if plan else {}

    def publish(self, plan: Sequence[Block], receipts: Mapping[int, dict]) -> Summary:
        """Count all that was written against all that was read, and say so in `_SUCCESS`."""
        out = self.folder.name
        summary = Summary(out if "://" in out else Path(out))
        sizes = self.folder.sizes()
        for block in plan:
            receipt = receipts[block.number]
            if receipt["rows"] + receipt["set_aside"] != block.rows or sizes.get(_part(block.number)) != receipt["bytes"]:
                raise OutputError(f"{out}/{_part(block.number)}: is not what was written; run the same command again")
            summary.rows += receipt["rows"]
            summary.set_aside += receipt["set_aside"]
            for name in ("labels", "actions", "reasons"):
                getattr(summary, name).update(receipt[name])
            for row in receipt["flagged"]:
                summary.flag(row)
        if summary.set_aside:
            summary.rejects = out.rstrip("/") + "/_rejects"
        counts = {name: getattr(summary, name) for name in ("rows", "set_aside", "labels", "actions", "reasons")}
        self.folder.write("_SUCCESS", json.dumps(counts, indent=1).encode())
        self.folder.remove("_run/grouped")
        return summary


def _part(number: int) -> str:
    return f"part-{number:06d}.parquet"


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
    with warnings.catch_warnings():  # of the last option, below
        warnings.simplefilter("ignore", DeprecationWarning)
        results = handed_out(blocks).map_batches(
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
            # Of a block that takes its machine along every time; by default Ray Data tries for ever. No other way to say so in the
            # releases that `pyproject.toml` allows, and from 2.64 on not this one.
            max_task_retries=ATTEMPTS,
        )
    results.context.max_errored_blocks = -1  # a block that is lost is missed by the caller
    with told("the cluster gave up"):
        for row in results.iter_rows():
            yield json.loads(row["receipt"])


class _Scorer:
    """An actor: holds the model and scores one block after the other."""

    def __init__(self, model: Mapping[str, bytes], job: _Job) -> None:
        self._files = model
        self._job = job
        self._folder = Folder(job.out)
        self._moderator: Moderator | None = None

    def __call__(self, batch: dict) -> dict:
        block = taken(batch)
        try:
            receipt = self._score(block)
        except OutputError as error:
            receipt = {"number": block.number, "error": str(error)}
        except UserError as error:
            receipt = {"fatal": str(error)}
        except Exception as error:  # the driver decides, and tells the person; a traceback here would reach nobody
            receipt = {"number": block.number, "error": f"{type(error).__name__}: {line(error)}"}
        return {"receipt": [json.dumps(receipt)]}

    def _score(self, block: Block) -> dict:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
        import ray

        if self._moderator is None:
            self._moderator = self._load()
        began = time.process_time()
        table = read(block, self._job.columns)
        files, numbers, damage = (table[name].to_pylist() for name in (FILE, ROW, DAMAGE))
        whole = [row for row, reason in enumerate(damage) if reason is None]
        rejects = [Reject(files[row], f"row {numbers[row]}", reason) for row, reason in enumerate(damage) if reason]
        with tempfile.TemporaryDirectory(prefix="moderation-") as folder:
            source, result = Path(folder, "in.parquet"), Path(folder, _part(block.number))
            # The very job of one machine: same parents, same rejects, same model, same counts.
            pq.write_table(table.filter(pc.is_null(table[DAMAGE])).drop_columns([FILE, ROW, DAMAGE]), source)
            del table
            summary = score([source], result, self._moderator, format="parquet", policy=self._job.policy)
            for text in summary.rejects.read_text(encoding="utf-8").splitlines() if summary.rejects else ():
                reject = json.loads(text)
                row = whole[int(reject["position"].removeprefix("row ")) - 1]
                rejects.append(Reject(files[row], f"row {numbers[row]}", reject["reason"], reject["raw"]))
            self._folder.write(_part(block.number), result)
            size = self._folder.size(_part(block.number))
        if rejects:
            lines = "".join(json.dumps(reject.to_row(), ensure_ascii=False) + "\n" for reject in rejects)
            self._folder.write(f"_rejects/part-{block.number:06d}.jsonl", lines.encode())
        if summary.rows + len(rejects) != block.rows:
            raise OutputError(f"{block.rows} rows were read, {summary.rows} scored and {len(rejects)} set aside")
        receipt = {
            "number": block.number,
            "rows": summary.rows,
            "set_aside": len(rejects),
            "bytes": size,
            "labels": summary.labels,
            "actions": summary.actions,
            "reasons": Counter(reject.reason for reject in rejects),
            "flagged": [
                {"comment_text": row["comment_text"][:200]}
                | {name: row[name] for name in ("label", probability_column(row["label"]), "reason")}
                for row in summary.flagged
            ],
            "machine": ray.get_runtime_context().get_node_id(),
            "cpu_seconds": round(time.process_time() - began, 3),
        }
        self._folder.write(f"_run/done/{block.number:06d}.json", json.dumps(receipt, ensure_ascii=False).encode())
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
