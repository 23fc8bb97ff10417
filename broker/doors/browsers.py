"""Lets pages in browsers read what the API over HTTP answers (CORS)."""

from collections.abc import Sequence
from typing import Any, cast

from starlette.middleware.cors import CORSMiddleware

from broker.doors.health import App

_SHOWN = ("x-request-id", "x-should-retry", "retry-after", "retry-after-ms")
"""The headers of answers that a page may read, beside the usual ones."""


def for_browsers(app: App, origins: Sequence[str]) -> App:
    """Return an application that answers as this one does, also to pages of these origins, which show keys."""
    allowing = CORSMiddleware(
        cast("Any", app),
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=_SHOWN,
    )
    return cast("App", allowing)
