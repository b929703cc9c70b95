"""The tab that takes exports in, scores them into the queue and shows how far it is; and the downloads.

An import runs in a thread of its own: closing the page does not stop it, and whoever opens the tab again sees it go on. Files
come by upload only: a path that a browser sends is believed when it is that of an upload, and each upload is removed once read.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import gradio as gr
from fastapi import APIRouter
from fastapi.responses import FileResponse, PlainTextResponse, Response
from gradio.utils import get_upload_folder
from markupsafe import Markup
from starlette.background import BackgroundTask
from starlette.requests import Request

from desk import plots
from desk.frame import told
from desk.render import join, tag
from moderation import LABELS, UserError
from moderation.cli import parse_map
from moderation.readers import read_comments
from moderation.store import Filter, Intake, take_in

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "lead"
TYPES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".xml", ".html", ".htm", ".txt", ".gz", ".zst")
#: Files of one import.
MOST_FILES = 50
#: Rows that were set aside and are shown.
SHOWN = 100
EVERY_SITE = "every site"
KINDS = {
    "all comments with their scores": "rows",
    "decided comments as labels to learn from": "labels",
    "decisions for the site to act on": "decisions",
}
FORMATS = {"CSV (spreadsheets)": "csv", "JSON lines": "jsonl", "Parquet": "parquet"}
_TICK = 0.3


class _Stopped(Exception):
    """Somebody pressed Stop."""


@dataclass(eq=False)
class Job:
    """An import that runs or has run.

    Attributes:
        user: who started it. names: of the files, as they were uploaded.
        total: rows in the files, None while they are being counted. ready: whether the model is loaded. rows: done. result, rejects, error: once it has ended.
    """

    user: str
    names: list[str]
    started: float = field(default_factory=time.monotonic)
    counted: int = 0
    total: int | None = None
    ready: bool = False
    rows: int = 0
    result: Intake | None = None
    rejects: list[dict] = field(default_factory=list)
    error: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


def tab(desk: Desk) -> gr.Tab:
    """The Import tab."""
    store = desk.store
    jobs: dict[str, Job] = {}
    lock = threading.Lock()

    def run(job: Job, folder: Path, paths: list[Path], site: str, columns: dict[str, str]) -> None:
        """The whole import, in a thread; everything that goes wrong ends up in the job."""
        try:

            def counted(done: int) -> None:
                job.counted = done
                if job.stop.is_set():
                    raise _Stopped

            def progress(done: int) -> None:
                job.rows = done
                if job.stop.is_set():
                    raise _Stopped

            total = 0
            for total, _ in enumerate(read_comments(paths, columns=columns or None), 1):
                if total % 1000 == 0:
                    counted(total)
            job.total = total
            moderator = desk.moderator()
            job.ready = True
            rejects = folder / "rejects.jsonl"
            job.result = take_in(
                store, paths, moderator, columns=columns or None, site=site or None, rejects=rejects, progress=progress
            )
            if rejects.exists():
                with rejects.open(encoding="utf-8") as lines:
                    job.rejects = [json.loads(line) for line, _ in zip(lines, range(SHOWN), strict=False)]
        except _Stopped:
            job.error = f"Stopped after {job.rows:,} rows; they are in the queue. Import the same files again to go on."
        except UserError as error:
            job.error = str(error).replace(f"{paths[0].parent}/", "")
        except Exception as error:  # a thread has nobody else to tell
            job.error = (
                f"The import failed ({type(error).__name__}). What was done is in the queue; import the files again to go on."
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            job.ended.set()

    def follow(job: Job) -> Iterator[tuple]:
        """How far it is, until it has ended."""
        while not job.ended.wait(_TICK):
            yield _progress(job), gr.update(interactive=False), gr.update(interactive=True)
        yield _summary(job), gr.update(interactive=True), gr.update(interactive=False)

    @told
    def begin(files: list[str] | None, site: str, columns: str, request: gr.Request):
        user = desk.user(request, ROLE)
        paths = uploaded(files, desk.settings.upload)
        try:
            mapping = parse_map(columns or "")
        except UserError as error:
            raise UserError(str(error).replace("--map", "Columns")) from error
        with lock:
            running = jobs.get(user.name)
            if running is not None and not running.ended.is_set():
                raise UserError("An import of yours is running; wait for it or stop it.")
            folder = Path(tempfile.mkdtemp(prefix="desk-import-"))
            paths = _moved(paths, folder / "files")
            job = jobs[user.name] = Job(user.name, [path.name for path in paths])
        threading.Thread(target=run, args=(job, folder, paths, (site or "").strip(), mapping), daemon=True).start()
        for parts in follow(job):
            yield (*parts, None)

    @told
    def opened(request: gr.Request):
        user = desk.user(request, ROLE)
        job = jobs.get(user.name)
        if job is None:
            yield "", gr.update(interactive=True), gr.update(interactive=False)
        else:
            yield from follow(job)

    @told
    def sites(request: gr.Request):
        desk.user(request, ROLE)
        return gr.update(choices=[EVERY_SITE, *filter(None, desk.sites)])

    @told
    def halt(request: gr.Request):
        user = desk.user(request, ROLE)
        if job := jobs.get(user.name):
            job.stop.set()
        return gr.update(interactive=False)

    @told
    def link(kind: str, form: str, site: str, request: gr.Request):
        desk.user(request, ROLE)
        query = {"site": site} if site and site != EVERY_SITE else {}
        return gr.update(link=f"/desk/export/{KINDS.get(kind, 'rows')}.{FORMATS.get(form, 'csv')}?{urlencode(query)}")

    with gr.Tab("Import", id="import") as made:
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=420):
                files = gr.File(
                    file_count="multiple",
                    file_types=list(TYPES),
                    label="Exports or saved pages",
                    height=180,
                    elem_id="import-files",
                )
                gr.HTML(
                    tag(
                        "p",
                        "WordPress, Disqus, Coral, Reddit, YouTube, remark42, Isso, Commento, saved article pages, or any table "
                        f"(CSV, JSON, JSONL, Parquet), plain, .gz or .zst; together at most {desk.settings.upload // 2**20} MB.",
                        class_="plot-note",
                    ),
                    apply_default_css=False,
                    js_on_load=None,
                )
                site = gr.Textbox(label="Site (optional; else the host of the article's address)", max_length=200, lines=1)
                columns = gr.Textbox(
                    label="Columns with other names (optional)",
                    placeholder="comment_text=body, article_title=headline",
                    max_length=1000,
                )
                with gr.Row():
                    start = gr.Button("Import and score", variant="primary", elem_id="import-start")
                    stop = gr.Button("Stop", interactive=False, elem_id="import-stop")
            with gr.Column(scale=4, min_width=420):
                shown = gr.HTML(elem_id="import-result", apply_default_css=False, js_on_load=None)
        with gr.Accordion("Download", open=True), gr.Row():
            kind = gr.Dropdown(list(KINDS), value=next(iter(KINDS)), label="What", scale=3)
            form = gr.Dropdown(list(FORMATS), value=next(iter(FORMATS)), label="As", scale=2)
            of = gr.Dropdown([EVERY_SITE], value=EVERY_SITE, label="Of", scale=2)
            download = gr.Button("Download", link="/desk/export/rows.csv", link_target="_self", elem_id="download", scale=1)

        quietly = {"api_visibility": "private", "show_progress": "hidden"}
        outputs = [shown, start, stop]
        start.click(begin, [files, site, columns], [*outputs, files], concurrency_limit=8, **quietly).then(
            sites, None, of, **quietly
        )
        stop.click(halt, None, stop, **quietly)
        made.select(opened, None, outputs, concurrency_limit=8, **quietly)
        made.select(sites, None, of, **quietly)
        gr.on([kind.change, form.change, of.change], link, [kind, form, of], download, **quietly)
    return made


def routes(desk: Desk) -> APIRouter:
    """The downloads. Nothing of them stays on the disk, and the file's name is ours."""
    router = APIRouter()

    @router.get("/desk/export/{kind}.{form}")
    def export(request: Request, kind: str, form: str, site: str = "") -> Response:
        user = desk.identify(request)
        if user is None or not user.may(ROLE):
            return PlainTextResponse(f"This needs the role {ROLE}.", 403)
        if kind not in KINDS.values() or form not in FORMATS.values():
            return PlainTextResponse("There is no such download.", 404)
        folder = Path(tempfile.mkdtemp(prefix="desk-export-"))
        try:
            chosen = Filter(show="all" if kind == "rows" else "decided", site=site or None)
            desk.store.export.write(folder / f"file.{form}", kind, chosen)
        except (UserError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            return PlainTextResponse(f"The file cannot be made ({type(error).__name__}).", 503)
        return FileResponse(
            folder / f"file.{form}",
            media_type="application/octet-stream",
            filename=f"comments-{kind}-{date.today()}.{form}",
            background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
        )

    return router


def uploaded(files: Sequence[str] | None, most: int) -> list[Path]:
    """The paths of uploads, each in a folder of its own, as Gradio keeps them.

    Raises:
        UserError: nothing or too much was uploaded, a type that no reader reads, or a path that is no upload.
    """
    if not files:
        raise UserError("Choose a file first.")
    if len(files) > MOST_FILES:
        raise UserError(f"{len(files)} files are too many for one import; choose at most {MOST_FILES}.")
    root = Path(get_upload_folder()).resolve()
    paths, size = [], 0
    for name in files:
        path = Path(name)
        if path.suffix.lower() not in TYPES:
            raise UserError(f"{path.name}: expected a file that ends in {', '.join(TYPES)}")
        known = path.parent.resolve().is_relative_to(root) and path.parent.resolve() != root
        about = path.lstat() if known and path.exists() else None
        if about is None or not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path.name}: is no uploaded file (any more); choose it again")
        size += about.st_size
        paths.append(path.resolve())
    if size > most:
        raise UserError(f"The files have {size / 2**20:,.0f} MB together; at most {most / 2**20:,.0f} are taken.")
    return paths


