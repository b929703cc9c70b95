"""Whatever the bytes, reading ends with comments, rejects or a `UserError`: never with a traceback, never with a bad comment.

Run alone: ``python -m pytest tests/test_readers_fuzz.py``
"""

from __future__ import annotations

import gzip
import io
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderation.readers import FORMATS, read_comments
from moderation.readers.article_page import parse_page
from moderation.readers.html_page import parse_html_page
from moderation.readers.markup import html_to_text
from moderation.schema import MAX_COMMENT_CHARS, Comment, Reject, UserError

DATA = Path(__file__).parent / "readers_data"
FIXTURES = {
    "article-page": "page.txt",
    "html-page": "page.html",
    "wordpress": "wordpress.xml",
    "wordpress-csv": "wordpress.csv",
    "disqus": "disqus.xml",
    "coral-csv": "coral/comments.csv",
    "coral-json": "coral_json/comments.json",
    "reddit": "reddit/RC_2020-01.ndjson",
    "youtube": "youtube.json",
    "remark42": "remark42.jsonl",
    "isso": "isso.json",
    "commento": "commento.json",
    "csv": "native.csv",
    "jsonl": "foreign.jsonl",
}

# Pieces that parsers trip over, put in at random places.
NASTY = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"'", b"\\ud800", b"\r", b"\n\n", b"<![CDATA[", b"]]>", b"&x;", b"&#0;",
    b"<a>" * 300, b"[" * 3000, b'{"a":' * 500, b"9" * 400, b"1e999", b"NaN", b"null", b"{}", b"[]", b"-", b",", b"</item>", b"</div>",
    b"\xe2\x80\xae", "\U0001f600".encode(), b"<!--", b"<script>", b"<wp:comment>", b"Reply\n", b"3 Comments\n", b"<?xml", b"\x1f\x8b",
)  # fmt: skip

mutations = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.floats(0, 1)),
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.one_of(st.sampled_from(NASTY), st.binary(max_size=20))),
        st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 200)),
        st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 400)),
        st.tuples(st.just("encode"), st.sampled_from(["utf-16", "cp1252", "utf-16-be"])),
        st.tuples(st.just("gzip"), st.floats(0, 1)),
    ),
    min_size=1,
    max_size=5,
)
fuzz = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def mutate(data: bytes, steps: list[tuple]) -> bytes:
    for kind, *arguments in steps:
        at = int(len(data) * arguments[0]) if isinstance(arguments[0], float) else 0
        if kind == "cut":
            data = data[:at]
        elif kind == "flip" and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ arguments[1]]) + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + arguments[1] + data[at:]
        elif kind == "drop":
            data = data[:at] + data[at + arguments[1] :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + arguments[1]] * 2 + data[at:]
        elif kind == "encode":
            data = data.decode("utf-8", "replace").encode(arguments[0], "replace")
        elif kind == "gzip":
            packed = gzip.compress(data, mtime=0)
            data = packed[: max(4, int(len(packed) * (0.5 + arguments[0])))]
    return data


def check(path: Path, **options: object) -> None:
    try:
        items = list(read_comments([path], **options))
    except UserError as error:
        assert str(error).strip()
        return
    for item in items:
        if isinstance(item, Reject):
            assert item.reason.strip() and item.position
            item.to_row()["raw"].encode("utf-8")
            continue
        assert isinstance(item, Comment) and item.text.strip() and len(item.text) <= MAX_COMMENT_CHARS
        assert item.comment_id
        for value in item.to_row().values():
            value.encode("utf-8")


@pytest.mark.parametrize("name", FIXTURES)
@fuzz
@given(steps=mutations)
def test_broken_exports_never_raise_and_never_give_a_bad_comment(name: str, steps: list[tuple], tmp_path: Path) -> None:
    path = tmp_path / "export"
    path.write_bytes(mutate((DATA / FIXTURES[name]).read_bytes(), steps))
    check(path)
    check(path, format=name)
    check(tmp_path)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in FIXTURES])
@fuzz
@given(steps=mutations)
def test_broken_files_of_the_binary_and_array_formats_never_raise(name: str, steps: list[tuple], tmp_path: Path) -> None:
    data = {"parquet": parquet_bytes, "json": lambda: b'[{"text": "a", "id": 1}, {"text": "b", "parent_id": 1}]'}[name]()
    path = tmp_path / "export"
    path.write_bytes(mutate(data, steps))
    check(path)
    check(path, format=name)


