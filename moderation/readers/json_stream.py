"""JSON without holding the document: its outline for recognition, and its elements one at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache

from .source import MAX_ELEMENT_BYTES, Chunks, DamagedFile, Source

#: Enough events to see the shape of the first elements of any export.
_OUTLINE_EVENTS = 5000


@lru_cache(maxsize=4)  # every format asks for it
def outline(source: Source) -> frozenset[str]:
    """The paths of the JSON values at the start of the file, such as ``items.item.snippet``; empty when it is no JSON.

    A file of JSON lines has the paths of its objects (``id``, ``body``), an array those with ``item`` in front.
    """
    if not source.head_text.lstrip().startswith(("{", "[")):
        return frozenset()
    import ijson

    paths: set[str] = set()
    try:
        events = ijson.parse(io.BytesIO(source.head_text.encode("utf-8", "replace")), multiple_values=True)
        for number, (path, event, _) in enumerate(events):
            if event in ("start_map", "start_array", "string", "number", "boolean", "null"):
                paths.add(path)
            if number > _OUTLINE_EVENTS:
                break
    except (ijson.JSONError, ValueError, OverflowError):
        pass  # the head ends somewhere within a value
    return frozenset(paths)


def first_array(source: Source) -> str | None:
    """The path of the elements of the first array of objects, near the top: ``item`` or, say, ``comments.item``."""
    paths = outline(source)
    for path in ("item", "comments.item", "items.item", "data.item", "results.item", "rows.item", "posts.item"):
        if path in paths:
            return path
    return None


def names_at(source: Source, path: str) -> list[str]:
    """The names within the objects at a path (the empty string: the document itself), nested ones dotted, without arrays."""
    inside = f"{path}." if path else ""
    found = (name.removeprefix(inside) for name in outline(source) if name.startswith(inside))
    return sorted(name for name in found if name and "item" not in name.split("."))


def elements(source: Source, *paths: str) -> Iterator[tuple[str, object]]:
    """Every value at one of the paths, in order, as ``(path, value)``.

    Raises:
        DamagedFile: where the document breaks off or is no JSON any more.
    """
    import ijson
    from ijson.common import ObjectBuilder

    wanted = frozenset(paths)
    count = held = 0

    def chunks() -> Iterator[bytes]:
        nonlocal held
        for chunk in source.utf8():
            held += len(chunk)
            if held > MAX_ELEMENT_BYTES:
                raise DamagedFile(f"the element after element {count:,} has more than {MAX_ELEMENT_BYTES:,} bytes")
            yield chunk

    stream = io.BufferedReader(Chunks(chunks()))
    builder = end = None
    depth = 0
    try:
        for path, event, value in ijson.parse(stream, multiple_values=True, use_float=True):
            if builder is None:
                held = 0
                if path not in wanted or event in ("map_key", "end_map", "end_array"):
                    continue
                builder, end, depth = ObjectBuilder(), path, 0
            builder.event(event, value)
            depth += (event in ("start_map", "start_array")) - (event in ("end_map", "end_array"))
            if depth == 0 and event != "map_key":
                count += 1
                result, builder = builder.value, None
                yield end, result
    except DamagedFile:
        raise
    except (ijson.JSONError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DamagedFile(f"the file ends early or is damaged after element {count:,} ({reason})") from error
