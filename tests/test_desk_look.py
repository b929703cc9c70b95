"""What can be seen: contrasts, colours for colour-blind people, and every size of screen without scrolling sideways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from desks import barriers
from playwright.sync_api import expect

from moderation.schema import LABELS, Article, Comment
from moderation.store import Store

pytest_plugins = ["desks"]

CSS = (Path(__file__).parent.parent / "desk" / "static" / "desk.css").read_text(encoding="utf-8")
#: Okabe & Ito 2008, "Color universal design".
OKABE_ITO = {"#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#000000"}
#: Text and what it stands on.
TEXTS = [
    ("ink", "card"), ("ink", "paper"), ("soft", "card"), ("soft", "paper"), ("accent-ink", "accent"), ("accent", "card"), ("accent", "paper"),
    ("ink", "accent-soft"), ("soft", "accent-soft"), ("ink", "why"), ("ink", "near"), ("soft", "near"), ("bad", "card"), ("bad", "bad-soft"),
    ("ink", "bad-soft"), ("good", "card"),
]  # fmt: skip
#: Borders of fields and of what has the focus.
SIGNS = [("edge", "card"), ("edge", "paper"), ("accent", "card"), ("accent", "paper")]


def colours(theme):
    block = re.search(rf"^{re.escape(theme)} \{{(.*?)^\}}", CSS, re.M | re.S)[1]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def contrast(one, other):
    """WCAG 2.2's ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [":root", ".dark"])
def test_text_and_borders_have_the_contrast_of_wcag_aa(theme):
    colour = colours(theme)
    for text, ground in TEXTS:
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground, contrast(colour[text], colour[ground]))
    for sign, ground in SIGNS:
        assert contrast(colour[sign], colour[ground]) >= 3, (sign, ground, contrast(colour[sign], colour[ground]))


@pytest.mark.parametrize("theme", [":root", ".dark"])
def test_the_labels_have_colours_that_colour_blind_people_tell_apart(theme):
    used = [colours(theme)[label] for label in LABELS]
    assert len(set(used)) == 4 and set(used) <= OKABE_ITO


@pytest.fixture(scope="module")
def server(tmp_path_factory, desk_here_for_all, moderator):
    path = tmp_path_factory.mktemp("look") / "desk.db"
    article = Article(
        "a", "پلان شوی پل: " + "long-title-without-a-break" * 6, "W" * 700 + ". " + "A sentence of the article. " * 60
    )
    comments = [
        Comment("x" * 900 + " " + "word " * 400, "c1", article, author="name" * 40),
        Comment("دا پل باید ژر جوړ شي.", "c2", article),
    ]
    with Store(path) as store:
        store.library.add_model(moderator.version, manifest=moderator.manifest)
        store.library.add(comments, moderator.predict(comments), site="site.example")
    return desk_here_for_all(path)


SIZES = ((1280, 800), (1024, 768), (834, 1112), (768, 1024))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_scrolls_sideways_the_keys_are_in_view_and_nobody_is_kept_out(server, browser, theme):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
    context.set_default_timeout(240_000)
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#q-stage .card")).to_be_visible()
    page.locator("#q-tour-done").click()
    page.locator("#q-more").click()
    for key in "jk":
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            wide = page.evaluate(
                "[document.documentElement.scrollWidth, ...[...document.querySelectorAll('#q-stage section, .scroll')].map(one => one.scrollWidth - one.clientWidth)]"
            )
            assert wide[0] <= width and max(wide[1:]) <= 1, (width, wide)
            for button in page.locator(".decide button").all():
                expect(button).to_be_in_viewport(ratio=1)
        page.keyboard.press(key)
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    assert barriers(page) == []
    page.keyboard.press("?")
    expect(page.locator("#q-help")).to_be_visible()
    assert barriers(page) == []
    context.close()


def test_everything_can_be_reached_by_keyboard(server, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(240_000)
    page.goto(server.url)
    expect(page.locator("#q-stage .card")).to_be_visible()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(e => e.id || e.name || e.dataset.label || e.dataset.do || e.dataset.value || e.className)(document.activeElement)"
            )
        )
    for name in (
        "show",
        "sort",
        "text",
        "q-more",
        "q-tour-done",
        "on-topic",
        "spam",
        "accept",
        "undo",
        "help",
        "scroll",
        "context",
        "desk-theme",
    ):
        assert name in reached, (name, reached)
    page.close()
