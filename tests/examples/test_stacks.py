"""Clarity values and principals, by vectors of SIP-005 and by round trips."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from liquidation_bot.stacks import (
    ClarityError,
    Err,
    Name,
    Ok,
    Principal,
    Some,
    UInt,
    c32_decode,
    c32_encode,
    check_principal,
    deserialize,
    represent,
    serialize,
)

BURN = "SP000000000000000000002Q6VF78"
DEPLOYER = "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N"
DEPLOYER_HEX = "05b65e5089ed1b09b299fe0d910a82e37570781f"

ADDRESSES = [
    (BURN, 22, "00" * 20),
    ("ST000000000000000000002AMW42H", 26, "00" * 20),
    (DEPLOYER, 22, DEPLOYER_HEX),
    # Seen in use: a digit less, a multi-signature, many zeros.
    (
        "SPN5AKG35QZSK2M8GAMR4AFX45659RJHDW353HSG",
        22,
        "2a554e032dff998a8882a98229fd214c54e2516f",
    ),
    (
        "SM3VDXK3WZZSA84XXFKAFAF15NNZX32CTSG82JFQ4",
        20,
        "f6decc7cfff2a413bd7cd4f53c25ad7fd1899acc",
    ),
    # The example of SIP-005's address section.
    (
        "SP2J6ZY48GV1EZ5V2V5RB9MP66SW86PYKKNRV9EJ7",
        22,
        "a46ff88886c2ef9762d970b4d2c63678835bd39d",
    ),
]

VALUES = [
    (1, "0000000000000000000000000000000001", "1"),
    (-1, "00ffffffffffffffffffffffffffffffff", "-1"),
    (UInt(1), "0100000000000000000000000000000001", "u1"),
    (UInt(2**128 - 1), "01" + "ff" * 16, f"u{2**128 - 1}"),
    (b"\xbe\xef", "0200000002beef", "0xbeef"),
    (True, "03", "true"),
    (False, "04", "false"),
    (Principal(BURN), "0516" + "00" * 20, f"'{BURN}"),
    (
        Principal(f"{DEPLOYER}.wstx"),
        f"0616{DEPLOYER_HEX}0477737478",
        f"'{DEPLOYER}.wstx",
    ),
    (Ok(True), "0703", "(ok true)"),
    (Err(UInt(6)), "0801" + "00" * 15 + "06", "(err u6)"),
    (None, "09", "none"),
    (Some(True), "0a03", "(some true)"),
    ((), "0b00000000", "(list)"),
    ([True, False], "0b000000020304", "(list true false)"),
    # Keys are in the order of their bytes, whatever order they were given in.
    (
        {"b": True, "a": None},
        "0c0000000201610901" + "6203",
        "(tuple (a none) (b true))",
    ),
    (Name("hi"), "0d000000026869", '"hi"'),
    ("é", "0e00000002c3a9", 'u"é"'),
]


@pytest.mark.parametrize(("address", "version", "payload"), ADDRESSES)
def test_addresses(address, version, payload):
    assert c32_decode(address) == (version, bytes.fromhex(payload))
    assert c32_encode(version, bytes.fromhex(payload)) == address


def test_letters_that_look_like_digits_are_read_as_these():
    assert c32_decode(BURN.replace("0", "O").lower()) == c32_decode(BURN)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "S",
        "SP",
        "SPU",
        f"{BURN[:-1]}9",
        BURN[:-1],
        f"{BURN}0",
        f"S0{BURN[2:]}",
        "XP000000000000000000002Q6VF78",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
    ],
)
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises(ClarityError):
        c32_decode(wrong)


@pytest.mark.parametrize("wrong", [f"{BURN}.", f"{BURN}.1a", f"{BURN}.a b", ".wstx"])
def test_what_is_no_contract_is_refused(wrong):
    with pytest.raises(ClarityError):
        check_principal(wrong)


@pytest.mark.parametrize("good", [BURN, f"{BURN}.a", f"{DEPLOYER}.zststxbtc-v2_v2-0"])
def test_accounts_and_contracts_are_principals(good):
    check_principal(good)


@given(st.integers(0, 31), st.binary(min_size=20, max_size=20))
def test_any_address_comes_back(version, payload):
    assert c32_decode(c32_encode(version, payload)) == (version, payload)


@given(st.integers(0, 31), st.binary(min_size=20, max_size=20), st.data())
def test_a_changed_digit_is_noticed(version, payload, data):
    address = c32_encode(version, payload)
    place = data.draw(st.integers(1, len(address) - 1))
    digit = data.draw(st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"))
    changed = address[:place] + digit + address[place + 1 :]
    if changed != address:
        with pytest.raises(ClarityError):
            c32_decode(changed)


@pytest.mark.parametrize(("value", "wire", "source"), VALUES)
def test_values(value, wire, source):
    assert serialize(value).hex() == wire
    assert represent(value) == source
    back = deserialize(bytes.fromhex(wire))
    assert back == (tuple(value) if isinstance(value, list) else value)
    assert type(back) is (tuple if isinstance(value, list) else type(value))


names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9-]{0,20}", fullmatch=True)
principals = st.builds(
    c32_encode, st.integers(0, 31), st.binary(min_size=20, max_size=20)
).map(Principal)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**127), 2**127 - 1)
    | st.builds(UInt, st.integers(0, 2**128 - 1))
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.builds(Name, st.text(st.characters(codec="ascii"), max_size=20))
    | principals,
    lambda inner: (
        st.builds(Some, inner)
        | st.builds(Ok, inner)
        | st.builds(Err, inner)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(values)
def test_any_value_comes_back(value):
    assert deserialize(serialize(value)) == value


@given(values)
def test_cut_off_or_longer_bytes_are_refused(value):
    wire = serialize(value)
    for cut in range(len(wire)):
        with pytest.raises(ClarityError):
            deserialize(wire[:cut])
    with pytest.raises(ClarityError, match="follow"):
        deserialize(wire + b"\x09")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(data):
    try:
        value = deserialize(data)
    except ClarityError:
        return
    assert deserialize(serialize(value)) == value


@pytest.mark.parametrize(
    "wire",
    [
        "0f",  # a kind that there is not
        "0a" * 40 + "09",  # nested without end
        "0d00000001ff",  # text that is not ASCII
        "0e00000001ff",  # text that is not UTF-8
        "0520" + "00" * 20,  # an address of a version above 31
    ],
)
def test_bytes_that_mean_nothing_are_refused(wire):
    with pytest.raises(ClarityError):
        deserialize(bytes.fromhex(wire))


@pytest.mark.parametrize(
    "value",
    [
        2**127,
        UInt(-1),
        UInt(2**128),
        Name("é"),
        {"": True},
        {"x" * 129: True},
        Principal("nobody"),
    ],
)
def test_values_that_do_not_fit_are_refused(value):
    with pytest.raises(ClarityError):
        serialize(value)
