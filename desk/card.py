"""One comment as a moderator sees it: its text, what the model says and why, and beside it article, thread and copies.

Everything here ends in `render`: no text of a stranger reaches the page by another way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime

from markupsafe import Markup

from desk.render import block, hidden_kinds, join, name, revealed, tag, text
from moderation.explain import Span, direction
from moderation.schema import LABELS, Article, Verdict
from moderation.store import Item
from moderation.text import MAX_SENTENCES, fold, sentences

#: Below this similarity the closest sentence is marked faintly: it is the closest, and not close.
NEAR = 0.25
#: What a label is called on the page.
CALLED = {"on-topic": "On-topic", "off-topic": "Off-topic", "spam": "Spam", "low-effort": "Low-effort", "": "Undecided"}


def card(item: Item, thread: Iterable[Item], copies: Iterable[Item], spans: Iterable[Span] | None) -> Markup:
    """The whole view of one comment.

    Args:
        thread: the comments around it, as `Queue.thread` gives them. copies: its duplicates.
        spans: the words that spoke for the model's label; None while nobody knows them yet.
    """
    left = tag(
        "div",
        tag(
            "section",
            _head(item),
            tag("div", comment_text(item, spans), _hidden(item), _copies(item, list(copies)), class_="scroll", tabindex="0"),
            class_="comment",
            aria_label="Comment",
        ),
        tag("section", _verdict(item), class_="verdict", aria_label="What the model says"),
        class_="left",
    )
    context = join([_thread(item, list(thread)), _article(item)])
    return tag(
        "div", left, tag("section", context, class_="context", aria_label="Article and thread", tabindex="0"), class_="card"
    )


def comment_text(item: Item, spans: Iterable[Span] | None) -> Markup:
    """The comment's text; drawn anew when the words that spoke for the label are known."""
    length = len(item.comment.text)
    size = "long" if length > 900 else "short" if length < 160 else "middle"
    return tag("div", block(item.comment.text, "div", "said", spans or ()), class_=f"text {size}", data_comment=item.id)


def when(seconds: float) -> Markup:
    """A moment: its date, and to the minute in a title."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return tag("time", moment.strftime("%-d %b %Y"), title=moment.strftime("%Y-%m-%d %H:%M UTC"))


def label_chip(label: str, before: str = "") -> Markup:
    """A label with its colour and name."""
    return tag("span", before, CALLED[label], class_=f"chip {label or 'none'}")


def _head(item: Item) -> Markup:
    comment = item.comment
    facts = [tag("b", name(comment.author, "Anonymous")), when(item.posted)]
    if comment.language:
        facts.append(tag("span", name(comment.language), title="language, as the site says"))
    if comment.status:
        facts.append(tag("span", "site: ", name(comment.status), title="state on the site"))
    if item.site:
        facts.append(name(item.site))
    if item.copies > 1:
        facts.append(tag("span", f"posted {item.copies:,} times", class_="chip copies"))
    if item.flag:
        facts.append(tag("span", "look again: ", name(item.flag), class_="chip flag"))
    if item.label:
        facts.append(tag("span", label_chip(item.label), " by ", name(item.decided_by), class_="decided"))
    facts.append(tag("span", f"#{item.id}", class_="number"))
    return tag("div", join(tag("span", fact) for fact in facts), class_="facts")


def _hidden(item: Item) -> Markup:
    found = hidden_kinds(item.comment.text)
    return tag("p", "Hidden in this text: ", "; ".join(found), class_="hiding") if found else Markup("")


def _verdict(item: Item) -> Markup:
    verdict = item.verdict
    if verdict is None:
        return tag("p", "No model has judged this comment.", class_="reason")
    rows = []
    for number, label in enumerate(LABELS, 1):
        share = float(verdict.probabilities[label])
        bar = tag(
            "span", tag("span", class_=f"fill {label}", style=f"width:{100 * share:.1f}%"), class_="bar", aria_hidden="true"
        )
        rows.append(
            tag("li", tag("span", CALLED[label], class_="called"), bar, tag("span", f"{100 * share:.0f} %", class_="share"),
                class_="top" if label == verdict.label else None, data_key=number)
        )  # fmt: skip
    return join([
        tag("ul", *rows, class_="bars"),
        tag("p", tag("b", CALLED[verdict.label]), ": ", name_of_reason(verdict), class_="reason"),
        tag("p", "Proposed: ", tag("b", verdict.action), class_="action"),
    ])  # fmt: skip


def name_of_reason(verdict: Verdict) -> Markup:
    """The model's sentence; it quotes article and comment."""
    return revealed(verdict.reason, most=600)


