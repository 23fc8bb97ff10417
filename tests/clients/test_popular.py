"""Libraries and tools that many programs are built on: LangChain, litellm, llm and instructor."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import litellm
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.clients.running import ROOT, System

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"It rains in {city}."


class Answer(BaseModel):
    """Says what is a capital."""

    city: str
    is_capital: bool


def a_chat(system: System, model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=system.base_url, api_key=SecretStr(system.api_key), model=model, max_retries=0, **more)


def test_langchain_invokes_and_streams(system: System) -> None:
    chat = a_chat(system, "echo", stream_usage=True)

    whole = chat.invoke("Hello.")
    pieces = list(chat.stream("Hello."))

    assert isinstance(whole, AIMessage)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 16
    assert len("".join(str(piece.content) for piece in pieces).split()) == 16
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 16


def test_langchain_gives_a_real_model_a_batch(system: System) -> None:
    answers = a_chat(system, "small", max_tokens=4).batch(["Hello.", "Good bye."])

    assert all(answer.content for answer in answers)


def test_langchain_binds_tools_and_sends_their_results_back(system: System) -> None:
    chat = a_chat(system, "caller")

    first = chat.bind_tools([get_weather]).invoke("What is the weather?")
    [call] = first.tool_calls
    result = ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])
    second = chat.invoke([HumanMessage("What is the weather?"), first, result])

    assert call["name"] == "get_weather"
    assert second.content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_makes_structured_answers(system: System, method: Any) -> None:
    answer = a_chat(system, "caller").with_structured_output(Answer, method=method).invoke("Which city?")

    assert isinstance(answer, Answer)


def test_langchain_embeds(system: System) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=system.base_url,
        api_key=SecretStr(system.api_key),
        model="echo",
        check_embedding_ctx_length=False,  # it would ask a hub for the tokenizer of the model
    )

    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [8, 8]


def test_litellm_completes_streams_and_embeds(system: System) -> None:
    where: Any = {"model": "openai/echo", "api_base": system.base_url, "api_key": system.api_key}

    whole = litellm.completion(messages=ASK, **where)
    *pieces, last = litellm.completion(messages=ASK, stream=True, stream_options={"include_usage": True}, **where)
    vectors = litellm.embedding(input=["one", "two"], **where)

    assert len(whole.choices[0].message.content.split()) == 16
    assert len("".join(piece.choices[0].delta.content or "" for piece in pieces).split()) == 16
    assert last.usage.completion_tokens == 16
    assert len(vectors.data) == 2


def test_litellm_completes_asynchronously_and_by_anthropics_api(system: System) -> None:
    by_anthropics: Any = {"model": "anthropic/echo", "api_base": system.url, "api_key": system.api_key}

    asked = litellm.acompletion(
        messages=ASK, model="openai/echo", api_base=system.base_url, api_key=system.api_key, timeout=20
    )
    first = asyncio.run(asked)
    second = litellm.completion(messages=ASK, max_tokens=100, **by_anthropics)

    assert first.choices[0].message.content
    assert len(second.choices[0].message.content.split()) == 16


def test_litellm_raises_its_own_exceptions(system: System) -> None:
    where: Any = {"api_base": system.base_url, "api_key": system.api_key, "num_retries": 0, "max_retries": 0}

    with pytest.raises(litellm.exceptions.NotFoundError):
        litellm.completion(model="openai/none", messages=ASK, **where)
    with pytest.raises(litellm.exceptions.RateLimitError):
        litellm.completion(model="openai/echo", messages=[{"role": "user", "content": "too much"}], **where)


def test_llm_asks_from_the_command_line(system: System, tmp_path: Path) -> None:
    model = f"- model_id: mine\n  model_name: echo\n  api_base: {system.base_url}\n  api_key_name: infermq\n"
    (tmp_path / "extra-openai-models.yaml").write_text(model)
    (tmp_path / "keys.json").write_text(json.dumps({"infermq": system.api_key}))

    ran = subprocess.run(
        [Path(sys.executable).with_name("llm"), "-m", "mine", "Hello."],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
    )

    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == 16


INSTRUCTOR = """
import sys, instructor
from openai import OpenAI
from pydantic import BaseModel

class Answer(BaseModel):
    city: str
    is_capital: bool

client = OpenAI(base_url=sys.argv[1], max_retries=0)
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    asked = instructor.from_openai(client, mode=mode)
    answer = asked.chat.completions.create(
        model="caller", response_model=Answer, messages=[{"role": "user", "content": "Which city?"}]
    )
    assert isinstance(answer, Answer), answer
    print("ok")
"""


def test_instructor_makes_structured_answers_with_an_older_openai(system: System) -> None:
    python = ROOT / ".venv-instructor" / "bin" / "python"
    ran = subprocess.run(
        [python, "-c", INSTRUCTOR, system.base_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OPENAI_API_KEY": system.api_key},
    )

    assert (ran.returncode, ran.stdout) == (0, "ok\nok\n"), ran.stderr
