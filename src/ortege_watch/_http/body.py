"""The body of a response: at most so many bytes, compressed with gzip or not at all."""

from __future__ import annotations

import zlib
from typing import Final

from ortege_watch.errors import DecodeError, TransportError

_OVERHEAD: Final = 64 * 1024
"""Bytes that a compressed body may have beyond the size of what it contains."""

_SMALL: Final = 4096
"""Bytes: shorter parts are put together, or each would take up to 60 times its size."""

_MEMBERS: Final = 1000
"""The most gzip streams in a body, one after the other."""


class Body:
    """The bytes of a body as they arrive.

    Args:
        max_size: the most bytes; nothing is inflated beyond them.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._room = max_size
        self._raw_room = max_size
        self._parts: list[bytes | bytearray] = []
        self._members = 0
        self._inflate: zlib._Decompress | None = None

    def decode(self, encoding: str) -> None:
        """Take the value of ``Content-Encoding``.

        Raises:
            DecodeError: another encoding than gzip, or more than one: each could multiply
                the size by a thousand.
        """
        used = [each.strip() for each in encoding.lower().split(",")]
        used = [each for each in used if each not in {"", "identity"}]
        if used not in ([], ["gzip"], ["x-gzip"]):
            raise DecodeError(
                f"unsupported Content-Encoding {', '.join(used)!r}:"
                " expected gzip, once, or none"
            )
        if used:
            self._raw_room += _OVERHEAD
            self._inflate = self._next_member()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            DecodeError: the body is too large, or is not in gzip format.
        """
        self._raw_room -= len(chunk)
        if self._raw_room < 0:
            raise self._too_large()
        if self._inflate is None:
            self._keep(chunk)
            return
        while chunk:
            if self._inflate.eof:
                self._inflate = self._next_member()
            try:
                data = self._inflate.decompress(chunk, self._room + 1)
            except zlib.error as error:
                raise DecodeError(
                    f"the response cannot be decompressed ({error})"
                ) from error
            self._room -= len(data)
            if self._room < 0:
                raise self._too_large()
            self._keep(data)
            chunk = self._inflate.unused_data

    def finish(self) -> bytes:
        """Return the whole body.

        Raises:
            TransportError: its gzip stream is cut off.
        """
        inflate = self._inflate
        if (
            inflate is not None
            and not inflate.eof
            and self._raw_room < (self._max_size + _OVERHEAD)
        ):
            raise TransportError("no complete response: its gzip stream is cut off")
        return b"".join(self._parts)

    def _keep(self, part: bytes) -> None:
        """Keep a part of the content, without a copy of it if it is large."""
        if len(part) >= _SMALL:
            self._parts.append(part)
        elif self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += part
        else:
            self._parts.append(bytearray(part))

    def _next_member(self) -> zlib._Decompress:
        self._members += 1
        if self._members > _MEMBERS:
            raise DecodeError(f"the response has more than {_MEMBERS} gzip streams")
        return zlib.decompressobj(zlib.MAX_WBITS | 16)

    def _too_large(self) -> DecodeError:
        return DecodeError(
            f"response exceeds max_size ({self._max_size} bytes): request less data, or"
            " raise max_size"
        )
