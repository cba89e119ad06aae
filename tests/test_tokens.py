from __future__ import annotations

import base64
import gc
import json
import traceback

import pytest
from hypothesis import given, strategies as st

from ortege_watch._http.token_source import TokenSource
from ortege_watch.errors import InvalidArgument, OrtegeWatchError
from ortege_watch.tokens import expiry, redact, safe_cause

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2VjcmV0"


def jwt(payload: str) -> str:
    text = base64.urlsafe_b64encode(payload.encode()).rstrip(b"=").decode()
    return f"e30.{text}.c2ln"


async def ask_either(source: TokenSource, *, sync: bool) -> str:
    return source.get() if sync else await source.aget()


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    "given",
    [
        JWT,
        f"Bearer {JWT}",
        f"bearer\t{JWT}",
        f"BEARER   {JWT}\n",
        f"  {JWT}\r\n",
        lambda: f"Bearer {JWT}",
    ],
)
async def test_a_token_comes_out_bare(given, sync):
    assert await ask_either(TokenSource(given), sync=sync) == JWT


async def test_an_async_function_is_awaited():
    async def provider():
        return JWT

    assert await TokenSource(provider).aget() == JWT


def test_a_function_is_asked_each_time():
    tokens = iter(["one", "two"])
    source = TokenSource(lambda: next(tokens))
    assert [source.get(), source.get()] == ["one", "two"]


@pytest.mark.parametrize("empty", ["", "   ", "Bearer", "bearer  ", "\n"])
def test_an_empty_token_is_refused_with_advice(empty):
    with pytest.raises(InvalidArgument, match="ORTEGE_TOKEN"):
        TokenSource(empty)


@pytest.mark.parametrize(
    ("given", "sign"),
    [
        ("secret\r\nx-evil: 1", r"U\+000D at position 6"),
        ("secret token", r"U\+0020"),
        ("secret\x00", r"U\+0000"),
        ("sécret", r"U\+00E9 at position 1"),
        ("Bearer Bearer secret", r"U\+0020"),
        ("secret\x7f", r"U\+007F"),
    ],
)
def test_what_no_header_can_carry_is_refused_unseen(given, sign):
    with pytest.raises(InvalidArgument, match=sign) as caught:
        TokenSource(given)
    assert "cret" not in "".join(traceback.format_exception_only(caught.value))


@pytest.mark.parametrize("given", [None, 5, b"token", ["token"]])
def test_what_is_no_token_is_refused(given):
    with pytest.raises(InvalidArgument, match=f"got {type(given).__name__}"):
        TokenSource(given)


VISIBLE = "visible ASCII without spaces"


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (None, "None, expected a str: return a JWT"),
        (5, "an object of type int, expected a str: return a JWT"),
        (b"token", "an object of type bytes, expected a str: return a JWT"),
        ("", "an empty string: return a JWT"),
        ("a b", "a string with U+0020 at position 1: expected a JWT, " + VISIBLE),
    ],
)
async def test_a_function_must_give_a_token(given, problem, sync):
    with pytest.raises(OrtegeWatchError) as caught:
        await ask_either(TokenSource(lambda: given), sync=sync)
    assert type(caught.value) is OrtegeWatchError
    assert str(caught.value) == f"the token function returned {problem}"


@pytest.mark.parametrize("sync", [True, False])
async def test_a_failing_function_is_named_without_its_words(sync):
    def provider():
        raise KeyError(JWT)

    with pytest.raises(
        OrtegeWatchError, match="token function failed: KeyError"
    ) as caught:
        await ask_either(TokenSource(provider), sync=sync)
    assert isinstance(caught.value.__cause__, KeyError)
    assert JWT not in str(caught.value)


async def test_a_failing_async_function_is_named():
    async def provider():
        raise OSError("gone")

    with pytest.raises(
        OrtegeWatchError, match="token function failed: OSError"
    ) as caught:
        await TokenSource(provider).aget()
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_of_our_own_passes():
    own = OrtegeWatchError("the vault is sealed")

    def provider():
        raise own

    with pytest.raises(OrtegeWatchError) as caught:
        TokenSource(provider).get()
    assert caught.value is own
    assert own.__cause__ is None


class Awaitable:
    def __await__(self):
        yield


async def coroutine():
    return JWT


@pytest.mark.parametrize("provider", [coroutine, Awaitable])
def test_threads_cannot_await(provider):
    with pytest.raises(OrtegeWatchError, match="or AsyncCubeClient"):
        TokenSource(provider).get()
    gc.collect()  # a coroutine that nobody awaited would warn here, which is an error


def test_nothing_shows_the_token():
    source = TokenSource(JWT)
    assert repr(source) == str(source) == "TokenSource(...)"
    assert not hasattr(source, "__dict__")


@pytest.mark.parametrize(
    ("payload", "expires"),
    [
        ('{"exp":1700000000}', 1700000000.0),
        ('{"exp":1700000000.25}', 1700000000.25),
        ('{"exp":-1}', -1.0),
        ('{"exp":1e9}', 1e9),
        ('{"exp":1' + "0" * 400 + "}", None),
        ('{"exp":1e400}', None),
        ('{"exp":"1700000000"}', None),
        ('{"exp":true}', None),
        ('{"exp":null}', None),
        ("{}", None),
        ("[]", None),
        ("17", None),
        ("{", None),
        ("[" * 100_000, None),
    ],
)
def test_expiry_is_the_payloads_exp(payload, expires):
    assert expiry(jwt(payload)) == expires


@pytest.mark.parametrize("token", ["opaque", "a.b", "a.b.c.d", "a.!.c", "a.é.c", ""])
def test_other_tokens_have_no_expiry(token):
    assert expiry(token) is None


@given(st.text())
def test_expiry_takes_any_text(token):
    assert expiry(token) is None


@given(st.integers(-(2**53), 2**53), st.dictionaries(st.text(), st.integers()))
def test_expiry_does_not_mind_other_claims(exp, others):
    assert expiry(jwt(json.dumps(others | {"exp": exp}))) == exp


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("no s3cret-token!", ["s3cret-token"], "no <secret>!"),
        (b"no s3cret-token!", ["s3cret-token"], b"no <secret>!"),
        (r"b's3cret\\token'", ["s3cret\\token"], "b'<secret>'"),
        ("no connection", ["nectio"], "no connection"),
        ("no connection", ["", "n"], "no connection"),
    ],
)
def test_a_secret_is_removed_if_it_is_long_enough_for_one(text, secrets, shown):
    assert redact(text, secrets) == shown


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        raised(ValueError(JWT)),
        raised(ValueError("a"), raised(KeyError(JWT))),
        raised(ExceptionGroup("a", [raised(ValueError(JWT))])),
    ],
)
def test_a_cause_that_shows_a_secret_is_dropped(error):
    assert safe_cause(error, [JWT]) is None


def test_a_cause_has_no_frames():
    inner = raised(KeyError("b"))
    member = raised(ValueError("c"))
    error = raised(ExceptionGroup("a", [member]), inner)
    assert safe_cause(error, [JWT]) is error
    assert error.__cause__ is inner
    assert {each.__traceback__ for each in (error, inner, member)} == {None}
