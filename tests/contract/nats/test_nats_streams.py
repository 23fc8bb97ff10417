"""What streams take, refuse, keep and tell."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from schemas.jetstream import NatsConnection, NatsTimeoutError, NoRespondersError
from tests.contract.nats.asking import (
    MS,
    SOON_S,
    S,
    Told,
    a_consumer,
    a_queue,
    a_stream,
    answer,
    asked,
    consumer,
    done,
    eventually,
    facts,
    progress,
    pulling,
    refusal,
    state,
    stored,
)

pytestmark = pytest.mark.timeout(60)


def without_instants(told: Told) -> Told:
    """Leave out what differs from run to run."""
    left = {key: value for key, value in told.items() if key not in ("created", "ts", "cluster", "last_active")}
    return {key: without_instants(value) if isinstance(value, dict) else value for key, value in left.items()}


async def messages(nc: NatsConnection) -> list[str]:
    """The subjects of a stream's messages with their sequences, in their order."""
    found = await state(nc)
    if not found["messages"]:
        return []
    told = []
    for seq in range(found["first_seq"], found["last_seq"] + 1):
        one = await asked(nc, "STREAM.MSG.GET.S", {"seq": seq})
        if "message" in one:
            told.append(f"{one['message']['subject']} {seq}")
    return told


# publishing


async def test_a_message_is_acknowledged_with_its_sequence(nc: NatsConnection) -> None:
    await a_stream(nc)

    assert await stored(nc, "s.a") == {"stream": "S", "seq": 1}
    assert await stored(nc, "s.b") == {"stream": "S", "seq": 2}
    with pytest.raises(NoRespondersError):
        await nc.request("t.a", b"x", timeout=5)


async def test_a_message_is_stored_once_by_its_id_even_when_it_is_gone(nc: NatsConnection) -> None:
    await a_stream(nc, duplicate_window=300 * MS)

    assert await stored(nc, "s.a", Msg_Id="m") == {"stream": "S", "seq": 1}
    assert await stored(nc, "s.b", Msg_Id="m") == {"stream": "S", "seq": 1, "duplicate": True}
    await done(nc, "STREAM.MSG.DELETE.S", {"seq": 1})
    assert await stored(nc, "s.a", Msg_Id="m") == {"stream": "S", "seq": 1, "duplicate": True}

    async def is_forgotten() -> bool:
        return bool((await stored(nc, "s.a", Msg_Id="m"))["seq"] == 2)

    await eventually(is_forgotten, "the id is forgotten")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Expected_Stream": "T"}, {"code": 400, "err_code": 10060, "description": "expected stream does not match"}),
        ({"Expected_Last_Sequence": "7"}, {"code": 400, "err_code": 10071, "description": "wrong last sequence: 2"}),
        (
            {"Expected_Last_Subject_Sequence": "0"},
            {"code": 400, "err_code": 10071, "description": "wrong last sequence: 1"},
        ),
        ({"Expected_Last_Msg_Id": "x"}, {"code": 400, "err_code": 10070, "description": "wrong last msg ID: "}),
        ({"TTL": "5"}, {"code": 400, "err_code": 10166, "description": "per-message TTL is disabled"}),
        ({"Rollup": "sub"}, {"code": 500, "err_code": 10111, "description": "rollup not permitted"}),
        ({"Batch_Id": "b"}, {"code": 400, "err_code": 10174, "description": "atomic publish is disabled"}),
    ],
)
async def test_a_message_whose_headers_demand_too_much_is_refused(
    nc: NatsConnection, headers: dict[str, str], error: Told
) -> None:
    await a_stream(nc)
    await stored(nc, "s.a")
    await stored(nc, "s.b")

    assert await stored(nc, "s.a", b"x", **headers) == {"error": error, "stream": "S", "seq": 0}
    assert (await state(nc))["last_seq"] == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Expected_Stream": "S"},
        {"Expected_Last_Sequence": "2"},
        {"Expected_Last_Subject_Sequence": "1"},
        {"Expected_Last_Subject_Sequence": "2", "Expected_Last_Subject_Sequence_Subject": "s.b"},
    ],
)
async def test_a_message_whose_headers_demand_what_is_so_is_stored(
    nc: NatsConnection, headers: dict[str, str]
) -> None:
    await a_stream(nc)
    await stored(nc, "s.a")
    await stored(nc, "s.b")

    assert await stored(nc, "s.a", b"x", **headers) == {"stream": "S", "seq": 3}


