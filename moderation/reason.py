"""The sentence that tells a moderator why: only things that can be checked against the comment and the article.

It never quotes more than it measured: the nearest article sentence and its similarity are what the model compared, links
and counts are what it was given.
"""

from __future__ import annotations

from moderation.schema import Comment
from moderation.text import has_contact, links

UNSUPPORTED_LANGUAGE = "language not supported by this model"


def explain(label: str, comment: Comment, evidence: tuple[str, float] | None, parent_similarity: float | None) -> str:
    """One sentence for one verdict.

    Args:
        label: the label to explain, one of `schema.LABELS`.
        comment: the comment as it was read.
        evidence: the article segment closest to the comment and its cosine similarity, if there is an article.
        parent_similarity: cosine similarity to the comment that it answers, if that is known.
    """
    if label == "spam":
        return _spam(comment.text, evidence)
    if label == "low-effort":
        return _low_effort(comment.text)
    return _relevance(label, evidence, parent_similarity)


def _spam(text: str, evidence: tuple[str, float] | None) -> str:
    signs = []
    found = links(text)
    if found:
        signs.append(f"{len(found)} link{'s' * (len(found) > 1)} ({_shorten(found[0], 40)})")
    if has_contact(text):
        signs.append("a contact or call to write elsewhere")
    what = "; holds " + " and ".join(signs) if signs else "; no link, its wording is that of promotion"
    if evidence and evidence[1] < 0.3:
        what += f"; far from the article (similarity {evidence[1]:.2f})"
    return "reads as promotion" + what


def _low_effort(text: str) -> str:
    words = len(text.split())
    if not any(letter.isalnum() for letter in text):
        return "no words in it"
    return f"{words} word{'s' * (words != 1)} and no point that this discussion could take up"


def _relevance(label: str, evidence: tuple[str, float] | None, parent_similarity: float | None) -> str:
    if evidence is None and parent_similarity is None:
        return "no article or parent comment to compare with; judged by its text alone"
    parts = []
    if evidence:
        sentence, similarity = evidence
        parts.append(f"closest in the article: “{_shorten(sentence, 110)}” (similarity {similarity:.2f})")
    if parent_similarity is not None:
        parts.append(f"similarity to the comment it answers {parent_similarity:.2f}")
    lead = "matches its context" if label == "on-topic" else "little in common with its context"
    return f"{lead}; " + "; ".join(parts)


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
