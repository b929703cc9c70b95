"""Large XML exports element by element, on a parser that expands nothing and fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from moderation.schema import UserError

from .source import DamagedFile, Source

_CONTROLS = bytes({*range(32)} - {*b"\t\n\r"})
_BEFORE_ROOT = re.compile(rb"(?:\s+|<!--.*?-->|<\?.*?\?>)*", re.DOTALL)
_ROOT = re.compile(_BEFORE_ROOT.pattern + rb"<(?P<name>[^!?\s/>][^\s/>]*)[\s/>]", re.DOTALL)
#: Far more than the longest comment; as empty elements, it takes some 500 MB.
_MAX_ELEMENT_BYTES = 8 * 1024 * 1024
#: No export has more than this above its root element.
_MAX_PROLOG = 1024 * 1024


def elements(source: Source, starts: Collection[str], ends: Collection[str], whole: Collection[str]) -> Iterator[tuple]:
    """Parse a document and yield ``(event, element)``: "start" for the tags in `starts`, "end" for those in `ends`.

    Tags are without namespace. Whatever has been parsed is thrown away soon after, but for elements named in `whole`, which
    keep their children until they end; so memory stays flat as long as those are small.

    Raises:
        UserError: when the document has a DTD; nobody's export needs one, and entities are how XML attacks are made.
        DamagedFile: where the document breaks off or is not well-formed any more.
    """
    from lxml import etree

    chunks = _without_dtd(source, _legal(source))
    try:
        first = next(chunks, b"")
    except DamagedFile:
        first = b""
        chunks = _legal(source)  # meets the damage again, where it is reported
    found = _ROOT.match(first)
    top = found["name"].decode("ascii", "replace").rpartition(":")[2] if found else ""
    top = top if re.fullmatch(r"[A-Za-z_][\w.-]*", top, re.ASCII) else "rss"
    parser = etree.XMLPullParser(
        events=("start", "end"),
        tag=[f"{{*}}{tag}" for tag in {*starts, *ends, top}],
        encoding="utf-8",  # what `_legal` gives, whatever the declaration says
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    starts, ends, count = frozenset(starts), frozenset(ends), 0
    root = last = None
    held = 0
    broken: DamagedFile | None = None
    while broken is None:
        try:
            chunk, first = first or next(chunks, b""), b""
            if chunk:
                parser.feed(chunk)
            else:
                parser.close()
        except (etree.XMLSyntaxError, DamagedFile) as error:
            reason = f"the file ends early or is damaged after element {count:,} ({str(error)[:120]})"
            broken = error if isinstance(error, DamagedFile) else DamagedFile(reason)
        for event, element in parser.read_events():
            root = element.getroottree().getroot() if root is None else root
            tag = local_name(element)
            if event == "end":
                count += tag in whole
            if tag in (starts if event == "start" else ends):
                yield event, element
        if broken is None and not chunk:
            return
        if root is not None:
            node = _prune(root, whole)
            held = held + len(chunk) if node is last else 0
            last = node
            if held > _MAX_ELEMENT_BYTES and broken is None:
                broken = DamagedFile(f"the element after element {count:,} has more than {_MAX_ELEMENT_BYTES:,} bytes")
    raise broken


def local_name(element) -> str:
    """The tag of an element without its namespace, which differs between versions of an export."""
    return element.tag.rpartition("}")[2]


def child_text(element, name: str) -> str:
    """The text of the first child with a (local) name, CDATA and all; the empty string where there is none."""
    for child in element:
        if isinstance(child.tag, str) and local_name(child) == name:
            return "".join(child.itertext()).strip()
    return ""


def _prune(root, whole: Collection[str]):
    """Throw away everything that has ended, walking down along the element that is being parsed; returns the lowest."""
    node = root
    while len(node) and local_name(node) not in whole:
        del node[:-1]
        node = node[-1]
    return node


def _legal(source: Source) -> Iterator[bytes]:
    """The document in UTF-8 without the control characters that XML forbids and exports have nevertheless."""
    for chunk in source.utf8():
        chunk = chunk.translate(None, _CONTROLS)
        if chunk := chunk.replace(b"\xef\xbf\xbe", b"").replace(b"\xef\xbf\xbf", b""):  # U+FFFE and U+FFFF
            yield chunk


def _without_dtd(source: Source, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, once it is known that no DTD stands before the root element."""
    prolog = b""
    for chunk in chunks:
        prolog += chunk
        rest = prolog[_BEFORE_ROOT.match(prolog).end() :]
        if _ROOT.match(prolog):
            break
        if rest.startswith(b"<!D") or len(prolog) > _MAX_PROLOG:
            raise UserError(
                f"{source.name}: refused, because it declares a document type (DTD), which may define entities; "
                "expected an export as the platform wrote it. Delete the <!DOCTYPE …> if you trust the file."
            )
    yield prolog
    yield from chunks
