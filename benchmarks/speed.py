"""Everybody on the same rows in the same run: how many comments a second, at what cost, and how far from the limit.

    python benchmarks/speed.py --corpora FOLDER --out report/speed          # or: make bench CORPORA=FOLDER
    python benchmarks/speed.py --rows data/threads/test.jsonl --size 300   # any file of native rows

Each contestant is a process of its own that loads its model and waits; then they take turns, round after round, one at a
time, so that whatever else the machine does meets all of them alike; a first round warms up and does not count. Ratios are
the result, not absolute times: medians of those within each round.
`results.json`, `table.md` and `speed.png` go to `--out`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from contestants import CONTESTANTS, READY, SLOW, Rows, comments_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="folder of the public corpora: rows are taken from youtube-threads")
    parser.add_argument("--rows", type=Path, help="native rows (JSONL) instead")
    parser.add_argument("--size", type=int, default=10_000, help="rows of the contest")
    parser.add_argument(
        "--growth",
        default="1000,10000",
        help="numbers of rows on which the time of `ours` is shown to grow linearly; what OUT/growth.json has is not run again; '': none",
    )
    parser.add_argument(
        "--apart",
        type=int,
        default=0,
        help="rows, each under a long article of its own, on which the peak memory of `ours` is shown",
    )
    parser.add_argument("--stride", type=int, default=25, help="the slow contestants get every STRIDE-th row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants, by comma")
    parser.add_argument(
        "--agreement", type=int, default=1000, help="rows on which labels are compared with fp32 PyTorch's; 0: none"
    )
    parser.add_argument("--latency", type=int, default=200, help="single comments that are timed; 0: none")
    parser.add_argument("--price", type=float, default=0.10, help="what an hour of this machine costs, in USD")
    parser.add_argument("--out", type=Path, default=Path("report/speed"))
    options = parser.parse_args()
    if not options.rows and not options.corpora:
        parser.error("name --corpora FOLDER (public corpora with youtube-threads) or --rows FILE (native rows, JSONL)")
    sizes = sorted(int(size) for size in options.growth.split(",") if size)
    every = _rows(options)
    rows = every[: options.size]
    names = [name.strip() for name in options.only.split(",")]
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(f"--only {sorted(unknown)}: expected some of {', '.join(CONTESTANTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        contest = _contest(rows, names, options, Path(folder))
        results = {
            "machine": f"{os.cpu_count()} cores, {_cpu_name()}",
            "rows": len(rows),
            "articles": len({row["article_id"] for row in rows}),
            "price": options.price,
            "stride": options.stride,
            "contest": contest,
            "growth": [_grown(f"{size}", grown(every, size), Path(folder), options.out / "growth.json") for size in sizes],
            "apart": _grown(f"{options.apart} apart", apart(every, options.apart), Path(folder), options.out / "growth.json")
            if options.apart
            else None,
            "agreement": _alone(_agreement, rows, options.agreement, options.corpora) if options.agreement else None,
            "latency": _alone(_latency, rows, options.latency) if options.latency else None,
            "start": _start(rows[0], Path(folder)) if options.latency else None,
        }
    (options.out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (options.out / "table.md").write_text(table(results), encoding="utf-8")
    _plot(results, options.out / "speed.png")
    print(table(results))


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")


def _rows(options: argparse.Namespace) -> Rows:
    if options.rows:
        with options.rows.open(encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
    else:
        from data import corpora

        found = list(corpora.rows("youtube-threads", options.corpora))
    return [{"article_id": row.get("article_title", ""), "article_text": "", "parent_text": ""} | row for row in found]


def _contest(rows: Rows, names: Sequence[str], options: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """Median comments a second, spread, padding and memory by contestant."""
    context = multiprocessing.get_context("spawn")
    contestants = {}
    for name in names:
        here, there = context.Pipe()
        given = rows[:: options.stride] if name in SLOW else rows
        process = context.Process(target=_contestant, args=(name, given, folder, there), daemon=True)
        process.start()
        contestants[name] = (process, here, len(given))
        here.recv()  # ready; one after the other, as the memory of loading is theirs as well
    rates: dict[str, list[float]] = {name: [] for name in names}
    facts = {}
    for number in range(1 + options.rounds):
        for name, (_, pipe, count) in contestants.items():
            pipe.send("go")
            seconds, facts[name] = pipe.recv()
            if number:  # the first round loads what is loaded at first use
                rates[name].append(count / seconds)
            print(f"{number}. {name}: {count / seconds:.1f} comments/s", file=sys.stderr, flush=True)
    for process, pipe, _ in contestants.values():
        pipe.send("")
        process.join()
    return {
        name: {"rows": contestants[name][2], "rates": rates[name], "rate": statistics.median(rates[name])} | facts[name]
        for name in names
    }


def _contestant(name: str, rows: Rows, folder: Path, pipe) -> None:
    """A process: get ready, say so, and do the work whenever told."""
    from moderation.cli import quiet

    quiet()
    work, padding = READY[name](rows, folder)
    pipe.send("ready")
    with _Memory() as memory:
        while pipe.recv():
            started, busy = time.perf_counter(), time.process_time()
            work()
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
            pipe.send((seconds, {"memory": memory.peak, "padding": padding(), "cpu": busy / len(rows)}))


class _Memory:
    """The largest resident memory of this process while it works, in bytes, looked at every 50 ms."""

    def __enter__(self) -> _Memory:
        self.peak = 0
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.peak = max(self.peak, pages * os.sysconf("SC_PAGE_SIZE"))
            if self._stop.wait(0.05):
                return


def _alone(function: Callable, *arguments: object):
    """What `function` returns, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def grown(rows: Rows, count: int) -> Iterator[dict]:
    """So many rows: the given ones, then the same again as new texts under new articles, each with the second half of
    its words from another row. The mix of lengths stays, and no text is one that was judged before."""
    for number in range(count):
        again, place = divmod(number, len(rows))
        row = rows[place]
        if again:
            words, others = (rows[at % len(rows)]["comment_text"].split() for at in (place, place + 7919 * again))
            text = " ".join(words[: (len(words) + 1) // 2] + others[len(others) // 2 :])
            row = row | {
                "comment_id": f"{row.get('comment_id', place)}-{again}",
                "comment_text": text,
                "article_id": f"{row['article_id']}-{again}",
                "article_title": f"{row['article_title']} ({again})",
            }
        yield row


def apart(rows: Rows, count: int) -> Iterator[dict]:
    """So many rows, each under an article of its own (26 sentences of 40 words) and an answer to a parent of its own (80 words): what
    takes the most memory. The words are those of the given rows, by lot."""
    words = [word.lower() for row in rows[:5000] for word in row["comment_text"].split() if word.isalpha()]
    for number in range(count):
        lot = random.Random(number)
        sentences = [" ".join(lot.choices(words, k=40)).capitalize() + "." for _ in range(26)]
        yield rows[number % len(rows)] | {
            "comment_id": f"apart-{number}",
            "article_id": f"apart-{number}",
            "article_title": f"Article {number}",
            "article_text": " ".join(sentences),
            "parent_text": " ".join(lot.choices(words, k=80)),
        }


def _grown(name: str, rows: Iterator[dict], folder: Path, kept: Path) -> dict:
    """`ours` once over `rows` from file to file: seconds, peak memory; from `kept` if it was run before under that name."""
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if name not in known:
        source = folder / "grown.jsonl"
        with source.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        known[name] = _alone(_growth, source)
        source.unlink()
        kept.write_text(json.dumps(known, indent=1), encoding="utf-8")
        print(f"{name} rows: {known[name]['seconds']:.1f} s", file=sys.stderr, flush=True)
    return known[name]


def _growth(source: Path) -> dict:
    from moderation import Moderator
    from moderation.articles import Articles
    from moderation.cli import quiet
    from moderation.score import score
    from moderation.text import detect_language

    quiet()
    moderator = Moderator.from_pretrained()
    moderator.articles = Articles(source.parent / "articles" / source.stem)  # none that an earlier run left
    detect_language("What is loaded at first use is loaded before the clock starts.")

    def progress(done: int) -> None:
        if done // 50_000 > progress.shown:
            progress.shown = done // 50_000
            print(f"  {done:,} rows after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    progress.shown = 0
    with _Memory() as memory:
        started = time.perf_counter()
        summary = score([source], source.with_suffix(".out.jsonl"), moderator, progress=progress)
        seconds = time.perf_counter() - started
        source.with_suffix(".out.jsonl").unlink()
        return {"rows": summary.rows + summary.set_aside, "seconds": seconds, "memory": memory.peak}


def _agreement(rows: Rows, count: int, corpora: Path | None) -> dict:
    """Labels that stay when the compiled encoder takes the place of fp32 PyTorch, and macro-F1 on gold-dev with both."""
    from moderation.cli import quiet

    quiet()
    from sklearn.metrics import f1_score

    from moderation import Moderator
    from moderation.schema import LABELS

    starts = range(0, len(rows), max(1, len(rows) * 100 // count))  # stretches of 100 neighbours
    comments = comments_of([row for start in starts for row in rows[start : start + 100]][:count])
    gold = []
    if corpora and (corpora / "gold-dev.jsonl").exists():
        gold = [json.loads(line) for line in (corpora / "gold-dev.jsonl").read_text(encoding="utf-8").splitlines()]
    reference = Moderator.from_pretrained(runtime="torch")
    reference.encoder.exact = True
    found = {}
    for name, moderator in (("fp32", reference), ("compiled", Moderator.from_pretrained())):
        labels = moderator.predict_proba(comments).argmax(1)
        on_gold = [LABELS[label] for label in moderator.predict_proba(comments_of(gold)).argmax(1)] if gold else []
        found[name] = labels, f1_score([row["label"] for row in gold], on_gold, average="macro") if gold else None
    kind = getattr(Moderator.from_pretrained().encoder, "kind", "torch")
    same = float((found["fp32"][0] == found["compiled"][0]).mean())
    return {"kind": kind, "rows": len(comments), "same": same, "gold": [found["fp32"][1], found["compiled"][1]]}


def _latency(rows: Rows, count: int) -> dict:
    """Milliseconds of single comments in a running process: median and 99th percentile, article cached and not."""
    from moderation.cli import quiet

    quiet()
    from moderation import Moderator
    from moderation.articles import Articles
    from moderation.recurring import Recurring

    moderator = Moderator.from_pretrained()
    comments = comments_of(rows[:: max(1, len(rows) // count)])[:count]
    for comment in comments:
        moderator.predict([comment])
    found = {}
    for name, some in (
        ("cached", comments),
        (
            "new",
            [
                replace(one, article=replace(one.article, title=f"{n} {one.article.title}", text=f"{n} {one.article.text}"))
                for n, one in enumerate(comments)
            ],
        ),
    ):
        times = []
        for comment in some:
            moderator.recurring = Recurring()
            if name == "new":
                moderator.articles = Articles()
            started = time.perf_counter()
            moderator.predict([comment])
            times.append(1000 * (time.perf_counter() - started))
        found[name] = [float(np.percentile(times, 50)), float(np.percentile(times, 99))]
    return found


def _start(row: dict, folder: Path) -> dict:
    """Seconds of `moderation --help` and of `moderation score` with one row, warm: the median of five."""
    source = folder / "one.jsonl"
    source.write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = {}
    for name, arguments in (("help", ["--help"]), ("score", ["score", str(source), "--out", str(folder / "one.out.jsonl")])):
        times = []
        for _ in range(6):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "moderation.cli", *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        found[name] = statistics.median(times[1:])
    return found


def table(results: dict) -> str:
    """The results as Markdown."""
    contest = results["contest"]
    lines = [
        f"{results['rows']:,} comments under {results['articles']:,} articles; {results['machine']}; USD {results['price']:.2f} an hour.",
        "",
        "| | comments/s | lowest–highest | to `pipeline` | of the limit | CPU a comment | padding | peak memory | USD a million | rows |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in sorted(contest.items(), key=lambda item: -item[1]["rate"]):
        padding = "–" if one["padding"] is None else f"{one['padding']:.1%}"
        lines.append(
            f"| {name} | {one['rate']:,.0f} | {min(one['rates']):,.0f}–{max(one['rates']):,.0f} | "
            + (f"{ratio(contest, name, 'pipeline'):.1f} | " if "pipeline" in contest else "– | ")
            + (f"{ratio(contest, name, 'limit'):.0%} | " if "limit" in contest else "– | ")
            + f"{1e3 * one['cpu']:.2f} ms | {padding} | {one['memory'] / 1e6:,.0f} MB | {1e6 / one['rate'] / 3600 * results['price']:.3f} | {one['rows']:,} |"
        )
    lines.append("")
    lines += [
        f"{one['rows']:,} rows: {one['seconds']:,.1f} s, {1e3 * one['seconds'] / one['rows']:.2f} ms a row, {one['memory'] / 1e6:,.0f} MB"
        for one in results["growth"]
    ]
    if most := results["apart"]:
        lines.append(f"{most['rows']:,} rows, each under a long article of its own: {most['memory'] / 1e6:,.0f} MB")
    if agreement := results["agreement"]:
        gold = agreement["gold"]
        lines.append(f"The compiled encoder ({agreement['kind']}) gives the label of fp32 PyTorch on {agreement['same']:.2%} of {agreement['rows']:,} rows" + (f"; macro-F1 on gold-dev {gold[0]:.4f} → {gold[1]:.4f}" if gold[0] else "") + ".")  # fmt: skip
    if latency := results["latency"]:
        (a, b), (c, d) = latency["cached"], latency["new"]
        lines.append(f"One comment: median {a:.0f} ms, 99th percentile {b:.0f} ms; with a new article {c:.0f} and {d:.0f} ms.")
    if start := results["start"]:
        lines.append(f"`moderation --help` {start['help']:.2f} s; `moderation score` of one row {start['score']:.2f} s, warm.")
    return "\n".join(lines) + "\n"


def ratio(contest: dict, one: str, other: str) -> float:
    """How many times as fast one contestant is as another: the median of the rounds, as a round's noise is that of both."""
    return statistics.median(a / b for a, b in zip(contest[one]["rates"], contest[other]["rates"], strict=True))


def _plot(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    contest = dict(sorted(results["contest"].items(), key=lambda item: item[1]["rate"]))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 2), layout="constrained")
    rates = [one["rate"] for one in contest.values()]
    spread = np.abs([[one["rate"] - min(one["rates"]), max(one["rates"]) - one["rate"]] for one in contest.values()]).T
    colours = ["#1f6f8b" if name.startswith("ours") else "#c9ced6" for name in contest]
    left.barh(list(contest), rates, xerr=spread, color=colours, error_kw={"lw": 1})
    left.bar_label(left.containers[-1], [f" {rate:,.0f}" for rate in rates], fontsize=8)
    left.set(xlabel="comments a second", title="On the same rows, in the same run")
    right.plot([one["rows"] for one in results["growth"]], [one["seconds"] for one in results["growth"]], "o-", color="#1f6f8b")
    right.set(xlabel="rows", ylabel="seconds", title="Time grows linearly", xlim=0, ylim=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
