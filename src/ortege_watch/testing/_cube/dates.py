"""Dates as a Cube server reads and writes them. Pure: the time is an argument."""

from __future__ import annotations

import calendar
import contextlib
import re
from datetime import UTC, datetime, timedelta
from functools import cache, reduce
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

import attrs

from ortege_watch.errors import InvalidArgument
from ortege_watch.testing._cube import Refusal

UNITS: Final = ("quarter", "day", "month", "year", "week", "hour", "minute", "second")
_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_UNIT: Final = f"({'|'.join(UNITS)})"
_NEAR: Final = re.compile(rf"(this|last|next)\s+{_UNIT}")
_SEVERAL: Final = re.compile(rf"(last|next)\s+(\d+)\s+{_UNIT}")
_BETWEEN: Final = re.compile(r"from (.*) to (.*)\Z")
_AWAY: Final = re.compile(rf"(\d+)\s+{_UNIT}s?\s+(ago|from now)\Z")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d\Z")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[t ]\d\d:\d\d(:\d\d(\.\d+)?)?z?\Z")
_MONTH: Final = re.compile(rf"({'|'.join(_MONTHS)})\s+(\d{{4}})\Z")
_INVALID: Final = "Invalid date"
_INTERVAL: Final = re.compile(rf"(-?\d+)\s+{_UNIT}s?")
_IN_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
# How many of a unit may be an interval without an origin.
_WHOLE: Final = {
    "month": 12,
    "quarter": 4,
    "week": 1,
    "day": 1,
    "hour": 24,
    "minute": 60,
    "second": 60,
}
_STEPS: Final = ("second", "minute", "hour", "day", "month", "quarter", "year")


@cache
def zone(name: str) -> ZoneInfo | None:
    """Return a time zone by its IANA name in any case; None if it does not exist."""
    names = {known.lower(): known for known in available_timezones()}
    known = names.get(name.lower())
    return ZoneInfo(known) if known else None


def stamp(wall: datetime) -> str:
    """Format a time as Cube does: milliseconds, no zone."""
    return wall.replace(tzinfo=None).isoformat(timespec="milliseconds")


def instant(text: str, where: ZoneInfo) -> datetime:
    """Parse a stamp as wall clock of a zone; if invalid, fail as the database does."""
    try:
        wall = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal.database(
            f'invalid input syntax for type timestamp with time zone: "{text}"'
        ) from None
    return wall.replace(tzinfo=where).astimezone(UTC)


def floor(wall: datetime, unit: str) -> datetime:
    """Return the beginning of the unit; weeks begin on Monday."""
    day = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    match unit:
        case "second":
            return wall.replace(microsecond=0)
        case "minute":
            return wall.replace(second=0, microsecond=0)
        case "hour":
            return wall.replace(minute=0, second=0, microsecond=0)
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(day=1, month=day.month - (day.month - 1) % 3)
        case _:
            return day.replace(day=1, month=1)


def shift(wall: datetime, unit: str, count: int) -> datetime:
    """Add units; a day that the month does not have becomes its last day."""
    if unit in _IN_MONTHS:
        index = wall.year * 12 + wall.month - 1 + count * _IN_MONTHS[unit]
        year, month = index // 12, index % 12 + 1
        last = calendar.monthrange(year, month)[1]
        return wall.replace(year=year, month=month, day=min(wall.day, last))
    return wall + timedelta(**{f"{unit}s": count})


def _interval(text: str) -> dict[str, int]:
    """Parse an interval such as ``"1 year 3 months"``; empty if it is malformed."""
    if re.fullmatch(rf"{_INTERVAL.pattern}(\s+{_INTERVAL.pattern})*", text) is None:
        return {}
    return {unit: int(count) for count, unit in _INTERVAL.findall(text)}


