"""What is trained on what: the recipe, read from a file, and the material that it names, split and counted."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from data import corpora
from moderation.model import DEFAULT_ENCODER
from moderation.schema import Comment, UserError
from training.batches import Mix
from training.examples import Example, labelled, read_threads, weak
from training.pages import Page, read_pages

RECIPE = Path(__file__).parent / "recipe.toml"
#: What our pages are called among the sources.
PAGES = "threads/pages"
#: Real comments that suffice to calibrate on.
ENOUGH_TO_CALIBRATE = 200


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained on what, and how; read from a TOML file whose keys are these names.

    Attributes:
        encoder: package, folder or hub name of the encoder.
        head_epochs: passes that fit the head alone on the frozen encoder's vectors, so that a random head does not
            first destroy the encoder's sense of similarity (Kumar et al. 2022, arXiv:2202.10054).
        epochs: passes over the examples that train adapter and head together.
        fit_rate: learning rate of the head alone. learning_rate: of the encoder; the head then learns at `head_rate`.
        contrast: weight of the contrastive loss that keeps a comment nearer its own thread than the batch's others.
        rank: of the LoRA adapter (Hu et al. 2021, arXiv:2106.09685); 0 trains the head alone.
        full: whether all matrices of the encoder's layers train, and the adapter is cut from how they changed, instead of being
            what trains.
        group_size: comments of one article in a batch.
        gold: weight of one real comment labelled by hand (gold-train and data/labels); 0 leaves them out.
        threads: the same for our own threads.
        pages: weight of the loss on a batch of our pages (`training.pages`); 0 leaves them out. Every `pages_every`-th step has one.
        soup: such weights, each of a run of its own whose encoder is averaged with the others' (model soups, Wortsman et al. 2022,
            arXiv:2203.05482): runs differ by what they happen to see last, and their mean is better than each. Empty: one run.
        near_weight: of off-topic comments that are near their article, while the part of relevance is fitted at the end.
        moved_weight: of a comment shown in a foreign thread while the head is fitted, below 1 because half-and-half pairs teach
            the wrong prior.
        weak: by corpus, the largest number of weakly labelled examples and their weight.
        mix: see `batches.Mix`.
        seed: of every random choice.
    """

    encoder: str = DEFAULT_ENCODER
    head_epochs: int = 4
    epochs: int = 3
    learning_rate: float = 1e-4
    fit_rate: float = 2e-2
    head_rate: float = 1e-3
    warmup: float = 0.06
    contrast: float = 0.3
    rank: int = 16
    full: bool = False
    dropout: float = 0.2
    hidden: int = 64
    group_size: int = 4
    gold: float = 1.0
    threads: float = 1.0
    pages: float = 0.0
    pages_every: int = 4
    soup: tuple[float, ...] = ()
    near_weight: float = 1.0
    moved_weight: float = 0.5
    weak: dict[str, tuple[int, float]] = field(default_factory=dict)
    mix: Mix = Mix()
    seed: int = 1

    @property
    def shows_pages(self) -> bool:
        """Whether any run of it learns from our pages."""
        return bool(self.pages or any(self.soup))

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe.

        Raises:
            UserError: the file cannot be read, or names what no recipe has.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{path}: not a recipe ({error})") from error
        unknown = set(table) - {part.name for part in fields(cls)}
        if unknown:
            raise UserError(f"{path}: unknown entries {', '.join(sorted(unknown))}")
        try:
            mix = table.get("mix", {})
            if "near_sources" in mix:
                mix["near_sources"] = tuple(mix["near_sources"])
            table["mix"] = Mix(**mix)
            table["soup"] = tuple(map(float, table.get("soup", ())))
            table["weak"] = {name: (int(limit), float(weight)) for name, (limit, weight) in table.get("weak", {}).items()}
            return cls(**table)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Material:
    """Examples to train on and rows to calibrate on, split by article, with the hashes of where they came from."""

    train: list[Example]
    held_out: list[tuple[Comment, str]]
    sources: dict[str, dict[str, object]]
    pages: list[Page] = field(default_factory=list)


