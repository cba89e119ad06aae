"""Only what was signed, is fresh and is new gets in."""

from __future__ import annotations

import json
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve
from hypothesis import assume, given, strategies as st
from signed import (
    APP_ID,
    NOW,
    PATH,
    SECRET,
    VECTORS,
    alert_body,
    alert_object,
    headers_for,
    new_nonce,
)

from ortege_watch import DecodeError, InvalidArgument
from ortege_watch.watchbus import (
    MemoryNonces,
    RequestVerifier,
    SignatureError,
    SignatureReason,
)
from ortege_watch.watchbus.verifier import checks_of

BODY = alert_body()


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def verifier(**changes: object) -> RequestVerifier:
    secrets = changes.pop("secrets", {APP_ID: [SECRET]})
    return RequestVerifier(secrets, **{"path": PATH, "clock": Clock(), **changes})


def refusal(
    headers: object, body: bytes = BODY, *, target: object = None, **changes: object
) -> SignatureError:
    """Verify a request that must be refused, in both ways."""
    reasons = []
    for method in ("verify", "alerts"):
        with pytest.raises(SignatureError) as caught:
            getattr(verifier(**changes), method)(headers, body, target=target)
        reasons.append(caught.value.reason)
        assert SECRET not in str(caught.value)
    assert reasons[0] == reasons[1]
    return caught.value


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_is_verified(vector):
    made = RequestVerifier(
        {vector["app_id"]: [vector["secret"]]},
        path=vector["path"],
        clock=Clock(vector["timestamp"] / 1000),
        nonce_shape="hex32" if len(vector["nonce"]) == 32 else "any",
    )
    headers = {
        "X-Signature-appid": vector["app_id"],
        "X-Signature-timestamp": str(vector["timestamp"]),
        "X-Signature-nonce": vector["nonce"],
        "X-Signature-signature": vector["signature"],
    }
    assert made.verify(headers, vector["body"].encode()) == vector["app_id"]


def test_alerts_are_verified_and_read():
    [alert] = verifier().alerts(headers_for(BODY), BODY)
    assert alert.raw == alert_object()


def test_two_providers_behind_one_verifier_are_told_apart():
    made = verifier(secrets={APP_ID: [SECRET], "other": ["its secret"]})
    for app_id, secret in ((APP_ID, SECRET), ("other", "its secret")):
        headers = headers_for(BODY, app_id=app_id, secret=secret)
        alerts = made.alerts(headers, BODY)
        assert (alerts.app_id, [each.app_id for each in alerts]) == (app_id, [app_id])


def test_an_empty_body_may_be_signed_but_holds_no_alerts():
    assert verifier().verify(headers_for(b""), b"") == APP_ID
    with pytest.raises(DecodeError):
        verifier().alerts(headers_for(b""), b"")


def test_headers_come_in_any_form():
    for form in (
        lambda headers: headers,
        lambda headers: {name.lower(): value for name, value in headers.items()},
        lambda headers: [(n.lower().encode(), v.encode()) for n, v in headers.items()],
    ):
        assert verifier().verify(form(headers_for(BODY)), BODY) == APP_ID


# --------------------------------------------------------------------- each reason
@pytest.mark.parametrize(
    ("change", "value", "reason"),
    [
        ("X-Signature-appid", "", SignatureReason.MISSING_HEADER),
        ("X-Signature-nonce", ["a"], SignatureReason.MALFORMED_HEADER),
        ("x-signature-nonce", "a", SignatureReason.MALFORMED_HEADER),
        ("X-Signature-appid", "nobody", SignatureReason.UNKNOWN_APP),
        ("X-Signature-appid", "\ud800", SignatureReason.UNKNOWN_APP),
        ("X-Signature-signature", "0" * 64, SignatureReason.BAD_SIGNATURE),
        ("X-Signature-signature", "0", SignatureReason.BAD_SIGNATURE),
        ("X-Signature-signature", "\xe9" * 64, SignatureReason.BAD_SIGNATURE),
        ("X-Signature-signature", "\ud800", SignatureReason.BAD_SIGNATURE),
    ],
)
def test_a_header_that_is_wrong_has_its_reason(change, value, reason):
    assert refusal({**headers_for(BODY), change: value}).reason == reason


