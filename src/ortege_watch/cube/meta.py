"""The cubes of a server and their members, as ``/meta`` lists them.

The models are msgspec structs, not attrs classes: they are decoded from the server's
bytes in one strict step, with the wire's camelCase names. Unknown keys are ignored,
because every version of Cube has others.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import msgspec

from ortege_watch import _json as codec
from ortege_watch._checks import check_kind, check_text, shown
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.query import Member
from ortege_watch.query.values import UNITS


class _Described(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The attributes that cubes and members share.

    Attributes:
        name: the full name, ``"cube"`` or ``"cube.member"``.
        title: the name for people.
        description: the modeller's description.
        public: it may be queried; ``True`` if the server does not send it.
        meta: the modeller's own data, any JSON.
    """

    name: str
    title: str | None = None
    description: str | None = None
    public: bool = True
    meta: Any = None


class _Member(_Described, frozen=True, kw_only=True, rename="camel", gc=False):
    kind: ClassVar[str]

    short_title: str | None = None

    @property
    def granularity_names(self) -> tuple[str, ...]:
        """What ``TimeDimension.by`` takes; empty unless this is a dimension of time."""
        return ()


class MeasureMeta(_Member, frozen=True, kw_only=True, rename="camel", gc=False):
    """A measure.

    Attributes:
        type: ``"number"`` mostly; also ``"string"``, ``"time"`` or ``"boolean"``.
        agg_type: ``"count"``, ``"sum"``, ``"avg"`` ...
        format: ``"percent"``, ``"currency"`` or a server's own; also an object.
        drill_members: names of the dimensions behind the number.
    """

    kind = "measure"

    type: str
    agg_type: str | None = None
    format: Any = None
    drill_members: tuple[str, ...] | None = None


class GranularityMeta(msgspec.Struct, frozen=True, kw_only=True):
    """A granularity that the cube defines.

    Attributes:
        name: what ``TimeDimension.by`` takes.
        title: the name for people.
        interval: its length, such as ``"1 year"``.
    """

    name: str
    title: str | None = None
    interval: str | None = None


class DimensionMeta(_Member, frozen=True, kw_only=True, rename="camel", gc=False):
    """A dimension.

    Attributes:
        type: ``"string"``, ``"number"``, ``"time"``, ``"boolean"`` or ``"geo"``.
        primary_key: it is (part of) the primary key.
        format: as for a measure.
        granularities: those that the cube defines; Cube 1.0 and later.
    """

    kind = "dimension"

    type: str
    primary_key: bool = False
    format: Any = None
    granularities: tuple[GranularityMeta, ...] = ()

    @property
    def granularity_names(self) -> tuple[str, ...]:
        """What ``TimeDimension.by`` takes; empty unless this is a dimension of time."""
        if self.type != "time":
            return ()
        return (*UNITS, *(each.name for each in self.granularities))


class SegmentMeta(_Member, frozen=True, kw_only=True, rename="camel", gc=False):
    """A segment."""

    kind = "segment"


MemberMeta: TypeAlias = MeasureMeta | DimensionMeta | SegmentMeta


class CubeMeta(_Described, frozen=True, kw_only=True, rename="camel", gc=False):
    """A cube or a view.

    Attributes:
        type: ``"cube"`` or ``"view"``; ``"cube"`` if the server does not send it.
    """

    type: str = "cube"
    measures: tuple[MeasureMeta, ...] = ()
    dimensions: tuple[DimensionMeta, ...] = ()
    segments: tuple[SegmentMeta, ...] = ()

    @property
    def members(self) -> Iterator[MemberMeta]:
        """All members: the measures, then the dimensions, then the segments."""
        yield from self.measures
        yield from self.dimensions
        yield from self.segments

    def __repr__(self) -> str:
        return (
            f"<CubeMeta {self.name!r} measures={len(self.measures)} "
            f"dimensions={len(self.dimensions)} segments={len(self.segments)}>"
        )


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The cubes of a server; ``"cube" in meta`` and ``member in meta`` compare names.

    Attributes:
        cubes: in the server's order.
    """

    cubes: tuple[CubeMeta, ...]

    @classmethod
    def read(cls, data: bytes) -> Meta:
        """Decode the body of ``/meta``; numbers are int or ``Decimal``.

        Raises:
            DecodeError: it has another form; the message names the path.
            InvalidArgument: it is not bytes.
        """
        check_kind("data", data, bytes | bytearray | memoryview | str, "bytes")
        try:
            answer = _decoder.decode(data)
        except codec.UNREADABLE as error:
            problem = f"not a list of cubes ({error})"
            raise DecodeError(problem, excerpt=codec.excerpt(data)) from error
        return answer

    def cube(self, name: str) -> CubeMeta:
        """Return a cube or a view by its name.

        Raises:
            InvalidArgument: the name is unknown; the message lists similar names.
        """
        return _find("cube", name, self.cubes)

    def member(self, name: str) -> MemberMeta:
        """Return a measure, dimension or segment by its full name, ``"cube.member"``.

        Raises:
            InvalidArgument: the name is unknown; the message lists similar names.
        """
        return _find("member", name, self._members())

    def __contains__(self, name: object) -> bool:
        if isinstance(name, Member):
            name = name.name
        return any(each.name == name for each in (*self.cubes, *self._members()))

    def __repr__(self) -> str:
        names = codec.excerpt(", ".join(cube.name for cube in self.cubes))
        return f"<Meta cubes={len(self.cubes)} [{names}]>"

    def _members(self) -> Iterator[MemberMeta]:
        for cube in self.cubes:
            yield from cube.members


_decoder: Final = msgspec.json.Decoder(Meta, float_hook=Decimal)


D = TypeVar("D", bound=_Described)


def _find(kind: str, name: str, candidates: Iterable[D]) -> D:
    check_text("name", name)
    known = {each.name: each for each in candidates}
    if name in known:
        return known[name]
    # What is common to all names of a cube does not make them alike.
    cube, _, rest = name.rpartition(".")
    siblings = {
        each.rpartition(".")[2]: each
        for each in known
        if each.rpartition(".")[0] == cube
    }
    if siblings:
        near = [siblings[each] for each in difflib.get_close_matches(rest, siblings)]
    else:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    alike = " or ".join(map(repr, near))
    listed = codec.excerpt(", ".join(siblings.values() or known)) or "(none)"
    advice = f"did you mean {alike}?" if alike else f"the {kind}s are {listed}"
    raise InvalidArgument(f"unknown {kind} {shown(name)}: {advice}")
