"""The ray engine beside the single process on one machine: the same rows through both, in turns.

    python benchmarks/scale.py --corpora FOLDER [--rows 20000] [--rounds 3]

The rows are those of `youtube-threads`, a video's comments together, in one Parquet file. Each run is a process of its own, and the
clock starts when `score` or `spread` is called: the loading of the model counts in both, and for ray also the start of Ray.
For ray the time is given in its parts: until the first block is handed out (start of Ray, planning), until the first is done
(start of the actors, loading the model in each, a block), from then to the last. Ratios of medians are the result; the spread
over the rounds and the load of the machine before each run are printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

ENGINES = ("single", "ray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="folder that holds youtube-threads")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--block-rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "SOURCE", "OUT"), help=argparse.SUPPRESS)  # a run, as a process
    arguments = parser.parse_args()
    if arguments.one:
        engine, source, out = arguments.one
        print(json.dumps(single(source, out) if engine == "single" else ray(source, out, arguments.block_rows)))
        return
    if not arguments.corpora:
        parser.error("--corpora is needed")
    from data import corpora

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


def shown(run: dict) -> str:
    return ", ".join(f"{name} {value:,.1f}" for name, value in run.items())


if __name__ == "__main__":
    main()
