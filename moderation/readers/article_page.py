"""Saved article pages as text: an article with the comments below it, as a browser's "save as text" or "select all" gives it.

No outlet marks its parts in such a text, so they are told by what pages have in common: short lines above the first
paragraph are the head, a line that counts comments ends the article, and a line that offers to reply ends a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from moderation.schema import MAX_COMMENT_CHARS, Article, Comment, Reject, clean_text, make_comment_id

from .dates import spelled_date
from .source import Context, Source

#: A page is read as a whole; a text file larger than this is none.
MAX_PAGE_BYTES = 16 * 1024 * 1024

_COUNT = re.compile(
    r"^(?:(?P<before>\d[\d,.]*)\s+(?:reader\s+)?(?:comments?|replies|responses|thoughts?)\b(?:\s+(?:on|to)\b.*)?"
    r"|(?:reader\s+|view\s+(?:all\s+)?)?comments?\s*[(:\[]\s*(?P<after>\d[\d,.]*)\s*[)\]]?"
    r"|(?P<none>no)\s+comments?(?:\s+yet)?)[:.!]?$",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^(?:(?:reader\s+)?comments?|discussion|responses|join the (?:discussion|conversation)|what do you think\?"
    r"|(?:leave|post|add|write)\s+(?:a\s+|your\s+)?(?:comment|reply)|comment policy\b.*)[:.!]?$",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"^(?:comment policy\b.*|\*?\s*denotes required field.*|\d+\s*/\s*\d+|(?:leave|post|add|write|submit)\s+(?:a\s+|your\s+)?"
    r"(?:comment|reply)s?|cancel reply|your email address will not be published.*|required fields are marked.*"
    r"|(?:you must be |please )?(?:log|sign)(?:ged)?[ -]?in\b.{0,40}|(?:name|e-?mail|website)\s*\*?|sort by\b[^.,!?]{0,40}"
    r"|(?:newest|oldest|best|most liked|top rated)(?: first)?|(?:load|show|view|read) (?:more|all|\d+ more)?\s*"
    r"(?:comments|replies)|save my name, email.*|notify me of\b.*|subscribe to comments\b.*|this site uses akismet.*)$",
    re.IGNORECASE,
)
_FURNITURE = re.compile(
    r"^(?:advertisements?|ad|sponsored|do you like this article\?|exit mobile version|share(?: this)?(?: article| story)?:?"
    r"|tweet|print|e-?mail|facebook|twitter|whatsapp|linkedin|copy link|skip to (?:main )?content|menu|listen to this article"
    r"|\d+ min(?:ute)?s? read|read time:.*|read more|(?:you may|you might) also like:?|related (?:articles|stories|posts):?"
    r"|click to (?:share|print|email)\b.*|like this:?|loading\W*|follow us.*|subscribe(?: now)?|updated?:?)$",
    re.IGNORECASE,
)
_ACTIONS = frozenset(
    [
        "reply",
        "report",
        "like",
        "likes",
        "dislike",
        "share",
        "flag",
        "permalink",
        "quote",
        "upvote",
        "downvote",
        "edit",
        "delete",
    ]
)
_MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"^(?:on |at |posted |published |updated )*:?\s*(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
    rf"(?:{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}|\d{{1,2}}(?:st|nd|rd|th)?\s+{_MONTH},?\s+\d{{4}}"
    r"|\d{4}-\d\d-\d\d|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}"
    r"|(?:an?|\d+)\s*(?:s|m|h|d|w|y|sec(?:ond)?s?|min(?:ute)?s?|h(?:ou)?rs?|days?|weeks?|months?|years?)\s+ago"
    r"|yesterday|today|just now)(?:[\s,@|·•-]+(?:at\s+)?\d{1,2}[:.]\d\d(?:[:.]\d\d)?\s*(?:[ap]\.?m\.?)?"
    r"(?:\s+(?:gmt|utc|[a-z]{2,4}t))?)?[T\d:.+Z-]*\s*(?:\(edited\))?$",
    re.IGNORECASE,
)
_BYLINE = re.compile(r"^(?:written\s+)?by:?\s+(?P<author>\S.{0,78})$", re.IGNORECASE)
_CREDIT = re.compile(r"(?:\[[^\[\]]{2,60}\]|\((?:photo|image|file|credit|ap|afp|reuters|getty)[^()]{0,60}\))$", re.IGNORECASE)
_CAPTION = re.compile(r"^(?:photo(?:graph)?|image|picture|credit|caption)(?:\s+(?:by|credit|courtesy))?\s*:", re.IGNORECASE)
_SAYS = re.compile(r"\s+(?:says|said|writes|wrote|commented):?$", re.IGNORECASE)

_PARAGRAPH = 100  # a line of so many characters is no headline but prose


@dataclass(frozen=True)
class PageComment:
    """A comment as the page shows it; what the page does not show is empty."""

    text: str
    author: str = ""
    created_at: str = ""
    comment_id: str = ""
    parent_id: str = ""


@dataclass(frozen=True)
class Page:
    """A saved article page.

    Attributes:
        title, author: of the article; empty where the page shows none.
        body: the article without head, captions and furniture.
        comments: in the order of the page.
        announced: how many comments the page itself says it has; None where it does not say.
        has_form: whether the page offers to comment, which tells a page without comments from any other text.
    """

    title: str
    author: str
    body: str
    comments: tuple[PageComment, ...]
    announced: int | None = None
    has_form: bool = False


def recognise(source: Source) -> str | None:
    """``comments`` for text with a headline and prose below it; no markup, no table, no list of records."""
    text = source.head_text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or "\x00" in text or text.count("\ufffd") > len(text) // 50 or lines[0][0] in "<{[#%":
        return None
    if len(lines[0]) > 300:
        return None
    announced = any(_COUNT.match(line) or _is_reply(line) for line in lines)
    return "comments" if announced or sum(len(line) >= _PARAGRAPH for line in lines) >= 2 else None


def read(source: Source, context: Context) -> Iterator[Comment | Reject]:
    """The comments of a page, in its order; one `Reject` more when the page announces another number of them."""
    with source.open() as stream:
        data = stream.read(MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        yield Reject(source.name, "page", f"the page has more than {MAX_PAGE_BYTES:,} bytes; expected one saved article")
        return
    page = parse_page(data.decode(source.encoding, "replace"))
    yield from page_items(page, source, Article(title=page.title, text=page.body))


def page_items(page: Page, source: Source, article: Article) -> Iterator[Comment | Reject]:
    """The comments of a page with ids and parents, and the `Reject` that a wrong count asks for.

    A file that merely lies in a folder and shows no sign of comments may be anything; that, too, is said in a `Reject`.
    """
    if not (source.named or page.comments or page.announced is not None or page.has_form):
        yield Reject(source.name, "file", "read as a saved page, but nothing in it looks like a comment or a place for one")
    seen: dict[str, int] = {}
    texts = {found.comment_id: clean_text(found.text) for found in reversed(page.comments) if found.comment_id}
    for number, found in enumerate(page.comments, start=1):
        text = clean_text(found.text)
        if not text.strip() or len(text) > MAX_COMMENT_CHARS:
            reason = "the comment is empty" if not text.strip() else f"the comment has {len(text):,} characters"
            yield Reject(source.name, f"comment {number}", reason, text)
            continue
        parent = found.parent_id if found.parent_id != found.comment_id else ""
        comment = Comment(
            text,
            article=article,
            parent_id=parent,
            parent_text=texts.get(parent, ""),
            author=found.author,
            created_at=found.created_at,
        )
        key = found.comment_id or make_comment_id(article, found.author, found.created_at, text)
        seen[key] = seen.get(key, 0) + 1  # two readers may both say "Excellent"
        yield replace(comment, comment_id=key if seen[key] == 1 else f"{key}-{seen[key]}")
    if page.announced is not None and page.announced != len(page.comments):
        reason = f"the page announces {page.announced} comments but {len(page.comments)} were found in it"
        yield Reject(source.name, "page", reason)


def parse_page(text: str) -> Page:
    """Take a saved article page apart. Any text gives a page; what is not there is empty."""
    lines = [line.replace("\u00a0", " ").strip() for line in clean_text(text).lstrip("\ufeff").splitlines()]
    end, announced = _article_end(lines)
    title, author, body = _article(lines[:end])
    return Page(title, author, body, tuple(_comments(lines[end:])), announced, has_form=end < len(lines))


def announced_count(line: str) -> int | None:
    """How many comments a line such as ``12 Comments`` or ``Comments (4)`` announces; None when it announces none."""
    found = _COUNT.match(line) if len(line) <= 200 else None
    if found is None:
        return None
    digits = re.sub(r"[^0-9]", "", found["before"] or found["after"] or "")
    return int(digits[:9]) if digits else 0


def is_furniture(line: str) -> bool:
    """Whether a line belongs to the page and not to the article or a comment."""
    return len(line) <= 300 and bool(_FURNITURE.match(line) or _FORM.match(line) or _COUNT.match(line))


def is_action(line: str) -> bool:
    """Whether a line is nothing but the buttons under a comment, a reply among them."""
    return "reply" in _actions(line)


def _article_end(lines: list[str]) -> tuple[int, int | None]:
    """Where the comments begin: at the first line below the prose that counts them, else at the first that heads them."""
    prose = next((number for number, line in enumerate(lines) if len(line) >= _PARAGRAPH), 0)
    for number in range(prose, len(lines)):
        if (count := announced_count(lines[number])) is not None:
            return number, count
    for number in range(prose, len(lines)):
        if _HEADING.match(lines[number]):
            return number, None
    return len(lines), None


def _article(lines: list[str]) -> tuple[str, str, str]:
    """Title, author and body of the lines above the comments."""
    lines = _without_captions([line for line in lines if not is_furniture(line)])
    filled = [number for number, line in enumerate(lines) if line]
    if not filled:
        return "", "", ""
    head = _head(lines, filled)
    author, title_at, body_at = "", filled[0], 0
    by = next((number for number in head if _BYLINE.match(lines[number])), None)
    if by is not None:
        author = _author(_BYLINE.match(lines[by])["author"])
        above = [number for number in head if number < by and not _DATE.match(lines[number])]
        # a standfirst may stand between headline and by-line, a desk ("World") above the headline
        title_at = next((number for number in above if not _is_desk(lines[number])), above[-1] if above else by)
        body_at = by + 1
        title = lines[title_at] if above else ""
    else:
        if len(head) > 1 and _is_desk(lines[head[0]]) and not _is_desk(lines[head[1]]) and not _DATE.match(lines[head[1]]):
            title_at = head[1]
        title, body_at = lines[title_at], title_at + 1
        for number in head:
            if number > title_at and lines[number] == title:
                body_at = number + 1
        following = [number for number in filled if number >= body_at][:2]
        if len(following) == 2 and following[0] in head and _is_name(lines[following[0]]):
            author, body_at = lines[following[0]], following[0] + 1
    body = lines[body_at:]
    while body and (not body[0] or _DATE.match(body[0]) or body[0] == title):
        body.pop(0)
    signature = _cut_signature(body)
    return title, author or signature, re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip()


def _head(lines: list[str], filled: list[int]) -> list[int]:
    """The short lines at the top: up to the first prose, at most eight."""
    head: list[int] = []
    for number in filled[:8]:
        if head and len(lines[number]) >= _PARAGRAPH and not _BYLINE.match(lines[number]):
            break
        head.append(number)
    return head


def _without_captions(lines: list[str]) -> list[str]:
    """The lines without picture captions: those with a credit, and a sentence that stands there twice in a row."""
    filled = [line for line in lines if line]
    twice = {line for line, after in pairwise(filled) if line == after and len(line) >= 60 and line.endswith((".", ")", "]"))}
    return [line for line in lines if not (line in twice or _CAPTION.match(line) or (_CREDIT.search(line) and len(line) < 400))]


def _cut_signature(body: list[str]) -> str:
    """Cut the author's name (and the note about the author) that stands below an article; returns the name."""
    filled = [number for number, line in enumerate(body) if line]
    for number in filled[1:][-4:]:
        name, after = body[number], [body[other] for other in filled if other > number]
        if _is_name(name) and all(line == name or line.startswith(name + " ") or _is_name(line) for line in after):
            del body[number:]
            return name
    return ""


