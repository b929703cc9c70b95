"""The tab in which comments are decided, and the routes that its script calls.

The page holds the next comments ready (`next` claims them), shows the next one the moment a key is pressed, and sends each press
in its order: the comment's number, the label, the decision that the page showed, and a key made for this very press. A press
that finds no server is sent again until it is answered; sent twice it counts once. What the page says is saved, is saved.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

import gradio as gr
from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, Field

from desk import card
from moderation.schema import ACTIONS, LABELS
from moderation.store import SHOWS, SORTS, Filter, Item, User

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "moderator"
_SKELETON = (Path(__file__).parent / "static" / "queue.html").read_text(encoding="utf-8")
#: Ways of looking in which what one moderator has before him is kept from the others. In the rest one only reads along.
CLAIMING = ("undecided", "disputed", "flagged")
#: Most comments that are handed out at once.
MOST = 20

_Name = Annotated[str, Field(max_length=200)]
#: What the databases take as a number.
_Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Choice(BaseModel):
    """A filter and an order as the page sends them; the user of "mine" is whoever asks."""

    show: Literal[SHOWS] = "undecided"
    labels: list[Literal[LABELS]] = []
    actions: list[Literal[ACTIONS]] = []
    decided: list[Literal[LABELS]] = []
    probability: tuple[Literal[LABELS], float, float] | None = None
    article: _Number | None = None
    site: _Name | None = None
    languages: list[_Name] = Field([], max_length=50)
    statuses: list[_Name] = Field([], max_length=50)
    min_days: float | None = Field(None, ge=0, le=1e5)
    max_days: float | None = Field(None, ge=0, le=1e5)
    text: _Name = ""
    sort: Literal[SORTS] = "trouble"

    def filter(self, user: User) -> Filter:
        """The store's filter."""
        return Filter(**self.model_dump(exclude={"sort"}), user=user.name if self.show == "mine" else "")


class Next(BaseModel):
    choice: Choice
    n: int = Field(5, ge=1, le=MOST)
    have: list[_Number] = Field([], max_length=1000)
    after: tuple[float, _Number] | None = None
    release: list[_Number] = Field([], max_length=1000)


class Press(BaseModel):
    id: _Number
    label: Literal[LABELS]
    key: str = Field(min_length=8, max_length=100)
    seen: _Number = 0
    seconds: float | None = Field(None, ge=0)
    note: str = Field("", max_length=2000)


class Skip(BaseModel):
    id: _Number


class Undo(BaseModel):
    key: str = Field(min_length=8, max_length=100)


def tab(desk: "Desk") -> gr.Tab:
    """The Queue tab: a frame that static/queue.js fills."""
    with gr.Tab("Queue", id="queue") as made:
        gr.HTML(_SKELETON, js_on_load=None, apply_default_css=False, elem_id="queue-frame")
    return made


