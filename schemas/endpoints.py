"""The endpoints that a model can serve. This table is the only place that knows their paths.

To add an endpoint, add an entry to ENDPOINTS. Catalogs, jobs and batch files may then name its path, admission checks its
bodies by the entry's `body`, and the engines `openai` and `vllm` pass it on. If its responses have a new Shape, add that
too. Then these say what to do with it:

    workers.core.assembly      assembles a streamed response of that shape
    workers.engines.simulated  makes up a response of that shape
    workers.engines.llamacpp   calls llama.cpp's function for it, if there is one

tests/core/test_endpoints.py walks the table and fails where one of them was forgotten.
"""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=-(2**53), le=2**53)]


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What admission reads of any request. Other fields are passed on unread."""

    model: str | None = None
    stream: bool | None = None


class GenerationBody(Body, frozen=True, kw_only=True):
    """What chat and text completions have in common."""

    n: _Count | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    logprobs: bool | _Count | None = None
    top_logprobs: _Count | None = None


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message whose content is a list."""

    type: str = ""
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    video_url: Any = None
    audio_url: Any = None
    file: Any = None


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | list[ContentPart] | None = None


class ChatBody(GenerationBody, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    prompt: str | list[Any]


class EmbeddingBody(Body, frozen=True, kw_only=True):
    input: str | list[Any]


class Shape(StrEnum):
    """What a response looks like, whole and streamed."""

    CHAT = "chat"
    """`choices`, each with a `message`, or with a `delta` of it in a stream."""
    TEXT = "text"
    """`choices`, each with a `text`, or with its next piece in a stream."""
    EMBEDDINGS = "embeddings"
    """`data`, a list of vectors."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    body: type[Body]
    """What admission reads of a request."""
    limits: tuple[str, ...] = ()
    """Fields of the body that limit how many tokens are generated, the usual one first. Empty: it generates none."""
    prompts: str | None = None
    """A field of the body that may hold several prompts, each of which gets its own choices."""
    shape: Shape
    object: str
    """`object` of a whole response."""
    chunk: str | None = None
    """`object` of each piece of a stream. None: the response always comes whole."""
    parts: str
    """Field of the response with the list of what was asked for. A response in which it is empty is no answer."""

    @property
    def can_stream(self) -> bool:
        return self.chunk is not None


CHAT = Endpoint(
    path="/v1/chat/completions",
    body=ChatBody,
    limits=("max_tokens", "max_completion_tokens"),
    shape=Shape.CHAT,
    object="chat.completion",
    chunk="chat.completion.chunk",
    parts="choices",
)
COMPLETIONS = Endpoint(
    path="/v1/completions",
    body=CompletionBody,
    limits=("max_tokens", "max_completion_tokens"),
    prompts="prompt",
    shape=Shape.TEXT,
    object="text_completion",
    chunk="text_completion",
    parts="choices",
)
EMBEDDINGS = Endpoint(path="/v1/embeddings", body=EmbeddingBody, shape=Shape.EMBEDDINGS, object="list", parts="data")
ENDPOINTS = {endpoint.path: endpoint for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS)}
"""Every endpoint, by its path."""

EndpointPath = Annotated[str, Meta(extra_json_schema={"enum": list(ENDPOINTS)})]
"""A path of the table. Decoding takes any text: who knows the model says which endpoints it serves."""
