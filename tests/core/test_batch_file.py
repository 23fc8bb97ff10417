import io
import json
from typing import Any

import msgspec
import pytest

from broker.batch_file import LINE_BYTES, Line, admissible, read_lines
from broker.core.records import BatchInfo
from schemas.catalog import Catalog
from schemas.files import Fault
from schemas.ids import line_id
from schemas.job import Lane
from schemas.units import Ms
from tests.builders import CHAT, a_catalog, an_id, now

BATCH = an_id()


def a_line(**changes: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": body, **changes}
    return json.dumps({name: value for name, value in line.items() if value is not ...}).encode()


def read(*lines: bytes, end: bytes = b"\n", model: str | None = None) -> list[Line | Fault]:
    return list(read_lines(io.BytesIO(b"".join(line + end for line in lines)), model=model, batch=BATCH))


def codes(items: list[Line | Fault]) -> list[str]:
    return [item.code if isinstance(item, Fault) else "ok" for item in items]


def test_a_line_becomes_a_job_with_an_id_of_batch_and_number() -> None:
    [line] = read(a_line())

    assert isinstance(line, Line)
    assert (line.model, line.job.id, line.job.custom_id) == ("m", line_id(BATCH, 1), "a")
    assert json.loads(line.job.body)["messages"]


def test_reading_again_gives_the_same_jobs() -> None:
    lines = [a_line(custom_id=str(n)) for n in range(5)]

    assert read(*lines) == read(*lines)


def test_windows_files_are_read() -> None:
    assert codes(read(b"\xef\xbb\xbf" + a_line(), b"", a_line(custom_id="b"), end=b"\r\n")) == ["ok", "ok"]


def test_files_that_were_joined_are_read() -> None:
    assert codes(read(b"\xef\xbb\xbf" + a_line(), b"\xef\xbb\xbf" + a_line(custom_id="b"))) == ["ok", "ok"]


def test_numbers_count_blank_lines() -> None:
    [line] = read(b"", b"  ", a_line())

    assert isinstance(line, Line)
    assert line.number == 3


@pytest.mark.parametrize(
    ("line", "code", "field"),
    [
        (b"nope", "not_json", None),
        (b"\xff\xff", "not_json", None),
        (b"[]", "bad_line", None),
        (a_line(custom_id=...), "bad_line", "custom_id"),
        (a_line(custom_id=5), "bad_line", "custom_id"),
        (a_line(custom_id=""), "bad_line", "custom_id"),
        (a_line(custom_id="x\0"), "nul_character", "custom_id"),
        (a_line(method="GET"), "bad_method", "method"),
        (a_line(url="/v1/none"), "bad_url", "url"),
        (a_line(body="text"), "body_shape", "body"),
        (a_line(body={"messages": []}), "no_model", "body.model"),
        (a_line(body={"model": 5}), "body_shape", "body.model"),
        (a_line().replace(b'"m"', b'"\xff"'), "body_not_json", "body"),
        (a_line(body={"model": "m", "stream": True}), "stream_not_allowed", "body.stream"),
    ],
)
def test_what_is_wrong_is_named_and_the_next_line_is_read(line: bytes, code: str, field: str | None) -> None:
    fault, after = read(line, a_line(custom_id="next"))

    assert isinstance(fault, Fault)
    assert (fault.number, fault.code, fault.field) == (1, code, field), fault
    assert isinstance(after, Line)


def test_a_custom_id_is_used_once() -> None:
    assert codes(read(a_line(), a_line())) == ["ok", "duplicate_custom_id"]


def test_the_models_option_is_for_lines_that_name_none() -> None:
    first, second = read(a_line(body={"messages": []}), a_line(custom_id="b"), model="other")

    assert isinstance(first, Line)
    assert isinstance(second, Line)
    assert (first.model, second.model) == ("other", "m")


def test_a_file_that_is_cut_off_says_so() -> None:
    stream = io.BytesIO(a_line() + b"\n" + a_line(custom_id="b")[:-9])

    _, fault = read_lines(stream, model=None, batch=BATCH)

    assert isinstance(fault, Fault)
    assert (fault.number, fault.code) == (2, "truncated")


def test_a_last_line_without_an_end_is_a_line() -> None:
    assert codes(read(a_line(), end=b"")) == ["ok"]


def test_a_line_over_the_limit_is_skipped_whole() -> None:
    fault, after = read(b"x" * (3 * LINE_BYTES), a_line())

    assert isinstance(fault, Fault)
    assert (fault.code, fault.limit) == ("line_too_large", LINE_BYTES)
    assert str(3 * LINE_BYTES) in fault.message
    assert isinstance(after, Line)


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_a_fault(content: bytes) -> None:
    [fault] = read_lines(io.BytesIO(content), model=None, batch=BATCH)

    assert isinstance(fault, Fault)
    assert (fault.number, fault.code) == (0, "empty_file")


def admitted(*lines: bytes, **changes: Any) -> list[Line | Fault]:
    batch = BatchInfo(id=BATCH, tenant="t", lane=Lane.BULK, deadline_ms=None)
    stream = io.BytesIO(b"".join(line + b"\n" for line in lines))
    items = read_lines(stream, model=None, batch=BATCH, **changes)
    return list(admissible(items, batch=batch, catalog=a_catalog(), now=now()))


def a_body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **changes}


