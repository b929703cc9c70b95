"""The batch job with the real model: accounting, resuming, formats, hostile rows."""

import csv
import gc
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, SAMPLES
from hypothesis import given
from hypothesis import strategies as st

from moderation.readers import read_comments
from moderation.readers.columns import neutralise, restore
from moderation.schema import LABELS, ROW_FIELDS, VERDICT_FIELDS, Article, Comment, Reject, UserError
from moderation.score import CHUNK_CHARACTERS, SHOWN, InputError, Labelled, OutputError, _ahead, _chunks, score


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_table(path, texts, **columns):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["comment_id", "comment_text", "article_title", *columns])
        writer.writeheader()
        for number, text in enumerate(texts):
            writer.writerow({"comment_id": f"c{number}", "comment_text": text, "article_title": "Old bridge closes", **columns})
    return path


def test_every_sample_comment_gets_one_row_with_everything_in_it(moderator, tmp_path):
    items = list(read_comments([SAMPLES]))
    summary = score([SAMPLES], tmp_path / "out.jsonl", moderator)
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["comment_id"] for row in rows] == [item.comment_id for item in items if isinstance(item, Comment)]
    assert len(rows) == summary.rows >= 55 and summary.set_aside == 0
    for row in rows:
        assert list(row) == [*ROW_FIELDS, *VERDICT_FIELDS]
        assert row["label"] == max(LABELS, key=lambda label: row["p_" + label.replace("-", "_")])
        assert abs(sum(row["p_" + label.replace("-", "_")] for label in LABELS) - 1) < 0.001
        assert row["reason"] and row["action"] in ("approve", "review", "reject") and row["model_version"] == moderator.version
    assert set(summary.labels) == set(LABELS)
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_a_foreign_language_goes_to_a_person_and_says_why(moderator, tmp_path):
    score([SAMPLES / "video-comments.csv"], tmp_path / "out.jsonl", moderator)
    [row] = [row for row in rows_of(tmp_path / "out.jsonl") if row["comment_id"] == "w10"]
    assert (row["action"], row["reason"]) == ("review", "language not supported by this model")


def test_rows_that_cannot_be_read_are_set_aside_with_position_and_reason(moderator, tmp_path):
    table = write_table(
        tmp_path / "in.csv", ["The bridge is too narrow for the bus.", "", "   ", "Who pays for it?", "x" * 1_000_001]
    )
    summary = score([table], tmp_path / "out.jsonl", moderator)
    rejects = rows_of(summary.rejects)
    assert (summary.rows, summary.set_aside) == (2, 3)
    assert [reject["file"] for reject in rejects] == [str(table)] * 3
    assert [reject["position"] for reject in rejects] == ["row 2", "row 3", "row 5"] or all(
        reject["position"] for reject in rejects
    )
    assert "empty" in rejects[0]["reason"] and "1,000,001 characters" in rejects[2]["reason"]


def test_a_clean_run_leaves_no_rejects_file_of_an_earlier_one(moderator, tmp_path):
    bad = write_table(tmp_path / "bad.csv", ["", "fine text here"])
    good = write_table(tmp_path / "good.csv", ["fine text here"])
    assert score([bad], tmp_path / "out.jsonl", moderator).rejects.exists()
    assert score([good], tmp_path / "out.jsonl", moderator).rejects is None
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()


HOSTILE = [
    '=HYPERLINK("http://x.example")',
    "+1 for the bridge",
    "-2 degrees on it this morning",
    "@mayor when?",
    "\ttabbed",
    "'=already quoted",
    "''@twice quoted",
    'line one\nline two, with a comma and a "quote"',
    "\u202eevil\u202c bidi",
    "zero\u200bwidth",
    "frее mоney",
    "👍" * 1000,
    "سلام، این پل خیلی مهم است",
    "null",
    "NaN",
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_what_was_written_can_be_read_back_as_it_was(moderator, tmp_path, suffix):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"comment_id": str(i), "comment_text": t}) + "\n" for i, t in enumerate(HOSTILE)))
    first = tmp_path / f"out{suffix}"
    score([source], first, moderator)
    assert [item.text for item in read_comments([first])] == HOSTILE


