"""Neither what a client forges nor what pretends to be a broker's answer lets anybody in."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import nkeys
import pytest
from nacl.public import Box

from broker.bus.callout import SUBJECT, Question, allowing, read_question
from broker.core.keys import Directory, KeyRecord, TenantRecord, hash_of
from broker.core.nats_keys import NatsKeys
from broker.core.permissions import permissions_of
from broker.core.principal import Principal
from schemas.accounts import Role
from schemas.api import Problem
from schemas.api_keys import ApiKey
from schemas.jetstream import Message
from schemas.units import Ms
from tests.accounts.nats import KEYS, a_guarded_nats, as_broker
from tests.accounts.test_callout import ANN, KNOWN, answering, refused
from tests.builders import now

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
OTHER = NatsKeys(b"the secret of another system ...")
STRANGER = nkeys.from_seed(bytearray(nkeys.encode_seed(b"s" * 32, nkeys.PREFIX_BYTE_USER)))


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with a_guarded_nats(tmp_path) as guarded:
        yield guarded


def a_jwt(claims: dict[str, Any], signer: nkeys.KeyPair) -> bytes:
    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    head = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part(claims)
    return head + b"." + base64.urlsafe_b64encode(signer.sign(head)).rstrip(b"=")


def own_jwt(signer: nkeys.KeyPair) -> bytes:
    """What a user would show who could say what it may."""
    nats = {"type": "user", "version": 2, "pub": {"allow": [">"]}, "sub": {"allow": [">"]}}
    issuer = signer.public_key.decode()
    return a_jwt({"sub": STRANGER.public_key.decode(), "iss": issuer, "aud": "INFERMQ", "nats": nats}, signer)


@pytest.mark.parametrize("signer", [STRANGER, OTHER.issuer], ids=["itself", "another system"])
async def test_a_jwt_of_ones_own_lets_nobody_in(url: str, signer: nkeys.KeyPair) -> None:
    def sign(nonce: str) -> bytes:
        return base64.b64encode(STRANGER.sign(nonce.encode()))

    async with answering(url):
        for more in ({}, {"token": "imq_"}, {"user": "acme", "password": ""}):
            assert await refused(url, user_jwt_cb=lambda: bytearray(own_jwt(signer)), signature_cb=sign, **more)


Forge = Callable[[Question], bytes]


def allowed(question: Question, *, keys: NatsKeys = KEYS) -> bytes:
    return allowing(keys, question, permissions_of(KNOWN[ANN.text()]), now_s=now() // 1000)


def reopened(question: Question, **changes: Any) -> bytes:
    """A true answer, whose permission is changed and signed again by the right issuer."""
    whole = jwt.decode(_opened(question), options={"verify_signature": False}, algorithms=["none"])
    user = jwt.decode(whole["nats"]["jwt"], options={"verify_signature": False}, algorithms=["none"])
    for name, value in changes.items():
        user[name] = value
    whole["nats"]["jwt"] = a_jwt(user, KEYS.issuer).decode()
    return _sealed(question, a_jwt(whole, KEYS.issuer))


def _opened(question: Question) -> bytes:
    return Box(KEYS.curve, question.curve).decrypt(allowed(question)[4:])


def _sealed(question: Question, text: bytes) -> bytes:
    return b"xkv1" + bytes(Box(KEYS.curve, question.curve).encrypt(text))


FORGERIES: dict[str, Forge] = {
    "signed by another issuer": lambda question: _sealed(
        question, Box(OTHER.curve, question.curve).decrypt(allowed(question, keys=OTHER)[4:])
    ),
    "for another user": lambda question: allowed(replace(question, user=STRANGER.public_key.decode())),
    "for another server": lambda question: allowed(replace(question, server="N" * 56)),
    "whose permission is another user's": lambda question: reopened(question, sub=STRANGER.public_key.decode()),
    "whose permission is for an account that is not there": lambda question: reopened(question, aud="NOBODY"),
    "whose permission has expired": lambda question: reopened(question, exp=now() // 1000 - 60),
    "cut off": lambda question: _sealed(question, _opened(question)[:-20]),
    "in which a letter is changed": lambda question: _sealed(
        question, _opened(question)[:-30] + b"AAAA" + _opened(question)[-26:]
    ),
    "signed by another issuer and not sealed": lambda question: Box(OTHER.curve, question.curve).decrypt(
        allowed(question, keys=OTHER)[4:]
    ),
    "that is empty": lambda _: b"",
    "that is huge": lambda question: _sealed(question, b"x" * 1_000_000),
    "sealed by another": lambda question: (
        b"xkv1" + bytes(Box(OTHER.curve, question.curve).encrypt(_opened(question)))
    ),
}


async def answered_by(url: str, forge: Forge) -> bool:
    """Say whether somebody with a good key is refused whom this answers."""
    async with as_broker(url) as nc:

        async def answer(message: Message) -> None:
            await nc.publish(message.reply, forge(read_question(KEYS, message.data, message.headers)))

        await nc.subscribe(SUBJECT, cb=answer)
        await nc.flush()
        await nc.flush()
        return await refused(url, token=ANN.text())


async def test_a_true_answer_lets_in_whom_a_forged_one_does_not(url: str) -> None:
    assert not await answered_by(url, allowed)
    assert not await answered_by(url, reopened)


@pytest.mark.parametrize("how", FORGERIES)
async def test_an_answer_that_is_forged_lets_nobody_in(url: str, how: str) -> None:
    assert await answered_by(url, FORGERIES[how])


AT = Ms(1_000_000)
EVE = ApiKey("acme", "eveeveeveeve", b"e" * 32)


def directory(**changes: Any) -> Directory:
    record = KeyRecord(
        id=EVE.id, tenant="acme", role=Role.PRODUCER, hash=hash_of(EVE.secret), created_ms=Ms(0), **changes
    )
    return Directory.of(1, [TenantRecord("acme")], [record])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (EVE.text(), None),
        (ApiKey("acme", EVE.id, b"f" * 32).text(), "unknown_key"),
        (ApiKey("bobs", EVE.id, EVE.secret).text(), "unknown_key"),
        (ApiKey("acme", "nobodynobody", EVE.secret).text(), "unknown_key"),
        (EVE.text()[:-1], "bad_key"),
        (EVE.text()[:-7] + "A" + EVE.text()[-6:], "bad_key"),
        (EVE.text() + "x", "bad_key"),
        (EVE.text() * 1000, "bad_key"),
        (EVE.text().replace("acme", "ACME"), "bad_key"),
        ("imq_acme", "bad_key"),
        ("", "bad_key"),
        ("\0" * 90, "bad_key"),
        ("imq_acme_eveeveeveeve_" + "é" * 49, "bad_key"),
        ("imq_acme_eveeveeveeve_" + "\ud800" * 49, "bad_key"),
    ],
    ids=[
        "true", "another secret", "another tenant", "another id", "cut off", "mistyped", "longer", "huge", "in capitals",
        "begun", "empty", "zeros", "no ASCII", "half a character",
    ],
)  # fmt: skip
def test_only_the_whole_text_of_a_key_is_let_in(text: str, code: str | None) -> None:
    found = directory().identify_text(text, AT)

    assert (found.code if isinstance(found, Problem) else None) == code
    assert isinstance(found, Problem) or found == Principal(tenant="acme", key=EVE.id, role=Role.PRODUCER)


@pytest.mark.parametrize(
    ("ended", "code"),
    [({"revoked_ms": AT}, "key_revoked"), ({"expires_ms": AT}, "key_expired"), ({"expires_ms": Ms(AT + 1)}, None)],
    ids=["revoked", "expired", "about to expire"],
)
def test_a_key_that_has_ended_is_let_in_no_more_and_who_has_only_its_id_is_not_told(
    ended: dict[str, Ms], code: str | None
) -> None:
    found = directory(**ended).identify_text(EVE.text(), AT)
    guessed = directory(**ended).identify_text(ApiKey("acme", EVE.id, b"g" * 32).text(), AT)

    assert (found.code if isinstance(found, Problem) else None) == code
    assert isinstance(guessed, Problem)
    assert guessed.code == "unknown_key"


async def test_guessing_is_slow_however_many_guess_at_once(url: str) -> None:
    async with answering(url, refuse_s=1.0):
        loop = asyncio.get_running_loop()
        began = loop.time()
        guesses = [
            refused(url, token=ApiKey("acme", ANN.id, number.to_bytes(32)).text(), connect_timeout=10)
            for number in range(150)
        ]
        assert all(await asyncio.gather(*guesses))
        assert loop.time() - began >= 1.0
        assert not await refused(url, token=ANN.text())