def _parts(interval: dict[str, int]) -> tuple[int, timedelta]:
    """Return an interval as PostgreSQL keeps it: months, and the rest."""
    months = sum(n * _IN_MONTHS[u] for u, n in interval.items() if u in _IN_MONTHS)
    rest = {f"{u}s": n for u, n in interval.items() if u not in _IN_MONTHS}
    return months, timedelta(**rest)


def _moved(wall: datetime, interval: dict[str, int], times: int) -> datetime:
    months, rest = _parts(interval)
    return shift(wall, "month", times * months) + times * rest


def _common(first: str, second: str) -> str:
    """Return the unit in which both units can be counted."""
    if first == second:
        return first
    steps = (_STEPS.index("day" if u == "week" else u) for u in (first, second))
    return _STEPS[min(steps)]


def _smallest(interval: dict[str, int]) -> str:
    if len(interval) == 1:
        return next(iter(interval))
    return reduce(_common, ("month" if u == "quarter" else u for u in interval))


def _unit_of(moment: datetime) -> str:
    """Return the longest unit that begins at a moment."""
    units = ("year", "month", "week", "day", "hour", "minute")
    return next((u for u in units if floor(moment, u) == moment), "second")


@attrs.frozen(kw_only=True)
class Granularity:
    """A granularity that a data model defines, as 1.7.43 computes it.

    Raises:
        InvalidArgument: Cube would refuse the model.
    """

    name: str
    interval: str
    offset: str | None = None
    origin: str | None = None
    title: str | None = None

    def __attrs_post_init__(self) -> None:
        interval = _interval(self.interval)
        if not interval or min(interval.values()) < 1:
            raise InvalidArgument(
                f"interval of granularity {self.name!r} must be such as '2 weeks' or "
                f"'1 year 3 months', got {self.interval!r}"
            )
        if self.offset is not None and not _interval(self.offset):
            raise InvalidArgument(
                f"offset of granularity {self.name!r} must be such as '-1 day', "
                f"got {self.offset!r}"
            )
        if self.origin is None:
            unit, count = next(iter(interval.items()))
            if len(interval) > 1 or _WHOLE.get(unit, count) % count:
                raise InvalidArgument(
                    f"interval of granularity {self.name!r} needs an origin unless a "
                    f"year, day, hour or minute is a multiple, got {self.interval!r}"
                )
        elif self.offset is not None:
            raise InvalidArgument(
                f"granularity {self.name!r} must have offset or origin, not both"
            )
        else:
            self._origin(ZoneInfo("UTC"), 1970)

    def described(self, title: str) -> dict[str, str]:
        """Return the entry of ``/meta``; ``title`` is for one without a title."""
        found = {
            "name": self.name,
            "title": self.title or title,
            "interval": self.interval,
            "offset": self.offset,
            "origin": self.origin,
        }
        return {key: value for key, value in found.items() if value is not None}

    def floor(self, wall: datetime, where: ZoneInfo, year: int) -> datetime:
        """Return the beginning of the interval that contains a time.

        Args:
            wall: wall clock of the zone.
            where: the query's time zone.
            year: the current one, where intervals begin that have no origin.
        """
        interval = _interval(self.interval)
        if self.interval.split(" ")[0] == "1" and len(interval) == 1:
            # An origin has no effect then [seen].
            offset = _interval(self.offset or "0 days")
            begin = floor(_moved(wall, offset, -1), next(iter(interval)))
            return _moved(begin, offset, 1)
        origin = self._origin(where, year)
        months, rest = _parts(interval)
        years, months = divmod(months, 12)
        # PostgreSQL's length of a month and of a year, in seconds.
        length = rest + months * timedelta(days=30) + years * timedelta(365, hours=6)
        return _moved(origin, interval, (wall - origin) // length)

    def level(self, where: ZoneInfo, year: int) -> str:
        """Return the unit by which Cube compares it with other granularities."""
        if self.offset is not None:
            other = _smallest(_interval(self.offset))
        else:
            origin = self._origin(where, year).replace(tzinfo=where)
            other = _unit_of(origin.astimezone(UTC).replace(tzinfo=None))
        return _common(_smallest(_interval(self.interval)), other)

    def _origin(self, where: ZoneInfo, year: int) -> datetime:
        """Return the beginning of an interval in wall clock of the zone."""
        if self.origin is None:
            begin = datetime(year, 1, 1)  # noqa: DTZ001
            return _moved(begin, _interval(self.offset or "0 days"), 1)
        try:
            # A year or a month alone is its beginning.
            rest = {4: "-01-01", 7: "-01"}.get(len(self.origin), "")
            moment = datetime.fromisoformat(self.origin + rest)
        except ValueError:
            raise InvalidArgument(
                f"origin of granularity {self.name!r} must be an ISO 8601 date or "
                f"time, got {self.origin!r}"
            ) from None
        if moment.tzinfo is not None:
            moment = moment.astimezone(where)
        return moment.replace(tzinfo=None)


def absolute(text: str, *, end: bool) -> str:
    """Normalize one end of an absolute range; a day becomes its beginning or end."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _INVALID
    if _DAY.match(text):
        return f"{text}T23:59:59.999" if end else f"{text}T00:00:00.000"
    return stamp(moment.astimezone(UTC) if moment.tzinfo else moment)


def is_absolute(text: str) -> bool:
    """Return whether this is a day or a moment, not a relative phrase."""
    return absolute(text, end=False) != _INVALID


def date_range(value: str | list[str], where: ZoneInfo, now: datetime) -> list[str]:
    """Resolve a dateRange to its two stamps in wall clock of the zone."""
    if isinstance(value, list):
        first, last = value[0], value[-1]
        return [absolute(first, end=False), absolute(last, end=True)]
    wall = now.astimezone(where).replace(tzinfo=None)
    begin, end = _relative(value.lower(), wall)
    return [stamp(begin), stamp(end)]


def _span(begin: datetime, end: datetime, unit: str) -> tuple[datetime, datetime]:
    after = shift(floor(end, unit), unit, 1)
    return floor(begin, unit), after - timedelta(milliseconds=1)


def _relative(text: str, now: datetime) -> tuple[datetime, datetime]:
    if match := _NEAR.search(text):
        step = {"this": 0, "last": -1, "next": 1}[match[1]]
        moved = shift(now, match[2], step)
        return _span(moved, moved, match[2])
    if match := _SEVERAL.search(text):
        count, unit = int(match[2]), match[3]
        first, last = (-count, -1) if match[1] == "last" else (1, count)
        return _span(shift(now, unit, first), shift(now, unit, last), unit)
    for word, days in (("today", 0), ("yesterday", -1), ("tomorrow", 1)):
        if word in text:
            day = now + timedelta(days=days)
            return _span(day, day, "day")
    exact = next((u for u in ("second", "minute", "hour") if u in text), "day")
    if match := _BETWEEN.match(text):
        begin, end = (_parse(match[n].strip(), now) for n in (1, 2))
        return _span(begin, end, exact)
    moment = _parse(text, now)
    return _span(moment, moment, exact)


def _parse(text: str, now: datetime) -> datetime:
    """Parse the phrases of free text that tests use."""
    if text == "now":
        return now
    if match := _AWAY.match(text):
        count = int(match[1])
        return shift(now, match[2], -count if match[3] == "ago" else count)
    if match := _MONTH.match(text):
        month = _MONTHS.index(match[1]) + 1
        return datetime(int(match[2]), month, 1, 12)  # noqa: DTZ001
    if _DAY.match(text) or _MOMENT.match(text):
        with contextlib.suppress(ValueError):
            noon = " 12:00" if _DAY.match(text) else ""  # as chrono reads a day
            # A zone is ignored: the clock's digits count.
            return datetime.fromisoformat(text.removesuffix("z") + noon)
    raise Refusal(f"Can't parse date: '{text}'")
