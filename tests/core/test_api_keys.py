import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.api_keys import PREFIX, ApiKey, BadKey, bad_tenant, parse_key

TENANTS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
IDS = st.from_regex(r"[a-z0-9]{12}", fullmatch=True)
KEYS = st.builds(ApiKey, TENANTS, IDS, st.binary(min_size=32, max_size=32))
A_KEY = ApiKey("acme", "k7f3x2abcdef", b"s" * 32)


@given(KEYS)
def test_a_key_is_read_as_it_was_written(key: ApiKey) -> None:
    assert parse_key(key.text()) == key
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key.text()), "it goes into URLs, shells and headers as it is"


@given(KEYS, st.data())
def test_a_key_with_one_wrong_character_is_refused(key: ApiKey, data: st.DataObject) -> None:
    text = key.text()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda character: character != text[at]))
    with pytest.raises(BadKey):
        parse_key(text[:at] + other + text[at + 1 :])


@given(KEYS, st.integers(0, 80))
def test_a_key_that_is_cut_off_is_refused(key: ApiKey, length: int) -> None:
    text = key.text()
    if length < len(text):
        with pytest.raises(BadKey):
            parse_key(text[:length])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "looks like"),
        ("sk-1234", "looks like"),
        (f"{PREFIX}_a_b", "looks like"),
        (f"{PREFIX}_Acme_k7f3x2abcdef_{'0' * 49}", "small letters"),
        (f"{PREFIX}_acme_short_{'0' * 49}", "id of a key"),
        (A_KEY.text() + "x", "cut off"),
        (A_KEY.text() + "x" * 10_000, "more than a key has"),
        (A_KEY.text()[:-1] + "~", "mistyped"),
        (A_KEY.text() + "\n", "cut off"),
        (A_KEY.text()[:-7] + "\udcff" + A_KEY.text()[-6:], "mistyped"),
    ],
    ids=["empty", "another's", "too few parts", "tenant", "id", "longer", "huge", "checksum", "line end", "no UTF-8"],
)
def test_a_refusal_says_why_and_nothing_of_the_secret(text: str, why: str) -> None:
    with pytest.raises(BadKey, match=why) as refused:
        parse_key(text)
    assert "ssss" not in str(refused.value)


def test_a_secret_beyond_its_bytes_is_refused() -> None:
    whole = f"{PREFIX}_acme_k7f3x2abcdef_{'z' * 43}"
    digits, number = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", zlib.crc32(whole.encode())
    checksum = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        checksum = digits[digit] + checksum
    with pytest.raises(BadKey, match="no key has such a secret"):
        parse_key(whole + checksum)


def test_a_key_does_not_show_its_secret() -> None:
    assert "ss" not in repr(A_KEY)


@pytest.mark.parametrize("name", ["a", "acme", "team-7", "0", "a" * 63])
def test_these_are_names_of_tenants(name: str) -> None:
    assert bad_tenant(name) is None


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a b", "ü", "a\n", "a" * 64])
def test_these_are_none(name: str) -> None:
    assert bad_tenant(name)
