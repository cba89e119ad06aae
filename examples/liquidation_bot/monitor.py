"""What programs learn about the bot: metrics, its health, and posts to webhooks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import attrs
import httpx

from liquidation_bot.alerts import BackgroundSender, beside
from liquidation_bot.display import Display, Kind, Note
from liquidation_bot.engine import Engine, Reason, Skip
from liquidation_bot.model import UsageError

__all__ = ["Monitor", "Webhook", "open_webhooks", "serve"]

Page: TypeAlias = tuple[HTTPStatus, str, str]
"""The status, the content type and the text of a response."""
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

_MAX_REQUEST: Final = 8_192
_MAX_CLIENTS: Final = 16
_CLIENT_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 5.0
_CONNECTED: Final = frozenset({"live", "polling"})
_ATTEMPTS: Final = 6
_POST_SECONDS: Final = 10.0
_MAX_DELAY: Final = 60
_RETRIED: Final = frozenset({0, 429, 500, 502, 503, 504})
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUSY: Final = (HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, "too many connections\n")
_NO_PRICE: Final = (Reason.NO_PRICE, Reason.STALE_PRICE)


class Webhook(BackgroundSender[Mapping[str, Any]]):
    """A background sender of JSON to a URL, which is a secret: only its host is shown.

    ``slack+https://…``, or ``slack=True``, sends messages in Slack's form.

    Raises:
        UsageError: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        http: httpx.AsyncClient,
        *,
        slack: bool = False,
        sleep: Sleep = asyncio.sleep,
        linger: float = 10.0,
    ) -> None:
        try:
            self._url = httpx.URL(url.removeprefix("slack+"))
        except (httpx.InvalidURL, ValueError):
            self._url = httpx.URL()
        if self._url.scheme not in {"https", "http"} or not self._url.host:
            raise UsageError(
                "invalid webhook URL (not shown, it is a secret): expected https://… "
                "or slack+https://…"
            )
        self._name = f"{self._url.scheme}://{self._url.host}"
        self._slack = slack or url.startswith("slack+")
        self._http = http
        self._sleep = sleep
        super().__init__(f"posts to {self._name}", size=100, batch=1, linger=linger)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the URL out of the HTTP client's log."""
        return str(self._url) not in record.getMessage()

    async def _send(self, items: list[Mapping[str, Any]]) -> None:
        body, failure = self._body(items[0]), ""
        for attempt in range(_ATTEMPTS):
            status, failure, after = await self._post(body)
            if 200 <= status < 300:
                self.counts["sent"] += 1
                return
            if status not in _RETRIED or attempt == _ATTEMPTS - 1:
                break
            await self._sleep(min(max(after, 2**attempt), _MAX_DELAY))
        self.counts["not sent"] += 1
        self._say("trouble", f"a post to {self._name} is given up: {failure}")

    def _body(self, post: Mapping[str, Any]) -> bytes:
        if not self._slack:
            return json.dumps(post).encode()
        text = str(post["text"]).replace("&", "&amp;")
        text = text.replace("<", "&lt;").replace(">", "&gt;")
        return json.dumps({"text": text}).encode()

    async def _post(self, body: bytes) -> tuple[int, str, int]:
        """Return the status or 0, what went wrong, and the least seconds to wait."""
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(_POST_SECONDS),
                self._http.stream(
                    "POST", self._url, content=body, headers=headers
                ) as response,
            ):
                after = response.headers.get("Retry-After", "0")
                seconds = int(after[:9]) if after.isdecimal() else _MAX_DELAY
                return response.status_code, f"status {response.status_code}", seconds
        except (httpx.HTTPError, TimeoutError) as error:
            return 0, type(error).__name__, 0  # its message may contain the URL


@asynccontextmanager
async def open_webhooks(
    urls: Iterable[str], *, slack: bool
) -> AsyncIterator[list[Webhook]]:
    """Open webhooks.

    Raises:
        UsageError: a URL is invalid.
    """
    logger = logging.getLogger("httpx")
    async with httpx.AsyncClient() as http:
        webhooks = [Webhook(url, http, slack=slack) for url in urls]
        for each in webhooks:
            logger.addFilter(each)
        try:
            yield webhooks
        finally:
            for each in webhooks:
                logger.removeFilter(each)


