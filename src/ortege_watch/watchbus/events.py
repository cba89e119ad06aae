"""The values of events: a class for each documented code, and one for all others.

A class accepts whatever is unambiguous; values are read when they are accessed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from itertools import islice
from operator import itemgetter
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Final,
    Self,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from attrs import frozen

from ortege_watch._checks import shown
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.watchbus.reading import INTEGER, NUMBER, STRING, Kind

# The set of codes is open: the specification lists five, uses a sixth in an example and
# says that there will be more.
_classes: Final[dict[str, type[EventValues]]] = {}
T = TypeVar("T")

_KINDS: Final[Mapping[object, Kind[Any]]] = {str: STRING, int: INTEGER, Decimal: NUMBER}


class EventValues(Mapping[str, Any]):
    """The values of an event: a mapping of names to values as they were received.

    It cannot be changed: of a list or an object among the values, it returns a copy.

    A subclass with a ``code`` has typed fields, which are read from the mapping on
    access: ``str``, ``int`` for block numbers and times, ``Decimal`` for amounts and
    percentages; never through a float. A field is annotated with one of these types,
    with ``| None`` if it is optional. An unknown code has no typed fields.

    Args:
        values: the mapping; further values as keyword arguments.

    Raises:
        DecodeError: on access to a field that is missing or of another kind;
            ``values["name"]`` always returns what was received.
    """

    __slots__ = ("_values",)

    code: ClassVar[str | None] = None
    """The event code that the class belongs to."""

    _fields: ClassVar[Mapping[str, _Field]] = {}
    _required: ClassVar[frozenset[str]] = frozenset()
    _matches: ClassVar[Sequence[tuple[str, Callable[[str], object]]]] = ()
    _values: Mapping[str, Any]

    def __init__(
        self, values: Mapping[str, Any] | None = None, /, **fields: Any
    ) -> None:
        self._values = copy_of({**(values or {}), **fields})

    def __init_subclass__(cls, *, code: str | None = None, **rest: Any) -> None:
        """Create the fields from the annotations and register the code."""
        super().__init_subclass__(**rest)
        own = _own_fields(cls)
        for name, each in own.items():
            setattr(cls, name, each)
        cls._fields = {**cls._fields, **own}
        fields = cls._fields.values()
        cls._required = frozenset(each.name for each in fields if not each.optional)
        cls._matches = [
            (each.name, each.kind.pattern.fullmatch)
            for each in fields
            if each.kind.pattern
        ]
        cls.code = code
        if code is not None:
            _register(code, cls)

    @classmethod
    def view(cls, values: Mapping[str, Any]) -> Self:
        """Return typed access to a mapping, without copying it."""
        made = cls.__new__(cls)
        made._values = values  # noqa: SLF001
        return made

    @classmethod
    def accept(cls, listed: Sequence[Mapping[str, str]]) -> bool:
        """Return whether none of several events, with strings only, has :meth:`problems`."""
        columns: dict[str, list[str]] = {}
        try:
            for name in cls._required:
                columns[name] = list(map(itemgetter(name), listed))
        except KeyError:
            return False
        for name, match in cls._matches:
            column = columns.get(name)
            if column is None:
                column = [values[name] for values in listed if name in values]
            if not all(map(match, column)):
                return False
        return True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the problem of each field that is missing or invalid."""
        for name, each in self._fields.items():
            given = self._values.get(name)
            if given is not None and each.kind.read(given) is not None:
                continue
            try:
                each.read(self)
            except DecodeError as error:
                yield name, error.problems[0]

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        return value if type(value) is str else copied(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self._values)!r})"


@frozen
class _Field:
    """One typed field; a data descriptor, so that it cannot be set."""

    name: str
    kind: Kind[Any]
    optional: bool

    def read(self, values: EventValues) -> object:
        given = values._values.get(self.name)  # noqa: SLF001
        if given is None:
            if self.optional:
                return None
            advice = f"use .get({self.name!r}) if it may be"
            if near := get_close_matches(self.name, _unknown_names(values), n=1):
                advice = f"is it the unknown field {near[0]!r}?"
            raise DecodeError(f"{self._where(values)} is missing; {advice}")
        value = self.kind.read(given)
        if value is None:
            problem = f"expected {self.kind.expected}, got {shown(given)}"
            if isinstance(given, float):
                problem += "; use Decimal, which is exact"
            raise DecodeError(f"{self._where(values)}: {problem}")
        return value

    def _where(self, values: EventValues) -> str:
        return f"{type(values).__name__}.{self.name}"

    def __get__(self, values: EventValues | None, _owner: type) -> object:
        return self if values is None else self.read(values)

    def __set__(self, values: EventValues, _value: object) -> None:
        raise AttributeError(f"{self._where(values)} cannot be set")


