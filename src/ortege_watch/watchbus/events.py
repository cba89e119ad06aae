"""The values of an event, typed where its code is known.

The set of codes is open: the page lists five, uses a sixth in an example, and says that
there will be more. An unknown code keeps its values as they came. An own code takes as
many lines as it has fields, and one more::

    class PriceDrop(EventValues, code="price_drop"):
        token: str
        drop_percent: Decimal
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from types import UnionType
from typing import Any, ClassVar, Final, Self, Union, get_args, get_origin

from ortege_watch.errors import DecodeError, QueryError
from ortege_watch.watchbus.reading import integer, number, shown

__all__ = [
    "AbnormalFunctionCall",
    "BigAmountTxn",
    "BigAmountTxnPercent",
    "BigAmountTxnUsd",
    "EventValues",
    "RiskFunctionCall",
    "TrustScoreDecrease",
    "kind_of",
]

_kinds: Final[dict[str, type[EventValues]]] = {}


def _as_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_READERS: Final[Mapping[object, tuple[Callable[[object], object], str]]] = {
    str: (_as_text, "text"),
    int: (integer, "an integer"),
    Decimal: (number, "a number"),
}


class EventValues(Mapping[str, Any]):
    """Hold what happened, as a mapping of names to values as they came.

    Subclasses read their fields when they are asked for: text as ``str``, block numbers
    and times as ``int``, amounts and percents as ``Decimal``; never through a float. A
    field is annotated with one of these types, with ``| None`` if it is optional.

    Args:
        values: the mapping, also as keyword arguments.

    Raises:
        DecodeError: when a field is asked for and is missing or of another kind;
            ``values["name"]`` always gives what came.
    """

    __slots__ = ("_values",)

    code: ClassVar[str | None] = None
    """The event code that the class belongs to."""

    _fields: ClassVar[Mapping[str, _Field]] = {}
    _values: Mapping[str, Any]

    def __init__(
        self, values: Mapping[str, Any] | None = None, /, **fields: Any
    ) -> None:
        self._values = {**(values or {}), **fields}

    def __init_subclass__(cls, *, code: str | None = None, **rest: Any) -> None:
        """Take the fields from the annotations, and the code into the register."""
        super().__init_subclass__(**rest)
        own = _own_fields(cls)
        for name, each in own.items():
            setattr(cls, name, each)
        cls._fields = {**cls._fields, **own}
        cls.code = code
        if code is not None:
            _register(code, cls)

    @classmethod
    def view(cls, values: Mapping[str, Any]) -> Self:
        """Return typed access to a mapping, without a copy of it."""
        made = cls.__new__(cls)
        made._values = values  # noqa: SLF001 - its own
        return made

    def problems(self) -> Iterator[tuple[str, str]]:
        """Find the fields that are missing or of another kind: name and sentence."""
        for name, each in self._fields.items():
            try:
                each.read(self)
            except DecodeError as error:
                yield name, error.problems[0]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self._values)!r})"


class _Field:
    """Read one field of the values; a data descriptor, so that nobody sets it."""

    __slots__ = ("name", "optional", "reader", "what")

    def __init__(self, name: str, kind: object, *, optional: bool) -> None:
        self.name = name
        self.optional = optional
        self.reader, self.what = _READERS[kind]

    def read(self, values: EventValues) -> object:
        given = values.get(self.name)
        if given is None:
            if self.optional:
                return None
            raise DecodeError(f"{self._where(values)} is missing; use .get() to ask")
        value = self.reader(given)
        if value is None:
            where = self._where(values)
            raise DecodeError(f"{where}: {shown(given)!r} is not {self.what}")
        return value

    def _where(self, values: EventValues) -> str:
        return f"{type(values).__name__}.{self.name}"

    def __get__(self, values: EventValues | None, _owner: type) -> object:
        return self if values is None else self.read(values)

    def __set__(self, values: EventValues, _value: object) -> None:
        raise AttributeError(f"{self._where(values)} cannot be set")


def kind_of(code: str) -> type[EventValues]:
    """Return the class of a code's values; :class:`EventValues` for an unknown one."""
    return _kinds.get(code, EventValues)


def _register(code: str, kind: type[EventValues]) -> None:
    known = _kinds.get(code, kind)
    # The same class again is a module or a notebook cell that ran twice.
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise QueryError(f"code: {code!r} belongs to {known.__qualname__} already")
    _kinds[code] = kind


def _own_fields(cls: type[EventValues]) -> dict[str, _Field]:
    try:
        hints = inspect.get_annotations(cls, eval_str=True)
    except NameError as error:
        raise QueryError(
            f"{cls.__qualname__}: {error}; import it at run time, not for type"
            " checkers alone"
        ) from error
    return {
        name: _field_of(cls, name, hint)
        for name, hint in hints.items()
        if not name.startswith("_") and "ClassVar" not in str(hint)
    }


def _field_of(cls: type[EventValues], name: str, hint: object) -> _Field:
    optional = get_origin(hint) in {Union, UnionType}
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    kind = kinds[0] if optional and len(kinds) == 1 else hint
    if hasattr(EventValues, name):
        advice = f"every EventValues has it already; read it as values[{name!r}]"
    elif not any(kind is known for known in _READERS):
        advice = f"it is {hint!r}; use str, int or Decimal, with '| None' if optional"
    else:
        return _Field(name, kind, optional=optional)
    raise QueryError(f"{cls.__qualname__}.{name}: {advice}")


class _Transaction(EventValues):
    block_number: int
    tx_hash: str
    comment: str | None


class BigAmountTxn(_Transaction, code="big_amount_txn"):
    """Report a transfer of much value (documented minimum: 1,000 USD)."""

    current_value: Decimal


class BigAmountTxnPercent(_Transaction, code="big_amount_txn_percent"):
    """Report a transfer of much of the supply (documented minimum: 0.01 of it)."""

    cmc_slug: str
    current_value: Decimal


class BigAmountTxnUsd(_Transaction, code="big_amount_txn_usd"):
    """Report a transfer of much value in dollars (documented minimum: 100 USD)."""

    cmc_slug: str
    current_value: Decimal


class RiskFunctionCall(_Transaction, code="risk_function_call"):
    """Report a call of a risky function; the value is its signature.

    Such as ``transfer(address,uint256)``.
    """

    current_value: str


class AbnormalFunctionCall(_Transaction, code="abnormal_function_call"):
    """Report an unusual call; the value is the function's signature."""

    current_value: str


class TrustScoreDecrease(EventValues, code="trust_score_decrease"):
    """Report that a trust score fell (seen in the page's example of an alert alone)."""

    last_value: Decimal
    last_ts: int
    current_value: Decimal
    delta_value: Decimal
    delta_percent: Decimal
    comment: str | None