def gather(recipe: Recipe, corpora_folder: Path | None, threads_folder: Path) -> Material:
    """Everything that the recipe names. Held out for calibration: every sixth article of the real comments labelled by hand,
    and our validation split where these are too few; calibrated on our own threads, it is too sure of real comments.

    Raises:
        UserError: a corpus is missing, or may not train.
    """
    train: list[Example] = []
    held: list[tuple[Comment, str]] = []
    real: list[tuple[Comment, str]] = []
    sources: dict[str, dict[str, object]] = {}

    def note(name: str, rows: Sequence[dict], used: int) -> None:
        digest = hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        sources[name] = {"rows": len(rows), "used": used, "sha256": digest}

    if recipe.threads:
        rows = read_threads(threads_folder, "train")
        train += labelled(rows, "threads", recipe.threads)
        note("threads/train", rows, len(rows))
        rows = read_threads(threads_folder, "validation")
        held += [(Comment.from_row(row), row["label"]) for row in rows]
        note("threads/validation (calibration)", rows, len(rows))
    known: set[str] = set()
    for name in ("gold-train", "labels") if recipe.gold else ():
        rows = corpora.rows(name, corpora_folder, "train")
        known |= {row["comment_text"].strip() for row in rows}
        kept = [row for row in rows if not held_out(row["article_title"])]
        train += labelled(kept, name, recipe.gold)
        real += [(Comment.from_row(row), row["label"]) for row in rows if held_out(row["article_title"])]
        note(name, rows, len(kept))
    for name, (limit, weight) in recipe.weak.items():
        rows = [
            row
            for row in corpora.rows(name, corpora_folder, "train")
            if row["comment_text"].strip() not in known and not (row["article_title"] and held_out(row["article_title"]))
        ]
        examples = weak(rows, name, weight, limit, recipe.seed)
        train += examples
        note(name, rows, len(examples))
    pages = read_pages(threads_folder / "pages.jsonl") if recipe.shows_pages else []
    if pages:
        note(PAGES, [asdict(page) for page in pages], len(pages))
    if not train:
        raise UserError("the recipe leaves nothing to train on; give gold, threads or weak a weight above 0")
    return Material(train, real if len(real) >= ENOUGH_TO_CALIBRATE else held + real, sources, pages)


def held_out(title: str) -> bool:
    """Whether the article of that title is kept for calibration: one in six, by a hash that never changes."""
    return bool(title) and hashlib.sha256(title.encode()).digest()[0] < 43


def recipe_of(manifest: Mapping) -> Recipe:
    """The recipe that made a model, as far as this version of the package knows it."""
    known = {part.name for part in fields(Recipe)}
    table = {name: value for name, value in dict(manifest.get("recipe", {})).items() if name in known}
    mix = {name: value for name, value in dict(table.pop("mix", {})).items() if name in {part.name for part in fields(Mix)}}
    if "near_sources" in mix:
        mix["near_sources"] = tuple(mix["near_sources"])
    table["weak"] = {name: tuple(value) for name, value in dict(table.get("weak", {})).items()}
    table["soup"] = tuple(table.get("soup", ()))
    head = {name: manifest["head"][name] for name in ("hidden", "dropout") if name in manifest["head"]}
    return Recipe(**{**table, "mix": Mix(**mix), **head})


def sources_of(material: Material, recipe: Recipe) -> dict[str, dict[str, object]]:
    return {name: source for name, source in material.sources.items() if recipe.shows_pages or name != PAGES}


def texts(material: Material, recipe: Recipe) -> Iterator[str]:
    yield from (example.comment.text for example in material.train)
    if recipe.shows_pages:
        yield from (remark for page in material.pages for remark in page.comments)
