"""A Stacks node: its client, and positions, state and prices that are read with it.

A node's answers are the contracts' current state, which includes interest, collateral
flags and e-modes. What is asked of a protocol's contracts stands beside its rules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import httpx
import msgspec

from liquidation_bot.engine import State
from liquidation_bot.market import Market, MarketError
from liquidation_bot.model import Position, Price, SourceError, UsageError
from liquidation_bot.rules import MarketCheck, reader_of
from liquidation_bot.stacks import (
    BURN_HEIGHT,
    Call,
    ClarityError,
    Int,
    Name,
    Steps,
    Value,
    convert,
    deserialize,
    represent,
    serialize,
)

__all__ = ["CallRefused", "Node", "NodePrices", "NodeSource"]

_T = TypeVar("_T")


class CallRefused(SourceError):
    """Raised when a node answers that a call fails; it would fail again."""


# A read-only call needs a sender, and accepts any: this is the burn address.
_SENDER: Final = "SP000000000000000000002Q6VF78"
_MAX_CONCURRENT: Final = 8
_RETRIES: Final = 4
_LONGEST_PAUSE: Final = 60.0
_LONGEST_CALL: Final = 150.0
# A RecursionError comes from JSON that is nested without end.
_FAILURES: Final = (
    *(httpx.HTTPError, TimeoutError, ValueError, TypeError),
    *(LookupError, RecursionError),
)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class _Answer(msgspec.Struct):
    okay: bool
    result: str = ""
    cause: str = "no cause given"


class Node:
    """A client that calls read-only functions over HTTP, within a budget.

    Calls are sent at equal intervals. An answer 429 or 503 stops all calls for as long
    as its ``Retry-After`` says, a minute at most; then the call is repeated, four times
    and two and a half minutes at most.

    Args:
        url: of the node or of its API, such as ``https://api.hiro.so``.
        calls_per_minute: how many calls the node allows.
        key: sent as ``x-api-key``; it is in no log and no error.
        transport: replaces the network in tests.
        timeout: in seconds, for each request up to the end of its response.
        now: returns seconds.
        sleep: sleeps that many seconds.

    Raises:
        UsageError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        calls_per_minute: int = 500,
        key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 20.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._host = _check_access(url, key)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"x-api-key": key} if key else {},
            transport=transport,
            timeout=timeout,
        )
        self._timeout = timeout
        self._now = now
        self._sleep = sleep
        # A little more than needed: clocks and ways to the node differ.
        self._interval = 61 / calls_per_minute
        self._next = now()
        self._turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def call(self, contract: str, function: str, *arguments: Value) -> Value:
        """Call a read-only function and return its value.

        Raises:
            SourceError: the call failed, or its response cannot be read.
        """
        address, _, name = contract.partition(".")
        body = {
            "sender": _SENDER,
            "arguments": [f"0x{serialize(each).hex()}" for each in arguments],
        }
        path = f"/v2/contracts/call-read/{address}/{name}/{function}"
        try:
            answer = msgspec.convert(await self._ask("POST", path, body), _Answer)
            if answer.okay:
                return deserialize(bytes.fromhex(answer.result.removeprefix("0x")))
        except _FAILURES as error:
            raise self._failed(f"call {contract} {function}", error) from error
        cause = self._without_key(answer.cause)[:200]
        raise CallRefused(f"cannot call {contract} {function}: {cause}")

    async def run(self, what: str, steps: Steps[_T]) -> _T:
        """Return the result of the steps. The calls of a step are sent concurrently.

        Args:
            what: that is read, for errors.
            steps: yield the calls.

        Raises:
            SourceError: a call failed, or its value does not fit.
        """
        try:
            calls = next(steps)
            while True:
                tasks = [asyncio.create_task(self._answer(each)) for each in calls]
                try:
                    values = await asyncio.gather(*tasks)
                finally:
                    for task in tasks:  # after a failure, the others are of no use
                        task.cancel()
                calls = steps.send(values)
        except StopIteration as done:
            return cast("_T", done.value)
        except ClarityError as error:
            text = self._without_key(str(error))
            raise SourceError(f"cannot read {what}: {text}") from error

    async def _answer(self, call: Call) -> Any:
        if call is BURN_HEIGHT:
            return await self.burn_height()
        try:
            value = await self.call(call.contract, call.function, *call.arguments)
            return value if call.kind is None else convert(value, call.kind)
        except CallRefused as error:
            if call.may_fail:
                return Name(str(error))
            raise
        except ClarityError as error:
            words = [call.contract, call.function, *map(represent, call.arguments)]
            raise ClarityError(f"{' '.join(words)}: {error}") from error

    async def burn_height(self) -> int:
        """Return the height of the Bitcoin chain, as the node knows it.

        Raises:
            SourceError: the request failed, or its response cannot be read.
        """
        try:
            info = await self._ask("GET", "/v2/info", None)
            return int(info["burn_block_height"])
        except _FAILURES as error:
            raise self._failed("read /v2/info", error) from error

    def _failed(self, what: str, error: Exception) -> SourceError:
        reason = self._without_key(str(error)) or type(error).__name__
        return SourceError(f"cannot {what} at {self._host}: {reason}")

    def _without_key(self, text: str) -> str:
        """Hide the key where a node repeats it."""
        key = self._http.headers.get("x-api-key")
        return text.replace(key, "[hidden]") if key else text

    async def _ask(self, method: str, path: str, body: object) -> Any:
        async with self._slots:
            response = await self._send(method, path, body)
            last = self._now() + _LONGEST_CALL
            for attempt in range(_RETRIES):
                if response.status_code not in (429, 503):
                    break
                pause = min(_retry_after(response, 2.0**attempt), _LONGEST_PAUSE)
                self._next = max(self._next, self._now() + pause)
                if self._next > last:
                    break
                response = await self._send(method, path, body)
        if response.status_code != 200:
            raise ValueError(f"HTTP status {response.status_code}")
        return response.json()

    async def _send(self, method: str, path: str, body: object) -> httpx.Response:
        async with self._turn:
            # A shorter wait than a millisecond might not move the clock.
            while (wait := self._next - self._now()) > 0.001:
                await self._sleep(wait)
            self._next = self._now() + self._interval
        async with asyncio.timeout(self._timeout):
            return await self._http.request(method, path, json=body)


