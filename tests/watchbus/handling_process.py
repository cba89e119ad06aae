"""Handle alerts with a store in a file, for tests of several processes.

Prints the number of each alert that its handler gets. With the argument ``hang`` the
handler never returns.
"""

from __future__ import annotations

import asyncio
import sys
import time

from channels import alert, number_of

from ortege_watch.watchbus import AlertInbox, SQLiteHandled


async def main(path: str, start: str, count: str, *hang: str) -> None:
    async def handler(alert) -> None:
        print(number_of(alert), flush=True)
        await asyncio.sleep(3600 if hang else 0)

    with SQLiteHandled(path) as handled:
        inbox = AlertInbox(handled)
        await asyncio.sleep(float(start) - time.time())
        for number in range(int(count)):
            outcome = await inbox.handle(alert(number), "app", handler)
            assert outcome.action == "acknowledge", outcome


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
