"""Accept signed requests, and nothing else."""

from __future__ import annotations

import copy
import math
import sqlite3
import threading
import time
from binascii import unhexlify
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Literal, Protocol, Self, TypeVar

import msgspec

from ortege_watch import _json as codec
from ortege_watch._sqlite import connect, use_wal
from ortege_watch.errors import (
    OrtegeWatchError,
    QueryError,
    SignatureError,
    SignatureReason,
)
from ortege_watch.watchbus import signing
from ortege_watch.watchbus.models import AlertInfo, decode_alerts
from ortege_watch.watchbus.signing import Headers, signature_headers

__all__ = ["MemoryNonces", "NonceStore", "RequestVerifier", "SQLiteNonces"]

# -------------------- What remembers the nonces of accepted requests, so that none is accepted twice.


_FIRST_SWEEP: Final = 1000
_WAIT: Final = 10.0
"""Seconds to wait for other processes that use the file."""

_PAUSE: Final = 10.0  # seconds between two looks at a whole file


class NonceStore(Protocol):
    """Remember nonces; implement this to share them between machines."""

    def record(self, nonce: str, now: float, until: float) -> bool:
        """Remember a nonce, and tell whether it was new, in one atomic step.

        It is called after the signature proved good, from any thread.

        Args:
            nonce: the app id, a ``;`` and the nonce.
            now: unix seconds by the verifier's clock.
            until: when it may be forgotten, in the same seconds.

        Raises:
            SignatureError: with ``NONCES_FULL`` where there is no room left. To forget
                a nonce early would let a replay through.
        """
        ...


