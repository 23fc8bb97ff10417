"""Lists the endpoints that a model can serve. Only this table knows their paths.

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

_Count = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[float, Meta(ge=-(2**53), le=2**53)]
"""A whole number. Some SDKs write it as 12.0; admission refuses 12.5."""


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of any request that admission reads. Other fields are passed on unread."""

    model: str | None = None
    stream: bool | None = None


class GenerationBody(Body, frozen=True, kw_only=True):
    """The fields that chat and text completions have in common."""

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
    """The form of a response, unstreamed and streamed."""

    CHAT = "chat"
    """`choices`, each with a `message`, or with a `delta` of it in a stream."""
    TEXT = "text"
    """`choices`, each with a `text`, or with its next piece in a stream."""
    EMBEDDINGS = "embeddings"
    """`data`, a list of vectors."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    body: type[Body]
    """The type by which admission decodes a request."""
    limits: tuple[str, ...] = ()
    """Fields of the body that limit the output tokens, the usual one first. Empty: the endpoint generates none."""
    prompts: str | None = None
    """A field of the body that may hold several prompts, each of which gets its own choices."""
    shape: Shape
    object: str
    """The field `object` of an unstreamed response."""
    chunk: str | None = None
    """The field `object` of each piece of a stream. None: the endpoint does not stream."""
    parts: str
    """The field of the response that lists the results. A response in which it is empty is no answer."""

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
"""Maps each path to its endpoint."""

EndpointPath = Annotated[str, Meta(extra_json_schema={"enum": list(ENDPOINTS)})]
"""A path of the table. Decoding accepts any text; admission checks which endpoints the model serves."""
