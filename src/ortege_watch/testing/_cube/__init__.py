"""The Cube server behind FakeCube: queries, tables, frames."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.define(slots=False)
class Refusal(Exception):
    """An error answer of a Cube server, raised where it is found."""

    error: str
    status: int = attrs.field(default=400, kw_only=True)
    type: str | None = attrs.field(default=None, kw_only=True)  # of its compiler only
    stack: bool = attrs.field(default=True, kw_only=True)  # where classic adds one

    @property
    def is_of_database(self) -> bool:
        """Whether the database raised it, not Cube."""
        return not self.stack

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