@pytest.mark.parametrize(
    "timestamp",
    [
        "soon",
        "-1700000000000",
        "+1700000000000",
        " 1700000000000",
        "1700000000000.0",
        "1_700_000_000_000",
        "1.7e12",
        "0x18bcfe56800",
        "01700000000000",
        "1700000000000\n",
        "\u0661\u0667" + "\u0660" * 11,  # Arabic digits
        "\uff11\uff17" + "\uff10" * 11,  # full-width digits
        "\u00b9",  # a digit to isdigit()
        "9" * 16,
        "9" * 5_000,
        "9" * 10_000,
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_a_timestamp_is_plain_digits(timestamp):
    error = refusal(headers_for(BODY, timestamp=timestamp))
    assert error.reason == SignatureReason.MALFORMED_TIMESTAMP


@pytest.mark.parametrize(
    "nonce",
    [
        "nonce",
        "a" * 31,
        "a" * 33,
        "a" * 64,
        "g" * 32,
        "791f398e-93f1-4b3e-98f9-16703f777f44",
        "a" * 31 + "\n",
        " " * 32,
        "a_" * 16,
        "\u0661" * 32,
        "\ud800" * 32,
    ],
    ids=ascii,
)
def test_a_nonce_is_32_hex_digits(nonce):
    error = refusal(headers_for(BODY, nonce=nonce))
    assert error.reason == SignatureReason.MALFORMED_NONCE


def test_a_nonce_of_another_shape_is_a_setting():
    open_minded = verifier(nonce_shape="any")
    for nonce in ("nonce", "a" * 200, "!~", "791f398e-93f1-4b3e-98f9-16703f777f44"):
        assert open_minded.verify(headers_for(BODY, nonce=nonce), BODY) == APP_ID
    for nonce in ("a" * 201, "a;b", "a b", "\xe9", "\ud800"):
        headers = headers_for(BODY, nonce=nonce)
        error = refusal(headers, nonce_shape="any")
        assert error.reason == SignatureReason.MALFORMED_NONCE


def test_time_has_a_tolerance_on_both_sides():
    clock = Clock()
    made = verifier(tolerance=300, clock=clock)

    def headers(seconds: float) -> dict[str, str]:
        return headers_for(BODY, timestamp=round((NOW + seconds) * 1000))

    for offset in (-300, -299.999, 0, 299.999, 300):
        made.verify(headers(offset), BODY)
    error = refusal(headers(-300.001), clock=clock)
    assert error.reason == SignatureReason.EXPIRED
    assert error.delta == pytest.approx(300.001)
    assert str(error) == "the request is 300.001 s old; the tolerance is 300 s"
    error = refusal(headers(300.5), clock=clock)
    assert error.reason == SignatureReason.IN_THE_FUTURE
    assert error.delta == pytest.approx(-300.5)
    assert "300.500 s in the future" in str(error)
    assert refusal(headers(-2), tolerance=1.5).reason == SignatureReason.EXPIRED


def test_seconds_for_milliseconds_are_long_expired():
    error = refusal(headers_for(BODY, timestamp=int(NOW)))
    assert error.reason == SignatureReason.EXPIRED
    assert error.delta == pytest.approx(NOW - NOW / 1000)
    assert "the timestamp looks like seconds; it must be milliseconds" in str(error)


def test_a_verifier_shows_what_it_verifies():
    assert repr(verifier()) == f"RequestVerifier(method='POST', path={PATH!r})"


def test_a_clock_that_is_lost_lets_nothing_in():
    error = refusal(headers_for(BODY), clock=Clock(float("nan")))
    assert error.reason == SignatureReason.EXPIRED


def test_another_secret_app_path_or_method_is_a_bad_signature():
    for changes in (
        {"secret": "another"},
        {"path": "/api/v1/watch/unsubscribe"},
        {"path": PATH + "/"},
        {"method": "GET"},
    ):
        error = refusal(headers_for(BODY, **changes))
        assert error.reason == SignatureReason.BAD_SIGNATURE
    others = {APP_ID: [SECRET], "other": ["another"]}
    error = refusal(headers_for(BODY, app_id="other"), secrets=others)
    assert error.reason == SignatureReason.BAD_SIGNATURE


def test_a_body_that_is_too_large_is_not_looked_at():
    body = b'"' + b"x" * 998 + b'"'
    assert verifier(max_body=1000).verify(headers_for(body), body) == APP_ID
    error = refusal(headers_for(body), body, max_body=999)
    assert error.reason == SignatureReason.BODY_TOO_LARGE
    assert refusal({}, body, max_body=10).reason == SignatureReason.BODY_TOO_LARGE


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/api/v1/watch", SignatureReason.OTHER_PATH),
        (PATH + "/", SignatureReason.OTHER_PATH),
        (PATH + ";a=1", SignatureReason.OTHER_PATH),
        (b"/api/v1/watch/alert%2f", SignatureReason.OTHER_PATH),
        (b"/\xff", SignatureReason.OTHER_PATH),
        ("/other?a=1", SignatureReason.OTHER_PATH),
        (PATH + "?a=1", SignatureReason.QUERY_PRESENT),
        (PATH.encode() + b"?", SignatureReason.QUERY_PRESENT),
    ],
)
def test_another_path_and_any_query_is_refused(target, reason):
    assert refusal(headers_for(BODY), target=target).reason == reason


