"""Whatever a request or an answer holds, a translation says something of it, and never breaks."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.core.dialects import messages_request, responses_request
from broker.core.dialects.messages import MessageStream, message
from broker.core.dialects.messages_request import MessagesRequest
from broker.core.dialects.responses import ResponseStream, response
from broker.core.dialects.responses_request import ResponsesRequest
from schemas.outcome import Refused
from tests.core.chat_answers import JOB

_WORDS = """
model input messages role content type text instructions stream max_tokens max_output_tokens tools tool_choice name function
parameters input_schema metadata reasoning effort thinking budget_tokens system temperature top_k stop_sequences include
output_config format schema call_id arguments output tool_use_id source data media_type image_url file_data mode user_id id
choices delta message index tool_calls usage prompt_tokens prompt_tokens_details finish_reason stop_reason logprobs refusal
""".split()
_VALUES = """
user assistant system developer message function_call function_call_output reasoning input_text output_text input_image
input_file refusal text image base64 url tool_use tool_result thinking function custom auto any tool none required
allowed_tools json_schema json_object enabled adaptive disabled data:x stop length content_filter {} { m
""".split()
_values = st.recursive(
    st.sampled_from(_VALUES) | st.none() | st.booleans() | st.integers(-2, 3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=5),
    max_leaves=24,
)
_objects = st.dictionaries(st.sampled_from(_WORDS), _values, max_size=6)
_items = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(_WORDS[2:8], _values)), min_size=1, max_size=3)


@given(_objects, _items | _values)
def test_any_request_for_a_response_is_translated_or_refused(fields: dict[str, Any], items: Any) -> None:
    read = responses_request.translated(msgspec.json.encode({"model": "m", "input": items, **fields}))

    if isinstance(read, Refused):
        assert (read.field or "").startswith("body")
        assert read.message
    else:
        assert msgspec.json.decode(read.chat)["messages"]


@given(_objects, _items | _values)
def test_any_request_for_a_message_is_translated_or_refused(fields: dict[str, Any], said: Any) -> None:
    body = {"model": "m", "max_tokens": 3, "messages": said, **fields}
    read = messages_request.translated(msgspec.json.encode(body))

    if isinstance(read, Refused):
        assert (read.field or "").startswith("body")
        assert read.message
    else:
        assert msgspec.json.decode(read.chat)["messages"]


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(body: bytes) -> None:
    assert isinstance(responses_request.translated(body), Refused)
    assert isinstance(messages_request.translated(body), Refused)


_RESPONSE = responses_request.translated(b'{"model":"m","input":"Hi"}')
_MESSAGE = messages_request.translated(b'{"model":"m","max_tokens":3,"messages":[{"role":"user","content":"Hi"}]}')


@given(st.lists(_objects, max_size=3), _objects, st.lists(_objects, max_size=2))
def test_any_answer_ends_as_an_answer(pieces: list[Any], whole: dict[str, Any], choices: list[Any]) -> None:
    assert isinstance(_RESPONSE, ResponsesRequest)
    assert isinstance(_MESSAGE, MessagesRequest)
    last = msgspec.json.encode({**whole, "choices": choices})
    of_response, of_message = ResponseStream(_RESPONSE, JOB), MessageStream(_MESSAGE, JOB)

    for piece in pieces:
        data = msgspec.json.encode({"choices": [piece]})
        of_response.piece(data)
        of_message.piece(data)

    assert of_response.end(last)[-1].data["response"]["output"]
    assert of_message.end(last)[-1].name == "message_stop"
    assert response(_RESPONSE, JOB, last)["output"]
    assert message(_MESSAGE, JOB, last)["content"]
