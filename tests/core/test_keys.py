"""What is known of keys, and who shows one."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.keys import UNKNOWN, Directory, KeyRecord, TenantRecord, hash_of, key_id
from broker.core.principal import Principal
from schemas.accounts import Key, KeyMade, Role
from schemas.api import Problem
from schemas.api_keys import ID_LENGTH, ApiKey
from schemas.job import Lane
from schemas.units import Ms

SECRET = bytes(range(32))
OTHER = bytes(range(1, 33))
KEY = ApiKey("t", "a" * 12, SECRET)
NOW = Ms(1_000_000)


def a_record(key: ApiKey = KEY, **changes: object) -> KeyRecord:
    fields = {
        "id": key.id,
        "tenant": key.tenant,
        "role": Role.PRODUCER,
        "hash": hash_of(key.secret),
        "created_ms": Ms(0),
    }
    return KeyRecord(**{**fields, **changes})  # type: ignore[arg-type]


def a_directory(*records: KeyRecord, disabled_ms: Ms | None = None) -> Directory:
    return Directory.of(1, [TenantRecord("t", disabled_ms), TenantRecord("u")], records or [a_record()])


def code(caller: Principal | Problem) -> str | None:
    return caller.code if isinstance(caller, Problem) else None


def test_who_shows_a_key_is_its_principal() -> None:
    record = a_record(
        role=Role.TENANT_ADMIN, models=frozenset({"m"}), endpoints=frozenset({"/v1/embeddings"}), expires_ms=NOW + 1
    )

    caller = a_directory(record).identify_text(KEY.text(), NOW)

    assert caller == Principal(
        tenant="t",
        key=KEY.id,
        role=Role.TENANT_ADMIN,
        models=frozenset({"m"}),
        endpoints=frozenset({"/v1/embeddings"}),
        expires_ms=Ms(NOW + 1),
    )
    assert isinstance(caller, Principal)
    assert caller.lanes == frozenset(Lane)


@pytest.mark.parametrize(
    "shown",
    [
        ApiKey("t", KEY.id, OTHER),
        ApiKey("t", "b" * 12, SECRET),
        ApiKey("u", KEY.id, SECRET),
        ApiKey("v", KEY.id, SECRET),
    ],
    ids=["another secret", "another id", "another tenant", "no tenant"],
)
def test_what_is_not_the_key_gets_one_answer_whatever_is_wrong(shown: ApiKey) -> None:
    assert a_directory().identify_text(shown.text(), NOW) == UNKNOWN


def test_a_text_that_is_no_key_is_told_why_without_a_look_up() -> None:
    caller = Directory().identify_text(KEY.text()[:-1], NOW)

    assert code(caller) == "bad_key"
    assert isinstance(caller, Problem)
    assert "cut off" in caller.message


@pytest.mark.parametrize(
    ("changes", "at", "expected"),
    [
        ({"revoked_ms": NOW}, NOW, "key_revoked"),
        ({"revoked_ms": NOW}, NOW - 1, None),
        ({"expires_ms": NOW}, NOW, "key_expired"),
        ({"expires_ms": NOW}, NOW - 1, None),
        ({"expires_ms": NOW, "revoked_ms": NOW}, NOW, "key_revoked"),
    ],
    ids=["revoked", "before", "expired", "before its end", "both"],
)
def test_a_key_is_let_in_until_it_ends(changes: dict[str, Any], at: int, expected: str | None) -> None:
    directory = a_directory(a_record(**changes))

    assert code(directory.identify_text(KEY.text(), Ms(at))) == expected
    assert code(directory.identify("t", KEY.id, Ms(at))) == expected
    assert directory.let_in(Ms(at)) == (frozenset() if expected else {("t", KEY.id)})


def test_a_text_that_was_found_true_before_is_so_only_while_its_key_is_let_in() -> None:
    directory = a_directory(a_record(expires_ms=NOW))
    assert isinstance(directory.identify_text(KEY.text(), Ms(NOW - 1)), Principal)

    assert isinstance(directory.identify_text(KEY.text(), Ms(NOW - 1)), Principal)
    assert code(directory.identify_text(KEY.text(), NOW)) == "key_expired"
    assert directory.identify_text(ApiKey("t", KEY.id, OTHER).text(), Ms(NOW - 1)) == UNKNOWN
    assert code(directory.identify_text(f"{KEY.text()} ", Ms(NOW - 1))) == "bad_key"


def test_no_key_of_a_disabled_tenant_is_let_in() -> None:
    directory = a_directory(a_record(), a_record(ApiKey("u", "b" * 12, OTHER)), disabled_ms=NOW)

    assert code(directory.identify_text(KEY.text(), Ms(0))) == "tenant_disabled"
    assert directory.let_in(NOW) == {("u", "b" * 12)}


def test_another_secret_is_told_nothing_of_the_key() -> None:
    directory = a_directory(a_record(revoked_ms=Ms(0)))

    assert directory.identify_text(ApiKey("t", KEY.id, OTHER).text(), NOW) == UNKNOWN


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 20), st.none() | st.integers(0, 20))))
def test_the_next_end_is_the_next_change_without_a_word(ends: list[tuple[int, int | None, int | None]]) -> None:
    records = [
        a_record(ApiKey("t", key_id(number), SECRET), expires_ms=expires, revoked_ms=revoked)
        for number, (_, expires, revoked) in enumerate(ends)
    ]
    directory, now = Directory.of(1, [TenantRecord("t")], records), Ms(10)

    end = directory.next_end(now)

    soon = [at for at in range(11, 22) if any(record.expires_ms == at for record in records)]
    assert end == (soon[0] if soon else None)


@given(st.integers(0, (1 << 80) - 1))
def test_an_id_is_of_its_length_and_characters(random: int) -> None:
    assert len(key_id(random)) == ID_LENGTH
    assert ApiKey("t", key_id(random), SECRET).text()


def test_nothing_that_is_shown_holds_a_secret_or_its_hash() -> None:
    made = KeyMade(
        Key(id=KEY.id, tenant="t", role=Role.PRODUCER, created_ms=Ms(0), made_by="t/k"),
        KEY.text(),
    )
    things: list[Any] = [KEY, a_record(), a_directory(), made]
    shown = [
        text for thing in things for text in (repr(thing), str(thing), str(getattr(thing, "__rich_repr__", list)()))
    ]

    secrets = (KEY.text()[-49:], repr(SECRET), SECRET.hex(), repr(hash_of(SECRET)), hash_of(SECRET).hex())
    assert [text for text in shown if any(secret in text for secret in secrets)] == []
    assert msgspec.json.encode(made.key).find(b"hash") < 0