def _copies(item: Item, copies: list[Item]) -> Markup:
    if not copies:
        return Markup("")
    rows = [
        tag("li", name(copy.comment.author, "Anonymous"), " · ", when(copy.posted), " · under ", name(copy.comment.article.title, "an article without title"),
            " · ", label_chip(copy.label), tag("div", revealed(copy.comment.text, most=200), class_="strange", dir=direction(copy.comment.text)))
        for copy in copies
    ]  # fmt: skip
    more = item.copies - 1 - len(copies)
    return tag(
        "details",
        tag("summary", f"Posted {item.copies:,} times: the others, word for word or nearly"),
        tag("ul", *rows, tag("li", f"and {more:,} more") if more > 0 else ""),
        class_="same",
    )


def _thread(item: Item, thread: list[Item]) -> Markup:
    comment = item.comment
    known = {other.comment.comment_id: other for other in thread if other.comment.comment_id}
    parts: list[Markup] = []
    if comment.parent_id in known:
        parts.append(_neighbour(known[comment.parent_id], "It answers"))
    elif comment.parent_text.strip():
        parts.append(tag("article", tag("header", "It answers"), block(comment.parent_text, most=3000), class_="answered"))
    elif comment.parent_id:
        parts.append(tag("p", "It answers a comment that is not here.", class_="missing"))
    rest = [other for other in thread if other.id != item.id and other.comment.comment_id != comment.parent_id]
    if rest:
        parts.append(
            tag("details", tag("summary", f"{len(rest)} more in this thread"), *(_neighbour(other, "") for other in rest), class_="around")
        )  # fmt: skip
    return tag("div", *parts, class_="thread") if parts else Markup("")


def _neighbour(other: Item, title: str) -> Markup:
    return tag(
        "article",
        tag("header", title, " " if title else "", name(other.comment.author, "Anonymous"), " · ", when(other.posted), " · ", label_chip(other.label)),
        block(other.comment.text, most=3000),
        class_="answered" if title else "beside",
    )  # fmt: skip


def _article(item: Item) -> Markup:
    article = item.comment.article
    evidence = item.verdict.evidence if item.verdict else None
    if not (article.title.strip() or article.text.strip()):
        return tag("div", tag("p", "The article of this comment is not known."), class_="article")
    low, high, in_title = nearest(article, evidence[0]) if evidence else (0, 0, False)
    said = f"closest to the comment, similarity {evidence[1]:.2f}" if evidence else ""
    mark = "nearest" if evidence and evidence[1] >= NEAR else "nearest far"
    title: Markup = name(article.title, "An article without title")
    if in_title:
        title = tag("mark", title, class_=mark, title=said)
    body: list[Markup] = []
    for start, end in _paragraphs(article.text):
        cuts = [start, *(cut for cut in (low, high) if start < cut < end), end]
        pieces = [
            tag("mark", revealed(article.text[a:b]), tag("small", f" {said}"), class_=mark) if low <= a and b <= high and low < high
            else revealed(article.text[a:b])
            for a, b in itertools.pairwise(cuts)
        ]  # fmt: skip
        body.append(tag("p", *pieces, class_="strange", dir=direction(article.text[start:end])))
    if not article.text.strip():
        body.append(tag("p", "Of the article only the title is known.", class_="missing"))
    return tag(
        "article",
        tag("h2", title, dir=direction(article.title)),
        tag("p", text(f"{said}: the title")) if in_title else "",
        tag("p", revealed(article.url, most=300), class_="url strange", dir="ltr") if article.url else "",
        *body,
        class_="article",
    )


def _paragraphs(value: str, most: int = 20_000) -> Iterable[tuple[int, int]]:
    start = 0
    for line in value[:most].split("\n"):
        if line.strip():
            yield start, start + len(line)
        start += len(line) + 1


def nearest(article: Article, evidence: str) -> tuple[int, int, bool]:
    """Where in the article's text the sentence stands that came closest, as (start, end, whether it is the title)."""
    for start, end, folded in itertools.islice(sentences(article.text), MAX_SENTENCES):
        if folded == evidence:
            return start, end, False
    return 0, 0, bool(evidence) and fold(article.title) == evidence
