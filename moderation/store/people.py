"""Who may sit at the desk: users, passwords, sessions, and how often one may guess."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.engine import Connection

from moderation.schema import UserError
from moderation.store.database import Database
from moderation.store.tables import logins, sessions, steps, users

#: From the least to the most that one may do.
ROLES = ("moderator", "lead", "admin")
MIN_PASSWORD = 10
MAX_PASSWORD = 1000
#: Failed logins within `WINDOW` seconds after which no more are looked at: by one address for one name, by one address
#: for any, and for one name from anywhere.
WINDOW = 900.0
LIMIT_PAIR, LIMIT_ADDRESS, LIMIT_NAME = 5, 30, 50
#: A session ends after this many seconds.
SESSION = 12 * 3600.0

_NAME = re.compile(r"[^\W_][\w.@+-]{0,63}")


class LoginRefused(UserError):
    """The name or the password is wrong, or there were too many attempts; the message does not tell which of the first two.

    `wait`: seconds until another attempt is looked at, 0 if at once.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class User:
    """Someone who may log in; `role` is one of `ROLES`."""

    name: str
    role: str
    disabled: bool
    added_at: float

    def may(self, role: str) -> bool:
        """Whether this user has at least the rights of `role`."""
        return not self.disabled and ROLES.index(self.role) >= ROLES.index(role)


