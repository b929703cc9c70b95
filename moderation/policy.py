"""From probabilities to a proposed action. Pure: no model, no file but the thresholds that a caller loads.

A comment is approved unless a rule speaks against it. For each label other than on-topic a policy names the probability
from which a person should look (`review`) and the one from which it may be rejected unseen (`reject`; none by default:
a machine that rejects alone must be asked to).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moderation.schema import LABELS, UserError


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds by label.

    Attributes:
        review: probability from which a comment of that label goes to a person.
        reject: probability from which it is rejected unseen; a label that is absent is never rejected unseen.
        approve: a comment called on-topic with less than this goes to a person.
        promise: what must hold when another model takes over and the thresholds are fitted anew: `{"workload": 0.2}` (the
            part of all comments that goes to a person or is rejected) or `{"precision": {"spam": 0.95}}` (of what a
            label's lowest threshold catches). Empty: every threshold goes on catching as many comments as it does.
        limits: how much a new model may lose, by the figures of `LIMITS`, before it is refused.
    """

    review: Mapping[str, float]
    reject: Mapping[str, float]
    approve: float = 0.5
    promise: Mapping[str, object] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a threshold file: JSON such as {"spam": {"review": 0.4, "reject": 0.98}, "on-topic": {"approve": 0.6}}.

        Raises:
            UserError: when the file cannot be read or holds anything but thresholds between 0 and 1.
        """
        path = Path(path)
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot read the threshold file ({error.strerror or error})") from error
        except ValueError as error:
            raise UserError(f"{path}: expected a JSON object of thresholds by label ({error})") from error
        return cls.from_table(table, str(path))

    @classmethod
    def from_table(cls, table: object, origin: str = "thresholds") -> Policy:
        """The same from a parsed table; `origin` names it in errors."""
        if not isinstance(table, Mapping):
            raise UserError(f"{origin}: expected an object of thresholds by label")
        review = dict(DEFAULT.review)
        reject = dict(DEFAULT.reject)
        approve = DEFAULT.approve
        table = dict(table)
        promise = _promise(table.pop("promise", {}), origin)
        limits = _limits(table.pop("limits", {}), origin)
        for label, rules in table.items():
            allowed = {"approve"} if label == "on-topic" else {"review", "reject"}
            if label not in LABELS:
                raise UserError(f"{origin}: unknown label {label!r}; expected one of {', '.join(LABELS)}")
            if not isinstance(rules, Mapping) or set(rules) - allowed:
                raise UserError(f"{origin}: {label}: expected an object with {' and '.join(sorted(allowed))}")
            for name, value in rules.items():
                if not _is_share(value):
                    raise UserError(f"{origin}: {label}.{name}: expected a number from 0 to 1, found {value!r}")
                if name == "approve":
                    approve = float(value)
                else:
                    (review if name == "review" else reject)[label] = float(value)
        for label, limit in reject.items():
            if limit < review[label]:
                raise UserError(f"{origin}: {label}: reject ({limit}) must not be below review ({review[label]})")
        return cls(review, reject, approve, promise, limits)

    def to_table(self) -> dict[str, dict[str, float]]:
        """The JSON-ready table that `from_table` reads back."""
        table: dict[str, dict[str, float]] = {"on-topic": {"approve": self.approve}}
        for label, value in self.review.items():
            table[label] = {"review": value}
            if label in self.reject:
                table[label]["reject"] = self.reject[label]
        extra = {"promise": dict(self.promise), "limits": dict(self.limits)}
        return table | {name: part for name, part in extra.items() if part}

    def action(self, probabilities: Mapping[str, float], supported_language: bool = True) -> str:
        """Propose `approve`, `review` or `reject` for a comment with these probabilities.

        A comment in a language that the model does not know always goes to a person.
        """
        if not supported_language:
            return "review"
        if any(probabilities[label] >= limit for label, limit in self.reject.items()):
            return "reject"
        if any(probabilities[label] >= limit for label, limit in self.review.items()):
            return "review"
        return "approve" if probabilities["on-topic"] >= self.approve else "review"


def _promise(table: object, origin: str) -> dict[str, object]:
    wanted = f'{origin}: promise: expected {{"workload": 0.2}} or {{"precision": {{"spam": 0.95}}}}'
    if not isinstance(table, Mapping) or set(table) - {"workload", "precision"} or len(table) > 1:
        raise UserError(wanted)
    shares = table.get("precision", table)
    if not isinstance(shares, Mapping) or not all(_is_share(value) and value > 0 for value in shares.values()):
        raise UserError(wanted)
    if "precision" in table and (not shares or set(shares) - set(LABELS[1:])):
        raise UserError(wanted)
    return {name: dict(part) if isinstance(part, Mapping) else float(part) for name, part in table.items()}


def _limits(table: object, origin: str) -> dict[str, float]:
    if not isinstance(table, Mapping) or set(table) - set(LIMITS) or not all(map(_is_share, table.values())):
        raise UserError(f"{origin}: limits: expected numbers from 0 to 1 for some of {', '.join(LIMITS)}")
    return {name: float(value) for name, value in table.items()}


def _is_share(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1


#: What a new model may lose of each protected figure, unless a policy says otherwise: on the site's own holdout the first
#: four, on our test split ("base") and under the attacks ("robustness") the others.
LIMITS = {"holdout macro-F1": 0.0, "spam precision": 0.03, "off-topic recall": 0.05, "worst slice": 0.08,
          "base macro-F1": 0.02, "base spam precision": 0.03, "base off-topic recall": 0.05, "robustness": 0.03}  # fmt: skip

DEFAULT = Policy(review={"off-topic": 0.5, "spam": 0.4, "low-effort": 0.5}, reject={})
