"""The store of the review desk: comments, what models say of them, what moderators decide, and who may.

    >>> from moderation.store import Filter, Store
    >>> store = Store()                       # $MODERATION_DATABASE_URL, else moderation.db in the working directory
    >>> store.library.add(comments, verdicts) # from moderation.readers and Moderator.predict
    >>> [item] = store.queue.claim("ada", Filter(labels=["spam"]))
    >>> store.decisions.decide(item.id, "ada", "spam", key="one key press")
    >>> store.decisions.undo("ada", key="another")

SQLite needs nothing installed; `postgresql://…` takes several machines. Opening creates the schema or brings it up to date.
A store may be shared between threads and opened by many processes; every call is one short transaction (imports and changes
of a policy: several). Every call may raise `Unavailable`, a `moderation.UserError`, when the database is unreachable, locked, full or read-only.

This package is a room of its own: it uses the core, and nothing in the core knows of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from moderation.store.database import DEFAULT_URL, Database, Unavailable, database_url
from moderation.store.decisions import Decisions, Entry, Result, Step, Undone
from moderation.store.export import Export
from moderation.store.insight import Agreement, Bin, Insight, Mix, Pairs, Week, Work
from moderation.store.intake import Intake, judge_again, take_in
from moderation.store.items import SHOWS, SORTS, Filter, Item
from moderation.store.lessons import Lesson, Lessons
from moderation.store.library import Imported, Library, Model
from moderation.store.people import ROLES, LoginRefused, People, User
from moderation.store.policies import MODES, Policies, PolicyVersion, ShadowEntry, ShadowReport
from moderation.store.queue import LEASE, ArticleCount, Facets, Page, Queue

__all__ = [
    "DEFAULT_URL",
    "LEASE",
    "MODES",
    "ROLES",
    "SHOWS",
    "SORTS",
    "Agreement",
    "ArticleCount",
    "Bin",
    "Entry",
    "Facets",
    "Filter",
    "Imported",
    "Intake",
    "Item",
    "Lesson",
    "Lessons",
    "LoginRefused",
    "Mix",
    "Model",
    "Page",
    "Pairs",
    "PolicyVersion",
    "Result",
    "ShadowEntry",
    "ShadowReport",
    "Step",
    "Store",
    "Unavailable",
    "Undone",
    "User",
    "Week",
    "Work",
    "database_url",
    "judge_again",
    "take_in",
]


class Store:
    """An open store. Close it, or use it in a `with` statement.

    Attributes:
        library: taking in comments, predictions and models.
        queue: choosing, counting, claiming; threads, duplicates, histogram, samples.
        decisions: decide, bulk, undo, history.
        policies: thresholds in versions, their effect, shadow mode.
        insight: the numbers behind the plots.
        lessons: what the learning loop learns from and asks for.
        people: users, logins, sessions.
        export: labelled rows, decisions for the site, data sets.
    """

    def __init__(self, url: str | os.PathLike | None = None, clock: Callable[[], float] = time.time) -> None:
        """Open a store; see `database_url` for what `url` may be.

        Raises:
            UserError: it cannot be opened.
        """
        self.database = Database(url)
        self.library = Library(self.database, clock)
        self.queue = Queue(self.database, clock)
        self.decisions = Decisions(self.database, clock)
        self.policies = Policies(self.database, clock)
        self.insight = Insight(self.database, clock)
        self.lessons = Lessons(self.database, clock)
        self.people = People(self.database, clock)
        self.export = Export(self.database, clock)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()
