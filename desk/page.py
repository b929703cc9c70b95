"""The page: a header, and the tabs in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from desk import bulk, policy, queue
from desk.frame import Desk
from moderation.store import ROLES

#: Queue, Bulk, Policy, Import, Insight, People: modules with `tab(desk) -> gr.Tab`, and with `ROLE`, who is shown the tab.
TABS: list[Any] = [queue, bulk, policy]

_HEADER = (Path(__file__).parent / "static" / "header.html").read_text(encoding="utf-8")


def build(desk: Desk) -> gr.Blocks:
    """The page; it shows each user the tabs that the user may open. Their handlers ask again."""
    with gr.Blocks(title="Review desk", analytics_enabled=False, fill_width=True) as page:
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