def copy_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the values of an event, or of another JSON object.

    Raises:
        InvalidArgument: they are nested too deeply.
    """
    try:
        return {
            name: value if type(value) is str else copied(value)
            for name, value in values.items()
        }
    except RecursionError:
        raise InvalidArgument("the values of an event are nested too deeply") from None


def copied(value: T) -> T:
    """Return a copy of a value of a JSON document, with copies of all that is in it."""
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return cast("T", {name: copied(each) for name, each in items})
    if isinstance(value, list):
        return cast("T", list(map(copied, cast("list[Any]", value))))
    return value


def _unknown_names(values: EventValues) -> list[str]:
    """Return names without a typed field: a few, because an alert may have many."""
    names = (str(name) for name in islice(values, 50))
    return [name for name in names if name not in values._fields and len(name) < 50]


def kind_of(code: str) -> type[EventValues]:
    """Return the class of a code's values; :class:`EventValues` for an unknown one."""
    return _classes.get(code, EventValues)


def _register(code: str, cls: type[EventValues]) -> None:
    known = _classes.get(code, cls)
    # The same name again is a module or a notebook cell that ran twice.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InvalidArgument(
            f"code {code!r} of {cls.__qualname__} is already used by"
            f" {known.__qualname__}"
        )
    _classes[code] = cls


def _own_fields(cls: type[EventValues]) -> dict[str, _Field]:
    try:
        hints = inspect.get_annotations(cls, eval_str=True)
    except NameError as error:
        raise InvalidArgument(
            f"the annotations of {cls.__qualname__} cannot be evaluated: {error};"
            " import the name at run time, not only for type checkers"
        ) from error
    return {
        name: _field_of(cls, name, hint)
        for name, hint in hints.items()
        if not name.startswith("_") and "ClassVar" not in str(hint)
    }


def _field_of(cls: type[EventValues], name: str, hint: object) -> _Field:
    where = f"{cls.__qualname__}.{name}"
    optional = get_origin(hint) in {Union, UnionType}
    types = [each for each in get_args(hint) if each is not type(None)]
    wanted = types[0] if optional and len(types) == 1 else hint
    if hasattr(EventValues, name):
        raise InvalidArgument(
            f"{where} would replace an attribute of EventValues; read it as"
            f" values[{name!r}]"
        )
    # Not `wanted in _KINDS`: a hint may be unhashable, such as a Literal of lists.
    for known, kind in _KINDS.items():
        if wanted is known:
            return _Field(name, kind, optional=optional)
    raise InvalidArgument(
        f"{where} must be annotated as str, int or Decimal, with '| None' if it is"
        f" optional, got {hint!r}"
    )


class _Transaction(EventValues):
    block_number: int
    tx_hash: str
    comment: str | None


class BigAmountTxn(_Transaction, code="big_amount_txn"):
    """A transfer of much value (documented minimum: 1,000 USD)."""

    current_value: Decimal


class BigAmountTxnPercent(_Transaction, code="big_amount_txn_percent"):
    """A transfer of much of the supply (documented minimum: 0.01 of it)."""

    cmc_slug: str
    current_value: Decimal


class BigAmountTxnUsd(_Transaction, code="big_amount_txn_usd"):
    """A transfer of much value in dollars (documented minimum: 100 USD)."""

    cmc_slug: str
    current_value: Decimal


class RiskFunctionCall(_Transaction, code="risk_function_call"):
    """A call of a risky function.

    The value is its signature, such as ``transfer(address,uint256)``.
    """

    current_value: str


class AbnormalFunctionCall(_Transaction, code="abnormal_function_call"):
    """An unusual call; the value is the function's signature."""

    current_value: str


class TrustScoreDecrease(EventValues, code="trust_score_decrease"):
    """A fall of a trust score (only in the specification's example of an alert)."""

    last_value: Decimal
    last_ts: int
    current_value: Decimal
    delta_value: Decimal
    delta_percent: Decimal
    comment: str | None
