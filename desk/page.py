"""The page: a header, and the tabs in their order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from desk import bulk, insight, intake, learning, people, policy, queue
from desk.frame import Desk
from moderation.store import ROLES

#: Queue, Bulk, Policy, Import, Insight, Learning, People: modules with `tab(desk) -> gr.Tab`, and with `ROLE`, who is shown the tab.
TABS: list[Any] = [queue, bulk, policy, intake, insight, learning, people]

_HEADER = (Path(__file__).parent / "static" / "header.html").read_text(encoding="utf-8")


class _Page(gr.Blocks):
    """A page that takes no path and no address from a browser but those of uploads.

    Gradio copies (or fetches!) whatever any input names as a file, and where it is mounted into another application, as here,
    it does not look whether that was uploaded.
    """

    async def preprocess_data(self, block_fn, inputs, state, explicit_call=False):
        refuse_paths(inputs)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)


def refuse_paths(value: object) -> None:
    """Raises:
    gr.Error: somewhere in what a browser sent a file is named that is no upload.
    """
    if isinstance(value, dict):
        path = value.get("path")
        if path is not None:
            root = Path(get_upload_folder()).resolve()
            named = isinstance(path, str) and "\x00" not in path and os.path.isabs(path)
            if not named or not Path(path).resolve().is_relative_to(root):
                raise gr.Error("Only a file that was uploaded can be used.", title="Not done")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            refuse_paths(part)


def build(desk: Desk) -> gr.Blocks:
    """The page; it shows each user the tabs that the user may open. Their handlers ask again."""
    with _Page(title="Review desk", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_HEADER, js_on_load=None, apply_default_css=False, elem_id="desk-top")
        with gr.Tabs(elem_id="desk-tabs"):
            tabs = [module.tab(desk) for module in TABS]
            for module, made in zip(TABS, tabs, strict=True):
                made.visible = ROLES[0] == module.ROLE  # Gradio shows a hidden tab when told to, but hides no shown one

        def open_tabs(request: gr.Request):
            user = desk.user(request)
            return [gr.Tab(visible=user.may(module.ROLE)) for module in TABS]

        page.load(open_tabs, None, tabs, api_visibility="private", show_progress="hidden")
    return page
