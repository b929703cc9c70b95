"""The desk's door and walls: who gets in, what may be asked for, and what a browser is told not to do."""

from __future__ import annotations

import subprocess

import httpx
import pytest
from desks import ROOT

from moderation.store import Store

pytest_plugins = ["desks"]

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def open_desk(desk_server, tmp_path_factory):
    """A desk without users, over an empty store that is filled with the demo thread, opened by `python app.py`."""
    return desk_server(tmp_path_factory.mktemp("open") / "desk.db", app=True)


@pytest.fixture(scope="module")
def closed_desk(desk_here_for_all, tmp_path_factory):
    """A desk with users of each role."""
    path = tmp_path_factory.mktemp("closed") / "desk.db"
    with Store(path) as store:
        for name, role in (("ada", "admin"), ("lea", "lead"), ("mo", "moderator")):
            store.people.add(name, PASSWORD, role)
    return desk_here_for_all(path)


def login(server, name, password=PASSWORD):
    client = httpx.Client(base_url=server.url)
    assert client.post("/login", data={"name": name, "password": password}).headers.get("location") == "/"
    return client


def test_an_empty_store_shows_the_demo_thread(open_desk):
    with Store(open_desk.store) as store:
        assert store.queue.count() == 57 and store.queue.sites() == ["demo"]
        assert all(item.verdict is not None for item in store.queue.page(limit=100).items)


def test_make_app_opens_it_too():
    said = subprocess.run(["make", "-n", "app"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/moderation review" in said.splitlines()


def test_without_users_only_this_machine_is_served(open_desk):
    assert "serves this machine only" in "".join(open_desk.output)
    assert httpx.get(open_desk.url).status_code == 200
    for headers in ({"host": "desk.example"}, {"x-forwarded-for": "203.0.113.9"}, {"forwarded": "for=203.0.113.9"}):
        assert httpx.get(open_desk.url, headers=headers).headers["location"] == "/login"
        assert httpx.get(f"{open_desk.url}/config", headers=headers).status_code == 401


def test_nobody_gets_past_the_login(closed_desk):
    assert httpx.get(closed_desk.url).headers["location"] == "/login"
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data", "/gradio_api/file=/etc/passwd", "/desk/queue/next"):
        assert httpx.get(closed_desk.url + path).status_code == 401, path
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/upload", "/desk/queue/decide"):
        assert httpx.post(closed_desk.url + path, json={}).status_code == 401, path


def test_routes_that_the_page_does_not_use_do_not_exist(closed_desk):
    client = login(closed_desk, "ada")
    for path in ("/gradio_api/proxy=http://127.0.0.1/", "/monitoring", "/gradio_api/vibe-code", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 404, path


def test_another_sites_page_can_send_nothing(closed_desk):
    client = login(closed_desk, "ada")
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert client.post("/logout", headers=headers).status_code == 403
    assert client.get("/").status_code == 200


def test_files_of_the_machine_are_not_served(closed_desk):
    client = login(closed_desk, "ada")
    for path in ("/etc/passwd", str(closed_desk.store), "../../etc/passwd"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404), path


def test_a_moderator_cannot_upload(closed_desk):
    files = {"files": ("a.csv", b"x")}
    assert login(closed_desk, "mo").post("/gradio_api/upload", files=files).status_code == 403
    assert login(closed_desk, "lea").post("/gradio_api/upload", files=files).status_code == 200


def test_every_answer_carries_the_protecting_headers(closed_desk):
    client = login(closed_desk, "ada")
    for path in ("/", "/login", "/config", "/desk/static/desk.css", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe-inline" not in policy.split("style-src")[0], path
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
    nonces = {client.get("/").headers["content-security-policy"] for _ in range(2)}
    assert len(nonces) == 2


def test_too_many_wrong_passwords_have_to_wait(closed_desk):
    with httpx.Client(base_url=closed_desk.url) as client:
        for _ in range(5):
            answer = client.post("/login", data={"name": "guess<b>", "password": "wrong password"})
            assert answer.status_code == 401 and "&lt;b&gt;" in answer.text and "<b>" not in answer.text
        answer = client.post("/login", data={"name": "guess<b>", "password": "wrong password"})
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0


def test_a_logout_ends_the_session_everywhere(closed_desk):
    client = login(closed_desk, "lea")
    again = httpx.Client(base_url=closed_desk.url, cookies=dict(client.cookies))
    assert again.get("/").status_code == 200
    client.post("/logout")
    assert again.get("/config").status_code == 401


@pytest.fixture
def users(tmp_path):
    """A store with a user of each role."""
    path = tmp_path / "desk.db"
    with Store(path) as store:
        for name, role in (("ada@example.org", "admin"), ("mo@example.org", "moderator")):
            store.people.add(name, PASSWORD, role)
        store.people.disable("mo@example.org")
    return path


def test_a_proxys_header_logs_in_whom_it_names(users, desk_here):
    server = desk_here(users, sso_header="x-forwarded-email", proxies=("127.0.0.1",))
    assert httpx.get(f"{server.url}/desk/me", headers={"x-forwarded-email": "ada@example.org"}).json()["role"] == "admin"
    for headers in ({}, {"x-forwarded-email": "nobody@example.org"}, {"x-forwarded-email": "mo@example.org"}):
        assert httpx.get(f"{server.url}/desk/me", headers=headers).status_code == 401, headers
        assert httpx.post(f"{server.url}/gradio_api/queue/join", json={}, headers=headers).status_code == 401


def test_too_large_an_upload_is_refused(users, desk_here):
    server = desk_here(users, upload=5_000)
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/login", data={"name": "ada@example.org", "password": PASSWORD}).status_code == 303
        for size, status in ((4_000, 200), (50_000, 413), (3_000_000, 413)):
            answer = client.post("/gradio_api/upload", files={"files": ("a.csv", b"x" * size)})
            assert answer.status_code == status, (size, answer.text)
        endless = client.post("/gradio_api/upload", content=iter([b"x"]))
        assert endless.status_code == 413, "a body of unknown length"


def test_the_same_header_from_anywhere_else_says_nothing(users, desk_here):
    server = desk_here(users, sso_header="x-forwarded-email", proxies=("203.0.113.7",))
    headers = {"x-forwarded-email": "ada@example.org", "x-forwarded-for": "203.0.113.7"}
    assert httpx.get(f"{server.url}/desk/me", headers=headers).status_code == 401


def test_behind_a_proxy_with_https_the_cookie_is_for_https_only(users, desk_here):
    server = desk_here(users, proxies=("127.0.0.1",))
    form = {"name": "ada@example.org", "password": PASSWORD}
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "desk.example", "origin": "https://desk.example"}
    answer = httpx.post(f"{server.url}/login", data=form, headers=headers)
    assert answer.status_code == 303 and "strict-transport-security" in answer.headers
    assert "desk.example/assets/" in answer.headers["content-security-policy"]
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("; Secure", "; HttpOnly", "; SameSite=strict")), cookie
    assert "Secure" not in httpx.post(f"{desk_here(users).url}/login", data=form).headers["set-cookie"]


def test_guesses_are_counted_by_the_address_that_the_proxy_names(users, desk_here):
    server = desk_here(users, proxies=("127.0.0.1",))

    def guess(address):
        form = {"name": "ada@example.org", "password": "wrong password"}
        return httpx.post(f"{server.url}/login", data=form, headers={"x-forwarded-for": f"spoofed, {address}"}).status_code

    assert [guess("203.0.113.1") for _ in range(6)] == [401] * 5 + [429]
    assert guess("203.0.113.2") == 401
