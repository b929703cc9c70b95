"""Labelled rows: the formats, what is refused or warned of, threads, slices, and leakage."""

import gzip
import json

import pytest
import zstandard

from moderation.schema import UserError
from training import labelled

ROWS = [
    {
        "comment_id": "1",
        "comment_text": "The bridge closed in May.",
        "article_id": "a",
        "article_title": "Bridge",
        "label": "on-topic",
        "team": "x",
    },
    {
        "comment_id": "2",
        "comment_text": "lol",
        "article_id": "a",
        "article_title": "Bridge",
        "parent_id": "1",
        "label": "low-effort",
        "team": "y",
    },
]


def jsonl(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def as_csv(rows, delimiter=","):
    names = list(dict.fromkeys(name for row in rows for name in row))
    return (
        "\n".join(delimiter.join(cells) for cells in [names, *[[str(row.get(name, "")) for name in names] for row in rows]])
        + "\n"
    )


def write(folder, kind):
    path = folder / f"rows.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([{"parent_id": None} | row for row in ROWS]), path)
        return str(path)
    data = {
        "jsonl": lines,
        "json": json.dumps(ROWS).encode(),
        "csv": b"\xef\xbb\xbf" + as_csv(ROWS).encode(),
        "tsv": as_csv(ROWS, "\t").encode(),
        "jsonl.gz": gzip.compress(lines),
        "jsonl.zst": zstandard.ZstdCompressor().compress(lines),
    }[kind]
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "jsonl.zst"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path, kind):
    data = labelled.read([write(tmp_path, kind)])
    assert data.truth == ["on-topic", "low-effort"]
    assert [row["team"] for row in data.rows] == ["x", "y"]
    assert data.comments[1].parent_text == "The bridge closed in May."
    assert data.groups == ["id:a", "id:a"] and data.comments[0].article is data.comments[1].article


def test_columns_of_other_names_are_mapped(tmp_path):
    path = jsonl(tmp_path, [{"body": "Very interesting, says who?", "judgement": "spam"}])
    data = labelled.read([path], columns={"comment_text": "body"}, label="judgement")
    assert (data.truth, data.comments[0].text) == (["spam"], "Very interesting, says who?")


def test_an_export_without_labels_is_joined_with_a_table_of_them(tmp_path):
    page = tmp_path / "export.json"
    page.write_text(json.dumps([{"id": "7", "comment": "First!"}, {"id": "8", "comment": "Nobody asked the miners."}]))
    labels = tmp_path / "labels.csv"
    labels.write_text("comment_id,label\n7,low-effort\n")
    data = labelled.read([str(page)], labels_file=str(labels))
    assert data.truth == ["low-effort"]
    assert [code for code, _ in data.warnings] == ["no-label"]


def test_labels_that_fit_no_comment_are_refused(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("comment_id,label\n99,spam\n")
    with pytest.raises(UserError, match="none of its 2 comments"):
        labelled.read([jsonl(tmp_path, ROWS)], labels_file=str(labels))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROWS[0] | {"label": "fine"}], "line 1: label 'fine'; expected one of on-topic"),
        ([{"comment_text": "x"}], "no column 'label'"),
        ([{"label": "spam"}], "no column comment_text"),
        ([ROWS[0] | {"label": ""}], "none of 1 rows has both"),
        ([ROWS[0], ROWS[0] | {"label": "spam"}], "has the label 'spam' here and 'on-topic' before"),
        ([{"comment_text": "x", "positive": "1"}], "need --positive-label"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        labelled.read([jsonl(tmp_path, rows)])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1 not really",
        b"\x1f\x8bbroken",
        b"\x28\xb5\x2f\xfdbroken",
        b"\xff\xfe\x00",
        b'{"a": 1}\n{"a"',
        b"[1, 2]",
        b"a,b\n1\n",
        b"{}\n5\n",
    ],
)
def test_files_that_are_no_tables_give_one_line_and_no_traceback(tmp_path, content):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bad"):
        labelled.read([str(path)])


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"/no/such\.jsonl"):
        labelled.read(["/no/such.jsonl"])


def test_the_labels_of_a_model_are_no_truth(tmp_path):
    verdict = {
        "label": "spam",
        "p_on_topic": 0,
        "p_off_topic": 0,
        "p_spam": 1,
        "p_low_effort": 0,
        "action": "review",
        "reason": "r",
        "model_version": "thread-1",
    }
    with pytest.raises(UserError, match="given by a model"):
        labelled.read([jsonl(tmp_path, [ROWS[0] | verdict])])


def test_rows_without_a_label_or_a_text_are_left_out_and_counted(tmp_path):
    data = labelled.read(
        [
            jsonl(
                tmp_path,
                [*ROWS, ROWS[0] | {"comment_id": "3", "label": None}, ROWS[0] | {"comment_id": "4", "comment_text": " "}],
            )
        ]
    )
    assert len(data) == 2
    assert {code for code, _ in data.warnings} == {"no-label", "unreadable"}


def test_repeated_rows_count_once_and_shared_ids_are_warned_of(tmp_path):
    data = labelled.read([jsonl(tmp_path, [*ROWS, ROWS[0], ROWS[1] | {"comment_text": "another"}])])
    assert len(data) == 3
    assert {code for code, _ in data.warnings} == {"duplicate-rows", "duplicate-ids"}


def test_a_yes_no_question_is_read_from_positive(tmp_path):
    data = labelled.read([jsonl(tmp_path, [ROWS[0] | {"positive": 1}, ROWS[1] | {"positive": "0.0"}])], binary=True)
    assert (data.positive, data.truth) == ([1, 0], ["", ""])


