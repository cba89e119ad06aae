"""The scripts of the documentation, as they stand, against a real server.

Only the address and the token are given to them. README's script has a line that it
tells its reader to remove. All run at once, and none may miss an event.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from harness.cube_server import CubeServer
from harness.generations import PROJECT
from harness.ledger import quoted
from harness.machine import available
from harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60
BEGIN_SECONDS = 5
# At each tick 0.35.81 formats the times of all rows anew for each of seven subscriptions,
# which takes it more than two seconds; the scripts' REST calls need what is left.
TICK_SECONDS = 4
REFRESH_SECONDS = 2
CONTRACT = "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow-helper-v1-3"
# The two assets that the quick bot declares.
STSTX = "SP4SZE494VC2YC5JYG7AYFQ44F5Q4PYV7DVMDPBG.ststx-token::ststx"
AEUSDC = "SP3Y2ZSH8P7D50B0VBTSX11S7XSG24M1VB9YFQA4K.token-aeusdc::aeUSDC"
# More than the limit of 10,000 rows, within every window, and larger than what follows.
OLDER_ROWS = f"""
INSERT INTO stacks_contract_events (tx_hash, contract_id, function_name,
    sender_address, amount, block_height, tx_date)
SELECT 'old', '{CONTRACT}', 'supply', 'SPOLD', 1000000, 1,
    now() - interval '30 minutes' + number * interval '1 millisecond'
FROM generate_series(1, 10050) AS number;
"""


def readme():
    """Return README's first script, without the line that ends it."""
    script, *_ = blocks("README.md")
    return replaced(script, r"\n        break  # remove this line.*\n", "\n")


def quickstart():
    """Return the bot at the end of the quickstart, started as the page says."""
    [script] = [each for each in blocks("docs/quickstart.md") if "def main" in each]
    return script + "\n\nasyncio.run(main())\n"


def quick_bot():
    """Return the bot that docs/bot.md explains."""
    return (ROOT / "examples/quick_bot.py").read_text(encoding="utf-8")


def tutorial():
    """Return the example of Ortege's tutorial."""
    return (ROOT / "examples/tutorial.py").read_text(encoding="utf-8")


