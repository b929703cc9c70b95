"""Threads on disk: which article a comment stands under, and what the comment says that it answers.

Exports may be larger than memory and may name a parent or a thread long before (or after) they define it, so both are kept
in a temporary SQLite file that is deleted with the `Threads` object.
"""

from __future__ import annotations

import errno
import os
import pickle
import sqlite3
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from moderation.schema import Article, Comment, Reject, clean_text

#: How many articles are held at once, and characters of all of them; comments of one thread mostly stand together.
_CACHED_ARTICLES, _CACHED_CHARACTERS = 256, 8 << 20


class _Recent:
    """What a function gave for the last arguments. As `lru_cache`, but the length of the articles counts: a cell may hold
    millions of characters, and as many articles of that length would fill the memory."""

    def __init__(self, make: Callable[..., Article | None]) -> None:
        self._make = make
        self._kept: OrderedDict[tuple[str, ...], Article | None] = OrderedDict()
        self._characters = 0

    def __call__(self, *key: str) -> Article | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        article = self._kept[key] = self._make(*key)
        self._characters += _length(article)
        while len(self._kept) > 1 and (len(self._kept) > _CACHED_ARTICLES or self._characters > _CACHED_CHARACTERS):
            self._characters -= _length(self._kept.popitem(last=False)[1])
        return article


def _length(article: Article | None) -> int:
    return len(article.title) + len(article.text) if article else 0


class Threads:
    """A temporary index of articles and comments; use it as a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="moderation-")
        # A web app may go on with a generator in another thread than the one that began it, never in two at once.
        self._db = sqlite3.connect(os.path.join(self._folder.name, "threads.db"), isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;"
            "CREATE TABLE article (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;"
            "CREATE TABLE name (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;"
            "CREATE TABLE seen (id TEXT PRIMARY KEY, times INTEGER) WITHOUT ROWID;"
            "CREATE TABLE comment (thread TEXT, id TEXT, text TEXT, PRIMARY KEY (thread, id));"
            "BEGIN"
        )
        self.article = _Recent(self._load_article)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._folder.cleanup()

    def _execute(self, statement: str, values: tuple) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC, f"the temporary folder is full or cannot be written: {error}") from error

    def add_article(self, key: str, article: Article) -> None:
        """Remember an article; the first one under a key stays."""
        fields = tuple(map(clean_text, (article.article_id, article.title, article.text, article.url)))
        self._execute("INSERT OR IGNORE INTO article VALUES (?, ?)", (key, pickle.dumps(fields)))

    def _load_article(self, key: str) -> Article | None:
        row = self._execute("SELECT value FROM article WHERE key = ?", (key,)).fetchone()
        return Article(*pickle.loads(row[0])) if row else None  # written by add_article, never from the input

    def add_name(self, key: str, name: str) -> None:
        """Remember the display name of a user id."""
        self._execute("INSERT OR IGNORE INTO name VALUES (?, ?)", (key, name))

    def name(self, key: str) -> str:
        """The display name of a user id, or the empty string."""
        row = self._execute("SELECT value FROM name WHERE key = ?", (key,)).fetchone()
        return row[0] if row else ""

    def first_time(self, key: str) -> bool:
        """Whether an id was not asked for before."""
        return self.times(key) == 1

    def times(self, key: str) -> int:
        """How often an id was asked for, this time included."""
        counted = "INSERT INTO seen VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET times = times + 1 RETURNING times"
        return self._execute(counted, (key,)).fetchone()[0]

    def add_comment(self, comment: Comment) -> None:
        """Remember a comment as a possible parent; the first one with its id in the thread stays."""
        row = (thread_key(comment.article), comment.comment_id, comment.text)
        self._execute("INSERT OR IGNORE INTO comment VALUES (?, ?, ?)", row)

    def has_comment(self, article: Article, comment_id: str) -> bool:
        """Whether a comment with this id was remembered in the article's thread."""
        return self._text(article, comment_id) is not None

    def parent_text(self, comment: Comment) -> str | None:
        """The text of the comment that this one answers; None when it is not known (yet)."""
        return self._text(comment.article, comment.parent_id)

    def _text(self, article: Article, comment_id: str) -> str | None:
        key = (thread_key(article), comment_id)
        row = self._execute("SELECT text FROM comment WHERE thread = ? AND id = ?", key).fetchone()
        return row[0] if row else None

    def with_parents(self, items: Iterable[Comment | Reject]) -> Iterator[Comment | Reject]:
        """Fill in `parent_text` from `parent_id` within a thread, in the order of `items`.

        Items pass straight through as long as parents come before their replies. From the first reply whose parent has
        not been seen, the rest is written to disk and handed out after the end of the input was read.
        """
        items = iter(items)
        for item in items:
            if isinstance(item, Reject):
                yield item
                continue
            self.add_comment(item)
            resolved = self._resolve(item)
            if resolved is None:
                yield from self._with_later_parents(item, items)
                return
            yield resolved

    def _resolve(self, comment: Comment) -> Comment | None:
        if not comment.parent_id or comment.parent_text or comment.parent_id == comment.comment_id:
            return comment
        text = self.parent_text(comment)
        return None if text is None else replace(comment, parent_text=text)

    def _with_later_parents(self, first: Comment, rest: Iterator[Comment | Reject]) -> Iterator[Comment | Reject]:
        with tempfile.TemporaryFile(dir=self._folder.name) as spool:
            pickle.dump(self._packed(first), spool)
            broken: Exception | None = None
            try:
                for item in rest:
                    if isinstance(item, Comment):
                        self.add_comment(item)
                    pickle.dump(self._packed(item), spool)
            except Exception as error:  # what was read before the break is still handed out, and then the error
                broken = error
            end = spool.tell()
            spool.seek(0)
            while spool.tell() < end:
                item = self._unpacked(pickle.load(spool))
                yield item if isinstance(item, Reject) else self._resolve(item) or item
            if broken is not None:
                raise broken

    def _packed(self, item: Comment | Reject) -> tuple:
        """The item for the spool; its article goes into the index once, not to every comment."""
        if isinstance(item, Reject):
            return (item,)
        key = "\0spool\0" + repr(hash_article(item.article))
        self.add_article(key, item.article)
        rest = (item.parent_id, item.parent_text, item.author, item.created_at, item.language, item.status)
        return (item.text, item.comment_id, key, *rest)

    def _unpacked(self, packed: tuple) -> Comment | Reject:
        if len(packed) == 1:
            return packed[0]
        text, comment_id, key, *rest = packed
        return Comment(text, comment_id, self.article(key), *rest)


def thread_key(article: Article) -> str:
    """What tells one thread from another: comment ids are unique within it, not always beyond."""
    return article.article_id or article.url or article.title


@lru_cache(1)  # the next comment mostly stands under the same
def hash_article(article: Article) -> str:
    """A digest of all of an article, so that two versions of it are kept apart."""
    import hashlib

    text = "\x1f".join((article.article_id, article.title, article.text, article.url))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ArticleCache:
    """Hands out one `Article` object for equal articles, as long as it is among the last ones asked for."""

    def __init__(self) -> None:
        self.get = _Recent(Article)
