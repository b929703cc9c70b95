"""Objects with one comment each: JSON lines, a JSON array (or ``{"comments": […]}``), objects over several lines, and Parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from moderation.schema import ROW_FIELDS, Comment, Reject, UserError, clean_text

from . import delimited
from .columns import RowReader, looks_like_comments, match_columns
from .json_stream import elements, first_array, names_at, outline
from .source import HEAD_BYTES, MAX_LINE_CHARS, Context, DamagedFile, Source, text_lines, unrecognised
from .threads import Threads

_PARQUET = b"PAR1"
_UNDECODABLE = re.compile("[\udc80-\udcff]")


def recognise_jsonl(source: Source) -> str | None:
    """``comments`` when the first lines are JSON objects of which one has the comment's text."""
    names = _names(_head_objects(source))
    if not names and "\n" not in source.head_text.lstrip():  # the first line alone is longer than the head
        names = names_at(source, "")
    return "comments" if looks_like_comments(names) else None


def recognise_json(source: Source) -> str | None:
    """``comments`` for objects with the comment's text: in an array, at the top or under a name such as ``comments``, or alone.

    What is no array must have something else of a comment beside the text: settings have messages, too.
    """
    path = _path(source)
    names = names_at(source, path) if path is not None else []
    if not looks_like_comments(names) or (path == "" and len(match_columns(names, {}, source)) < 2):
        return None
    return "comments"


def recognise_parquet(source: Source) -> str | None:
    """``comments`` by the magic bytes; whether a column fits shows when it is read."""
    return "comments" if source.head.startswith(_PARQUET) else None