def test_no_csv_cell_begins_like_a_formula(moderator, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"comment_text": t, "author": t, "article_title": t}) + "\n" for t in HOSTILE))
    score([source], tmp_path / "out.csv", moderator)
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert len(cells) > 300 and not any(cell[:1] in tuple("=+-@\t\r") for cell in cells if cell)


@given(st.text())
def test_neutralised_cells_come_back_exactly(cell):
    assert restore(neutralise(cell)) == cell
    assert neutralise(cell)[:1] not in tuple("=+-@\t\r") or not cell


def test_the_datasets_library_reads_the_output(moderator, tmp_path, monkeypatch):
    from datasets import load_dataset

    source = write_table(tmp_path / "in.csv", ["The bridge is too narrow for the bus.", "lol"])
    for suffix, kind in ((".csv", "csv"), (".jsonl", "json"), (".parquet", "parquet")):
        out = tmp_path / f"out{suffix}"
        score([source], out, moderator)
        table = load_dataset(kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
        assert table.column_names == [*ROW_FIELDS, *VERDICT_FIELDS] and table["comment_id"][:] == ["c0", "c1"]


def test_a_run_with_other_arguments_starts_anew_and_counts_right(moderator, tmp_path):
    out = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    partial.mkdir()
    (partial / "journal.jsonl").write_text('{"identity": "other", "items": 7, "rows": 9, "rejects": 0, "digest": ""}\n')
    (partial / "rows.jsonl").write_text('{"left": "over"}\n')
    summary = score([write_table(tmp_path / "in.csv", ["One bridge.", "Two bridges."])], out, moderator)
    assert (summary.rows, summary.resumed, len(rows_of(out))) == (2, 0, 2)


def test_two_runs_cannot_write_the_same_output(moderator, tmp_path):
    import fcntl

    (tmp_path / "out.jsonl.partial").mkdir()
    with (tmp_path / "out.jsonl.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run is writing it"):
            score([write_table(tmp_path / "in.csv", ["One bridge."])], tmp_path / "out.jsonl", moderator)


class Stopped(Exception):
    """Stands for a run that is killed."""


def stop_at_1024(done):
    if done >= 1024:
        raise Stopped


def test_an_output_in_the_folder_that_is_scored_is_no_input(moderator, tmp_path):
    write_table(tmp_path / "in.csv", ["One bridge.", ""])
    for _ in range(2):
        summary = score([tmp_path], tmp_path / "out.jsonl", moderator)
        assert (summary.rows, summary.set_aside) == (1, 1)


def test_an_interrupted_run_goes_on_when_its_output_is_in_the_scored_folder(moderator, tmp_path):
    write_table(tmp_path / "in.csv", [f"Bridge {number}" for number in range(1100)])
    with pytest.raises(Stopped):
        score([tmp_path], tmp_path / "out.jsonl", moderator, progress=stop_at_1024)
    summary = score([tmp_path], tmp_path / "out.jsonl", moderator)
    assert (summary.rows, summary.resumed, summary.set_aside) == (1100, 1024, 0)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_the_summary_of_an_interrupted_run_counts_all_of_it(moderator, tmp_path, suffix):
    texts = [f"Buy cheap pills at www.pills-{number}.top" if number % 5 else "" for number in range(700)]
    source = write_table(tmp_path / "in.csv", texts + [f"Bridge {number} is too narrow." for number in range(400)])
    straight = score([source], tmp_path / f"straight{suffix}", moderator)
    with pytest.raises(Stopped):
        score([source], tmp_path / f"out{suffix}", moderator, progress=stop_at_1024)
    summary = score([source], tmp_path / f"out{suffix}", moderator)
    assert (summary.rows, summary.set_aside, summary.resumed) == (960, 140, 1024)
    for name in ("labels", "actions", "reasons", "flagged"):
        assert getattr(summary, name) == getattr(straight, name)
    assert (tmp_path / f"out{suffix}").read_bytes() == (tmp_path / f"straight{suffix}").read_bytes()
    assert len(summary.flagged) == SHOWN and all(row["action"] != "approve" for row in summary.flagged)


def test_a_run_leaves_the_process_as_it_found_it(moderator, tmp_path):
    def state():
        return torch.get_num_threads(), sys.getswitchinterval(), gc.get_freeze_count()

    before = state()
    score([SAMPLES], tmp_path / "out.jsonl", moderator)
    assert state() == before

    def fails(done):
        if done:
            during.append(state())
            raise KeyboardInterrupt

    during = []
    with pytest.raises(KeyboardInterrupt):
        score([SAMPLES], tmp_path / "other.jsonl", moderator, progress=fails)
    assert state() == before != during[0]


def test_a_damaged_folder_of_an_interrupted_run_is_named(moderator, tmp_path):
    source = write_table(tmp_path / "in.csv", [f"Bridge {number}" for number in range(1100)])
    with pytest.raises(Stopped):
        score([source], tmp_path / "out.jsonl", moderator, progress=stop_at_1024)
    rows = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    for damage in (b"not a row", b"\n"):
        rows.write_bytes(rows.read_bytes().replace(b"{", damage, 1))
        with pytest.raises(OutputError, match=r"damaged.*remove"):
            score([source], tmp_path / "out.jsonl", moderator)


def test_an_interrupted_run_on_other_standard_input_starts_anew(moderator, tmp_path, monkeypatch):
    def stdin(word):
        rows = "".join(json.dumps({"comment_text": f"{word} {number}"}) + "\n" for number in range(1100))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))

    stdin("Bridge")
    with pytest.raises(Stopped):
        score(["-"], tmp_path / "out.jsonl", moderator, progress=stop_at_1024)
    stdin("Tunnel")
    assert score(["-"], tmp_path / "out.jsonl", moderator).resumed == 0
    assert [row["comment_text"] for row in rows_of(tmp_path / "out.jsonl")] == [f"Tunnel {n}" for n in range(1100)]


