"""Labelled rows: how they are read, what is refused, which rows are one thread, and how they are cut into slices.

Read as tables, by content, plain or `.gz`/`.zst`: JSON lines, a JSON array, CSV (any delimiter that `csv.Sniffer` knows)
and Parquet, each with the columns of the native row, `label`, and any others (they can become slices). Any other export that
`moderation score` reads is joined with a table of `comment_id,label` (`--labels`). `corpus:NAME` is a public corpus.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moderation.schema import (
    LABELS,
    NO_ARTICLE,
    ROW_FIELDS,
    VERDICT_FIELDS,
    Article,
    Comment,
    Reject,
    RowError,
    UserError,
    clean_text,
)
from moderation.text import detect_language

#: Columns that become slices without being asked for, when the rows have them.
_GIVEN_SLICES = ("slice", "desk", "source", "corpus", "status")
#: A column with more values than this is cut into its largest ones and "(others)".
MAX_VALUES = 40
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"


@dataclass(slots=True)
class Labelled:
    """Rows to evaluate on, all lists of the same length.

    Attributes:
        rows: the source's columns as text, native names and others.
        comments: the same as the model sees them; comments of one thread share their `Article`.
        truth: labels of `schema.LABELS`, or "" when the rows answer only one question.
        positive: 0 or 1 for rows of a yes-no question, else -1.
        groups: the name of each row's thread: its article, else its parent, else the row by itself.
        warnings: what was left out or looks wrong, as (code, sentence).
    """

    rows: list[dict[str, str]]
    comments: list[Comment]
    truth: list[str]
    positive: list[int]
    groups: list[str]
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: Sequence[int]) -> Labelled:
        """The rows with these indices."""
        parts = [
            [column[index] for index in chosen] for column in (self.rows, self.comments, self.truth, self.positive, self.groups)
        ]
        return Labelled(*parts, list(self.warnings))


def read(
    sources: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    label: str = "label",
    labels_file: str | None = None,
    corpora: str | Path | None = None,
    binary: bool = False,
) -> Labelled:
    """Read labelled rows.

    Args:
        sources: files, or `corpus:NAME`.
        columns: the source's column by native column, where they differ.
        label: the column that holds the label.
        labels_file: a table with `comment_id` and the label, for sources that have none.
        corpora: folder of the public corpora, for `corpus:NAME`.
        binary: the rows answer one question: `positive` (0 or 1) instead of a label.

    Raises:
        UserError: unreadable input, no label column, an unknown label, or two labels for one comment.
    """
    warnings: list[tuple[str, str]] = []
    found: list[tuple[str, dict[str, str]]] = []
    extra = {row["comment_id"]: row for _, row in _table(labels_file)} if labels_file else {}
    for source in sources:
        found += _source(source, columns or {}, extra, corpora, warnings)
    if not found:
        raise UserError(f"{', '.join(sources)}: no rows; expected labelled comments")
    wanted = "positive" if binary else label
    if not any(wanted in row for _, row in found):
        hint = " (rows with `positive` need --positive-label)" if any("positive" in row for _, row in found) else ""
        raise UserError(f"{', '.join(sources)}: no column {wanted!r}; found {', '.join(list(found[0][1])[:20])}{hint}")
    if (
        wanted == "label"
        and any(row.get("model_version") for _, row in found)
        and all(name in found[0][1] for name in VERDICT_FIELDS)
    ):
        raise UserError(
            f"{', '.join(sources)}: these labels were given by a model ({found[0][1]['model_version']}); name the column of the human label with --label"
        )
    return _assemble(found, wanted, binary, warnings)


def _assemble(found: list[tuple[str, dict[str, str]]], wanted: str, binary: bool, warnings: list[tuple[str, str]]) -> Labelled:
    result = Labelled([], [], [], [], [], warnings)
    articles: dict[tuple[str, ...], Article] = {}
    seen: dict[str, tuple[str, str, str, str]] = {}
    blank = unreadable = repeated = 0
    clashing: list[str] = []
    known = set(LABELS)
    for position, row in found:
        answer = (row.get(wanted) or "").strip()
        if not answer:
            blank += 1
            continue
        if binary:
            if answer.lower() not in ("0", "1", "0.0", "1.0", "true", "false"):
                raise UserError(f"{position}: positive is {answer!r}; expected 0 or 1")
            answer = "1" if answer.lower() in ("1", "1.0", "true") else "0"
        elif answer not in known:
            raise UserError(f"{position}: label {answer!r}; expected one of {', '.join(LABELS)}")
        key = tuple(clean_text(row.get(name)) for name in ("article_id", "article_title", "article_text", "article_url"))
        try:
            article = articles.setdefault(key, Article(*key)) if any(key) else NO_ARTICLE
            comment = Comment.from_row(row, article)
        except RowError:
            unreadable += 1
            continue
        name = row.get("comment_id") or ""
        if name:
            content = (comment.text, article.title, comment.parent_text, answer)
            if name in seen:
                if seen[name] == content:
                    repeated += 1
                    continue
                if seen[name][:3] == content[:3]:
                    raise UserError(
                        f"{position}: comment {name!r} has the label {answer!r} here and {seen[name][3]!r} before; expected one label a comment"
                    )
                clashing.append(name)
            seen.setdefault(name, content)
        result.rows.append(row)
        result.comments.append(comment)
        result.truth.append("" if binary else answer)
        result.positive.append(int(answer) if binary else -1)
        result.groups.append(_thread(comment))
    if blank:
        warnings.append(("no-label", f"{blank:,} of {len(found):,} rows have no {wanted} and were left out"))
    if unreadable:
        warnings.append(
            ("unreadable", f"{unreadable:,} of {len(found):,} rows have no readable comment_text and were left out")
        )
    if repeated:
        warnings.append(
            (
                "duplicate-rows",
                f"{repeated:,} rows stand in the data twice, with the same id, text and label; they were counted once",
            )
        )
    if clashing:
        warnings.append(
            (
                "duplicate-ids",
                f"{len(clashing):,} rows share a comment_id with another text (first: {clashing[0]}); all were counted",
            )
        )
    if not result.rows:
        raise UserError(f"nothing to evaluate: none of {len(found):,} rows has both a {wanted} and a comment_text")
    return result


def _thread(comment: Comment) -> str:
    article = comment.article
    for kind, name in (
        ("id", article.article_id),
        ("url", article.url),
        ("title", article.title),
        ("parent", comment.parent_id or comment.parent_text[:200]),
    ):
        if name:
            return f"{kind}:{name}"
    return f"comment:{comment.comment_id}"


def _source(
    source: str, columns: Mapping[str, str], extra: Mapping[str, dict[str, str]], corpora: str | Path | None, warnings: list
) -> list[tuple[str, dict[str, str]]]:
    if source.startswith("corpus:"):
        from data.corpora import rows

        found = [
            (f"{source}, row {number}", row) for number, row in enumerate(rows(source.removeprefix("corpus:"), corpora), 1)
        ]
        return [
            (position, {name: value for name, value in row.items() if value or name in ROW_FIELDS}) for position, row in found
        ]
    if extra:
        from moderation.readers import read_comments

        found = []
        for number, item in enumerate(read_comments([source], columns=columns), 1):
            if isinstance(item, Reject):
                warnings.append(("unreadable", f"{item.file}, {item.position}: {item.reason}"))
            else:
                more = {name: value for name, value in extra.get(item.comment_id, {}).items() if value}
                found.append((f"{source}, comment {number}", {**item.to_row(), **more}))
        if not any(row["comment_id"] in extra for _, row in found):
            raise UserError(f"{source}: none of its {len(found):,} comments has its comment_id in the table of --labels")
        return found
    table = _table(source)
    for native, name in columns.items():
        if table and not any(name in row for _, row in table):
            raise UserError(f"{source}: no column {name!r}, as --map says; found {', '.join(list(table[0][1])[:20])}")
        for _, row in table:
            if name in row:
                row[native] = row[name]
    if table and not any("comment_text" in row for _, row in table):
        raise UserError(
            f"{source}: no column comment_text; found {', '.join(list(table[0][1])[:20])} (name it: --map comment_text=COLUMN)"
        )
    _resolve_parents([row for _, row in table])
    return table


def _table(path: str | None) -> list[tuple[str, dict[str, str]]]:
    """The rows of a table with their positions, every cell as text."""
    if not path:
        return []
    try:
        data = Path(path).read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        elif data.startswith(_ZSTD):
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
                data = stream.read()
        if data.startswith(b"PAR1"):
            from pyarrow import parquet

            found = enumerate(parquet.read_table(io.BytesIO(data)).to_pylist(), 1)
            return [(f"{path}, row {number}", _as_text(row)) for number, row in found]
        text = data.decode("utf-8-sig")
        if text.lstrip().startswith("["):
            return [(f"{path}, element {number}", _as_text(row)) for number, row in enumerate(json.loads(text), 1)]
        if text.lstrip().startswith("{"):
            # Only line feeds end a line of JSON lines: texts may hold U+2028 and its kin unescaped.
            lines = enumerate(text.split("\n"), 1)
            return [(f"{path}, line {number}", _as_text(_object(path, number, line))) for number, line in lines if line.strip()]
        return _csv(path, text)
    except (OSError, EOFError, ValueError, csv.Error, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0][:160]
        raise UserError(
            f"{path}: cannot be read as labelled rows ({reason}); expected JSON lines, a JSON array, CSV or Parquet"
        ) from error
    except Exception as error:  # a damaged Parquet or Zstandard file raises the library's own kinds
        if type(error).__module__.startswith(("pyarrow", "zstandard", "zlib")):
            raise UserError(f"{path}: damaged ({str(error).splitlines()[0][:160]})") from error
        raise


def _csv(path: str, text: str) -> list[tuple[str, dict[str, str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), 4_000_000))
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=header.count)
    found = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in reader:
        if None in row or None in row.values():
            raise UserError(
                f"{path}, line {reader.line_num}: {'more' if None in row else 'fewer'} cells than the header has columns"
            )
        found.append((f"{path}, line {reader.line_num}", dict(row)))
    return found


def _object(path: str, number: int, line: str) -> dict:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: no JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number}: expected a JSON object with one comment")
    return value


def _as_text(row: Mapping[str, object]) -> dict[str, str]:
    return {str(name): value.isoformat() if hasattr(value, "isoformat") else clean_text(value) for name, value in row.items()}


def _resolve_parents(rows: Sequence[dict[str, str]]) -> None:
    texts = {
        (row.get("article_id") or "", row["comment_id"]): row.get("comment_text") or "" for row in rows if row.get("comment_id")
    }
    for row in rows:
        if row.get("parent_id") and not row.get("parent_text"):
            row["parent_text"] = texts.get((row.get("article_id") or "", row["parent_id"]), "")


def parse_budget(text: str) -> float:
    """`200/5000`, `4%` or `0.04` as a part of all comments.

    Raises:
        UserError: anything else, or a part that is not above 0 and at most 1.
    """
    try:
        read_, slash, of = text.partition("/")
        share = float(read_) / float(of) if slash else float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except (ValueError, ZeroDivisionError):
        share = -1.0
    if not 0 < share <= 1:
        raise UserError(
            f"--budget {text!r}: expected READ/ALL such as 200/5000, a percentage such as 4%, or a part such as 0.04"
        )
    return share


def split_by_date(data: Labelled, date: str) -> tuple[Labelled, Labelled]:
    """The rows before a date and those from then on, for a time split; rows without a date are in neither.

    Raises:
        UserError: no ISO date, or no row from then on.
    """
    from datetime import datetime

    try:
        datetime.fromisoformat(date if len(date) != 7 else f"{date}-01")
    except ValueError as error:
        raise UserError(f"--after {date!r}: expected a date such as 2024-06 or 2024-06-15") from error
    dated = [row for row, comment in enumerate(data.comments) if comment.created_at]
    later = [row for row in dated if data.comments[row].created_at >= date]
    if not later:
        raise UserError(f"--after {date}: no row has a created_at from then on")
    before, after = data.only([row for row in dated if data.comments[row].created_at < date]), data.only(later)
    if len(dated) < len(data):
        after.warnings.append(
            ("no-date", f"{len(data) - len(dated):,} of {len(data):,} rows have no date and were left out of the time split")
        )
    return before, after


def slice_columns(data: Labelled, more: Sequence[str] = ()) -> dict[str, list[str]]:
    """The slices that every report has, where the rows know them, and the columns named in `more`.

    language, length in words, whether there is a parent and an article text, position in the thread, platform status, month,
    and `slice`, `desk`, `source`, `corpus` where they are columns. A column with one value is no slice.

    Raises:
        UserError: `more` names a column that no row has.
    """
    columns: dict[str, list[str]] = {
        "language": [comment.language or detect_language(comment.text) or "(unsure)" for comment in data.comments],
        "length": [_length(comment.text) for comment in data.comments],
        "has parent": ["yes" if comment.parent_text else "no" for comment in data.comments],
        "article text": [
            "yes" if comment.article.text.strip() else "title only" if comment.article.title.strip() else "none"
            for comment in data.comments
        ],
        "position in thread": _positions(data),
        "month": [comment.created_at[:7] or "(unknown)" for comment in data.comments],
    }
    names = set().union(*data.rows) if data.rows else set()
    for name in more:
        if name not in names:
            raise UserError(f"--slice {name}: no such column; found {', '.join(sorted(names)[:30])}")
    for name in dict.fromkeys((*_GIVEN_SLICES, *more)):
        if name in names:
            columns[name] = [row.get(name, "") or "(none)" for row in data.rows]
    result = {}
    for name, values in columns.items():
        counts = Counter(values)
        kept = {value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_VALUES]}
        if len(counts) > MAX_VALUES:
            values = [value if value in kept else f"(others: {len(counts) - MAX_VALUES} values)" for value in values]
        if len(counts) > 1 or name in more:
            result[name] = values
    return result


def _length(text: str) -> str:
    words = len(text.split())
    for limit, name in ((3, "1-3 words"), (10, "4-10 words"), (30, "11-30 words"), (100, "31-100 words")):
        if words <= limit:
            return name
    return "101 words or more"


def _positions(data: Labelled) -> list[str]:
    threads: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(data.groups):
        threads[name].append(index)
    result = [""] * len(data)
    for members in threads.values():
        if all(data.comments[index].created_at for index in members):
            members = sorted(members, key=lambda index: data.comments[index].created_at)
        for place, index in enumerate(members, 1):
            result[index] = "first" if place == 1 else "2-5" if place <= 5 else "6-20" if place <= 20 else "21 and later"
    return result


def leaked(data: Labelled, model: str | os.PathLike | None) -> list[int] | None:
    """Indices of the rows whose comment the model was trained on, or None when its folder does not say.

    The folder's `trained_on.txt` holds, one a line, the first 12 hex digits of the SHA-256 of each training comment's
    text, stripped and in lower case.
    """
    path = Path(model) / "trained_on.txt" if model else None
    if path is None or not path.is_file():
        return None
    known = set(path.read_text(encoding="ascii", errors="replace").split())
    return [index for index, comment in enumerate(data.comments) if fingerprint(comment.text) in known]


def fingerprint(text: str) -> str:
    """The 12 hex digits by which a training comment is remembered."""
    import hashlib

    return hashlib.sha256(text.strip().lower().encode("utf-8", "surrogatepass")).hexdigest()[:12]
