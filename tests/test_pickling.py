"""Models of both halves pickle and copy; rows and results have tests of their own."""

from __future__ import annotations

import copy
import pickle
from contextlib import closing
from decimal import Decimal

import pytest

from ortege_watch import Measure, Reconnect, Result, Retry, _json as codec
from ortege_watch.cube.calls import DryRun, Sql
from ortege_watch.cube.meta import Meta
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    Credentials,
    DeadLetter,
    EntityInfo,
    Outbox,
    PublishResult,
    RequestVerifier,
    SQLiteHandled,
    SQLiteNonces,
    Subscription,
    SupportedEvent,
    WatchEvent,
    WatchResult,
)
from ortege_watch.watchbus.wire import Contradiction

ENTITY = EntityInfo("0x1", 56, "ERC20", "big_amount_txn")
ALERT = AlertInfo(
    entity="0x1",
    chain_id=56,
    entity_type="ERC20",
    event_code="mine",
    timestamp=1700000000,
    event_values={"amount": Decimal("1.50")},
)
META = Meta.read(
    b'{"cubes":[{"name":"e","meta":{"a":[1.5]},"measures":[{"name":"e.n",'
    b'"type":"number"}],"dimensions":[{"name":"e.d","type":"string"}],'
    b'"segments":[{"name":"e.s"}]}]}'
)
MODELS = [
    META,
    META.cube("e"),
    META.member("e.s"),
    Sql.read(b'{"sql":{"sql":["SELECT $1",["a",1.5]]}}'),
    DryRun.read(b'{"queryType":"regularQuery","normalizedQueries":[{"limit":5}]}'),
    Retry(attempts=2),
    Reconnect(attempts=2),
    Measure("e.n").desc(),
    Result(codec.decode_body(b'{"data":[],"annotation":{"a":1}}').parts[0]).annotation,
    ENTITY,
    ALERT,
    WatchResult((ENTITY,), (), ()),
    Subscription("0x1", (WatchEvent("1", "mine"),), {"more": [1]}),
    SupportedEvent("mine", ("ERC20",), Decimal("0.5")),
    DeadLetter(ALERT, "no", None, 400),
    PublishResult(sent=(ALERT,), error=Contradiction("x", status=200)),
]


def test_what_has_a_file_or_a_socket_is_neither_pickled_nor_copied(tmp_path):
    with (
        Outbox(tmp_path / "outbox") as outbox,
        closing(SQLiteNonces(tmp_path / "nonces")) as nonces,
        closing(SQLiteHandled(tmp_path / "handled")) as handled,
    ):
        verifier = RequestVerifier({"app": ["secret"]}, path="/")
        channel = AlertChannel("ws://127.0.0.1:9/", Credentials("app", "secret"))
        for each in (outbox, nonces, handled, verifier, channel):
            name = type(each).__name__
            for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match=f"{name} cannot be pickled or"):
                    duplicate(each)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize(
    "way", [lambda each: pickle.loads(pickle.dumps(each)), copy.copy, copy.deepcopy]
)
def test_models_pickle_and_copy(model, way):
    again = way(model)
    assert type(again) is type(model)
    assert repr(again) == repr(model)
    if not isinstance(model, PublishResult):  # errors are equal to themselves only
        assert again == model
