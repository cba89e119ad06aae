"""A driver that plays a server from a script, on a clock of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import attrs
import pytest

from ortege_watch._http.conversation import (
    Conversation,
    Effect,
    Failure,
    GetToken,
    Pause,
    Reply,
    Request,
    Response,
)

T = TypeVar("T")


@attrs.define
class Play:
    """Drive one conversation; keep what it asked for."""

    outcomes: Iterator[Response | Failure] = attrs.field(converter=iter)
    tokens: Iterable[str] = ("token-1", "token-2", "token-3")
    takes: float = 0.0  # seconds that each request takes
    draw: float = 0.0
    now: float = 0.0
    effects: list[Effect] = attrs.field(factory=list)

    def run(self, conversation: Conversation[T]) -> T:
        tokens = iter(self.tokens)
        effect = next(conversation)
        while True:
            self.effects.append(effect)
            outcome, token = None, ""
            match effect:
                case Request():
                    self.now += self.takes
                    outcome = next(self.outcomes)
                case GetToken():
                    token = next(tokens)
                case Pause(seconds):
                    self.now += seconds
            answer = Reply(now=self.now, jitter=self.draw, outcome=outcome, token=token)
            try:
                effect = conversation.send(answer)
            except StopIteration as end:
                return end.value

    @property
    def requests(self) -> list[Request]:
        return [effect for effect in self.effects if isinstance(effect, Request)]

    @property
    def pauses(self) -> list[float]:
        return [effect.seconds for effect in self.effects if isinstance(effect, Pause)]

    @property
    def asked_tokens(self) -> int:
        return sum(isinstance(effect, GetToken) for effect in self.effects)

    @property
    def questions(self) -> list[object]:
        return [json.loads(request.content or b"null") for request in self.requests]


def answered(status: int, body: object = b"", **headers: str) -> Response:
    """Make a response; a body that is no bytes is written as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, headers=named, content=content)


@pytest.fixture(scope="session")
def play() -> type[Play]:
    return Play


@pytest.fixture(scope="session")
def answer() -> Callable[..., Response]:
    return answered
