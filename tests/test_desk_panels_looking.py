"""Import, downloads, insight and people at the desk: the real page in Chromium, the real server, model and store."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest
from conftest import SAMPLES
from desks import barriers
from hostile import PAYLOADS
from panels import PASSWORD, PEOPLE, Wire
from playwright.sync_api import expect

from moderation.store import Filter, LoginRefused, Store

pytest_plugins = ["panels"]

READERS = SAMPLES.parent.parent / "tests" / "readers_data"


@pytest.fixture
def store(panel_desk):
    with Store(panel_desk.store) as store:
        yield store


@pytest.fixture(scope="module")
def intake(sit_down):
    return sit_down("lea", "Import")


@pytest.fixture(scope="module")
def people(sit_down):
    return sit_down("ada", "People")


def put_in(page, *files, site=""):
    """Choose files and import them."""
    page.locator("#import-files input[type=file]").set_input_files(list(files))
    for file in files:
        name = file["name"] if isinstance(file, dict) else file.name
        expect(page.locator("#import-files")).to_contain_text(name.rsplit(".", 1)[0])
    page.get_by_label("Site (optional").fill(site)
    page.locator("#import-start").click()


def rows(name, comments):
    """A JSONL file for a file field."""
    text = "\n".join(json.dumps(row) for row in comments)
    return {"name": name, "mimeType": "application/x-ndjson", "buffer": text.encode()}


# -- import -----------------------------------------------------------------------------------------------------------------


def test_exports_go_straight_into_the_queue_with_their_scores(intake, store):
    before = store.queue.count()
    put_in(
        intake,
        SAMPLES / "video-comments.csv",
        READERS / "reddit" / "RC_2020-01.ndjson",
        READERS / "reddit" / "RS_2020-01.ndjson",
        site="fresh.example",
    )
    expect(intake.locator("#import-result")).to_contain_text("new in the queue")
    fresh = store.queue.page(Filter(site="fresh.example"), limit=200).items
    assert store.queue.count() - before == len(fresh) > 20 and all(item.verdict for item in fresh)
    # What belongs together was read side by side: Reddit's comments know their submission.
    assert any("RS_" not in item.comment.article.title and item.comment.article.title for item in fresh)
    put_in(intake, SAMPLES / "video-comments.csv", site="fresh.example")
    expect(intake.locator("#import-result .boxes")).to_contain_text("0new in the queue")
    assert store.queue.count() - before == len(fresh)


def test_rows_that_cannot_be_read_are_counted_and_shown_with_their_reason(intake):
    bad = rows("half.jsonl", [{"comment_text": "A good one about the bridge", "comment_id": "half1"}, {"comment_text": "  "}])
    put_in(intake, bad)
    expect(intake.locator("#import-result")).to_contain_text("comment_text is empty; expected the text of a comment")
    expect(intake.locator("#import-result")).to_contain_text("half.jsonl")
    expect(intake.locator("#import-result .boxes")).to_contain_text("1rows set aside")


def test_what_is_no_export_is_refused_by_name_and_without_our_folders(intake):
    put_in(intake, {"name": "noise.csv", "mimeType": "text/csv", "buffer": bytes(range(256)) * 40})
    expect(intake.locator("#import-result")).to_contain_text("noise.csv")
    expect(intake.locator("#import-result")).not_to_contain_text("/tmp")


def test_a_long_import_shows_how_far_it_is_goes_on_without_the_page_and_stops_when_asked(intake, sit_down, store):
    words = (SAMPLES / "bridge-page.txt").read_text().split()
    random_ = random.Random(1)
    texts = [" ".join(random_.sample(words, 12)) for _ in range(4000)]
    many = rows("many.jsonl", [{"comment_text": text, "comment_id": f"many{place}"} for place, text in enumerate(texts)])
    put_in(intake, many, site="many.example")
    bar = intake.locator("#import-result [role=progressbar]")
    expect(bar).to_be_visible()
    expect(intake.locator("#import-result")).to_contain_text("of 4,000 rows")
    other = sit_down("lea", "Import")  # another window of the same person
    expect(other.locator("#import-result")).to_contain_text("of 4,000 rows")
    other.locator("#import-stop").click()
    for page in (intake, other):
        expect(page.locator("#import-result")).to_contain_text("Stopped after")
    kept = store.queue.count(Filter(site="many.example"))
    assert kept < 4_000
    expect(intake.locator("#import-start")).to_be_enabled()


def test_paths_come_from_uploads_only(panel_desk, tmp_path):
    wire = Wire(panel_desk, "lea")
    begin = next(handler for handler in wire.handlers("import") if handler["api_name"] == "begin")
    secret = tmp_path / "secret.csv"
    secret.write_text("comment_text\nnobody may see this\n")
    for path in (str(secret), str(panel_desk.store), "/etc/passwd", "../../etc/passwd", "/tmp/gradio/../../etc/hosts.txt"):
        answer = wire.send(begin, [[{"path": path, "meta": {"_type": "gradio.FileData"}}], "", ""])
        assert not answer["success"] and "nobody may see" not in str(answer), path
    assert not wire.send(begin, [None, "", ""])["success"]


def test_only_the_readers_types_are_taken(panel_desk):
    wire = Wire(panel_desk, "lea")
    begin = next(handler for handler in wire.handlers("import") if handler["api_name"] == "begin")
    uploaded = wire.http.post("/gradio_api/upload", files={"files": ("tool.exe", b"MZ")}).json()
    answer = wire.send(begin, [[{"path": path, "meta": {"_type": "gradio.FileData"}} for path in uploaded], "", ""])
    assert not answer["success"] and "nvalid file type" in str(answer["output"])


def test_scored_rows_are_downloaded_with_one_click_and_open_without_formulas(intake, store):
    with intake.expect_download() as started:
        intake.get_by_role("link", name="Download").or_(intake.locator("#download")).first.click()
    assert started.value.suggested_filename.startswith("comments-rows-") and started.value.suggested_filename.endswith(".csv")
    text = started.value.path().read_text("utf-8-sig")
    table = list(csv.DictReader(io.StringIO(text)))
    assert len(table) == store.queue.count(Filter(show="all")) and all(row["p_spam"] for row in table)
    assert not any(cell[:1] in ("=", "+", "@") for row in table for cell in row.values())
    assert any(PAYLOADS[0] in row["article_title"] for row in table)


def test_other_downloads_and_who_may_have_them(panel_desk, store):
    lead, moderator = Wire(panel_desk, "lea").http, Wire(panel_desk, "mo").http
    labels = [json.loads(line) for line in lead.get("/desk/export/labels.jsonl").text.splitlines()]
    assert len(labels) == store.queue.count(Filter(show="decided")) and {"label", "decided_by"} <= labels[0].keys()
    one = lead.get("/desk/export/rows.jsonl", params={"site": "fresh.example"}).text.splitlines()
    assert len(one) == store.queue.count(Filter(show="all", site="fresh.example"))
    assert lead.get("/desk/export/rows.parquet").content[:4] == b"PAR1"
    for path in ("/desk/export/secrets.csv", "/desk/export/rows.exe", "/desk/export/rows.csv/..%2f"):
        assert lead.get(path).status_code == 404, path
    assert moderator.get("/desk/export/rows.csv").status_code == 403


# -- insight ----------------------------------------------------------------------------------------------------------------


def test_the_plots_and_their_numbers_agree_with_the_store(sit_down, store):
    page = sit_down("lea", "Insight")
    shown = page.locator("#insight")
    for title in (
        "Decisions by day and person",
        "People gave the model's label",
        "How right the model is when it is sure",
        "The model's label and the moderator's",
        "Agreement between moderators",
        "Labels by day",
        "Labels by article",
    ):
        expect(shown.get_by_text(title, exact=True)).to_be_visible()
    work = store.insight.work(30)
    for name in ("mo", "mia"):
        count = sum(entry.decisions for entry in work if entry.user == name)
        expect(shown.get_by_role("row", name=f"{name} {count}")).to_be_visible()
    together = store.insight.agreement_between_moderators(30)[-1]
    expect(shown).to_contain_text(f"{together.comments} comments judged by two")
    assert shown.locator("figure").count() == 7 and shown.locator(".plot-mark").count() == len(store.insight.reliability(10))
    page.get_by_label("a day", exact=True).check()
    expect(shown.get_by_text("Decisions by hour and person", exact=True)).to_be_visible()
    # Titles that want to be markup are text, and nothing of them became an element.
    page.get_by_label("a year").check()
    expect(shown.get_by_text(PAYLOADS[0]).first).to_be_visible()
    assert shown.locator("script, img, svg, iframe, a, details[ontoggle]").count() == 0


def test_a_moderator_sees_the_teams_work_without_names(sit_down):
    page = sit_down("mo", "Insight")
    table = page.locator("#insight section").first
    expect(table.get_by_role("cell", name="mo", exact=True)).to_be_visible()
    expect(table.get_by_role("cell", name="others", exact=True)).to_be_visible()
    expect(table.get_by_text("mia")).to_have_count(0)


# -- people -----------------------------------------------------------------------------------------------------------------


def choose(page, name):
    page.locator("#people-who input").click()
    page.get_by_role("option", name=name, exact=True).click()


def test_people_are_added_changed_disabled_and_let_in_again(people, store):
    expect(people.locator("#people-table tbody tr")).to_have_count(len(PEOPLE))
    people.get_by_label("Add someone: name").fill("zoe")
    people.get_by_label("First password").fill("short")
    people.locator("#people-add").click()
    expect(people.get_by_text("a password has 10 to 1000 characters")).to_be_visible()
    people.get_by_label("First password").fill(PASSWORD)
    people.locator("#people-add").click()
    expect(people.locator("#people-result")).to_have_text("zoe may log in as moderator.")
    expect(people.get_by_label("First password")).to_have_value("")
    assert store.people.verify("zoe", PASSWORD, "::1").role == "moderator"
    expect(people.locator("#people-table")).to_contain_text("never")

    choose(people, "zoe")
    people.get_by_label("lead").last.check()
    people.locator("#people-role").click()
    expect(people.locator("#people-result")).to_contain_text("zoe is lead now")
    people.get_by_label("New password").fill("another " + PASSWORD)
    people.locator("#people-password").click()
    expect(people.locator("#people-result")).to_contain_text("zoe has a new password")
    people.locator("#people-disable").click()
    expect(people.locator("#people-result")).to_contain_text("zoe can no longer log in")
    with pytest.raises(LoginRefused):
        store.people.verify("zoe", "another " + PASSWORD, "::1")
    people.locator("#people-enable").click()
    expect(people.locator("#people-result")).to_contain_text("zoe may log in again")
    assert store.people.verify("zoe", "another " + PASSWORD, "::1").role == "lead"


def test_hostile_names_are_refused_and_shown_as_text_and_the_last_admin_stays(people, store):
    for name in (PAYLOADS[8], PAYLOADS[0], ""):
        people.get_by_label("Add someone: name").fill(name)
        people.get_by_label("First password").fill(PASSWORD)
        people.locator("#people-add").click()
        expect(people.get_by_text("cannot be a user's name").first).to_be_visible()
    choose(people, "ada")
    people.locator("#people-disable").click()
    expect(people.get_by_text("ada is the last admin")).to_be_visible()
    assert not store.people.get("ada").disabled


# -- who may ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tab", "name", "needed"),
    [("import", "mo", "lead"), ("learning", "mo", "lead"), ("people", "mo", "admin"), ("people", "lea", "admin")],
)
def test_every_handler_refuses_who_lacks_the_role(panel_desk, tab, name, needed, store):
    wire = Wire(panel_desk, name)
    handlers = wire.handlers(tab)
    assert len(handlers) >= 5
    for handler in handlers:
        answer = wire.send(handler)
        assert not answer["success"] and f"needs the role {needed}" in str(answer["output"]), handler["api_name"]
    if name == "mo":
        assert wire.http.post("/gradio_api/upload", files={"files": ("a.csv", b"comment_text\nx")}).status_code == 403


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_panel_scrolls_sideways_or_keeps_anybody_out_on_any_screen(sit_down, panel_desk, theme):
    page = sit_down("ada", "Bulk", color_scheme=theme)
    ready = {"Bulk": "#bulk-columns", "Policy": "#policy-expected table", "Import": "#import-files", "Insight": "#insight figure",
             "Learning": "#learning-now p", "People": "#people-table table"}  # fmt: skip
    for tab, what in ready.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.locator(what).first).to_be_visible()
        for size in ((1280, 800), (1024, 768), (834, 1112), (768, 1024)):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], (tab, size)
        assert barriers(page) == [], tab
    login = page.context.browser.new_page(color_scheme=theme)
    login.goto(f"{panel_desk.url}/login")
    assert barriers(login) == []
    login.close()