def blocks(page):
    """Return the Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def replaced(script, pattern, by):
    """Return a script with the one place changed that the pattern is for."""
    changed, count = re.subn(pattern, by, script)
    assert count == 1
    return changed


DOCUMENTS = {
    "readme": readme,
    "quickstart": quickstart,
    "quick_bot": quick_bot,
    "tutorial": tutorial,
}


class Script:
    """A script in a process of its own, and what it has printed."""

    def __init__(self, name, code, cube, folder):
        self.name = name
        path = folder / f"{name}.py"
        path.write_text(code, encoding="utf-8")
        self._path = folder / f"{name}.txt"
        with self._path.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-u", str(path)],
                cwd=folder,
                env={
                    **{k: v for k, v in os.environ.items() if k != "ALL_PROXY"},
                    "ORTEGE_URL": cube.url,
                    "ORTEGE_TOKEN": cube.token(),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._file = self._path.open(encoding="utf-8")
        self._rest = ""
        self._seen = set()

    def saw(self, sender, amount):
        """Return whether it has printed an event, or a verdict because of it."""
        code = self._process.poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.output()[-3000:]}"
        if self.name == "quick_bot":
            return sender is None or f"\n{sender} can be " in f"\n{self.output()}"
        return (str(sender), amount) in self._printed()

    def output(self):
        return self._path.read_text(encoding="utf-8")

    def _printed(self):
        """Return the sender and the amount of each line, or what else ends it."""
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            if "SPOLD" not in line and len(words := line.split()) > 1:
                self._seen.add((words[-2], number(words[-1])))
        return self._seen

    def stop(self):
        self._process.terminate()
        self._process.wait()
        self._file.close()


def number(word):
    """Return an amount that a script has printed; None for NULL or another word."""
    return Decimal(word) if re.fullmatch(r"[\d.]+", word) else None


@pytest.fixture(scope="module")
def quiet_cube(generation, postgres_server, pytestconfig):
    """A server with the older rows, for the scripts alone: they read every contract."""
    database = postgres_server.create_database(f"{generation.name}_documents")
    database.execute((PROJECT / "tables.sql").read_text(encoding="utf-8"))
    database.execute(OLDER_ROWS)
    with available(pytestconfig):
        cube = CubeServer(
            generation, database, tick=TICK_SECONDS, refresh=REFRESH_SECONDS
        )
    try:
        cube.start()
        yield cube, database
    finally:
        cube.close()


class Chain:
    """Events, and the positions of their senders, as the scripts should see them."""

    def __init__(self, database):
        self._database = database
        self.events = []

    def event(self, sender, amount, *, shown=None, at=None, unsafe=True):
        """Insert an event; ``shown`` is the sum of its row, if it is not its amount."""
        at = at or datetime.now(UTC)
        values = [None if each is None else quoted(each) for each in (sender, amount)]
        who, moved = ("NULL" if each is None else each for each in values)
        if sender is not None:
            self._database.execute(
                f"DELETE FROM stacks_dapp_zest_positions_net"
                f" WHERE lender_address = {who};"
                "INSERT INTO stacks_dapp_zest_positions_net VALUES"
                f" ({who}, '{STSTX}', 10, NULL, NULL),"
                f" ({who}, '{AEUSDC}', NULL, {10 if unsafe else 1}, NULL)"
            )
        self._database.execute(
            "INSERT INTO stacks_contract_events (tx_hash, contract_id, function_name,"
            " sender_address, amount, block_height, tx_date) VALUES ('new',"
            f" {quoted(CONTRACT)}, 'borrow', {who}, {moved}, 2, {quoted(str(at))})"
        )
        shown = shown or amount
        event = (sender, None if shown is None else Decimal(shown))
        self.events.append(event)
        return event

    def prices(self, dollars):
        """Insert prices of this moment."""
        self._database.execute(
            "INSERT INTO stacks_oracle_prices VALUES"
            f" ('stSTX', {dollars}, now()), ('aeUSDC', {dollars}, now())"
        )


def test_no_event_is_missed(generation, quiet_cube, tmp_path):
    cube, database = quiet_cube
    chain = Chain(database)
    chain.prices("1")
    codes = {name: make() for name, make in DOCUMENTS.items()}
    # What the first versions of these scripts did; both must miss events.
    codes["only added"] = replaced(readme(), r"update\.upserted", "update.added")
    codes["unordered"] = replaced(readme(), r"    order=.*\n", "")
    scripts = {}
    try:
        for name, code in codes.items():
            scripts[name] = Script(name, code, cube, tmp_path)
        documents = [scripts[name] for name in DOCUMENTS]
        ordered = [*documents, scripts["only added"]]

        def arrives(event, expected=documents):
            def everywhere():
                missing[:] = [each.name for each in expected if not each.saw(*event)]
                return not missing

            missing = []
            try:
                wait_until(everywhere, seconds=SECONDS, what=f"{event} arrives")
            except TimeoutError as error:
                raise AssertionError(f"{missing} have not seen {event}") from error

        # Some scripts print nothing of the first update: events come until all have
        # begun. These are not counted.
        begins = []

        def late():
            return [s.name for s in ordered if not any(s.saw(*b) for b, _ in begins)]

        def begun():
            if not begins or time.monotonic() > begins[-1][1] + BEGIN_SECONDS:
                event = chain.event(f"SPBEGIN{len(begins)}", "1")
                begins.append((event, time.monotonic()))
            return not late()

        try:
            wait_until(begun, seconds=SECONDS, what="all scripts begin")
        except TimeoutError as error:
            raise AssertionError(f"{late()} have seen none of {begins}") from error
        chain.events.clear()

        block = datetime.now(UTC)
        chain.event("SPTWIN", "1", at=block, unsafe=False)
        arrives(chain.event("SPFENCE", "5"), ordered)
        chain.event("SPTWIN", "2", at=block, shown="3")
        chain.prices("NULL")
        chain.event(None, "7")
        arrives(chain.event("SPNULL", None), scripts.values())
        arrives(("SPTWIN", Decimal(3)))

        cube.kill()
        chain.event("SPAWAY", "11")
        chain.event("SPTWIN", "4", at=block, shown="7")
        cube.start()
        arrives(chain.event("SPLAST", "13"), ordered)

        for event in chain.events:
            arrives(event)
        for script in documents:
            assert re.search("row limit|use a shorter|the window", script.output())
        assert not scripts["only added"].saw("SPTWIN", Decimal(3))
        assert not scripts["only added"].saw("SPTWIN", Decimal(7))
        assert not scripts["unordered"].saw("SPFENCE", Decimal(5))
    finally:
        for script in scripts.values():
            script.stop()
