"""Blocks: how the rows of Parquet files are cut so that an article's comments stay together, and how a block is read.

Where the comments of an article are scattered over the input, its rows are sorted by article first, by Ray Data, into files of
native columns that also hold where each row came from.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from moderation.readers.columns import match_columns
from moderation.readers.source import Source
from moderation.schema import UserError
from moderation.score import InputError, OutputError

from .cluster import told
from .storage import File, Folder, file_system, line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: Rows of a block at most (an article's end is awaited): a minute of work, so that losing one costs little and starting one less.
BLOCK_ROWS = 20_000
#: Rows of a block at least, and blocks for each core, where there are too few rows to keep all cores busy to the end.
LEAST_ROWS, SHARES = 1000, 4
#: Encodings of an article (one in each block that has comments of it) from which on the input is sorted by article first.
SCATTERED = 1.2
#: Bytes of input for which every article is counted to know that; of larger inputs one in so many is.
_COUNTED = 100 << 20

_ARTICLE = ("article_id", "article_url", "article_title")
# Where a row came from, and why it cannot be read: columns of a block. Sorted files have them, too, and are sorted by the last.
FILE, ROW, DAMAGE, _KEY = OWN = ("_file", "_row", "_damage", "_article")


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `first` to `first + rows` of the Parquet file at `path` in the file system that `root` names.

    `grouped`: the file is one of those sorted by article.
    """

    root: str
    path: str
    first: int
    rows: int
    number: int = 0
    grouped: bool = False

    @property
    def name(self) -> str:
        """The file as a person would write it."""
        return self.root.split("://")[0] + "://" + self.path if "://" in self.root else self.path


def planned(files: Sequence[File], columns: Mapping[str, str], folder: Folder, block_rows: int | None) -> list[Block]:
    """All rows in numbered blocks that end where an article ends; sorted by article first where its comments are scattered.

    Only the article's column is read for this, by tasks, a file each. Sorting moves every row through Ray's object store, once;
    it is worth it because an article costs twenty comments' work in every block that has one of its comments.

    Args:
        columns: see `readers.read_comments`. folder: what is sorted is kept in its `_run/grouped`.
        block_rows: rows of a block; by default `BLOCK_ROWS`, or fewer where not all cores would have work.

    Raises:
        InputError: a file cannot be read. OutputError: what is sorted cannot be kept.
    """
    blocks, encodings = _surveyed([(Block(file.root, file.path, 0, 0), file.size) for file in files], columns, block_rows)
    if encodings > SCATTERED:
        folder.remove("_run/grouped")
        target = f"{folder.root}/_run/grouped"
        with told("the input cannot be sorted by article"):
            # Sorted, and not shuffled by hash: the tasks of a sort keep nothing that a lost machine could take along for good.
            rows = handed_out(blocks).map_batches(lambda batch: for_sorting(taken(batch), columns), batch_size=1)
            rows.sort(_KEY).write_parquet(target, filesystem=folder.storage, row_group_size=max(block.rows for block in blocks))
        expected = sum(block.rows for block in blocks)
        places = [
            (Block(folder.name, f"{target}/{name}", 0, 0, grouped=True), n) for name, n in folder.sizes("_run/grouped").items()
        ]
        blocks, _ = _surveyed(sorted(places, key=lambda place: place[0].path), {}, block_rows)
        if (found := sum(block.rows for block in blocks)) != expected:
            raise OutputError(
                f"{folder.name}: {expected:,} rows were to be sorted but {found:,} were; run the same command again"
            )
    return [replace(block, number=number) for number, block in enumerate(blocks)]


def handed_out(blocks: Sequence[Block]):
    """A Ray dataset of descriptions of blocks, each by itself; see `taken`."""
    import ray

    return ray.data.from_items([json.dumps(asdict(block)) for block in blocks], override_num_blocks=len(blocks))


def taken(batch: Mapping[str, Sequence[str]]) -> Block:
    """The block that a batch of one row of such a dataset describes."""
    [item] = batch["item"]
    return Block(**json.loads(item))


