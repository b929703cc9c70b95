"""The one place that makes HTML of what strangers wrote: it shows all of it and nothing else."""

from __future__ import annotations

import html
import re

import pytest
from hostile import PAYLOADS
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from desk.render import block, hidden_kinds, join, name, revealed, tag, text
from moderation.explain import Span

#: What may stand between < and > in what is made here.
OURS = re.compile(
    r"</?(?:a(?:bbr|rticle)|b|blockquote|details|div|em|h[2-4]|li|mark|ol|p|s|section|small|span|strong|summary|time|ul)(?: [a-z-]+=\"[^\"<>]*\")*>"
)
HIDDEN = re.compile(r"<abbr class=\"hid\"[^>]*>.</abbr>")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def seen(made):
    """The text that a reader sees: without tags and without the signs that stand for hidden characters."""
    return html.unescape(re.sub(r"<[^>]*>", "", HIDDEN.sub("", made)))


@given(
    st.text() | st.sampled_from(PAYLOADS),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20), st.floats(0.1, 5)), max_size=4),
)
def test_every_text_comes_out_as_text(value, places):
    spans = [Span(start, start + length, weight) for start, length, weight in places]
    for made in (
        revealed(value, spans),
        block(value, "div", "said", spans),
        name(value),
        text(value),
        tag("p", value, title=value),
    ):
        assert isinstance(made, Markup)
        assert "<" not in OURS.sub("", made) and ">" not in OURS.sub("", made), made


@given(st.text(st.characters(codec="ascii")))
def test_nothing_of_an_ordinary_text_is_lost(value):
    assert seen(revealed(value)) == CONTROLS.sub("\ufffd", value)


@pytest.mark.parametrize("value", [payload for payload in PAYLOADS if len(payload) < 200])
def test_what_turns_the_reading_or_has_no_width_never_reaches_the_page(value):
    made = block(value)
    assert not re.search("[\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff\x00-\x08\x0b-\x1f\x7f-\x9f]", made)


def test_only_harmless_elements_and_attributes_are_made():
    for element in ("script", "img", "a", "iframe", "form", "input", "svg", "style", "link"):
        with pytest.raises(ValueError, match="no element"):
            tag(element)
    for attribute in ("onclick", "href", "src", "srcdoc", "action", "formaction", "xlink_href"):
        with pytest.raises(ValueError, match="no attribute"):
            tag("p", **{attribute: "x"})


def test_what_is_markup_is_kept_and_all_else_escaped():
    assert join([Markup("<b>x</b>"), "<b>", 3]) == "<b>x</b>&lt;b&gt;3"
    assert tag("p", tag("b", "<i>"), class_=None, hidden=True, data_n=1) == '<p hidden data-n="1"><b>&lt;i&gt;</b></p>'


def test_it_says_what_a_text_hides():
    assert hidden_kinds("plain text") == []
    said = hidden_kinds("p\u0430ypal\u200b now\u202e \u200bplease")
    assert said == [
        "2 invisible characters",
        "1 sign turning the direction of reading",
        "letters of another script that look Latin (read as: a)",
    ]
