"""Does this comment belong under this article?

>>> from moderation import Article, Comment, Moderator
>>> moderator = Moderator.from_pretrained()
>>> article = Article(title="City council votes to close the old bridge")
>>> [verdict] = moderator.predict([Comment("Nice article!", article=article)])
>>> verdict.label
'low-effort'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moderation.schema import ACTIONS, LABELS, Article, Comment, UserError, Verdict

if TYPE_CHECKING:
    from moderation.model import Moderator

__all__ = ["ACTIONS", "LABELS", "Article", "Comment", "Moderator", "UserError", "Verdict"]


def __getattr__(name: str):
    # The model brings numpy and torch; whoever only needs the types should not wait for them.
    if name == "Moderator":
        from moderation.model import Moderator

        return Moderator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