def read_jsonl(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The lines as comments; a line that is no JSON object is set aside."""
    rows = _head_objects(source) or (row for _, row in islice(json_lines(source), 100) if isinstance(row, dict))
    names = _names(rows)
    if not names:
        raise unrecognised(source, "holds no JSON objects with named values, one a line")
    return _comments(source, context, names, json_lines(source))


def read_json(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The elements of the document's array as comments; or the document, or each of several, as one comment."""
    path = _path(source)
    if path is None:
        raise unrecognised(source, "holds no JSON array of objects")
    rows = ((f"element {number}", value) for number, (_, value) in enumerate(elements(source, path), start=1))
    return _comments(source, context, names_at(source, path), rows)


def read_parquet(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The rows of a Parquet file as comments, a thousand in memory at a time."""
    import pyarrow
    from pyarrow import parquet

    if source.compressed:
        raise UserError(f"{source.name}: a Parquet file is compressed inside; unpack the .gz or .zst around it first")
    try:
        file = parquet.ParquetFile(source.path)
        names = file.schema_arrow.names
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise unrecognised(source, f"cannot be read as Parquet ({str(error).splitlines()[0][:120]})") from error
    if len(set(names)) < len(names):
        raise UserError(f"{source.name}: two columns have the same name; expected different ones")
    fields = match_columns(names, context.columns, source)

    def rows() -> Iterator[tuple[str, object]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1000, columns=list(dict.fromkeys(fields.values()))):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
        except (
            pyarrow.ArrowException,
            OSError,
            ValueError,
            OverflowError,
            KeyError,
        ) as error:  # a KeyError: no such zone
            reason = (str(error).splitlines() or [""])[0][:120]
            raise DamagedFile(f"the file ends early or is damaged after row {number:,} ({reason})") from error

    return _comments(source, context, names, rows())


def _comments(
    source: Source, context: Context, names: Iterable[str], rows: Iterator[tuple[str, object]]
) -> Iterator[Comment | Reject]:
    fields = match_columns(list(names), context.columns, source)
    for name in ROW_FIELDS:  # the first rows need not have every column
        fields.setdefault(name, name)
    paths = [path for path in fields.values() if "." in path]

    def comments(reader: RowReader) -> Iterator[Comment | Reject]:
        for position, row in rows:
            if isinstance(row, Reject):
                yield row
            elif isinstance(row, dict):
                nested = {path: _at(row, path) for path in paths if path not in row}
                yield reader.comment(position, row | nested if nested else row)
            else:
                yield Reject(source.name, position, "expected an object with one comment", str(row)[:2000])

    with Threads() as threads:
        yield from threads.with_parents(comments(RowReader(source, fields, threads)))


def parse_object(line: str) -> dict | None:
    """The JSON object on a line, or None when there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_lines(source: Source) -> Iterator[tuple[str, dict | Reject]]:
    """The objects of a file of JSON lines with their position; what is none comes as a `Reject`."""
    for number, line in enumerate(_whole_lines(source), start=1):
        position = f"line {number}"
        if not line.strip("\ufeff \t\r\n\x00"):
            continue
        if len(line) >= MAX_LINE_CHARS:
            yield position, Reject(source.name, position, f"the line has more than {MAX_LINE_CHARS:,} characters")
        elif not line.isascii() and _UNDECODABLE.search(line):
            raw = _UNDECODABLE.sub("\ufffd", line)
            yield position, Reject(source.name, position, f"{position} has bytes that are no UTF-8", raw)
        elif (value := parse_object(line)) is None:
            yield position, Reject(source.name, position, "the line is no JSON object", line)
        else:
            yield position, value


def objects(source: Source, path: str = "item") -> Iterator[tuple[str, dict | Reject]]:
    """The objects of a file, be it JSON lines or one document with the objects in the array at `path`."""
    if path not in outline(source):
        yield from json_lines(source)
        return
    for number, (_, value) in enumerate(elements(source, path), start=1):
        position = f"element {number}"
        if not isinstance(value, dict):
            value = Reject(source.name, position, "expected an object", str(value)[:2000])
        yield position, value


def _whole_lines(source: Source) -> Iterator[str]:
    """The lines of the source, of an overlong one only the first piece."""
    within = False
    for line in source.lines():
        if not within:
            yield line
        within = not line.endswith(("\n", "\r"))


def _path(source: Source) -> str | None:
    """The path of the document's objects: of its array's, or the empty string for objects over several lines each."""
    path = first_array(source)
    alone = path is None and source.head_text.lstrip().startswith("{") and not _head_objects(source)
    return "" if alone and outline(source) > {""} else path


def _head_objects(source: Source) -> list[dict]:
    """The objects among the first lines; empty when the file is one document over several lines."""
    text = source.head_text
    if not text.lstrip().startswith("{"):
        return []
    lines = list(text_lines(text))
    if len(lines) > 1 and len(source.head) >= HEAD_BYTES:
        lines.pop()
    return [row for line in lines[:100] if (row := parse_object(line))]


def _names(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys of the rows, and the dotted paths of nested objects."""
    names: dict[str, None] = {}

    def walk(prefix: str, value: Mapping[str, object], depth: int) -> None:
        for name, inner in value.items():
            names.setdefault(prefix + name)
            if isinstance(inner, dict) and depth < 4:
                walk(f"{prefix}{name}.", inner, depth + 1)

    for row in rows:
        walk("", row, 0)
    return list(names)


def _at(row: Mapping[str, object], path: str) -> object:
    value: object = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def table_shape(source: Source) -> str | None:
    """Which of ``parquet``, ``jsonl``, ``json`` and ``csv`` a file is by its shape, whatever its columns are called."""
    if source.head.startswith(_PARQUET):
        return "parquet"
    if _path(source) is not None:
        return "json"
    if _head_objects(source):
        return "jsonl"
    rows = delimited.head_rows(source)
    regular = len(rows) > 1 and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows)
    return "csv" if regular and not source.head_text.lstrip().startswith(("<", "{", "[")) else None


def table_columns(source: Source, shape: str) -> list[str]:
    """The columns of a file of JSON lines, JSON or CSV, as far as its head shows them."""
    if shape == "jsonl":
        return _names(_head_objects(source))
    if shape == "json":
        return names_at(source, _path(source) or "")
    return next(iter(delimited.head_rows(source)), []) if shape == "csv" else []


def text_of(value: object) -> str:
    """A JSON value as text that any file can hold, where it is one (or a number).

    Objects, arrays, booleans and null are the empty string; a lone surrogate, which JSON can spell, becomes U+FFFD.
    """
    return clean_text(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def dict_of(value: object) -> dict:
    """A JSON value if it is an object, else an empty one: exports are not always what their schema says."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list:
    """A JSON value if it is an array, else an empty one."""
    return value if isinstance(value, list) else []