def _moved(paths: Sequence[Path], folder: Path) -> list[Path]:
    """The files in one folder: so that each is read once, and readers find what belongs together side by side."""
    folder.mkdir()
    moved = []
    for path in paths:
        place = folder / path.name
        while place.exists():
            place = place.with_name(f"again-{place.name}")
        shutil.move(path, place)
        moved.append(place)
    return moved


def _progress(job: Job) -> Markup:
    if job.total is None:
        return tag("section", tag("h2", "Reading"), tag("p", f"{job.counted:,} rows so far", class_="said", role="status"))
    if not job.ready:
        return tag(
            "section", tag("h2", "Loading the model"), tag("p", f"{job.total:,} rows to score", class_="said", role="status")
        )
    share = job.rows / job.total if job.total else 1.0
    seconds = time.monotonic() - job.started
    left = f", about {_span(seconds * (1 - share) / share)} left" if share > 0.02 else ""
    bar = tag(
        "div",
        tag("span", style=f"width:{100 * share:.1f}%"),
        class_="progress",
        role="progressbar",
        aria_valuenow=str(round(100 * share)),
        aria_valuemin="0",
        aria_valuemax="100",
        aria_label="rows scored",
    )
    said = tag("p", f"{job.rows:,} of {job.total:,} rows ({share:.0%}){left}", class_="said")
    return tag("section", tag("h2", "Scoring"), bar, said, tag("p", ", ".join(job.names), class_="plot-note", dir="auto"))