class People:
    """Users and their logins. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._hasher = PasswordHasher()
        self._nobody = ""

    def configured(self) -> bool:
        """Whether a user is configured at all; without one the desk serves this machine only."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(users)) > 0

    def add(self, name: str, password: str, role: str = "moderator") -> User:
        """Add a user.

        Raises:
            UserError: the name is taken or unfit, the role is none, or the password is too short.
        """
        name = name.strip()
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} cannot be a user's name; expected up to 64 letters, digits and . _ @ + -")
        _check_role(role)
        row = {"name": name, "role": role, "password": self._hash(password), "disabled": False, "added_at": self._clock()}

        def work(connection: Connection) -> None:
            taken = sa.func.lower(users.c.name) == name.lower()
            if connection.scalar(sa.select(users.c.name).where(taken)) is not None:
                raise UserError(f"there is already a user {name}")
            connection.execute(sa.insert(users).values(row))

        self._database.write(work)
        return self.get(name)

    def get(self, name: str) -> User:
        """A user by name.

        Raises:
            UserError: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(users).where(users.c.name == name)).first()
        if row is None:
            raise UserError(f"there is no user {name}")
        return _user(row)

    def all(self) -> list[User]:
        """All users by name."""
        with self._database.read() as connection:
            return [_user(row) for row in connection.execute(sa.select(users).order_by(users.c.name))]

    def last_seen(self) -> dict[str, float]:
        """When each user last logged in or did something at the desk, in seconds since 1970; names without either are left out."""
        with self._database.read() as connection:
            seen = dict(
                connection.execute(sa.select(steps.c.user, sa.func.max(steps.c.at)).group_by(steps.c.user)).tuples().all()
            )
            good = sa.select(logins.c.name, sa.func.max(logins.c.at)).where(logins.c.ok).group_by(logins.c.name)
            for name, at in connection.execute(good):
                seen[name] = max(at, seen.get(name, 0.0))
        return seen

    def set_password(self, name: str, password: str) -> None:
        """Give a user a new password and end the user's sessions.

        Raises:
            UserError: there is no such user, or the password is too short.
        """
        self._change(name, password=self._hash(password))

    def set_role(self, name: str, role: str) -> None:
        """Raises:
        UserError: there is no such user or role, or it is the last admin.
        """
        _check_role(role)
        self._change(name, role=role)

    def disable(self, name: str, disabled: bool = True) -> None:
        """Refuse a user from now on, sessions included (or, with False, let the user in again). What they did stays.

        Raises:
            UserError: there is no such user, or it is the last admin.
        """
        self._change(name, disabled=disabled)

    def verify(self, name: str, password: str, address: str = "") -> User:
        """Check a login.

        Args:
            address: where it comes from; attempts are counted by it.

        Raises:
            LoginRefused: wrong name or password, disabled, or too many attempts.
        """
        name, password, address = name[:64], password[:MAX_PASSWORD], address[:64]
        wait = self._wait(name, address)
        if wait:
            raise LoginRefused(f"too many attempts; try again in {max(1, round(wait / 60))} minutes", wait)
        with self._database.read() as connection:
            row = connection.execute(sa.select(users).where(users.c.name == name)).first()
        # An unknown name takes as long as a wrong password.
        if not self._nobody:
            self._nobody = self._hasher.hash(secrets.token_hex())
        try:
            ok = self._hasher.verify(row.password if row is not None else self._nobody, password)
        except (VerificationError, InvalidHashError):
            ok = False
        ok = ok and row is not None and not row.disabled
        renew = self._hasher.hash(password) if ok and self._hasher.check_needs_rehash(row.password) else None

        def work(connection: Connection) -> None:
            now = self._clock()
            connection.execute(sa.insert(logins).values(name=name, address=address, at=now, ok=ok))
            connection.execute(sa.delete(logins).where(logins.c.at < now - 30 * 86_400))
            if renew:
                connection.execute(sa.update(users).where(users.c.name == name).values(password=renew))

        self._database.write(work)
        if not ok:
            raise LoginRefused("the name or the password is wrong")
        return _user(row)

    def start_session(self, name: str, seconds: float = SESSION) -> str:
        """A token that stands for the user until it expires; only its hash is kept.

        Raises:
            UserError: there is no such user, or it is disabled.
        """
        if self.get(name).disabled:
            raise UserError(f"the user {name} is disabled")
        token = secrets.token_urlsafe(32)

        def work(connection: Connection) -> None:
            now = self._clock()
            connection.execute(sa.delete(sessions).where(sessions.c.until <= now))
            connection.execute(sa.insert(sessions).values(token=_token_hash(token), name=name, until=now + seconds))

        self._database.write(work)
        return token

    def session_user(self, token: str) -> User | None:
        """The user whom a token stands for; None when it is unknown, has expired, or the user is disabled."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(users)
                .join(sessions, sessions.c.name == users.c.name)
                .where(sessions.c.token == _token_hash(token), sessions.c.until > self._clock(), ~users.c.disabled)
            ).first()
        return _user(row) if row is not None else None

    def end_session(self, token: str) -> None:
        """Log out."""
        self._database.write(
            lambda connection: connection.execute(sa.delete(sessions).where(sessions.c.token == _token_hash(token)))
        )

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _hash(self, password: str) -> str:
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise UserError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters")
        return self._hasher.hash(password)

    def _change(self, name: str, **values: object) -> None:
        def work(connection: Connection) -> None:
            row = connection.execute(sa.select(users).where(users.c.name == name).with_for_update()).first()
            if row is None:
                raise UserError(f"there is no user {name}")
            after = {"role": row.role, "disabled": row.disabled} | values
            if row.role == "admin" and not row.disabled and (after["role"] != "admin" or after["disabled"]):
                others = (users.c.role == "admin") & ~users.c.disabled & (users.c.name != name)
                if not connection.scalar(sa.select(sa.func.count()).select_from(users).where(others)):
                    raise UserError(f"{name} is the last admin; make another one first")
            connection.execute(sa.update(users).where(users.c.name == name).values(**values))
            connection.execute(sa.delete(sessions).where(sessions.c.name == name))

        self._database.write(work, snapshot=True)

    def _wait(self, name: str, address: str) -> float:
        """Seconds until an attempt of this name from this address is looked at; 0 for now."""
        now = self._clock()
        own_name, own_address = logins.c.name == name, logins.c.address == address
        last_good = sa.select(sa.func.coalesce(sa.func.max(logins.c.at), 0.0)).where(own_name, own_address, logins.c.ok)
        wait = 0.0
        with self._database.read() as connection:
            since = max(now - WINDOW, connection.scalar(last_good) or 0.0)
            for condition, limit in (
                (own_name & own_address & (logins.c.at > since), LIMIT_PAIR),
                (own_address & (logins.c.at > now - WINDOW), LIMIT_ADDRESS),
                (own_name & (logins.c.at > now - WINDOW), LIMIT_NAME),
            ):
                failures = sa.select(logins.c.at).where(condition, ~logins.c.ok).order_by(logins.c.at.desc()).limit(limit)
                times = list(connection.scalars(failures))
                if len(times) == limit:
                    wait = max(wait, times[-1] + WINDOW - now)
        return wait


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UserError(f"unknown role {role!r}; expected one of {', '.join(ROLES)}")


def _user(row: sa.Row) -> User:
    return User(row.name, row.role, row.disabled, row.added_at)


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
