"""Shows URLs without what opens a door: passwords and tokens."""

import logging
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


class _PublicFormatter(logging.Formatter):
    """Writes no secret of a URL, whoever logs it: a library or a traceback, too."""

    def format(self, record: logging.LogRecord) -> str:
        return public(super().format(record))


def log_to_stderr() -> None:
    """Have this process log to its standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PublicFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