@fuzz
@given(steps=mutations)
def test_a_broken_isso_database_never_raises(steps: list[tuple], tmp_path: Path) -> None:
    path = tmp_path / "comments.db"
    path.write_bytes(mutate(isso_database(tmp_path / "whole.db"), steps))
    check(path)
    check(path, format="isso")


@fuzz
@given(data=st.binary(max_size=400), name=st.sampled_from(FORMATS))
def test_any_bytes_as_any_format(data: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    path.write_bytes(data)
    check(path, format=name)
    check(path)


KEYS = st.sampled_from(
    [
        "id",
        "text",
        "body",
        "parent_id",
        "parentID",
        "items",
        "snippet",
        "topLevelComment",
        "comments",
        "commenters",
        "commentHex",
        "revisions",
        "storyID",
        "locator",
        "user",
        "name",
        "url",
        "title",
        "link_id",
        "replies",
        "videoId",
        "textOriginal",
        "createdAt",
        "$date",
        "created_utc",
        "delete",
        "version",
        "posts",
        "users",
        "mode",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=25,
)


@settings(fuzz, max_examples=150)
@given(value=json_values, name=st.sampled_from([name for name in FORMATS if "csv" not in name and "page" not in name]))
def test_json_of_the_wrong_shape(value: object, name: str, tmp_path: Path) -> None:
    import json

    path = tmp_path / "export.json"
    for wrapped in (value, [value], {"items": [value]}, {"comments": [value], "commenters": [value]}):
        path.write_text(json.dumps(wrapped), encoding="utf-8")
        check(path, format=name)


LINES = st.sampled_from(
    [
        "",
        "Reply",
        "Like",
        "3 Comments",
        "Comments (2)",
        "By Ann Lee",
        "Ann Lee",
        "March 3, 2024",
        "2 days ago",
        "x" * 150,
        "Advertisement",
    ]
)


@settings(fuzz, max_examples=300)
@given(lines=st.lists(LINES | st.text(max_size=30), max_size=25))
def test_any_text_is_a_page(lines: list[str]) -> None:
    page = parse_page("\n".join(lines))
    assert all(comment.text.strip() for comment in page.comments)


@settings(fuzz, max_examples=200)
@given(
    parts=st.lists(
        st.sampled_from([b.decode("latin-1") for b in NASTY])
        | st.text(max_size=20)
        | st.sampled_from(
            [
                "<li class=comment>",
                "</li>",
                "<p>",
                "<div itemtype='x/Comment'>",
                "<a href='http://[x'>",
                "<article>",
                "<time datetime=z>",
            ]
        ),
        max_size=12,
    )
)
def test_any_markup_becomes_text(parts: list[str]) -> None:
    markup = "".join(parts)
    html_to_text(markup).encode("utf-8")
    parse_html_page(markup)


def parquet_bytes() -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "id": [1, 2], "parent_id": [None, 1]}), buffer)
    return buffer.getvalue()


def isso_database(path: Path) -> bytes:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as store:
        store.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE threads (id INTEGER PRIMARY KEY, uri VARCHAR(256) UNIQUE, title VARCHAR(256));"
            "CREATE TABLE comments (tid REFERENCES threads(id), id INTEGER PRIMARY KEY, parent INTEGER, created FLOAT NOT NULL,"
            "modified FLOAT, mode INTEGER, remote_addr VARCHAR, text VARCHAR, author VARCHAR, email VARCHAR, website VARCHAR);"
            "INSERT INTO threads VALUES (1, '/tea/', 'Tea');"
            "INSERT INTO comments VALUES (1, 1, NULL, 1600000000.5, NULL, 1, '', 'First', 'Ann', '', '');"
            "INSERT INTO comments VALUES (1, 2, 1, 1600000001, NULL, 2, '', 'Second', 'Ben', '', '');"
            "INSERT INTO comments VALUES (1, 3, 1, 1600000002, NULL, 4, '', '', NULL, NULL, '');"
        )
    store.close()
    return path.read_bytes()
