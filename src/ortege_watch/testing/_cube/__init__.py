"""The Cube server behind FakeCube: queries, tables, frames."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """An error answer of a Cube server, raised where it is found.

    Args:
        error: the sentence.
        status: the HTTP status.
        type: the error's type, where Cube gives one: only its compiler does.
        stack: whether servers of the classic generation add a stack.
    """

    def __init__(
        self,
        error: str,
        *,
        status: int = 400,
        type: str | None = None,
        stack: bool = True,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.type = type
        self.stack = stack

    @classmethod
    def user(cls, error: str) -> Refusal:
        """Build an error of the data model's compiler."""
        return cls(error, type="UserError")

    @classmethod
    def internal(cls, error: str) -> Refusal:
        """Build an error with status 500."""
        return cls(error, status=500)

    @classmethod
    def database(cls, error: str) -> Refusal:
        """Build an error of the database: without a stack in any generation."""
        return cls(f"Error: {error}", stack=False)

    def body(self, *, with_stack: bool) -> dict[str, Any]:
        """Return the body of the answer, keys in Cube's order."""
        body: dict[str, Any] = {} if self.type is None else {"type": self.type}
        body["error"] = self.error
        if with_stack and self.stack:
            body["stack"] = f"Error: {self.error}\n    at <anonymous>"
        return body
