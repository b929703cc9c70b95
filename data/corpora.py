"""Loaders of public comment corpora: from the layout that each was published in to native rows.

The corpora are not part of this project. A caller names the folder that holds them (`--corpora PATH` or
`$MODERATION_CORPORA`); each lies in a sub-folder of its own name. What a corpus may be used for is enforced here: `load`
with `purpose="train"` refuses a corpus whose licence does not let a model trained on it be given away.

Every loader returns a `datasets.Dataset` of native rows plus two columns:

* `target`: one of `schema.LABELS` where the corpus is labelled with them, else what is weakly known: `own` (stands under
  its own article or parent, in a moderated place), `not-spam`, or `` (nothing known);
* `corpus`: its name.
"""

from __future__ import annotations

import csv
import gzip
import html
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moderation.schema import ROW_FIELDS, UserError

if TYPE_CHECKING:
    from datasets import Dataset

Use = Literal["train", "measure"]
Rows = Iterator[dict[str, str]]

#: Columns beyond the native row that a corpus may add; absent ones are empty.
EXTRA_FIELDS = ("target", "corpus", "label", "positive", "key")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A public corpus: what it is, what its licence allows, and how it is read."""

    name: str
    use: Use
    licence: str
    citation: str
    rows: Callable[[Path], Rows]


def load(name: str, folder: str | Path | None = None, purpose: Use = "measure") -> Dataset:
    """One corpus as native rows.

    Args:
        name: a key of `CORPORA`.
        folder: the folder that holds the corpora; `$MODERATION_CORPORA` when absent.
        purpose: "train" refuses a corpus that may only measure.

    Raises:
        UserError: unknown corpus, forbidden purpose, or files that are missing or of another layout.
    """
    from datasets import Dataset

    return Dataset.from_list(rows(name, folder, purpose))


def rows(name: str, folder: str | Path | None = None, purpose: Use = "measure") -> list[dict[str, str]]:
    """The same as a list of dicts."""
    corpus = CORPORA.get(name)
    if corpus is None:
        raise UserError(f"unknown corpus {name!r}; expected one of {', '.join(CORPORA)}")
    if purpose == "train" and corpus.use != "train":
        raise UserError(f"the corpus {name} may only measure, never train (licence: {corpus.licence})")
    root = find(folder)
    try:
        found = list(corpus.rows(root))
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: missing; expected the corpus {name} in its published layout under {root}"
        ) from error
    except (KeyError, ValueError, UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(
            f"the corpus {name} under {root} is not in its published layout ({type(error).__name__}: {error})"
        ) from error
    blank = dict.fromkeys((*ROW_FIELDS, *EXTRA_FIELDS), "")
    return [{**blank, **row, "corpus": name} for row in found if row["comment_text"].strip()]


def find(folder: str | Path | None) -> Path:
    """The folder of the corpora: the argument, else `$MODERATION_CORPORA`.

    Raises:
        UserError: when neither names a folder.
    """
    chosen = folder or os.environ.get("MODERATION_CORPORA")
    if not chosen:
        raise UserError("no corpora: name their folder with --corpora PATH or the variable MODERATION_CORPORA")
    if not Path(chosen).is_dir():
        raise UserError(f"{chosen}: expected the folder of the corpora")
    return Path(chosen)


def _open(path: Path):
    return (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig", newline="")
    )


def _jsonl(path: Path) -> Iterator[dict]:
    with _open(path) as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _csv(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(10_000_000)
    with _open(path) as lines:
        yield from csv.DictReader(lines)


def _blog(folder: str, suffix: str) -> Callable[[Path], Rows]:
    def read(root: Path) -> Rows:
        articles = {row["article_slug"]: row for row in _jsonl(root / folder / f"articles.jsonl{suffix}")}
        for number, row in enumerate(_jsonl(root / folder / f"comments.jsonl{suffix}")):
            article = articles.get(row["article_slug"])
            if article is None:
                continue
            yield {
                "comment_id": f"{folder}-{number}",
                "comment_text": row["comment"],
                "article_id": f"{folder}:{row['article_slug']}",
                "article_title": article["title"],
                "article_text": article["article_text"],
                "created_at": row.get("date", ""),
                "target": "own",
                "key": row.get("comment_path", ""),
            }

    return read


def _youtube_spam(root: Path) -> Rows:
    folder = root / "youtube-spam"
    videos = {row["video_id"]: row for row in _csv(folder / "videos.csv")}
    by_file = {"Psy": "9bZkp7q19f0", "KatyPerry": "CevxZvSJLk8", "LMFAO": "KQ6zr6kCPj8", "Eminem": "uelHwf8o7_U"}
    for path in sorted(folder.glob("Youtube*.csv")):
        video = videos[by_file[path.stem.split("-")[1]]]
        for row in _csv(path):
            yield {
                "comment_id": row["COMMENT_ID"],
                "comment_text": html.unescape(row["CONTENT"]),
                "article_id": f"youtube:{video['video_id']}",
                "article_title": video["title"],
                "article_text": video["description"],
                "author": row["AUTHOR"],
                "created_at": row["DATE"],
                "target": "spam" if row["CLASS"] == "1" else "not-spam",
                "key": row["COMMENT_ID"],
            }


def _scamspot(root: Path) -> Rows:
    seen: set[str] = set()
    for number, row in enumerate(_csv(root / "scamspot" / "comments-rating.csv")):
        text = row["msg"]
        if text in seen:
            continue
        seen.add(text)
        yield {
            "comment_id": f"scamspot-{number}",
            "comment_text": text,
            "target": "spam" if row["scam"] == "1" else "not-spam",
        }


def _tg_spam(root: Path) -> Rows:
    for kind, target in (("spam", "spam"), ("ham", "not-spam")):
        with _open(root / "tg-spam" / f"{kind}-samples.txt") as lines:
            for number, line in enumerate(lines):
                yield {"comment_id": f"tg-{kind}-{number}", "comment_text": line.strip(), "target": target}


def _wiki_talk(root: Path) -> Rows:
    for row in _csv(root / "wiki-talk-context" / "gc.csv.gz"):
        yield {
            "comment_id": f"wiki-{row['id']}",
            "comment_text": row["text"],
            "parent_id": f"wiki-parent-{row['id']}",
            "parent_text": row["parent"],
            "target": "own",
        }


def _ibm_argq(root: Path) -> Rows:
    for number, row in enumerate(_csv(root / "ibm-argq" / "arg_quality_rank_30k.csv.gz")):
        yield {
            "comment_id": f"argq-{number}",
            "comment_text": row["argument"],
            "article_id": f"argq:{row['topic']}",
            "article_title": row["topic"],
            "target": "own",
        }


def _gold(name: str) -> Callable[[Path], Rows]:
    def read(root: Path) -> Rows:
        for row in _jsonl(root / f"{name}.jsonl"):
            title, text = row["article_title"] or "", row["article_text"] or ""
            yield {
                "comment_id": row["comment_id"],
                "comment_text": row["comment_text"],
                "article_id": f"gold:{title}",
                "article_title": title,
                "article_text": text,
                "parent_text": row["parent_text"] or "",
                "target": row["label"],
                "label": row["label"],
                "status": row["source"],
                "key": row.get("key") or "",
            }

    return read


def _c3(root: Path) -> Rows:
    for row in _csv(root / "c3-dev" / "c3_dev.csv.gz"):
        judges = float(row["njudgements_constructiveness_expt"] or 0) or 1.0
        words = len(row["comment_text"].split())
        constructive = float(row["constructive"] or 0)
        off_votes, thin_votes = float(row["v_non_relevant"] or 0), float(row["v_unsubstantial"] or 0)
        target = ""
        if constructive >= 0.8 and not off_votes:
            target = "on-topic"
        elif words < 15 and thin_votes >= 0.6 * judges:
            target = "low-effort"
        elif off_votes >= 3:
            target = "off-topic"
        yield {
            "comment_id": f"c3-{row['comment_counter']}",
            "comment_text": row["comment_text"],
            "article_id": f"c3:{row['article_id']}",
            "article_title": row["title"],
            "target": target,
        }


def _c3_pairs(root: Path) -> Rows:
    """600 on-topic comments under their own title (positive 0) and under another article's (positive 1)."""
    chooser = random.Random(0)
    chosen = [row for row in _c3(root) if row["target"] == "on-topic"]
    chooser.shuffle(chosen)
    chosen = chosen[:600]
    titles = {row["article_title"]: row["article_id"] for row in sorted(chosen, key=lambda row: row["article_title"])}
    for row in chosen:
        foreign = chooser.choice([title for title in titles if title != row["article_title"]])
        yield {**row, "target": "", "positive": "0"}
        yield {
            **row,
            "comment_id": f"{row['comment_id']}-moved",
            "article_id": titles[foreign],
            "article_title": foreign,
            "target": "",
            "positive": "1",
        }


