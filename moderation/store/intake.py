"""From files into the queue: read, skip what is known, predict, store. For the command line and for the desk's upload."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moderation.readers import read_comments
from moderation.schema import Comment, Reject, UserError
from moderation.score import InputError
from moderation.store.library import Imported

if TYPE_CHECKING:
    from moderation.model import Moderator
    from moderation.registry import Champion
    from moderation.store import Store

#: Rows that are read, predicted and stored together.
CHUNK = 512


@dataclass(slots=True)
class Intake:
    """What an import did.

    Attributes:
        imported: new, known and changed comments. scored: predictions made now.
        set_aside: rows that could not be read; reasons: why, with counts; rejects: the file that lists them, if any.
        labels, actions: counts of the predictions made now.
    """

    imported: Imported = field(default_factory=Imported)
    scored: int = 0
    set_aside: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    rejects: Path | None = None


def take_in(
    store: Store,
    paths: Sequence[str | os.PathLike],
    moderator: Moderator | Champion,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    site: str | None = None,
    rejects: str | os.PathLike | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Intake:
    """Import every comment in `paths` with the model's prediction. Interrupted and started again, it scores only what is left.

    Args:
        format, columns: see `readers.read_comments`. site: see `Library.add`.
        rejects: where the rows that were set aside are listed (JSONL); the file appears at the end, if there are any.
        progress: called with the number of rows done, after each chunk.

    Raises:
        InputError: the input cannot be read. UserError: the store cannot be written. OSError: the list of rejects cannot.
    """
    started = time.monotonic()
    done = Intake()
    known = ""
    partial = Path(f"{os.fspath(rejects)}.{os.getpid()}.partial") if rejects is not None else None
    try:
        with as_input_error():
            items = read_comments(paths, format=format, columns=columns)
        rows = 0
        progress(0)
        while chunk := _next(items):
            _keep_rejects([item for item in chunk if isinstance(item, Reject)], done, partial)
            comments = [item for item in chunk if isinstance(item, Comment)]
            model = moderator.current()  # a promotion takes effect with the next chunk
            if model.version != known:
                store.library.add_model(model.version, manifest=model.manifest)
                known = model.version
            fresh = store.library.missing(comments, known, site=site)
            left = set(map(id, fresh))
            verdicts = model.predict(fresh)
            done.imported += store.library.add(fresh, verdicts, site=site)
            done.imported += store.library.add([item for item in comments if id(item) not in left], site=site)
            done.scored += len(fresh)
            done.labels.update(verdict.label for verdict in verdicts)
            done.actions.update(verdict.action for verdict in verdicts)
            rows += len(chunk)
            progress(rows)
        if partial is not None and partial.exists():
            os.replace(partial, os.fspath(rejects))
            done.rejects = Path(rejects)
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    done.seconds = time.monotonic() - started
    return done


def judge_again(store: Store, moderator: Moderator | Champion, progress: Callable[[int], None] = lambda done: None) -> int:
    """Give every undecided comment the prediction of the model that is in use now, as after a promotion; returns how many.

    Interrupted and started again, it goes on with what is left. A promotion in the middle is followed.
    """
    done, last, version = 0, 0, ""
    while True:
        model = moderator.current()
        if model.version != version:
            version, last = model.version, 0
            store.library.add_model(version, manifest=model.manifest)
        ids = store.library.unjudged(version, CHUNK, last, undecided=True)
        if not ids:
            return done
        last = ids[-1]
        items = store.queue.items(ids)
        store.library.judge([item.id for item in items], model.predict([item.comment for item in items]))
        done += len(items)
        progress(done)


def _next(items: Iterator[Comment | Reject]) -> list[Comment | Reject]:
    with as_input_error():
        return list(itertools.islice(items, CHUNK))


def _keep_rejects(rejects: Sequence[Reject], done: Intake, path: Path | None) -> None:
    done.set_aside += len(rejects)
    done.reasons.update(reject.reason for reject in rejects)
    if rejects and path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(reject.to_row(), ensure_ascii=False) + "\n" for reject in rejects)


@contextmanager
def as_input_error() -> Iterator[None]:
    """Say of what the readers refuse that the input cannot be read: another exit code of the command line."""
    try:
        yield
    except InputError:
        raise
    except UserError as error:
        raise InputError(str(error)) from error
