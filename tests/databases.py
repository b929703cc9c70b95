"""Both databases for the tests of the store: an SQLite file, and a throw-away PostgreSQL cluster on a Unix socket.

A test module that wants them says `pytest_plugins = ["databases"]` and takes `store`, `store_url` or `new_url`. Without PostgreSQL's
server binaries the half of the tests that needs them is skipped with the reason printed, or fails where
MODERATION_REQUIRE_POSTGRES is set, as the Makefile does.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_numbers = itertools.count()


def find_binaries() -> dict[str, str] | None:
    """Paths of initdb, pg_ctl and psql's server by name; None where there is no server on this machine."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    if config := shutil.which("pg_config"):
        folders.append(subprocess.run([config, "--bindir"], capture_output=True, text=True).stdout.strip())
    folders += map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    for folder in folders:
        found = {name: shutil.which(name, path=folder) for name in ("initdb", "pg_ctl", "postgres")}
        if all(found.values()):
            # Links to a folder of them are followed: initdb looks for its neighbours.
            return {name: os.path.realpath(path) for name, path in found.items()}
    return None


@pytest.fixture(scope="session")
def postgres():
    """The URL of a cluster without its database's name, `postgres % "name"`; it has two with the schema, `pattern`, `shared`."""
    binaries = find_binaries()
    if binaries is None:
        reason = "PostgreSQL's server (initdb, pg_ctl, postgres) is not installed; on Debian: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("MODERATION_REQUIRE_POSTGRES") else pytest.skip(reason)
    # The socket's path must be short, and the server refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    prefix = []
    if os.geteuid() == 0:
        owner = pwd.getpwnam("nobody")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        prefix = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    data = folder / "data"
    # Nobody's data depend on this cluster: it need not survive a power cut.
    options = (
        f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=200 -c shared_buffers=64MB"
    )

    def run(*command: str) -> None:
        done = subprocess.run(
            [*prefix, *command], capture_output=True, text=True, cwd=folder, env=os.environ | {"LC_ALL": "C.UTF-8"}
        )
        if done.returncode:
            log = folder / "log"
            pytest.fail(f"{' '.join(command)}: {done.stderr or done.stdout}{log.read_text()[-2000:] if log.exists() else ''}")

    try:
        run(
            binaries["initdb"],
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "moderation",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C.UTF-8",
        )
        run(binaries["pg_ctl"], "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            url = f"postgresql://moderation@/%s?host={folder}"
            _create(url, "pattern", "template1")
            from moderation.store import Store

            Store(url % "pattern").close()
            _create(url, "shared", "pattern")
            yield url
        finally:
            run(binaries["pg_ctl"], "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    from moderation.store import Store

    path = tmp_path_factory.mktemp("sqlite") / "pattern.db"
    Store(path).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request, tmp_path):
    """Makes databases, on each kind in turn: `new_url()` with the schema, `new_url(empty=True)` with nothing in it."""
    if request.param == "postgresql":
        cluster = request.getfixturevalue("postgres")
    else:
        template = request.getfixturevalue("sqlite_template")

    def make(empty: bool = False, shared: bool = False) -> str:
        name = f"test{next(_numbers)}"
        if request.param == "postgresql":
            if shared:
                _clear(cluster % "shared")
                return cluster % "shared"
            _create(cluster, name, "template1" if empty else "pattern")
            return cluster % name
        if not empty:
            shutil.copyfile(template, tmp_path / f"{name}.db")
        return f"sqlite:///{tmp_path}/{name}.db"

    return make


@pytest.fixture
def store_url(new_url):
    """The URL of a store with nothing in it, on each database. On PostgreSQL it is always the same one, cleared: to make and
    remove a database (300 files) takes longer than most tests."""
    return new_url(shared=True)


@pytest.fixture
def store(store_url):
    """A store with nothing in it, on each database."""
    from moderation.store import Store

    with Store(store_url) as store:
        yield store


def _create(cluster: str, name: str, template: str) -> None:
    import psycopg

    with psycopg.connect(cluster % "postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")


def _clear(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        # Neither triggers nor foreign keys; and to delete few rows is quicker than TRUNCATE, which makes new files.
        connection.execute("SET session_replication_role = replica")
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        for (name,) in tables.fetchall():
            connection.execute(f"DELETE FROM {name}")
        connection.execute("SELECT setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences")