def routes(desk: "Desk") -> APIRouter:
    """The routes under /desk/queue; each asks first who calls."""

    def caller(request: Request) -> User:
        user = desk.identify(request)
        if user is None:
            raise HTTPException(401, "Your session has ended.")
        if not user.may("moderator"):
            raise HTTPException(403, "Your role does not suffice.")
        # What was pressed under one name must not be counted for whoever logged in since in another window.
        if request.headers.get("x-desk-user") not in (None, quote(user.name, safe="")):
            raise HTTPException(409, "Another user has logged in here since.")
        return user

    Caller = Annotated[User, Depends(caller)]
    router = APIRouter(prefix="/desk/queue")
    queue, decisions = desk.store.queue, desk.store.decisions

    def shown(item: Item) -> dict:
        """One comment for the page."""
        around = queue.thread(item.id, 6) if item.comment.comment_id or item.comment.parent_id else []
        copies = queue.duplicates(item.id, 20) if item.copies > 1 else []
        return {
            "id": item.id,
            "seen": item.decision_id,
            "label": item.label,
            "model": item.verdict.label if item.verdict else "",
            "html": card.card(item, around, copies, desk.known_why(item)),
            "why": desk.known_why(item) is not None,
        }

    @router.post("/next")
    def next_(asked: Next, user: Caller) -> dict:
        """The next comments: claimed for the caller where the way of looking claims, else read on behind `after`.

        What the caller does not want any more is given back first, or it would be handed out again as what is held already.
        """
        if asked.release:
            queue.release(user.name, asked.release)
        chosen = asked.choice.filter(user)
        if asked.choice.show in CLAIMING:
            items = queue.claim(user.name, chosen, asked.choice.sort, asked.n, exclude=asked.have)
            return {"items": [shown(item) for item in items], "after": None, "end": len(items) < asked.n}
        page = queue.page(chosen, asked.choice.sort, asked.n, asked.after)
        # Who may yet be asked for a blind second opinion is not told the first one here either.
        waits = lambda item: item.second == 1 and item.decided_by != user.name and not user.may("lead")
        told = [item.blind() if waits(item) else item for item in page.items if not (waits(item) and asked.choice.decided)]
        return {"items": [shown(item) for item in told], "after": page.after, "end": page.after is None}

    @router.post("/hold")
    def hold(asked: Next, user: Caller) -> dict:
        """Keep what the caller has before him for another while. Returns which of `have` are held."""
        queue.claim(user.name, asked.choice.filter(user), asked.choice.sort, min(len(asked.have), MOST) or 1)
        held = set(queue.held(user.name))
        return {"held": [number for number in asked.have if number in held]}

    @router.post("/decide")
    def decide(press: Press, user: Caller) -> dict:
        done = decisions.decide(
            press.id, user.name, press.label, press.key, seen=press.seen, seconds=press.seconds, note=press.note
        )
        answer = {"outcome": done.outcome, "kind": done.kind, "label": done.label, "seen": press.seen}
        if done.outcome == "stale" or done.kind == "single":
            item = queue.item(press.id)
            # Of a comment that waits for a blind second opinion not even this tells what the first one was.
            if done.outcome != "stale" or item.second != 1 or item.decided_by == user.name:
                answer |= {"seen": item.decision_id, "label": item.label, "by": item.decided_by or item.claimed_by}
            else:
                answer["label"] = ""
        return answer

    @router.post("/skip")
    def skip(asked: Skip, user: Caller) -> dict:
        queue.skip(user.name, asked.id)
        return {}

    @router.post("/undo")
    def undo(asked: Undo, user: Caller) -> dict:
        undone = decisions.undo(user.name, asked.key)
        if undone is None:
            return {"undone": None}
        item = None
        if undone.comment_id:
            item = queue.item(undone.comment_id)
            item = item.blind() if undone.kind == "second" else item
        return {
            "undone": {"kind": undone.kind, "label": undone.label, "count": undone.count},
            "item": shown(item) if item else None,
        }

    @router.post("/why")
    def why(asked: Skip, user: Caller) -> dict:
        """The comment's text with the words marked that spoke for the model's label."""
        item = queue.item(asked.id)
        return {"html": card.comment_text(item, desk.why(item))}

    @router.post("/counts")
    def counts(choice: Choice, user: Caller) -> dict:
        """How many there are: of this filter, by the values of each of its parts, and by way of looking."""
        chosen = choice.filter(user)
        wide = dataclasses.replace(chosen, labels=(), actions=(), languages=(), statuses=())
        facets = queue.facets(wide)
        rest = dataclasses.replace(chosen, show="all", user="")
        ways = queue.facets(rest)
        special = {
            show: queue.count(dataclasses.replace(rest, show=show, user=user.name if show == "mine" else ""))
            for show in ("mine", "disputed", "flagged")
        }
        return {
            "total": queue.count(chosen),
            "shows": {"all": ways.total, "undecided": ways.undecided, "decided": ways.decided} | special,
            "labels": facets.labels,
            "actions": facets.actions,
            "languages": facets.languages,
            "statuses": facets.statuses,
        }

    @router.post("/articles")
    def articles(choice: Choice, user: Caller) -> dict:
        """Articles whose title or address holds the text, those with most left to do first; and the sites."""
        found = queue.articles(choice.text, choice.site, 30)
        return {
            "articles": [
                {"id": one.id, "title": one.title or one.url or f"article {one.id}", "undecided": one.undecided}
                for one in found
            ],
            "sites": desk.sites,
        }

    return router