async def test_a_subject_without_messages_has_the_sequence_zero(nc: NatsConnection) -> None:
    await a_stream(nc)

    assert (await stored(nc, "s.a", Expected_Last_Subject_Sequence="0"))["seq"] == 1
    assert (await stored(nc, "s.b", Expected_Last_Subject_Sequence="1"))["error"]["err_code"] == 10071


@pytest.mark.parametrize(
    ("settings", "description"),
    [
        ({"max_msgs": 2, "discard": "new"}, "maximum messages exceeded"),
        ({"max_bytes": 100, "discard": "new"}, "maximum bytes exceeded"),
        (
            {"max_msgs_per_subject": 2, "discard": "new", "discard_new_per_subject": True},
            "maximum messages per subject exceeded",
        ),
    ],
)
@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_a_full_stream_that_discards_what_is_new_refuses(
    nc: NatsConnection, storage: str, settings: Told, description: str
) -> None:
    await a_stream(nc, storage=storage, **settings)
    for _ in range(2):
        await stored(nc, "s.a", b"x" * 10)

    refused = await stored(nc, "s.a", b"x" * 40)

    assert refused == {
        "error": {"code": 503, "err_code": 10077, "description": description},
        "stream": "S",
        "seq": 0,
    }
    assert (await state(nc))["messages"] == 2


@pytest.mark.parametrize(
    "settings", [{"max_msgs": 2}, {"max_bytes": 110}, {"max_msgs_per_subject": 2}, {"max_age": 200 * MS}]
)
async def test_a_full_stream_that_discards_what_is_old_drops_it(nc: NatsConnection, settings: Told) -> None:
    await a_stream(nc, **settings)
    await stored(nc, "s.a", b"x" * 10)
    await asyncio.sleep(0.3 if "max_age" in settings else 0)
    for _ in range(2):
        await stored(nc, "s.a", b"x" * 10)

    await eventually(lambda: is_first(nc, 2), "the first is gone")


async def is_first(nc: NatsConnection, seq: int) -> bool:
    return bool((await state(nc))["first_seq"] == seq)


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_bytes_are_counted_as_the_server_counts_them(nc: NatsConnection, storage: str) -> None:
    await a_stream(nc, storage=storage)
    sizes = []
    for data, headers in ((b"", {}), (b"x" * 10, {}), (b"x" * 10, {"Msg_Id": "m"})):
        await stored(nc, "s.a", data, **headers)
        sizes.append((await state(nc))["bytes"])

    assert sizes == ([33, 76, 151] if storage == "file" else [19, 48, 105])


async def test_a_bucket_keeps_the_newest_of_each_key(nc: NatsConnection) -> None:
    await a_stream(nc, max_msgs_per_subject=1, discard="new", allow_rollup_hdrs=True, max_msgs=3)
    for subject in ("s.a", "s.b", "s.a", "s.c", "s.b"):
        assert "error" not in await stored(nc, subject)

    assert await messages(nc) == ["s.a 3", "s.c 4", "s.b 5"]
    assert (await stored(nc, "s.d"))["error"]["description"] == "maximum messages exceeded"
    found = await state(nc)
    assert (found["num_subjects"], found.get("num_deleted", 0)) == (3, 0)


async def test_a_message_that_rolls_up_is_all_that_is_left(nc: NatsConnection) -> None:
    await a_stream(nc, allow_rollup_hdrs=True)
    for subject in ("s.a", "s.b", "s.a"):
        await stored(nc, subject)

    await stored(nc, "s.a", Rollup="sub")
    assert await messages(nc) == ["s.b 2", "s.a 4"]
    await stored(nc, "s.c", Rollup="all")
    assert await messages(nc) == ["s.c 5"]


async def test_a_message_ends_with_its_own_lifetime(nc: NatsConnection) -> None:
    await a_stream(nc, allow_msg_ttl=True)
    await stored(nc, "s.a", TTL="1s")
    await stored(nc, "s.b")
    assert (await stored(nc, "s.c", TTL="x"))["error"]["err_code"] == 10165

    async def is_gone() -> bool:
        return await messages(nc) == ["s.b 2"]

    await eventually(is_gone, "the first is gone")


# interest and work queues


