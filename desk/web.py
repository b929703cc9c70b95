"""The server around the page: who may ask for what, login and logout, and the headers that keep a browser from running or
fetching what is not ours.

`Guard` stands in front of everything, Gradio's own routes included. What it lets through without a login is the login page,
the static files and `/healthz`. Of Gradio's routes only those that its page uses exist at all.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Form
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from markupsafe import escape
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from desk.frame import COOKIE, LOCAL, Desk
from desk.page import TABS, build
from moderation import UserError
from moderation.store import LoginRefused, Unavailable

STATIC = Path(__file__).parent / "static"
#: Asked for without a login. Gradio's assets are its published frontend.
_PUBLIC = re.compile(
    r"/(?:login|logout|healthz|favicon\.ico|robots\.txt|manifest\.json|desk/static/.+|assets/.+|static/.+|theme\.css|gradio_api/theme\.css)"
)
#: The routes of Gradio that its page uses. The others (a proxy to anywhere, monitoring, a code editor ...) do not exist here.
_GRADIO = re.compile(
    r"/|/config/?|/svelte/.+|/gradio_api/(?:queue/(?:join|data)|run/[\w-]+/?|api/[\w-]+/?|call/[\w-]+(?:/[\w-]+)?/?|upload|upload_progress"
    r"|file=.+|heartbeat/[\w-]+|cancel|reset/?|component_server/?|startup-events|app_id/?|info/?|stream/[\w.-]+/.+)"
)
_OWN = re.compile(r"/desk/.+")
#: Bytes that a request may have; an upload more (`Settings.upload`).
_BODY = 2 * 2**20
#: A host that a Content-Security-Policy can name.
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?")


class Guard:
    """ASGI middleware: believes the right headers, lets in who may come in, and sends the protecting headers."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self.app = app
        self.desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        self._believe(scope)
        nonce = secrets.token_urlsafe(18)
        page = scope["path"] == "/" and scope["method"] == "GET"
        refusal = await self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, self._with_headers(send, scope, nonce))
        elif page:
            await self._page(scope, receive, self._with_headers(send, scope, nonce), nonce)
        else:
            await self.app(scope, receive, self._with_headers(send, scope, nonce))

    def _believe(self, scope: Scope) -> None:
        """Take client and scheme from the proxy if it is one of ours; else no header of its kind says anything.

        Of `Forwarded` headers only their being there is kept, which tells that the request did not come from this machine.
        """
        settings = self.desk.settings
        headers = MutableHeaders(scope=scope)
        if scope.get("client") and scope["client"][0] in settings.proxies:
            if forwarded := headers.get("x-forwarded-for"):
                scope["client"] = (forwarded.split(",")[-1].strip()[:64], 0)
            if host := headers.get("x-forwarded-host", "").split(",")[-1].strip():
                headers["host"] = host
            if headers.get("x-forwarded-proto", "").split(",")[-1].strip() == "https":
                scope["scheme"] = "https"
        elif settings.sso_header:
            del headers[settings.sso_header]

    async def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further, or None."""
        path, method = scope["path"], scope["method"]
        request = HTTPConnection(scope)
        if method not in ("GET", "HEAD"):
            if not _same_origin(request):
                return PlainTextResponse("This request comes from another site.", 403)
            limit = self.desk.settings.upload + _BODY if path == "/gradio_api/upload" else _BODY
            length = request.headers.get("content-length", "")
            # A body of unknown length could be endless; browsers always say.
            if not length.isdigit() or int(length) > limit:
                return PlainTextResponse(f"A request may have at most {limit:,} bytes.", 413)
        if _PUBLIC.fullmatch(path):
            return None
        if not _GRADIO.fullmatch(path) and not _OWN.fullmatch(path):
            return PlainTextResponse("There is nothing here.", 404)
        user = await to_thread.run_sync(self.desk.identify, request)
        if user is None:
            if path == "/":
                return RedirectResponse("/login", 303)
            return JSONResponse({"detail": "not logged in"}, 401)
        if path in ("/gradio_api/upload", "/gradio_api/upload_progress") and not user.may("lead"):
            return JSONResponse({"detail": f"this needs the role lead; yours is {user.role}"}, 403)
        scope.setdefault("state", {})["user"] = user
        return None

    async def _page(self, scope: Scope, receive: Receive, send: Send, nonce: str) -> None:
        """Gradio's page, with its scripts and ours marked as ours."""
        headers = MutableHeaders(scope=scope)
        del headers["accept-encoding"]
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            # Text of ours only: Gradio writes its configuration with every < as \\u003c.
            html = bytes(body).replace(b"<script", b'<script nonce="%s"' % nonce.encode())
            html = html.replace(b"</head>", _HEAD.replace("NONCE", nonce).encode() + b"</head>", 1)
            MutableHeaders(raw=start["headers"])["content-length"] = str(len(html))
            await send(start)
            await send({"type": "http.response.body", "body": html})

        await self.app(scope, receive, collect)

    def _with_headers(self, send: Send, scope: Scope, nonce: str) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = _policy(nonce, Headers(scope=scope).get("host", ""))
                headers["x-content-type-options"] = "nosniff"
                headers["x-frame-options"] = "DENY"
                headers["referrer-policy"] = "same-origin"  # with "no-referrer" a form's Origin would be "null"
                headers["cross-origin-opener-policy"] = "same-origin"
                headers["cross-origin-resource-policy"] = "same-origin"
                headers["permissions-policy"] = "camera=(), microphone=(), geolocation=(), payment=(), usb=()"
                if scope["scheme"] == "https":
                    headers["strict-transport-security"] = "max-age=31536000"
                if not scope["path"].startswith(("/assets/", "/static/", "/desk/static/")):
                    headers["cache-control"] = "no-store"
                elif scope["path"].startswith("/desk/static/"):
                    headers["cache-control"] = "no-cache"
                for name in ("access-control-allow-origin", "access-control-allow-credentials"):
                    if name in headers:
                        del headers[name]
            await send(message)

        return wrapped


