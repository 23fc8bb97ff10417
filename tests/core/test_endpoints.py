"""Every endpoint of the table is known wherever endpoints matter; tests/contract has each engine answer them."""

import io
import json

import msgspec
import pytest

from broker.batch_file import Line, read_lines
from broker.core.body import fault
from schemas.catalog import Model, Route, parse
from schemas.endpoints import ENDPOINTS, Body, Endpoint
from schemas.export import json_schema
from schemas.job import JsonJob
from schemas.outcome import BadRequest, Failed
from tests.builders import BODIES, an_attempt, an_id
from workers.core.body import RequestedOutput, asks_for_length, fields_of, requested_output, with_fields
from workers.core.leases import before_run
from workers.run import request_of

MODEL = Model(endpoints=tuple(ENDPOINTS), max_output_tokens=100, route=(Route("d"),))
every_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)


def test_tests_have_a_body_for_each() -> None:
    assert set(BODIES) == set(ENDPOINTS)


@every_endpoint
def test_admission_takes_its_body_and_refuses_another(endpoint: Endpoint) -> None:
    empty = fault(b"{}", endpoint, MODEL, streams=False)

    assert fault(BODIES[endpoint.path], endpoint, MODEL, streams=False) is None
    assert empty is not None
    assert (empty.code, empty.field) == ("body_shape", "body")
    assert endpoint.path in empty.message


@every_endpoint
def test_admission_refuses_a_length_beyond_the_models_by_its_field(endpoint: Endpoint) -> None:
    for name in endpoint.limits:
        body = with_fields(fields_of(BODIES[endpoint.path]), **{name: 101})

        refused = fault(body, endpoint, MODEL, streams=False)

        assert refused is not None
        assert (refused.code, refused.field, refused.limit) == ("max_tokens_out_of_range", f"body.{name}", 100)


@every_endpoint
def test_admission_reads_the_fields_that_the_table_names(endpoint: Endpoint) -> None:
    named = {*endpoint.limits, *([] if endpoint.prompts is None else [endpoint.prompts])}

    assert issubclass(endpoint.body, Body)
    assert named <= set(endpoint.body.__struct_fields__)


@every_endpoint
def test_a_catalog_and_a_line_of_a_batch_may_name_it(endpoint: Endpoint) -> None:
    catalog = parse(
        f'[models.m]\nendpoints = ["{endpoint.path}"]\n[[models.m.route]]\ndeployment = "d"\n'
        '[deployments.d]\nengine = "simulated"'
    )
    text = {"custom_id": "a", "url": endpoint.path, "body": {"model": "m", **json.loads(BODIES[endpoint.path])}}

    [line] = read_lines(io.BytesIO(json.dumps(text).encode()), model=None, batch=an_id())

    assert catalog.models["m"].endpoints == (endpoint.path,)
    assert isinstance(line, Line)
    assert line.job.endpoint == endpoint.path


@every_endpoint
def test_a_worker_runs_it_and_streams_only_what_can_be_streamed(endpoint: Endpoint) -> None:
    body = with_fields(fields_of(BODIES[endpoint.path]), stream=True)
    attempt = an_attempt(endpoint=endpoint.path, body=body)

    request = request_of(attempt, execution=an_id(), max_output_tokens=16, is_read=True)

    assert before_run(attempt) is None
    assert (request.endpoint, request.streamed) == (endpoint, endpoint.can_stream)


@every_endpoint
def test_a_worker_knows_what_a_request_can_use(endpoint: Endpoint) -> None:
    body = BODIES[endpoint.path]

    assert asks_for_length(fields_of(body), endpoint) == bool(endpoint.limits)
    assert requested_output(body, endpoint, max_output_tokens=16) == RequestedOutput(1, 8 if endpoint.limits else 0)


def test_a_worker_does_not_run_an_endpoint_that_it_does_not_know() -> None:
    attempt = an_attempt(endpoint="/v2/later")

    outcome = before_run(attempt)

    assert outcome == Failed(BadRequest("this worker does not know the endpoint '/v2/later'"))


@pytest.mark.parametrize("kind", [JsonJob, Model])
def test_the_json_schema_names_them_all(kind: type[msgspec.Struct]) -> None:
    fields = json_schema()["$defs"][kind.__name__]["properties"]

    field = fields["endpoint"] if "endpoint" in fields else fields["endpoints"]["items"]
    assert field["enum"] == list(ENDPOINTS)
