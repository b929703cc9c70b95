"""The tab in which comments are decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "moderator"


def tab(desk: Desk) -> gr.Tab:
    """The Queue tab."""
    with gr.Tab("Queue", id="queue") as made:
        gr.HTML('<div id="queue"></div>', js_on_load=None)
    return made
