"""The page that judges one comment, in a real browser with the real model."""

import pytest
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def address():
    import app

    page = app.build()
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", run_history=False)
    yield url
    page.close()


def test_it_opens_with_a_judged_example_and_judges_what_is_typed(browser, address):
    page = browser.new_page()
    page.goto(address)
    reason = page.get_by_label("Why")
    expect(reason).not_to_have_value("", timeout=60_000)
    page.get_by_label("Comment", exact=True).fill("Great article, thanks for sharing!")
    page.get_by_role("button", name="Judge").click()
    expect(reason).to_have_value("5 words and no point that this discussion could take up", timeout=60_000)
    expect(page.get_by_label("Proposed action")).to_have_value("review")
    page.close()


def test_markup_in_a_comment_is_shown_and_never_run(browser, address):
    page = browser.new_page()
    alarms = []
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    expect(page.get_by_label("Why")).not_to_have_value("", timeout=60_000)
    for field in ("Article: title", "Article: text", "Comment"):
        page.get_by_label(field, exact=True).fill("<img src=x onerror=alert(1)><script>alert(2)</script> buy at www.x.example")
    page.get_by_role("button", name="Judge").click()
    page.wait_for_timeout(3000)
    assert alarms == [] and page.locator("img[src=x]").count() == 0
    page.close()
