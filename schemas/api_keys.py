"""The text of an API key, which names its tenant and itself: `imq_<tenant>_<id>_<secret><checksum>`.

The checksum tells a key that was cut off or mistyped before anybody is asked. Only brokers know which keys there are.
"""

import re
import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "imq"
VARIABLE = "INFERMQ_API_KEY"
"""The variable of the environment that holds a key."""
FILE_VARIABLE = "INFERMQ_API_KEY_FILE"
"""The variable that names a file with a key."""
ID_CHARACTERS = string.ascii_lowercase + string.digits
ID_LENGTH = 12
SECRET_BYTES = 32
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 43
"""The digits of 32 bytes."""
_CHECKSUM_LENGTH = 6
LONGEST_TENANT = 63
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
_ID = re.compile(rf"[a-z0-9]{{{ID_LENGTH}}}\Z")


class BadKey(ValueError):
    """A text is no API key. The message says why, and holds nothing of its secret."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is shown once, when it is made."""

    tenant: str
    id: str
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """Write it. What is returned opens doors."""
        number = int.from_bytes(self.secret)
        whole = f"{PREFIX}_{self.tenant}_{self.id}_{_digits(number, _SECRET_LENGTH)}"
        return whole + _checksum(whole)


def parse_key(text: str) -> ApiKey:
    """Raises: BadKey."""
    if len(text) > len(PREFIX) + LONGEST_TENANT + ID_LENGTH + _SECRET_LENGTH + _CHECKSUM_LENGTH + 3:
        raise BadKey(f"it has {len(text)} characters, more than a key has")
    prefix, *parts = text.split("_")
    if prefix != PREFIX or len(parts) != 3:
        raise BadKey(f"a key looks like {PREFIX}_TENANT_ID_SECRET")
    tenant, name, rest = parts
    if why := bad_tenant(tenant):
        raise BadKey(why)
    if _ID.match(name) is None:
        raise BadKey(f"the id of a key has {ID_LENGTH} small letters and digits")
    if len(rest) != _SECRET_LENGTH + _CHECKSUM_LENGTH:
        raise BadKey("it is cut off, or has something behind it: copy it whole")
    if _checksum(text[:-_CHECKSUM_LENGTH]) != text[-_CHECKSUM_LENGTH:]:
        raise BadKey("it is mistyped: its checksum is another")
    try:
        secret = _number(rest[:_SECRET_LENGTH]).to_bytes(SECRET_BYTES)
    except (ValueError, OverflowError) as error:
        raise BadKey("no key has such a secret") from error
    return ApiKey(tenant, name, secret)


def shown_key(environ: Mapping[str, str], *, otherwise: Path | None = None) -> str | None:
    """Find the text of the key to show: in the environment, in the file that it names, or in `otherwise` if there is one.

    Keys are no arguments of commands: every user of a machine can read those. Raises: OSError.
    """
    if text := environ.get(VARIABLE, "").strip():
        return text
    named = environ.get(FILE_VARIABLE)
    if named:
        return Path(named).read_text().strip()
    if otherwise is not None and otherwise.is_file():
        return otherwise.read_text().strip()
    return None


def bad_tenant(name: str) -> str | None:
    """Say why a tenant cannot be called so. None: it can."""
    if len(name) > LONGEST_TENANT:
        return f"the name of a tenant has at most {LONGEST_TENANT} characters, this one {len(name)}"
    if _TENANT.match(name) is None:
        return "the name of a tenant has small letters, digits and hyphens, and begins with no hyphen"
    return None


def _checksum(text: str) -> str:
    return _digits(zlib.crc32(text.encode(errors="surrogatepass")), _CHECKSUM_LENGTH)


def _digits(number: int, length: int) -> str:
    found = []
    for _ in range(length):
        number, digit = divmod(number, len(_BASE62))
        found.append(_BASE62[digit])
    return "".join(reversed(found))


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * len(_BASE62) + _BASE62.index(digit)
    return number
