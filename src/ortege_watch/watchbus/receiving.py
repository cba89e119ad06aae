"""The receiving side of the alert channel, over any kind of WebSocket."""

from __future__ import annotations

from typing import Final, Protocol

import anyio
import msgspec
from attrs import frozen

from ortege_watch.errors import DecodeError, SignatureError
from ortege_watch.watchbus.frames import (
    OVERHEAD,
    AlertFrame,
    AnswerFrame,
    decode_frame,
    encode_frame,
)
from ortege_watch.watchbus.inbox import (
    AlertHandler,
    AlertInbox,
    error_response,
    handle_all,
    logger,
)
from ortege_watch.watchbus.models import read_alerts
from ortege_watch.watchbus.signing import Fields, Headers, signature_headers
from ortege_watch.watchbus.threads import run_verifier
from ortege_watch.watchbus.verifier import RequestChecks, check_json

_INVALID_DATA: Final = 1007
_POLICY_VIOLATION: Final = 1008
_TOO_LARGE: Final = 1009
_TRY_AGAIN_LATER: Final = 1013


class FrameSocket(Protocol):
    """An open WebSocket; its methods raise when the sender has disconnected."""

    async def receive(self) -> bytes:
        """Return the next frame."""
        ...

    async def send(self, text: str, /) -> None:
        """Send a frame."""
        ...

    async def close(self, code: int, reason: str, /) -> None:
        """Close the connection."""
        ...


@frozen(eq=False)
class FrameReceiver:
    """What handles the frames of senders, one after the other for each of them.

    ``checks`` are those of the handshakes; ``check_every`` the seconds after which it
    is checked that the secret of an idle connection is still valid.
    """

    checks: RequestChecks
    handler: AlertHandler
    inbox: AlertInbox
    check_every: float

    async def admit(self, target: str, headers: Headers) -> None:
        """Verify a handshake, and raise if it is not accepted."""
        checks = self.checks
        checks.check_target(target)
        head = checks.check_again(await checks.find_head(headers))
        may_block = checks.nonces_may_block
        await run_verifier(may_block, checks.accept, head, b"", check_json)

    async def converse(self, socket: FrameSocket, headers: Headers) -> None:
        """Handle the frames of an admitted connection until it ends."""
        fields = signature_headers(headers)
        app_id = fields[0]
        try:
            while True:
                data: bytes | None = None
                with anyio.move_on_after(self.check_every):
                    data = await socket.receive()
                await self._check_secret(fields)
                if data is not None:
                    answer = await self._answer(data, app_id)
                    await socket.send(encode_frame(answer))
        except _HangUp as end:
            logger.warning("closing the connection of app %s: %s", app_id, end)
            await socket.close(end.code, end.reason)

    async def _check_secret(self, fields: Fields) -> None:
        try:
            keys = await self.checks.find_keys(fields[0])
        except SignatureError:  # the function refuses the app
            keys = None
        except Exception as error:
            logger.exception("the secret of a connection could not be checked")
            raise _HangUp(_TRY_AGAIN_LATER, "try again") from error
        if not self.checks.is_signed(fields, keys, b""):
            raise _HangUp(_POLICY_VIOLATION, "the secret has been revoked")

    async def _answer(self, data: bytes, app_id: str) -> AnswerFrame:
        if len(data) > self.checks.max_body + OVERHEAD:
            raise _HangUp(_TOO_LARGE, "the frame is too large")
        try:
            frame = decode_frame(AlertFrame, data)
        except DecodeError as error:
            raise _HangUp(_INVALID_DATA, "invalid frame", str(error)) from error
        try:
            alerts = read_alerts(bytes(frame.body), app_id)
        except DecodeError as error:
            told = error_response(error, f"app {app_id!r}, a frame")
        else:
            told = await handle_all(self.inbox, alerts, app_id, self.handler)
        body = msgspec.Raw(told.body)
        return AnswerFrame(frame.id, told.status, body, told.retry_after)


class _HangUp(Exception):
    """Raised to close a connection; the sender gets the code and the reason."""

    def __init__(self, code: int, reason: str, problem: str = "") -> None:
        super().__init__(problem or reason)
        self.code: Final = code
        self.reason: Final = reason
