"""Our own labelled threads: what the datasheet promises of them."""

import itertools
import json
import re
from collections import Counter, defaultdict

import pytest
from conftest import ROOT
from datasketch import MinHash, MinHashLSH

from moderation.schema import LABELS, ROW_FIELDS, Comment

FOLDER = ROOT / "data" / "threads"
FILES = ("train", "validation", "test", "third-round")


@pytest.fixture(scope="module")
def rows():
    found = []
    for name in FILES:
        with (FOLDER / f"{name}.jsonl").open(encoding="utf-8") as lines:
            found += [json.loads(line) for line in lines]
    return found


def words(text):
    return re.findall(r"\w+", text.lower())


def test_there_are_enough_of_them_in_the_native_row(rows):
    assert len(rows) >= 5000 and len({row["article_id"] for row in rows}) >= 250
    for row in rows:
        assert list(row) == [*ROW_FIELDS, "label", "slice", "split", "desk", "cluster"]
        assert Comment.from_row(row).text == row["comment_text"]
        assert row["label"] in LABELS and row["slice"]


def test_ids_are_unique_and_parents_stand_in_their_thread(rows):
    assert max(Counter(row["comment_id"] for row in rows).values()) == 1
    for row in rows:
        assert bool(row["parent_id"]) == bool(row["parent_text"])
        assert not row["parent_id"] or row["parent_id"].startswith(row["article_id"])


def test_the_mix_is_as_described(rows):
    labels = Counter(row["label"] for row in rows)
    assert all(labels[label] / len(rows) > 0.1 for label in LABELS)
    off_topic = [row for row in rows if row["label"] == "off-topic"]
    assert sum(row["slice"] == "near" for row in off_topic) >= 0.4 * len(off_topic)
    assert sum(bool(row["parent_id"]) for row in rows) >= 0.25 * len(rows)
    lengths = sorted(len(row["comment_text"].split()) for row in rows)
    assert lengths[0] == 1 and 20 <= lengths[len(lengths) // 2] <= 45 and max(len(row["comment_text"]) for row in rows) <= 1500


def test_no_thread_no_cluster_and_no_text_is_in_two_splits(rows):
    for column in ("article_id", "cluster", "article_title"):
        places = defaultdict(set)
        for row in rows:
            places[row[column]].add(row["split"])
        assert not [value for value, splits in places.items() if len(splits) > 1], column
    texts = defaultdict(set)
    for row in rows:
        if len(words(row["comment_text"])) >= 6:
            texts[" ".join(words(row["comment_text"]))].add(row["comment_id"])
    assert not [ids for ids in texts.values() if len(ids) > 1]


def test_the_splits_are_about_70_15_15(rows):
    share = Counter(row["split"] for row in rows)
    assert 0.6 < share["train"] / len(rows) < 0.76
    assert all(0.1 < share[split] / len(rows) < 0.2 for split in ("validation", "test"))


@pytest.mark.slow
def test_no_two_comments_are_near_duplicates(rows):
    index, kept, near = MinHashLSH(threshold=0.6, num_perm=64), {}, []
    for row in rows:
        tokens = words(row["comment_text"])
        if len(tokens) < 8:
            continue
        pairs = {" ".join(pair) for pair in itertools.pairwise(tokens)}
        sketch = MinHash(num_perm=64)
        sketch.update_batch([pair.encode() for pair in pairs])
        for other in index.query(sketch):
            union = pairs | kept[other]
            if len(pairs & kept[other]) / len(union) > 0.6:
                near.append((row["comment_id"], other))
        index.insert(row["comment_id"], sketch)
        kept[row["comment_id"]] = pairs
    assert near == []


def test_openings_are_not_repeated(rows):
    openings = Counter(" ".join(words(row["comment_text"])[:5]) for row in rows if len(words(row["comment_text"])) >= 10)
    assert [opening for opening, count in openings.items() if count > 4] == []


def test_no_slice_word_gives_a_label_away_twice(rows):
    by_slice = defaultdict(set)
    for row in rows:
        by_slice[row["slice"]].add(row["label"])
    assert all(len(labels) == 1 for labels in by_slice.values())


def test_the_label_files_hold_ids_and_labels_only():
    for path in (ROOT / "data" / "labels").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert set(row) <= {"corpus", "comment_id", "label", "confidence", "shown_under"} and row["label"] in LABELS