async def test_a_stream_of_interest_keeps_nothing_that_nobody_wants(nc: NatsConnection) -> None:
    await a_stream(nc, retention="interest", storage="memory")
    assert await stored(nc, "s.a") == {"stream": "S", "seq": 1}
    await a_consumer(nc, ack_policy="none", filter_subject="s.a")

    assert await stored(nc, "s.b") == {"stream": "S", "seq": 2}
    assert await stored(nc, "s.a", b"wanted") == {"stream": "S", "seq": 3}

    assert await messages(nc) == ["s.a 3"]
    pulls = await pulling(nc)
    await pulls.ask(batch=2, expires=20 * S)
    [message] = await pulls.messages(1)
    assert (message.data, facts(message)) == (b"wanted", (1, 3, 1))

    async def is_empty() -> bool:
        return await messages(nc) == []

    await eventually(is_empty, "what was delivered is gone")
    told = await progress(nc)
    assert (told["num_ack_pending"], told["delivered"]["stream_seq"]) == (0, 3)


async def test_what_waits_in_a_stream_of_interest_goes_with_its_consumer(nc: NatsConnection) -> None:
    await a_stream(nc, retention="interest")
    await a_consumer(nc, "a", filter_subject="s.a")
    await a_consumer(nc, "b")
    for subject in ("s.a", "s.b"):
        await stored(nc, subject)
    pulls = await pulling(nc)
    await pulls.ask("b", batch=2, expires=20 * S)
    for message in await pulls.messages(2):
        await answer(nc, message, b"+ACK")

    async def is_left(*wanted: str) -> bool:
        return await messages(nc) == [*wanted]

    await eventually(lambda: is_left("s.a 1"), "only a waits")
    await done(nc, "CONSUMER.DELETE.S.a")
    await eventually(is_left, "nobody waits")


async def test_what_waits_in_a_work_queue_stays_without_its_consumer(nc: NatsConnection) -> None:
    await a_queue(nc)
    await a_consumer(nc)
    await stored(nc, "s.a")
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    await pulls.messages(1)

    await done(nc, "CONSUMER.DELETE.S.c")
    await a_consumer(nc)
    await pulls.ask(batch=1, expires=20 * S)

    assert [facts(one) for one in await pulls.messages(1)] == [(1, 1, 1)]


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"filter_subject": "s.a"}, 10100),
        ({"filter_subject": "s.>"}, 10100),
        ({}, 10099),
        ({"filter_subject": "s.b", "ack_policy": "none"}, 10084),
        ({"filter_subject": "s.b", "deliver_policy": "new"}, 10101),
    ],
)
async def test_a_message_of_a_work_queue_belongs_to_one_consumer(nc: NatsConnection, config: Told, code: int) -> None:
    await a_queue(nc)
    await a_consumer(nc, "a", filter_subject="s.a")

    assert (await refusal(nc, "CONSUMER.CREATE.S.b", consumer("b", **config)))["err_code"] == code
    await a_consumer(nc, "b", filter_subject="s.b")


# atomic batches