def test_positive_must_be_yes_or_no(tmp_path):
    with pytest.raises(UserError, match="positive is 'maybe'"):
        labelled.read([jsonl(tmp_path, [ROWS[0] | {"positive": "maybe"}])], binary=True)


def test_threads_are_articles_or_else_parents_or_else_the_comment_itself(tmp_path):
    rows = [
        {"comment_text": "a", "article_url": "http://x.example/1", "label": "spam"},
        {"comment_text": "b", "article_title": "T", "label": "spam"},
        {"comment_text": "c", "parent_text": "P", "label": "spam"},
        {"comment_text": "d", "comment_id": "9", "label": "spam"},
    ]
    assert labelled.read([jsonl(tmp_path, rows)]).groups == ["url:http://x.example/1", "title:T", "parent:P", "comment:9"]


def test_slices_cover_what_the_rows_know(tmp_path):
    rows = [
        ROWS[0] | {"created_at": "2024-05-01", "status": "approved", "language": "en"},
        ROWS[1] | {"created_at": "2024-06-01", "status": "spam", "language": "fr"},
    ]
    columns = labelled.slice_columns(labelled.read([jsonl(tmp_path, rows)]), ["team"])
    assert columns["length"] == ["4-10 words", "1-3 words"]
    assert columns["has parent"] == ["no", "yes"]
    assert columns["position in thread"] == ["first", "2-5"]
    assert columns["month"] == ["2024-05", "2024-06"]
    assert columns["language"] == ["en", "fr"]
    assert columns["status"] == ["approved", "spam"]
    assert columns["team"] == ["x", "y"]


def test_position_in_thread_follows_the_dates(tmp_path):
    rows = [ROWS[0] | {"created_at": "2024-06-02"}, ROWS[1] | {"created_at": "2024-06-01"}]
    assert labelled.slice_columns(labelled.read([jsonl(tmp_path, rows)]))["position in thread"] == ["2-5", "first"]


def test_a_column_of_many_values_keeps_the_largest(tmp_path):
    rows = [ROWS[0] | {"comment_id": str(number), "desk": f"d{number}" if number > 9 else "news"} for number in range(70)]
    values = labelled.slice_columns(labelled.read([jsonl(tmp_path, rows)]))["desk"]
    assert "news" in values and len(set(values)) == labelled.MAX_VALUES + 1 and values[-1].startswith("(others")


def test_an_unknown_slice_names_the_columns(tmp_path):
    with pytest.raises(UserError, match=r"--slice nope: no such column; found .*team"):
        labelled.slice_columns(labelled.read([jsonl(tmp_path, ROWS)]), ["nope"])


@pytest.mark.parametrize(("text", "share"), [("200/5000", 0.04), ("4%", 0.04), ("0.04", 0.04), ("1", 1.0)])
def test_a_budget_is_a_share(text, share):
    assert labelled.parse_budget(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "0", "5", "1/0", "-1%", "many", "nan"])
def test_a_budget_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="--budget"):
        labelled.parse_budget(text)


def test_a_time_split_learns_before_and_measures_after(tmp_path):
    rows = [
        ROWS[0] | {"created_at": "2024-05-31"},
        ROWS[1] | {"created_at": "2024-06-01T10:00:00"},
        ROWS[0] | {"comment_id": "5"},
    ]
    before, after = labelled.split_by_date(labelled.read([jsonl(tmp_path, rows)]), "2024-06")
    assert [one.rows[0]["comment_id"] for one in (before, after)] == ["1", "2"]
    assert after.warnings[-1][0] == "no-date"


@pytest.mark.parametrize("date", ["soon", "2030-01-01"])
def test_a_time_split_without_rows_is_refused(tmp_path, date):
    with pytest.raises(UserError, match="--after"):
        labelled.split_by_date(labelled.read([jsonl(tmp_path, [ROWS[0] | {"created_at": "2024-05-31"}])]), date)


def test_comments_that_a_model_was_trained_on_are_recognised(tmp_path):
    data = labelled.read([jsonl(tmp_path, ROWS)])
    (tmp_path / "trained_on.txt").write_text(labelled.fingerprint("  THE BRIDGE closed in may.") + "\n")
    assert labelled.leaked(data, tmp_path) == [0]


def test_a_model_that_does_not_say_what_it_was_trained_on_is_unknown(tmp_path):
    assert labelled.leaked(labelled.read([jsonl(tmp_path, ROWS)]), tmp_path) is None


def test_own_against_foreign_rows_come_from_the_corpus_in_its_published_layout(tmp_path):
    (tmp_path / "c3-dev").mkdir()
    names = "comment_counter,comment_text,article_id,title,njudgements_constructiveness_expt,constructive,v_non_relevant,v_unsubstantial"
    lines = [
        names,
        "1,The tunnel is late.,a,Tunnel,5,1.0,0,0",
        "2,Wheat prices fell.,b,Wheat,5,1.0,0,0",
        "3,Off it goes.,b,Wheat,5,0.1,4,0",
    ]
    (tmp_path / "c3-dev" / "c3_dev.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    data = labelled.read(["corpus:c3-pairs"], corpora=tmp_path, binary=True)
    titles = {
        (comment.text, comment.article.title): answer for comment, answer in zip(data.comments, data.positive, strict=True)
    }
    assert titles == {
        ("The tunnel is late.", "Tunnel"): 0,
        ("The tunnel is late.", "Wheat"): 1,
        ("Wheat prices fell.", "Wheat"): 0,
        ("Wheat prices fell.", "Tunnel"): 1,
    }
