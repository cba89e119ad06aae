"""A process that sends frames prepared beforehand, at a steady pace.

Nothing is parsed or built while it sends, so the receiver alone is measured. The pace
is slower than any receiver: each frame is dealt with before the next one comes, as
with a real server, whose frames are seconds apart.
"""

from __future__ import annotations

import argparse
import asyncio

from frames import conversation, tutorial
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("case")
    parser.add_argument("count", type=int)
    parser.add_argument("pace", type=float)
    options = parser.parse_args()
    cube = list(conversation(options.rows, options.case, options.count))
    legacy = [tutorial(frame) for frame in cube]

    async def talk(socket: ServerConnection) -> None:
        try:
            first = await socket.recv()
            frames = legacy
            if "authorization" in str(first):
                await socket.send('{"handshake":true}')
                await socket.recv()
                frames = cube
            for number, frame in enumerate(frames):
                await socket.send(frame)
                # What is done once is done at the first frame.
                await asyncio.sleep(options.pace + (0.3 if number == 0 else 0))
            await socket.wait_closed()
        except ConnectionClosed:
            pass

    async with serve(
        talk, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=None
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
