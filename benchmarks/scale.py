"""The ray engine beside the single process on one machine: the same rows through both, in turns; and what planning takes.

    python benchmarks/scale.py --corpora FOLDER [--rows 20000] [--rounds 3]
    python benchmarks/scale.py --corpora FOLDER --plan --rows 100000

The rows are those of `youtube-threads`, a video's comments together, in one Parquet file. Each run is a process of its own, and the
clock starts when `score` or `spread` is called: the loading of the model counts in both, and for ray also the start of Ray.
For ray the time is given in its parts: until the first block is handed out (start of Ray, planning), until the first is done
(start of the actors, loading the model in each, a block), from then to the last. Ratios of medians are the result; the spread
over the rounds and the load of the machine before each run are printed beside them.

`--plan` scores nothing: it surveys the rows in order, by one core, shuffles them, and has them surveyed, sorted by article and
surveyed again by Ray; with what a row weighs, how many share an article and how many are the same question as another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

ENGINES = ("single", "ray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="folder that holds youtube-threads")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--block-rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plan", action="store_true", help="measure the planning, not the scoring")
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "SOURCE", "OUT"), help=argparse.SUPPRESS)  # a run, as a process
    arguments = parser.parse_args()
    if arguments.one:
        engine, source, out = arguments.one
        print(json.dumps(single(source, out) if engine == "single" else ray(source, out, arguments.block_rows)))
        return
    if not arguments.corpora:
        parser.error("--corpora is needed")
    from data import corpora

    if arguments.plan:
        plan(list(islice(corpora.rows("youtube-threads", arguments.corpora, "measure"), arguments.rows)), arguments.rows)
        return
    runs: dict[str, list[dict]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "rows.parquet")
        write(list(islice(corpora.rows("youtube-threads", arguments.corpora, "measure"), arguments.rows)), source, arguments)
        for number in range(arguments.rounds):
            for engine in ENGINES:
                load = os.getloadavg()[0]
                command = [sys.executable, __file__, "--block-rows", str(arguments.block_rows), "--one", engine, str(source)]
                command.append(str(Path(folder, f"{number}{'' if engine == 'ray' else '.parquet'}")))
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[engine].append(json.loads(done.stdout) | {"load": load})
                print(f"round {number + 1}, {engine}: {shown(runs[engine][-1])}", flush=True)
    for engine in ENGINES:
        seconds = [run["seconds"] for run in runs[engine]]
        print(
            f"{engine}: {arguments.rows / statistics.median(seconds):,.0f} comments a second "
            f"({min(seconds):.1f} to {max(seconds):.1f} s for {arguments.rows:,})"
        )
    ratios = [ray["seconds"] / single["seconds"] for single, ray in zip(*runs.values(), strict=True)]
    print(f"ray takes {statistics.median(ratios):.2f} times the single process ({min(ratios):.2f} to {max(ratios):.2f})")
    steady = [run["steady"] / (run["rows_steady"] or 1) for run in runs["ray"]]
    print(f"ray without start: {1 / statistics.median(steady):,.0f} comments a second")


def write(rows: list[dict], path: Path, arguments: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=arguments.block_rows)


def single(source: str, out: str) -> dict:
    from moderation.cli import quiet

    quiet()
    clock = time.monotonic()
    from moderation.registry import Champion
    from moderation.score import score

    score([source], out, Champion())
    return {"seconds": time.monotonic() - clock, "processor": time.process_time()}


def ray(source: str, out: str, block_rows: int) -> dict:
    from moderation.cli import quiet
    from moderation.spread import spread

    quiet()
    clock = time.monotonic()
    marks: list[tuple[float, int]] = []
    spread([source], out, block_rows=block_rows, progress=lambda done, rows: marks.append((time.monotonic() - clock, done)))
    seconds = time.monotonic() - clock
    receipts = [json.loads(path.read_text()) for path in Path(out, "_run", "done").glob("*.json")]
    (planned, _), (first, some), (last, every) = marks[0], marks[1], marks[-1]
    return {
        "seconds": seconds,
        "processor": sum(one["cpu_seconds"] for one in receipts),
        "planned": planned,
        "first": first - planned,
        "steady": last - first,
        "rows_steady": every - some,
        "stopped": seconds - last,
    }


def plan(rows: list[dict], wanted: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from moderation.spread.blocks import Block, planned, survey
    from moderation.spread.cluster import cluster
    from moderation.spread.storage import Folder, parquet_files

    questions = Counter(
        (row["article_title"], row["article_text"], row.get("parent_text"), row["comment_text"]) for row in rows
    )
    articles = Counter(row["article_id"] for row in rows)
    print(
        f"{len(rows):,} rows, {len(articles):,} articles, {1 - len(questions) / len(rows):.1%} the same question as another, "
        f"{sum(len(row['comment_text']) for row in rows) / len(rows):.0f} characters of comment, load {os.getloadavg()[0]:.1f}"
    )
    again = range(1 + (wanted - 1) // len(rows))  # the same comments under other articles
    rows = [row | {"article_id": f"{row['article_id']}-{time}"} for time in again for row in rows][:wanted]
    table = pa.Table.from_pylist(rows)
    with tempfile.TemporaryDirectory() as name:
        for order in ("ordered", "shuffled"):
            path = Path(name, order, "rows.parquet")
            path.parent.mkdir()
            pq.write_table(table, path, row_group_size=20_000)
            clock = time.monotonic(), time.process_time()
            blocks, met = survey(Block(str(path), str(path), 0, 0), {}, block_rows=2000)
            seconds, processor = time.monotonic() - clock[0], time.process_time() - clock[1]
            print(
                f"{order}: {path.stat().st_size / len(rows):,.0f} bytes a row in Parquet, {table.nbytes / len(rows):,.0f} in memory; "
                f"survey {len(rows) / processor:,.0f} rows a second of one core ({seconds:.1f} s by the clock); "
                f"{len(met) / len(set(met)):.2f} encodings of an article in {len(blocks)} blocks"
            )
            table = table.take(random.Random(1).sample(range(len(rows)), len(rows)))
        with cluster(None):
            clock = time.monotonic()
            blocks = planned(parquet_files([str(path.parent)]), {}, Folder(str(Path(name, "out"))), 2000)
            seconds = time.monotonic() - clock
            print(f"sorted by Ray: {len(rows) / seconds:,.0f} rows a second ({seconds:.1f} s), {len(blocks)} blocks")


def shown(run: dict) -> str:
    return ", ".join(f"{name} {value:,.1f}" for name, value in run.items())


if __name__ == "__main__":
    main()
