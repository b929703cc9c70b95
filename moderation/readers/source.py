"""One input file as every reader sees it: decompressed, with its encoding found out, and readable any number of times.

Nothing here knows a format. A file that is cut off or damaged raises `DamagedFile` at the place where it breaks, after
everything before the break has been handed out.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from moderation.schema import UserError

#: How much of a file is looked at to recognise it.
HEAD_BYTES = 256 * 1024
#: A line longer than this (in characters) is handed out in pieces, so that a file without line ends needs no more memory.
MAX_LINE_CHARS = 8_000_000
#: One element of a document (a post with all that is in it) larger than this ends the reading: nobody wrote that by hand.
MAX_ELEMENT_BYTES = 32 * 1024 * 1024
#: How much of a file without a byte order mark is searched for its encoding.
_ENCODING_BYTES = 64 * 1024 * 1024

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_WEB_ENCODING = re.compile(r"utf-(?:8|16|32)|ascii|iso8859|cp\d|koi8|mac|gb|big5|euc|shift_jis|iso2022|tis|johab|hz")


class DamagedFile(Exception):
    """The file breaks off or cannot be decompressed any further; the message says where."""


class Source:
    """A regular file on disk, plain, gzip or Zstandard (told apart by magic bytes).

    Args:
        path: where the file is.
        name: what to call it in messages; standard input is spooled to a file but still called ``-``.
        named: whether the caller named this very file (and did not find it in a folder).
    """

    def __init__(self, path: str | os.PathLike, name: str | None = None, named: bool = True) -> None:
        self.path = os.fspath(path)
        self.name = name or self.path
        self.named = named

    def open(self) -> io.BufferedReader:
        """The decompressed bytes.

        Raises:
            OSError: when the file cannot be opened.
            DamagedFile: while reading, where the compressed data break off.
        """
        file = open(self.path, "rb")  # noqa: SIM115 - closed with the stream around it
        magic = file.read(4)
        file.seek(0)
        if magic.startswith(_GZIP):
            import gzip

            return io.BufferedReader(_Decompressed(gzip.GzipFile(fileobj=file), file), 1 << 16)
        if magic == _ZSTD:
            return io.BufferedReader(_Decompressed(_zstd_chunks(file), file), 1 << 16)
        return io.BufferedReader(_Decompressed(file, file), 1 << 16)

    @cached_property
    def compressed(self) -> bool:
        """Whether the file is gzip or Zstandard."""
        with open(self.path, "rb") as file:
            return file.read(4).startswith((_GZIP, _ZSTD))

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` decompressed bytes; fewer when the file is short or damaged."""
        parts: list[bytes] = []
        with self.open() as stream:
            try:
                while sum(map(len, parts)) < HEAD_BYTES and (part := stream.read1(HEAD_BYTES)):
                    parts.append(part)
            except DamagedFile:
                pass  # whoever reads the file reports it
        return b"".join(parts)[:HEAD_BYTES]

    @cached_property
    def head_text(self) -> str:
        """The head decoded for recognition; a character cut at its end is dropped."""
        encoding = self.declared_encoding or ("utf-8" if _is_utf8(self.head) else "cp1252")
        return codecs.getincrementaldecoder(encoding)("replace").decode(self.head).lstrip("\ufeff")

    def forget_head(self) -> None:
        """Free the memory of the head (a folder may hold thousands of files); it is read again when it is needed."""
        for name in ("head", "head_text"):
            self.__dict__.pop(name, None)

    @cached_property
    def declared_encoding(self) -> str:
        """The encoding that a byte order mark, an XML declaration or zeros in every other byte tell, or the empty string."""
        for bom, encoding in _BOMS:
            if self.head.startswith(bom):
                return encoding
        start = self.head[:400]
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            high, low = start[first::2], start[1 - first :: 2]
            if len(start) >= 8 and high.count(0) > 0.9 * len(high) and 0 not in low:
                return encoding
        found = _XML_ENCODING.match(self.head[:200])
        encoding = text_encoding(found[1].decode("ascii")) if found else ""
        return "" if encoding.startswith(("utf-16", "utf-32")) else encoding  # they would have begun with their mark

    @cached_property
    def encoding(self) -> str:
        """The encoding of the whole file: ``utf-8`` unless more lines with other bytes are broken UTF-8 than are not."""
        if self.declared_encoding:
            return self.declared_encoding
        good = bad = seen = 0
        with self.open() as stream:
            try:
                while seen < _ENCODING_BYTES and (line := stream.readline(1 << 20)):
                    seen += len(line)
                    if not line.isascii():
                        valid = _is_utf8(line)
                        good, bad = good + valid, bad + (not valid)
            except DamagedFile:
                pass
        return "cp1252" if bad > good else "utf-8"

    def text(self) -> io.TextIOWrapper:
        """The file as text with its line ends kept. In a UTF-8 file, undecodable bytes become lone surrogates."""
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "replace"
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        return io.TextIOWrapper(self.open(), encoding=encoding, errors=errors, newline="")

    def lines(self) -> Iterator[str]:
        """The lines of the file as `text` decodes them; one longer than `MAX_LINE_CHARS` comes in pieces."""
        with self.text() as text:
            while line := text.readline(MAX_LINE_CHARS):
                yield line

    def utf8(self) -> Iterator[bytes]:
        """The file in chunks of valid UTF-8, undecodable bytes as U+FFFD: for parsers that stop at the first bad byte."""
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        with self.open() as stream:
            first = True
            while chunk := stream.read1(1 << 16):
                text = decoder.decode(chunk)
                if first and text:
                    text, first = text.removeprefix("\ufeff"), False
                if text:
                    yield text.encode("utf-8", "replace")
            if text := decoder.decode(b"", final=True):
                yield text.encode("utf-8", "replace")


