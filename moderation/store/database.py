"""The connection: which database, how its schema comes up to date, and what a transaction is."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from moderation.schema import UserError

#: Where the store is when nobody says: a file in the working directory.
DEFAULT_URL = "sqlite:///moderation.db"
#: How long a writer waits for another on SQLite.
BUSY_SECONDS = 30
#: How often a transaction that lost against another one is tried again.
ATTEMPTS = 12

_MIGRATIONS = Path(__file__).parent / "migrations"
#: Any number; two processes that migrate one PostgreSQL database agree on it.
_LOCK = 0x6D6F6465

T = TypeVar("T")


class Unavailable(UserError):
    """The database cannot be asked at the moment: locked, full, out of reach. What was to be done may be tried again."""


def database_url(given: str | os.PathLike | None = None) -> str:
    """The URL of the store: the one given, else `$MODERATION_DATABASE_URL`, else `moderation.db` in the working directory.

    A plain path means an SQLite file.
    """
    url = os.fspath(given) if given else os.environ.get("MODERATION_DATABASE_URL") or DEFAULT_URL
    if "://" not in url:
        return f"sqlite:///{url}"
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else url


class Database:
    """An engine with the schema up to date; every access goes through `read` or `write`."""

    def __init__(self, url: str | os.PathLike | None = None) -> None:
        """Connect and migrate.

        Raises:
            UserError: the URL is none, the database cannot be reached, or a newer version of this package made it.
        """
        try:
            self.url = make_url(database_url(url))
            if self.url.get_backend_name() not in ("sqlite", "postgresql"):
                raise UserError(f"{self}: expected an sqlite:/// or postgresql:// URL")
            if self.url.get_backend_name() == "sqlite" and self.url.database in (None, "", ":memory:"):
                raise UserError(f"{self}: expected an SQLite file; a store in memory could not be shared between moderators")
            self.engine = self._engine()
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            # The message of make_url repeats the URL, password and all.
            raise UserError(
                "the database URL cannot be read; expected sqlite:///FILE or postgresql://USER@HOST/NAME"
            ) from error
        self.sqlite = self.engine.dialect.name == "sqlite"
        # SQLite lets writers find each other by asking again and again, ever more seldom, so that some wait for seconds while
        # others pass; those of one process stand in line instead.
        self._turn = threading.Lock() if self.sqlite else contextlib.nullcontext()
        try:
            self._migrate()
        except DBAPIError as error:
            self.close()
            raise UserError(f"{self}: cannot be opened ({_first_line(error)})") from error
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading; it sees one state of the database on SQLite, committed data on PostgreSQL."""
        with self._translated(), self.engine.connect() as connection:
            yield connection

    def write(self, work: Callable[[Connection], T], *, snapshot: bool = False) -> T:
        """Do `work` in one transaction, again if it lost against another; so `work` must have no other effects.

        Args:
            snapshot: whether all statements must see the same state (PostgreSQL: REPEATABLE READ). On SQLite they always
                do: one writer at a time, locked from the beginning.
        """
        for attempt in range(ATTEMPTS):
            try:
                with self._turn, self._translated(), self.engine.connect() as plain:
                    options = {"immediate": True} if self.sqlite else {"isolation_level": "REPEATABLE READ"} if snapshot else {}
                    connection = plain.execution_options(**options)
                    with connection.begin():
                        return work(connection)
            except DBAPIError as error:
                if attempt + 1 == ATTEMPTS or not _lost(error):
                    raise
                time.sleep(random.uniform(0, 0.005 * 2 ** min(attempt, 5)))
        raise AssertionError("unreachable")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            # What a person can mend is said in one line; a lost race or a mistake of ours goes on as it is.
            if not _lost(error) and (error.connection_invalidated or _first_line(error).startswith(_MENDABLE)):
                raise Unavailable(f"{self}: {_first_line(error)}") from error
            raise

    def _engine(self) -> sa.Engine:
        if self.url.get_backend_name() == "postgresql":
            return sa.create_engine(self.url, pool_pre_ping=True, pool_size=10, max_overflow=20)
        with contextlib.suppress(OSError):  # the connection says why; passwords' hashes are nobody else's business
            Path(self.url.database).touch(mode=0o600)
        engine = sa.create_engine(
            self.url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, pool_size=10, max_overflow=20
        )

        @sa.event.listens_for(engine, "connect")
        def _prepare(connection, record) -> None:
            connection.isolation_level = None  # the driver begins no transaction of its own; `_begin` does
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")  # a decision that was shown as done survives a power cut
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute("PRAGMA cache_size = -65536")
            cursor.execute("PRAGMA temp_store = MEMORY")
            cursor.close()

        @sa.event.listens_for(engine, "begin")
        def _begin(connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")

        return engine

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        script = ScriptDirectory.from_config(config)
        head = script.get_current_head()
        with self.engine.connect() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return

        def upgrade(connection: Connection) -> None:
            if not self.sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            current = MigrationContext.configure(connection).get_current_revision()
            if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
                raise UserError(f"{self}: made by a newer version of this package (schema {current}); update the package")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

        self.write(upgrade)


_MENDABLE = ("database or disk is full", "attempt to write a readonly database", "disk I/O error", "database disk image is malformed",
             "database is locked", "file is not a database", "unable to open database file", "connection")  # fmt: skip


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]


def _lost(error: DBAPIError) -> bool:
    """Whether a transaction failed only because another one was first; done again it finds what that one did."""
    if isinstance(error, IntegrityError):
        return getattr(error.orig, "sqlstate", "23505") == "23505" and "UNIQUE" in _first_line(error).upper()
    return getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


class whole(FunctionElement):
    """The whole part of a number that is not negative."""

    inherit_cache = True
    type = sa.Integer()


@compiles(whole)
def _floor(element, compiler, **options) -> str:
    return f"CAST(FLOOR({compiler.process(element.clauses, **options)}) AS INTEGER)"


@compiles(whole, "sqlite")
def _cut(element, compiler, **options) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"  # FLOOR is an option of SQLite's build
