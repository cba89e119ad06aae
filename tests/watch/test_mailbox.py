"""The mailbox: the newest snapshot of each query, compared with the last delivered one."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st
from watching import FUNCTIONS, QUERY, Events, senders

from ortege_watch import (
    ApiError,
    DecodeError,
    OrtegeWatchError,
    TransportError,
    _json as codec,
)
from ortege_watch.watch.mailbox import Mailbox

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def part(data):
    body = json.dumps({"data": data}, separators=(",", ":"))
    return codec.decode_body(body.encode()).parts[0]


def rows(amounts: dict[str, int]):
    return [
        {Events.sender.name: sender, Events.amount.name: str(amount)}
        for sender, amount in amounts.items()
    ]


class Box(Mailbox):
    """A mailbox with one query, and a shorter ``put``."""

    def __init__(self, *queries, on_error=None):
        super().__init__(queries or (QUERY,), on_error, server="cube.example")

    def snapshot(self, amounts: dict[str, int], *, resumed: bool = False) -> bool:
        return self.put("1", part(rows(amounts)), resumed=resumed, received_at=NOW)

    def garbage(self, number: int) -> None:
        self.put("1", part([number]), resumed=False, received_at=NOW)


def passing(number: int) -> ApiError:
    return ApiError(f"Error: {number}", status=500)


def test_an_empty_mailbox_has_no_update():
    assert Box().take() is None


def test_the_newest_snapshot_replaces_the_ones_before_it():
    box = Box()
    box.snapshot({})
    assert box.take().first
    for count in range(1, 1000):
        box.snapshot({f"SP{n}": n for n in range(count)}, resumed=count == 7)
    update = box.take()
    assert len(update.added) == 999
    assert update.resumed  # one of the replaced ones was the first after an outage
    assert (update.first, update.received_at) == (False, NOW)
    assert box.take() is None


def test_equal_snapshots_are_not_delivered():
    box = Box()
    assert box.snapshot({"SP1": 1, "SP2": 2})
    assert len(box.take().added) == 2
    assert not box.snapshot({"SP1": 1, "SP2": 2})  # so no task is woken
    assert box.take() is None
    box.snapshot({"SP2": 2, "SP1": 1})  # the same rows, other bytes
    assert box.take() is None


@given(st.lists(st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 2))))
def test_the_differences_add_up_to_the_newest_snapshot(steps):
    box, seen, newest = Box(), {}, None
    for step in [*steps, None]:
        if step is not None:
            box.snapshot(step)
            newest = step
            continue
        while (update := box.take()) is not None:
            for row in update.removed:
                del seen[row[Events.sender]]
            for row in update.added:
                assert row[Events.sender] not in seen
                seen[row[Events.sender]] = row[Events.amount]
            for row in update.changed:
                assert seen[row[Events.sender]] == row.before[Events.amount]
                seen[row[Events.sender]] = row[Events.amount]
    assert seen == (newest or {})


def test_rows_that_stay_unreadable_are_reported_once():
    box = Box()
    for number in range(3):
        box.garbage(number)
        if number == 0:
            with pytest.raises(DecodeError) as caught:
                box.take()
            assert caught.value.query is QUERY
        assert box.take() is None
    box.snapshot({"SP1": 1})
    assert senders(box.take().added) == ["SP1"]
    box.garbage(9)
    with pytest.raises(DecodeError):
        box.take()


def test_rows_that_are_unreadable_again_after_the_last_delivered_ones_are_an_error():
    box = Box()
    box.snapshot({"SP1": 1})
    box.take()
    for number in range(2):
        box.garbage(number)
        with pytest.raises(DecodeError):
            box.take()
        box.snapshot({"SP1": 1})
        assert box.take() is None


def test_a_snapshot_that_fails_half_way_does_not_count_as_delivered():
    box = Box()
    box.snapshot({})
    box.take()
    data = f'{{"data": {json.dumps(rows({"SP1": 1}))}, "query": {{"limit": {"9" * 5000}}}}}'
    broken = codec.decode_body(data.encode()).parts[0]
    box.put("1", broken, resumed=False, received_at=NOW)
    with pytest.raises(DecodeError):
        box.take()
    box.snapshot({"SP1": 1})
    assert senders(box.take().added) == ["SP1"]


def test_a_bad_row_at_the_end_of_a_large_snapshot_is_found_before_it_is_delivered():
    box = Box()
    many = rows({f"SP{n:040}": n for n in range(2000)})
    box.put("1", part([*many, 5]), resumed=False, received_at=NOW)
    with pytest.raises(DecodeError, match="row 2000 is not an object"):
        box.take()
    box.put("1", part(many), resumed=False, received_at=NOW)
    update = box.take()
    assert update.first
    assert len(update.added) == 2000


def test_a_value_that_is_nested_deeply_is_read_or_reported_and_the_query_goes_on():
    for depth in (100, 700, 900, 950, 1100, 5000):
        box = Box()
        cell = "[" * depth + "]" * depth
        data = f'{{"data": [{{"{Events.sender.name}": {cell}}}]}}'
        with contextlib.suppress(DecodeError):
            deep = codec.decode_body(data.encode()).parts[0]
            box.put("1", deep, resumed=False, received_at=NOW)
            with contextlib.suppress(DecodeError):
                box.take()
        box.snapshot({"SP1": 1})
        assert senders(box.take().added) == ["SP1"]


def dated(second: int, amounts: dict[str, int]):
    body = {"data": rows(amounts), "lastRefreshTime": f"2026-11-22T06:00:{second}.000Z"}
    return codec.decode_body(json.dumps(body).encode()).parts[0]


@pytest.mark.parametrize(
    ("seconds", "stale"),
    [
        ([10], False),
        ([10, 20], False),
        ([20, 10], True),
        ([20, 10, 15], False),  # newer than the last one
        ([20, 30, 25], True),  # the second one has the same rows as the first
    ],
)
def test_an_update_says_that_it_is_older_than_the_last_one(seconds, stale):
    box = Box()
    for count, second in enumerate(seconds):
        same = second == 30
        box.put(
            "1",
            dated(second, {"SP1": 0 if same else count}),
            resumed=False,
            received_at=NOW,
        )
        if not same:
            update = box.take()
    assert update.stale is stale


def test_what_was_replaced_before_it_was_taken_makes_nothing_stale():
    box = Box()
    for second, taken in [(10, True), (30, False), (20, True)]:
        box.put("1", dated(second, {"SP1": second}), resumed=False, received_at=NOW)
        if taken:
            update = box.take()
    assert not update.stale  # the loop has seen nothing newer


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("order", [None, Events.amount.desc()])
def test_only_a_limit_without_an_order_is_warned_about(limit, order, caplog):
    query = QUERY.limit_to(limit)
    query = query.order_by(order) if order else query
    box = Box(query)
    data = {f"SP{n}": n for n in range(limit or 10_000)}
    box.snapshot(data)
    assert box.take().truncated
    messages = [record.message for record in caplog.records]
    if limit and order:
        assert messages == []
    else:
        [message] = messages
        assert message.startswith(
            "cube.example: query 1 [stacks_contract_events.asset_amount, "
        )
        assert f"its limit of {limit or 10_000} rows" in message


def test_the_warning_names_the_limit_and_not_the_number_of_rows(caplog):
    box = Box(QUERY.limit_to(2))
    box.snapshot({"SP1": 1, "SP2": 2, "SP3": 3})
    assert box.take().truncated
    assert "its limit of 2 rows" in caplog.text


def test_the_newest_error_replaces_the_one_before_it_and_keeps_its_place():
    box = Box()
    box.snapshot({})
    box.take()
    for count in range(1, 1000):
        box.snapshot({f"SP{n}": n for n in range(count)})
        box.put_error("1", passing(count), final=False)
    box.snapshot({"SP1": 1})
    with pytest.raises(ApiError, match="Error: 999"):
        box.take()
    assert senders(box.take().added) == ["SP1"]
    assert box.take() is None


def test_transient_errors_go_to_the_callback():
    heard: list[OrtegeWatchError] = []
    box = Box(on_error=heard.append)
    box.put_error("1", passing(1), final=False)
    box.garbage(1)
    assert box.take() is None
    assert [type(error) for error in heard] == [ApiError, DecodeError]
    assert [error.query for error in heard] == [QUERY, QUERY]
    final = passing(2)
    box.put_error("1", final, final=True)
    with pytest.raises(ApiError) as caught:
        box.take()
    assert caught.value is final


def test_a_final_error_ends_its_query_and_not_the_others():
    box = Box(QUERY, FUNCTIONS)
    assert box.open == {"1": QUERY, "2": FUNCTIONS}
    box.put_error("1", passing(1), final=True)
    assert box.open == {"2": FUNCTIONS}


def test_what_was_not_taken_can_be_discarded():
    box = Box()
    box.snapshot({"SP1": 1})
    box.put_end(TransportError("lost"))
    box.clear()
    assert box.take() is None


def test_the_error_that_ends_a_subscription_comes_last():
    box = Box()
    box.snapshot({"SP1": 1})
    box.put_end(TransportError("lost"))
    assert len(box.take().added) == 1
    with pytest.raises(TransportError, match="lost"):
        box.take()


def test_unreadable_rows_and_their_end_are_logged_once(caplog):
    caplog.set_level("INFO", "ortege_watch.watch")
    box = Box(on_error=lambda error: None)
    for number in range(3):
        box.garbage(number)
        assert box.take() is None
    for number in range(2):
        box.snapshot({"SP1": number})
        assert box.take() is not None
    failed, works = [record.getMessage() for record in caplog.records]
    assert failed.startswith(f"cube.example: query 1 [{Events.amount.name}, ")
    assert "]: failed for now: " in failed
    assert works.endswith("]: works again")


def test_an_error_that_lasts_is_logged_once(caplog):
    box = Box()
    for number in range(3):
        box.put_error("1", passing(number), final=False)
    assert caplog.text.count("failed for now") == 1
