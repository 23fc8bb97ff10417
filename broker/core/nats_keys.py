"""Derives all NATS keys of the brokers from one secret, so that there is one thing to keep.

A key is `nkeys`' own text of 32 bytes: HMAC-SHA256 of its name under the secret.
"""

import base64
import binascii
import hmac
from functools import cached_property

import nkeys
from nacl.public import PrivateKey

from broker.core.accounts import Account

SECRET_BYTES = 32
_CURVE = 23 << 3
"""The first byte of the text of an `xkey`. The library knows no such prefix."""


class BadSecret(ValueError):
    """The text is no secret of brokers; the message says why."""


class NatsKeys:
    """What brokers sign and open with. Nothing here prints a key that is not public."""

    def __init__(self, secret: bytes) -> None:
        """Raises: BadSecret, unless it has 32 bytes."""
        if len(secret) != SECRET_BYTES:
            raise BadSecret(f"a secret of brokers has {SECRET_BYTES} bytes, this one has {len(secret)}")
        self._secret = secret

    def __repr__(self) -> str:
        return f"NatsKeys({self.public_issuer})"

    @classmethod
    def of_text(cls, text: str) -> "NatsKeys":
        """Read what `text_of` wrote. Raises: BadSecret."""
        try:
            secret = base64.b64decode(text.strip(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadSecret("a secret of brokers is base64url of 32 bytes, on one line") from error
        return cls(secret)

    @cached_property
    def issuer(self) -> nkeys.KeyPair:
        """Signs what a server asks about a connection."""
        return nkeys.from_seed(bytearray(self._seed("issuer", nkeys.PREFIX_BYTE_ACCOUNT)))

    @cached_property
    def curve(self) -> PrivateKey:
        """Opens what a server asks, and seals the answer."""
        return PrivateKey(self._bytes("xkey"))

    @property
    def public_issuer(self) -> str:
        return str(self.issuer.public_key.decode())

    @property
    def public_curve(self) -> str:
        raw = bytes([_CURVE]) + bytes(self.curve.public_key)
        return base64.b32encode(raw + nkeys.crc16_checksum(bytearray(raw))).rstrip(b"=").decode()

    def user_seed(self, account: Account) -> str:
        """Return the seed with which a broker connects in an account. It is secret."""
        return self._seed(f"user {account}", nkeys.PREFIX_BYTE_USER).decode()

    def public_user(self, account: Account) -> str:
        return str(nkeys.from_seed(bytearray(self.user_seed(account).encode())).public_key.decode())

    def _seed(self, name: str, prefix: int) -> bytes:
        return bytes(nkeys.encode_seed(self._bytes(name), prefix))

    def _bytes(self, name: str) -> bytes:
        return hmac.digest(self._secret, f"infermq nats {name}".encode(), "sha256")


def text_of(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).decode()


def raw_curve(text: str) -> bytes:
    """Read the bytes of a public curve key out of its text. Raises: ValueError."""
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    if raw[:1] != bytes([_CURVE]) or nkeys.crc16_checksum(bytearray(raw[:-2])) != raw[-2:]:
        raise ValueError("it is no public curve key")
    return raw[1:-2]
