"""A process that sends answers prepared beforehand: ``server.py push|load|call …``.

Nothing is parsed or built while it sends, so the client alone is measured. Pushes come
at a steady pace that is slower than any receiver: each is handled before the next one
comes, as with a real server, whose pushes are seconds apart. A query gets the form it
asks for.

The first line of its output is the port. After each conversation of pushes follows a
line of JSON: the bytes of the last frame, and when each was sent, on the monotonic
clock that all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from functools import cache
from time import monotonic
from urllib.parse import unquote_plus

from frames import Form, answers, asks_for_one, form_of, frame, tutorial_frame
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

# After the first frame, because some things are done once; and before the last one, so
# that a program can tell what it needed until then.
PAUSE = 0.3


class Pushes:
    """Pushes ``count`` answers over each WebSocket connection.

    A query with a limit of one gets answers of one row, and nothing is printed for it.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    @cache  # noqa: B019 - one instance, as long as its process
    def _frames(self, form: Form | None, rows: int) -> list[str]:
        options = self._options
        given = answers(rows, options.case, options.count, form or "default")
        return [frame(answer) if form else tutorial_frame(answer) for answer in given]

    async def _conversation(self, socket: ServerConnection) -> None:
        sent, size, is_small = [], 0, False
        try:
            request = str(await socket.recv())
            form = None
            if "authorization" in json.loads(request):
                await socket.send('{"handshake":true}')
                request = str(await socket.recv())
                form = form_of(request)
            is_small = asks_for_one(request)
            frames = self._frames(form, 1 if is_small else self._options.rows)
            for each in frames:
                sent.append(monotonic())
                await socket.send(each)
                size = len(each)
                pause = PAUSE if len(sent) in {1, len(frames) - 1} else 0
                await asyncio.sleep(self._options.pace + pause)
            await socket.wait_closed()
        except ConnectionClosed:
            pass
        finally:
            if not is_small:
                print(json.dumps({"bytes": size, "sent": sent}), flush=True)

    async def run(self) -> None:
        async with serve(
            *(self._conversation, "127.0.0.1", 0),
            compression=None,
            ping_interval=None,
            max_size=None,
        ) as server:
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()


class Responder:
    """Responds to each HTTP request on a connection that stays open."""

    def respond(self, line: str, body: str) -> bytes:
        """Return the response to a request, from its first line and its body."""
        raise NotImplementedError

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = 0
                for line in head.lower().splitlines():
                    if line.startswith("content-length:"):
                        length = int(line.partition(":")[2])
                body = (await reader.readexactly(length)).decode()
                writer.write(self.respond(head.partition("\r\n")[0], body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


class Loads(Responder):
    """Responds with a result, in the form that the query asks for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._responses = {
            form: _response(next(answers(options.rows, "none", 1, form)).encode())
            for form in ("default", "compact")
        }

    def respond(self, line: str, body: str) -> bytes:
        return self._responses[form_of(unquote_plus(line) + body)]


class Calls(Responder):
    """Responds to every call of the watch-bus alike."""

    def __init__(self, _options: argparse.Namespace) -> None:
        entity = {
            "entity": "0x" + "ab" * 20,
            "chain_id": "56",
            "entity_type": "ERC20",
            "event_code": "big_amount_txn",
        }
        data = {"watch_result": [entity]}
        body = {"status": "OK", "code": "000000000", "data": data}
        self._answer = _response(json.dumps(body).encode())

    def respond(self, line: str, body: str) -> bytes:
        return self._answer


def _response(body: bytes) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(required=True)
    push = kinds.add_parser("push")
    push.add_argument("rows", type=int)
    push.add_argument("case")
    push.add_argument("count", type=int)
    push.add_argument("pace", type=float)
    push.set_defaults(kind=Pushes)
    load = kinds.add_parser("load")
    load.add_argument("rows", type=int)
    load.set_defaults(kind=Loads)
    kinds.add_parser("call").set_defaults(kind=Calls)
    options = parser.parse_args()
    asyncio.run(options.kind(options).run())


if __name__ == "__main__":
    main()
