"""How long does a moderator wait? From a key press to the next comment painted, in Chromium, at a desk on this machine.

    python benchmarks/desk.py [--presses 200]

The browser itself measures: the Event Timing API gives, for every key press, the milliseconds from the press to the next frame
that shows what it did (W3C Event Timing, `duration`, in steps of 8 ms; a press that took less than 16 ms has no entry). Comments
are those of the demo thread, many times over, each with another beginning; the moderator looks at each for 0.4 s. One JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from data import __file__ as data
from moderation import Comment, Moderator
from moderation.readers import read_comments
from moderation.store import Store

#: The steps of the API, milliseconds: what is shorter than this is not reported.
LEAST = 16


def fill(path: Path, count: int) -> None:
    """A store with so many scored comments."""
    moderator = Moderator.from_pretrained()
    known = [row for row in read_comments([Path(data).parent / "samples"]) if isinstance(row, Comment)]
    verdicts = moderator.predict(known)
    with Store(path) as store:
        store.library.add_model(moderator.version, manifest=moderator.manifest)
        comments = [
            dataclasses.replace(known[n % len(known)], comment_id=f"c{n}", text=f"{n}: {known[n % len(known)].text}")
            for n in range(count)
        ]
        store.library.add(comments, [verdicts[n % len(known)] for n in range(count)], site="bench")


def measure(url: str, presses: int) -> list[float]:
    """Milliseconds from each press to the frame that shows the next comment."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.locator("#q-stage .card").wait_for()
        page.evaluate(
            """least => { window.took = []; new PerformanceObserver(list => { for (const one of list.getEntries())
               if (one.name === 'keydown') window.took.push(one.duration); }).observe({type: 'event', durationThreshold: least}); }""",
            LEAST,
        )
        for number in range(presses):
            page.wait_for_function(
                "(stage => stage.dataset.id && performance.now() - stage.dataset.shown > 400)(document.getElementById('q-stage'))"
            )
            page.keyboard.press(str(number % 4 + 1))
        page.wait_for_timeout(500)
        took = page.evaluate("window.took")
        browser.close()
    return sorted([float(LEAST)] * (presses - len(took)) + took)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--presses", type=int, default=200)
    presses = arguments.parse_args().presses
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "desk.db"
        fill(path, presses + 50)
        command = [sys.executable, "-m", "moderation.cli", "review", "--database", str(path), "--port", "0", "--no-demo"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            took = measure(url, presses)
        finally:
            server.terminate()
            server.wait()
    at = {f"p{share}": took[min(len(took) - 1, int(len(took) * share / 100))] for share in (50, 95, 99)}
    print(json.dumps({"presses": presses, "milliseconds": at | {"most": took[-1]}}))


if __name__ == "__main__":
    main()