def test_the_right_path_is_taken():
    for target in (PATH, PATH.encode(), None):
        assert verifier().verify(headers_for(BODY), BODY, target=target) == APP_ID


def test_the_bodies_of_an_ambiguous_message_are_refused_though_signed():
    # The signature is that of a request with a query; the path is pinned and the
    # body must be JSON, so that no reading of it gets in.
    body = b'q=1;{"X":1}'
    for method in ("verify", "alerts"):
        with pytest.raises(DecodeError):
            getattr(verifier(), method)(headers_for(body), body)
    error = refusal(headers_for(b'{"X":1}', path=PATH + ";q=1"), b'{"X":1}')
    assert error.reason == SignatureReason.BAD_SIGNATURE


# ---------------------------------------------------------------------------- secrets
def test_secrets_from_a_function_are_current():
    apps = {APP_ID: [SECRET]}
    made = verifier(secrets=apps.get)
    verify(made)
    apps[APP_ID] = ["new", SECRET]
    verify(made, secret="new")
    verify(made)
    del apps[APP_ID]
    assert reason_of(made) == SignatureReason.UNKNOWN_APP
    apps[APP_ID] = []
    assert reason_of(made) == SignatureReason.UNKNOWN_APP
    apps[APP_ID] = ["new"]
    assert reason_of(made) == SignatureReason.BAD_SIGNATURE
    verify(made, secret="new")


def test_secrets_in_a_mapping_are_those_of_its_creation():
    apps = {APP_ID: [SECRET]}
    made = verifier(secrets=apps)
    apps.clear()
    verify(made)


def verify(made: RequestVerifier, **changes: str) -> None:
    checks_of(made).check(headers_for(BODY, **changes), BODY, None)
    assert made.verify(headers_for(BODY, **changes), BODY) == APP_ID
    assert made.alerts(headers_for(BODY, **changes), BODY).app_id == APP_ID


def reason_of(made: RequestVerifier) -> SignatureReason:
    with pytest.raises(SignatureError) as caught:
        made.verify(headers_for(BODY), BODY)
    return caught.value.reason


@pytest.mark.parametrize(
    "app_id", ["a b", "a;b", "\xe9", "\ud800", "x" * 201, 5 * "\n"]
)
def test_app_ids_that_no_app_can_have_are_not_looked_up(app_id):
    asked = []
    made = verifier(secrets=asked.append)
    headers = {**headers_for(BODY), "X-Signature-appid": app_id}
    with pytest.raises(SignatureError) as caught:
        made.verify(headers, BODY)
    assert caught.value.reason == SignatureReason.UNKNOWN_APP
    assert asked == []