@attrs.define(kw_only=True, eq=False)
class Monitor:
    """A display that passes notes on, counts them, and posts what matters.

    Attributes:
        display: shows the notes.
        now: returns unix seconds.
        webhooks: receive each plan, each problem that lasts, and its end.
        patience: seconds without data, or with unread positions, that are no problem.
        lasts: seconds after which a problem is posted.
        queued: returns how many plans are still to be handed over.
        responses: how many HTTP requests were answered, by status.
    """

    display: Display
    now: Callable[[], int]
    webhooks: Sequence[Webhook] = ()
    patience: int = 600
    lasts: int = 120
    queued: Callable[[], int] = int
    responses: Counter[str] = attrs.field(factory=Counter)
    _last: tuple[Note, Engine] | None = None
    _all_read: int = 0
    _link: str = "not open yet"
    _reconnects: int = 0
    _errors: int = 0
    _results: Counter[str] = attrs.field(factory=Counter)
    _failures: int = 0
    _since: dict[str, int] = attrs.field(factory=dict)
    _posted: dict[str, str] = attrs.field(factory=dict)

    def show(self, note: Note, engine: Engine, /) -> None:
        """Pass a note on, count it, and post it if it has a plan."""
        self.display.show(note, engine)
        self._errors += note.kind == "trouble"
        if note.sight is not None:
            self._last = note, engine
            self._all_read = self._all_read if note.sight.unread else note.at
        if (state := note.data.get("state")) is not None:
            self._reconnects += state == "waiting"
            self._link = str(state)
        if (result := note.data.get("result")) is not None:
            self._results[str(result)] += 1
            self._failures = 0 if result == "done" else self._failures + 1
        if (plan := note.data.get("plan")) is not None:
            self._post("plan", note.text, plan=plan)

    def close(self) -> None:
        """Restore the terminal."""
        self.display.close()

    @asynccontextmanager
    async def running(self, sleep: Sleep = asyncio.sleep) -> AsyncIterator[None]:
        """Post inside the block, and check for problems that last or have ended."""

        async def check() -> None:
            while True:
                await sleep(_CHECK_SECONDS)
                self.check()

        async with AsyncExitStack() as stack:
            for webhook in self.webhooks:
                await stack.enter_async_context(webhook.running(self._say))
            await stack.enter_async_context(beside(check()))
            yield

    def check(self) -> None:
        """Post the problems that have lasted, and the end of those that were posted."""
        now, found = self.now(), self.problems()
        self._since = {name: self._since.get(name, now) for name in found}
        for name, text in found.items():
            if name not in self._posted and now - self._since[name] >= self.lasts:
                self._posted[name] = text
                self._post("problem", f"for {now - self._since[name]} s: {text}")
        for name in sorted(self._posted.keys() - found.keys()):
            self._post("problem ended", f"ended: {self._posted.pop(name)}")

    def problems(self) -> dict[str, str]:
        """Return what is wrong now, by name."""
        if self._last is None or (sight := self._last[0].sight) is None:
            return {"start": "the bot has not seen anything yet"}
        note, engine = self._last
        now, found = self.now(), dict[str, str]()
        if self._link not in _CONNECTED:
            found["connection"] = f"the subscription is {self._link}"
        if sight.data is None:
            found["data"] = "nothing was read yet"
        elif (age := sight.data + now - note.at) > self.patience:
            found["data"] = f"nothing new for {age} s"
        if sight.unread and now - self._all_read > self.patience:
            found["positions"] = f"{sight.unread} positions are unread"
        skips = [each for each in engine.decisions.values() if isinstance(each, Skip)]
        bad = sorted({each.detail for each in skips if each.reason in _NO_PRICE})
        if bad:
            found["prices"] = ", ".join(bad[:3])
        if self._failures:  # what it raised is for the log: it may contain a secret
            found["executor"] = f"{self._failures} failures in a row, see the log"
        return found

    def metrics(self) -> str:
        """Return the metrics in the text format of Prometheus."""
        posts = sum((each.counts for each in self.webhooks), Counter[str]())
        lines = [
            *_metric("connected", "1 if subscribed", self._link in _CONNECTED),
            *_metric("reconnects_total", "lost connections", self._reconnects),
            *_metric("errors_total", "lines about trouble", self._errors),
            *_metric("queued_plans", "to be handed over", self.queued()),
            *_metric("executor_results_total", "plans", self._results, "result"),
            *_metric("webhook_posts_total", "posts", posts, "result"),
            *_metric("http_responses_total", "here", self.responses, "code"),
        ]
        if self._last is not None and (sight := self._last[0].sight) is not None:
            note, engine = self._last
            late = self.now() - note.at
            skips = {str(reason): count for reason, count in engine.skipped.items()}
            borrowers = {"known": sight.borrowers, "unread": sight.unread}
            ages = {
                name: age + late
                for name, age in sight.prices.items()
                if age is not None
            }
            lines += [
                *_metric("plans_total", "plans that were made", engine.plans),
                *_metric("skips_total", "no plan", skips, "reason"),
                *_metric("borrowers", "who owe something", borrowers, "state"),
                *_metric("price_age_seconds", "since published", ages, "asset"),
            ]
            if sight.data is not None:
                age = sight.data + late
                lines += _metric("data_age_seconds", "since anything was read", age)
        return "".join(f"{line}\n" for line in lines)

    def page(self, path: str) -> Page:
        """Return the response to a request for a path."""
        if path == "/metrics":
            return HTTPStatus.OK, _TEXT, self.metrics()
        if path == "/health":
            found = self.problems()
            status = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
            return status, "application/json", json.dumps({"problems": found}) + "\n"
        return HTTPStatus.NOT_FOUND, _TEXT, "only /metrics and /health exist\n"

    def _post(self, event: str, text: str, **data: Any) -> None:
        at = datetime.fromtimestamp(self.now(), UTC).isoformat()
        for webhook in self.webhooks:
            webhook.put({"event": event, "at": at, "text": text, **data})

    def _say(self, kind: Kind, text: str) -> None:
        if self._last is not None:
            self.show(Note(kind, self.now(), text), self._last[1])


