"""Which models there are and which one is used: versions that never change, and a pointer to the champion.

A registry is a folder, `$MODERATION_MODELS`, else `moderation-models` in the working directory:

    versions/NAME/     a model directory as `moderation train` writes it, with `entry.json`: the SHA-256 of every file,
                       when and how it came here. Never changed, only added.
    current.json       the champion, who made it that and why, and the champions before it. Replaced in one rename.
    history.jsonl      one line for every change of champion.
    data/, cache/, work/, lock, status.json    what training keeps here; see `training.loop`.

Without a pointer the model that ships with the package is champion. A running process holds a `Champion`, which looks at
the pointer between batches, so a promotion needs no restart and interrupts nothing.

    >>> registry = Registry("models")
    >>> version = registry.add("models/new")
    >>> registry.promote(version, by="ada", why="better by 0.03 on our holdout")
    >>> registry.rollback(by="ada")
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moderation.schema import UserError

if TYPE_CHECKING:
    from moderation.model import Moderator

#: Where the registry is when nobody says: a folder in the working directory, beside `moderation.db`.
DEFAULT_FOLDER = "moderation-models"
#: Champions that the pointer remembers, the newest first: as far as rolling back goes.
REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class Change:
    """A model becoming champion.

    Attributes:
        version: the model. at: seconds since 1970. by: who. why: in a sentence.
        kind: "promote" or "rollback".
        notes: what else belongs to the change and must be taken back with it, such as versions of policies.
    """

    version: str
    at: float
    by: str = ""
    why: str = ""
    kind: str = "promote"
    notes: Mapping = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """A model in the registry.

    Attributes:
        version: its name. folder: where it lies. champion: whether it is used now. shipped: whether it is the package's own.
        added_at: seconds since 1970; 0 for the shipped one. entry: what `Registry.add` was told about it.
    """

    version: str
    folder: Path
    champion: bool
    shipped: bool
    added_at: float
    entry: Mapping


class Registry:
    """The versions in one folder. Any number of processes may use it at once."""

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder = Path(folder or os.environ.get("MODERATION_MODELS") or DEFAULT_FOLDER)
        self.pointer = self.folder / "current.json"

    # -- looking --------------------------------------------------------------------------------------------------------

    def changes(self) -> list[Change]:
        """The champion and those before it, the newest first; empty while the shipped model is champion.

        Raises:
            UserError: the pointer cannot be read.
        """
        try:
            entries = json.loads(self.pointer.read_text(encoding="utf-8"))["changes"]
            return [Change(**entry) for entry in entries]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.pointer}: cannot be read ({type(error).__name__}); name the champion again: moderation models promote VERSION"
            ) from error

    def champion(self) -> str:
        """The version that is champion now."""
        changes = self.changes()
        return changes[0].version if changes else shipped()

    def versions(self) -> list[Version]:
        """All versions, the newest first; the shipped one last."""
        known = self._readable()
        champion = known[0].version if known else shipped()
        found = []
        for path in (self.folder / "versions").glob("*/entry.json"):
            try:
                entry = json.loads(path.read_text(encoding="utf-8"))
                name, added = path.parent.name, float(entry["added_at"])
            except (OSError, ValueError, KeyError, TypeError):
                entry, name, added = {"damaged": True}, path.parent.name, 0.0
            found.append(Version(name, path.parent, name == champion, name == shipped(), added, entry))
        found.sort(key=lambda version: (-version.added_at, version.version))
        if shipped() not in [version.version for version in found]:
            found.append(Version(shipped(), _shipped_folder(), shipped() == champion, True, 0.0, {}))
        return found

    def find(self, version: str) -> Version:
        """One version, by its name or the beginning of it.

        Raises:
            UserError: none or several are called so.
        """
        known = self.versions()
        matches = [one for one in known if one.version == version] or [
            one for one in known if version and (one.version.startswith(version) or one.version.startswith(f"thread-{version}"))
        ]
        if len(matches) != 1:
            names = ", ".join(one.version for one in matches or known)
            raise UserError(
                f"{self.folder}: {'several versions are' if matches else 'no version is'} called {version!r}: {names}"
            )
        return matches[0]

    def verified(self, version: str) -> Path:
        """The folder of a version, after checking every file of it against the SHA-256 that it was added with.

        Raises:
            UserError: there is no such version, or a file was altered, removed or put in.
        """
        found = self.find(version)
        if "files" not in found.entry:
            if not found.shipped:
                raise UserError(f"{found.folder / 'entry.json'}: damaged; the version {found.version} cannot be used")
            return found.folder
        actual = _checksums(found.folder)
        expected = dict(found.entry["files"])
        for name in sorted(expected.keys() | actual.keys()):
            if actual.get(name) != expected.get(name):
                what = "is missing" if name not in actual else "was altered or damaged" if name in expected else "was put in"
                raise UserError(
                    f"{found.folder / name}: {what} since {found.version} was added; the version cannot be used "
                    f"(go back with: moderation models rollback)"
                )
        return found.folder

    # -- changing -------------------------------------------------------------------------------------------------------

    def add(self, folder: str | os.PathLike, about: Mapping | None = None) -> str:
        """Copy a model directory into the registry; its version. The same again changes nothing.

        Args:
            about: what to remember of it (JSON): the data set, the champion that it continues, the lane.

        Raises:
            UserError: the folder is no model directory of this package, or the disk is full.
        """
        from moderation.model import read_manifest

        folder = Path(folder)
        version = str(read_manifest(folder)["version"])
        if not version or Path(version).name != version or version.startswith("."):
            raise UserError(f"{folder / 'manifest.json'}: {version!r} cannot be the name of a version")
        target = self.folder / "versions" / version
        if target.exists():
            self.verified(version)
            return version
        with written(self.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=target.parent))
            try:
                for path in sorted(folder.rglob("*")):
                    if path.is_symlink():
                        raise UserError(f"{path}: is a link; expected a model directory that holds its files itself")
                    copy = incoming / path.relative_to(folder)
                    copy.mkdir() if path.is_dir() else shutil.copyfile(path, copy)
                (incoming / "entry.json").unlink(missing_ok=True)
                read_manifest(incoming)
                entry = {"added_at": time.time(), **(about or {}), "files": _checksums(incoming)}
                write_whole(incoming / "entry.json", json.dumps(entry, indent=1, ensure_ascii=False) + "\n")
                for path in [*incoming.rglob("*"), incoming]:
                    if path.is_file():
                        path.chmod(0o444)
                    else:
                        path.chmod(0o755)
                try:
                    incoming.rename(target)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                    self.verified(version)  # another process was first with the same model
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return version

    def promote(self, version: str, *, by: str = "", why: str = "", notes: Mapping | None = None) -> Change:
        """Make a version champion, after loading it and letting it judge a comment. Whoever holds a `Champion` follows.

        Raises:
            UserError: the version cannot be used; the champion stays.
        """
        found = self.find(version)
        _try_out(self.verified(found.version))
        changes = self._readable()
        if not changes and found.version != shipped():
            self.add(_shipped_folder(), {"shipped": True})  # so that going back works after an update of the package
        return self._point(Change(found.version, time.time(), by, why, "promote", dict(notes or {})), changes, changes)

    def rollback(self, *, by: str = "", why: str = "") -> tuple[Change, Change]:
        """Go back to the champion before this one; again, to the one before that. Returns what was undone and what holds now.

        Raises:
            UserError: there was none before, or it cannot be used; the champion stays.
        """
        changes = self.changes()
        if not changes or (len(changes) == 1 and changes[0].version == shipped()):
            raise UserError(f"{self.folder}: the shipped model is champion; there is nothing to go back to")
        undone, rest = changes[0], changes[1:]
        before = rest[0] if rest else Change(shipped(), 0.0)
        _try_out(self.verified(before.version))
        now = Change(before.version, time.time(), by, why or f"back from {undone.version}", "rollback", before.notes)
        return undone, self._point(now, changes, rest[1:])

    def _readable(self) -> list[Change]:
        try:
            return self.changes()
        except UserError:  # naming a champion anew is how a damaged pointer is mended
            return []

    def _point(self, change: Change, seen: list[Change], before: list[Change]) -> Change:
        """Replace the pointer, unless another process did since it was `seen`."""
        with written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "history.jsonl").open("a", encoding="utf-8") as lines:
                fcntl.flock(lines, fcntl.LOCK_EX)
                if self._readable() != seen:
                    raise UserError(
                        f"{self.folder}: the champion was changed by somebody else meanwhile; look again and repeat"
                    )
                changes = [change, *before][:REMEMBERED]
                write_whole(self.pointer, json.dumps({"changes": [asdict(one) for one in changes]}, indent=1) + "\n")
                lines.write(json.dumps(asdict(change), ensure_ascii=False) + "\n")
        return change


class Champion:
    """The model to use now. It looks at the registry's pointer whenever it is asked, and loads what was promoted.

    While one thread loads, the others go on with the model before. A champion that cannot be loaded leaves the one before
    in place; `trouble` then says why.
    """

    def __init__(self, registry: Registry | None = None, device: str | None = None) -> None:
        """Load the champion.

        Raises:
            UserError: it cannot be loaded.
        """
        self.registry = registry or Registry()
        self.trouble = ""
        self._device = device
        self._loading = threading.Lock()
        self._seen = self._stamp()
        self._model = self._load()

    def current(self) -> Moderator:
        """The champion's model: use it for one batch and ask again for the next."""
        stamp = self._stamp()
        if stamp != self._seen and self._loading.acquire(blocking=False):
            try:
                if stamp != self._seen:
                    self._model, self.trouble = self._load(), ""
            except UserError as error:
                self.trouble = str(error)
            finally:
                self._seen = stamp
                self._loading.release()
        return self._model

    def _load(self) -> Moderator:
        from moderation.model import Moderator

        return Moderator.from_pretrained(self.registry.verified(self.registry.champion()), self._device)

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.registry.pointer)
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_ino, status.st_size


