"""The tab in which an admin adds and disables people, changes their role or password, and sees when they were last here."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import gradio as gr
from markupsafe import Markup

from desk import plots
from desk.frame import told
from desk.render import tag
from moderation import UserError
from moderation.store import ROLES
from moderation.store.people import MIN_PASSWORD

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "admin"


def tab(desk: Desk) -> gr.Tab:
    """The People tab."""
    people = desk.store.people

    def listed(said: str = "", chosen: str | None = None) -> tuple:
        users = people.all()
        seen = people.last_seen()
        lines = [
            (user.name, user.role, "disabled" if user.disabled else "active", _time(seen.get(user.name)), _time(user.added_at))
            for user in users
        ]
        empty = "No user is configured, so the desk serves this machine only. The first one must be an admin."
        names = [user.name for user in users]
        table = plots.table(("name", "role", "may log in", "last seen", "added"), lines, empty=empty)
        return _said(said), table, gr.update(choices=names, value=chosen if chosen in names else None)

    @told
    def opened(request: gr.Request):
        desk.user(request, ROLE)
        return listed()

    @told
    def add(name: str, password: str, role: str, request: gr.Request):
        desk.user(request, ROLE)
        if not people.configured() and role != "admin":
            raise UserError("The first user must be an admin, or nobody could add the next.")
        added = people.add(name or "", password or "", role)
        return (*listed(f"{added.name} may log in as {added.role}.", added.name), "", "")

    @told
    def change(name: str, role: str, request: gr.Request):
        desk.user(request, ROLE)
        people.set_role(_named(name), role)
        return listed(f"{name} is {role} now; open sessions of {name} have ended.", name)

    @told
    def disable(name: str, request: gr.Request):
        desk.user(request, ROLE)
        people.disable(_named(name), True)
        return listed(f"{name} can no longer log in; open sessions have ended.", name)

    @told
    def enable(name: str, request: gr.Request):
        desk.user(request, ROLE)
        people.disable(_named(name), False)
        return listed(f"{name} may log in again.", name)

    @told
    def renew(name: str, password: str, request: gr.Request):
        desk.user(request, ROLE)
        people.set_password(_named(name), password or "")
        return (*listed(f"{name} has a new password; open sessions have ended.", name), "")

    with gr.Tab("People", id="people") as made:
        table = gr.HTML(elem_id="people-table", apply_default_css=False, js_on_load=None)
        result = gr.HTML(elem_id="people-result", apply_default_css=False, js_on_load=None)
        hint = f"at least {MIN_PASSWORD} characters; tell it to them in person"
        with gr.Row(equal_height=False):
            with gr.Column(min_width=360):
                name = gr.Textbox(label="Add someone: name", max_length=64, lines=1)
                password = gr.Textbox(label="First password", info=hint, type="password", max_length=1000, lines=1)
                role = gr.Radio(list(ROLES), value=ROLES[0], label="Role")
                add_button = gr.Button("Add", variant="primary", elem_id="people-add")
            with gr.Column(min_width=360):
                who = gr.Dropdown([], label="Change someone", elem_id="people-who")
                new_role = gr.Radio(list(ROLES), value=ROLES[0], label="New role")
                role_button = gr.Button("Change the role", elem_id="people-role")
                new_password = gr.Textbox(label="New password", info=hint, type="password", max_length=1000, lines=1)
                password_button = gr.Button("Set the password", elem_id="people-password")
                with gr.Row():
                    off = gr.Button("Disable", elem_id="people-disable", min_width=120)
                    on = gr.Button("Enable", elem_id="people-enable", min_width=120)
        private = {"api_visibility": "private", "show_progress": "hidden"}  # else an error would lie over what it concerns
        outputs = [result, table, who]
        made.select(opened, None, outputs, **private)
        add_button.click(add, [name, password, role], [*outputs, name, password], **private)
        role_button.click(change, [who, new_role], outputs, **private)
        password_button.click(renew, [who, new_password], [*outputs, new_password], **private)
        off.click(disable, who, outputs, **private)
        on.click(enable, who, outputs, **private)
    return made


def _named(name: str | None) -> str:
    if not name:
        raise UserError("Choose a person first.")
    return name


def _said(text: str) -> Markup | str:
    return tag("p", text, class_="said", role="status", dir="auto") if text else ""


def _time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else "never"
