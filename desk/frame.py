"""What every tab is given."""

from __future__ import annotations

import functools
import inspect
import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import gradio as gr
from markupsafe import escape
from starlette.requests import HTTPConnection

from moderation import Comment, Moderator, UserError
from moderation.explain import Span, attribute
from moderation.reason import UNSUPPORTED_LANGUAGE
from moderation.registry import Champion
from moderation.store import Item, PolicyVersion, Store, User

#: The cookie that holds the session's token.
COOKIE = "desk_session"
#: Who sits at the desk while no user is configured: whoever sits at this machine.
LOCAL = User("local", "admin", False, 0.0)
#: Explanations that are kept.
_KEPT = 2000


@dataclass(frozen=True, slots=True)
class Settings:
    """How the desk is run.

    Attributes:
        model: a model directory or version; None for the champion.
        sso_header: header in which a proxy names the user who logged in there; "" for the desk's own login.
        proxies: addresses of the proxies whose headers are believed.
        session: seconds until a login expires.
        upload: most bytes of an uploaded file.
    """

    model: str | None = None
    sso_header: str = ""
    proxies: Sequence[str] = ()
    session: float = 12 * 3600.0
    upload: int = 256 * 2**20


class Desk:
    """The open desk: the store, the model, who is asking. One for the whole process, shared by all its threads."""

    def __init__(self, store: Store, settings: Settings | None = None) -> None:
        self.store = store
        self.settings = settings or Settings()
        self._lock = threading.Lock()
        self._explaining = threading.Lock()
        self._model: Moderator | Champion | None = None
        self._why: OrderedDict[tuple[Comment, str, str], list[Span]] = OrderedDict()

    def moderator(self) -> Moderator:
        """The model, loaded when it is first asked for (seconds): the one the desk was started with, else the champion of now.

        Raises:
            UserError: there is no such model.
        """
        with self._lock:
            if self._model is None:
                name = self.settings.model
                self._model = Moderator.from_pretrained(name) if name else Champion()
        return self._model.current()

    def why(self, item: Item) -> list[Span]:
        """The words that spoke for the model's label; a second or so for the first time, kept for the next.

        In a language that the model does not know no word spoke for anything.
        """
        if not _explicable(item):
            return []
        key = _question(item)
        with self._explaining:  # one at a time, or explanations would take the processor from the decisions
            if key not in self._why:
                self._why[key] = attribute(self.moderator(), item.comment, item.verdict.label)
                while len(self._why) > _KEPT:
                    self._why.popitem(last=False)
            return self._why[key]

    def known_why(self, item: Item) -> list[Span] | None:
        """The same where it is known already, else None; takes no time."""
        return self._why.get(_question(item)) if _explicable(item) else []

    @property
    def sites(self) -> list[str]:
        """The sites whose comments are here."""
        return self.store.queue.sites()

    def policy(self, site: str = "") -> PolicyVersion:
        """The active policy of a site: its own, else that of all sites, else the model's thresholds (version 0)."""
        return self.store.policies.active(site)

    def identify(self, request: HTTPConnection | gr.Request) -> User | None:
        """Who sent a request: by session, by the proxy's header, or this machine's user while nobody is configured.

        The request must have come through `web.Guard`, which takes away headers that nobody may be believed.
        """
        people = self.store.people
        token = request.cookies.get(COOKIE, "")
        if token and (user := people.session_user(token)) is not None:
            return user
        if name := self.settings.sso_header and request.headers.get(self.settings.sso_header, "").strip():
            try:
                user = people.get(name)
            except UserError:
                return None
            return None if user.disabled else user
        if not self.settings.sso_header and not people.configured() and is_local(request):
            return LOCAL
        return None

    def user(self, request: gr.Request, role: str = "moderator") -> User:
        """Who sent this request; every handler asks this first.

        Raises:
            gr.Error: nobody is logged in (any more), or the user has not at least this role.
        """
        user = self.identify(request)
        if user is None:
            raise gr.Error("Your session has ended. Reload the page and log in again.", title="Not logged in")
        if not user.may(role):
            raise gr.Error(f"This needs the role {role}; yours is {user.role}.", title="Not allowed")
        return user


def _explicable(item: Item) -> bool:
    return item.verdict is not None and item.verdict.reason != UNSUPPORTED_LANGUAGE


def _question(item: Item) -> tuple[Comment, str, str]:
    return item.comment, item.verdict.label, item.verdict.model_version


def is_local(request: HTTPConnection | gr.Request) -> bool:
    """Whether a request comes from this machine itself, by an address of it (not by a name that a stranger's page made
    point here), and through no proxy."""
    headers = request.headers
    if any(name in headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")):
        return False
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        by_address = host == "localhost" or ipaddress.ip_address(host).is_loopback
        return by_address and ipaddress.ip_address(request.client.host).is_loopback
    except (ValueError, AttributeError):
        return False


def told(handler: Callable) -> Callable:
    """A handler (a generator too) whose `UserError` is shown to the user as a message, escaped."""

    @contextmanager
    def saying() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise gr.Error(str(escape(str(error))), title="Not done") from error

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def run(*arguments, **named):
            with saying():
                yield from handler(*arguments, **named)

    else:

        @functools.wraps(handler)
        def run(*arguments, **named):
            with saying():
                return handler(*arguments, **named)

    return run