def _summary(job: Job) -> Markup:
    if job.error:
        return tag("section", tag("h2", "Not finished"), tag("p", job.error, class_="said warn", role="alert", dir="auto"))
    done = job.result
    assert done is not None
    boxes = [
        (done.imported.new, "new in the queue"),
        (done.imported.known, "known already"),
        (done.imported.changed, "of these with a new text, open again"),
        (done.set_aside, "rows set aside"),
    ]
    figures = tag("ul", *(tag("li", tag("strong", f"{count:,}"), what) for count, what in boxes), class_="boxes")
    speed = f"{done.scored:,} scored in {_span(done.seconds)}"
    counts = {label: done.labels[label] for label in LABELS}
    mix = plots.rows("What the model says of them", [("imported now", counts)], plots.LABEL_SERIES) if done.scored else ""
    parts = [
        tag("h2", "Imported"),
        tag("p", ", ".join(job.names), ": ", speed, ".", class_="said", role="status", dir="auto"),
        figures,
        mix,
    ]
    if done.set_aside:
        lines = [(Path(reject["file"]).name, reject["position"], reject["reason"]) for reject in job.rejects]
        head = f"Rows set aside: {done.set_aside:,}" + (f", the first {len(lines)}" if done.set_aside > len(lines) else "")
        table = plots.table(("file", "where", "why"), lines)
        parts.append(tag("details", tag("summary", head), table, open=True))
    return tag("section", join(parts))


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
