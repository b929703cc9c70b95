"""How rows are cut into blocks, and what a block gives; neither needs a cluster."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderation.schema import UserError
from moderation.score import InputError
from moderation.spread.blocks import Block, cut, for_sorting, read, survey


@pytest.mark.parametrize(
    ("runs", "blocks"),
    [
        ([], []),
        ([("a", 3)], [3]),
        ([("a", 10), ("b", 1)], [10, 1]),
        ([("a", 4), ("b", 4), ("c", 4), ("d", 4)], [12, 4]),  # on to the end of the article
        ([("a", 9), ("b", 11), ("c", 1)], [20, 1]),
        ([("a", 9), ("b", 12), ("c", 1)], [20, 2]),  # but not to more than twice the size
        ([("a", 55)], [20, 20, 15]),
        ([(None, 35)], [10, 10, 10, 5]),  # where there is no article, anywhere
        ([("a", 7), (None, 8), ("b", 2)], [10, 7]),
    ],
)
def test_a_block_ends_where_an_article_ends(runs, blocks):
    assert [rows for rows, _ in cut(runs, 10)] == blocks


def test_a_block_knows_its_articles():
    assert [articles for _, articles in cut([("a", 15), ("b", 6), (None, 3), ("a", 1)], 10)] == [{"a"}, {"b", "a"}]
    assert [articles for _, articles in cut([("a", 21)], 10)] == [{"a"}, {"a"}]


def written(path, columns, group=1000):
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return Block(str(path), str(path), 0, 0)


def cuts(blocks):
    return [(block.first, block.rows) for block in blocks]


@pytest.mark.parametrize(
    "articles",
    [
        pa.array([n // 15 for n in range(60)]),
        pa.array([f"article {n // 15}" for n in range(60)]).dictionary_encode(),
        pa.array([f"article {n // 15}".encode() for n in range(60)]),
    ],
    ids=["numbers", "a dictionary", "bytes"],
)
def test_articles_may_be_named_by_any_type(tmp_path, articles):
    file = written(tmp_path / "rows.parquet", {"body": ["text"] * 60, "story_id": articles}, group=7)
    blocks, met = survey(file, {}, block_rows=20)
    assert cuts(blocks) == [(0, 30), (30, 30)] and len(met) == len(set(met)) == 4


@pytest.mark.parametrize(
    "articles",
    [[None] * 50, [""] * 50, [{"a": n // 25} for n in range(50)], [b"\xff\xfe"] * 50],
    ids=["null", "empty", "objects", "bytes that are no text"],
)
def test_rows_without_an_article_are_cut_anywhere(tmp_path, articles):
    file = written(tmp_path / "rows.parquet", {"body": ["text"] * 50, "article_id": articles})
    blocks, met = survey(file, {}, block_rows=20)
    assert cuts(blocks) == [(0, 20), (20, 20), (40, 10)] and not met


def test_scattered_articles_are_met_in_many_blocks(tmp_path):
    file = written(tmp_path / "rows.parquet", {"body": ["text"] * 400, "article_id": [n % 40 for n in range(400)]})
    _, met = survey(file, {}, block_rows=100)
    assert (len(met), len(set(met))) == (160, 40)
    _, sampled = survey(file, {}, block_rows=100, every=4)
    assert 0 < len(sampled) < 160 and set(sampled) < set(met) and len(sampled) == 4 * len(set(sampled))


@pytest.mark.parametrize(
    ("rows", "share", "cores", "size"),
    [(30_000, 1.0, 2, 3750), (30_000, 0.5, 2, 7500), (300_000, 1.0, 2, 20_000), (30_000, 1.0, 64, 1000)],
)
def test_blocks_are_small_enough_for_all_cores_to_have_work(tmp_path, rows, share, cores, size):
    file = written(tmp_path / "rows.parquet", {"body": ["text"] * rows}, group=100_000)
    blocks, _ = survey(file, {}, share=share, cores=cores)
    assert {block.rows for block in blocks[:-1]} == {size} and sum(block.rows for block in blocks) == rows


def test_a_block_gives_native_columns_and_where_its_rows_came_from(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = {"id": range(50), "body": [f"comment {n}" for n in range(50)], "extra": ["x"] * 50}
    file = written(path, {name: list(values) for name, values in columns.items()}, group=8)
    table = read(Block(file.root, file.path, 13, 20), {})
    assert table.to_pylist() == [
        {"comment_id": n, "comment_text": f"comment {n}", "_file": str(path), "_row": n + 1, "_damage": None}
        for n in range(13, 33)
    ]
    assert read(Block(file.root, file.path, 0, 1), {"comment_text": "extra"})["comment_text"].to_pylist() == ["x"]


def test_damaged_rows_are_in_the_block_with_the_reason(tmp_path):
    path = tmp_path / "rows.parquet"
    file = written(path, {"body": [f"comment {n}" for n in range(30)], "article_id": ["a"] * 30}, group=10)
    damaged = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged[start : start + chunk.total_compressed_size] = bytes([0xFF]) * chunk.total_compressed_size
    path.write_bytes(damaged)
    rows = read(Block(file.root, file.path, 5, 20), {}).to_pylist()
    assert [row["_row"] for row in rows] == list(range(6, 26))
    assert [bool(row["_damage"]) for row in rows] == [False] * 5 + [True] * 10 + [False] * 5
    assert [row["comment_text"] for row in rows[:5]] == [f"comment {n}" for n in range(5, 10)] and not rows[5]["comment_text"]


def test_sorted_rows_keep_their_places_and_those_without_an_article_may_be_cut(tmp_path):
    path, grouped = tmp_path / "rows.parquet", tmp_path / "grouped.parquet"
    articles = [None if n % 5 == 0 else f"a{n % 3}" for n in range(60)]
    file = written(path, {"body": [f"comment {n}" for n in range(60)], "link": articles, "_row": ["mine"] * 60})
    table = for_sorting(Block(file.root, file.path, 0, 60), {"article_url": "link"})
    pq.write_table(table.sort_by("_article"), grouped)
    blocks, met = survey(Block(str(grouped), str(grouped), 0, 0, grouped=True), {}, block_rows=10)
    assert sum(block.rows for block in blocks) == 60 and blocks[0].rows == 10 and len(met) == len(set(met)) == 3
    rows = [row for block in blocks for row in read(block, {}).to_pylist()]
    assert all(row["comment_text"] == f"comment {row['_row'] - 1}" and row["_file"] == str(path) for row in rows)
    assert {row["_row"] for row in rows} == set(range(1, 61)) and set(rows[0]) == {
        *("comment_text", "article_url", "_file", "_row", "_damage")
    }


def test_what_cannot_be_a_block_is_told(tmp_path):
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        survey(Block("no.parquet", str(tmp_path / "no.parquet"), 0, 0), {})
    with pytest.raises(InputError, match="is not on the machine"):
        read(Block("absent.parquet", str(tmp_path / "absent.parquet"), 0, 1), {})
    with pytest.raises(UserError, match="no column is the comment's text"):
        survey(written(tmp_path / "rows.parquet", {"colour": ["red"]}), {})
