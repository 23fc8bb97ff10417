"""Messages of released versions, which must decode for ever. Files are added, never edited."""

import json
from pathlib import Path

import msgspec
import pytest

from schemas.api import Batch, ErrorBody, JobShow, ResultPage
from schemas.catalog import Revision, parse
from schemas.codec import JSON, Bundle, Undecodable, bundled, decode_job, decode_jobs, packed
from schemas.export import WIRE, json_schema
from schemas.job import Attempt, Lane
from schemas.outcome import EngineFault, Failed, Report, Succeeded
from schemas.ruling import EndRequest, Expire, Lost, PutBack, Ruling
from schemas.worker import WorkerBeat

GOLDEN = Path(__file__).parent / "golden"
DEFAULT_CATALOG = Path(__file__).parents[2] / "broker" / "default.toml"


def stored(name: str) -> bytes:
    """Of a `.hex` file the bytes, of a `.json` file the text."""
    path = GOLDEN / name
    return bytes.fromhex(path.read_text()) if path.suffix == ".hex" else path.read_bytes()


def test_a_submitted_job_decodes_from_both_encodings() -> None:
    packed, text = decode_job(stored("job_v1.hex"), None), decode_job(stored("job_v1.json"), {"Content-Type": JSON})

    assert packed.custom_id == text.custom_id == "c-1"
    assert packed.id == text.id
    assert json.loads(packed.body) == json.loads(text.body)


def test_several_jobs_of_a_message_decode_from_both_encodings() -> None:
    packed, _ = decode_jobs(stored("jobs_v1.hex"), None)
    text, _ = decode_jobs(stored("jobs_v1.json"), {"Content-Type": JSON})

    assert list(packed) == list(text) == [1, 2]
    assert {job.custom_id for job in (*packed.values(), *text.values())} == {"c-1"}


def test_an_attempt_decodes() -> None:
    attempt = msgspec.msgpack.decode(stored("attempt_v1.hex"), type=Attempt)

    assert (attempt.number, attempt.lane, attempt.deployment) == (2, Lane.BULK, "d")


def test_a_report_decodes() -> None:
    report = msgspec.msgpack.decode(stored("report_v1.hex"), type=Report)

    assert isinstance(report.outcome, Succeeded)
    assert report.outcome.usage.output_tokens == 5


def test_rulings_decode() -> None:
    bundle: Bundle[Ruling] = Bundle(Ruling)

    [expire, put_back, end, lost], why = bundle.unpack(stored("rulings_v1.hex"))

    assert why is None
    assert expire == Expire(expire.job)
    assert put_back == PutBack(expire.job, 2)
    assert isinstance(end, EndRequest)
    assert isinstance(lost, Lost)
    assert (lost.job, lost.attempt, lost.worker) == (expire.job, 2, "w")
    assert (end.interactive.number, end.outcome) == (2, Failed(EngineFault("it stopped")))


def test_reports_of_a_message_decode_and_a_broken_one_costs_no_other() -> None:
    whole = stored("reports_v1.hex")
    [first, second], fine = Bundle(Report).unpack(whole)
    [left], why = Bundle(Report).unpack(bundled([packed(first), packed({"job": 1})]))

    assert first == second == left
    assert fine is None
    assert why is not None
    assert "job" in why
    assert Bundle(Report).unpack(b"\xff")[0] == []


def test_a_text_that_is_no_utf8_costs_no_other() -> None:
    [report, _] = Bundle(Report).unpack(stored("reports_v1.hex"))[0]
    job = decode_job(stored("job_v1.hex"), None)

    reports, why_not_both = Bundle(Report).unpack(b"\x92\x81\xa6worker\xa1\xff" + packed(report))
    none, why_none = Bundle(Report).unpack(b"\x91\x81\xa6worker\xa1\xff")
    jobs, why_not_all = decode_jobs(b"\x92\x81\xa8endpoint\xa1\xff" + packed(job), None)

    assert (reports, none, jobs) == ([report], [], {2: job})
    assert "utf-8" in str(why_not_both)
    assert "utf-8" in str(why_none)
    assert "utf-8" in str(why_not_all)


def test_what_is_nested_too_deeply_is_unreadable() -> None:
    deep = b"\x91\x81\xa1x" + b"\x91" * 100_000 + b"\xc0"

    reports, why = Bundle(Report).unpack(deep)

    assert reports == []
    assert "recursion" in str(why)
    with pytest.raises(Undecodable, match="recursion"):
        decode_jobs(deep, None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("beat_v1.json", WorkerBeat),
        ("revision_v1.json", Revision),
        ("batch_v1.json", Batch),
        ("results_v1.json", ResultPage),
        ("job_show_v1.json", JobShow),
        ("error_v1.json", ErrorBody),
    ],
)
def test_what_is_json_decodes(name: str, kind: type[msgspec.Struct]) -> None:
    assert isinstance(msgspec.json.decode(stored(name), type=kind), kind)


def test_the_schema_describes_every_type_on_the_wire() -> None:
    assert {kind.__name__ for kind in WIRE} <= set(json_schema()["$defs"])


def test_the_schema_changes_on_purpose_only() -> None:
    """`infermq schema --out tests/wire/golden/schema.json`, once the change is meant."""
    assert json.loads(stored("schema.json")) == json.loads(msgspec.json.encode(json_schema()))


def test_the_built_in_catalog_is_one() -> None:
    assert set(parse(DEFAULT_CATALOG.read_text()).models) == {"small-chat", "echo"}