def test_an_error_of_the_function_reaches_the_caller_and_uses_no_nonce():
    secrets = iter([ConnectionError("database"), [SECRET]])

    def find(_app_id: str) -> list[str]:
        found = next(secrets)
        if isinstance(found, Exception):
            raise found
        return found

    made, headers = verifier(secrets=find), headers_for(BODY)
    with pytest.raises(ConnectionError, match="database"):
        made.verify(headers, BODY)
    assert made.verify(headers, BODY) == APP_ID


@pytest.mark.parametrize(
    "reason", [SignatureReason.APP_EXPIRED, SignatureReason.APP_OVER_LIMIT]
)
def test_the_function_can_refuse_an_app_for_a_reason_of_its_own(reason):
    def find(_app_id: str) -> list[str]:
        raise SignatureError(reason, "the contract has ended")

    made = verifier(secrets=find)
    assert reason_of(made) == reason
    assert not made.is_current(headers_for(BODY), BODY)


@pytest.mark.parametrize("returned", [SECRET, {SECRET}, [SECRET, 5], [""], 5])
def test_secrets_that_cannot_be_used_are_an_error_that_shows_none(returned):
    made = verifier(secrets=lambda _: returned)
    with pytest.raises(InvalidArgument, match="secrets") as caught:
        made.verify(headers_for(BODY), BODY)
    assert caught.value.__context__ is None
    for frame, _ in traceback.walk_tb(caught.tb):
        if "ortege_watch" in frame.f_code.co_filename:
            assert SECRET not in repr(frame.f_locals)


def test_an_async_function_is_refused_when_it_is_passed():
    async def find(_app_id: str) -> list[str]:
        raise AssertionError

    with pytest.raises(
        InvalidArgument, match="or a plain function, got an async function"
    ):
        verifier(secrets=find)


@pytest.mark.parametrize("function", [False, True])
def test_is_current_until_the_secret_that_signed_is_removed(function):
    apps = {APP_ID: ["old", "new"]}
    made = verifier(secrets=apps.get if function else apps, clock=Clock(NOW + 1e6))
    signed = headers_for(b"", secret="old")
    assert made.is_current(signed, b"")
    assert made.is_current(signed, b"")  # neither time nor nonce is checked
    assert not made.is_current(headers_for(b"", secret="another"), b"")
    assert not made.is_current(signed, b"[]")
    apps[APP_ID] = ["new"]
    assert made.is_current(signed, b"") is not function
    assert made.is_current(headers_for(b"", secret="new"), b"")
    apps.clear()
    assert made.is_current(headers_for(b"", secret="new"), b"") is not function


# ---------------------------------------------------------------------------- replays
def test_one_app_cannot_use_up_the_nonces_of_another():
    secrets = {APP_ID: [SECRET], "other": ["s"]}
    made = verifier(secrets=secrets, nonces=MemoryNonces(limit=2))
    for _ in range(2):
        made.verify(headers_for(BODY, app_id="other", secret="s"), BODY)
    with pytest.raises(SignatureError, match="'other'") as caught:
        made.verify(headers_for(BODY, app_id="other", secret="s"), BODY)
    assert caught.value.reason == SignatureReason.NONCES_FULL
    assert made.verify(headers_for(BODY), BODY) == APP_ID


def test_a_request_is_good_once():
    made, headers = verifier(), headers_for(BODY)
    made.alerts(headers, BODY)
    for method in (made.verify, made.alerts):
        with pytest.raises(SignatureError) as caught:
            method(headers, BODY)
        assert caught.value.reason == SignatureReason.REPLAY


def test_a_nonce_is_good_once_whatever_it_signs():
    made, nonce = verifier(), new_nonce()
    made.verify(headers_for(b"{}", nonce=nonce), b"{}")
    with pytest.raises(SignatureError) as caught:
        made.verify(headers_for(BODY, nonce=nonce, timestamp=int(NOW * 1000) + 1), BODY)
    assert caught.value.reason == SignatureReason.REPLAY