def resolve(name: str | os.PathLike | None) -> Path:
    """The folder of a model: by path, by version, or the champion's where there is no name.

    Raises:
        UserError: a version of that name cannot be used. A path is not looked at.
    """
    registry = Registry()
    if name is None:
        return registry.verified(registry.champion())
    if not Path(name).exists() and any(known.version == str(name) for known in registry.versions()):
        return registry.verified(str(name))
    return Path(name)


def shipped() -> str:
    """The version of the model that comes with the package."""
    return json.loads((_shipped_folder() / "manifest.json").read_text(encoding="utf-8"))["version"]


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, also after a crash, sees the old or the new text and nothing between."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Say in one line why something could not be written into the registry."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else error.strerror or str(error)
        raise UserError(f"{folder}: cannot be written ({why}); the champion stays as it is") from error


def _try_out(folder: Path) -> None:
    from moderation.model import Moderator
    from moderation.schema import Article, Comment

    probe = [
        Comment("Who pays for it?", article=Article(title="The bridge stays closed", text="Repairs cost 2 million.")),
        Comment(""),
    ]
    probabilities = Moderator.from_pretrained(folder, runtime="torch").predict_proba(probe)
    if not (abs(probabilities.sum(1) - 1) < 1e-6).all():
        raise UserError(f"{folder}: answers with numbers that are no probabilities; the model is damaged")


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "entry.json"
    }


def _shipped_folder() -> Path:
    from moderation.model import DEFAULT_MODEL

    return DEFAULT_MODEL
