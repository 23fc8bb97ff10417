"""Writes answers in JSON."""

from typing import Any

import msgspec
from starlette.responses import Response


def json_answer(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def page_answer(data: list[dict[str, Any]], *, has_more: bool) -> Response:
    """Answer with a page of objects that have ids, as OpenAI's API lists them."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return json_answer({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})