def test_apps_have_nonces_of_their_own():
    made, nonce = verifier(secrets={APP_ID: [SECRET], "other": ["s"]}), new_nonce()
    made.verify(headers_for(BODY, nonce=nonce), BODY)
    made.verify(headers_for(BODY, nonce=nonce, app_id="other", secret="s"), BODY)


def test_only_a_good_request_uses_a_nonce_up():
    nonces = MemoryNonces()
    made, nonce = verifier(nonces=nonces), new_nonce()
    forged = {**headers_for(BODY, nonce=nonce), "X-Signature-signature": "0" * 64}
    late = headers_for(BODY, nonce=nonce, timestamp=1)
    no_json = headers_for(b"no JSON", nonce=nonce)
    for headers, body in ((forged, BODY), (late, BODY), (no_json, b"no JSON")):
        with pytest.raises((SignatureError, DecodeError)):
            made.verify(headers, body)
    assert len(nonces) == 0
    assert made.verify(headers_for(BODY, nonce=nonce), BODY) == APP_ID
    assert len(nonces) == 1


def test_nonces_are_remembered_as_long_as_their_request_is_fresh():
    clock = Clock()
    nonces = MemoryNonces(limit=1)
    made = verifier(clock=clock, tolerance=300, nonces=nonces)
    ahead = headers_for(BODY, timestamp=int((NOW + 300) * 1000))
    made.verify(ahead, BODY)
    clock.now = NOW + 600  # the request is just fresh
    with pytest.raises(SignatureError) as caught:
        made.verify(headers_for(BODY, timestamp=int(clock.now * 1000)), BODY)
    assert caught.value.reason == SignatureReason.NONCES_FULL
    with pytest.raises(SignatureError) as caught:
        made.verify(ahead, BODY)
    assert caught.value.reason != SignatureReason.EXPIRED
    clock.now = NOW + 602
    made.verify(headers_for(BODY, timestamp=int(clock.now * 1000)), BODY)


def test_of_many_threads_one_gets_in():
    made, headers = verifier(), headers_for(BODY)

    def accepted(_: int) -> bool:
        try:
            made.verify(headers, BODY)
        except SignatureError as error:
            assert error.reason == SignatureReason.REPLAY  # noqa: PT017
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(accepted, range(64))) == 1


@pytest.mark.parametrize("change", [{"method": "GET"}, {"path": "/other"}])
def test_checks_of_other_requests_share_everything_else(change):
    made = verifier(nonce_shape="any", max_body=1000)
    other = evolve(checks_of(made), **change)
    expected = {"method": "POST", "path": PATH, **change}
    assert {"method": other.method, "path": other.path} == expected
    assert (made.method, made.path, other.max_body) == ("POST", PATH, 1000)
    headers = headers_for(b"", nonce="once", **change)
    with pytest.raises(SignatureError) as caught:
        made.verify(headers, b"")
    assert caught.value.reason == SignatureReason.BAD_SIGNATURE
    head = other.check(headers, b"", expected["path"])
    assert other.accept(head, b"", lambda _, app_id: app_id) == APP_ID
    with pytest.raises(SignatureError) as caught:
        made.verify(headers_for(b"", nonce="once"), b"")
    assert caught.value.reason == SignatureReason.REPLAY


@pytest.mark.parametrize("change", [{"method": "get"}, {"path": "/other;"}])
def test_checks_of_invalid_requests_are_not_made(change):
    with pytest.raises(InvalidArgument, match=f"{next(iter(change))} must be"):
        evolve(checks_of(verifier()), **change)


class CountedHeaders(dict):
    reads = 0

    def items(self):
        self.reads += 1
        return super().items()


@pytest.mark.anyio
async def test_with_a_function_of_secrets_the_headers_are_read_once():
    headers = CountedHeaders(headers_for(BODY))
    checks = checks_of(verifier(secrets={APP_ID: [SECRET]}.get))
    head = await checks.find_head(headers)
    assert headers.reads == 1
    assert checks.accept(head, BODY, lambda _, app_id: app_id) == APP_ID


