"""Any export of reader comments as one stream of `Comment` and `Reject`.

    >>> from moderation.readers import read_comments
    >>> for item in read_comments(["export.xml.gz"]): ...

What a file holds is found out from its content. One module reads one format (or one family that shares a shape); each has a
``recognise(source)`` that names the role of a file (``comments``, or a companion such as ``stories``) or returns None, and a
``read(source, context)`` that gives one `Comment` or one `Reject` for every comment in the file.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moderation.schema import ROW_FIELDS, Comment, Reject, UserError

from . import (
    article_page,
    commento,
    coral,
    delimited,
    disqus,
    html_page,
    isso,
    records,
    reddit,
    remark42,
    wordpress,
    youtube,
)
from .source import Context, DamagedFile, Source, unrecognised

__all__ = ["FORMATS", "InputFile", "Reading", "check_options", "inputs", "read_comments"]


@dataclass(frozen=True)
class _Format:
    """A format: how a file of it is recognised and read, and whether the caller's ``--map`` applies."""

    recognise: Callable[[Source], str | None]
    read: Callable[[Source, Context], Iterator[Comment | Reject]]
    mapped: bool = False


# In the order in which they are tried: the more telling shapes first.
_FORMATS = {
    "parquet": _Format(records.recognise_parquet, records.read_parquet, mapped=True),
    "wordpress": _Format(wordpress.recognise_wxr, wordpress.read_wxr),
    "disqus": _Format(disqus.recognise, disqus.read),
    "html-page": _Format(html_page.recognise, html_page.read),
    "commento": _Format(commento.recognise, commento.read),
    "isso": _Format(isso.recognise, isso.read),
    "youtube": _Format(youtube.recognise, youtube.read),
    "remark42": _Format(remark42.recognise, remark42.read),
    "coral-json": _Format(coral.recognise_json, coral.read_json),
    "reddit": _Format(reddit.recognise, reddit.read),
    "wordpress-csv": _Format(wordpress.recognise_csv, wordpress.read_csv),
    "coral-csv": _Format(coral.recognise_csv, coral.read_csv),
    "jsonl": _Format(records.recognise_jsonl, records.read_jsonl, mapped=True),
    "json": _Format(records.recognise_json, records.read_json, mapped=True),
    "csv": _Format(delimited.recognise, delimited.read, mapped=True),
    "article-page": _Format(article_page.recognise, article_page.read),
}

#: The names that `read_comments` takes as `format`.
FORMATS: tuple[str, ...] = tuple(sorted(_FORMATS))


@dataclass(frozen=True)
class InputFile:
    """A file that `read_comments` would read.

    Attributes:
        path: as the caller wrote it, or the folder's path with the file's; ``-`` for standard input.
        size: in bytes; 0 for standard input, whose size nobody knows.
        mtime: when it was changed, in seconds since 1970; 0 for standard input.
    """

    path: str
    size: int
    mtime: float


def inputs(paths: Sequence[str | os.PathLike], skip: Collection[str | os.PathLike] = ()) -> list[InputFile]:
    """The files behind `paths` in the order in which they are read; folders are searched, hidden files skipped.

    Args:
        paths, skip: see `Reading`.

    Raises:
        UserError: when a path does not exist or a folder cannot be listed.
    """
    files = []
    for path, _ in _expanded(paths, skip):
        try:
            status = None if path == "-" else os.stat(path)
        except OSError as error:
            raise _cannot_open(path, error) from error
        files.append(InputFile(path, status.st_size if status else 0, status.st_mtime if status else 0.0))
    return files


def read_comments(
    paths: Sequence[str | os.PathLike],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Comment | Reject]:
    """Read every comment in the files and folders at `paths`, in the same order every time.

    Args:
        paths: files (plain, gzip or Zstandard), folders, or ``-`` for standard input.
        format: one of `FORMATS` for all files, instead of looking what each is.
        columns: for tables, the source's column by native column (``{"comment_text": "body"}``); in JSON a dotted path.

    Raises:
        UserError: at once for a path that does not exist or a named file that is no export (or is not as `format` and
            `columns` say); while reading for a document that is refused as dangerous.
    """
    return iter(Reading(paths, format=format, columns=columns))


def check_options(format: str | None, columns: Mapping[str, str] | None) -> None:
    """Whether a format and a map can be used at all, whatever the files hold.

    Raises:
        UserError: for an unknown format or native column, and for a map where no column has a name.
    """
    if format is not None and format not in _FORMATS:
        raise UserError(f"unknown format {format!r}; expected one of: {', '.join(FORMATS)}")
    for native in columns or ():
        if native not in ROW_FIELDS:
            raise UserError(f"unknown column {native!r} in --map; expected one of: {', '.join(ROW_FIELDS)}")
    if format is not None and columns and not _FORMATS[format].mapped:
        tables = ", ".join(sorted(name for name, known in _FORMATS.items() if known.mapped))
        raise UserError(f"--map applies to tables only, not to {format}; expected --format to be one of: {tables}")


