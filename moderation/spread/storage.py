"""Files on local disks and in object stores alike, by `pyarrow.fs`; what goes wrong there is told as one line."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moderation.score import InputError, OutputError


@dataclass(frozen=True, slots=True)
class File:
    """A Parquet file: `path` in the file system of `root`, which is what the caller named; size in bytes, time in ns."""

    root: str
    path: str
    size: int
    time: int


@lru_cache
def file_system(url: str):
    """The file system behind a path or URL (`s3://`, `gs://`, `hdfs://`, …), and the path in it.

    Raises:
        InputError: there is no such thing.
    """
    from pyarrow import ArrowException, fs

    if "://" not in url:
        return fs.LocalFileSystem(), os.path.abspath(url)
    try:
        return fs.FileSystem.from_uri(url)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{url}: cannot be opened ({line(error)}); expected a path or a URL such as s3://bucket/folder"
        ) from error


def parquet_files(paths: Sequence[str]) -> list[File]:
    """Every Parquet file behind the paths, in their order; in folders those that are hidden or in hidden folders are left out.

    Raises:
        InputError: nothing is there, or it may not be listed.
    """
    from pyarrow import fs

    found = []
    for given in paths:
        storage, path = file_system(given)
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
            raise InputError(f"{given}: cannot be listed ({line(error)}); expected Parquet files that you may read") from error
        found += [File(given, one.path, one.size or 0, one.mtime_ns or 0) for one in infos]
    return found


class Folder:
    """The folder that a run writes, named by a path or URL. Every method raises `OutputError` where the storage fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.storage, self.root = file_system(name)

    def is_file(self) -> bool:
        from pyarrow import fs

        with self._told():
            return self.storage.get_file_info(self.root).type == fs.FileType.File

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Size by name of what lies in a folder, hidden files left out; nothing where there is no such folder."""
        from pyarrow import fs

        selector = fs.FileSelector(f"{self.root}/{folder}".rstrip("/"), allow_not_found=True)
        with self._told():
            return {one.base_name: one.size or 0 for one in self.storage.get_file_info(selector) if one.base_name[0] != "."}

    def size(self, name: str) -> int:
        with self._told():
            return self.storage.get_file_info(f"{self.root}/{name}").size

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        with self._told():
            try:
                with self.storage.open_input_stream(f"{self.root}/{name}") as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file in one piece: an object store shows it when it is whole, a disk when it is renamed."""
        from pyarrow import fs

        path = f"{self.root}/{name}"
        local = isinstance(self.storage, fs.LocalFileSystem)
        folder, _, base = path.rpartition("/")
        target = f"{folder}/.{base}.{os.getpid()}.{time.monotonic_ns()}" if local else path
        with self._told():
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

    def remove(self, folder: str) -> None:
        """Remove a folder in it, if it is there and may be removed."""
        with suppress(OSError):
            self.storage.delete_dir(f"{self.root}/{folder}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.name}: cannot be written ({line(error)}); choose another --out, or make room") from error


def line(error: BaseException) -> str:
    """The line that says it: the first, or of a traceback from another machine the last."""
    lines = [text for text in str(error).splitlines() if text.strip()] or [type(error).__name__]
    return lines[-1 if "ray::" in lines[0] else 0].strip()[:200]
