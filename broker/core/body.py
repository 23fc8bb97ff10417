"""Checks a request body for admission. The body is kept as it came; nothing in it is changed."""

import hashlib
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from schemas.catalog import Model
from schemas.codec import place_of
from schemas.endpoints import ENDPOINTS, Body, ChatBody, Endpoint, GenerationBody
from schemas.job import BODY_BYTES
from schemas.outcome import Refused

MOST_CHOICES = 128
"""The largest `n`, which is OpenAI's limit."""
MOST_LOGPROBS = 20
"""The largest `top_logprobs`, as OpenAI limits it, and `logprobs` of a completion, as vLLM does; OpenAI allows 5 there."""

_DECODERS = {path: msgspec.json.Decoder(endpoint.body) for path, endpoint in ENDPOINTS.items()}
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def body_hash(endpoint: str, body: bytes) -> bytes:
    """Hash endpoint and body. Two submissions with one id are the same job if their hashes are equal."""
    return hashlib.blake2b(body, digest_size=16, key=endpoint.encode()[:64]).digest()


def fault(body: bytes, endpoint: Endpoint, model: Model, *, streams: bool) -> Refused | None:
    """Say what is wrong with a body, or return None. `streams` tells whether somebody would read the chunks."""
    read = _read(body, endpoint.path)
    if isinstance(read, Refused):
        return read
    if read.stream and not streams:
        message = "nobody reads a stream of a submitted job: leave `stream` out"
        return Refused("stream_not_allowed", message, "body.stream")
    return _out_of_range(read, endpoint, model) or (_media(read) if isinstance(read, ChatBody) else None)


def _read(body: bytes, endpoint: str) -> Body | Refused:
    if len(body) > BODY_BYTES:
        message = f"the body is {len(body)} bytes, the limit is {BODY_BYTES}: split the request or shorten the prompt"
        return Refused("body_too_large", message, "body", BODY_BYTES)
    if b"\\u0000" in body and _NUL.search(body):
        return Refused("nul_character", "the body holds a NUL character (\\u0000)", "body")
    try:
        return _DECODERS[endpoint].decode(body)
    except msgspec.ValidationError as error:
        what, path = place_of(str(error))
        return Refused("body_shape", f"the body does not have the shape of {endpoint}: {what}", f"body{path}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Refused("body_not_json", f"the body is not JSON: {error}", "body")
    except RecursionError:
        return Refused("body_not_json", "the body is nested too deeply", "body")


def _out_of_range(read: Body, endpoint: Endpoint, model: Model) -> Refused | None:
    if isinstance(read, GenerationBody) and (refused := _bad_number(read)) is not None:
        return refused
    for name in endpoint.limits:
        asked, most = getattr(read, name), model.max_output_tokens
        if asked is not None and not 1 <= asked <= most:
            message = f"{name} is {asked}, it must be 1 to {most} for this model"
            return Refused("max_tokens_out_of_range", message, f"body.{name}", most)
    return None


def _bad_number(read: GenerationBody) -> Refused | None:
    for name in ("n", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs"):
        asked = getattr(read, name)
        if isinstance(asked, float) and not asked.is_integer():
            return Refused("body_shape", f"{name} is {asked}, it must be a whole number", f"body.{name}")
    if read.n is not None and not 1 <= read.n <= MOST_CHOICES:
        return Refused("n_out_of_range", f"n is {read.n}, it must be 1 to {MOST_CHOICES}", "body.n", MOST_CHOICES)
    for name in ("logprobs", "top_logprobs"):
        asked = getattr(read, name)
        if asked is not None and not 0 <= asked <= MOST_LOGPROBS:
            message = f"{name} is {asked}, it must be 0 to {MOST_LOGPROBS}"
            return Refused("logprobs_out_of_range", message, f"body.{name}", MOST_LOGPROBS)
    return None


def _media(chat: ChatBody) -> Refused | None:
    """Refuse addresses of media: a worker must not fetch what a producer points it at."""
    for number, message in enumerate(chat.messages):
        if not isinstance(message.content, list):
            continue
        for place, part in enumerate(message.content):
            media = (part.image_url, part.input_audio, part.video_url, part.audio_url, part.file)
            if any(_is_remote(value) for value in media):
                return Refused(
                    "media_url",
                    "media must be in the request as a data: URL; addresses are not fetched",
                    f"body.messages[{number}].content[{place}]",
                )
    return None


def _is_remote(value: Any) -> bool:
    match value:
        case {"url": str() as url} | (str() as url):
            try:
                scheme = urlsplit(url).scheme.lower()
            except ValueError:
                return True
            return scheme not in {"", "data"}
        case _:
            return False
