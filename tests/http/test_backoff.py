from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from ortege_watch._http.conversation import Backoff
from ortege_watch.errors import InvalidArgument

draws = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempt", "draw", "delay"),
    [
        (0, 0.0, 0.5),
        (0, 0.5, 0.75),
        (1, 0.0, 1.0),
        (5, 0.0, 16.0),
        (6, 0.0, 30.0),  # 64 s would be the whole: the cap is 60
        (10**6, 0.0, 30.0),  # 2.0 ** 1000000 is more than a float holds
    ],
)
def test_delays_double_up_to_the_cap(attempt, draw, delay):
    assert Backoff().delay(attempt, draw) == delay


@given(
    base=st.floats(0.001, 10),
    more=st.floats(0, 100),
    attempt=st.integers(0, 10**9),
    draw=draws,
)
def test_a_delay_lies_between_half_and_the_whole(base, more, attempt, draw):
    cap = base + more
    delay = Backoff(base=base, cap=cap).delay(attempt, draw)
    assert base / 2 <= delay <= cap
    whole = Backoff(base=base, cap=cap).delay(attempt, 0.0) * 2
    assert whole / 2 <= delay <= whole


@given(attempt=st.integers(0, 2000), draw=draws)
def test_no_delay_is_shorter_than_the_one_before(attempt, draw):
    backoff = Backoff()
    assert backoff.delay(attempt + 1, draw) >= backoff.delay(attempt, draw)


@pytest.mark.parametrize(
    "settings",
    [
        {"base": 0},
        {"base": -1},
        {"base": math.nan},
        {"base": 2, "cap": 1},
        {"cap": math.inf},
    ],
)
def test_what_is_no_back_off_is_refused(settings):
    with pytest.raises(InvalidArgument, match="must be"):
        Backoff(**settings)