def test_the_same_comments_under_another_article_are_scored_anew(moderator, tmp_path, monkeypatch):
    def stdin(title):
        rows = "".join(
            json.dumps({"comment_id": n, "comment_text": "Well", "article_title": title}) + "\n" for n in range(1100)
        )
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))

    stdin("Bridge closes")
    with pytest.raises(Stopped):
        score(["-"], tmp_path / "out.jsonl", moderator, progress=stop_at_1024)
    stdin("Tunnel opens")
    score(["-"], tmp_path / "out.jsonl", moderator)
    assert {row["article_title"] for row in rows_of(tmp_path / "out.jsonl")} == {"Tunnel opens"}


def test_what_was_read_before_the_input_broke_is_handed_on_in_its_order():
    def chunks():
        yield from ([number] for number in range(9))
        raise InputError("broken")

    def judge(chunk):
        time.sleep(0.02 * (chunk[0] % 3 == 0))  # some take longer than those behind them
        return Labelled(chunk, [], [b"%d" % chunk[0]])

    done = []
    with pytest.raises(InputError, match="broken"):
        done.extend(_ahead(chunks(), judge))
    assert done == [([number], [], [b"%d" % number]) for number in range(9)]


def test_a_chunk_ends_where_its_texts_would_fill_the_memory():
    long, short = Article(text="x" * (CHUNK_CHARACTERS // 4)), Article(text="x")
    items = [Comment("Well", str(number), article=long if number < 10 else short) for number in range(600)]
    items.insert(3, Reject("in.jsonl", "line 4", "broken"))
    chunks = list(_chunks(iter(items)))
    assert [len(chunk) for chunk in chunks] == [5, 4, 512, 80]
    assert [item for chunk in chunks for item in chunk] == items


def test_input_that_cannot_be_read_leaves_nothing_behind(moderator, tmp_path):
    evil = tmp_path / "evil.xml"
    evil.write_text('<!DOCTYPE rss [<!ENTITY a "b">]><rss xmlns:wp="http://wordpress.org/export/1.2/"></rss>')
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xe0" + bytes(300))
    for source in (evil, picture):
        with pytest.raises(InputError):
            score([source], tmp_path / "missing" / "out.jsonl", moderator)
    assert not list((tmp_path / "missing").glob("*")) if (tmp_path / "missing").exists() else True


def test_rejects_of_a_run_are_not_overwritten_while_they_are_its_input(moderator, tmp_path):
    source = write_table(tmp_path / "out.jsonl.rejects.jsonl", ["One bridge."])
    with pytest.raises(UserError, match="is also an input"):
        score([source], tmp_path / "out.jsonl", moderator)


def test_a_folder_as_output_is_refused_before_the_work(moderator, tmp_path):
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        score([write_table(tmp_path / "in.csv", ["One bridge."])], tmp_path / "out.jsonl", moderator)


def test_a_folder_without_a_file_is_no_input(moderator, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        score([tmp_path / "in"], tmp_path / "out.jsonl", moderator)


def test_a_place_that_cannot_be_written_is_not_called_a_full_disk(moderator, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another --out"):
        score([write_table(tmp_path / "in.csv", ["One bridge."])], tmp_path / "file" / "out.jsonl", moderator)


def test_errors_are_told_apart(moderator, tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv"):
        score([tmp_path / "absent.csv"], tmp_path / "out.jsonl", moderator)
    with pytest.raises(UserError, match=r"\.jsonl, \.csv, \.parquet"):
        score([SAMPLES], tmp_path / "out.txt", moderator)
    table = write_table(tmp_path / "same.csv", ["One bridge."])
    with pytest.raises(UserError, match="is also an input"):
        score([table], table, moderator)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which Linux has")
def test_a_full_disk_keeps_what_is_done_and_says_what_to_do(moderator, tmp_path):
    source = write_table(tmp_path / "in.csv", [f"Bridge number {number} is closed." for number in range(3000)])
    out = tmp_path / "out.jsonl"

    class Full(Exception):
        pass

    def stop(done):
        if done >= 2048:
            raise Full

    with pytest.raises(Full):
        score([source], out, moderator, progress=stop)
    # The journal of the interrupted run is swapped for the device that is always full, then for the journal again.
    journal = tmp_path / "out.jsonl.partial" / "rows.jsonl"
    kept = journal.read_bytes()
    journal.unlink()
    journal.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="cannot be written"):
        score([source], out, moderator)
    journal.unlink()
    journal.write_bytes(kept)
    summary = score([source], out, moderator)
    assert [row["comment_id"] for row in rows_of(out)] == [f"c{number}" for number in range(3000)]
    assert summary.rows == 3000


@pytest.mark.slow
def test_killed_at_random_moments_it_loses_nothing_and_doubles_nothing(tmp_path):
    texts = [
        ("" if number % 97 == 13 else f"Bridge {number} should have been mended {number % 40} years ago.")
        for number in range(12_000)
    ]
    source = write_table(tmp_path / "in.csv", texts)
    out = tmp_path / "out.jsonl"
    arguments = [sys.executable, "-m", "moderation.cli", "score", str(source), "--out", str(out), "--show", "0"]
    journal = tmp_path / "out.jsonl.partial" / "journal.jsonl"
    moment, kills = random.Random(7), 0
    while kills < 5:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = journal.stat().st_size if journal.exists() else 0
        # At a random moment after some progress was made, so that the kill falls in reading, scoring or writing.
        while process.poll() is None and (journal.stat().st_size if journal.exists() else 0) <= before:
            time.sleep(0.02)
        time.sleep(moment.random() * 0.5)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
            assert not out.exists()
        process.wait()
        if out.exists():
            break
    assert kills >= 2
    finished = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    rows = rows_of(out)
    rejects = rows_of(tmp_path / "out.jsonl.rejects.jsonl")
    assert [row["comment_id"] for row in rows] == [f"c{n}" for n, text in enumerate(texts) if text]
    assert len(rejects) == sum(not text for text in texts)
    assert "by an earlier run" in finished.stdout
