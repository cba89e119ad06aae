"""FakeCube answers captured conversations with real servers frame for frame."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from ortege_watch.testing import FakeCube, Table

FRAMES = Path(__file__).parents[1] / "data" / "frames"
CAPTURES = {
    "classic": "canonical-classic-0.35.81.txt",
    "strict": "canonical-strict-1.7.43.txt",
}


def conversations():
    for generation, name in CAPTURES.items():
        text = (FRAMES / name).read_text()
        for title, body in re.findall(r"^=== (.*)\n((?:.+\n?)*)", text, re.MULTILINE):
            yield pytest.param(
                generation, body.splitlines(), id=f"{generation}: {title}"
            )


def masked(frame: str) -> str:
    frame = re.sub(r'"lastRefreshTime":"[^"]*"', '"lastRefreshTime":"…"', frame)
    return re.sub(r'"stack":"(?:[^"\\]|\\.)*"', '"stack":"…"', frame)


def events() -> Table:
    """The part of the captured server's model that the conversations name."""
    return Table(
        "stacks_contract_events",
        measures={"count": "count"},
        dimensions={"tx_hash": "string", "contract_id": "string"},
        drill_members={"count": ("tx_hash", "contract_id")},
    )


COUNT = '"stacks_contract_events.count":"'


def catch_up(cube: FakeCube, expected: str) -> None:
    """Bring the rows to where the captured server's were when it sent the frame."""
    table = cube.tables["stacks_contract_events"]
    match = re.search(r'"stacks_contract_events\.count":"(\d+)"}\]', expected)
    if match is None:
        return
    missing = int(match[1]) - len(table.rows)
    if missing:
        table.insert([{}] * missing)
    else:
        cube.refresh()


def test_every_captured_conversation_is_found():
    assert len(list(conversations())) == 2 * 8


@pytest.mark.parametrize(("generation", "lines"), list(conversations()))
async def test_conversation(generation, lines, request):
    title = request.node.callspec.id
    async with (
        FakeCube(generation, tables=[events()], tick=0.02) as cube,
        connect(cube.ws_url) as socket,
    ):
        tokens = {"bad": cube.token()[:-4] + "AAAA", "expired": cube.token(-5)}
        word = title.split(": ")[1].split()[0]
        token = tokens.get(word, cube.token())
        table_is_set = False
        for line in lines:
            kind, frame = line[:3], line[3:]
            if kind == "S< ":
                if COUNT in frame and table_is_set:
                    catch_up(cube, frame)
                got = await socket.recv()
                while '"message":' in frame and got.startswith('{"messageProcessedId"'):
                    got = await socket.recv()  # how many heartbeats came is chance
                assert masked(got) == masked(frame)
                table_is_set = table_is_set or COUNT in frame
            elif kind == "C> ":
                if '"subscribe","params"' in frame:
                    catch_up(cube, next((x for x in lines if COUNT in x), ""))
                await socket.send(frame.replace("<jwt>", token))
        if lines[-1] == "!! INSERT":
            await silent_after_unsubscribing(cube, socket)


async def silent_after_unsubscribing(cube, socket):
    await cube.wait_until_async(lambda: not cube.subscriptions)
    cube.tables["stacks_contract_events"].insert({})
    await socket.send(json.dumps({"messageId": "9", "method": "nonsense"}))
    answer = await socket.recv()
    while answer.startswith('{"messageProcessedId"'):  # was already on its way
        answer = await socket.recv()
    assert json.loads(answer)["status"] == 400
