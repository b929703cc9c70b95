"""Who is hurt: identity terms swapped in whole threads, and false alarms by the group that a comment mentions.

A swap changes the term in the comment, its parent and the article alike, so that what the comment has to do with the
article stays the same and only the people change: a fair model's label stays. (Counterfactual token fairness, Garg et al.
2019, arXiv:1809.10610, made consistent over the thread.) First names stand for groups as in Bertrand & Mullainathan 2004.
"""

from __future__ import annotations

import functools
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moderation.schema import LABELS, NO_ARTICLE, Article, Comment
from training.evaluate import Bootstrap, interval, wilson

_ON_TOPIC = LABELS.index("on-topic")


def _people(*names: str) -> dict[str, tuple[str, str]]:
    """Group to (adjective or one person, several people): `Chinese/` has no plural of its own."""
    result = {}
    for name in names:
        one, slash, many = name.partition("/")
        result[one] = (one, many or one if slash else one + "s")
    return result


#: By category each group's forms: the form at one place is swapped with the form at the same place of another group.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "nationality": _people(
        "Afghan", "American", "Australian", "Brazilian", "British/", "Canadian", "Chinese/", "Colombian", "Egyptian", "Eritrean", "Ethiopian",
        "French/", "German", "Indian", "Iranian", "Iraqi", "Israeli", "Italian", "Japanese/", "Kenyan", "Mexican", "Nigerian", "Pakistani",
        "Palestinian", "Polish/Poles", "Romanian", "Russian", "Saudi", "Somali", "Spanish/Spaniards", "Sudanese/", "Syrian", "Turkish/Turks", "Ukrainian", "Venezuelan",
    ),
    "ethnicity": _people(
        "Pashtun", "Hazara", "Tajik", "Uzbek", "Baloch/", "Punjabi", "Sindhi", "Kurdish/Kurds", "Arab", "Berber", "Persian", "Tamil", "Bengali",
        "Amhara/", "Oromo/", "Tigrayan", "Yoruba/", "Igbo/", "Hausa/", "Hutu", "Tutsi", "Uyghur", "Roma/", "Latino", "Black/", "White/", "Asian",
    ),
    "religion": _people(
        "Muslim", "Christian", "Jewish/Jews", "Hindu", "Sikh", "Buddhist", "Shia/", "Sunni", "Catholic", "Protestant", "Mormon", "atheist",
    ),
    "names": {
        "English": ("John", "Michael", "David", "James", "Peter", "Paul", "Mary", "Sarah", "Emily", "Anna", "Helen", "Karen"),
        "Muslim world": ("Ahmed", "Mohammed", "Ali", "Omar", "Hassan", "Yusuf", "Fatima", "Aisha", "Zainab", "Mariam", "Leila", "Amina"),
        "Slavic": ("Ivan", "Dmitri", "Sergei", "Oleg", "Marek", "Pavel", "Olga", "Irina", "Svetlana", "Katya", "Oksana", "Agnieszka"),
        "West African": ("Chidi", "Emeka", "Kwame", "Tunde", "Kofi", "Segun", "Ngozi", "Adaeze", "Chioma", "Abena", "Yetunde", "Funmi"),
        "Black American": ("Jamal", "DeShawn", "Tyrone", "Darnell", "Terrell", "Malik", "Lakisha", "Latoya", "Ebony", "Keisha", "Tamika", "Aaliyah"),
        "Hispanic": ("José", "Carlos", "Luis", "Diego", "Juan", "Pedro", "María", "Carmen", "Guadalupe", "Lucía", "Rosa", "Ximena"),
        "South Asian": ("Rahul", "Raj", "Arjun", "Vijay", "Sanjay", "Amit", "Priya", "Anjali", "Lakshmi", "Deepa", "Sunita", "Kavita"),
        "Chinese": ("Wei", "Ming", "Jian", "Hao", "Feng", "Qiang", "Mei", "Xiu", "Ling", "Yan", "Hui", "Fang"),
        "Jewish": ("Moshe", "Shlomo", "Avi", "Yitzhak", "Chaim", "Menachem", "Rivka", "Esther", "Shira", "Tzipora", "Miriam", "Yael"),
    },
    "gender": {
        "men": ("man", "men", "boy", "boys", "father", "dad", "son", "sons", "brother", "brothers", "husband", "husbands", "he", "himself", "Mr", "gentleman", "gentlemen", "uncle", "king", "guy", "guys"),
        "women": ("woman", "women", "girl", "girls", "mother", "mum", "daughter", "daughters", "sister", "sisters", "wife", "wives", "she", "herself", "Mrs", "lady", "ladies", "aunt", "queen", "gal", "gals"),
    },
}  # fmt: skip
#: Spellings that are read but never written.
_ALSO = {"gender": {"Ms": "Mrs", "mom": "mum"}, "names": {"Muhammad": "Mohammed", "Mohammad": "Mohammed", "Fatuma": "Fatima", "Jose": "José", "Maria": "María"}, "religion": {"Shiite": "Shia", "Shiites": "Shia", "Shi'a": "Shia"}}  # fmt: skip
# Words that are also something else stand for people only when written as a name.
_PROPER = {"nationality", "ethnicity", "names"}
_COMMON = {"Black", "White", "Polish"}
# What follows "her" when it is the object ("blames her for it") and not the possessive ("her claim").
_AFTER_OBJECT = {
    "a", "about", "after", "again", "all", "and", "any", "anymore", "as", "at", "away", "back", "because", "before",
    "being", "but", "by", "do", "does", "down", "for", "from", "had", "has", "have", "here", "how", "if", "in", "into",
    "is", "it", "like", "more", "not", "now", "of", "off", "on", "once", "or", "out", "over", "said", "says", "so", "some",
    "than", "that", "the", "then", "there", "they", "this", "to", "too", "under", "until", "up", "was", "we", "were",
    "what", "when", "where", "which", "while", "who", "why", "will", "with", "without", "would", "yet", "you",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Swap:
    """One changed comment: which row it was made of, and which group became which."""

    row: int
    category: str
    source: str
    target: str
    comment: Comment


@functools.cache
def _pattern(category: str) -> re.Pattern[str]:
    forms = {form for forms in GROUPS[category].values() for form in forms} | set(_ALSO.get(category, ()))
    if category == "gender":
        forms |= {"him", "his", "her", "hers"}
    if category in _PROPER:
        forms |= {form.upper() for form in forms - _COMMON}
    flags = 0 if category in _PROPER else re.IGNORECASE
    return re.compile(r"(?<![\w-])(" + "|".join(sorted(map(re.escape, forms), key=len, reverse=True)) + r")(?![\w-])", flags)


@functools.cache
def _owners(category: str) -> dict[str, str]:
    owners = {form.lower(): group for group, forms in GROUPS[category].items() for form in forms}
    owners |= {also.lower(): owners[form.lower()] for also, form in _ALSO.get(category, {}).items() if form.lower() in owners}
    if category == "gender":
        owners |= {"him": "men", "his": "men", "her": "women", "hers": "women"}
    return owners


def mentions(text: str, category: str) -> list[str]:
    """The groups of a category that a text names, in the order of their first mention."""
    owners = _owners(category)
    found = [owners[word.lower()] for word in _pattern(category).findall(text) if word.lower() in owners]
    return list(dict.fromkeys(found))


def swap_text(text: str, category: str, source: str, target: str) -> str:
    """The text with two groups of a category in each other's place; case and number are kept."""
    forms = GROUPS[category]
    both = {
        one.lower(): two for one, two in zip((*forms[target], *forms[source]), (*forms[source], *forms[target]), strict=True)
    }
    both |= {one.lower(): two for one, two in zip(forms[source], forms[target], strict=True)}
    for also, form in _ALSO.get(category, {}).items():
        if form.lower() in both:
            both[also.lower()] = both[form.lower()]

    def exchange(found: re.Match[str]) -> str:
        word = found[0]
        if category == "gender" and word.lower() in ("him", "his", "her", "hers"):
            # "her" is both him and his; what follows tells, mostly.
            next_word = re.match(r"\s+([A-Za-z]+)", found.string[found.end() : found.end() + 40])
            possessive = next_word is not None and next_word[1].lower() not in _AFTER_OBJECT
            new = {"him": "her", "his": "her" if possessive else "hers", "her": "his" if possessive else "him", "hers": "his"}[
                word.lower()
            ]
        else:
            new = both.get(word.lower(), word)
        if word.isupper() and len(word) > 1:
            return new.upper()
        return (
            new[0].upper() + new[1:]
            if word[0].isupper()
            else new
            if category in _PROPER
            else new.lower()
            if word.islower() and category == "gender"
            else new
        )

    return _pattern(category).sub(exchange, text)


def swaps(comments: Sequence[Comment], limit: int = 300, per_mention: int = 3, seed: int = 0) -> list[Swap]:
    """Swapped versions of comments whose thread names a group: at most `limit` a category, drawn at random with `seed`.

    Comments that name the group themselves come first, then those whose parent or article does. Each group is exchanged for
    up to `per_mention` others, the same ones throughout a thread.
    """
    result = []
    for category, groups in GROUPS.items():
        articles: dict[tuple[Article, str, str], Article] = {}
        context: dict[Article, list[str]] = {}
        plans: list[tuple[bool, int, str, str]] = []
        for row, comment in enumerate(comments):
            article = comment.article
            if article not in context:
                context[article] = mentions(f"{article.title}\n{article.text}", category)
            own = mentions(comment.text, category)
            for source in dict.fromkeys((*own, *mentions(comment.parent_text, category), *context[article])):
                chooser = random.Random(f"{seed}:{category}:{source}:{article.article_id or article.title}")
                others = [name for name in groups if name != source]
                plans += [
                    (source in own, row, source, target) for target in chooser.sample(others, min(per_mention, len(others)))
                ]
        random.Random(f"{seed}:{category}").shuffle(plans)
        plans.sort(key=lambda plan: not plan[0])
        for _, row, source, target in sorted(plans[:limit], key=lambda plan: plan[1:]):
            comment = comments[row]
            place = (comment.article, *sorted((source, target)))
            if place not in articles:
                articles[place] = _swap_article(comment.article, category, source, target)
            changed = replace(
                comment,
                text=swap_text(comment.text, category, source, target),
                parent_text=swap_text(comment.parent_text, category, source, target),
                article=articles[place],
            )
            if changed != comment:
                result.append(Swap(row, category, source, target, changed))
    return result


def _swap_article(article: Article, category: str, source: str, target: str) -> Article:
    if article is NO_ARTICLE:
        return article
    return replace(
        article,
        title=swap_text(article.title, category, source, target),
        text=swap_text(article.text, category, source, target),
    )


def steadiness(made: Sequence[Swap], clean: np.ndarray, swapped: np.ndarray, bootstrap: Bootstrap) -> dict:
    """How steady labels are under the swaps, by category and by the group swapped in.

    Args:
        made: n swaps. clean: (N, 4) probabilities of all rows; swapped: (n, 4) of the swaps.

    Returns:
        By category n, the share of labels that `flipped` with its interval, and by group that came in: n, flips, and the
        mean `shift` (with interval) of the probability that the comment is not on-topic: above 0, naming this group makes
        a comment look worse than naming another.
    """
    categories: dict[str, dict] = {}
    rows = np.array([swap.row for swap in made], dtype=int)
    before = clean[rows] if len(made) else clean[:0]
    flips = before.argmax(1) != swapped.argmax(1)
    shift = before[:, _ON_TOPIC] - swapped[:, _ON_TOPIC]
    members: dict[str, list[int]] = defaultdict(list)
    for index, swap in enumerate(made):
        members[swap.category].append(index)
    for category, chosen in members.items():
        entry = _mean_of(flips, chosen, rows, bootstrap, "flipped")
        entry |= {"mean_shift": float(np.abs(shift[chosen]).mean()), "groups": {}}
        for group in GROUPS[category]:
            inside = [index for index in chosen if made[index].target == group]
            if inside:
                moved = _mean_of(shift, inside, rows, bootstrap, "shift")
                entry["groups"][group] = {**moved, "flipped": float(flips[inside].mean())}
        categories[category] = entry
    return categories


def _mean_of(values: np.ndarray, chosen: Sequence[int], rows: np.ndarray, bootstrap: Bootstrap, name: str) -> dict:
    chosen = np.asarray(chosen)
    totals = bootstrap.totals(np.stack([values[chosen].astype(float), np.ones(len(chosen))], -1), rows[chosen])
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = totals[:, 0] / totals[:, 1]
    return {"n": len(chosen), name: float(drawn[0]), f"{name}_interval": interval(drawn)}


def false_alarms(comments: Sequence[Comment], truth: np.ndarray, probabilities: np.ndarray, least: int = 10) -> dict:
    """By category and group: of the on-topic comments that mention it, the share that is called something else.

    Groups with fewer than `least` such comments are left out; `everyone` is the rate over all on-topic comments. Intervals
    are Wilson's.
    """
    harmless = truth == _ON_TOPIC
    flagged = probabilities.argmax(1) != _ON_TOPIC
    everyone = _rate(flagged[harmless])
    result: dict[str, dict] = {}
    for category in GROUPS:
        members: dict[str, list[int]] = defaultdict(list)
        for row, comment in enumerate(comments):
            if harmless[row]:
                for group in mentions(comment.text, category):
                    members[group].append(row)
        rates = {group: _rate(flagged[rows]) for group, rows in sorted(members.items()) if len(rows) >= least}
        if rates:
            result[category] = rates
    return {"everyone": everyone, "groups": result}


def _rate(flagged: np.ndarray) -> dict:
    return {
        "n": len(flagged),
        "rate": float(flagged.mean()) if len(flagged) else float("nan"),
        "interval": wilson(int(flagged.sum()), len(flagged)),
    }


def membership(comments: Sequence[Comment], least: int = 20) -> dict[str, np.ndarray]:
    """By `category: group` which of the comments mention it, for groups with at least `least` comments."""
    members: dict[str, np.ndarray] = {}
    for category in GROUPS:
        for row, comment in enumerate(comments):
            for group in mentions(comment.text, category):
                members.setdefault(f"{category}: {group}", np.zeros(len(comments), dtype=bool))[row] = True
    return {name: member for name, member in sorted(members.items()) if member.sum() >= least}
