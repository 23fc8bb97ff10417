"""Lines of batch files that cannot run: what each is, and what is said of it."""
# ruff: noqa: E501 - a line for each

import json
from typing import Any, NamedTuple

from schemas.endpoints import CHAT

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
LINE: dict[str, Any] = {"custom_id": "bad", "method": "POST", "url": CHAT.path, "body": BODY}


class Malformed(NamedTuple):
    what: str
    line: bytes
    code: str
    field: str | None = None


def _line(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**LINE, **changes}.items() if value is not ...}).encode()


def _body(**changes: Any) -> bytes:
    return _line(body={name: value for name, value in {**BODY, **changes}.items() if value is not ...})


MALFORMED = [
    Malformed("not JSON at all", b"hello", "not_json"),
    Malformed("an open brace", b"{", "not_json"),
    Malformed("a trailing comma", _line()[:-1] + b",}", "not_json"),
    Malformed("single quotes", _line().replace(b'"', b"'"), "not_json"),
    Malformed("a Python literal", _line().replace(b"POST", b"None").replace(b'"None"', b"None"), "not_json"),
    Malformed("NaN", _line().replace(b'"POST"', b"NaN"), "not_json"),
    Malformed("two objects", _line() + _line(), "not_json"),
    Malformed("a comment", b"// " + _line(), "not_json"),
    Malformed("cut in a text", _line()[:30], "not_json"),
    Malformed("cut in the body", _line()[:-10], "not_json"),
    Malformed("a byte that is no UTF-8", _line().replace(b"Hi.", b"\xff"), "body_not_json", "body"),
    Malformed("Latin-1", _line().replace(b"Hi.", b"caf\xe9"), "body_not_json", "body"),
    Malformed("a raw control character", _line().replace(b"Hi.", b"a\x01b"), "not_json"),
    Malformed("a raw NUL", _line().replace(b"Hi.", b"a\x00b"), "not_json"),
    Malformed("zeros alone", b"\x00" * 40, "not_json"),
    Malformed("a list in a list in a list, 5000 times", b"[" * 5000, "bad_line"),
    Malformed("a number", b"7", "bad_line"),
    Malformed("a text", b'"hello"', "bad_line"),
    Malformed("null", b"null", "bad_line"),
    Malformed("a list", b"[]", "bad_line"),
    Malformed("a list of a line", b"[" + _line() + b"]", "bad_line"),
    Malformed("an empty object", b"{}", "bad_line", "custom_id"),
    Malformed("no custom_id", _line(custom_id=...), "bad_line", "custom_id"),
    Malformed("no url", _line(url=...), "bad_line", "url"),
    Malformed("no body", _line(body=...), "bad_line", "body"),
    Malformed("a custom_id that is a number", _line(custom_id=7), "bad_line", "custom_id"),
    Malformed("a custom_id that is null", _line(custom_id=None), "bad_line", "custom_id"),
    Malformed("an empty custom_id", _line(custom_id=""), "bad_line", "custom_id"),
    Malformed("a custom_id of 513 characters", _line(custom_id="x" * 513), "bad_line", "custom_id"),
    Malformed("a NUL in the custom_id", _line(custom_id="a\0b"), "nul_character", "custom_id"),
    Malformed("a method that is GET", _line(method="GET"), "bad_method", "method"),
    Malformed("a method in small letters", _line(method="post"), "bad_method", "method"),
    Malformed("a method that is a number", _line(method=1), "bad_line", "method"),
    Malformed("a url that is not served", _line(url="/v1/images"), "bad_url", "url"),
    Malformed("a url with a host", _line(url="https://api.openai.com/v1/chat/completions"), "bad_url", "url"),
    Malformed("a url without /v1", _line(url="/chat/completions"), "bad_url", "url"),
    Malformed("an empty url", _line(url=""), "bad_url", "url"),
    Malformed("a url that is a number", _line(url=1), "bad_line", "url"),
    Malformed("the url of another endpoint", _line(url="/v1/embeddings", body={"model": "m", "input": "x"}), "mismatched_url", "url"),
    Malformed("a body that is a text", _line(body="x"), "body_shape", "body"),
    Malformed("a body that is a list", _line(body=[]), "body_shape", "body"),
    Malformed("a body that is null", _line(body=None), "body_shape", "body"),
    Malformed("a body that is a number", _line(body=7), "body_shape", "body"),
    Malformed("no model", _body(model=...), "no_model", "body.model"),
    Malformed("a model that is a number", _body(model=7), "body_shape", "body.model"),
    Malformed("an empty model", _body(model=""), "body_shape", "body.model"),
    Malformed("a model of 201 characters", _body(model="x" * 201), "body_shape", "body.model"),
    Malformed("a model that is not there", _body(model="none"), "unknown_model", "body.model"),
    Malformed("a stream", _body(stream=True), "stream_not_allowed", "body.stream"),
    Malformed("a stream that is a text", _body(stream="yes"), "body_shape", "body.stream"),
    Malformed("no messages", _body(messages=...), "body_shape", "body"),
    Malformed("messages that are empty", _body(messages=[]), "body_shape", "body.messages"),
    Malformed("messages that are a text", _body(messages="Hi."), "body_shape", "body.messages"),
    Malformed("a message that is a text", _body(messages=["Hi."]), "body_shape", "body.messages[0]"),
    Malformed("a message without a role", _body(messages=[{"content": "x"}]), "body_shape", "body.messages[0]"),
    Malformed("a role that is a number", _body(messages=[{"role": 1}]), "body_shape", "body.messages[0].role"),
    Malformed("a content that is a number", _body(messages=[{"role": "user", "content": 1}]), "body_shape", "body.messages[0].content"),
    Malformed("max_tokens that are negative", _body(max_tokens=-1), "max_tokens_out_of_range", "body.max_tokens"),
    Malformed("max_tokens that are zero", _body(max_tokens=0), "max_tokens_out_of_range", "body.max_tokens"),
    Malformed("max_tokens beyond the model's", _body(max_tokens=10**6), "max_tokens_out_of_range", "body.max_tokens"),
    Malformed("max_tokens that are half", _body(max_tokens=1.5), "body_shape", "body.max_tokens"),
    Malformed("max_tokens that are a text", _body(max_tokens="4"), "body_shape", "body.max_tokens"),
    Malformed("n that is too large", _body(n=129), "n_out_of_range", "body.n"),
    Malformed("n that is zero", _body(n=0), "n_out_of_range", "body.n"),
    Malformed("top_logprobs that are too large", _body(top_logprobs=21), "logprobs_out_of_range", "body.top_logprobs"),
    Malformed("a NUL in the body", _body(user="a\0b"), "nul_character", "body"),
    Malformed("the address of an image", _body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}]}]), "media_url", "body.messages[0].content[0]"),
    Malformed("a body that is too large", _body(user="x" * 262_200), "body_too_large", "body"),
    Malformed("a line that is too large", _body(user="x" * 300_000), "line_too_large"),
]  # fmt: skip
