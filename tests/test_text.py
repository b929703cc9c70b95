import math
import tracemalloc
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.schema import Article, Comment
from moderation.text import (
    _LINK,
    COMMENT_HEAD,
    COMMENT_TAIL,
    MAX_SENTENCES,
    SURFACE,
    WORD,
    _count,
    detect_language,
    fold,
    has_contact,
    links,
    segments,
    surface,
    view,
)


@pytest.mark.parametrize(
    ("hidden", "plain"),
    [
        ("f\u200br\u200be\u2060e", "free"),  # zero-width characters
        ("frее", "free"),  # Cyrillic е twice
        ("\U0001d41f\U0001d42b\U0001d41e\U0001d41e", "free"),  # mathematical bold letters
        ("ｆｒｅｅ", "free"),  # full width
        ("freeeeeee", "free"),
        ("free\n\n   money", "free money"),
    ],
)
def test_folding_uncovers_hidden_words(hidden, plain):
    assert fold(hidden) == plain


def test_words_of_another_script_are_left_alone():
    assert fold("Привет, мост закрыт") == "Привет, мост закрыт"
    assert fold("د پل بندول") == "د پل بندول"


def test_a_long_comment_keeps_its_beginning_and_its_end():
    folded = fold("first words " + "middle " * 100_000 + "call 555 0134")
    assert folded.startswith("first words") and folded.endswith("call 555 0134")
    assert len(folded) <= COMMENT_HEAD + COMMENT_TAIL + 3


def test_long_links_are_cut_to_what_names_them():
    assert (
        fold("see https://www.shop.example/a/very/long/path?with=query&and=more now")
        == "see http shop.example a/very/long/path now"
    )
    assert links("at deckworld.example/sale and http://x.org") == ["deckworld.example/sale", "http://x.org"]
    assert links("I left. Then it rained.") == []


def test_an_article_is_its_title_and_its_sentences_in_order():
    article = Article(
        title="Bridge closes", text="Dr. Reyes told the council on Monday. It costs 4.3 million. Yes.\n\nShops fear for trade."
    )
    assert segments(article) == (
        "Bridge closes",
        "Dr. Reyes told the council on Monday.",
        "It costs 4.3 million.",
        "Yes. Shops fear for trade.",
    )


def test_an_article_without_a_title_keeps_the_titles_place():
    assert segments(Article(text="The council met on Monday evening."))[0] == ""
    assert segments(Article()) == ()


def test_a_long_article_is_cut():
    assert len(segments(Article(title="T", text="This sentence has six words here. " * 500))) == MAX_SENTENCES + 1


def test_of_an_article_no_more_is_kept_than_is_read():
    tracemalloc.start()
    try:
        for number in range(20):
            segments(Article(title="x" * 1_000_000, text=f"Sentence {number} has six words here. " * 30_000))
        assert tracemalloc.get_traced_memory()[0] < 3_000_000  # of 40 million characters
    finally:
        tracemalloc.stop()


@given(st.text(st.characters(codec=None), max_size=300), st.text(max_size=300))
def test_any_text_can_be_viewed_and_yields_finite_features(text, body):
    seen = view(Comment(text, article=Article(title=body[:20], text=body), parent_text=body))
    assert len(seen.surface) == len(SURFACE)
    assert all(math.isfinite(value) and -0.01 <= value <= 12 for value in seen.surface)
    assert len(seen.comment) <= COMMENT_HEAD + COMMENT_TAIL + 3


@pytest.mark.parametrize("text", ["", "👍" * 100_000, "a" * 1_000_000, "\u200b" * 1000, "ا" * 5000, "?!" * 50_000])
def test_absurd_texts_have_features(text):
    assert all(math.isfinite(value) for value in surface(text))
    fold(text)


@pytest.mark.parametrize("text", ["write to a.b@mail.example", "WhatsApp +1 555 0134 778", "tg @spinpalace_vip", "DM me"])
def test_contacts_are_seen(text):
    assert has_contact(text)


@pytest.mark.parametrize("text", ["It opened in 1974 and closed in 2008.", "The signals failed at 9:45", "Mail is slow here"])
def test_years_times_and_plain_words_are_no_contacts(text):
    assert not has_contact(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The council should have repaired this bridge ten years ago, and everybody in town knows it.", "en"),
        ("Los jóvenes de dieciséis años ya trabajan y pagan impuestos en muchos lugares del país.", "es"),
        ("Мост закрыли на два года, а нам опять ничего не сказали", "ru"),
        ("این پل باید سالها پیش تعمیر میشد و همه مردم این را میدانند", "fa"),
        ("This is what they have in it", "en"),
        ("la casa is mine e this vida que vivimos todos los dias con mucho trabajo", "es"),
        ("Excellent", ""),
        ("lol", ""),
        ("👍👍", ""),
        ("", ""),
    ],
)
def test_language_is_named_only_where_it_is_sure(text, language):
    assert detect_language(text) == language


@given(st.text(st.sampled_from("aZé я0٣_.!^`'’ \t\n\x1c\x85\u200b中😀ſK"), max_size=40))
def test_characters_are_counted_by_their_kind_whatever_the_shortcut(text):
    counts = _count(text)
    assert counts.letters == sum(map(str.isalpha, text)) and counts.capitals == sum(map(str.isupper, text))
    assert counts.digits == sum(map(str.isdigit, text))
    assert counts.symbols == sum(not letter.isalnum() and not letter.isspace() for letter in text)
    assert counts.foreign == sum(letter.isalpha() and ord(letter) > 0x24F for letter in text)
    if not text.isascii():  # a text in ASCII has none
        assert counts.emoji == sum(unicodedata.category(letter) in ("So", "Sk") for letter in text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to me: Ann.Lee@mail.example.org", True),
        ("see @channel_7", True),
        ("a@b", False),
        ("ring +49 (30) 123-4567", True),
        ("in 1989 or 2014", False),
        ("my WhatsApp", True),
        ("Dm Me", True),
        ("add me on \u017fkype", True),  # a long s, which is one without regard to case
        ("my t.me", True),
        ("an apple is a mailbox for me", False),
    ],
)
def test_a_contact_is_found_whatever_the_shortcut(text, found):
    assert has_contact(text) is found


@given(st.text(alphabet="wW.:/ ahtpsſcoKm3é-", max_size=40))
def test_links_are_found_whatever_the_shortcut(text):
    assert links(text) == [found[0] for found in _LINK.finditer(text)]


@given(st.text(alphabet="aAbB' İßé", max_size=40))
def test_words_are_counted_with_their_repetitions_whatever_the_shortcut(text):
    words = WORD.findall(text)
    found = dict(zip(SURFACE, surface(text), strict=True))
    assert found["log_words"] == math.log1p(len(words)) / 2
    assert found["repetition"] == (3 * (1 - len({word.lower() for word in words}) / len(words)) if words else 0.0)