# ---------------------------------------------------------------------------- secrets
def test_old_and_new_secrets_are_good_while_both_are_listed():
    made = verifier(secrets={APP_ID: ["old", SECRET, "next"]})
    for secret in ("old", SECRET, "next"):
        assert made.verify(headers_for(BODY, secret=secret), BODY) == APP_ID
    error = refusal(headers_for(BODY, secret="old"))
    assert error.reason == SignatureReason.BAD_SIGNATURE


def test_secrets_are_not_shown():
    made = verifier()
    assert SECRET not in repr(made) + repr(vars(made))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"secrets": {APP_ID: SECRET}}, "secrets of .* must be a non-empty list"),
        ({"secrets": {APP_ID: []}}, "secrets of .* must be a non-empty list"),
        ({"secrets": {APP_ID: [""]}}, "a secret of .* must be a non-empty string"),
        ({"secrets": {APP_ID: [b"bytes"]}}, "must be a non-empty string, got bytes"),
        ({"secrets": {"a;b": [SECRET]}}, "app_id must be visible ASCII"),
        ({"path": "api"}, "path must be .*, got 'api'"),
        ({"path": PATH + "?a=1"}, "path must be"),
        ({"method": "post"}, "method must be"),
        ({"tolerance": 0}, "tolerance must be greater than 0"),
        ({"tolerance": float("inf")}, "tolerance must be greater than 0"),
        ({"tolerance": float("nan")}, "tolerance must be greater than 0"),
        ({"nonce_shape": "uuid"}, "nonce_shape must be 'hex32' or 'any', got 'uuid'"),
    ],
)
def test_a_verifier_that_cannot_work_is_not_made(arguments, problem):
    with pytest.raises(InvalidArgument, match=problem) as caught:
        verifier(**arguments)
    assert SECRET not in str(caught.value)


# ------------------------------------------------------------------- any one byte
def changed(text: bytes, position: int, byte: int, how: str) -> bytes:
    """Replace, insert or delete one byte."""
    position %= len(text)
    end = position if how == "insert" else position + 1
    middle = b"" if how == "delete" else bytes([byte])
    return text[:position] + middle + text[end:]


bytes_changed = st.tuples(
    st.integers(0, 10_000),
    st.integers(0, 255),
    st.sampled_from(["replace", "insert", "delete"]),
)
HEADERS = headers_for(BODY)


@given(
    field=st.sampled_from([*list(HEADERS)[1:], "body"]),
    change=bytes_changed,
    as_bytes=st.booleans(),
)
def test_one_changed_byte_is_refused(field, change, as_bytes):
    parts = {name: value.encode() for name, value in HEADERS.items()} | {"body": BODY}
    after = changed(parts[field], *change)
    assume(after != parts[field])
    body = after if field == "body" else BODY
    headers = {**parts, field: after}
    del headers["body"]
    if as_bytes:
        named = {name.encode(): value for name, value in headers.items()}
    else:
        named = {name: value.decode("latin-1") for name, value in headers.items()}
    for method in ("verify", "alerts"):
        with pytest.raises(SignatureError):
            getattr(verifier(), method)(named, body)


@given(field=st.sampled_from(["path", "method"]), change=bytes_changed)
def test_one_changed_byte_of_what_is_asked_is_a_bad_signature(field, change):
    before = {"path": PATH, "method": "POST"}[field]
    after = changed(before.encode(), *change).decode("latin-1")
    assume(after != before)
    error = refusal(headers_for(BODY, **{field: after}))
    assert error.reason == SignatureReason.BAD_SIGNATURE


def test_the_verifier_tells_what_it_expects():
    made = verifier(max_body=5, method="GET")
    assert (made.path, made.method) == (PATH, "GET")
    assert {each for each in dir(made) if not each.startswith("_")} == {
        *("alerts", "is_current", "method", "nonces", "path", "verify")
    }
    assert made.verify(headers_for(b"{}", method="GET"), b"{}") == APP_ID
    assert json.loads(BODY)  # the examples above are what they claim to be


@pytest.mark.parametrize("target", [5, ["/p"]])
def test_a_target_is_a_path(target):
    with pytest.raises(InvalidArgument, match="target must be a path, str or bytes"):
        verifier().verify(headers_for(BODY), BODY, target=target)