def cut(runs: Iterable[tuple[str | None, int]], block_rows: int) -> Iterator[tuple[int, set[str]]]:
    """Cut runs of rows, (article or None, rows), into blocks: their (rows, articles), in order.

    A block has `block_rows` rows and goes on to the end of the article, unless that would make it twice as long.
    Rows without an article can be cut anywhere.
    """
    size, articles = 0, set()
    for article, length in runs:
        most = block_rows if article is None else 2 * block_rows
        if size >= block_rows:
            yield size, articles
            size, articles = 0, set()
        while True:
            if article is not None:
                articles.add(article)
            if size + length <= most:
                break
            length -= most - size
            yield most, articles
            size, articles = 0, set()
        size += length
    if size:
        yield size, articles


def _surveyed(
    places: Sequence[tuple[Block, int]], columns: Mapping[str, str], block_rows: int | None
) -> tuple[list[Block], float]:
    """Blocks of (files, bytes), in their order, and how often an article is encoded, by a sample of the articles."""
    import ray

    total = sum(size for _, size in places)
    options = {"block_rows": block_rows, "cores": int(ray.cluster_resources().get("CPU", 1)), "every": 1 + total // _COUNTED}
    tasks = [
        {"number": number, "file": json.dumps(asdict(file)), "share": size / total if total else 1.0}
        for number, (file, size) in enumerate(places)
    ]

    def surveyed(task: dict) -> dict:
        try:
            blocks, met = survey(Block(**json.loads(task["file"])), columns, share=task["share"], **options)
        except UserError as error:
            return {"result": json.dumps({"fatal": str(error)})}
        result = {"number": task["number"], "blocks": [asdict(block) for block in blocks], "met": met}
        return {"result": json.dumps(result)}

    results: list[dict] = []
    with told("the input cannot be read"):
        for row in ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(surveyed).iter_rows():
            results.append(json.loads(row["result"]))
            if "fatal" in results[-1]:
                raise InputError(results[-1]["fatal"])
    results.sort(key=lambda result: result["number"])
    met = [article for result in results for article in result["met"]]
    return [Block(**block) for result in results for block in result["blocks"]], len(met) / max(1, len(set(met)))


# -- in the workers --------------------------------------------------------------------------------------------------------


def survey(
    whole: Block,
    columns: Mapping[str, str],
    *,
    block_rows: int | None = None,
    share: float = 1.0,
    cores: int = 1,
    every: int = 1,
) -> tuple[list[Block], list[int]]:
    """Where a file is cut, and the articles that each of its blocks meets, as hashes, one after the other.

    Args:
        whole: a block of that file, whichever. columns: see `readers.read_comments`.
        block_rows: rows of a block; by default what gives each of `cores` work, if this file is a `share` of all input.
        every: of so many articles, one is told.

    Raises:
        InputError: the file cannot be read.
    """
    file = _open(whole)
    fields = _fields(whole, file, columns)
    if block_rows is None:
        rows = file.metadata.num_rows / (share or 1)  # of all files, about
        block_rows = min(BLOCK_ROWS, max(LEAST_ROWS, round(rows / (SHARES * max(1, cores)))))
    first, blocks, met = 0, [], []
    for rows, articles in cut(_runs(file, _KEY if whole.grouped else _article(fields)), block_rows):
        blocks.append(replace(whole, first=first, rows=rows))
        hashes = (zlib.crc32(article.encode("utf-8", "replace")) for article in articles)
        met += [number for number in hashes if number % every == 0]
        first += rows
    return blocks, met


def _runs(file: pq.ParquetFile, column: str | None) -> Iterator[tuple[str | None, int]]:
    """Runs of rows of the same article; what cannot be decoded has none (it is set aside when it is to be scored)."""
    article: str | None = None
    length = 0
    for group in range(file.metadata.num_row_groups):
        for key, rows in _runs_of_group(file, group, column):
            if key != article and length:
                yield article, length
                length = 0
            article, length = key, length + rows
    if length:
        yield article, length


def _runs_of_group(file: pq.ParquetFile, group: int, column: str | None) -> Iterator[tuple[str | None, int]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    left = file.metadata.row_group(group).num_rows
    try:
        for batch in file.iter_batches(batch_size=10_000, row_groups=[group], columns=[column]) if column else ():
            runs = pc.run_end_encode(_keys(batch.column(0)))
            start = 0
            for key, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                yield key, end - start
                start = end
            left -= batch.num_rows
    except (pa.ArrowException, OSError, ValueError):
        pass
    if left:
        yield None, left


def _keys(column: pa.Array | pa.ChunkedArray):
    """The articles' names, whatever the column's type, as strings; None where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        texts = column.cast(pa.string())
    except pa.ArrowException:  # objects, or bytes that are no text
        return pa.nulls(len(column), pa.string())
    none = pc.or_(pc.equal(texts, ""), pc.starts_with(texts, "\x00"))  # the latter: see `for_sorting`
    return pc.if_else(pc.fill_null(none, True), pa.scalar(None, pa.string()), texts)


def _article(fields: Mapping[str, str]) -> str | None:
    return next((fields[name] for name in _ARTICLE if name in fields), None)


def _fields(block: Block, file: pq.ParquetFile, columns: Mapping[str, str]) -> dict[str, str]:
    """The file's column for every native column that it has."""
    names = [name for name in file.schema_arrow.names if not (block.grouped and name in OWN)]
    return match_columns(names, columns, Source(block.path, block.name))


def _open(block: Block) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    storage, _ = file_system(block.root)
    try:
        return pq.ParquetFile(block.path, filesystem=storage)
    except FileNotFoundError as error:
        raise InputError(
            f"{block.name}: is not on the machine {os.uname().nodename}; every machine must see the input"
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{block.name}: cannot be read as Parquet ({line(error)}); mend or leave out this file") from error


def read(block: Block, columns: Mapping[str, str]) -> pa.Table:
    """The rows of a block: its native columns, `FILE` and `ROW` (from 1), and `DAMAGE`, which is null where a row can be read.

    Rows that cannot be decoded are there with the reason and nothing else.

    Raises:
        InputError: the file is not there or no Parquet. OSError: the storage does not answer; another time it may.
    """
    import pyarrow as pa

    file = _open(block)
    fields = _fields(block, file, columns)
    wanted = list(dict.fromkeys([*fields.values(), *((FILE, ROW, DAMAGE) if block.grouped else ())]))

    def native(batch: pa.RecordBatch, first: int) -> pa.Table:
        own = [batch[FILE], batch[ROW], batch[DAMAGE]] if block.grouped else _places(block, first, batch.num_rows)
        return pa.table(
            {name: batch[column] for name, column in fields.items()} | dict(zip((FILE, ROW, DAMAGE), own, strict=True))
        )

    schema = file.schema_arrow
    none = pa.table({name: pa.array([], schema.field(name).type) for name in wanted})
    parts = [native(none, 0)]  # so that all columns are there
    end, start = block.first + block.rows, 0
    for group in range(file.metadata.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        row, last = max(block.first, start), min(end, stop)
        if row < last:
            at = start
            try:
                for batch in file.iter_batches(batch_size=10_000, row_groups=[group], columns=wanted):
                    piece = batch.slice(max(0, row - at), max(0, last - max(row, at)))
                    at += batch.num_rows
                    if piece.num_rows:
                        parts.append(native(piece, row))
                        row += piece.num_rows
                    if row >= last:
                        break
            except (pa.ArrowException, OSError, ValueError) as error:
                _reach(file, block, group)
                own = _places(block, row, last - row, f"the file is damaged here ({line(error)})")
                parts.append(pa.table(dict(zip((FILE, ROW, DAMAGE), own, strict=True))))
        start = stop
    return pa.concat_tables(parts, promote_options="permissive")


def _places(block: Block, first: int, rows: int, damage: str | None = None) -> list[pa.Array]:
    """File, row and damage of consecutive rows."""
    import pyarrow as pa

    return [
        pa.repeat(pa.scalar(block.name), rows),
        pa.array(range(first + 1, first + 1 + rows), pa.int64()),
        pa.repeat(pa.scalar(damage, pa.string()), rows),
    ]


def _reach(file: pq.ParquetFile, block: Block, group: int) -> None:
    """Read a group of rows without decoding it: an error here is the storage's, not the file's."""
    storage, _ = file_system(block.root)
    with storage.open_input_file(block.path) as stream:
        for column in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(column)
            stream.read_at(chunk.total_compressed_size, chunk.dictionary_page_offset or chunk.data_page_offset)


def for_sorting(block: Block, columns: Mapping[str, str]) -> pa.Table:
    """What `read` gives, with the key by which rows are sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read(block, columns)
    key = _article({name: name for name in table.column_names})
    # What has no article need not be together, and all of it might be too much for one machine.
    alone = pc.binary_join_element_wise("", table[ROW].cast(pa.string()), table[FILE], "\x00")
    keys = pc.coalesce(_keys(table[key]), alone) if key else alone
    return table.append_column(_KEY, keys)