def _metric(
    name: str, about: str, values: int | Mapping[str, int], label: str = ""
) -> Iterator[str]:
    full, kind = f"liquidation_bot_{name}", "gauge"
    if name.endswith("_total"):
        kind = "counter"
    yield f"# HELP {full} {about}"
    yield f"# TYPE {full} {kind}"
    if isinstance(values, int):
        yield f"{full} {int(values)}"
        return
    for key, value in sorted(values.items()):
        text = key.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        yield f'{full}{{{label}="{text}"}} {value}'


@asynccontextmanager
async def serve(host: str, port: int, monitor: Monitor) -> AsyncIterator[str]:
    """Serve ``/metrics`` and ``/health`` inside the block; yield the URL.

    Raises:
        UsageError: the address is not available.
    """
    clients: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        clients[writer] = done = asyncio.Event()
        try:
            async with asyncio.timeout(_CLIENT_SECONDS):
                page = _BUSY
                if len(clients) <= _MAX_CLIENTS:
                    page = await _answer(reader, monitor)
                monitor.responses[str(page[0].value)] += 1
                writer.write(_response(page))
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            monitor.responses["none"] += 1
        finally:
            writer.transport.abort()
            del clients[writer]
            done.set()

    try:
        server = await asyncio.start_server(handle, host, port, limit=_MAX_REQUEST)
    except OSError as error:
        raise UsageError(f"cannot serve metrics at {host}:{port}: {error}") from None
    try:
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer, done in list(clients.items()):
            writer.transport.abort()
            await done.wait()


async def _answer(reader: asyncio.StreamReader, monitor: Monitor) -> Page:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TEXT, "request too large\n"
    match head.partition(b"\r\n")[0].decode("latin-1").split(" "):
        case ["GET", target, "HTTP/1.0" | "HTTP/1.1"]:
            return monitor.page(target.partition("?")[0])
        case [_, _, "HTTP/1.0" | "HTTP/1.1"]:
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, "only GET is allowed\n"
        case _:
            return HTTPStatus.BAD_REQUEST, _TEXT, "expected an HTTP/1.1 request\n"


def _response(page: Page) -> bytes:
    status, kind, text = page
    body = text.encode()
    allow = "Allow: GET\r\n" * (status is HTTPStatus.METHOD_NOT_ALLOWED)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n{allow}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
