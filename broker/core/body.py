"""What admission reads out of a request body: nothing is stored from it, and nothing in it is changed."""

import hashlib
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from schemas.catalog import CHAT, COMPLETIONS, EMBEDDINGS, Model
from schemas.codec import place_of
from schemas.job import BODY_BYTES
from schemas.outcome import Refused

MOST_CHOICES = 128
"""`n`: as OpenAI has it."""
MOST_LOGPROBS = 20
"""`top_logprobs` as OpenAI has it, and a completion's `logprobs` as vLLM has it, where OpenAI's limit is 5."""

_Count = Annotated[int, Meta(ge=-(2**53), le=2**53)]


class Sampled(msgspec.Struct, frozen=True):
    """Of chat and text completions."""

    model: str | None = None
    n: _Count | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    logprobs: bool | _Count | None = None
    top_logprobs: _Count | None = None
    stream: bool | None = None


class Part(msgspec.Struct, frozen=True):
    """Of a message's content, when that is a list."""

    type: str = ""
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    video_url: Any = None
    audio_url: Any = None
    file: Any = None


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None


class Chat(Sampled, frozen=True):
    messages: Annotated[list[Message], Meta(min_length=1)] = msgspec.UNSET  # type: ignore[assignment]


class Completion(Sampled, frozen=True):
    prompt: str | list[Any] = msgspec.UNSET  # type: ignore[assignment]


class Embedding(msgspec.Struct, frozen=True):
    input: str | list[Any]
    model: str | None = None
    stream: bool | None = None


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    CHAT: msgspec.json.Decoder(Chat),
    COMPLETIONS: msgspec.json.Decoder(Completion),
    EMBEDDINGS: msgspec.json.Decoder(Embedding),
}
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_REQUIRED = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}


def body_hash(endpoint: str, body: bytes) -> bytes:
    """What makes two submissions with one id the same job."""
    digest = hashlib.blake2b(body, digest_size=16, key=endpoint.encode()[:64])
    return digest.digest()


def fault(body: bytes, endpoint: str, model: Model, *, streams: bool) -> Refused | None:
    """What is wrong with a body, or None. `streams`: someone would read the chunks."""
    read = _read(body, endpoint)
    if isinstance(read, Refused):
        return read
    if read.stream and not streams:
        message = "nobody reads a stream of a submitted job: leave `stream` out"
        return Refused("stream_not_allowed", message, "body.stream")
    if isinstance(read, Sampled):
        return _out_of_range(read, model) or (_media(read) if isinstance(read, Chat) else None)
    return None


def _read(body: bytes, endpoint: str) -> Sampled | Embedding | Refused:
    if len(body) > BODY_BYTES:
        message = f"the body is {len(body)} bytes, the limit is {BODY_BYTES}: split the request or shorten the prompt"
        return Refused("body_too_large", message, "body", BODY_BYTES)
    if b"\\u0000" in body and _NUL.search(body):
        return Refused("nul_character", "the body holds a NUL character (\\u0000)", "body")
    try:
        read: Sampled | Embedding = _DECODERS[endpoint].decode(body)
    except msgspec.ValidationError as error:
        return _misshapen(str(error), endpoint)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Refused("body_not_json", f"the body is not JSON: {error}", "body")
    except RecursionError:
        return Refused("body_not_json", "the body is nested too deeply", "body")
    if getattr(read, _REQUIRED[endpoint]) is msgspec.UNSET:
        return _misshapen(f"Object missing required field `{_REQUIRED[endpoint]}`", endpoint)
    return read


def _misshapen(message: str, endpoint: str) -> Refused:
    what, path = place_of(message)
    return Refused("body_shape", f"the body does not have the shape of {endpoint}: {what}", f"body{path}")


def _out_of_range(read: Sampled, model: Model) -> Refused | None:
    if read.n is not None and not 1 <= read.n <= MOST_CHOICES:
        return Refused("n_out_of_range", f"n is {read.n}, it must be 1 to {MOST_CHOICES}", "body.n", MOST_CHOICES)
    for name in ("logprobs", "top_logprobs"):
        asked = getattr(read, name)
        if asked is not None and not 0 <= asked <= MOST_LOGPROBS:
            message = f"{name} is {asked}, it must be 0 to {MOST_LOGPROBS}"
            return Refused("logprobs_out_of_range", message, f"body.{name}", MOST_LOGPROBS)
    for name in ("max_tokens", "max_completion_tokens"):
        asked, most = getattr(read, name), model.max_output_tokens
        if asked is not None and not 1 <= asked <= most:
            message = f"{name} is {asked}, it must be 1 to {most} for this model"
            return Refused("max_tokens_out_of_range", message, f"body.{name}", most)
    return None


def _media(chat: Chat) -> Refused | None:
    """A worker must not fetch what a producer points it at."""
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
