"""A thread that changes the rows of one contract at random."""

from __future__ import annotations

import itertools
import threading
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING

from injection.oracle import History

if TYPE_CHECKING:
    from injection.servers import Server


class Writer:
    """Inserts, updates and deletes rows, some of them again.

    Args:
        server: the server that holds the rows.
        contract: the contract that all rows belong to.
        seed: of the random changes and of the pauses between them.

    Attributes:
        contract: the same.
        history: the versions of the rows.
    """

    def __init__(self, server: Server, contract: str, seed: str) -> None:
        self.contract = contract
        self.history = History()
        self._store = server.store(contract)
        self._random = Random(seed)
        self._pace = server.pace
        self._numbers = itertools.count(1)
        self._deleted: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer {contract}")
        self._error: BaseException | None = None

    def insert(self, *keys: str) -> None:
        """Insert rows with these keys, in one transaction."""
        rows = {key: self._amount() for key in keys}
        self.history.insert(rows)
        self._store.insert(rows)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and check that the rows are those that were written."""
        self._stopped.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self.history.state == self._store.rows()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._random.uniform(0.2, 1.8) * self._pace):
                self._change()
        except BaseException as error:  # noqa: BLE001 - raised by stop()
            self._error = error

    def _change(self) -> None:
        keys = sorted(self.history.state)
        kinds = ("insert", "update", "delete", "insert again")
        [kind] = self._random.choices(kinds, (10, 5, 4, 1))
        if kind == "update" and keys:
            key, amount = self._random.choice(keys), self._amount()
            self.history.update(key, amount)
            self._store.update(key, amount)
        elif kind == "delete" and keys:
            gone = self._random.sample(keys, min(len(keys), self._random.randint(1, 3)))
            self._deleted += gone
            self.history.delete(gone)
            self._store.delete(gone)
        elif kind == "insert again" and self._deleted:
            self.insert(self._deleted.pop(self._random.randrange(len(self._deleted))))
        else:
            count = self._random.randint(1, 3)
            self.insert(*(f"0x{next(self._numbers):06x}" for _ in range(count)))

    def _amount(self) -> Decimal:
        return Decimal(self._random.randrange(1, 10**9)) / 1000