def text_lines(text: str) -> Iterator[str]:
    """The lines of a text with their ends, as `Source.lines` cuts them; str.splitlines() also cuts at U+2028 and others."""
    return iter(io.StringIO(text, newline=""))


def text_encoding(name: str) -> str:
    """Python's name of an encoding that a document declares; the empty string for what is none that the web uses."""
    try:
        name = codecs.lookup(name).name
    except (LookupError, ValueError):
        return ""
    return name if _WEB_ENCODING.match(name) else ""  # Python also has hex, idna, unicode_escape and the like


class Chunks(io.RawIOBase):
    """An iterator of byte strings as a binary file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Decompressed(io.RawIOBase):
    """A stream whose every failure to read on is a `DamagedFile`."""

    def __init__(self, stream, file: io.BufferedReader) -> None:
        self._stream = stream
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (EOFError, OSError, zlib.error, ValueError) as error:
            raise DamagedFile(f"the file ends early or is damaged at byte {self._position:,} ({error})") from error
        self._position += len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _zstd_chunks(file: io.BufferedReader) -> io.BufferedReader:
    import zstandard

    # Reddit's dumps need a window of 2 GiB; what is really allocated is what the frame asks for.
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)

    def chunks() -> Iterator[bytes]:
        # stream_reader() takes a cut-off frame for a complete one, so the frames are followed here. The pieces are small
        # because one kilobyte may unpack to 32 MiB.
        rest, frame = b"", None
        while data := rest or file.read(1024):
            rest = b""
            frame = frame or decompressor.decompressobj()
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from error
            if frame.eof:
                rest, frame = frame.unused_data, None
        if frame is not None:
            raise EOFError("compressed file ended before the end-of-stream marker was reached")

    return io.BufferedReader(Chunks(filter(None, chunks())))


def _is_utf8(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)  # a character cut at the end is no error
    except UnicodeDecodeError:
        return False
    return True


def unrecognised(source: Source, problem: str = "is not recognised as a comment export") -> UserError:
    """The error for a file that the caller named and nobody can read."""
    return UserError(
        f"{source.name}: {problem}; expected a saved article page or an export (CSV, JSONL, JSON, Parquet, WordPress, "
        "Disqus, Coral, Reddit, YouTube, remark42, Isso, Commento). Name it with --format, or name its columns with "
        "--map comment_text=COLUMN."
    )


@dataclass(frozen=True)
class Context:
    """What a reader may use besides its own file.

    Attributes:
        columns: the caller's ``--map``: native column to column of the source.
        companions: by role (such as ``stories``), the files that hold what the comments only refer to.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    companions: Mapping[str, Sequence[Source]] = field(default_factory=dict)
