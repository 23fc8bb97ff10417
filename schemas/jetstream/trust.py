"""Says by which certificates both ends of a connection to NATS know each other.

Files are named by the environment: the certificate of the authority that signed NATS's own, and, where NATS asks for one,
a certificate of ours with its key. Without the first, those authorities count that the system trusts.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path

import msgspec

from schemas.jetstream.connection import NatsError
from schemas.urls import public

CA_VARIABLE = "INFERMQ_NATS_CA"
CERTIFICATE_VARIABLE = "INFERMQ_NATS_CERT"
KEY_VARIABLE = "INFERMQ_NATS_CERT_KEY"
_WANTS_OURS = frozenset(
    {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "TLSV1_ALERT_UNKNOWN_CA"}
)
"""What a server says that is not content with the certificate of a client, or with none."""

ENDED = f"it ends the connection with TLS: if it asks for a certificate, {CERTIFICATE_VARIABLE} and {KEY_VARIABLE} name ours"


class BadTrust(NatsError):
    """A certificate cannot be used; the message says which, and why."""


class Trust(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The files. A connection that has some is never without TLS."""

    ca: str | None = None
    """None: the authorities that the system trusts."""
    certificate: str | None = None
    key: str | None = None
    """The file of its key; None: it is in the same file."""

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises: BadTrust."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise BadTrust(f"{CA_VARIABLE}: {self.ca} {_unread(error)}") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password="")
            except OSError as error:
                what = f"{CERTIFICATE_VARIABLE}, {KEY_VARIABLE}: {self.certificate}, {self.key or 'with its key'}"
                raise BadTrust(f"{what} {_unread(error)}") from error
        return context

    def environ(self) -> dict[str, str]:
        """Return the variables that name these files to another process."""
        named = {CA_VARIABLE: self.ca, CERTIFICATE_VARIABLE: self.certificate, KEY_VARIABLE: self.key}
        return {name: file for name, file in named.items() if file is not None}


def shown_trust(environ: Mapping[str, str], *, otherwise: Trust | None = None) -> Trust | None:
    """Find the files in the environment; if it names none, those of `otherwise`."""
    named = [environ.get(name) or None for name in (CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE)]
    if not any(named):
        return otherwise
    ca, certificate, key = (None if name is None else str(Path(name).absolute()) for name in named)
    return Trust(ca=ca, certificate=certificate, key=key)


def why(error: BaseException) -> str:
    """Say in words why there is no connection to NATS. No URL keeps its password."""
    match error:
        case ssl.SSLCertVerificationError():
            told = f"its certificate is not trusted here ({error.verify_message})"
            return f"{told}: {CA_VARIABLE} names the file of the authority that signed it"
        case ssl.SSLError(reason=reason) if reason in _WANTS_OURS:
            told = f"it lets nobody in without a certificate of an authority that it trusts ({reason})"
            return f"{told}: {CERTIFICATE_VARIABLE} and {KEY_VARIABLE} name the files of ours"
        case _:
            return public(str(error)) or type(error).__name__


def _unread(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"holds no certificate that can be used ({error.reason or 'its key is another, or has a password'})"
    return f"cannot be read ({error.strerror})"