class Batch:
    """An atomic batch. Its name is new: a real server finds on its disk what a batch left that was never ended."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self.name = f"b{uuid4().hex}"

    async def take(self, sequence: int, *, subject: str = "s.a", commit: str = "", **more: str) -> Told | None:
        """Publish a message of it. Return what is answered, if it is something."""
        headers = {
            "Batch_Id": self.name,
            "Batch_Sequence": str(sequence),
            **({"Batch_Commit": commit} if commit else {}),
        }
        named = {f"Nats-{name.replace('_', '-')}": text for name, text in {**headers, **more}.items()}
        data = (await self._nc.request(subject, b"%d" % sequence, timeout=SOON_S, headers=named)).data
        told: Told | None = json.loads(data) if data else None
        return told


async def test_a_batch_is_stored_with_its_last_message(nc: NatsConnection) -> None:
    await a_queue(nc, allow_atomic=True)
    batch = Batch(nc)
    await a_consumer(nc)
    assert await batch.take(1, Msg_Id="b") is None
    assert (await state(nc))["messages"] == 0
    assert await batch.take(2, subject="s.b") is None

    assert await batch.take(3, commit="1") == {"stream": "S", "seq": 3, "batch": batch.name, "count": 3}

    assert await messages(nc) == ["s.a 1", "s.b 2", "s.a 3"]
    assert await batch.take(1, Msg_Id="b") is None
    repeated = await batch.take(2, commit="1")
    assert repeated == {
        "error": {
            "code": 400,
            "err_code": 10201,
            "description": "atomic publish batch contains duplicate message id",
        },
        "stream": "S",
        "seq": 0,
    }


async def test_a_batch_may_end_with_a_message_that_is_not_stored(nc: NatsConnection) -> None:
    await a_queue(nc, allow_atomic=True)
    batch = Batch(nc)
    await batch.take(1)
    told = await batch.take(2, commit="eob")

    assert told is not None
    assert told["seq"] == 1
    assert await messages(nc) == ["s.a 1"]


@pytest.mark.parametrize(("sequences", "code"), [((2,), 10176), ((1, 3), 10176), ((1001,), 10199), ((1, 1), 10176)])
async def test_a_batch_with_a_gap_is_refused(nc: NatsConnection, sequences: tuple[int, ...], code: int) -> None:
    await a_queue(nc, allow_atomic=True)
    batch = Batch(nc)
    *before, last = sequences
    for sequence in before:
        await batch.take(sequence)

    told = await batch.take(last, commit="1")

    assert told is not None
    assert told["error"]["err_code"] == code
    assert await messages(nc) == []


@pytest.mark.parametrize(
    ("settings", "second", "code"),
    [
        ({"max_msgs": 1}, {}, 10077),
        ({"max_bytes": 50}, {}, 10077),
        ({"max_msgs_per_subject": 1, "discard_new_per_subject": True}, {}, 10077),
        ({}, {"Expected_Last_Subject_Sequence": "7"}, 10164),
        ({}, {"Expected_Last_Subject_Sequence": "7", "subject": "s.b"}, 10071),
        ({}, {"Msg_Id": "m"}, 10201),
    ],
)
async def test_of_a_batch_that_cannot_be_stored_whole_nothing_is(
    nc: NatsConnection, settings: Told, second: dict[str, Any], code: int
) -> None:
    await a_queue(nc, allow_atomic=True, **settings)
    batch = Batch(nc)
    await batch.take(1, Msg_Id="m")

    told = await batch.take(2, commit="1", **second)

    assert told is not None
    assert told["error"]["err_code"] == code
    assert await messages(nc) == []


# the API


async def test_a_stream_is_told_with_all_its_settings(nc: NatsConnection) -> None:
    made = await a_stream(nc, retention="workqueue", discard="new", allow_atomic=True, allow_direct=True, max_msgs=5)

    assert made.pop("did_create") is True
    assert without_instants(made) == {
        "type": "io.nats.jetstream.api.v1.stream_create_response",
        "config": {
            "name": "S",
            "subjects": ["s.*"],
            "retention": "workqueue",
            "max_consumers": -1,
            "max_msgs": 5,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "discard": "new",
            "storage": "file",
            "num_replicas": 1,
            "duplicate_window": 120 * S,
            "compression": "none",
            "allow_direct": True,
            "mirror_direct": False,
            "sealed": False,
            "deny_delete": False,
            "deny_purge": False,
            "allow_rollup_hdrs": False,
            "consumer_limits": {},
            "allow_msg_ttl": False,
            "allow_atomic": True,
            "metadata": {"_nats.level": "5", "_nats.req.level": "2", "_nats.ver": "2.15.1"},
        },
        "state": {
            "messages": 0,
            "bytes": 0,
            "first_seq": 0,
            "first_ts": "0001-01-01T00:00:00Z",
            "last_seq": 0,
            "last_ts": "0001-01-01T00:00:00Z",
            "consumer_count": 0,
        },
    }


async def test_a_consumer_is_told_with_all_its_settings(nc: NatsConnection) -> None:
    await a_stream(nc)

    assert without_instants(await a_consumer(nc, filter_subject="s.a")) == {
        "type": "io.nats.jetstream.api.v1.consumer_create_response",
        "stream_name": "S",
        "name": "c",
        "config": {
            "durable_name": "c",
            "name": "c",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": 30 * S,
            "max_deliver": -1,
            "filter_subject": "s.a",
            "replay_policy": "instant",
            "max_waiting": 512,
            "max_ack_pending": 1000,
            "num_replicas": 0,
            "metadata": {"_nats.level": "5", "_nats.req.level": "0", "_nats.ver": "2.15.1"},
        },
        "delivered": {"consumer_seq": 0, "stream_seq": 0},
        "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
        "num_ack_pending": 0,
        "num_redelivered": 0,
        "num_waiting": 0,
        "num_pending": 0,
    }


async def test_a_stream_that_is_there_is_made_again_only_if_it_is_the_same(nc: NatsConnection) -> None:
    first = await a_stream(nc)

    again = await a_stream(nc)
    assert again["did_create"] is True
    assert again["created"] == first["created"]
    error = await refusal(nc, "STREAM.CREATE.S", {"name": "S", "subjects": ["s.*"], "max_msgs": 4})
    assert error == {
        "code": 400,
        "err_code": 10058,
        "description": "stream name already in use with a different configuration",
    }


@pytest.mark.parametrize(
    ("asked_for", "code"),
    [
        ({"name": "T", "subjects": ["s.a"]}, 10065),
        ({"name": "T", "subjects": [">"]}, 10052),
        ({"name": "T", "subjects": ["t.*", "t.a"]}, 10052),
        ({"name": "T", "subjects": ["t.*", "t.*"]}, 10052),
        ({"name": "T", "subjects": ["$JS.API.>"]}, 10052),
        ({"name": "T", "subjects": ["t..a"]}, 10052),
        ({"name": "T", "max_age": 1}, 10052),
        ({"name": "T", "max_age": S, "duplicate_window": 2 * S}, 10052),
        ({"name": "T", "discard_new_per_subject": True}, 10052),
        ({"name": "T", "discard_new_per_subject": True, "discard": "new"}, 10052),
        ({"name": "T", "num_replicas": 3}, 10074),
        ({"name": "T", "nonsense": 1}, 10025),
        ({"name": "U"}, 10056),
    ],
)
async def test_a_stream_that_cannot_be_is_refused(nc: NatsConnection, asked_for: Told, code: int) -> None:
    await a_stream(nc)

    assert (await refusal(nc, "STREAM.CREATE.T", asked_for))["err_code"] == code


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"storage": "memory"}, 10052),
        ({"retention": "workqueue"}, 10052),
        ({"num_replicas": 3}, 10074),
        ({"max_msgs": 2}, None),
        ({"max_msgs_per_subject": 1}, None),
        ({"subjects": ["s.*", "t"]}, None),
        ({"max_age": 100 * MS, "duplicate_window": 100 * MS}, None),
    ],
)
async def test_a_stream_is_changed_or_not(nc: NatsConnection, changed: Told, code: int | None) -> None:
    await a_stream(nc)
    for _ in range(3):
        await stored(nc, "s.a")

    told = await asked(nc, "STREAM.UPDATE.S", {"name": "S", "subjects": ["s.*"], **changed})

    assert told.get("error", {}).get("err_code") == code
    if code is not None:
        return
    assert changed.items() <= told["config"].items()
    if "subjects" in changed:
        assert await stored(nc, "t") == {"stream": "S", "seq": 4}
    elif "max_age" in changed:
        await eventually(lambda: is_first(nc, 4), "all are too old")
    else:
        left = changed.get("max_msgs", changed.get("max_msgs_per_subject"))
        assert (await state(nc))["messages"] == left


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, None),
        ({"ack_wait": 5 * S}, None),
        ({"max_ack_pending": 5}, None),
        ({"filter_subject": "s.b"}, None),
        ({"max_deliver": 3}, None),
        ({"ack_policy": "none"}, 10012),
        ({"deliver_policy": "new"}, 10012),
        ({"max_waiting": 5}, 10012),
        ({"filter_subject": "s.b", "filter_subjects": ["s.c"]}, 10136),
        ({"nonsense": 5}, 10025),
    ],
)
async def test_a_consumer_is_changed_or_not(nc: NatsConnection, changed: Told, code: int | None) -> None:
    await a_stream(nc)
    await stored(nc, "s.a")
    await a_consumer(nc)

    told = await asked(nc, "CONSUMER.CREATE.S.c", consumer(**changed))

    assert told.get("error", {}).get("err_code") == code
    if code is None:
        assert changed.items() <= told["config"].items()
        assert told["num_pending"] == (0 if "filter_subject" in changed else 1)


async def test_a_consumer_is_created_once_if_it_is_to_be_new(nc: NatsConnection) -> None:
    await a_stream(nc)
    request = {**consumer(), "action": "create"}
    await done(nc, "CONSUMER.CREATE.S.c", request)

    await done(nc, "CONSUMER.CREATE.S.c", request)
    other = {**consumer(ack_wait=5 * S), "action": "create"}
    assert (await refusal(nc, "CONSUMER.CREATE.S.c", other))["err_code"] == 10148
    absent = {**consumer("d"), "action": "update"}
    assert (await refusal(nc, "CONSUMER.CREATE.S.d", absent))["err_code"] == 10149


@pytest.mark.parametrize(
    ("subject", "body", "error"),
    [
        ("STREAM.INFO.T", None, (404, 10059, "stream not found")),
        ("STREAM.DELETE.T", None, (404, 10059, "stream not found")),
        ("STREAM.MSG.GET.T", {"seq": 1}, (404, 10059, "stream not found")),
        ("STREAM.UPDATE.T", {"name": "T"}, (404, 10059, "stream not found")),
        ("CONSUMER.INFO.T.c", None, (404, 10059, "stream not found")),
        ("CONSUMER.LIST.T", None, (404, 10059, "stream not found")),
        ("CONSUMER.CREATE.T.c", consumer(stream="T"), (404, 10059, "stream not found")),
        ("CONSUMER.INFO.S.c", None, (404, 10014, "consumer not found")),
        ("CONSUMER.DELETE.S.c", None, (404, 10014, "consumer not found")),
        ("STREAM.MSG.GET.S", {"seq": 1}, (404, 10037, "no message found")),
        ("STREAM.MSG.GET.S", {"last_by_subj": "s.a"}, (404, 10037, "no message found")),
        ("STREAM.MSG.GET.S", {}, (400, 10003, "bad request")),
    ],
)
async def test_what_is_not_there_is_said_so(
    nc: NatsConnection, subject: str, body: Told | None, error: tuple[int, int, str]
) -> None:
    await a_stream(nc)
    code, err_code, description = error

    assert await refusal(nc, subject, body) == {"code": code, "err_code": err_code, "description": description}


async def test_the_account_is_told(nc: NatsConnection) -> None:
    await a_stream(nc, max_bytes=1000)
    await a_stream(nc, "M", subjects=["m.*"], storage="memory")
    await a_consumer(nc)
    await stored(nc, "s.a")
    await stored(nc, "m.a")

    told = await done(nc, "INFO")

    assert told["type"] == "io.nats.jetstream.api.v1.account_info_response"
    names = ("memory", "storage", "reserved_memory", "reserved_storage", "streams", "consumers")
    assert [told[name] for name in names] == [20, 34, 0, 1000, 2, 1]


async def test_what_the_api_does_not_have_is_not_answered(nc: NatsConnection) -> None:
    with pytest.raises(NatsTimeoutError):
        await nc.request("$JS.API.STREAM.NONSENSE.S", b"", timeout=0.2)


@pytest.mark.parametrize(
    "subject", ["CONSUMER.MSG.NEXT.S.c", "CONSUMER.MSG.NEXT.T.c", "DIRECT.GET.S", "DIRECT.GET.T.s.a"]
)
async def test_what_nobody_serves_has_no_responders(nc: NatsConnection, subject: str) -> None:
    await a_stream(nc)

    with pytest.raises(NoRespondersError):
        await nc.request(f"$JS.API.{subject}", b"{}", timeout=5)


async def test_streams_and_consumers_are_listed(nc: NatsConnection) -> None:
    await a_stream(nc)
    await a_stream(nc, "A", subjects=["a.>"])
    for name in ("d", "c"):
        await a_consumer(nc, name)

    assert (await done(nc, "STREAM.NAMES"))["streams"] == ["A", "S"]
    assert (await done(nc, "STREAM.NAMES", {"subject": "a.b"}))["streams"] == ["A"]
    listed = await done(nc, "STREAM.LIST")
    assert [one["config"]["name"] for one in listed["streams"]] == ["A", "S"]
    assert (await done(nc, "CONSUMER.NAMES.S"))["consumers"] == ["c", "d"]
    told = await done(nc, "CONSUMER.LIST.S", {"offset": 1})
    assert [told[key] for key in ("total", "offset", "limit")] == [2, 1, 256]
    assert [one["name"] for one in told["consumers"]] == ["d"]


async def test_a_stream_tells_how_many_messages_its_subjects_have(nc: NatsConnection) -> None:
    await a_stream(nc)
    for subject in ("s.a", "s.b", "s.a"):
        await stored(nc, subject)

    told = await done(nc, "STREAM.INFO.S", {"subjects_filter": "s.*"})
    assert told["state"]["subjects"] == {"s.a": 2, "s.b": 1}
    assert told["state"]["num_subjects"] == 2
    told = await done(nc, "STREAM.INFO.S", {"subjects_filter": "s.c"})
    assert told["state"].get("subjects", {}) == {}


async def test_a_message_is_read_by_its_sequence_or_its_subject(nc: NatsConnection) -> None:
    await a_stream(nc)
    await stored(nc, "s.a", b"first")
    await stored(nc, "s.a", b"second", Msg_Id="m")

    first = (await done(nc, "STREAM.MSG.GET.S", {"seq": 1}))["message"]
    newest = (await done(nc, "STREAM.MSG.GET.S", {"last_by_subj": "s.a"}))["message"]
    following = (await done(nc, "STREAM.MSG.GET.S", {"next_by_subj": "s.*", "seq": 2}))["message"]

    first.pop("time")
    assert first == {"subject": "s.a", "seq": 1, "data": "Zmlyc3Q="}
    assert (newest["seq"], newest["data"], following["seq"]) == (2, "c2Vjb25k", 2)
    assert newest["hdrs"] == "TkFUUy8xLjANCk5hdHMtTXNnLUlkOiBtDQoNCg=="


async def test_a_message_is_deleted(nc: NatsConnection) -> None:
    await a_stream(nc)
    for subject in ("s.a", "s.b", "s.a"):
        await stored(nc, subject)

    await done(nc, "STREAM.MSG.DELETE.S", {"seq": 2})
    assert await messages(nc) == ["s.a 1", "s.a 3"]
    assert (await state(nc))["num_deleted"] == 1
    for seq in (1, 3):
        await done(nc, "STREAM.MSG.DELETE.S", {"seq": seq})
    found = await state(nc)
    assert (found["messages"], found["first_seq"], found["last_seq"]) == (0, 4, 3)
    assert await refusal(nc, "STREAM.MSG.DELETE.S", {"seq": 3})


async def test_a_stream_that_is_made_again_is_another(nc: NatsConnection) -> None:
    first = await a_stream(nc)
    await stored(nc, "s.a", Msg_Id="m")
    assert (await done(nc, "STREAM.DELETE.S"))["success"] is True
    with pytest.raises(NoRespondersError):
        await nc.request("s.a", b"x", timeout=5)

    second = await a_stream(nc)

    assert second["created"] > first["created"]
    assert await stored(nc, "s.a", Msg_Id="m") == {"stream": "S", "seq": 1}


async def test_pulls_of_a_stream_that_is_deleted_are_over(nc: NatsConnection) -> None:
    await a_queue(nc)
    await a_consumer(nc)
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    await nc.flush()

    await done(nc, "STREAM.DELETE.S")

    assert await pulls.status() == {"Status": "409", "Description": "Consumer Deleted"}


# direct gets


async def direct(nc: NatsConnection, **query: Any) -> list[tuple[bytes, dict[str, str]]]:
    """Read a page, without instants; a status has no data."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    await nc.publish("$JS.API.DIRECT.GET.S", json.dumps(query).encode(), inbox)
    page = []
    while True:
        message = await subscription.next_msg(10)
        headers = {str(getattr(key, "value", key)): text for key, text in (message.headers or {}).items()}
        headers.pop("Nats-Time-Stamp", None)
        page.append((message.data, headers))
        if "Status" in headers or not query.get("batch"):
            await subscription.unsubscribe()
            return page