_HEAD = """
<link rel="stylesheet" href="/desk/static/desk.css">
<link rel="stylesheet" href="/desk/static/panels.css">
<link rel="icon" href="/desk/static/icon.svg" type="image/svg+xml">
<script nonce="NONCE" src="/desk/static/frame.js" defer></script>
<script nonce="NONCE" src="/desk/static/queue.js" defer></script>
"""


def _policy(nonce: str, host: str) -> str:
    """The Content-Security-Policy: scripts with this answer's nonce or from the folders of scripts; nothing from elsewhere.

    'unsafe-eval' is for Gradio's templates, inline styles for its components. No inline handler and no inline script runs, and
    what was uploaded is no script ('self' would take it for one).
    """
    own = " ".join(f"{host}/{folder}/" for folder in ("assets", "static", "desk/static")) if _HOST.fullmatch(host) else "'self'"
    return (
        f"default-src 'none'; script-src {own} 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; "
        "manifest-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )


def _same_origin(request: HTTPConnection) -> bool:
    """Whether a changing request was sent by a page of ours (or by a program, which has no cookies of a victim)."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def make(desk: Desk) -> ASGIApp:
    """The whole application: our routes, Gradio's page at /, and the guard in front of both."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/login", response_class=HTMLResponse)
    def login_page(request: Request) -> Response:
        if desk.identify(request) is not None:
            return RedirectResponse("/", 303)
        return _login_page(desk)

    # A password takes 64 MiB to check; a crowd of guessers gets no more than two of them at once.
    checks = CapacityLimiter(2)

    @app.post("/login", response_class=HTMLResponse)
    async def login(
        request: Request, name: str = Form("", max_length=200), password: str = Form("", max_length=2000)
    ) -> Response:
        people = desk.store.people
        try:
            address = request.client.host if request.client else ""
            user = await to_thread.run_sync(people.verify, name.strip(), password, address, limiter=checks)
            token = await to_thread.run_sync(people.start_session, user.name, desk.settings.session)
        except LoginRefused as error:
            page = _login_page(desk, str(error), name, 429 if error.wait else 401)
            if error.wait:
                page.headers["retry-after"] = str(int(error.wait) + 1)
            return page
        except UserError as error:
            return _login_page(desk, str(error), name, 503)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=int(desk.settings.session),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.post("/logout")
    def logout(request: Request) -> Response:
        if (user := desk.identify(request)) is not None:
            desk.store.queue.release(user.name)
        if token := request.cookies.get(COOKIE):
            desk.store.people.end_session(token)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    @app.get("/desk/me")
    def me(request: Request) -> dict:
        user = desk.identify(request)
        if user is None:
            return JSONResponse({"detail": "not logged in"}, 401)
        return {
            "name": user.name,
            "role": user.role,
            "local": user == LOCAL,
            "logout": not desk.settings.sso_header and user != LOCAL,
        }

    @app.exception_handler(UserError)
    def told(request: Request, error: UserError) -> JSONResponse:
        # What the database could not take now the page sends again; what it will never take it does not.
        return JSONResponse({"detail": str(error)}, 503 if isinstance(error, Unavailable) else 400)

    @app.exception_handler(RequestValidationError)
    def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats what was sent, and fails on what is no JSON.
        return JSONResponse({"detail": "This request cannot be understood."}, 422)

    for module in TABS:
        if routes := getattr(module, "routes", None):
            app.include_router(routes(desk))
    app.mount("/desk/static", StaticFiles(directory=STATIC))

    def user_name(request: Request) -> str | None:
        user = desk.identify(request)
        return user.name if user is not None else None

    gr.mount_gradio_app(
        app,
        build(desk),
        path="/",
        footer_links=[],
        run_history=False,
        auth_dependency=user_name,
        blocked_paths=["/"],
        max_file_size=desk.settings.upload,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Base(
            primary_hue=gr.themes.colors.blue,
            neutral_hue=gr.themes.colors.slate,
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
    )
    return Guard(app, desk)


def _login_page(desk: Desk, error: str = "", name: str = "", status: int = 200) -> HTMLResponse:
    template = (STATIC / "login.html").read_text(encoding="utf-8")
    if desk.settings.sso_header:
        error = error or "Your login at the proxy is not known here; an admin can add it."
    elif not desk.store.people.configured():
        error = "No user is configured, so the desk answers this machine only, at http://127.0.0.1. Add one: moderation users add NAME --role admin"
    html = template.replace("{error}", str(escape(error))).replace("{name}", str(escape(name)))
    return HTMLResponse(html, status)


def server(
    desk: Desk, host: str = "127.0.0.1", port: int = 7860, certificate: str | None = None, key: str | None = None
) -> uvicorn.Server:
    """A server of the desk; its `run` returns when it is told to end."""
    return uvicorn.Server(
        uvicorn.Config(
            make(desk),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # `Guard` does it, and knows whom to believe
            server_header=False,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=3,
        )
    )
