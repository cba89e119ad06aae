"""Ranges of time: relative words, days and instants.

A range is either words that the server resolves ("last 7 days") or a pair of moments,
both ends included. A day in a pair is the whole day in the query's zone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, tzinfo
from typing import Any, TypeAlias

from ortege_watch.errors import QueryError
from ortege_watch.query.values import (
    check_instant,
    check_moment,
    day_end,
    shown,
    wall_clock,
)

__all__ = ["Range", "check_range", "parse_moment", "range_to_wire", "relative"]

Range: TypeAlias = str | tuple[date, date]

_UNIT = "(?:second|minute|hour|day|week|month|quarter|year)"
_COUNT = "[1-9][0-9]{0,6}"
# Quarters are left out: the server's parser of such points is not known to take them.
_AGO = f"{_COUNT} (?:second|minute|hour|day|week|month|year)s? (?:ago|from now)"
_POINT = f"(now|{_AGO}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})"
_RELATIVE = re.compile(
    f"today|yesterday|tomorrow|(?:this|last|next) {_UNIT}"
    f"|(?:last|next) {_COUNT} {_UNIT}s?|from {_POINT} to {_POINT}"
)
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    _DAY.pattern + r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
    "(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
_FORMS = (
    '"today", "yesterday", "tomorrow", "this|last|next <unit>", '
    '"last|next <n> <units>", "from <n> <units> ago to now", a day "2024-05-01", '
    "or a pair of dates"
)


def relative(text: str, what: str) -> Range:
    """Check words for a range against the grammar that every Cube reads alike.

    ``today``, ``yesterday``, ``tomorrow``; ``this|last|next`` and a unit; ``last|next N``
    and a unit; ``from X to Y`` with ``now``, ``N units ago``, ``N units from now`` or a
    day; a day alone, which becomes a pair. Units run from second to year, weeks start
    on Monday, and ``last N`` excludes the unit that is running. Case and spaces do not
    matter. ``from X to Y`` covers whole days unless it names hours, minutes or seconds.

    Raises:
        QueryError: any other words. Cube hands them to a parser that guesses: ``June
            2024`` is only its first day, ``from last week to today`` only the week.
    """
    words = " ".join(text.lower().split())
    if _DAY.fullmatch(words):
        day = _parse(words, what)
        return (day, day)
    match = _RELATIVE.fullmatch(words)
    if not match:
        hint = f"{what}: {shown(text)} is no range that Cube reads reliably; write {_FORMS}"
        raise QueryError(hint)
    points = [_parse(p, what) for p in match.groups() if p and _DAY.fullmatch(p)]
    check_ordered(points, what)
    return words


def check_range(value: Any, what: str) -> Range:
    """Return a range: words, or a pair; a single day becomes a pair.

    Raises:
        QueryError: a range that ends before it starts, a single instant, strings in a
            pair, anything that is no range.
    """
    match value:
        case str():
            return relative(value, what)
        case datetime():
            message = f"{what}: an instant is no range; give (start, end)"
            raise QueryError(message)
        case date():
            return (value, value)
        case [start, end]:
            pair = (check_moment(start, what), check_moment(end, what))
            check_ordered(pair, what)
            return pair
        case _:
            message = f"{what}: {shown(value)} is no range; write {_FORMS}"
            raise QueryError(message)


def check_ordered(moments: Sequence[date], what: str) -> None:
    """Refuse a pair that ends before it starts.

    A day beside an instant is compared later, when the query's zone is known.
    """
    match moments:
        case [datetime() as start, datetime() as end]:
            wrong = start > end
        case [datetime(), _] | [_, datetime()]:
            wrong = False
        case [start, end]:
            wrong = start > end
        case _:
            wrong = False
    if wrong:
        message = f"{what}: ends before it starts; swap {moments[0]} and {moments[1]}"
        raise QueryError(message)


def range_to_wire(value: Range, zone: tzinfo, what: str) -> str | list[str]:
    """Spell a range; parts finer than a millisecond widen it.

    A start is rounded down and an end up: no row of the range is lost, and rows less
    than a millisecond beyond it may come along.
    """
    return value if isinstance(value, str) else pair_to_wire(value, zone, what)


def pair_to_wire(
    pair: tuple[date, date], zone: tzinfo, what: str, *, inward: bool = False
) -> list[str]:
    """Spell both ends: days as days, instants as wall clock, outwards or inwards."""
    ends = [
        wall_clock(moment, zone, what, up=up) if isinstance(moment, datetime) else None
        for moment, up in zip(pair, (inward, not inward), strict=True)
    ]
    texts = [end or moment.isoformat() for end, moment in zip(ends, pair, strict=True)]
    if (ends[0] or texts[0]) > (ends[1] or day_end(pair[1])):
        message = f"{what}: ends before it starts: {texts[0]} to {texts[1]}"
        raise QueryError(message)
    return texts


def parse_moment(
    text: Any, zone: tzinfo, what: str, *, drop_offset: bool = False
) -> date:
    """Read a day or a time of Cube's JSON; without an offset it is wall clock of zone.

    Args:
        text: ``YYYY-MM-DD``, or with ``THH:MM[:SS[.ffffff]]`` and an optional offset.
        zone: the query's zone.
        what: where the text stands, for the message.
        drop_offset: read a time with an offset as Cube reads a ``dateRange``: its UTC
            clock becomes wall clock of the query's zone (seen on Cube 0.35.81).

    Raises:
        QueryError: anything else, relative words above all.
    """
    if not isinstance(text, str) or not _MOMENT.fullmatch(text):
        raise QueryError(
            f"{what}: {shown(text)} is no date; write YYYY-MM-DD or "
            'YYYY-MM-DDTHH:MM:SS.mmm. Relative words such as "last 7 days" stand alone '
            'as a dateRange: .over("last 7 days")'
        )
    moment = _parse(text, what)
    if isinstance(moment, datetime):
        if drop_offset and moment.tzinfo is not None:
            moment = check_instant(moment, what).replace(tzinfo=None)
        return check_instant(
            moment if moment.tzinfo else moment.replace(tzinfo=zone), what
        )
    return moment


def _parse(text: str, what: str) -> date:
    kind = date if _DAY.fullmatch(text) else datetime
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise QueryError(f"{what}: {shown(text)} is on no calendar") from None