def _check_access(url: str, key: str | None) -> str:
    """Return the host of a URL that a key may be sent to."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        # A URL may contain a password, so it is not repeated.
        raise UsageError("the node's URL must be https://host, without a password")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError("STACKS_API_KEY has spaces or other invalid characters")
    if key and parsed.scheme == "http" and parsed.host not in _LOOPBACK:
        raise UsageError("STACKS_API_KEY is sent only over https://")
    return parsed.host


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    """Return for how many seconds the server does not want to be asked."""
    said = response.headers.get("retry-after", "")
    if said.isascii() and said.isdecimal():
        return float(said)
    try:
        until, at = map(parsedate_to_datetime, (said, response.headers.get("date", "")))
        return max((until - at).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return otherwise


class NodeSource:
    """Positions and the protocol's state from its own contracts, by the market's reader.

    Raises:
        MarketError: the market file does not name a contract that is read.
    """

    chunk: int = 10

    def __init__(self, node: Node, market: Market) -> None:
        self._node, self._reader = node, reader_of(market)
        self.caveats, self._name = self._reader.caveats, market.name
        self.lists_borrowers = self._reader.lists_borrowers

    async def borrowers(self, most: int) -> Sequence[str]:
        """Return the accounts with debt among the newest ones of that number."""
        return await self._node.run("borrowers", self._reader.borrowers(most))

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read the positions of these addresses, in their order."""
        await self._node.run("what positions need", self._reader.prepare())
        jobs = [self._position(each, at) for each in borrowers]
        return await _all("positions", jobs)

    async def _position(self, borrower: str, at: int) -> list[Position]:
        steps = self._reader.position(borrower, at)
        return [await self._node.run(f"the position of {borrower}", steps)]

    async def state(self, at: int) -> State:
        """Read the protocol's state.

        Raises:
            SourceError: not all of it can be read now.
        """
        steps: Steps[State] = self._reader.state(at)
        return await self._node.run(f"the state of {self._name}", steps)

    async def compare(self) -> MarketCheck:
        """Compare the market file with the chain.

        Raises:
            MarketError: the file does not name a contract.
            SourceError: not everything can be read now.
        """
        found = await self._node.run(self._name, self._reader.differences())
        texts = [
            (filed, f"{place}: the chain has {has}, the file {filed or 'nothing'}")
            for place, has, filed in found
        ]
        return MarketCheck(
            wrong=tuple(text for filed, text in texts if filed is not None),
            missing=tuple(text for filed, text in texts if filed is None),
        )