class Reading:
    """Files that were found and recognised: every iteration reads all of them from the start.

    What can be read only once (standard input, a pipe) is copied to a temporary folder, which goes with this object.

    Args:
        paths, format, columns: see `read_comments`.
        skip: files and folders that are passed over where a folder is searched.

    Raises:
        UserError: as `read_comments` does.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        *,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        skip: Collection[str | os.PathLike] = (),
    ) -> None:
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        check_options(format, columns)
        self._columns = columns or {}
        folder = tempfile.mkdtemp(prefix="moderation-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        sources = [_spooled(path, named, folder) for path, named in _expanded(paths, skip)]
        self._plan, self._rejects = _recognised(sources, format, self._columns)

    def __iter__(self) -> Iterator[Comment | Reject]:
        used: set[str] = set()
        for source, name, role in self._plan:
            if source.name in self._rejects:
                yield self._rejects[source.name]
            elif role == "comments":
                companions = _companions(source, name, self._plan)
                used.update(companion.name for files in companions.values() for companion in files)
                yield from _guarded(source, _FORMATS[name], Context(self._columns, companions))
                source.forget_head()
        for source, name, role in self._plan:
            if role not in ("comments", "") and source.name not in used:
                reason = f"holds {role} of {name}, but no file with their comments was given"
                if source.named and len(self._plan) == 1:
                    raise UserError(f"{source.name}: {reason}; name it beside this one, or name their folder")
                yield Reject(source.name, "file", reason)


def _guarded(source: Source, known: _Format, context: Context) -> Iterator[Comment | Reject]:
    """What the reader gives, and one `Reject` more where the file breaks off."""
    try:
        yield from known.read(source, context)
    except DamagedFile as error:
        yield Reject(source.name, "end", str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # the temporary folder is full; nothing is wrong with this file
            raise
        yield Reject(source.name, "file", f"cannot be read ({error.strerror or error})")
    except UserError as error:
        if source.named:
            raise
        yield Reject(source.name, "file", str(error).removeprefix(f"{source.name}: "))


def _recognised(
    sources: list[Source], format: str | None, columns: Mapping[str, str]
) -> tuple[list[tuple[Source, str, str]], dict[str, Reject]]:
    """Format and role of every source, and the reason for those that have none."""
    plan: list[tuple[Source, str, str]] = []
    rejects: dict[str, Reject] = {}
    for source in sources:
        try:
            name, role = _recognise(source, format, columns)
        except OSError as error:
            if source.named:
                raise _cannot_open(source.name, error) from error
            name, role = "", ""
            rejects[source.name] = Reject(source.name, "file", f"cannot be opened ({error.strerror or error})")
        except UserError as error:
            if source.named:
                raise
            name, role = "", ""
            rejects[source.name] = Reject(source.name, "file", str(error).removeprefix(f"{source.name}: "))
        if not name and source.name not in rejects:
            if source.named:
                raise unrecognised(source, "is empty" if not source.head else "is not recognised as a comment export")
            rejects[source.name] = Reject(source.name, "file", "not recognised as a comment export")
        source.forget_head()
        plan.append((source, name, role))
    return plan, rejects


def _recognise(source: Source, format: str | None, columns: Mapping[str, str]) -> tuple[str, str]:
    if not source.head:
        return "", ""
    if format == "wordpress-csv" and wordpress.recognise_wxr(source):
        return "wordpress", "comments"  # the WXR that stands beside the table
    if format is not None:
        return format, _FORMATS[format].recognise(source) or "comments"
    if columns:  # a map says that the file is a table; the map, not our guesses, says what is in it
        return records.table_shape(source) or "csv", "comments"
    for name, known in _FORMATS.items():
        if name != "article-page" and (role := known.recognise(source)):
            return name, role
    if shape := records.table_shape(source):
        names = records.table_columns(source, shape)
        raise unrecognised(source, f"no column is surely the comment's text among: {', '.join(names[:40])}")
    return ("article-page", "comments") if article_page.recognise(source) else ("", "")


def _companions(source: Source, name: str, plan: list[tuple[Source, str, str]]) -> dict[str, list[Source]]:
    """The companions of a file of comments by role: those in its folder, or all where there are none."""
    found: dict[str, list[Source]] = {}
    for other, other_name, role in plan:
        if other_name == name and role != "comments":
            found.setdefault(role, []).append(other)
        elif name == "wordpress-csv" and other_name == "wordpress":
            found.setdefault("wxr", []).append(other)
    for role, files in found.items():
        beside = [file for file in files if os.path.dirname(file.path) == os.path.dirname(source.path)]
        found[role] = beside or files
    return found


def _expanded(paths: Sequence[str | os.PathLike], skip: Collection[str | os.PathLike]) -> Iterator[tuple[str, bool]]:
    """The files behind the paths, each with whether it was named itself; a file is given once, however it is spelled."""
    seen: set[str] = set()
    skipped = {os.path.realpath(path) for path in skip}
    for given in paths:
        path = os.fspath(given)
        if os.path.isdir(path):
            found = _walk(path, skipped)
        elif path == "-" or os.path.exists(path):
            found = [path]
        else:
            raise UserError(f"{path}: no such file or folder; expected a comment export, a folder of them, or - for stdin")
        for file in found:
            key = file if file == "-" else os.path.realpath(file)
            if key not in seen:
                seen.add(key)
                yield file, file == path


def _walk(folder: str, skipped: Collection[str]) -> list[str]:
    def refuse(error: OSError) -> None:
        raise _cannot_open(error.filename or folder, error) from error

    files: list[str] = []
    for where, folders, names in os.walk(folder, onerror=refuse):
        names, folders[:] = (
            sorted(
                name
                for name in found
                if not name.startswith(".") and not (skipped and os.path.realpath(os.path.join(where, name)) in skipped)
            )
            for found in (names, folders)
        )
        files += [os.path.join(where, name) for name in names]
    return [file for file in files if os.path.isfile(file)]


def _spooled(path: str, named: bool, folder: str) -> Source:
    """The source at a path; what can be read only once (standard input, a pipe) is copied to a temporary file first."""
    try:
        if path != "-" and stat.S_ISREG(os.stat(path).st_mode):
            return Source(path, named=named)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as copy:
            if path == "-":
                shutil.copyfileobj(sys.stdin.buffer, copy)
            else:
                with open(path, "rb") as pipe:
                    shutil.copyfileobj(pipe, copy)
        return Source(copy.name, name=path, named=named)
    except OSError as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: str, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be opened ({error.strerror or error}); expected a file that you may read")