def _comments(lines: list[str]) -> Iterator[PageComment]:
    """The comments in the lines below the article."""
    lines = [
        line
        for number, line in enumerate(lines)
        if _is_reply(line)
        or not (_FORM.match(line) or (_COUNT.match(line) and number == 0) or (number == 0 and _HEADING.match(line)))
    ]
    replies = sum(map(_is_reply, lines))
    if not replies:
        yield from _dated_comments(lines)
        return
    # "Like" is a button where it stands under (nearly) every comment, and otherwise somebody's comment
    buttons = {action for action in _ACTIONS - {"reply"} if 2 * sum(_actions(line) == {action} for line in lines) >= replies}
    block: list[str] = []
    for line in lines:
        if _is_reply(line):
            if any(block):
                yield _comment(block)
            block = []
        elif not ((words := _actions(line)) and (len(words) > 1 or words <= buttons)):
            block.append(line)


def _dated_comments(lines: list[str]) -> Iterator[PageComment]:
    """The comments of a page without reply lines, where a name and a date stand above each."""
    starts = [
        number - 1 for number, line in enumerate(lines) if number and _DATE.match(line) and 0 < len(lines[number - 1]) <= 60
    ]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=False):
        block = [line for line in lines[start:end] if not _actions(line)]
        comment = _comment(block)
        if comment.text:
            yield comment