class NodePrices:
    """Prices, with time and confidence, from Pyth's contract on the chain.

    ``[node]`` in the market file names the contract as ``pyth``; each reserve names its
    ``feed``.

    Raises:
        MarketError: the contract or every feed is missing from the market file.
    """

    caveats: Sequence[str] = (
        "prices are Pyth's as last written on the chain",
        "the protocol's oracles may convert them (stSTX), or take others",
    )

    def __init__(self, node: Node, market: Market) -> None:
        self._node = node
        if "pyth" not in market.node:
            raise MarketError(
                "market.node.pyth is missing: --prices node reads Pyth's contract; name "
                f"it for {market.name}, or choose other prices (--prices ortege or FILE)"
            )
        self._pyth = market.role("pyth")
        self._reserves = [each for each in market.reserves if each.feed]
        if not self._reserves:
            raise MarketError("market.reserves: at least one reserve needs a feed")

    async def prices(self) -> Sequence[Price]:
        """Read each feed once, and return the price of each reserve that has one."""
        feeds = sorted({each.feed for each in self._reserves})
        jobs = [self._node.run(f"the feed {each}", self._feed(each)) for each in feeds]
        return await _all("price feeds", jobs)

    def _feed(self, feed: str) -> Steps[list[Price]]:
        """Return the price of each reserve that has this feed."""
        (found,) = yield [
            Call(self._pyth, "get-price", (bytes.fromhex(feed),), _PythPrice)
        ]
        price = _eight(found.price.value, found.expo.value)
        confidence = _eight(found.conf, found.expo.value)
        return [
            Price(
                asset=each.asset,
                price=price,
                confidence=confidence,
                at=found.publish_time,
            )
            for each in self._reserves
            if each.feed == feed
        ]


class _PythPrice(msgspec.Struct, rename="kebab"):
    price: Int
    expo: Int
    conf: int
    publish_time: int


async def _all(what: str, jobs: Sequence[Awaitable[Sequence[_T]]]) -> list[_T]:
    """Wait for all jobs; those that fail do not lose what the others have read."""
    done = await asyncio.gather(*jobs, return_exceptions=True)
    found: list[_T] = []
    failed: list[SourceError] = []
    for each in done:
        if isinstance(each, SourceError):
            failed.append(each)
        elif isinstance(each, BaseException):
            raise each
        else:
            found.extend(each)
    if failed:
        count = f"{len(failed)} of {len(jobs)} {what} not read: " if found else ""
        raise SourceError(f"{count}{failed[0]}", found) from failed[0]
    return found


def _eight(number: int, exponent: int) -> int:
    places = exponent + 8
    if abs(places) > 30 or number < 0:
        raise ClarityError(f"price out of range: {number} with exponent {exponent}")
    return number * int(10**places) if places >= 0 else number // int(10**-places)