def place(subject: str, seq: int, pending: int, last: int) -> dict[str, str]:
    return {
        "Nats-Stream": "S",
        "Nats-Subject": subject,
        "Nats-Sequence": str(seq),
        "Nats-Num-Pending": str(pending),
        "Nats-Last-Sequence": str(last),
    }


async def test_a_page_of_messages_is_read_directly(nc: NatsConnection) -> None:
    await a_stream(nc, allow_direct=True)
    await stored(nc, "s.a", b"1")
    await stored(nc, "s.b", b"2", Msg_Id="m")
    await stored(nc, "s.a", b"3")

    assert await direct(nc, seq=1, batch=2) == [
        (b"1", place("s.a", 1, 2, 0)),
        (b"2", {"Nats-Msg-Id": "m", **place("s.b", 2, 1, 1)}),
        (b"", {"Status": "204", "Description": "EOB", "Nats-Num-Pending": "1", "Nats-Last-Sequence": "2"}),
    ]
    assert await direct(nc, seq=2, batch=9, next_by_subj="s.a") == [
        (b"3", place("s.a", 3, 0, 0)),
        (b"", {"Status": "204", "Description": "EOB", "Nats-Num-Pending": "0", "Nats-Last-Sequence": "3"}),
    ]
    assert len(await direct(nc, seq=1, batch=9, max_bytes=1)) == 2
    assert await direct(nc, seq=4, batch=9) == [(b"", {"Status": "404", "Description": "Message Not Found"})]
    assert await direct(nc, seq=1, batch=9, next_by_subj="s.c") == [
        (b"", {"Status": "404", "Description": "Message Not Found"})
    ]
    assert await direct(nc) == [(b"", {"Status": "408", "Description": "Empty Request"})]
    assert await direct(nc, seq=1, last_by_subj="s.a") == [(b"", {"Status": "408", "Description": "Bad Request"})]
    assert (await direct(nc, seq=3))[0][0] == b"3"


