"""Tokens looked up word by word are those of the tokenizer itself."""

import json
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from moderation import wordpiece
from moderation.model import DEFAULT_ENCODER, find_encoder
from moderation.wordpiece import WordPieces

ODD = [
    "",
    " ",
    "[CLS] in the middle[SEP]",
    "[MASK]ed and [mask]ed",
    "##ing ##",
    "snake_case, e-mail@example.org (50%)",
    "a" * 150,
    "a" * 65 + " " + "a" * 64,
    "word " * 700,
    "Tab\tand\nline and \x00 nothing \x7f",
    "naïve İstanbul ſ 漢字 👍",
    "don't ... WHAT?!?",
]


@pytest.fixture(scope="module")
def bert():
    tokenizer = Tokenizer.from_file(str(Path(find_encoder(DEFAULT_ENCODER)) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def short(bert):
    return WordPieces(bert), cut(bert, 16)


def cut(tokenizer, limit):
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.enable_truncation(limit)
    return whole


def plainly(tokenizer, texts, limit):
    return [encoding.ids for encoding in cut(tokenizer, limit).encode_batch(texts)]


def written():
    for name in ("test", "validation"):
        for line in (ROOT / f"data/threads/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from (row["comment_text"], row["article_title"])


@pytest.mark.parametrize("limit", [8, 512])
def test_what_people_write_gets_the_tokenizers_tokens(bert, limit):
    texts = [*written(), *ODD]
    assert WordPieces(bert).ids(texts, limit) == plainly(bert, texts, limit)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from("aB1 _-[]#'@.,é️\t\x00CLS") | st.characters(max_codepoint=0x2FF)), max_size=4))
@example(ODD)
def test_any_text_does(short, texts):
    pieces, whole = short
    assert pieces.ids(texts, 16) == [encoding.ids for encoding in whole.encode_batch(texts)]


def test_another_kind_of_tokenizer_is_asked_for_the_whole_text():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        ["the bridge is closed", "the ferry is not"], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    texts = ["The ferry", "is the bridge  closed?", *ODD]
    assert WordPieces(tokenizer).ids(texts, 64) == plainly(tokenizer, texts, 64)


def test_words_are_forgotten_when_they_are_too_many_and_threads_do_not_mind(bert, monkeypatch):
    monkeypatch.setattr(wordpiece, "WORDS", 50)
    texts = list(written())[:2000]
    expected, pieces, found = plainly(bert, texts, 64), WordPieces(bert), {}

    def work(number):
        found[number] = [pieces.ids([text], 64)[0] for text in texts[number:] + texts[:number]]

    threads = [threading.Thread(target=work, args=(500 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ids == expected[number:] + expected[:number] for number, ids in found.items()) and len(found) == 4
