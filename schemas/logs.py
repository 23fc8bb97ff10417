"""Has a process log to its standard error, as text or as JSON, without any secret of a URL."""

import logging
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from schemas.urls import public


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    """One object a line: `time`, `level`, `logger`, `message`, and `error` with the traceback of an exception."""


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class PublicFormatter(logging.Formatter):
    """Writes no secret of a URL, whoever logs it: a library or a traceback, too."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return public(super().format(record))


class JsonFormatter(logging.Formatter):
    """Writes a line of JSON, likewise."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": public(record.getMessage()),
        }
        if record.exc_info:
            line["error"] = public(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


def log_to_stderr(how: LogFormat = LogFormat.TEXT, level: LogLevel = LogLevel.INFO) -> None:
    """Have this process log to its standard error. Times are UTC in JSON, local in text."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if how is LogFormat.JSON else PublicFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
