"""The command line as a user meets it: in a process of its own, judged by exit code and by what it prints."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from conftest import ROOT, SAMPLES

from moderation.cli import parse_map


def text(process):
    return process.stdout.decode() + process.stderr.decode()


def test_the_demo_command_prints_counts_flagged_comments_and_the_file(command, tmp_path):
    done = command("score", SAMPLES, "--out", "labelled.csv", "--show", "30")
    printed = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    for expected in (
        "Summary",
        "low-effort",
        "spam",
        "57 rows: 57 scored",
        "Labelled rows: labelled.csv",
        "reads as promotion",
    ):
        assert expected in printed
    assert (tmp_path / "labelled.csv").exists()


def test_standard_input_and_the_default_name_of_the_output(command, tmp_path):
    rows = "".join(json.dumps({"comment_text": f"Remark {n} on the bridge"}) + "\n" for n in range(3))
    done = command("score", "-", stdin=gzip.compress(rows.encode()))
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "stdin.scored.jsonl").read_text().splitlines()) == 3


def test_columns_are_mapped_by_name(command, tmp_path):
    (tmp_path / "in.csv").write_text("a,b\nWho pays for the detour?,Bridge closes\n")
    done = command("score", "in.csv", "--map", "comment_text=a,article_title=b", "--out", "out.jsonl")
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["comment_text"], row["article_title"]) == ("Who pays for the detour?", "Bridge closes")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score", "absent.csv"], 3, "absent.csv"),
        (["score", "table.csv"], 3, "--map"),
        (["score", "table.csv", "--map", "comment_text"], 2, "expected NAME=COLUMN"),
        (["score", "table.csv", "--map", "colour=a"], 2, "comment_text"),
        (["score", "table.csv", "--map", "comment_text=zzz"], 3, "zzz"),
        (["score", "table.csv", "--format", "word"], 2, "unknown format"),
        (["score", "table.csv", "--map", "comment_text=a", "--out", "x.txt"], 2, ".jsonl"),
        (["score", "table.csv", "--map", "comment_text=a", "--threshold-file", "table.csv"], 2, "thresholds"),
        (["score", "table.csv", "--map", "comment_text=a", "--model", "."], 2, "no model here"),
        (["score"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_a_mistake_is_one_line_with_an_exit_code_and_no_traceback(command, tmp_path, arguments, code, message):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    done = command(*arguments)
    assert done.returncode == code, text(done)
    assert message in text(done) and "Traceback" not in text(done)


def test_spaces_in_a_map_do_not_matter():
    assert parse_map(" comment_text = body , article_title=head line ") == {
        "comment_text": "body",
        "article_title": "head line",
    }


def test_a_file_name_that_is_no_text_can_be_printed(command, tmp_path):
    (tmp_path / os.fsdecode(b"n\xff.csv")).write_text("comment_text,article_title\nWho pays?,T\n")
    done = command("score", os.fsdecode(b"n\xff.csv"))
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_strict_turns_set_aside_rows_into_exit_code_4(command, tmp_path):
    (tmp_path / "in.csv").write_text('comment_text,article_title\n"",T\nWho pays?,T\n')
    assert command("score", "in.csv", "--out", "out.jsonl").returncode == 0
    done = command("score", "in.csv", "--out", "out.jsonl", "--strict")
    assert done.returncode == 4 and "1 set aside" in text(done)


def test_terminal_control_in_comments_never_reaches_the_terminal(command, tmp_path):
    evil = "BUY NOW \u001b]0;owned\u0007\u001b[2J visit www.x.example \u202eknil"
    (tmp_path / "in.jsonl").write_text(json.dumps({"comment_text": evil, "article_title": "[red]T[/red]"}) + "\n")
    done = command("score", "in.jsonl", "--out", "out.jsonl")
    assert done.returncode == 0 and b"\x1b" not in done.stdout and "\u202e" not in done.stdout.decode()


def test_interrupted_it_says_how_to_go_on(tmp_path):
    def listen():  # a shell that starts jobs in the background has them ignore the signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    source = tmp_path / "in.csv"
    source.write_text("comment_text\n" + "".join(f"Remark {n} on the bridge and its piers\n" for n in range(20_000)))
    arguments = [sys.executable, "-m", "moderation.cli", "score", str(source), "--out", str(tmp_path / "out.jsonl")]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listen)
    journal = tmp_path / "out.jsonl.partial" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"run the same command again" in errors and b"Traceback" not in errors


@pytest.mark.slow
def test_the_built_wheel_brings_what_its_commands_need(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "models", "*.egg-info", "build", "__pycache__")
    )
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path / "dist"),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    brought = set(zipfile.ZipFile(wheel).namelist())
    needed = [path for room in ("moderation", "training") for path in (ROOT / room).rglob("*") if path.is_file()]
    needed = {str(path.relative_to(ROOT)) for path in needed if "__pycache__" not in path.parts}
    needed |= {f"data/threads/{split}.jsonl" for split in ("train", "validation", "test")}  # what the learning loop replays
    assert needed <= brought, needed - brought  # the store's migrations and the report's page are no modules
    assert "data/threads/third-round.jsonl" not in brought  # outside the recipe, so nothing reads it where this is installed
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True)
    code = (
        "import sys; sys.path[:] = [sys.argv.pop(1), *(p for p in sys.path if p != sys.argv[1])]; sys.argv.pop(1);"
        "import moderation, training; assert moderation.__file__.startswith(sys.path[0]), moderation.__file__;"
        "from moderation.cli import main; main()"
    )
    run = [sys.executable, "-c", code, str(target), str(ROOT)]
    help_page = subprocess.run([*run, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert all(name in help_page.stdout for name in ("score", "train", "evaluate")), help_page.stderr
    scored = subprocess.run([*run, "score", str(SAMPLES), "--out", "out.jsonl"], cwd=tmp_path, capture_output=True, text=True)
    assert scored.returncode == 0, scored.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 57