def _semeval2016_c(root: Path) -> Rows:
    for number, row in enumerate(_csv(root / "semeval2016-dev" / "SubtaskC_VAL-BASE.csv")):
        yield {
            "comment_id": f"semeval2016c-{number}",
            "comment_text": row["answer"],
            "article_id": f"semeval2016c:{row['question']}",
            "article_title": row["feature"],
            "article_text": row["question"],
            "positive": str(int(row["labels"] == "Bad")),
        }


def _youtube_threads(root: Path) -> Rows:
    videos = {row["video_id"]: row for row in _jsonl(root / "youtube-threads" / "articles.jsonl")}
    for number, row in enumerate(_jsonl(root / "youtube-threads" / "comments.jsonl.gz")):
        video = videos[row["video_id"]]
        yield {
            "comment_id": f"yt-{number}",
            "comment_text": row["comment"],
            "article_id": f"yt:{row['video_id']}",
            "article_title": video["title"],
            "article_text": video["description"],
        }


#: Our labels of comments of the `train` corpora: ids and labels only; the texts stay where they were published.
LABELS_FOLDER = Path(__file__).parent / "labels"


def _labels(root: Path) -> Rows:
    """Comments that two of us labelled alike, some shown under another article or parent than their own on purpose."""
    labels = [row for path in sorted(LABELS_FOLDER.glob("*.jsonl")) for row in _jsonl(path)]
    for name in sorted({label["corpus"] for label in labels}):
        known = list(CORPORA[name].rows(root))
        by_id = {row["comment_id"]: row for row in known}
        threads = {row.get("article_id") or row.get("parent_id", ""): row for row in known}
        for label in labels:
            if label["corpus"] != name:
                continue
            row = by_id[label["comment_id"]]
            shown = threads[label["shown_under"]] if label.get("shown_under") else row
            context = {field: shown.get(field, "") for field in ("article_id", "article_title", "article_text")}
            # A comment shown in another thread keeps no parent of its own there.
            context |= {
                field: shown.get(field, "") if not row.get("article_id") else "" for field in ("parent_id", "parent_text")
            }
            yield {**row, **context, "target": label["label"], "label": label["label"], "status": name}


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "haacked-blog",
            "train",
            "CC BY 2.0",
            "P. Haack, haacked.com, posts and comments 2004-2024",
            _blog("haacked-blog", ".gz"),
        ),
        Corpus("made-mistakes-blog", "train", "MIT", "M. Rose, mademistakes.com", _blog("made-mistakes-blog", "")),
        Corpus("youtube-spam", "train", "CC BY 4.0", "Alberto, Lochter, Almeida 2015, TubeSpam (UCI)", _youtube_spam),
        Corpus("scamspot", "train", "MIT", "ScamSpot: Instagram scam comments", _scamspot),
        Corpus("tg-spam", "train", "MIT", "tg-spam sample messages", _tg_spam),
        Corpus(
            "wiki-talk-context",
            "train",
            "Apache-2.0, text CC BY-SA",
            "Pavlopoulos et al. 2020, Toxicity Detection: Does Context Really Matter?",
            _wiki_talk,
        ),
        Corpus("ibm-argq", "train", "CC BY-SA 3.0", "Gretz et al. 2020, IBM-ArgQ-Rank-30kArgs", _ibm_argq),
        Corpus(
            "gold-train",
            "train",
            "labels: this project",
            "labelled by hand from haacked, made-mistakes and youtube-spam",
            _gold("gold-train"),
        ),
        Corpus(
            "labels",
            "train",
            "labels: CC BY 4.0, this project",
            "data/labels: two annotators, comments of the train corpora",
            _labels,
        ),
        Corpus("gold-dev", "measure", "mixed", "two annotators, from c3, semeval2016 and youtube-threads", _gold("gold-dev")),
        Corpus("c3-dev", "measure", "CC BY-NC-SA 4.0", "Kolhatkar et al. 2020, Constructive Comments Corpus", _c3),
        Corpus(
            "c3-pairs", "measure", "CC BY-NC-SA 4.0", "c3-dev, on-topic comments under their own and another title", _c3_pairs
        ),
        Corpus("semeval2016-dev", "measure", "free for research", "Nakov et al. 2016, SemEval-2016 Task 3 C", _semeval2016_c),
        Corpus("youtube-threads", "measure", "none stated", "YouTube comments, October 2013", _youtube_threads),
    )
}