async def test_the_newest_message_of_a_subject_is_read_directly(nc: NatsConnection) -> None:
    await a_stream(nc, allow_direct=True)
    for data in (b"1", b"2"):
        await stored(nc, "s.a", data)

    found = await nc.request("$JS.API.DIRECT.GET.S.s.a", b"", timeout=5)
    missing = await nc.request("$JS.API.DIRECT.GET.S.s.b", b"", timeout=5)

    assert found.data == b"2"
    assert (found.headers or {})["Nats-Sequence"] == "2"
    assert missing.headers == {"Status": "404", "Description": "Message Not Found"}


# advisories


async def test_a_message_that_is_given_up_on_is_told(nc: NatsConnection) -> None:
    heard = await nc.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
    await a_queue(nc)
    await a_consumer(nc, max_deliver=2, ack_wait=200 * MS)
    await stored(nc, "s.a")
    pulls = await pulling(nc)
    await pulls.ask(batch=3, expires=20 * S)

    assert [facts(one)[0] for one in await pulls.messages(2)] == [1, 2]
    message = await heard.next_msg(10)

    assert message.subject == "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c"
    told = json.loads(message.data)
    assert {key: told[key] for key in told if key not in ("id", "timestamp")} == {
        "type": "io.nats.jetstream.advisory.v1.max_deliver",
        "stream": "S",
        "consumer": "c",
        "stream_seq": 1,
        "deliveries": 2,
    }
    await pulls.nothing(within_s=0.5)
    assert await messages(nc) == ["s.a 1"]
    found = await progress(nc)
    assert (found["num_ack_pending"], found["num_redelivered"]) == (0, 1)


