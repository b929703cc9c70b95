"""What the ray engine costs beside the single process: the same rows through both, in processor seconds and by the clock.

    python benchmarks/scale.py --corpora FOLDER [--rows 8000]

The rows are those of `youtube-threads`, a video's comments together. Both hold the model already when the clock starts for the
single process; by the clock, the ray engine's time includes starting Ray and loading the model once an actor. Processor seconds
are those of scoring (reading and writing included); on a shared machine they, and not the clock, can be compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data import corpora
from moderation.cli import quiet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--block-rows", type=int, default=2000)
    parser.add_argument("--only", choices=["single", "ray"])
    arguments = parser.parse_args()
    quiet()
    from moderation.model import Moderator
    from moderation.score import score
    from moderation.spread import spread

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "rows.parquet"), Path(folder, "out")
        rows = list(islice(corpora.rows("youtube-threads", arguments.corpora, "measure"), arguments.rows))
        pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=arguments.block_rows)
        if arguments.only != "ray":
            moderator = Moderator.from_pretrained()
            clock, processor = time.monotonic(), time.process_time()
            score([source], Path(folder, "single.parquet"), moderator)
            report("single process", len(rows), time.monotonic() - clock, time.process_time() - processor)
        if arguments.only != "single":
            clock = time.monotonic()
            spread([str(source)], str(out), block_rows=arguments.block_rows)
            elapsed = time.monotonic() - clock
            receipts = [json.loads(path.read_text()) for path in (out / "_run" / "done").glob("*.json")]
            report(f"ray, {len(receipts)} blocks", len(rows), elapsed, sum(one["cpu_seconds"] for one in receipts))


def report(name: str, rows: int, elapsed: float, processor: float) -> None:
    print(
        f"{name}: {rows:,} comments, {elapsed:.1f} s by the clock, {processor:.1f} s of processor, "
        f"{rows / processor:,.0f} comments a processor second",
        flush=True,
    )


if __name__ == "__main__":
    main()
