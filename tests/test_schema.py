import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.schema import LABELS, MAX_COMMENT_CHARS, ROW_FIELDS, Article, Comment, RowError, Verdict, clean_text

texts = st.text(st.characters(codec=None), max_size=60)


@given(st.dictionaries(st.sampled_from(ROW_FIELDS), st.one_of(texts, st.none(), st.integers(), st.floats()), max_size=12))
def test_a_row_becomes_a_writable_comment_or_a_row_error(row):
    try:
        comment = Comment.from_row(row)
    except RowError:
        assert not clean_text(row.get("comment_text")).strip()
        return
    flat = comment.to_row()
    assert list(flat) == list(ROW_FIELDS)
    assert all(value.encode("utf-8") is not None and "\0" not in value for value in flat.values())
    assert Comment.from_row(flat) == comment


def test_ids_are_made_from_the_content_and_only_where_they_are_missing():
    row = {"comment_text": "The bridge is older than that.", "article_title": "Old bridge", "author": "Ines"}
    first, again = Comment.from_row(row), Comment.from_row(dict(row))
    assert first.comment_id == again.comment_id != ""
    assert Comment.from_row(row | {"comment_text": "Another text"}).comment_id != first.comment_id
    assert Comment.from_row(row | {"article_title": "Another article"}).comment_id != first.comment_id
    assert Comment.from_row(row | {"comment_id": "17"}).comment_id == "17"


@pytest.mark.parametrize("text", [None, "", " \n\t ", float("nan"), "\x00\x01"])
def test_a_row_without_text_is_refused(text):
    with pytest.raises(RowError, match="comment_text is empty"):
        Comment.from_row({"comment_text": text})


def test_an_absurdly_long_comment_is_refused_with_its_size():
    with pytest.raises(RowError, match="1,000,001 characters"):
        Comment.from_row({"comment_text": "a" * (MAX_COMMENT_CHARS + 1)})


def test_lone_surrogates_and_control_characters_do_not_survive_but_visible_text_does():
    assert clean_text("a\ud800b\x00c\x1b[31m\td\ne\r\nf") == "a\ufffdbc[31m\td\ne\nf"
    assert clean_text("سلام \u200f👍") == "سلام \u200f👍"


def test_comments_of_a_thread_can_share_their_article():
    article = Article("7", "Title")
    assert Comment.from_row({"comment_text": "x", "article_title": "ignored"}, article).article is article


def test_a_verdict_row_has_one_probability_a_label():
    verdict = Verdict("spam", dict(zip(LABELS, (0.1, 0.2, 0.6, 0.1), strict=True)), "review", "because", "v1")
    row = verdict.to_row()
    assert (row["p_on_topic"], row["p_off_topic"], row["p_spam"], row["p_low_effort"]) == (0.1, 0.2, 0.6, 0.1)
