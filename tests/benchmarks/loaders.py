"""The programs that load a result over REST; each runs in a process of its own.

``loaders.py NAME PORT COUNT`` loads the result ``COUNT`` times over one connection,
reads two values of each row, and prints what ``receivers.py`` prints. The clients from
PyPI run in an environment of their own, so this file imports nothing else for them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal

from frames import AMOUNT, QUERY, SENDER
from receivers import Recorder, library_query

WARM_UP = 3

Values = list[tuple[float | Decimal, str]]


def values_of(rows: list[dict[str, str]]) -> Values:
    return [(float(row[AMOUNT]), row[SENDER]) for row in rows]


def measure(load: Callable[[], Values], count: int) -> None:
    for _ in range(WARM_UP):
        load()
    recorder = Recorder()
    for number in range(count):
        recorder.on_answer(number)
        values = load()
    recorder.finish()
    recorder.report([Decimal(str(amount)) for amount, _ in values])


async def measure_async(load: Callable[[], Awaitable[Values]], count: int) -> None:
    for _ in range(WARM_UP):
        await load()
    recorder = Recorder()
    for number in range(count):
        recorder.on_answer(number)
        values = await load()
    recorder.finish()
    recorder.report([Decimal(str(amount)) for amount, _ in values])


def request(port: int) -> dict[str, object]:
    """Return the request of the floor, for httpx."""
    return {
        "url": f"http://127.0.0.1:{port}/cubejs-api/v1/load",
        "json": {"query": QUERY, "queryType": "multi"},
        "headers": {"Authorization": "token"},
    }


def floor(port: int, count: int) -> None:
    """Load with ``httpx.Client`` and ``orjson.loads``; amounts become floats."""
    import httpx
    import orjson

    with httpx.Client() as http:

        def load() -> Values:
            body = http.post(**request(port)).content
            return values_of(orjson.loads(body)["results"][0]["data"])

        measure(load, count)


async def floor_async(port: int, count: int) -> None:
    """Do the same with ``httpx.AsyncClient``."""
    import httpx
    import orjson

    async with httpx.AsyncClient() as http:

        async def load() -> Values:
            body = (await http.post(**request(port))).content
            return values_of(orjson.loads(body)["results"][0]["data"])

        await measure_async(load, count)


def library(port: int, count: int) -> None:
    """Load with ``CubeClient``; amounts become ``Decimal``."""
    from ortege_watch import CubeClient

    query, amount, sender = library_query()
    with CubeClient(f"http://127.0.0.1:{port}", "token") as client:

        def load() -> Values:
            return [(row[amount], row[sender]) for row in client.load(query)]

        measure(load, count)


async def library_async(port: int, count: int) -> None:
    """Do the same with ``AsyncCubeClient``."""
    from ortege_watch import AsyncCubeClient

    query, amount, sender = library_query()
    async with AsyncCubeClient(f"http://127.0.0.1:{port}", "token") as client:

        async def load() -> Values:
            return [(row[amount], row[sender]) for row in await client.load(query)]

        await measure_async(load, count)


def cubejs_client(port: int, count: int) -> None:
    """Load with ``cubejs-client-python``: a ResultSet of dicts, amounts as floats."""
    from cubejs_client import CubeClient

    client = CubeClient("token", api_url=f"http://127.0.0.1:{port}/cubejs-api/v1")
    measure(lambda: values_of(client.load(QUERY).raw_data()), count)


def cube_http(port: int, count: int) -> None:
    """Load with ``cube-http-client``: pydantic checks dicts, amounts as floats."""
    import cube_http

    url = f"http://127.0.0.1:{port}/cubejs-api"
    client = cube_http.Client({"url": url, "token": "token"})
    measure(lambda: values_of(client.v1.load({"query": QUERY}).results[0].data), count)


PROGRAMS = (floor, floor_async, library, library_async, cubejs_client, cube_http)


def main() -> None:
    which, port, count = sys.argv[1:]
    done = {each.__name__: each for each in PROGRAMS}[which](int(port), int(count))
    if done is not None:
        asyncio.run(done)


if __name__ == "__main__":
    main()
