"""What the desk shows of a comment: words that spoke for the label, hidden characters, the direction of the script."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderation import LABELS, Article, Comment
from moderation.explain import PIECES, attribute, direction, reveal

BRIDGE = Article(
    title="Council votes to close the Old Mill Bridge for two years",
    text="The council voted 9 to 6 to close the bridge. Two of its four piers are cracked. Shopkeepers fear for their trade.",
)
PLAIN = "The detour over the ring road adds six kilometres each way, which nobody over eighty will walk in winter."
LURES = {
    "link": "Cheap pills at www.best-pills.example",
    "contact": "Write to me on WhatsApp +15550134778 and earn 480 a day",
    "crypto": "Free bitcoin giveaway, join Telegram @coinpalace now",
}

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.text(
    st.sampled_from("ab ее раy\u200b\u200c\u200d\u202e\u2066\u200f\ufe0f👍👩💻🏴\U000e0067\U000e007fمی𝐅Ⓕ½\u3164\n"), max_size=60
)


@pytest.mark.parametrize("lure", LURES.values(), ids=LURES)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_planted_lure_carries_the_weight_of_the_label_spam(moderator, lure, place):
    text = f"{lure}. {PLAIN}" if place == "before" else f"{PLAIN} {lure}."
    comment = Comment(text, article=BRIDGE)
    spans = attribute(moderator, comment, "spam")
    start = text.index(lure)
    inside = sum(span.weight for span in spans if span.end > start and span.start < start + len(lure))
    strongest = max(spans, key=lambda span: span.weight)
    assert inside > 0.7 * sum(span.weight for span in spans)
    assert strongest.end > start and strongest.start < start + len(lure)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=_texts, label=st.sampled_from(LABELS))
def test_spans_lie_inside_the_text_in_order_and_do_not_overlap(moderator, text, label):
    end = 0
    for span in attribute(moderator, Comment(text, article=BRIDGE), label):
        assert end <= span.start < span.end <= len(text)
        assert span.weight > 0 and text[span.start : span.end].strip() == text[span.start : span.end] != ""
        end = span.end


def test_leaving_out_what_spoke_for_a_label_lowers_its_probability(moderator):
    comment = Comment(f"{PLAIN} {LURES['contact']}", article=BRIDGE)
    kept, end = "", 0
    for span in attribute(moderator, comment, "spam"):
        kept, end = kept + comment.text[end : span.start], span.end
    without = dataclasses.replace(comment, text=kept + comment.text[end:])
    before, after = moderator.predict_proba([comment, without])[:, LABELS.index("spam")]
    assert before > 0.5 > after


@pytest.mark.parametrize("text", ["", "   ", "\n", "lol", "x" * 50_000, "word " * 30_000, "سلام دوستان", "👍👍"])
def test_any_text_is_explained_in_one_batch_of_bounded_size(moderator, text, monkeypatch):
    sizes = []
    real = moderator.predict_proba
    monkeypatch.setattr(moderator, "predict_proba", lambda comments: sizes.append(len(comments)) or real(comments))
    attribute(moderator, Comment(text), "low-effort")
    assert sizes == [] or (len(sizes) == 1 and sizes[0] <= 2 * PIECES + 1)


def test_a_lure_at_the_very_end_of_a_long_comment_is_found(moderator):
    text = PLAIN * 70 + " " + LURES["link"]
    spans = attribute(moderator, Comment(text, article=BRIDGE), "spam")
    assert max(spans, key=lambda span: span.weight).end > len(text) - 100


@settings(max_examples=300, deadline=None)
@given(_texts)
def test_revealing_loses_no_character(text):
    pieces = reveal(text)
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text and bool(piece.kind) == bool(piece.meaning) for piece in pieces)


@pytest.mark.parametrize(
    ("text", "kind", "hidden", "meaning"),
    [
        ("Vi\u200bagra", "hidden", "\u200b", "zero width space"),
        ("che\u00adap", "hidden", "\u00ad", "soft hyphen"),
        ("a\u2060b", "hidden", "\u2060", "word joiner"),
        ("hi\u3164there", "hidden", "\u3164", "hangul filler"),
        ("tag\U000e0041", "hidden", "\U000e0041", "tag latin capital letter a"),
        ("b\u200dy", "hidden", "\u200d", "zero width joiner"),
        ("file\u202efdp.exe", "bidi", "\u202e", "right-to-left override"),
        ("a\u2066b", "bidi", "\u2066", "left-to-right isolate"),
        ("latin\u200fonly", "bidi", "\u200f", "right-to-left mark"),
        ("раypal", "lookalike", "ра", "pa"),
        ("p\u200bа\u200bypal", "lookalike", "а", "a"),
        ("read this сосо now", "lookalike", "сосо", "coco"),
        ("𝐅𝐑𝐄𝐄 money", "styled", "𝐅𝐑𝐄𝐄", "FREE"),
        ("ⓕⓡⓔⓔ", "styled", "ⓕⓡⓔⓔ", "free"),
        ("ＦＲＥＥ", "styled", "ＦＲＥＥ", "FREE"),
    ],
)
def test_what_is_hidden_is_marked_and_named(text, kind, hidden, meaning):
    marked = [piece for piece in reveal(text) if piece.kind == kind]
    assert marked and (marked[0].text, marked[0].meaning) == (hidden, meaning)


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم بروم",
        "خانه\u200cها و كتاب\u200cها",
        "क्\u200dष",
        "👩\u200d💻 🏳\ufe0f\u200d🌈 ❤\ufe0f 1\ufe0f⃣ 👍🏽",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "שלום\u200f (1)",
        "Привет, как дела? Просто сосо.",
        "½ cup, 20 m², 1º, naïve café, œuvre, Ελλάδα, 東京、１２３",
        "plain",
    ],
)
def test_ordinary_writing_is_not_marked(text):
    assert [piece.kind for piece in reveal(text)] == [""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "ltr"),
        ("123 !!", "ltr"),
        ("A bridge", "ltr"),
        ("این پل", "rtl"),
        ("دا پل http://news.example/a/very/long/latin/path", "rtl"),
        ("@john این پل سال‌هاست که خراب است", "rtl"),
        ("שלום", "rtl"),
        ("\u202eA bridge", "ltr"),
        ("The Persian word پل means bridge", "ltr"),
    ],
)
def test_direction_goes_by_most_letters(text, expected):
    assert direction(text) == expected
