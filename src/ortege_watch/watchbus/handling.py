"""Hand alerts to a handler, each of them once, and say what became of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ortege_watch.errors import DecodeError
from ortege_watch.watchbus.alerts import AlertInfo, decode_alerts
from ortege_watch.watchbus.asgi import AlertHandler, HandledAlerts, Once
from ortege_watch.watchbus.envelope import ResultCode, error_answer, ok_answer

__all__ = ["Handling"]

logger: Final = logging.getLogger("ortege_watch.watchbus")


class Handling:
    """Call a handler for each alert that was not handled before.

    Each call is a task of its own: it outlives the connection that brought the alert.
    The sender brings the alert again over the next one, and that one waits for the call
    that is still running.

    Args:
        handler: takes one alert; a plain function runs in a worker thread.
        handled: remembers alerts by their dedupe keys.
    """

    def __init__(self, handler: AlertHandler, handled: HandledAlerts) -> None:
        self._once = Once(handler, handled)
        self._running: dict[str, asyncio.Task[bool]] = {}

    async def take(self, body: bytes, app_id: str) -> tuple[int, bytes]:
        """Handle the alerts of a body, one after the other.

        Returns:
            The HTTP status and the envelope that answer it.
        """
        try:
            alerts = decode_alerts(body)
        except DecodeError as error:
            logger.warning("signed alerts cannot be read: %s", error)
            problem = "; ".join(error.problems)
            return 400, error_answer(ResultCode.SERVER_ERROR, problem)
        done = [await self._handle(each, app_id) for each in alerts]
        if all(done):
            return 200, ok_answer()
        return 500, error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")

    async def _handle(self, alert: AlertInfo, app_id: str) -> bool:
        """Handle an alert, unless that was done before; tell whether it is done."""
        key = alert.dedupe_key(app_id)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._once.handle(key, alert))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key))
        # Its own end by cancellation must not look like the waiting one's.
        await asyncio.wait([task])
        return not task.cancelled() and task.result()

    async def settle(self) -> None:
        """Wait until no call is running."""
        while self._running:
            await asyncio.wait(self._running.values())

    def cancel(self) -> None:
        """Cancel every call; a plain function runs to its end all the same."""
        for task in self._running.values():
            task.cancel()
