"""Faults and random schedules of them; the same seed gives the same schedule."""

from __future__ import annotations

import enum
from random import Random
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection


class Fault(enum.StrEnum):
    """What the proxy does to its connections while a fault lasts."""

    DROP = "drop"  # end every open connection with a FIN
    RESET = "reset"  # end every open connection with a RST
    HALF_CLOSE = "half-close"  # end one direction of every open connection
    TRUNCATE = "truncate"  # end a connection in the middle of a frame or a body
    CORRUPT = "corrupt"  # replace a byte of a payload or a body, so that JSON breaks
    DELAY = "delay"  # forward every segment later
    SPLIT = "split"  # forward every segment in pieces of a few bytes
    MERGE = "merge"  # forward several segments as one
    THROTTLE = "throttle"  # forward few bytes per second
    STALL = "stall"  # forward nothing more of open connections
    SILENCE = "silence"  # accept connections and say nothing
    GARBAGE = "garbage"  # answer new connections with random bytes
    UNAVAILABLE = "unavailable"  # answer new connections with an HTTP 5xx
    CLOSE_EARLY = "close-early"  # accept connections and end them at once
    DOWN = "down"  # end every open connection, and refuse new ones


Ending = Literal["resume", "reset", "never"]
"""What becomes of a stalled connection when the fault is over: it goes on, it is reset,
or it stays silent until the client closes it."""

INSTANT = frozenset({Fault.DROP, Fault.RESET, Fault.HALF_CLOSE})
"""Faults that happen once, to the connections that are open."""


@attrs.frozen
class Entry:
    """One fault of a schedule.

    Attributes:
        at: seconds after the start.
        fault: what happens.
        duration: seconds that it lasts; 0 if it happens once.
        ending: what becomes of a connection that was stalled.
        seed: the source of the decisions within the fault.
    """

    at: float
    fault: Fault
    duration: float
    ending: Ending = "reset"
    seed: int = 0

    def __str__(self) -> str:
        lasting = f" for {self.duration:.2f} s" if self.duration else ""
        silent = self.fault in {Fault.STALL, Fault.SILENCE}
        then = f", then {self.ending}" if silent else ""
        return f"{self.at:.2f} s: {self.fault}{lasting}{then}"


def draw(
    seed: int | str,
    *,
    seconds: float,
    count: int,
    longest: float,
    faults: Collection[Fault] = tuple(Fault),
    endings: Collection[Ending] = ("resume", "reset", "never"),
) -> list[Entry]:
    """Draw a schedule.

    Args:
        seed: of the random numbers; a string may name one of several schedules.
        seconds: no fault lasts longer than until then.
        count: the number of faults.
        longest: the longest duration of a fault, in seconds.
        faults: the faults to choose from.
        endings: how a stalled connection may go on.
    """
    random = Random(seed)
    kinds, ways = sorted(faults), sorted(endings)
    entries = []
    for _ in range(count):
        fault = random.choice(kinds)
        duration = 0.0
        if fault not in INSTANT:
            duration = round(random.uniform(longest / 10, longest), 3)
        at = round(random.uniform(0.0, max(0.0, seconds - duration)), 3)
        ending = random.choice(ways)
        entries.append(Entry(at, fault, duration, ending, random.getrandbits(32)))
    return sorted(entries, key=lambda entry: entry.at)
