"""A hundred thousand hostile requests raise only this library's two errors."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

from signed import APP_ID, NOW, PATH, SECRET, alert_body, alert_object, signature_of

from ortege_watch import DecodeError
from ortege_watch.watchbus import (
    AlertInfo,
    RequestVerifier,
    SignatureError,
    SignatureReason,
)

REQUESTS = 100_000
GOOD = alert_body()

TEXTS = [
    *("", ";", " ", "\n", "\x00", "0", "-1", "1.5", "1e3", "NaN", "null", "{}", "[]"),
    *("\xe9", "\ud800", "\udfff\ud800", "\u0661\u0667", "\uff11", "\U0001f600", "\xad"),
    *("x" * 31, "x" * 33, "a" * 64, "0" * 32, "0" * 64, "9" * 20, "9" * 5_000),
    *("9" * 10_000, "1700000000000", "1_700_000_000_000", "+1", "0x10", "1" * 16),
]
FIELDS = ["appid", "timestamp", "nonce", "signature"]

# Parts of JSON that stand where a value belongs.
VALUES = [
    *(b"null", b"true", b"false", b"0", b"-0", b"-1", b"56.0", b"1e3", b"1e400"),
    *(b"1e99999999999999999999", b"9" * 10_000, b"0." + b"9" * 10_000, b"NaN", b"01"),
    *(b'""', b'"56"', b'"\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b'"'),
    *(b'"\\u0035\\u0036"', b'"\xd9\xa5\xd9\xa6"', b'"' + b"9" * 10_000 + b'"', b""),
    *(b"[]", b"{}", b"[" * 50 + b"]" * 50, b"[" * 2_000 + b"]" * 2_000, b"[" * 2_000),
    *(b'{"a":' * 600 + b"1" + b"}" * 600, b'{"a":1,"a":2}', b'{"a":1,"a":1}', b"}"),
    *(b'{"tx_hash":null}', b'{"tx_hash":[1,{"b":0.1}]}', b'{"":""}', b"170000000000"),
    *(
        b'"[]"',
        b'"{}"',
        b'"[{}]"',
        b'"{\\"a\\":1}"',
        b'"{\\"a\\":1,\\"a\\":2}"',
        b'"[1"',
    ),
    *(b'"' + b"[" * n + b"]" * n + b'"' for n in (50, 150, 2_000)),
    *(b"1700000000000", b'"1700000000000"', b"1.7e9", b"1700000000.0", b"1e10"),
]
NAMES = [*alert_object(), "address", "entity", "event_code", "entity_type", "raw"]
WHOLE = [
    *(b"", b" ", b"null", b"[]", b"{}", b"[[]]", b"[{}]", b"5", b'"x"', b"\xff", b"{"),
    *(b"\xef\xbb\xbf[]", b'q=1;{"X":1}', b"<html>", b"\x00", b"9" * 10_000, b"[1,]"),
    *(b'{"alert_info_list":null}', b'{"alert_info_list":[],"alert_info_list":[1]}'),
    *(b"[" * 100_000, b"[" * 900 + b"]" * 900, b'{"alert_info_list":{"a":[]}}'),
    *(json.dumps(GOOD.decode()).encode(), b'{"alert_info_list":"[{}]"}', b'"[]"'),
    *(b"[" + b"{}," * 1_000 + b"{}]", b"x" * 20_001, GOOD * 2, GOOD[:-1], GOOD[1:]),
]


def body_of(dice: random.Random) -> bytes:
    """Return a body that is valid, nearly valid or garbage."""
    kind = dice.random()
    if kind < 0.3:
        return GOOD
    if kind < 0.4:
        return dice.choice(WHOLE)
    if kind < 0.6:  # bytes changed at random
        body = bytearray(GOOD)
        for _ in range(dice.randint(1, 3)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        return bytes(body)
    entries = [  # a field changed, added, left out or doubled
        json.dumps(name).encode() + b":" + json.dumps(value).encode()
        for name, value in alert_object().items()
    ]
    for _ in range(dice.randint(1, 2)):
        name = json.dumps(dice.choice(NAMES)).encode()
        entries[dice.randrange(6)] = name + b":" + dice.choice(VALUES)
    if kind > 0.9:
        entries += entries[:2]
    return b'{"alert_info_list":[{' + b",".join(entries) + b"}]}"


def fields_of(dice: random.Random, number: int) -> dict[str, object]:
    """Return the fields to sign, mostly valid ones."""
    fields: dict[str, object] = {
        "appid": APP_ID,
        "timestamp": str(int((NOW + dice.randint(-310, 310)) * 1000)),
        "nonce": f"{number:032x}" if dice.random() < 0.95 else "0" * 32,
    }
    if dice.random() < 0.2:
        fields[dice.choice(FIELDS[:3])] = dice.choice(TEXTS)
    return fields


def headers_of(dice: random.Random, fields: dict[str, object]) -> object:
    """Return the headers in one of their forms, some of them invalid."""
    spelt = dice.choice([str, str.lower, str.upper])
    pairs = [(spelt(f"X-Signature-{name}"), text) for name, text in fields.items()]
    pairs.append(("Content-Type", "application/json"))
    if dice.random() < 0.1:
        change = dice.randrange(5)
        name, text = dice.choice(pairs)
        if change == 0:
            pairs.remove((name, text))
        elif change == 1:
            pairs.append((name.swapcase(), dice.choice(TEXTS)))
        elif change == 2:
            pairs.append((name, text))
        else:
            odd = dice.choice([None, 5, b"\xff", [text], object(), (), 0.5])
            pairs[dice.randrange(5)] = (name, odd)
    if dice.random() < 0.5:
        pairs = [
            (
                name.encode("latin-1"),
                text.encode("utf-8", "surrogatepass") if type(text) is str else text,
            )
            for name, text in pairs
        ]
    return dict(pairs) if dice.random() < 0.5 else pairs


def requests(count: int) -> Iterator[tuple[object, bytes, object]]:
    """Yield requests, the same in every run; most of them are signed."""
    dice = random.Random(20231114)
    targets = [None] * 30 + [
        PATH,
        PATH.encode(),
        PATH + "?",
        "/",
        b"\xff",
        "",
        "\ud800",
    ]
    for number in range(count):
        body, fields = body_of(dice), fields_of(dice, number)
        start = ";".join(map(str, [*fields.values(), "POST", PATH, ""]))
        signed = signature_of(start.encode("utf-8", "surrogatepass") + body)
        fields["signature"] = signed if dice.random() < 0.9 else dice.choice(TEXTS)
        yield headers_of(dice, fields), body, dice.choice(targets)


def use(alert: AlertInfo) -> None:
    """Use every attribute of an alert."""
    assert alert.chain_id >= 0
    assert 0 <= alert.timestamp < 10**11
    assert alert.entity
    assert alert.entity_type
    assert repr(alert)
    assert isinstance(alert.raw, dict)
    assert alert.app_id == APP_ID
    assert len(alert.dedupe_key(APP_ID)) == 64
    again = AlertInfo.from_wire(alert.to_wire())
    assert again.dedupe_key(APP_ID) == alert.dedupe_key(APP_ID)
    assert (
        dict(alert.event_values.problems()).keys() <= alert.event_values._fields.keys()
    )


def test_hostile_requests_raise_only_errors_of_this_library():
    verifier = RequestVerifier(
        {APP_ID: [SECRET, "another"]}, path=PATH, clock=lambda: NOW, max_body=20_000
    )
    seen: Counter[object] = Counter()
    for number, (headers, body, target) in enumerate(requests(REQUESTS)):
        refused: SignatureError | DecodeError | None = None
        try:
            if number % 4:
                for alert in verifier.alerts(headers, body, target=target):
                    use(alert)
            else:
                assert verifier.verify(headers, body, target=target) == APP_ID
        except (SignatureError, DecodeError) as error:
            refused = error
        match refused:
            case None:
                seen["accepted"] += 1
            case SignatureError(reason=reason):
                seen[reason] += 1
                assert SECRET not in str(refused)
            case DecodeError(problems=problems):
                seen[DecodeError] += 1
                assert 1 <= len(problems) <= 20
                assert len(str(refused)) < 10_000
    # The requests reach every corner; what a full nonce store and a function of
    # secrets raise has its own tests.
    reached = {*SignatureReason} - {
        SignatureReason.NONCES_FULL,
        SignatureReason.APP_EXPIRED,
        SignatureReason.APP_OVER_LIMIT,
    }
    assert all(seen[each] >= 100 for each in {*reached, DecodeError}), seen
    assert seen["accepted"] >= REQUESTS / 5, seen
