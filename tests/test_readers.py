"""What the readers promise: every export gives its comments in their thread, and says what it set aside.

Run alone: ``python -m pytest tests/test_readers.py``
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from moderation.readers import FORMATS, Reading, inputs, read_comments
from moderation.readers.article_page import parse_page
from moderation.readers.html_page import parse_html_page
from moderation.readers.markup import html_to_text
from moderation.readers.threads import Threads
from moderation.schema import MAX_COMMENT_CHARS, ROW_FIELDS, VERDICT_FIELDS, Article, Comment, Reject, UserError

DATA = Path(__file__).parent / "readers_data"
PROSE = "The ferry company has ordered two new ships, which will be built over the next three years in a yard on the coast."


def read(*paths: Path | str, **options: object) -> tuple[list[Comment], list[Reject]]:
    items = list(read_comments(paths, **options))
    return [i for i in items if isinstance(i, Comment)], [i for i in items if isinstance(i, Reject)]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def brief(comments: list[Comment]) -> list[tuple[str, str, str, str]]:
    return [(c.comment_id, c.text, c.parent_text, c.status) for c in comments]


# Formats


def test_wordpress_wxr_gives_every_comment_under_its_post() -> None:
    comments, rejects = read(DATA / "wordpress.xml")
    tape = "Copper tape did it for me:\nthis one (https://tape.example/?a=1&b=2)"
    assert brief(comments) == [
        ("101", tape, "", "approved"),
        ("102", "Where do you buy it?", tape, "pending"),
        ("103", "[...] slugs again [...]", "", "trash"),
    ]
    assert comments[0].article == Article(
        "12", "Slugs & lettuce", "Beer traps work on most slugs.", "https://garden.example/slugs"
    )
    assert comments[0].created_at == "2024-05-01T09:00:00Z"
    assert comments[2].created_at == ""  # WordPress writes 0000-00-00 for no date
    assert [(r.position, "empty" in r.reason) for r in rejects] == [("comment 104", True)]


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_wordpress_namespace_versions_are_read_alike(version: str, tmp_path: Path) -> None:
    text = (DATA / "wordpress.xml").read_text("utf-8").replace("export/1.2/", f"export/{version}/")
    assert len(read(written(tmp_path, "export.xml", text))[0]) == 3


def test_wordpress_csv_takes_article_and_parent_from_the_wxr_beside_it() -> None:
    alone, _ = read(DATA / "wordpress.csv")
    assert [(c.article.article_id, c.article.title, c.status) for c in alone] == [
        ("12", "", "spam"),
        ("99", "", "spam"),
    ]
    joined, _ = read(DATA / "wordpress.csv", DATA / "wordpress.xml")
    spam = joined[0]
    assert (spam.text, spam.article.title) == ("Buy pills (https://pills.example)", "Slugs & lettuce")
    assert spam.parent_text.startswith("Copper tape")
    assert len(joined) == 5


def test_wordpress_csv_asked_for_by_name_still_takes_the_wxr_beside_it_as_one() -> None:
    comments, rejects = read(DATA / "wordpress.csv", DATA / "wordpress.xml", format="wordpress-csv")
    assert [c.comment_id for c in comments] == ["201", "202", "101", "102", "103"]
    assert comments[0].article.title == "Slugs & lettuce" and [r.position for r in rejects] == ["comment 104"]


def test_a_comment_in_both_of_wordpress_exports_is_read_once(tmp_path: Path) -> None:
    table = "comment_ID,comment_post_ID,comment_content\n101,12,Copper tape\n900,12,Buy pills\n"
    comments, rejects = read(written(tmp_path, "c.csv", table), DATA / "wordpress.xml")
    assert sorted(c.comment_id for c in comments) == ["101", "102", "103", "900"]
    assert [r.reason.split(":")[0] for r in rejects if r.file.endswith(".csv")] == ["duplicate id"]


@pytest.mark.parametrize("quoted", ['<rss xmlns:wp="http://wordpress.org/export/1.2/">', '<disqus xmlns="http://disqus.com">'])
def test_a_comment_that_quotes_an_export_is_no_export(quoted: str, tmp_path: Path) -> None:
    comments, _ = read(written(tmp_path, "a.jsonl", json.dumps({"text": quoted.replace('"', "'")})))
    assert [c.text for c in comments] == [quoted.replace('"', "'")]


def test_disqus_keeps_spam_deleted_orphans_and_threads_without_an_id() -> None:
    comments, rejects = read(DATA / "disqus.xml")
    north = "North is up (https://maps.example/up)."
    assert brief(comments) == [
        ("30", "Reply before its parent.", north, "approved"),
        ("31", north, "", "approved"),
        ("32", "casino bonus", "", "spam"),
        ("33", "gone but kept", "", "deleted"),
    ]
    assert comments[0].article.title == "Where is north?"  # the thread stands below the post
    assert comments[3].article == Article()
    assert [(r.position, r.reason.split(":")[0]) for r in rejects] == [
        ("post 31", "duplicate id"),
        ("post 34", "text deleted"),
    ]


def test_coral_csv_without_header_is_joined_to_stories_and_users() -> None:
    comments, rejects = read(DATA / "coral")
    assert brief(comments) == [
        ("c1", "First, a point.\n\nThen another.", "", "approved"),
        ("c2", "No", "First, a point.\n\nThen another.", "rejected"),
        ("c3", "Story unknown", "", "none"),
    ]
    assert comments[0].article == Article("s1", "New trams arrive", "", "https://daily.example/trams")
    assert [c.author for c in comments] == ["ann", "bob", ""]
    assert [r.position for r in rejects] == ["row 4"]


def test_coral_mongoexport_gives_the_last_revision() -> None:
    comments, rejects = read(DATA / "coral_json")
    assert brief(comments) == [("k1", "First", "", "approved"), ("k2", "Second", "First", "system_withheld")]
    assert comments[0].article.title == "New trams arrive"
    assert comments[0].created_at == "2024-02-01T10:00:00.000Z"
    assert [r.reason for r in rejects] == ["text deleted"]


def test_reddit_tells_removed_from_deleted_and_joins_submissions() -> None:
    comments, rejects = read(DATA / "reddit")
    assert [c.comment_id for c in comments] == ["a1", "a2", "a5"]
    assert comments[0].article.title == "Motor or paddle?"
    assert comments[0].text == "Paddle > motor & always will be"
    assert comments[1].parent_text == comments[0].text
    assert (comments[1].text, comments[1].author) == ("Depends on the **river**", "")  # Markdown stays
    assert comments[2].parent_text == "" and comments[2].article.article_id == "zz"
    assert [r.reason for r in rejects] == ["text removed by a moderator", "text deleted by its author"]


def test_lone_surrogates_in_json_reach_neither_article_nor_comment(tmp_path: Path) -> None:
    written(tmp_path, "s.jsonl", json.dumps({"id": "s", "title": "T\ud83d", "selftext": "x", "subreddit": "r"}))
    row = {"id": "c", "body": "hi\ud83d", "link_id": "t3_s", "parent_id": "t1_\ud83d", "author": "\udc00"}
    written(tmp_path, "c.jsonl", json.dumps(row) + "\n" + json.dumps(row | {"id": "d", "link_id": "t3_\ud83d"}))
    comments, rejects = read(tmp_path)
    assert [(c.text, c.article.title, c.parent_id) for c in comments] == [
        ("hi\ufffd", "T\ufffd", "\ufffd"),
        ("hi\ufffd", "", "\ufffd"),
    ]
    assert rejects == []


def test_youtube_replies_know_what_they_answer(tmp_path: Path) -> None:
    comments, rejects = read(DATA / "youtube.json")
    top = "Nice & calm\n1:23 (https://www.youtube.com/watch?v=vid1&t=83)"
    assert brief(comments) == [("t1", top, "", "published"), ("t1.r1", "Agreed <3", top, "heldforreview")]
    assert len(rejects) == 1
    video = {
        "kind": "youtube#videoListResponse",
        "items": [{"id": "vid1", "snippet": {"channelId": "c", "title": "Lake"}}],
    }
    with_video, _ = read(DATA / "youtube.json", written(tmp_path, "videos.json", json.dumps(video)))
    assert {c.article.title for c in with_video} == {"Lake"}
    pages = [json.loads((DATA / "youtube.json").read_text("utf-8"))] * 2
    assert len(read(written(tmp_path, "pages.json", json.dumps(pages)))[0]) == 4


def test_remark42_description_is_no_comment_and_deleted_keeps_its_status() -> None:
    comments, rejects = read(DATA / "remark42.jsonl")
    assert brief(comments) == [
        ("m1", "Green tea at 80 degrees", "", "approved"),
        ("m3", "70 for gyokuro", "Green tea at 80 degrees", "deleted"),
    ]
    assert comments[0].article.title == "On tea"
    assert [(r.position, r.reason) for r in rejects] == [("line 3", "text deleted")]


def test_isso_ids_are_unique_beyond_their_thread() -> None:
    comments, _ = read(DATA / "isso.json")
    assert [c.comment_id for c in comments] == ["/bread/#0", "/bread/#1", "/cake/#0"]
    assert comments[1].parent_text == "I baked it twice."
    assert comments[0].article.title == "Rye bread"


def test_isso_element_that_is_no_thread_is_set_aside(tmp_path: Path) -> None:
    threads = [{"id": "/a", "title": "A", "comments": [{"id": 1, "text": "x"}]}, 5]
    comments, rejects = read(written(tmp_path, "a.json", json.dumps(threads)))
    assert len(comments) == 1 and [r.position for r in rejects] == ["element 2"]


def test_isso_database_is_read_without_touching_it(tmp_path: Path) -> None:
    from test_readers_fuzz import isso_database

    path = tmp_path / "comments.db"
    before = isso_database(path)
    comments, rejects = read(path)
    assert [(c.text, c.status, c.parent_text, c.article.title) for c in comments] == [
        ("First", "approved", "", "Tea"),
        ("Second", "pending", "First", "Tea"),
    ]
    assert [r.reason for r in rejects] == ["text deleted"]
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["comments.db"]


def test_commento_names_come_from_below_the_comments() -> None:
    comments, rejects = read(DATA / "commento.json")
    assert brief(comments) == [("aa", "Is it *open*?", "", "approved"), ("bb", "Yes", "Is it *open*?", "unapproved")]
    assert comments[0].author == "Kit" and comments[0].article.url == "https://d.example/p/1"
    assert [r.reason for r in rejects] == ["text deleted"]


# Article pages


def test_text_page_is_taken_apart() -> None:
    page = parse_page((DATA / "page.txt").read_text("utf-8"))
    assert (page.title, page.author) == ("Council votes to close the old harbour bridge for two years", "Ines Marlow")
    assert page.body.startswith("The city council voted") and page.body.endswith("published on its website.")
    assert "Advertisement" not in page.body and "Reed" not in page.body
    assert [c.text[-20:] for c in page.comments] == [
        " office ever used it?"[-20:],
        "Like",
        "https://watches.example"[-20:],
    ]


def test_text_page_with_names_and_dates_above_the_comments() -> None:
    page = parse_page((DATA / "page_dated.txt").read_text("utf-8"))
    assert [(c.author, c.created_at) for c in page.comments] == [
        ("Hedda Linde", "2024-03-03T17:12"),
        ("orchardist", ""),
    ]
    assert page.comments[1].text.endswith("It was the same in 2012.")
    assert page.announced == 2


def test_bare_name_below_the_title_or_twice_below_the_text_is_the_author() -> None:
    prose = (
        "The ferry company has ordered two new ships, which will be built over the next three years in a yard on the coast. "
        * 2
    )
    assert parse_page(f"A tale of two ferries\n\nMaria Stone\n\n{prose}").author == "Maria Stone"
    page = parse_page(f"A tale of two ferries\n\n{prose}\n\nMaria Stone\nMaria Stone\nMaria Stone teaches history in Bergen.")
    assert page.author == "Maria Stone" and page.body == prose.strip()


@pytest.mark.parametrize("furniture", ["Leave a Reply", "Your email address will not be published. Required fields are marked *",
                                       "Exit mobile version", "Advertisement", "Do you like this article?"])  # fmt: skip
def test_page_furniture_is_neither_comment_nor_article(furniture: str) -> None:
    prose = "The ferry company has ordered two new ships, which will be built over the next three years in a yard on the coast."
    page = parse_page(f"A tale of two ferries\n\n{prose}\n\n{prose} Again.\n\n{furniture}")
    assert page.comments == () and furniture not in page.body and page.body.endswith("Again.")


@pytest.mark.parametrize("heading", ["1 Comment", "1 comments", "Comments (1)", "Comments", "Leave a comment"])
def test_comment_headings_of_other_outlets(heading: str) -> None:
    prose = "The ferry company has ordered two new ships, which will be built over the next three years in a yard on the coast."
    page = parse_page(f"A tale of two ferries\n\n{prose}\n\n{heading}\n\nShips sink.\n\nReply")
    assert [c.text for c in page.comments] == ["Ships sink."]


def test_page_that_announces_more_comments_than_it_has_says_so(tmp_path: Path) -> None:
    text = (DATA / "page.txt").read_text("utf-8").replace("3 Comment\n", "7 Comment\n")
    comments, rejects = read(written(tmp_path, "page.txt", text))
    assert len(comments) == 3
    assert [r.reason for r in rejects] == ["the page announces 7 comments but 3 were found in it"]


@pytest.mark.parametrize("button", ["Reply", "Log in to Reply", "Reply to Ann"])
def test_what_ends_a_comment_on_pages_with_and_without_accounts(button: str) -> None:
    page = parse_page(f"A tale\n\n{PROSE}\n\n2 Comments\n\nFirst.\n\n{button}\n\nSecond.\n\n{button}\n")
    assert [c.text for c in page.comments] == ["First.", "Second."]


def test_a_comment_that_begins_like_the_sorting_menu_is_kept() -> None:
    page = parse_page(f"A tale\n\n{PROSE}\n\n1 Comment\n\nSort by Newest\n\nSort by date, dear editors!\n\nReply\n")
    assert [c.text for c in page.comments] == ["Sort by date, dear editors!"]


def test_prose_in_a_folder_is_no_page_without_comments(tmp_path: Path) -> None:
    written(tmp_path, "notes.txt", f"Notes on the ferries\n\n{PROSE}\n\n{PROSE}\n")
    written(tmp_path, "notes.html", f"<html><body><h1>Notes</h1><p>{PROSE}</p></body></html>")
    comments, rejects = read(tmp_path)
    assert comments == [] and ["nothing in it looks like a comment" in r.reason for r in rejects] == [True, True]


def test_page_in_a_folder_that_offers_to_comment_has_merely_no_comments(tmp_path: Path) -> None:
    written(tmp_path, "page.txt", f"A tale of two ferries\n\n{PROSE}\n\n{PROSE}\n\nLeave a Reply\n")
    assert read(tmp_path) == ([], [])


def test_page_whose_title_looks_like_a_header_is_no_table(tmp_path: Path) -> None:
    comments, _ = read(written(tmp_path, "page.txt", f"Comment, analysis\n\n{PROSE}\n\n1 Comment\n\nShips sink.\n\nReply\n"))
    assert [c.text for c in comments] == ["Ships sink."]


def test_html_page_without_any_classes_is_read_like_its_text() -> None:
    lines = ["A tale of two ferries", "Maria Stone", PROSE, PROSE + " Again.", "1 Comment", "Ships sink.", "Reply"]
    page, _ = parse_html_page("<html><body>" + "".join(f"<p>{line}</p>" for line in lines) + "</body></html>")
    assert [c.text for c in page.comments] == ["Ships sink."]
    assert page.body.endswith("Again.") and page.author == "Maria Stone"


def test_equal_comments_of_a_page_have_different_ids(tmp_path: Path) -> None:
    text = (DATA / "page.txt").read_text("utf-8")
    text = text.replace("Cheap watches at https://watches.example", "Excellent").replace("Like", "Excellent")
    comments, _ = read(written(tmp_path, "page.txt", text))
    assert comments[1].text == comments[2].text
    assert len({c.comment_id for c in comments}) == 3


def test_html_page_of_a_wordpress_theme() -> None:
    comments, rejects = read(DATA / "page.html")
    assert [(c.comment_id, c.author, c.parent_id, c.text) for c in comments] == [
        ("41", "Jonas", "", "Finally! See the hours (https://example.org/hours)."),
        ("43", "Mira", "41", "Ten is late for families."),
        ("44", "Seo Expert", "", "https://rank.example"),
    ]
    assert comments[1].parent_text == comments[0].text
    assert comments[0].created_at == "2024-04-02T09:30:00+00:00"
    article = comments[0].article
    assert (article.title, article.url) == ("Library opens on Sundays", "https://gazette.example/library-sundays")
    assert article.text.startswith("From May") and article.text.endswith("(https://library.example/cafe).")
    assert rejects == []
    assert parse_html_page((DATA / "page.html").read_text("utf-8"))[0].author == "Petra Holm"


def test_html_page_with_schema_org_comments() -> None:
    comments, _ = read(DATA / "page_schema.html")
    assert [(c.author, c.text, c.parent_id) for c in comments] == [
        ("Ola", "Six is too early.\nCommuters miss it.", ""),
        ("Bea", "Agreed", "c7"),
    ]
    assert comments[0].article.text == "The evening ferry leaves at six from June.\n\nThe company blames low numbers."


def test_html_page_with_classes_of_its_own(tmp_path: Path) -> None:
    items = "".join(f'<div class="xy-comment-item"><span class="xy-author">U{n}</span><p>Text {n}</p></div>' for n in range(3))
    page = f'<html><body><div class="story"><h1>T</h1><p>Body text.</p></div><div class="xy-comments-list">{items}</div></body></html>'
    comments, _ = read(written(tmp_path, "page.html", page))
    assert [(c.author, c.text) for c in comments] == [("U0", "Text 0"), ("U1", "Text 1"), ("U2", "Text 2")]


# Tables


def test_native_csv_comes_back_as_it_was() -> None:
    comments, rejects = read(DATA / "native.csv")
    assert brief(comments)[:2] == [
        ("n2", "Two lines,\none comment", "I keep twelve hives.", "approved"),
        ("n1", "I keep twelve hives.", "", "approved"),
    ]
    assert comments[2].parent_text == ""  # the same id in another thread is another comment
    assert comments[0].article is comments[1].article
    assert [r.position for r in rejects] == ["row 5 (line 6)"]


def test_map_names_columns_and_nested_values() -> None:
    comments, _ = read(DATA / "foreign.jsonl", columns={"comment_text": "data.body", "author": "user.name"})
    assert [(c.text, c.author, c.article.title) for c in comments] == [
        ("Nested text", "Dee", "A headline"),
        ("More", "Eli", "A headline"),
    ]


def test_map_with_an_unknown_native_column_lists_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"'coment_text'.*comment_id, comment_text"):
        read_comments([DATA / "native.csv"], columns={"coment_text": "body"})


def test_map_with_a_column_that_is_not_there_lists_the_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "msg,who\nhello,me\n")
    with pytest.raises(UserError, match="no column 'body' for comment_text; its columns are: msg, who"):
        read(path, columns={"comment_text": "body"})


@pytest.mark.parametrize(
    "name", ["text", "Body", "comment", "content", "message", "comment_content", "Comment Text", "post_raw"]
)
def test_common_names_of_the_text_column_are_guessed(name: str, tmp_path: Path) -> None:
    comments, _ = read(written(tmp_path, "a.csv", f"{name},Headline\nhello,News\n"))
    assert [(c.text, c.article.title) for c in comments] == [("hello", "News")]


def test_two_columns_that_may_be_the_text_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--map comment_text"):
        read(written(tmp_path, "a.csv", "text,body\nhello,there\n"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_recognised(delimiter: str, tmp_path: Path) -> None:
    rows = io.StringIO()
    csv.writer(rows, delimiter=delimiter).writerows([["text", "title"], ["a, b; c | d", "T"], ["e", "T"]])
    assert [c.text for c in read(written(tmp_path, "a.csv", rows.getvalue()))[0]] == ["a, b; c | d", "e"]


def test_csv_rows_that_cannot_be_read_are_set_aside_and_the_rest_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b"text,title\nok,T\ntoo,many,cells\nfew\nb\xffd,T\nn\x00ul,T\nlast \xc3\xa9,T\n")
    comments, rejects = read(path)
    assert [c.text for c in comments] == ["ok", "nul", "last é"]
    assert [r.position for r in rejects] == ["row 3", "row 4", "row 5"]
    assert "line 5" in rejects[2].reason


def test_comment_of_absurd_length_is_set_aside(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * (MAX_COMMENT_CHARS + 1)}), json.dumps({"text": "fine"})]
    comments, rejects = read(written(tmp_path, "a.jsonl", "\n".join(lines)), format="jsonl", columns={"comment_text": "text"})
    assert [c.text for c in comments] == ["fine"] and "1,000,001 characters" in rejects[0].reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_encodings(encoding: str, name: str, tmp_path: Path) -> None:
    text = {
        "a.csv": "text,title\ncafé “quoted”,Tür\nnaïve,Tür\n",
        "a.jsonl": '{"text": "café “quoted”", "title": "Tür"}\n{"text": "naïve", "title": "Tür"}\n',
        "a.json": '[{"text": "café “quoted”", "title": "Tür"}, {"text": "naïve", "title": "Tür"}]',
    }[name]
    comments, rejects = read(written(tmp_path, name, text.encode(encoding)))
    assert [(c.text, c.article.title) for c in comments] == [("café “quoted”", "Tür"), ("naïve", "Tür")]
    assert rejects == []


def test_neutralised_cells_are_restored_in_our_own_files_only(tmp_path: Path) -> None:
    ours = ",".join((*ROW_FIELDS, *VERDICT_FIELDS))
    row = ["1", "'=SUM(A1)", *[""] * (len(ROW_FIELDS) + len(VERDICT_FIELDS) - 2)]
    assert [c.text for c in read(written(tmp_path, "ours.csv", ours + "\n" + ",".join(row) + "\n"))[0]] == ["=SUM(A1)"]
    assert [c.text for c in read(written(tmp_path, "other.csv", "text,title\n'=SUM(A1),T\n'tis,T\n"))[0]] == [
        "'=SUM(A1)",
        "'tis",
    ]


def test_columns_of_the_same_name_are_not_guessed_among(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than one column is called 'body'"):
        read(written(tmp_path, "a.csv", "body,body,x\na,b,c\n"), columns={"comment_text": "body"})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_equal_rows_without_an_id_get_different_ids_the_same_in_every_run(name: str, tmp_path: Path) -> None:
    text = {"a.csv": "text,title\nlol,T\nlol,T\n", "a.jsonl": '{"text": "lol"}\n' * 2}[name]
    first, second = (read(written(tmp_path, name, text))[0] for _ in range(2))
    assert len({c.comment_id for c in first}) == 2 and first == second


def test_unclosed_quote_says_which_lines_it_swallowed(tmp_path: Path) -> None:
    comments, rejects = read(written(tmp_path, "a.csv", 'text,title\na,T\n"b,T\nc,T\nd,T\n'))
    assert [c.text for c in comments] == ["a"] and [r.position for r in rejects] == ["row 3 (lines 3 to 5)"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark(encoding: str, tmp_path: Path) -> None:
    assert [c.text for c in read(written(tmp_path, "a.csv", "text,title\nhello,T\n".encode(encoding)))[0]] == ["hello"]


def test_jsonl_with_a_line_separator_in_its_text_is_recognised(tmp_path: Path) -> None:
    assert [c.text for c in read(written(tmp_path, "a.jsonl", '{"text": "a\u2028b"}\n'))[0]] == ["a\u2028b"]


def test_jsonl_line_that_is_no_object_is_set_aside(tmp_path: Path) -> None:
    lines = (
        b'{"text": "\xc3\xa9"}\n{"text": "\xc3\xa8"}\n[1]\n{"text": "b"\n\n{"text": "b\xff"}\n{"text": "c"}\n'
        + b'{"a":' * 3000
        + b"\n"
    )
    comments, rejects = read(written(tmp_path, "a.jsonl", lines))
    assert [c.text for c in comments] == ["é", "è", "c"]
    assert [r.position for r in rejects] == ["line 3", "line 4", "line 6", "line 8"]


def test_json_array_at_the_top_or_under_a_name(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "a"}, {"id": 2, "text": "b", "parent_id": 1}, "no object"]
    for document in (rows, {"site": "x", "comments": rows}):
        comments, rejects = read(written(tmp_path, "a.json", json.dumps(document, indent=1)))
        assert [(c.comment_id, c.parent_text) for c in comments] == [("1", ""), ("2", "a")]
        assert [r.position for r in rejects] == ["element 3"]


def test_json_objects_over_several_lines_each(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "body": "a", "tags": ["x"], "article": {"title": "T"}},
        {"id": 2, "body": "b", "parent_id": 1, "article": {"title": "T"}},
    ]
    pretty = "\n".join(json.dumps(row, indent=2) for row in rows)
    comments, rejects = read(written(tmp_path, "a.json", pretty))
    assert [(c.comment_id, c.parent_text, c.article.title) for c in comments] == [("1", "", "T"), ("2", "a", "T")]
    assert not rejects
    [alone], rejects = read(written(tmp_path, "b.json", json.dumps(rows[0], indent=2)))
    assert (alone.comment_id, alone.text) == ("1", "a") and not rejects
    renamed = json.dumps({"remark": {"words": "a"}}, indent=2)
    [mapped], _ = read(written(tmp_path, "c.json", renamed), columns={"comment_text": "remark.words"})
    assert mapped.text == "a"
    comments, [cut] = read(written(tmp_path, "d.json", pretty[:-20]))
    assert [c.text for c in comments] == ["a"] and "ends early" in cut.reason


@pytest.mark.parametrize("document", [{"message": "Not Found"}, {"name": "site", "version": 1}, {}])
def test_a_json_document_that_is_no_comment_is_refused(document: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        read(written(tmp_path, "a.json", json.dumps(document, indent=2)))


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_first_line_that_names_the_delimiter_is_believed_and_is_no_row(first: str, end: str, tmp_path: Path) -> None:
    lines = [first, "id;text;title", "1;a, b, c;T", "2;b"]
    comments, rejects = read(written(tmp_path, "a.csv", end.join(lines) + end))
    assert [(c.comment_id, c.text, c.article.title) for c in comments] == [("1", "a, b, c", "T")]
    assert [r.position for r in rejects] == ["row 3 (line 4)"]


def test_a_tab_or_another_sign_may_be_named_as_the_delimiter(tmp_path: Path) -> None:
    for sign in "\t|^":
        text = f"sep={sign}\ntext{sign}title\na{sign}T\n"
        assert [c.text for c in read(written(tmp_path, "a.csv", text))[0]] == ["a"]


def test_parquet_rows_and_whole_number_ids(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"id": [1, 2, 3], "text": ["a", "b", None], "parent_id": [None, 1.0, None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    comments, rejects = read(tmp_path / "a.parquet")
    assert [(c.comment_id, c.parent_id, c.parent_text) for c in comments] == [("1", "", ""), ("2", "1", "a")]
    assert [r.position for r in rejects] == ["row 3"]


def test_discourse_archive_needs_no_map(tmp_path: Path) -> None:
    text = "topic_title,categories,is_pm,post_raw,post_cooked,like_count,reply_count,url,created_at\nPond,A|B,No,Deep?,<p>Deep?</p>,0,1,https://f.example/t/1,2024-01-01 10:00:00 UTC\n"
    comments, _ = read(written(tmp_path, "user_archive.csv", text))
    assert [(c.text, c.article.title, c.created_at) for c in comments] == [("Deep?", "Pond", "2024-01-01T10:00:00Z")]


# Threads


def test_parents_that_are_missing_their_own_or_in_a_circle_end_well(tmp_path: Path) -> None:
    rows = [("1", "1"), ("2", "3"), ("3", "2"), ("4", "404"), ("5", "6"), ("6", "")]
    text = "".join(json.dumps({"id": i, "parent_id": p, "text": f"t{i}"}) + "\n" for i, p in rows)
    comments, _ = read(written(tmp_path, "a.jsonl", text))
    assert [(c.comment_id, c.parent_text) for c in comments] == [
        ("1", ""), ("2", "t3"), ("3", "t2"), ("4", ""), ("5", "t6"), ("6", ""),
    ]  # fmt: skip


def test_comments_before_a_break_are_kept_even_while_parents_are_awaited(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": str(n), "parent_id": str(n + 1), "text": f"t{n}"}) + "\n" for n in range(20_000))
    packed = gzip.compress(lines.encode())
    comments, rejects = read(written(tmp_path, "a.jsonl.gz", packed[: len(packed) // 2]))
    assert len(comments) > 5000 and comments[0].parent_text == "t1"
    assert "ends early" in rejects[-1].reason and len(rejects) == 1


# Files


@pytest.mark.parametrize(
    "name", ["wordpress.xml", "disqus.xml", "native.csv", "youtube.json", "page.html", "page.txt", "isso.json"]
)
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_files_are_told_by_their_content(name: str, compression: str, tmp_path: Path) -> None:
    data = (DATA / name).read_bytes()
    packed = gzip.compress(data) if compression == "gzip" else zstandard.compress(data)
    items = list(read_comments([written(tmp_path, "noname", packed)]))
    plain = list(read_comments([DATA / name]))
    assert [getattr(i, "text", getattr(i, "reason", "")) for i in items] == [
        getattr(i, "text", getattr(i, "reason", "")) for i in plain
    ]


@pytest.mark.parametrize("name", ["wordpress.xml", "disqus.xml", "youtube.json", "isso.json", "commento.json"])
def test_truncated_documents_keep_what_stands_before_the_break(name: str, tmp_path: Path) -> None:
    whole = read(DATA / name)[0]
    data = (DATA / name).read_bytes()
    last = "t2" if name == "youtube.json" else whole[-1].text.split(" ")[0]
    cut = data.rindex(last.encode())
    comments, rejects = read(written(tmp_path, name, data[:cut]), format=name.split(".")[0])
    if name != "isso.json":  # its threads are read as a whole
        assert [c.text for c in comments] == [c.text for c in whole[: len(comments)]] and comments
    assert sum("ends early or is damaged" in r.reason for r in rejects) == 1


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: zstandard.compress(data)])
def test_truncated_compressed_file_says_so_once(compress, tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"text": os.urandom(30).hex(), "id": n}).encode() + b"\n" for n in range(5000))
    packed = compress(lines)
    comments, rejects = read(written(tmp_path, "a", packed[: len(packed) * 3 // 4]))
    assert 1000 < len(comments) < 5000
    assert ["ends early" in r.reason for r in rejects] == [True]


def test_folder_is_read_in_order_and_strangers_in_it_are_reported(tmp_path: Path) -> None:
    written(tmp_path, "b/native.csv", (DATA / "native.csv").read_bytes())
    written(tmp_path, "a.json", (DATA / "isso.json").read_bytes())
    written(tmp_path, "picture.jpg", b"\xff\xd8\xff\xe0" + bytes(300))
    written(tmp_path, "empty", b"")
    written(tmp_path, ".hidden.csv", b"text\nx\n")
    written(tmp_path, ".git/native.csv", b"text,title\nx,y\n")
    first, second = (list(read_comments([tmp_path])) for _ in range(2))
    assert first == second
    comments = [i for i in first if isinstance(i, Comment)]
    assert [c.comment_id for c in comments] == ["/bread/#0", "/bread/#1", "/cake/#0", "n2", "n1", "n3"]
    strangers = [(Path(i.file).name, i.reason) for i in first if isinstance(i, Reject) and i.position == "file"]
    assert strangers == [(name, "not recognised as a comment export") for name in ("empty", "picture.jpg")]
    assert [Path(f.path).name for f in inputs([tmp_path])] == ["a.json", "empty", "picture.jpg", "native.csv"]
    assert inputs([tmp_path])[0].size == (tmp_path / "a.json").stat().st_size


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0" + bytes(300), b"one line"])
def test_named_file_that_is_no_export_is_an_error_at_once(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"file\.bin.*expected.*--format"):
        read_comments([written(tmp_path, "file.bin", content)])


def test_a_file_is_read_once_however_it_is_spelled(tmp_path: Path) -> None:
    path = written(tmp_path, "a/a.csv", "text,title\nhello,T\n")
    assert len(read(path, tmp_path / "a" / ".." / "a" / "a.csv", tmp_path)[0]) == 1


def test_files_to_skip_are_passed_over_in_folders_only(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,title\nhello,T\n")
    written(tmp_path, "b/b.csv", "text,title\nhello,T\n")
    assert list(Reading([tmp_path], skip=[path, tmp_path / "b"])) == []
    assert len(list(Reading([path], skip=[path]))) == 1


def test_a_pipe_can_be_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", f"printf 'text,title\\nhello,T\\n' > '{pipe}'"])
    reading = Reading([pipe])
    assert writer.wait(10) == 0
    assert [item.text for item in reading] == [item.text for item in reading] == ["hello"]


def test_a_full_temporary_folder_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(threads: Threads) -> Threads:
        threads._db.execute("PRAGMA max_page_count = 10")
        return threads

    monkeypatch.setattr(Threads, "__enter__", small)
    lines = "".join(json.dumps({"id": str(n), "text": "x" * 4000}) + "\n" for n in range(100))
    with pytest.raises(OSError, match="temporary folder is full"):
        read(written(tmp_path, "a.jsonl", lines))


def test_missing_file_and_unknown_format_are_errors_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_comments([tmp_path / "nowhere.csv"])
    with pytest.raises(UserError, match="disqus"):
        read_comments([DATA / "native.csv"], format="livejournal")
    with pytest.raises(UserError, match="--map applies to tables"):
        read_comments([DATA / "disqus.xml"], format="disqus", columns={"comment_text": "message"})


def test_companion_without_its_comments_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds stories of coral-csv"):
        read(DATA / "coral" / "stories.csv")


def test_standard_input_is_read_like_a_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "from moderation.readers import read_comments\n"
        "print([i.comment_id for i in read_comments(['-']) if hasattr(i, 'text')])"
    )
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    with open(DATA / "disqus.xml", "rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=stdin, capture_output=True, text=True, env=environment, check=True
        )
    assert done.stdout.strip() == "['30', '31', '32', '33']"
    assert os.listdir(tmp_path) == []


def test_every_format_name_can_be_asked_for() -> None:
    assert set(FORMATS) >= {
        "article-page",
        "wordpress",
        "disqus",
        "coral-csv",
        "reddit",
        "youtube",
        "csv",
        "jsonl",
        "parquet",
    }
    assert [c.comment_id for c in read(DATA / "disqus.xml", format="disqus")[0]] == ["30", "31", "32", "33"]


# Hostile input

# Not ru_maxrss: a child inherits the peak of the process that started it, so that growth below that would not show.
PEAK = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of the memory from /proc")

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha"}">' for n in range(12))


@pytest.mark.parametrize("dtd", [f"<!DOCTYPE rss [{LAUGHS}]>", '<!DOCTYPE rss [<!ENTITY l11 SYSTEM "file:///etc/passwd">]>',
                                 '<!DOCTYPE rss SYSTEM "http://127.0.0.1:9/evil.dtd">'])  # fmt: skip
def test_document_type_declarations_are_refused(dtd: str, tmp_path: Path) -> None:
    text = (
        (DATA / "wordpress.xml")
        .read_text("utf-8")
        .replace("<!-- generator", dtd + "<!-- generator")
        .replace("Where do", "&l11;")
    )
    with pytest.raises(UserError, match="document type"):
        read(written(tmp_path / "in", "evil.xml", text))
    comments, rejects = read(tmp_path / "in")  # in a folder, it does not stop the others
    assert comments == [] and "document type" in rejects[0].reason


@needs_proc
@pytest.mark.parametrize(
    ("start", "unit"),
    [
        (b'{"text": "fine"}\n{"text": "', b"a"),
        (b'[{"text": "fine"},{"text": "', b"a"),
        (b'[{"text": "fine"},{"text": [', b'"a",'),
        (b"text,title\nfine,x\n", b"a"),
        (b'<disqus xmlns="http://disqus.com"><post><message>fine</message></post><post>', b"<a/>"),
        (b'<disqus xmlns="http://disqus.com"><post><message>fine</message></post><post><message>', b"a"),
    ],
)
def test_a_small_archive_that_unpacks_to_one_huge_element_needs_little_memory(
    start: bytes, unit: bytes, tmp_path: Path
) -> None:
    bomb = gzip.compress(start + unit * (200_000_000 // len(unit)), 1)
    code = (
        "import sys\nfrom moderation.readers import read_comments\n"
        "print(*sorted({getattr(i, 'text', 'Reject') for i in read_comments([sys.argv[1]])}))\n"
        f"print({PEAK})"
    )
    texts, peak = in_subprocess(code, written(tmp_path, "bomb.gz", bomb))
    assert texts == "Reject fine"
    assert int(peak) < 600_000  # kilobytes; what is bounded is one element, not the file


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One</p><p>Two<br>three</p>", "One\n\nTwo\nthree"),
        ('<a href="https://x.example/">https://x.example</a>', "https://x.example/"),
        ('<a href="https://x.example/?a=1&amp;b=2">look</a>!', "look (https://x.example/?a=1&b=2)!"),
        ('<a href="javascript:alert(1)">look</a>', "look"),
        ("a<script>alert(1)</script>b<style>p{}</style>c", "abc"),
        ("5 < 6 &amp;&amp; I <3 it", "5 < 6 && I <3 it"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("<p>&amp;lt;b&amp;gt;</p>", "&lt;b&gt;"),
        ("<ul><li>one</li><li>two</li></ul>", "one\ntwo"),
        ("<b>un<i>closed", "unclosed"),
        ("<div>" * 3000 + "deep", "deep"),
        ("plain", "plain"),
    ],
)
def test_html_becomes_text(markup: str, text: str) -> None:
    assert html_to_text(markup) == text


def test_importing_the_readers_loads_no_parser() -> None:
    code = "import sys, moderation.readers\nprint(sorted({'lxml', 'ijson', 'pyarrow', 'zstandard', 'pandas'} & set(sys.modules)))\nprint(0)"
    assert in_subprocess(code)[0] == "[]"


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("name", ["wordpress", "disqus"])
def test_memory_stays_flat_on_a_large_export(name: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom moderation.readers import read_comments\n"
        f"base = {PEAK}\n"
        "print(sum(hasattr(item, 'text') for item in read_comments([sys.argv[1]])))\n"
        f"print({PEAK} - base)"
    )
    path = tmp_path / "large.xml"
    with open(path, "w", encoding="utf-8") as file:
        expected = write_large_export(name, file)
    assert path.stat().st_size > 140_000_000
    count, growth = in_subprocess(code, path)
    assert int(count) == expected
    assert int(growth) < 100_000  # kilobytes


@needs_proc
def test_memory_stays_flat_whatever_the_length_of_the_articles(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom moderation.readers import read_comments\n"
        "print(len({item.article.text[:9] for item in read_comments([sys.argv[1]])}))\n"
        f"print({PEAK})"
    )
    peaks = []
    for count in (10, 100):
        path = tmp_path / f"{count}.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for n in range(count):
                text = f"{n:9d}" + " lake" * 400_000
                file.write(json.dumps({"comment_text": f"{n}", "article_id": f"{n}", "article_text": text}) + "\n")
        found, peak = in_subprocess(code, path)
        assert int(found) == count
        peaks.append(int(peak))
    assert peaks[1] - peaks[0] < 50_000  # kilobytes, of 180,000 more


def write_large_export(name: str, file: io.TextIOBase) -> int:
    """About 150 MB in which every reply stands before its parent and every thread below its posts."""
    text = "A sentence about the lake and the boats on it, written &amp; read. " * 20
    count = 100_000
    if name == "wordpress":
        file.write('<rss xmlns:wp="http://wordpress.org/export/1.2/"><channel><item><title>Lake</title>')
        for n in range(count):
            file.write(
                f"<wp:comment><wp:comment_id>{n}</wp:comment_id><wp:comment_content><![CDATA[{n} {text}]]></wp:comment_content>"
            )
            file.write(f"<wp:comment_parent>{n + 500}</wp:comment_parent></wp:comment>\n")
        file.write("</item></channel></rss>")
        return count
    file.write('<disqus xmlns="http://disqus.com" xmlns:dsq="http://disqus.com/disqus-internals">')
    for n in range(count):
        file.write(
            f'<post dsq:id="{n}"><message>{n} {text}</message><thread dsq:id="t{n % 3000}"/><parent dsq:id="{n + 3000}"/></post>\n'
        )
    file.writelines(f'<thread dsq:id="t{n}"><id/><title>Thread {n}</title></thread>' for n in range(3000))
    file.write("</disqus>")
    return count


def in_subprocess(code: str, *arguments: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