@pytest.mark.parametrize(
    ("line", "code", "field", "limit"),
    [
        (a_line(body=a_body(model="none")), "unknown_model", "body.model", None),
        (a_line(body=a_body(n=0)), "n_out_of_range", "body.n", 128),
        (a_line(body=a_body(max_tokens=10**7)), "max_tokens_out_of_range", "body.max_tokens", 1024),
        (a_line(body=a_body(messages=[])), "body_shape", "body.messages", None),
        (a_line(body=a_body(messages=[{"role": "user", "content": "\0"}])), "nul_character", "body", None),
        (a_line().replace(b'"x"', b'"\xff"'), "body_not_json", "body", None),
    ],
)
def test_what_admission_would_refuse_is_a_fault_with_its_line_field_and_limit(
    line: bytes, code: str, field: str, limit: int | None
) -> None:
    fault, after = admitted(line, a_line(custom_id="next"))

    assert isinstance(fault, Fault)
    assert (fault.number, fault.code, fault.field, fault.limit) == (1, code, field, limit), fault
    assert isinstance(after, Line)


def test_an_endpoint_that_the_model_does_not_serve_is_a_fault() -> None:
    catalog = a_catalog()
    batch = BatchInfo(id=BATCH, tenant="t", lane=Lane.BULK, deadline_ms=None)
    model = msgspec.structs.replace(catalog.models["m"], endpoints=("/v1/embeddings",))
    lines = read(a_line())

    [fault] = admissible(lines, batch=batch, catalog=Catalog({"m": model}, catalog.deployments), now=now())

    assert isinstance(fault, Fault)
    assert (fault.code, fault.field) == ("endpoint_not_served", "url")


def test_a_line_whose_deadline_has_passed_is_a_fault() -> None:
    [fault] = admitted(a_line(), deadline_ms=Ms(now() - 1))

    assert isinstance(fault, Fault)
    assert (fault.code, fault.field) == ("deadline_past", "deadline_ms")


def test_faults_stay_and_are_not_looked_at_twice() -> None:
    assert codes(admitted(b"nope", a_line(), a_line())) == ["not_json", "ok", "duplicate_custom_id"]


def test_what_a_line_holds_is_not_repeated_at_length() -> None:
    [fault] = read(a_line(method="x" * 100_000))

    assert len(str(fault)) < 200


def test_a_fault_says_its_line_and_field_or_that_it_is_the_files() -> None:
    assert str(Fault(7, "bad", "words", "body.stream")) == "line 7: body.stream: words"
    assert str(Fault(7, "bad", "words")) == "line 7: words"
    assert str(Fault(0, "bad", "words")) == "file: words"
