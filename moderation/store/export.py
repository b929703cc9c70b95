"""What goes out: labelled rows to learn from, decisions for the site, everything with its scores."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from moderation.readers.columns import neutralise
from moderation.schema import ROW_FIELDS, VERDICT_FIELDS, UserError
from moderation.store.database import Database
from moderation.store.decisions import undone
from moderation.store.items import Filter, Item, load
from moderation.store.tables import comments, decisions

#: What can be exported. `labels`: native rows with the label that counts, of decided comments. `decisions`: what a site
#: needs to act, of decided comments. `rows`: native rows with verdict and label, of all comments.
KINDS = ("labels", "decisions", "rows")

_DECIDED = ("decided_by", "decided_at", "decision_kind", "seconds", "note", "model_label", "second_label")
_FIELDS: dict[str, dict[str, type]] = {
    "labels": {
        **dict.fromkeys((*ROW_FIELDS, "label", *_DECIDED), str),
        "seconds": float,
        "p_model_label": float,
        "model_version": str,
    },
    "decisions": dict.fromkeys(
        ("comment_id", "article_id", "article_url", "author", "label", "previous_status", "decided_by", "decided_at", "note",
         "model_label", "proposed_action", "comment_text"),
        str,
    ),
    "rows": {
        **dict.fromkeys((*ROW_FIELDS, *VERDICT_FIELDS), str),
        **{name: float for name in VERDICT_FIELDS if name.startswith("p_")},
        "decided_label": str,
        "decided_by": str,
        "decided_at": str,
    },
}  # fmt: skip
_BATCH = 500


class Export:
    """Writing files. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def rows(self, kind: str = "rows", filter: Filter | None = None) -> Iterator[dict[str, object]]:
        """The rows of an export, one by one; comments that come in meanwhile may or may not be among them.

        Raises:
            UserError: there is no such kind.
        """
        if kind not in KINDS:
            raise UserError(f"unknown export {kind!r}; expected one of {', '.join(KINDS)}")
        chosen = filter or Filter(show="all" if kind == "rows" else "decided")
        return self._rows(kind, chosen)

    def write(
        self,
        out: str | os.PathLike,
        kind: str = "rows",
        filter: Filter | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> int:
        """Write an export to a .jsonl, .csv or .parquet file, or (without a suffix) to a folder that `datasets.load_from_disk`
        reads. It appears whole or not at all; cells of a CSV are neutralised against formulas. Returns the number of rows.

        Raises:
            UserError: the kind or suffix is none, or the folder exists and holds something else.
            OSError: the file cannot be written.
        """
        out = Path(out)
        if out.suffix not in (".jsonl", ".csv", ".parquet", ""):
            raise UserError(f"{out}: expected a file that ends in .jsonl, .csv or .parquet, or a folder's name without a dot")
        if not out.suffix and out.exists() and not (out / "dataset_info.json").exists():
            raise UserError(f"{out}: exists and is no data set that may be replaced; name another folder")
        rows = _counted(self.rows(kind, filter), progress)
        out.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the last step is a rename.
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            made = partial / out.name
            count = _WRITERS[out.suffix](rows, _FIELDS[kind], made)
            if out.is_dir():
                os.replace(out, partial / "old")
            os.replace(made, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return count

    def _rows(self, kind: str, filter: Filter) -> Iterator[dict[str, object]]:
        last = 0
        while True:
            with self._database.read() as connection:
                now = self._clock()
                ids = list(
                    connection.scalars(
                        sa.select(comments.c.id)
                        .where(filter.condition(now), comments.c.id > last)
                        .order_by(comments.c.id)
                        .limit(_BATCH)
                    )
                )
                items = load(connection, ids, now)
                details = _details(connection, [item.decision_id for item in items]) if kind != "rows" else {}
                opinions = _opinions(connection, ids) if kind == "labels" else {}
            if not ids:
                return
            last = ids[-1]
            for item in items:
                yield _ROWS[kind](item, details.get(item.decision_id), opinions.get((item.id, item.decision_id), ""))


def _details(connection: sa.Connection, ids: list[int]) -> dict[int, sa.Row]:
    return {row.id: row for row in connection.execute(sa.select(decisions).where(decisions.c.id.in_(ids)))}


def _opinions(connection: sa.Connection, ids: list[int]) -> dict[tuple[int, int], str]:
    rows = connection.execute(
        sa.select(decisions.c.comment_id, decisions.c.refers_to, decisions.c.label)
        .where(decisions.c.comment_id.in_(ids), decisions.c.kind == "second", ~undone(decisions.c.step_id))
        .order_by(decisions.c.id)
    )
    return {(row.comment_id, row.refers_to): row.label for row in rows}


def _label_row(item: Item, decision: sa.Row | None, opinion: str) -> dict[str, object]:
    verdict = item.verdict
    return item.comment.to_row() | {
        "label": item.label,
        "decided_by": item.decided_by,
        "decided_at": _iso(item.decided_at),
        "decision_kind": decision.kind if decision else "",
        "seconds": decision.seconds if decision else None,
        "note": decision.note if decision else "",
        "model_label": decision.model_label if decision else "",
        "second_label": opinion,
        "p_model_label": round(verdict.probabilities[verdict.label], 4) if verdict else None,
        "model_version": verdict.model_version if verdict else "",
    }


def _decision_row(item: Item, decision: sa.Row | None, opinion: str) -> dict[str, object]:
    row = item.comment.to_row()
    return {
        "comment_id": row["comment_id"],
        "article_id": row["article_id"],
        "article_url": row["article_url"],
        "author": row["author"],
        "label": item.label,
        "previous_status": row["status"],
        "decided_by": item.decided_by,
        "decided_at": _iso(item.decided_at),
        "note": decision.note if decision else "",
        "model_label": decision.model_label if decision else "",
        "proposed_action": item.verdict.action if item.verdict else "",
        "comment_text": row["comment_text"],
    }


def _full_row(item: Item, decision: sa.Row | None, opinion: str) -> dict[str, object]:
    verdict = item.verdict.to_row() if item.verdict else dict.fromkeys(VERDICT_FIELDS)
    decided = {"decided_label": item.label, "decided_by": item.decided_by, "decided_at": _iso(item.decided_at)}
    return item.comment.to_row() | verdict | decided


_ROWS = {"labels": _label_row, "decisions": _decision_row, "rows": _full_row}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if seconds else ""


def _counted(rows: Iterable[dict], progress: Callable[[int], None]) -> Iterator[dict]:
    for done, row in enumerate(rows, 1):
        yield row
        if done % _BATCH == 0:
            progress(done)


def _write_jsonl(rows: Iterable[Mapping], fields: Mapping[str, type], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        _sync(file)
    return count


def _write_csv(rows: Iterable[Mapping], fields: Mapping[str, type], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        for count, row in enumerate(rows, 1):  # noqa: B007
            writer.writerow({name: neutralise(cell) if isinstance(cell, str) else cell for name, cell in row.items()})
        _sync(file)
    return count


def _write_parquet(rows: Iterable[Mapping], fields: Mapping[str, type], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.float64() if kind is float else pa.string()) for name, kind in fields.items()])
    count, batch = 0, []
    with pq.ParquetWriter(path, schema) as writer:
        for count, row in enumerate(rows, 1):  # noqa: B007
            batch.append(row)
            if len(batch) == 10_000:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count


def _write_dataset(rows: Iterable[Mapping], fields: Mapping[str, type], path: Path) -> int:
    from datasets import Dataset, Features, Value, disable_progress_bars

    disable_progress_bars()
    table = path.with_name("rows.parquet")
    count = _write_parquet(rows, fields, table)
    if count:
        made = Dataset.from_parquet(str(table), cache_dir=str(path.with_name("cache")))
    else:  # which `from_parquet` cannot read
        features = {name: Value("float64" if kind is float else "string") for name, kind in fields.items()}
        made = Dataset.from_dict({name: [] for name in fields}, Features(features))
    made.save_to_disk(str(path))
    return count


_WRITERS = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet, "": _write_dataset}


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())
