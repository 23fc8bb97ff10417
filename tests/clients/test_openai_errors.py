"""The official Python client of OpenAI: which exceptions it raises, what it tries again, and what happens when it leaves."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.clients.running import System, until


@pytest.fixture
def client(system: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=system.base_url, api_key=system.api_key, max_retries=0) as made:
        yield made


def asks(text: str = "Hello.", model: str = "echo", **more: Any) -> Any:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


class Heard:
    """Keeps the status of each answer that a client gets."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.is_refused = threading.Event()

    def __call__(self, response: Any) -> None:
        self.statuses.append(response.status_code)
        if response.status_code >= 400:
            self.is_refused.set()

    def client(self, system: System, **more: Any) -> OpenAI:
        http = openai.DefaultHttpxClient(event_hooks={"response": [self]})
        return OpenAI(base_url=system.base_url, api_key=system.api_key, http_client=http, **more)


@pytest.mark.parametrize(
    ("asked", "kind", "status", "code", "param"),
    [
        (asks(max_tokens=10**6), openai.BadRequestError, 400, "max_tokens_out_of_range", "max_tokens"),
        (asks(infermq={"timeout": 3}), openai.BadRequestError, 400, "body_shape", "infermq"),
        (asks("cannot be answered"), openai.BadRequestError, 400, "bad_request", None),
        (asks(model="none"), openai.NotFoundError, 404, "unknown_model", "model"),
        (asks("x" * 300_000), openai.APIStatusError, 413, "body_too_large", None),
        (asks("too much"), openai.RateLimitError, 429, "throttled", None),
        (asks("breaks it"), openai.InternalServerError, 502, "engine_fault", None),
    ],
    ids=["too_many_tokens", "no_such_option", "refused_by_the_engine", "model", "too_large", "throttled", "fault"],
)
def test_each_error_is_its_exception(
    client: OpenAI, *, asked: Any, kind: type[openai.APIStatusError], status: int, code: str, param: str | None
) -> None:
    extra = {"infermq": asked.pop("infermq")} if "infermq" in asked else None
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**asked, extra_body=extra)

    error = raised.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.request_id
    assert error.message
    assert error.type


@pytest.mark.parametrize(("key", "code"), [("sk-of-another-service", "bad_key"), ("", "no_key")])
def test_without_a_key_that_is_known_nobody_is_let_in(system: System, key: str, code: str) -> None:
    with OpenAI(base_url=system.base_url, api_key=key or "unused", max_retries=0) as stranger:
        headers: Any = {} if key else {"extra_headers": {"Authorization": openai.Omit()}}
        with pytest.raises(openai.AuthenticationError) as raised:
            stranger.chat.completions.create(**asks(), **headers)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list(**headers)

    assert raised.value.code == code


def test_a_key_is_kept_to_its_models(system: System, tmp_path: Path) -> None:
    file = tmp_path / "key"
    system.command("key", "create", "--role", "producer", "--models", "small", "--out", str(file))
    with OpenAI(base_url=system.base_url, api_key=file.read_text().strip(), max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError) as raised:
            client.chat.completions.create(**asks())
        names = [model.id for model in client.models.list()]

    assert (raised.value.code, raised.value.param) == ("forbidden", "model")
    assert names == ["small"]


def test_what_is_not_served_is_said(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.images.generate(prompt="a cat", model="echo")

    assert raised.value.code == "unknown_route"


def test_a_refused_request_is_sent_again_when_the_answer_says_so(system: System) -> None:
    heard, answers = Heard(), []
    with heard.client(system, max_retries=5) as client:
        asking = threading.Thread(target=lambda: answers.append(client.chat.completions.create(**asks())))
        system.command("pause", "model", "echo")
        try:
            asking.start()
            assert heard.is_refused.wait(20)
        finally:
            system.command("resume", "model", "echo")
        asking.join(40)

    assert set(heard.statuses[:-1]) == {503}
    assert heard.statuses[-1] == 200
    assert answers[0].choices[0].message.content


def test_the_client_waits_as_long_as_a_provider_wants_it_to(system: System) -> None:
    heard = Heard()
    begun = time.monotonic()
    with heard.client(system, max_retries=1) as client, pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(**asks("too much"))

    assert heard.statuses == [429, 429]
    assert float(raised.value.response.headers["retry-after"]) >= 1
    assert time.monotonic() - begun >= 0.5


@pytest.mark.parametrize(
    "asked",
    [asks("breaks it"), asks("never answered", extra_body={"infermq": {"timeout_s": 0.3}})],
    ids=["fault", "late"],
)
def test_what_would_fail_again_or_may_have_run_is_not_sent_again(system: System, asked: Any) -> None:
    heard = Heard()
    with heard.client(system, max_retries=3) as client, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**asked)

    assert len(heard.statuses) == 1


def test_a_time_out_of_ours_is_said(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(**asks("never answered"), extra_body={"infermq": {"timeout_s": 0.3}})

    assert raised.value.status_code == 504
    assert raised.value.code in {"expired", "timed_out", "unanswered"}


def test_a_client_whose_own_time_is_up_cancels_its_request(client: OpenAI, system: System) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            **asks("never answered"), timeout=0.5, extra_body={"infermq": {"custom_id": "timed out"}}
        )

    until(lambda: not running(system), "its slot is free")
    assert "cancelled" in system.command("job", "list", "--state", "cancelled", "--model", "echo")


def test_leaving_a_stream_cancels_it_and_frees_its_slot(client: OpenAI, system: System) -> None:
    """The deployment has one slot: whoever comes next is answered only if it is free."""
    for _ in range(3):
        with client.chat.completions.create(**asks(model="slow"), stream=True) as stream:
            next(iter(stream))
            request = stream.response.headers["x-request-id"]

        job = system.job(request)
        assert job["state"] == "cancelled"

    until(lambda: not running(system), "its slot is free")
    answer = client.chat.completions.create(**asks(model="slow", max_tokens=1))
    assert answer.choices[0].finish_reason == "length"


def running(system: System) -> str:
    return system.command("job", "list", "--state", "running")