async def test_a_message_that_is_turned_back_too_often_is_told(nc: NatsConnection) -> None:
    heard = await nc.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
    await a_queue(nc)
    await a_consumer(nc, max_deliver=2)
    await stored(nc, "s.a")
    pulls = await pulling(nc)
    await pulls.ask(batch=3, expires=20 * S)
    for _ in range(2):
        [message] = await pulls.messages(1)
        await answer(nc, message, b"-NAK")

    assert json.loads((await heard.next_msg(10)).data)["deliveries"] == 2
    await pulls.nothing()
    assert await messages(nc) == ["s.a 1"]


async def test_a_message_that_is_terminated_is_told_and_gone(nc: NatsConnection) -> None:
    heard = await nc.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
    await a_queue(nc)
    await a_consumer(nc)
    await stored(nc, "s.a")
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    [message] = await pulls.messages(1)
    await answer(nc, message, b"+TERM no good")

    advisory = await heard.next_msg(10)

    assert advisory.subject == "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.c"
    told = json.loads(advisory.data)
    assert {key: told[key] for key in told if key not in ("id", "timestamp")} == {
        "type": "io.nats.jetstream.advisory.v1.terminated",
        "stream": "S",
        "consumer": "c",
        "consumer_seq": 1,
        "stream_seq": 1,
        "deliveries": 1,
        "reason": "no good",
    }
    assert await messages(nc) == []


async def test_a_stream_keeps_advisories(nc: NatsConnection) -> None:
    await done(
        nc,
        "STREAM.CREATE.A",
        {"name": "A", "subjects": ["$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"], "retention": "limits"},
    )
    await a_queue(nc)
    await a_consumer(nc)
    await stored(nc, "s.a")
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    [message] = await pulls.messages(1)
    await answer(nc, message, b"+TERM")

    async def is_kept() -> bool:
        return bool((await state(nc, "A"))["messages"] == 1)

    await eventually(is_kept, "the advisory is stored")


async def test_a_message_that_somebody_holds_and_is_deleted_is_told(nc: NatsConnection) -> None:
    heard = await nc.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
    await a_queue(nc)
    await a_consumer(nc)
    await stored(nc, "s.a")
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    await pulls.messages(1)

    await done(nc, "STREAM.MSG.DELETE.S", {"seq": 1})

    assert json.loads((await heard.next_msg(10)).data)["reason"] == "Unacknowledged message was deleted"
    assert (await progress(nc))["num_ack_pending"] == 0
