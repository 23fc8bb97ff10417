"""Reads what a NATS server asks about a connection, and writes the answer, as its auth callout wants both.

Question and answer are JWTs signed by nkeys, sealed between the server's curve key and ours (NATS ADR-26). The signature of
a question is not checked: only servers can send to the subject in the brokers' account, and only they and we can seal.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
import nkeys
from nacl.exceptions import CryptoError
from nacl.public import Box, PublicKey

from broker.core.nats_keys import NatsKeys, raw_curve
from broker.core.permissions import Permissions
from schemas.codec import UNREADABLE

SUBJECT = "$SYS.REQ.USER.AUTH"
_SERVER_CURVE = "Nats-Server-Xkey"
_SEALED = b"xkv1"
"""The first bytes of what is sealed."""
_NO_LIMIT = -1
LONGEST = 64 * 1024
"""The most bytes of a question. What a client sends to connect is limited to 4 KiB by the server."""


class Unasked(Exception):
    """A message is no question of a server; the message says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """A server asks whether somebody may connect."""

    user: str
    """The public key that the server made for the connection."""
    server: str
    curve: PublicKey = field(repr=False)
    """The server's, to which the answer is sealed."""
    text: str | None = field(repr=False)
    """The key that was shown: as a token, or as a password."""
    host: str
    """Where the connection comes from."""
    client: str
    """What the client calls itself."""


class _Server(msgspec.Struct, frozen=True):
    id: str


class _Client(msgspec.Struct, frozen=True):
    host: str = "?"


class _Shown(msgspec.Struct, frozen=True):
    auth_token: str | None = None
    password: str | None = msgspec.field(default=None, name="pass")
    name: str = ""


class _Asked(msgspec.Struct, frozen=True):
    server_id: _Server
    user_nkey: str
    client_info: _Client
    connect_opts: _Shown


class _Claims(msgspec.Struct, frozen=True):
    nats: _Asked


_claims = msgspec.json.Decoder(_Claims)


class _Nkeys(jwt.algorithms.Algorithm):
    """NATS's way to sign a JWT."""

    def prepare_key(self, key: nkeys.KeyPair) -> nkeys.KeyPair:
        return key

    def sign(self, msg: bytes, key: nkeys.KeyPair) -> bytes:
        return bytes(key.sign(msg))

    def verify(self, msg: bytes, key: nkeys.KeyPair, sig: bytes) -> bool:
        return bool(key.verify(msg, sig))

    @staticmethod
    def to_jwk(key_obj: nkeys.KeyPair, as_dict: bool = False) -> Any:  # noqa: FBT001, FBT002 - the library's signature
        raise NotImplementedError("an nkey has no JWK")

    @staticmethod
    def from_jwk(jwk: str | dict[str, Any]) -> nkeys.KeyPair:
        raise NotImplementedError("an nkey has no JWK")


_ALGORITHM = "ed25519-nkey"
_jws = jwt.PyJWS(algorithms=[])
_jws.register_algorithm(_ALGORITHM, _Nkeys())


def read_question(keys: NatsKeys, data: bytes, headers: dict[str, str] | None) -> Question:
    """Open what a server asks. Raises: Unasked."""
    curve = (headers or {}).get(_SERVER_CURVE)
    if curve is None or data[: len(_SEALED)] != _SEALED or len(data) > LONGEST:
        raise Unasked("it is not sealed: has the server the brokers' xkey?")
    try:
        public = PublicKey(raw_curve(curve))
        opened = Box(keys.curve, public).decrypt(data[len(_SEALED) :])
        claims = _jws.decode_complete(opened, options={"verify_signature": False})["payload"]
        asked = _claims.decode(claims).nats
    except (CryptoError, jwt.PyJWTError, ValueError, TypeError, *UNREADABLE) as error:
        raise Unasked(f"it cannot be opened: {type(error).__name__}") from error
    shown = asked.connect_opts
    return Question(
        user=asked.user_nkey,
        server=asked.server_id.id,
        curve=public,
        text=shown.auth_token or shown.password,
        host=asked.client_info.host[:100],
        client=shown.name[:200],
    )


def allowing(keys: NatsKeys, question: Question, permissions: Permissions, *, now_s: int) -> bytes:
    """Write that somebody may connect, and what for.

    The permission never ends by itself: nats-py closes a connection for good whose permission has ended. Brokers end it.
    """
    unlimited = {"subs": _NO_LIMIT, "data": _NO_LIMIT, "payload": _NO_LIMIT}
    both = {"pub": {"allow": list(permissions.publish)}, "sub": {"allow": list(permissions.subscribe)}}
    user = {
        "sub": question.user,
        "aud": str(permissions.account),
        "name": permissions.key,
        "nats": {"type": "user", "version": 2, **both, **unlimited},
    }
    return _answer(keys, question, {"jwt": _signed(keys, user, now_s)}, now_s)


def refusing(keys: NatsKeys, question: Question, why: str, *, now_s: int) -> bytes:
    """Write that somebody may not connect. The server logs why, and does not tell."""
    return _answer(keys, question, {"error": why}, now_s)


def _answer(keys: NatsKeys, question: Question, what: dict[str, str], now_s: int) -> bytes:
    about = {"type": "authorization_response", "version": 2, **what}
    signed = _signed(keys, {"sub": question.user, "aud": question.server, "nats": about}, now_s)
    return _SEALED + bytes(Box(keys.curve, question.curve).encrypt(signed.encode()))


def _signed(keys: NatsKeys, claims: dict[str, Any], now_s: int) -> str:
    whole = {**claims, "iss": keys.public_issuer, "iat": now_s}
    return _jws.encode(json.dumps(whole).encode(), keys.issuer, algorithm=_ALGORITHM)
