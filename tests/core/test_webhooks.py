"""What is sent to webhooks, how it is signed, and when it is sent again."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from broker.core.webhooks import (
    AGAIN_MS,
    LONGEST_MS,
    Answer,
    Due,
    again_ms,
    came,
    headers,
    message,
    secret_text,
)
from schemas.units import Ms
from tests.builders import an_id, now

NEW, OLD = bytes(range(32)), bytes(32)


def a_due(**changes: Any) -> Due:
    fields: dict[str, Any] = {
        "id": an_id(),
        "webhook": an_id(),
        "event": an_id(),
        "type": "batch.completed",
        "data": b'{"id":"batch_1"}',
        "made_ms": Ms(1_700_000_000_123),
        "attempt": 1,
        "url": "https://example.com",
        "secrets": (NEW,),
    }
    return Due(**{**fields, **changes})


def an_end(answer: Answer, *, attempt: int = 1, unit: float = 0.0) -> Any:
    return came(a_due(attempt=attempt), answer, began_ms=Ms(1000), now=Ms(1250), unit=unit)


def test_a_message_is_openais_event_with_the_timestamp_of_standard_webhooks() -> None:
    due = a_due()

    assert json.loads(message(due)) == {
        "id": f"evt_{due.event.hex}",
        "object": "event",
        "created_at": 1_700_000_000,
        "timestamp": "2023-11-14T22:13:20.123Z",
        "type": "batch.completed",
        "data": {"id": "batch_1"},
    }
    assert message(due) == message(due)


def test_the_reference_library_takes_a_message_by_either_secret_and_by_no_other() -> None:
    due = a_due(secrets=(NEW, OLD))
    body = message(due)
    signed = headers(due, body, now=now())

    for secret in (NEW, OLD):
        assert Webhook(secret_text(secret)).verify(body, signed) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(b"x" * 32)).verify(body, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(NEW)).verify(body + b" ", signed)


def test_the_signature_is_hmac_sha256_of_id_time_and_body() -> None:
    due = a_due()
    body = message(due)

    signed = headers(due, body, now=Ms(1_700_000_005_999))

    text = f"evt_{due.event.hex}.1700000005.".encode() + body
    expected = base64.b64encode(hmac.digest(NEW, text, hashlib.sha256)).decode()
    assert signed["webhook-signature"] == f"v1,{expected}"
    assert signed["webhook-timestamp"] == "1700000005"


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_any_2xx_is_a_success(status: int) -> None:
    end = an_end(Answer(status=status, body=b"ok"))

    assert (end.is_delivered, end.next_ms) == (True, None)
    assert (end.tried.status, end.tried.answer, end.tried.took_ms) == (status, "ok", 250)


@pytest.mark.parametrize(
    "answer", [Answer(status=500), Answer(status=404), Answer(status=302), Answer(error="broken")]
)
def test_anything_else_is_tried_again(answer: Answer) -> None:
    end = an_end(answer)

    assert (end.is_delivered, end.is_gone, end.next_ms) == (False, False, 1250 + 5000)


def test_a_redirect_is_not_followed_and_says_what_to_do() -> None:
    assert "redirects" in an_end(Answer(status=308)).tried.error


def test_410_ends_it() -> None:
    end = an_end(Answer(status=410))

    assert (end.is_delivered, end.is_gone, end.next_ms) == (False, True, None)


def test_tries_go_on_for_three_days_and_then_end() -> None:
    waits = [again_ms(attempt, Ms(0), now=Ms(0), unit=0.0) for attempt in range(1, len(AGAIN_MS) + 2)]

    assert waits == [*AGAIN_MS, None]
    assert 3 * 86_400_000 < sum(AGAIN_MS) < 4 * 86_400_000


def test_what_failed_together_does_not_come_back_together() -> None:
    assert again_ms(2, Ms(0), now=Ms(0), unit=0.99) == int(300_000 * 1.099)


@pytest.mark.parametrize(
    ("asked", "wait_ms"),
    [
        ("60", 60_000),
        ("1", 5000),
        ("99999999999", LONGEST_MS),
        ("Thu, 01 Jan 1970 00:01:01 GMT", 60_000),
        ("soon", 5000),
        ("-5", 5000),
        ("Thu, 99 Jan 1970", 5000),
    ],
)
def test_an_endpoint_can_ask_to_be_left_alone_for_a_while(asked: str, wait_ms: int) -> None:
    end = came(a_due(), Answer(status=503, retry_after=asked), began_ms=Ms(1000), now=Ms(1000), unit=0.0)

    assert end.next_ms == 1000 + wait_ms


def test_only_the_first_of_an_answer_is_kept_as_text_that_can_be_stored() -> None:
    assert an_end(Answer(status=500, body=b"\x00\xff" + b"x" * 1000)).tried.answer == "\ufffd\ufffd" + "x" * 298


def test_neither_url_nor_secret_is_in_its_repr() -> None:
    assert "example" not in repr(a_due())
    assert "secret" not in repr(a_due())