class MemoryNonces:
    """Remember nonces in this process.

    Args:
        limit: how many at most. With the default tolerance a nonce is kept for ten
            minutes, so the default is enough for 166 requests a second. One takes
            about 200 bytes.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._kept: dict[str, tuple[float]] = {}
        self._lock = threading.Lock()
        self._sweep_size = min(_FIRST_SWEEP, limit)
        self._next_sweep = float("-inf")

    def record(self, nonce: str, now: float, until: float) -> bool:
        """Remember a nonce, and tell whether it was new."""
        if len(self._kept) >= self._sweep_size:
            self._sweep(now)
        # One step, also between threads: only the first one's entry is kept.
        entry = (until,)
        return self._kept.setdefault(nonce, entry) is entry

    def __len__(self) -> int:
        return len(self._kept)

    def _sweep(self, now: float) -> None:
        with self._lock:
            # At most once a second, also when the store is full and the clock jumps.
            if not self._next_sweep - 1 <= now < self._next_sweep:
                self._next_sweep = now + 1
                for nonce, (until,) in list(self._kept.items()):
                    if until < now:
                        del self._kept[nonce]
                size = max(2 * len(self._kept), _FIRST_SWEEP)
                self._sweep_size = min(size, self._limit)
            if len(self._kept) >= self._limit:
                raise _full(self._limit)


class SQLiteNonces:
    """Remember nonces in an SQLite file, across restarts and between processes.

    Close it, or use it as a context manager.

    Args:
        path: the file; it is made if there is none.
        limit: how many at most, and what comes in ten seconds.

    Raises:
        OrtegeWatchError: the file cannot be used; also in :meth:`record`.
    """

    def __init__(self, path: str | Path, limit: int = 1_000_000) -> None:
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._next_sweep = float("-inf")
        self._full = False
        with self._errors():
            self._db = connect(path, wait=_WAIT)
            # A killed process loses nothing; a lost power supply the last moments.
            use_wal(self._db, wait=_WAIT)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS nonces"
                " (nonce TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS untils ON nonces (until)")

    def record(self, nonce: str, now: float, until: float) -> bool:
        """Remember a nonce, and tell whether it was new."""
        with self._lock, self._errors():
            if not self._next_sweep - _PAUSE <= now < self._next_sweep:
                self._sweep(now)
            if self._full:
                raise _full(self._limit)
            done = self._db.execute(
                "INSERT INTO nonces VALUES (?, ?) ON CONFLICT DO NOTHING",
                (nonce, until),
            )
            return done.rowcount == 1

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._errors():
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + _PAUSE
        self._db.execute("DELETE FROM nonces WHERE until < ?", (now,))
        [kept] = self._db.execute("SELECT count(*) FROM nonces").fetchone()
        self._full = kept >= self._limit

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            problem = f"the nonces in {str(self._path)!r} cannot be used: {error}"
            raise OrtegeWatchError(problem) from error


def _full(limit: int) -> SignatureError:
    return SignatureError(
        SignatureReason.NONCES_FULL,
        f"{limit} nonces are remembered and none may be forgotten yet; give the store"
        " a higher limit if this is no attack",
    )


T = TypeVar("T")

_HEX_NONCE: Final = 32
_LONGEST_NONCE: Final = 200
_milliseconds: Final = msgspec.json.Decoder(
    Annotated[int, msgspec.Meta(lt=10**15)]
).decode


class RequestVerifier:
    """Tell whether a request was signed by a known app, is fresh, and is no replay.

    Whatever arrives, only :class:`SignatureError` and
    :class:`~ortege_watch.DecodeError` come out (and what a broken nonce store raises).
    It may be used from several threads.

    Args:
        secrets: by app id, all secrets that are good now: to rotate one, have the old
            and the new one in the list for a while. Do not use a secret that you sign
            your own requests with: the host is not signed.
        path: the whole path that is asked, such as ``/api/v1/watch/alert``.
        method: the HTTP method; ``GET`` for a WebSocket handshake.
        tolerance: how many seconds a request may be old, or ahead of the clock.
        nonces: what remembers nonces, for twice the tolerance; in this process's memory
            by default. Several processes need a common one.
        clock: gives unix seconds. Keep it set: one that is put back by more than the
            tolerance forgets nonces too early.
        max_body: the size in bytes of the largest body that is looked at.
        nonce_shape: ``"hex32"`` is the documented uuid4 in hex; ``"any"`` takes up to
            200 visible ASCII characters without ``;``.

    Raises:
        QueryError: an argument cannot be used.
    """

    def __init__(
        self,
        secrets: Mapping[str, Sequence[str]],
        *,
        path: str,
        method: str = "POST",
        tolerance: float = 300.0,
        nonces: NonceStore | None = None,
        clock: Callable[[], float] = time.time,
        max_body: int = 1024 * 1024,
        nonce_shape: Literal["hex32", "any"] = "hex32",
    ) -> None:
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise QueryError(
                f"tolerance: {tolerance!r} is no number of seconds above 0"
            )
        if nonce_shape not in {"hex32", "any"}:
            raise QueryError(f"nonce_shape: {nonce_shape!r}; give 'hex32' or 'any'")
        self.path: Final = path
        self.method = method
        self.max_body: Final = max_body
        self.nonces: Final = MemoryNonces() if nonces is None else nonces
        self._keys = _prepare(secrets)
        self._line = signing.request_line(method, path)
        self._tolerance = tolerance
        self._keep = 2 * tolerance
        self._clock = clock
        self._hex = nonce_shape == "hex32"

    def for_method(self, method: str) -> RequestVerifier:
        """Return a verifier of requests with another HTTP method.

        Everything else is the same and the nonces are shared, so a nonce that one of
        the two accepted is a replay to the other.

        Args:
            method: the method in capitals, such as ``"GET"``.

        Raises:
            InvalidArgument: it is not an HTTP method in capitals.
        """
        other = copy.copy(self)
        other.method = method
        other._line = signing.request_line(method, self.path)  # noqa: SLF001 - its own
        return other

    def verify(
        self, headers: Headers, body: bytes, *, target: str | bytes | None = None
    ) -> str:
        """Verify a request; each good one is good once.

        Args:
            headers: a mapping or pairs, of text or of bytes, in any case.
            body: the bytes as they arrived: JSON, or empty.
            target: the path (and query) that was asked, where the caller knows it.

        Returns:
            The app id.

        Raises:
            SignatureError: it is not accepted; ``.reason`` says why.
            DecodeError: it is signed, and its body is no JSON.
        """
        return self._accept(headers, body, target, _check_json)[0]

    def alerts(
        self, headers: Headers, body: bytes, *, target: str | bytes | None = None
    ) -> list[AlertInfo]:
        """Verify a request and read its alerts; arguments as :meth:`verify`.

        Raises:
            SignatureError: it is not accepted; ``.reason`` says why.
            DecodeError: it is signed, and its body holds no alerts or contradicts
                itself; the problems have the paths.
        """
        return self._accept(headers, body, target, decode_alerts)[1]

    def _accept(
        self,
        headers: Headers,
        body: bytes,
        target: str | bytes | None,
        read: Callable[[bytes], T],
    ) -> tuple[str, T]:
        # Written out in one piece: this is all that happens beside HMAC and JSON.
        if target is not None:
            self.check_target(target)
        if len(body) > self.max_body:
            raise _too_large(self.max_body)
        app_id, timestamp, nonce, signature = signature_headers(headers)
        try:
            sent = _milliseconds(timestamp) if timestamp.isdecimal() else None
        except ValueError:  # digits that are not ASCII, or too many of them
            sent = None
        if sent is None:
            raise _malformed_timestamp()
        now = self._clock()
        age = now - sent / 1000
        if not -self._tolerance <= age <= self._tolerance:
            raise self._untimely(age)
        if not (_is_hex(nonce) if self._hex else _is_short(nonce)):
            raise _malformed_nonce()
        keys = self._keys.get(app_id)
        if keys is None:
            raise _unknown_app()
        message = signing.canonical(app_id, timestamp, nonce, self._line, body)
        if not signing.matches(keys, message, signature):
            raise _bad_signature()
        result = read(body)
        # Last of all: what is not accepted must not use up anybody's nonce.
        if not self.nonces.record(f"{app_id};{nonce}", now, now + self._keep):
            raise _replay()
        return app_id, result

    def check_target(self, target: str | bytes) -> None:
        """Refuse a request for another path, or with a query.

        Raises:
            SignatureError: with ``OTHER_PATH`` or ``QUERY_PRESENT``.
        """
        text = target.decode("latin-1") if isinstance(target, bytes) else target
        path, mark, _ = text.partition("?")
        if path != self.path:
            problem = f"another path was asked than {self.path}"
            raise SignatureError(SignatureReason.OTHER_PATH, problem)
        if mark:
            problem = "the request has a query, which this signature does not cover"
            raise SignatureError(SignatureReason.QUERY_PRESENT, problem)

    def _untimely(self, age: float) -> SignatureError:
        if age < 0:
            reason, said = SignatureReason.IN_THE_FUTURE, f"{-age:.3f} s in the future"
        else:
            reason, said = SignatureReason.EXPIRED, f"{age:.3f} s old"
        problem = f"the request is {said}; the tolerance is {self._tolerance:g} s"
        return SignatureError(reason, problem, delta=age)


def _prepare(
    secrets: Mapping[str, Sequence[str]],
) -> dict[str, tuple[signing.Key, ...]]:
    for app_id, each in secrets.items():
        if not signing.is_field(app_id):
            raise QueryError(f"secrets: {app_id!r} is no app id")
        if isinstance(each, str | bytes) or not each:
            raise QueryError(f"secrets: give a list of secrets for {app_id!r}")
    return {a: tuple(map(signing.prepare, each)) for a, each in secrets.items()}


def _check_json(body: bytes) -> None:
    if body:
        codec.loads(body)


def _is_hex(nonce: str) -> bool:
    try:
        return len(unhexlify(nonce)) == _HEX_NONCE // 2
    except ValueError:
        return False


def _is_short(nonce: str) -> bool:
    return len(nonce) <= _LONGEST_NONCE and signing.is_field(nonce)


def _too_large(limit: int) -> SignatureError:
    problem = f"the body has more than {limit} bytes"
    return SignatureError(SignatureReason.BODY_TOO_LARGE, problem)


def _malformed_timestamp() -> SignatureError:
    problem = "the timestamp is no number of unix milliseconds"
    return SignatureError(SignatureReason.MALFORMED_TIMESTAMP, problem)


def _malformed_nonce() -> SignatureError:
    problem = "the nonce has not the shape that is asked for"
    return SignatureError(SignatureReason.MALFORMED_NONCE, problem)


def _unknown_app() -> SignatureError:
    return SignatureError(SignatureReason.UNKNOWN_APP, "the app id is not known")


def _bad_signature() -> SignatureError:
    problem = "the signature was made with another secret or of another request"
    return SignatureError(SignatureReason.BAD_SIGNATURE, problem)


def _replay() -> SignatureError:
    problem = "the nonce was used before: the request is a replay"
    return SignatureError(SignatureReason.REPLAY, problem)
