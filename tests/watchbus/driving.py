"""A driver that plays a server from a script, on clocks of its own."""

from __future__ import annotations

import contextlib
import json
from itertools import count

from attrs import define, field

from ortege_watch._http.conversation import (
    Failure,
    GetStamp,
    Pause,
    Reply,
    Request,
    Response,
    Work,
)
from ortege_watch.errors import TransportError
from ortege_watch.watchbus.models import AlertInfo, EntityInfo
from ortege_watch.watchbus.requests import BusConfig
from ortege_watch.watchbus.signing import Credentials

CREDENTIALS = Credentials("app", "the-secret")
NOW = 1_700_000_000.0
OK = "000000000"


class UnixClock:
    """Unix seconds that a test sets."""

    now = NOW

    def __call__(self):
        return self.now


def link(url="https://bus.example.com", **settings):
    return BusConfig.parse(url, CREDENTIALS, **settings)


def entity(number, code="big_amount_txn", **changes):
    return EntityInfo(f"0x{number:040x}", 56, "ERC20", code)


def fill(file):
    """Write to a file until its disk is full."""
    with contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def alert(number, **values):
    values = {"tx_hash": f"0x{number:064x}", **values}
    values |= {"block_number": number, "current_value": "1000.5"}
    return AlertInfo(
        f"0x{number:040x}", 56, "ERC20", "big_amount_txn", 1_699_999_000, values
    )


def success(data=None, **settings):
    return said({"status": "OK", "code": OK, "data": data}, **settings)


def error(code="000001", reason=None, status=200, **settings):
    body = {"status": "ERROR", "code": code, "message": reason}
    return said(body, status=status, **settings)


def said(body=b"", *, status=200, received_at=NOW, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(
        status=status, headers=named, content=content, received_at=received_at
    )


CUT = Failure(error=TransportError("cut off"), retry=True)
UNREACHED = Failure(error=TransportError("no connection"), retry=True, unsent=True)
BAD_CERTIFICATE = Failure(error=TransportError("the certificate is refused"))
EXPIRED = Failure(error=TransportError("too late"), expired=True)


@define
class Play:
    """Drive one conversation; keep what it asked for.

    Outcomes are responses and failures, or functions of the request that make one.
    """

    outcomes: object = field(converter=iter)
    takes: float = 0.0  # seconds that each request takes
    draw: float = 0.0
    now: float = 0.0
    unix: float = NOW
    effects: list = field(factory=list)
    stamps: object = field(factory=lambda: count(1))

    def run(self, conversation):
        try:
            effect = next(conversation)
            while True:
                self.effects.append(effect)
                effect = conversation.send(self.answer(effect))
        except StopIteration as end:
            return end.value

    def answer(self, effect):
        match effect:
            case Request():
                self.now += self.takes
                outcome = next(self.outcomes)
                if callable(outcome):
                    outcome = outcome(effect)
                return Reply(now=self.now, jitter=self.draw, outcome=outcome)
            case GetStamp():
                nonce = f"{next(self.stamps):032x}"
                return Reply(now=self.now, unix=self.unix + self.now, nonce=nonce)
            case Pause(seconds):
                self.now += seconds
                return Reply(now=self.now, jitter=self.draw)
            case Work(call):
                return Reply(now=self.now, value=call())

    @property
    def requests(self):
        return [effect for effect in self.effects if isinstance(effect, Request)]

    @property
    def pauses(self):
        return [effect.seconds for effect in self.effects if isinstance(effect, Pause)]

    @property
    def bodies(self):
        return [json.loads(request.content or b"null") for request in self.requests]
