"""Verifying signed requests."""

from __future__ import annotations

import threading
import time
from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec
from attrs import Factory, field, frozen

from ortege_watch import _json as codec
from ortege_watch._checks import (
    bad_result,
    check_callable,
    check_int,
    check_kind,
    check_methods,
    check_seconds,
    is_async,
    not_copyable,
)
from ortege_watch._sqlite import DatabaseFile
from ortege_watch.errors import (
    InvalidArgument,
    SignatureError,
    SignatureReason,
)
from ortege_watch.tokens import Concealed
from ortege_watch.watchbus import signing
from ortege_watch.watchbus.models import Alerts, read_alerts
from ortege_watch.watchbus.signing import Headers, request_line, signature_headers
from ortege_watch.watchbus.threads import LimitedCalls

T = TypeVar("T")

_FIRST_SWEEP: Final = 1000
_SWEEP_EVERY: Final = 10.0  # seconds
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS nonces (
        app_id TEXT NOT NULL,
        nonce TEXT NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (app_id, nonce)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS untils ON nonces (until);
"""


class NonceStore(Protocol):
    """The interface of nonce stores; implement it to share nonces between machines."""

    def record(self, app_id: str, nonce: str, now: float, until: float) -> bool:
        """Store a nonce and return whether it was new, in one atomic step.

        It is called after the signature was verified, from any thread. It is a plain
        method, and returns ``True`` or ``False``: with another result, no request is
        accepted.

        Args:
            app_id: the app that used the nonce; each app has its own.
            nonce: the nonce.
            now: unix seconds by the verifier's clock.
            until: when it may be deleted, in the same seconds.

        Raises:
            SignatureError: with ``NONCES_FULL`` if the store has no room for the app.
                To delete a nonce early would accept a replay.
        """
        ...


class MemoryNonces:
    """A nonce store in the memory of this process.

    Args:
        limit: the largest number of nonces of one app. With the default tolerance a
            nonce is kept for ten minutes, so the default is enough for 166 requests a
            second. One takes about 200 bytes.
    """

    def __init__(self, limit: int = 100_000) -> None:
        check_int("limit", limit)
        self._limit = limit
        self._apps: dict[str, _AppNonces] = {}

    def record(self, app_id: str, nonce: str, now: float, until: float) -> bool:
        """Store a nonce and return whether it was new."""
        kept = self._apps.get(app_id)
        if kept is None:  # setdefault() is one step, also between threads
            kept = self._apps.setdefault(app_id, _AppNonces(app_id, self._limit))
        if len(kept.nonces) >= kept.sweep_size:
            kept.sweep(now)
        # One step, also between threads: only the first one's entry is kept.
        entry = (until,)
        return kept.nonces.setdefault(nonce, entry) is entry

    def __len__(self) -> int:
        return sum(len(each.nonces) for each in list(self._apps.values()))


class _AppNonces:
    """The nonces of one app."""

    def __init__(self, app_id: str, limit: int) -> None:
        self.nonces: dict[str, tuple[float]] = {}
        self.sweep_size = min(_FIRST_SWEEP, limit)
        self._app_id = app_id
        self._limit = limit
        self._lock = threading.Lock()
        self._next_sweep = float("-inf")

    def sweep(self, now: float) -> None:
        with self._lock:
            # At most once a second, also when the store is full and the clock jumps.
            if not self._next_sweep - 1 <= now < self._next_sweep:
                self._next_sweep = now + 1
                for nonce, (until,) in list(self.nonces.items()):
                    if until < now:
                        del self.nonces[nonce]
                size = max(2 * len(self.nonces), _FIRST_SWEEP)
                self.sweep_size = min(size, self._limit)
            if len(self.nonces) >= self._limit:
                raise _full(self._app_id, self._limit)


class SQLiteNonces(DatabaseFile):
    """A nonce store in an SQLite file, which survives restarts and may be shared.

    Close it, or use it as a context manager.

    Args:
        path: the file; it is created if it does not exist.
        limit: the largest number of nonces of one app; up to ten seconds' more are
            accepted.

    Raises:
        OrtegeWatchError: the file cannot be used; also from :meth:`record`.
    """

    def __init__(self, path: str | Path, limit: int = 1_000_000) -> None:
        check_int("limit", limit)
        super().__init__(path, "the nonce file", _SCHEMA, synchronous="NORMAL")
        self._limit = limit
        self._next_sweep = float("-inf")
        self._full: set[str] = set()

    def record(self, app_id: str, nonce: str, now: float, until: float) -> bool:
        """Store a nonce and return whether it was new."""
        with self._guard:
            if not self._next_sweep - _SWEEP_EVERY <= now < self._next_sweep:
                self._next_sweep = now + _SWEEP_EVERY
                self._db.execute("DELETE FROM nonces WHERE until < ?", (now,))
                self._full = self._full_apps()
            if app_id in self._full:
                raise _full(app_id, self._limit)
            done = self._db.execute(
                "INSERT INTO nonces VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (app_id, nonce, until),
            )
            return done.rowcount == 1

    def _full_apps(self) -> set[str]:
        [kept] = self._db.execute("SELECT count(*) FROM nonces").fetchone()
        if kept < self._limit:  # to count by app takes five times as long
            return set()
        rows = self._db.execute(
            "SELECT app_id FROM nonces GROUP BY app_id HAVING count(*) >= ?",
            (self._limit,),
        )
        return {app_id for [app_id] in rows}


def _full(app_id: str, limit: int) -> SignatureError:
    return SignatureError(
        SignatureReason.NONCES_FULL,
        f"the nonce store has reached its limit of {limit} for the app {app_id!r}; raise"
        " the limit if this is not an attack",
    )


_NONCE_BYTES: Final = 16
_LONGEST_FIELD: Final = 200
_milliseconds: Final = msgspec.json.Decoder(
    Annotated[int, msgspec.Meta(le=signing.LAST_TIMESTAMP)]
).decode


Keys: TypeAlias = tuple[signing.Key, ...]
FindSecrets: TypeAlias = Callable[[str], Sequence[str] | None]
Head: TypeAlias = tuple[str, str, str, str, Keys, float]
"""App id, timestamp, nonce, signature, the app's keys, and the unix time in seconds."""


@frozen(eq=False, repr=False)
class RequestChecks:
    """The checks of a verifier, which applications make one by one.

    Attributes:
        method: the HTTP method of the requests.
        path: their whole path.
        nonces: stores their nonces.
        max_body: the size in bytes of the largest body that is read.
        keys_of: returns the keys of an app id; it may call a function of secrets.
    """

    method: str
    path: str
    nonces: NonceStore
    max_body: int
    keys_of: Callable[[str], Keys | None]
    calls: LimitedCalls[Keys | None] | None  # of keys_of, if that calls a function
    tolerance: float
    clock: Callable[[], float]
    is_nonce: Callable[[str], bool]
    line: str = field(  # what is signed of the method and the path
        default=Factory(lambda self: request_line(self.method, self.path), True),
        init=False,
    )

    def __repr__(self) -> str:
        return f"RequestVerifier(method={self.method!r}, path={self.path!r})"

    @property
    def nonces_may_block(self) -> bool:
        """Whether :meth:`accept` is to be called in a thread."""
        return not isinstance(self.nonces, MemoryNonces)

    def check_target(self, target: str | bytes) -> None:
        """Refuse a request with another path or with a query."""
        check_kind("target", target, str | bytes, "a path, str or bytes")
        text = target.decode("latin-1") if isinstance(target, bytes) else target
        path, mark, _ = text.partition("?")
        if path != self.path:
            problem = f"the path of the request is {path!r}; path= is {self.path!r}"
            raise SignatureError(SignatureReason.OTHER_PATH, problem)
        if mark:
            problem = "the request has a query, which the signature does not cover"
            raise SignatureError(SignatureReason.QUERY_PRESENT, problem)

    def check(self, headers: Headers, body: bytes, target: str | bytes | None) -> Head:
        """Refuse a request by all but its signature and the contents of its body."""
        if target is not None:
            self.check_target(target)
        if type(body) is not bytes:
            check_kind("body", body, bytes, "the bytes that arrived")
        if len(body) > self.max_body:
            raise body_too_large(self.max_body)
        return self._check_headers(headers, self.keys_of)

    def _check_headers(
        self, headers: Headers, keys_of: Callable[[str], Keys | None]
    ) -> Head:
        app_id, timestamp, nonce, signature = signature_headers(headers)
        try:
            sent = _milliseconds(timestamp) if timestamp.isdecimal() else None
        except codec.UNREADABLE:  # digits that are not ASCII, or too many of them
            sent = None
        if sent is None:
            problem = "the timestamp must be unix milliseconds"
            raise SignatureError(SignatureReason.MALFORMED_TIMESTAMP, problem)
        now = self.clock()
        age = now - sent / 1000
        if not -self.tolerance <= age <= self.tolerance:
            raise self._untimely(age, sent)
        if not self.is_nonce(nonce):
            problem = "the nonce has another shape than the verifier's nonce_shape"
            raise SignatureError(SignatureReason.MALFORMED_NONCE, problem)
        keys = keys_of(app_id)
        if keys is None:
            raise _unknown_app()
        return app_id, timestamp, nonce, signature, keys, now

    async def find_head(self, headers: Headers) -> Head:
        """Refuse a request by its headers alone, before its body is read.

        Returns:
            What :meth:`accept` needs of them, and the keys, as of :meth:`find_keys`.

        Raises:
            SignatureError: a header is missing or malformed, the request is too old, or
                its app id is unknown.
            OrtegeWatchError: a function of secrets took too long.
        """
        # What is refused anyhow needs no call.
        head = self._check_headers(headers, _no_keys)
        keys = await self.find_keys(head[0])
        if keys is None:
            raise _unknown_app()
        return (*head[:4], keys, head[5])

    async def find_keys(self, app_id: str) -> Keys | None:
        """Return what ``keys_of`` does; call a function of secrets in a thread.

        Raises:
            SignatureError: the function refuses the app.
            OrtegeWatchError: it took too long.
        """
        if self.calls is None:
            return self.keys_of(app_id)
        return await self.calls.get(app_id) if _is_short(app_id) else None

    def is_signed(self, fields: signing.Fields, keys: Keys | None, body: bytes) -> bool:
        """Return whether one of the keys has signed a request with these headers."""
        message = signing.canonical(*fields[:3], self.line, body)
        return keys is not None and signing.matches(keys, message, fields[3])

    def check_again(self, head: Head) -> Head:
        """Refuse a request that has become too old while its body was read.

        Its nonce may have been deleted in the meantime.

        Raises:
            SignatureError: with ``EXPIRED``.
        """
        now, sent = self.clock(), int(head[1])
        age = now - sent / 1000
        if not -self.tolerance <= age <= self.tolerance:
            raise self._untimely(age, sent)
        return (*head[:5], now)

    def accept(self, head: Head, body: bytes, read: Callable[[bytes, str], T]) -> T:
        """Check the signature and the nonce; return what ``read`` makes of the body.

        ``head`` is the result of :meth:`check` or :meth:`find_head`; the body has at most
        ``max_body`` bytes.
        """
        app_id, timestamp, nonce, signature, keys, now = head
        # as signing.canonical(), without a call
        message = f"{app_id};{timestamp};{nonce};{self.line}".encode() + body
        if not signing.matches(keys, message, signature):
            problem = (
                "the signature is of another secret or another request; a proxy may have"
                " changed the path or the body"
            )
            raise SignatureError(SignatureReason.BAD_SIGNATURE, problem)
        result = read(body, app_id)
        # Last: a request that is not accepted must not use up a nonce.
        is_new = self.nonces.record(app_id, nonce, now, now + 2 * self.tolerance)
        if is_new is not True:
            if is_new is not False:
                record = "record() of the nonce store"
                raise bad_result(record, "True or False", is_new)
            problem = "the nonce was used before: the request is a replay"
            raise SignatureError(SignatureReason.REPLAY, problem)
        return result

    def _untimely(self, age: float, sent: int) -> SignatureError:
        if age < 0:
            reason, offset = SignatureReason.IN_THE_FUTURE, "in the future"
        else:
            reason, offset = SignatureReason.EXPIRED, "old"
        tolerance = f"the tolerance is {self.tolerance:g} s"
        problem = f"the request is {abs(age):.3f} s {offset}; {tolerance}"
        if sent < signing.FIRST_TIMESTAMP:
            problem += "; the timestamp looks like seconds; it must be milliseconds"
        return SignatureError(reason, problem, delta=age)


class RequestVerifier:
    """Verifies that requests are signed by a known app, fresh and not replayed.

    Whatever arrives, only :class:`SignatureError` and
    :class:`~ortege_watch.DecodeError` are raised (and the errors of a failing nonce
    store or of ``secrets``). It is thread-safe.

    Args:
        secrets: the valid secrets of each app id, as a list; during a rotation, the old
            and the new one. A mapping is copied. To add and remove apps at run time,
            pass a plain function, which is called for each request, in any thread: it
            returns the list of an app id, or ``None`` for an unknown one, such as
            ``apps.get`` of a dict. It may also raise a :class:`SignatureError` with
            ``APP_EXPIRED`` or ``APP_OVER_LIMIT``. Do not use a secret that signs your
            own requests: the host is not signed.
        path: the whole path of the requests, such as ``/api/v1/watch/alert``.
        method: the HTTP method; ``GET`` for a WebSocket handshake.
        tolerance: the largest age of a request in seconds, also ahead of the clock.
        nonces: stores nonces for twice the tolerance; by default in the memory of this
            process. Several processes need a shared store.
        clock: returns unix seconds. If it is set back by more than the tolerance,
            nonces are deleted too early.
        max_body: the size in bytes of the largest body that is read.
        nonce_shape: ``"hex32"`` is the documented uuid4 in hex; ``"any"`` accepts up to
            200 visible ASCII characters without ``;``.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    def __init__(
        self,
        secrets: Mapping[str, Sequence[str]] | FindSecrets,
        *,
        path: str,
        method: str = "POST",
        tolerance: float = 300.0,
        nonces: NonceStore | None = None,
        clock: Callable[[], float] = time.time,
        max_body: int = 1024 * 1024,
        nonce_shape: Literal["hex32", "any"] = "hex32",
    ) -> None:
        given = Concealed(secrets)
        del secrets  # a traceback shows what a frame has
        self.path = path  # first: a traceback may call the repr
        self.method = method
        check_seconds("tolerance", tolerance)
        check_int("max_body", max_body)
        check_callable("clock", clock, awaited=False)
        if nonce_shape not in {"hex32", "any"}:
            raise InvalidArgument(
                f"nonce_shape must be 'hex32' or 'any', got {nonce_shape!r}"
            )
        self.nonces: Final = MemoryNonces() if nonces is None else nonces
        expected = "a NonceStore, such as SQLiteNonces(path)"
        record = {"record": ("app_id", "nonce", "now", "until")}
        check_methods("nonces", self.nonces, record, expected, awaited=())
        keys_of, calls = _key_finder(given), None
        if not isinstance(given.value, Mapping):
            calls = LimitedCalls(keys_of, "secrets")
        self._checks: Final = RequestChecks(
            method=method,
            path=path,
            nonces=self.nonces,
            max_body=max_body,
            tolerance=tolerance,
            keys_of=keys_of,
            calls=calls,
            clock=clock,
            is_nonce=_is_hex if nonce_shape == "hex32" else _is_short,
        )

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    def __repr__(self) -> str:
        return f"RequestVerifier(method={self.method!r}, path={self.path!r})"

    def verify(
        self, headers: Headers, body: bytes, *, target: str | bytes | None = None
    ) -> str:
        """Verify a request; the same request is accepted once.

        Args:
            headers: a mapping or pairs, of strings or of bytes, in any case.
            body: the bytes as they arrived: JSON, or empty.
            target: the whole path of the request, with its query if it has one. Without
                it, a request to another path is refused for its signature.

        Returns:
            The app id.

        Raises:
            SignatureError: it is not accepted; ``.reason`` says why.
            DecodeError: the signature is good, but the body is not JSON.
        """
        head = self._checks.check(headers, body, target)
        self._checks.accept(head, body, check_json)
        return head[0]

    def alerts(
        self, headers: Headers, body: bytes, *, target: str | bytes | None = None
    ) -> Alerts:
        """Verify a request and return its alerts; arguments as for :meth:`verify`.

        Returns:
            A sequence with ``.app_id``; each alert has it, too.

        Raises:
            SignatureError: it is not accepted; ``.reason`` says why.
            DecodeError: the signature is good, but the body is not a list of alerts or
                contradicts itself; the problems have the paths.
        """
        head = self._checks.check(headers, body, target)
        alerts = tuple.__new__(Alerts, self._checks.accept(head, body, read_alerts))
        alerts._app_id = head[0]  # noqa: SLF001 - as Alerts(), without a call
        return alerts

    def is_current(self, headers: Headers, body: bytes) -> bool:
        """Return whether the secret that signed a request is still valid.

        For a connection that stays open: the time and the nonce, which were checked
        when it was accepted, are not checked again.

        Raises:
            SignatureError: a header is missing or malformed.
        """
        fields = signature_headers(headers)
        try:
            keys = self._checks.keys_of(fields[0])
        except SignatureError:  # the function refuses the app
            return False
        return self._checks.is_signed(fields, keys, body)


def checks_of(verifier: RequestVerifier) -> RequestChecks:
    """Return the checks of a verifier."""
    return verifier._checks  # noqa: SLF001 - no part of the public interface


def body_too_large(limit: int) -> SignatureError:
    """Return the error for a body that has more than ``limit`` bytes."""
    problem = f"the body has more than {limit} bytes"
    return SignatureError(SignatureReason.BODY_TOO_LARGE, problem)


def _key_finder(secrets: Concealed) -> Callable[[str], Keys | None]:
    """Return a function that returns the keys of an app id."""
    if isinstance(secrets.value, Mapping):
        if not secrets.value:
            raise InvalidArgument("secrets is empty: pass the secrets of an app")
        for app_id in map(Concealed, secrets.value):
            signing.check_app_id(app_id)
        lists = {app_id: Concealed(each) for app_id, each in secrets.value.items()}
        return {app_id: _keys(app_id, each) for app_id, each in lists.items()}.get
    kind = type(secrets.value)
    has_async = is_async(secrets.value)
    if issubclass(kind, type) or has_async or not callable(secrets.value):
        got = "an async function" if has_async else kind.__name__
        rule = "secrets must be a mapping of app ids to lists, or a plain function"
        raise InvalidArgument(f"{rule}, got {got}")
    try:
        check_callable("secrets", secrets.value, "app_id")
        is_callable = True
    except InvalidArgument:  # which shows defaults of arguments, perhaps secrets
        is_callable = False
    if not is_callable:
        rule = "secrets must be callable as secrets(app_id)"
        raise InvalidArgument(f"{rule}, got {kind.__name__} with other arguments")

    def find(app_id: str) -> Keys | None:
        if not _is_short(app_id):
            return None
        found = Concealed(secrets.value(app_id))
        try:
            return _keys(app_id, found) if found.value else None
        except InvalidArgument as error:
            problem = str(error)
        # Not in the handler: the context of the error would say the same again.
        raise InvalidArgument(f"invalid result of secrets({app_id!r}): {problem}")

    return find


def _keys(app_id: str, secrets: Concealed) -> Keys:
    if not secrets.value or not isinstance(secrets.value, list | tuple):
        # Not the value, which might be a secret.
        kind = type(secrets.value).__name__
        got = "a string: write [secret]" if isinstance(secrets.value, str) else kind
        rule = f"the secrets of {app_id!r} must be a non-empty list"
        got = "an empty one" if secrets.value == [] else got
        raise InvalidArgument(f"{rule}, got {got}")
    name = f"a secret of {app_id!r}"
    return tuple(signing.prepare(each, name) for each in map(Concealed, secrets.value))


def _unknown_app() -> SignatureError:
    return SignatureError(SignatureReason.UNKNOWN_APP, "the app id is unknown")


def _no_keys(_app_id: str) -> Keys:
    return ()


def check_json(body: bytes, _app_id: str) -> None:
    """Raise a :class:`DecodeError` unless a body is JSON, or empty."""
    if body:
        codec.loads(body)


def _is_hex(nonce: str) -> bool:
    try:
        return len(unhexlify(nonce)) == _NONCE_BYTES
    except ValueError:
        return False


def _is_short(text: str) -> bool:
    return len(text) <= _LONGEST_FIELD and signing.is_field(text)