def _comment(block: list[str]) -> PageComment:
    """A comment from its lines; a name and a date above the text are its author and date."""
    filled = [number for number, line in enumerate(block) if line]
    author = created_at = ""
    start = filled[0]
    for number in filled[:3]:
        if _DATE.match(block[number]) and number != filled[-1]:
            above = [block[other] for other in filled if other < number]
            author, created_at, start = " ".join(above)[:80], block[number], number + 1
            break
    else:
        if len(filled) > 1 and _SAYS.search(block[start]) and len(block[start]) <= 60:
            author, start = block[start], start + 1
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(block[start:])).strip()
    return PageComment(text, _SAYS.sub("", author), spelled_date(created_at))


def _actions(line: str) -> set[str]:
    """The buttons that make up a line, such as ``Reply · Like (3)``; empty when it says anything else."""
    words = re.findall(r"[^\W\d_]+", line.casefold()) if len(line) <= 60 else []
    return set(words) if words and set(words) <= _ACTIONS else set()


def _is_reply(line: str) -> bool:
    return "reply" in _actions(line) or bool(
        re.match(r"^(?:reply to \S.{0,40}|(?:log|sign) in to reply)$", line, re.IGNORECASE)
    )


def _is_desk(line: str) -> bool:
    return len(line) <= 30 and len(line.split()) <= 3 and not line.endswith((".", "!", "?"))


def _is_name(line: str) -> bool:
    """Whether a line may be a person's name and nothing else."""
    words = line.split()
    return (
        2 <= len(words) <= 5
        and len(line) <= 60
        and not re.search(r"[\d:;!?,\"“”()\[\]/|]", line)
        and not line.endswith(".")
        and all(word[0].isupper() or word in ("de", "van", "von", "der", "bin", "al", "el", "la", "di") for word in words)
    )


def _author(name: str) -> str:
    """The name in a by-line without what follows it: role, date, separator."""
    return re.split(r"\s*[|·•]\s*|,\s+|\s+[-–—]\s+|\s+on\s+(?=\w+\s+\d)", name, maxsplit=1)[0].strip()
