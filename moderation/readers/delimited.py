"""CSV and its kin: delimited text with one comment a row, our own files and anybody's with a map."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice

from moderation.schema import MAX_COMMENT_CHARS, Comment, Reject

from .columns import RowReader, looks_like_comments, match_columns
from .source import Context, Source, text_lines, unrecognised
from .threads import Threads

DELIMITERS = ",;\t|"
#: How much of a file is looked at for its first records.
_HEAD_CHARS = 64 * 1024
_UNDECODABLE = re.compile("[\udc80-\udcff]")
# The line that spreadsheets put (and look for) before the header, to name the delimiter.
_SEP = re.compile(r"""\ufeff?(?P<quote>"?)sep=(?P<delimiter>\t|[^\w\s"'])(?P=quote)[;,\t]*\r?(?:\n|$)""", re.IGNORECASE)


def recognise(source: Source) -> str | None:
    """``comments`` when the first row names columns of which one is the comment's text."""
    header = next(iter(head_rows(source)), [])
    return "comments" if len(header) > 0 and looks_like_comments(header) and _is_table(source, header) else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The rows as comments. Rows with too few or too many cells, or with undecodable bytes, are set aside."""
    rows = records(source)
    _, header = next(rows, ("", []))
    if isinstance(header, Reject) or not any(header):
        raise unrecognised(source, "has no header row")
    fields = match_columns(header, context.columns, source)
    with Threads() as threads:
        reader = RowReader(source, fields, threads, restore={"model_version", "action"} <= set(header))
        comments = (_comment(reader, header, position, row, source) for position, row in rows)
        yield from threads.with_parents(comments) if "parent_id" in fields else comments


def _comment(reader: RowReader, header: list[str], position: str, row: list[str] | Reject, source: Source) -> Comment | Reject:
    if isinstance(row, Reject):
        return row
    if len(row) != len(header):
        reason = f"the row has {len(row)} cells; expected {len(header)}, as in the header"
        return Reject(source.name, position, reason, ",".join(row)[:2000])
    return reader.comment(position, dict(zip(header, row, strict=True)))


def records(source: Source, *, header: bool = True) -> Iterator[tuple[str, list[str] | Reject]]:
    """The records of a delimited file with their position (``row 17``, as a spreadsheet counts); blank lines are no rows.

    A record that cannot be decoded or is absurdly long comes as a `Reject`.
    """
    # The limit of the csv module is global and too low for a long article; an unclosed quote runs into it.
    csv.field_size_limit(max(csv.field_size_limit(), 4 * MAX_COMMENT_CHARS))
    lines = source.lines()
    skipped = 1 if _SEP.match(source.head_text) else 0
    rows = csv.reader(islice(lines, skipped, None), delimiter=sniff_delimiter(source))
    number = 0
    while True:
        line = skipped + rows.line_num + 1
        position = f"row {number + 1}" + (f" (line {line})" if line != number + 1 else "")
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            if skipped + rows.line_num > line:
                position = f"row {number} (lines {line} to {skipped + rows.line_num})"
            yield position, Reject(source.name, position, f"the row cannot be read as CSV ({error})")
            continue
        if not row or row == [""]:
            continue
        number += 1
        if skipped + rows.line_num > line:  # a quote that was never closed swallows what follows; say how much
            position = f"row {number} (lines {line} to {skipped + rows.line_num})"
        if number == 1 and header:
            row = [cell.strip().lstrip("\ufeff") for cell in row]
        elif any(map(_UNDECODABLE.search, row)):
            raw = _UNDECODABLE.sub("\ufffd", ",".join(row))[:2000]
            yield position, Reject(source.name, position, f"line {line} has bytes that are no UTF-8", raw)
            continue
        yield position, row


def head_rows(source: Source, delimiter: str | None = None, limit: int = 20) -> list[list[str]]:
    """The first whole records, for recognition."""
    text = source.head_text
    lines = list(text_lines(text[:_HEAD_CHARS]))
    if len(lines) > 1 and len(text) > _HEAD_CHARS:
        lines.pop()
    if _SEP.match(text):
        del lines[0]
    rows: list[list[str]] = []
    csv.field_size_limit(max(csv.field_size_limit(), 4 * MAX_COMMENT_CHARS))
    try:
        for row in csv.reader(lines, delimiter=delimiter or sniff_delimiter(source)):
            if row and row != [""]:
                rows.append(row if rows else [cell.strip().lstrip("\ufeff") for cell in row])
            if len(rows) >= limit:
                break
    except csv.Error:
        pass
    return rows


def sniff_delimiter(source: Source) -> str:
    """The delimiter that the file names, or under which the first rows have the most cells and agree on their number.

    A comma when in doubt.
    """
    if named := _SEP.match(source.head_text):
        return named["delimiter"]

    def score(delimiter: str) -> tuple[bool, float, int]:
        rows = head_rows(source, delimiter)
        width = len(rows[0]) if rows else 0
        known = width > 1 and looks_like_comments(rows[0])
        return known, width > 1 and sum(len(row) == width for row in rows) / len(rows), width

    return max(DELIMITERS, key=score)


def _is_table(source: Source, header: list[str]) -> bool:
    """A page of text whose first line happens to be "Comment" or "Comment, analysis" is no table.

    It is one where its name says so, or where it has several columns and half of the rows are as wide as the header.
    """
    if source.name.casefold().removesuffix(".gz").removesuffix(".zst").endswith((".csv", ".tsv")):
        return True
    rows = head_rows(source)[1:]
    regular = 2 * sum(len(row) == len(header) for row in rows) >= len(rows)
    return len(header) > 1 and (regular or len(source.head_text) > _HEAD_CHARS)
