"""The benchmark of speed runs, on a few of our own rows, and its table says what was measured."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import contestants
import speed

from moderation import Article
from moderation.text import MAX_SENTENCES, segments


@pytest.mark.slow
def test_contestants_take_turns_on_the_same_rows_and_every_figure_is_written(tmp_path):
    rows = ROOT / "data/threads/test.jsonl"
    arguments = [
        "--rows",
        rows,
        "--size",
        "40",
        "--growth",
        "20,60",
        "--stride",
        "10",
        "--rounds",
        "2",
        "--apart",
        "10",
        "--agreement",
        "0",
        "--latency",
        "0",
    ]
    result = subprocess.run(
        [
            sys.executable,
            "benchmarks/speed.py",
            *map(str, arguments),
            "--only",
            "ours,pipeline,limit,limit (encoder alone)",
            "--out",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: (one["rows"], len(one["rates"])) for name, one in results["contest"].items()} == {
        "ours": (40, 2),
        "pipeline": (4, 2),
        "limit": (40, 2),
        "limit (encoder alone)": (40, 2),
    }
    assert all(one["rate"] > 0 and one["memory"] > 1e8 for one in results["contest"].values())
    assert [one["rows"] for one in results["growth"]] == [20, 60] and results["apart"]["rows"] == 10
    kept = json.loads((tmp_path / "growth.json").read_text())
    assert [kept[size] for size in ("20", "60")] == results["growth"], "a run that is interrupted goes on from there"
    # All texts packed together need no more padding than the same texts chunk by chunk.
    assert 0 <= results["contest"]["limit"]["padding"] <= results["contest"]["ours"]["padding"] < 0.5
    assert (tmp_path / "speed.png").stat().st_size > 5000 and (tmp_path / "table.md").read_text() == speed.table(results)


def test_the_table_gives_ratios_cost_and_spread():
    one = {"rows": 10, "memory": 5e8, "padding": 0.02, "cpu": 0.00125}
    results = {
        "rows": 10,
        "articles": 2,
        "machine": "2 cores, a processor",
        "price": 0.36,
        "contest": {
            "ours": one | {"rate": 200.0, "rates": [190.0, 200.0, 230.0]},
            "pipeline": one | {"rate": 10.0, "rates": [9.5, 10.0, 11.5], "rows": 2},
            "limit": one | {"rate": 250.0, "rates": [240.0, 250.0, 260.0], "padding": None},
        },
        "growth": [{"rows": 1000, "seconds": 5.0, "memory": 5e8}],
        "apart": {"rows": 3000, "seconds": 99.0, "memory": 9e8},
        "agreement": {"kind": "int8", "rows": 1000, "same": 0.9931, "gold": [0.7396, 0.7387]},
        "latency": {"cached": [10.0, 20.0], "new": [30.0, 40.0]},
        "start": {"help": 0.2, "score": 2.5},
    }
    table = speed.table(results)
    assert "| ours | 200 | 190–230 | 20.0 | 80% | 1.25 ms | 2.0% | 500 MB | 0.500 | 10 |" in table
    assert "| limit | 250 | 240–260 | 25.0 | 100% | 1.25 ms | – |" in table
    assert "1,000 rows: 5.0 s, 5.00 ms a row" in table and "3,000 rows, each under a long article of its own: 900 MB" in table
    assert "99.31%" in table and "0.7396 → 0.7387" in table


def test_more_rows_than_there_are_come_as_new_texts_under_new_articles():
    rows = [{"comment_text": f"one {n} three {n + 7} five", "article_id": f"a{n % 2}", "article_title": "A"} for n in range(5)]
    more = list(speed.grown(rows, 13))
    assert more[:5] == rows and len(more) == 13
    assert len({row["comment_text"] for row in more}) == 13 and len({row["article_id"] for row in more}) == 6
    assert all(4 <= len(row["comment_text"].split()) <= 6 for row in more)


def test_rows_apart_share_nothing_that_is_encoded():
    rows = [{"comment_text": f"one {n} three {n + 7} five", "article_id": "a", "article_title": "A"} for n in range(5)]
    found = list(speed.apart(rows, 12))
    for name in ("article_id", "article_title", "article_text", "parent_text", "comment_id"):
        assert len({row[name] for row in found}) == 12
    assert {len(segments(Article(text=row["article_text"]))) for row in found} == {MAX_SENTENCES + 1}


def test_each_contestant_is_what_its_name_says():
    assert contestants.READY.keys() == contestants.CONTESTANTS.keys() and contestants.CONTESTANTS.keys() > contestants.SLOW
    for name, work in contestants.READY.items():
        called = getattr(work, "func", work).__name__.strip("_").replace("_", "")
        words = "".join(filter(str.isalnum, f"{name} {contestants.CONTESTANTS[name]}".lower()))
        assert called in words, f"{name} is measured by {called}"


def test_a_contestant_that_is_none_is_named(tmp_path):
    result = subprocess.run(
        [sys.executable, "benchmarks/speed.py", "--rows", "data/threads/test.jsonl", "--only", "nobody"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 2 and "nobody" in result.stderr
