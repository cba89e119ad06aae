"""Functions of the application are called in threads, with limits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback

import anyio
import pytest

from ortege_watch import OrtegeWatchError
from ortege_watch.watchbus.threads import LimitedCalls


class Hanging:
    """A function of the app id that hangs for one app until it is released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: list[threading.Thread] = []
        self.release = threading.Event()
        self.error: Exception | None = None

    def __call__(self, app_id: str) -> str:
        self.asked.append(app_id)
        self.threads.append(threading.current_thread())
        if app_id == "hangs":
            assert self.release.wait(60)
        if self.error is not None:
            raise self.error
        return f"of {app_id}"


@pytest.fixture
def hanging():
    made = Hanging()
    yield made
    made.release.set()
    for each in made.threads:
        each.join(60)


async def test_a_call_that_hangs_takes_one_thread_and_delays_no_other_app(hanging):
    calls = LimitedCalls(hanging, "secrets", within=0.01)
    for _ in range(3):
        with pytest.raises(OrtegeWatchError) as caught:
            await calls.get("hangs")
        problem = "secrets('hangs') took more than 0.01 s: set a time limit"
        assert str(caught.value).startswith(problem)
    assert hanging.asked == ["hangs"]
    assert hanging.threads[0].daemon  # the end of the program does not wait for it
    patient = LimitedCalls(hanging, "secrets")
    assert await patient.get("other") == "of other"


async def test_a_call_that_hung_is_over_when_it_returns(hanging):
    calls = LimitedCalls(hanging, "secrets", within=0.01)
    with pytest.raises(OrtegeWatchError):
        await calls.get("hangs")
    hanging.release.set()
    hanging.threads[0].join(60)
    with anyio.fail_after(20):
        while hanging.asked != ["hangs"] * 2:
            with contextlib.suppress(OrtegeWatchError):
                await calls.get("hangs")


async def test_all_who_ask_meanwhile_have_the_result(hanging):
    calls = LimitedCalls(hanging, "secrets")
    asking = [asyncio.create_task(calls.get("hangs")) for _ in range(50)]
    await anyio.wait_all_tasks_blocked()
    asking.pop().cancel()
    await anyio.wait_all_tasks_blocked()
    hanging.release.set()
    assert await asyncio.gather(*asking) == ["of hangs"] * 49
    assert hanging.asked == ["hangs"]


async def test_all_who_ask_meanwhile_have_the_error(hanging):
    calls = LimitedCalls(hanging, "secrets")
    hanging.error = KeyError("no database")
    asking = [asyncio.create_task(calls.get("hangs")) for _ in range(50)]
    await anyio.wait_all_tasks_blocked()
    hanging.release.set()
    errors = await asyncio.gather(*asking, return_exceptions=True)
    assert errors == [hanging.error] * 50
    shown = traceback.format_exception(hanging.error)
    assert len(shown) < 10  # it has the lines of one of them


async def test_few_calls_run_at_once(hanging):
    calls = LimitedCalls(hanging, "secrets", at_once=1)
    first = asyncio.create_task(calls.get("hangs"))
    await anyio.wait_all_tasks_blocked()
    with pytest.raises(OrtegeWatchError, match=r"^1 calls of secrets\(\) are running"):
        await calls.get("other")
    hanging.release.set()
    assert await first == "of hangs"
    assert await calls.get("other") == "of other"
