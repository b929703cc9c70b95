"""The loaders, on small files of each published layout, written for these tests."""

import gzip
import json

import pytest

from data import corpora
from moderation.schema import Comment, UserError


@pytest.fixture
def folder(tmp_path):
    def put(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())

    line = lambda **row: json.dumps(row) + "\n"
    put("haacked-blog/articles.jsonl.gz", line(article_slug="a", title="A", article_text="Text of A."))
    put(
        "haacked-blog/comments.jsonl.gz",
        line(article_slug="a", comment="Nice.", date="2020-01-01") + line(article_slug="gone", comment="?"),
    )
    put(
        "youtube-spam/videos.csv",
        "video_id,title,description\n9bZkp7q19f0,Dance,A dance\nCevxZvSJLk8,R,r\nKQ6zr6kCPj8,P,p\nuelHwf8o7_U,L,l\n",
    )
    put(
        "youtube-spam/Youtube01-Psy.csv",
        "\ufeffCOMMENT_ID,AUTHOR,DATE,CONTENT,CLASS\nx1,Bo,2013,I &lt;3 it,0\nx2,Al,2013,sub4sub,1\n",
    )
    put("scamspot/comments-rating.csv", "number,scam,msg_length,msg\n0,1,3,earn cash\n1,0,3,yup\n2,0,3,yup\n")
    put(
        "gold-train.jsonl",
        line(
            comment_id="t1",
            source="s",
            key="k",
            article_title="A",
            article_text=None,
            parent_text=None,
            comment_text="Hm",
            label="on-topic",
        ),
    )
    return tmp_path


def test_blog_comments_get_their_article(folder):
    [row] = corpora.rows("haacked-blog", folder)
    assert (row["article_title"], row["article_text"], row["target"]) == ("A", "Text of A.", "own")
    assert Comment.from_row(row).text == "Nice."


def test_marks_and_entities_of_the_youtube_files_are_undone(folder):
    first, second = corpora.rows("youtube-spam", folder)
    assert (first["comment_text"], first["target"], first["article_title"]) == ("I <3 it", "not-spam", "Dance")
    assert second["target"] == "spam"


def test_scamspot_reads_the_text_column_and_drops_repeats(folder):
    assert [(row["comment_text"], row["target"]) for row in corpora.rows("scamspot", folder)] == [
        ("earn cash", "spam"),
        ("yup", "not-spam"),
    ]


def test_our_labels_meet_their_comments_in_blogs_and_in_corpora_without_articles(folder, tmp_path, monkeypatch):
    labels = tmp_path / "labels"
    labels.mkdir()
    [blog] = corpora.rows("haacked-blog", folder)
    scam = corpora.rows("scamspot", folder)[0]
    given = [(blog, "low-effort"), (scam, "spam")]
    lines = [json.dumps({"corpus": row["corpus"], "comment_id": row["comment_id"], "label": label}) for row, label in given]
    (labels / "one.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(corpora, "LABELS_FOLDER", labels)
    found = {(row["comment_text"], row["article_title"], row["label"]) for row in corpora.rows("labels", folder, "train")}
    assert found == {("Nice.", "A", "low-effort"), ("earn cash", "", "spam")}


def test_a_corpus_is_a_dataset_of_native_rows(folder):
    table = corpora.load("gold-train", folder, purpose="train")
    assert table["label"][:] == ["on-topic"] and {"comment_text", "article_title", "target", "corpus"} <= set(
        table.column_names
    )


def test_the_folder_comes_from_the_argument_or_the_environment_and_nowhere_else(folder, monkeypatch):
    monkeypatch.delenv("MODERATION_CORPORA", raising=False)
    with pytest.raises(UserError, match="--corpora PATH or the variable MODERATION_CORPORA"):
        corpora.rows("scamspot")
    monkeypatch.setenv("MODERATION_CORPORA", str(folder))
    assert corpora.rows("scamspot")


def test_missing_or_foreign_files_are_named(folder):
    with pytest.raises(UserError, match=r"spam-samples\.txt: missing"):
        corpora.rows("tg-spam", folder)
    (folder / "scamspot" / "comments-rating.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not in its published layout"):
        corpora.rows("scamspot", folder)
    with pytest.raises(UserError, match="unknown corpus"):
        corpora.rows("nothing", folder)


@pytest.mark.parametrize("name", [name for name, corpus in corpora.CORPORA.items() if corpus.use == "measure"])
def test_measuring_corpora_refuse_to_train(folder, name):
    with pytest.raises(UserError, match="never train"):
        corpora.rows(name, folder, purpose="train")
