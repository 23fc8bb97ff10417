"""Shows URLs without what opens a door: passwords and tokens."""

import re

_PASSWORD = re.compile(r"(//[^\s/@:,]*):[^\s,]*@")
"""`//user:password@`; the password ends at the last @."""
_TOKEN = re.compile(r"\b((?:nats|tls|wss?)://)[^\s,]+@")
"""`//token@`, which NATS accepts beside `//user:password@`. Nothing of it is shown."""
_PARAMETER = re.compile(r"([?&][^=&\s]*(?:password|passwd|secret|token|nkey)[^=&\s]*=)[^&\s,]+", re.IGNORECASE)


def public(text: str) -> str:
    """Return the text with every secret of a URL in it replaced by `***`."""
    text = _PASSWORD.sub(r"\1:***@", text)
    return _PARAMETER.sub(r"\1***", _TOKEN.sub(r"\1***@", text))
