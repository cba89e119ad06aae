"""How long to wait before the next attempt. Pure: the random draw is an argument."""

from __future__ import annotations

import math

from attrs import frozen

from ortege_watch.errors import QueryError

__all__ = ["Backoff"]


@frozen
class Backoff:
    """Grow delays geometrically up to a cap, each drawn from its upper half.

    The draw keeps clients that failed together from coming back together; the lower
    bound of one half keeps every one of them from coming back at once.

    Attributes:
        base: seconds, the whole of the first delay.
        cap: seconds, the whole of the longest delay; at least ``base``.
        factor: how much longer each delay is than the one before; at least 1.
    """

    base: float = 1.0
    cap: float = 60.0
    factor: float = 2.0

    def __attrs_post_init__(self) -> None:
        if not 0 < self.base <= self.cap < math.inf:
            raise QueryError(
                f"a back-off from {self.base!r} s to {self.cap!r} s is not one:"
                " give 0 < base <= cap, in seconds"
            )
        if not 1 <= self.factor < math.inf:
            raise QueryError(f"factor {self.factor!r} shrinks delays: give 1 or more")

    def delay(self, attempt: int, draw: float) -> float:
        """Return the seconds to wait after a failed attempt.

        Args:
            attempt: 0 after the first failure, 1 after the second, and so on.
            draw: a random number, 0 <= draw < 1.

        Returns:
            Between half and the whole of ``min(cap, base * factor ** attempt)``.
        """
        try:
            whole = min(self.cap, self.base * self.factor**attempt)
        except OverflowError:
            whole = self.cap
        return whole * (1 + draw) / 2
