"""The dates of the exports as ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SQL_DATE = re.compile(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(.*)$", re.DOTALL)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMBER = re.compile(r"^-?\d{8,16}(?:\.\d+)?$")


def iso_date(value: object, *, utc: bool = False) -> str:
    """A date as ISO 8601: from Unix seconds or milliseconds, SQL dates, RFC 2822 or mongoexport's ``{"$date": …}``.

    Args:
        value: what the source has; a text that is no known date is returned as it is, nothing as the empty string.
        utc: whether a date without a zone is known to be UTC.
    """
    if isinstance(value, dict):
        value = value.get("$date", value.get("$numberLong", ""))
        if isinstance(value, dict):
            value = value.get("$numberLong", "")
    if value is None or isinstance(value, bool | list | dict):
        return ""
    text = str(value).strip()
    if text.startswith("0000-00-00"):  # WordPress: no date
        return ""
    if _NUMBER.match(text):
        seconds = float(text)
        if abs(seconds) >= 1e11:
            seconds /= 1000
        try:
            return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        except (ValueError, OverflowError, OSError):
            return text
    if found := _SQL_DATE.match(text):
        zone = found[3].strip().replace("UTC", "Z")
        return f"{found[1]}T{found[2]}{zone or ('Z' if utc else '')}"
    if "," in text[:5]:
        try:
            return parsedate_to_datetime(text).isoformat()
        except (ValueError, TypeError, IndexError, OverflowError):
            return text
    return text


def spelled_date(text: str) -> str:
    """A date as web pages spell it ("March 3, 2024 at 5:12 pm") as ISO 8601; the empty string where the day is not given."""
    text = iso_date(text)
    if re.match(r"\d{4}-\d\d-\d\d", text):
        return text
    words = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|[,.]|\bat\b", " ", text).split()
    numbers = [word for word in words if word.isascii() and word.isdigit()]
    month = next((_MONTHS.index(word[:3].lower()) + 1 for word in words if word[:3].lower() in _MONTHS), 0)
    if not month or len(numbers) != 2:
        return ""
    day, year = sorted(numbers, key=len)
    clock = re.search(r"\b(\d{1,2}):(\d\d)(?::\d\d)?\s*([ap]m)?\b", " ".join(words), re.IGNORECASE)
    hour, minute = (int(clock[1]), int(clock[2])) if clock else (0, 0)
    if clock and clock[3]:
        hour = hour % 12 + 12 * (clock[3].lower() == "pm")
    try:
        when = datetime(int(year), month, int(day), hour, minute)
    except (ValueError, OverflowError):
        return ""
    return when.isoformat(timespec="minutes") if clock else when.date().isoformat()
