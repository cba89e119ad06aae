"""Rows that a test inserts, apart from those of every other test."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.postgres import Database

TABLE = "stacks_contract_events"


class Ledger:
    """Inserts events of one contract and tells them apart by their ``tx_hash``.

    Attributes:
        contract_id: the contract that all rows of this object belong to.
    """

    def __init__(self, postgres: Database, name: str) -> None:
        self._postgres = postgres
        self._numbers = itertools.count(1)
        self.contract_id = f"SPTEST.{name}"

    def insert(
        self,
        amount: str = "1",
        *,
        function_name: str = "supply",
        sender_address: str = "SPA",
        count: int = 1,
    ) -> list[str]:
        """Insert rows in one transaction and return their hashes.

        Args:
            amount: what each of them moves, as SQL writes a number.
            function_name: the function that each of them calls.
            sender_address: who sends each of them.
            count: how many.
        """
        numbers = list(itertools.islice(self._numbers, count))
        hashes = [f"0x{number:08x}" for number in numbers]
        values = ", ".join(
            f"('{tx_hash}', {quoted(self.contract_id)}, {quoted(function_name)}, "
            f"{quoted(sender_address)}, 'STX', {amount}, {200000 + number}, true, now())"
            for number, tx_hash in zip(numbers, hashes, strict=True)
        )
        self._postgres.execute(
            f"INSERT INTO {TABLE} (tx_hash, contract_id, function_name, "
            "sender_address, asset_id, amount, block_height, success, tx_date) "
            f"VALUES {values}"
        )
        return hashes

    def set_amount(self, tx_hash: str, amount: str) -> None:
        """Change what a row moves."""
        self._postgres.execute(
            f"UPDATE {TABLE} SET amount = {amount} WHERE {self._where(tx_hash)}"
        )

    def delete(self, tx_hash: str) -> None:
        """Delete a row, as a chain's reorganisation does."""
        self._postgres.execute(f"DELETE FROM {TABLE} WHERE {self._where(tx_hash)}")

    def _where(self, tx_hash: str) -> str:
        contract = quoted(self.contract_id)
        return f"contract_id = {contract} AND tx_hash = {quoted(tx_hash)}"


def quoted(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
