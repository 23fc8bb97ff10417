"""Completes and checks the settings of streams and consumers as the server does, and says which may change."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from broker.simulate.nats.interest import collide, is_valid, matches
from broker.simulate.nats.refusals import (
    NEEDS_EXPLICIT,
    NO_CONSUMER_CONFIG,
    NOT_ALL,
    NOT_UNIQUE,
    PULL_NEEDS_ACK,
    REPLICAS,
    UNFILTERED,
    NotSimulated,
    Refused,
    invalid_json,
    invalid_stream,
)

Settings = dict[str, Any]
_MS: Final = 1_000_000
_S: Final = 1000 * _MS
_WINDOW: Final = 120 * _S
_ACK_WAIT: Final = 30 * _S
_LEAST: Final = 100 * _MS
_BAD_NAME: Final = frozenset(". *>\\/\t\r\n")
_ALWAYS: Final[Mapping[str, Any]] = {
    "name": "",
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}
"""What the server always tells of a stream, with its defaults."""
_UNLESS_EMPTY: Final[Mapping[str, Any]] = {
    "description": "",
    "subjects": [],
    "no_ack": False,
    "duplicate_window": 0,
    "first_seq": 0,
    "discard_new_per_subject": False,
    "subject_delete_marker_ttl": 0,
    "allow_atomic": False,
    "metadata": {},
    "placement": None,
}
"""What the server leaves out while it is false, zero or empty."""
_BEYOND: Final = {
    "mirror",
    "sources",
    "subject_transform",
    "republish",
    "allow_msg_counter",
    "allow_msg_schedules",
    "allow_batched",
    "persist_mode",
}
_RESERVED: Final = ("$JS.>", "$JSC.>", "$NRG.>")
_LIMITS: Final = ("max_consumers", "max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size")
_CONSUMER_ALWAYS: Final[Mapping[str, Any]] = {
    "deliver_policy": "all",
    "ack_policy": "none",
    "replay_policy": "instant",
    "num_replicas": 0,
}
_CONSUMER_UNLESS_EMPTY: Final[Mapping[str, Any]] = {
    "durable_name": "",
    "name": "",
    "description": "",
    "opt_start_seq": 0,
    "ack_wait": 0,
    "max_deliver": 0,
    "filter_subject": "",
    "filter_subjects": [],
    "max_waiting": 0,
    "max_ack_pending": 0,
    "max_batch": 0,
    "max_expires": 0,
    "max_bytes": 0,
    "inactive_threshold": 0,
    "mem_storage": False,
    "metadata": {},
}
_CONSUMER_BEYOND: Final = {
    "opt_start_time",
    "backoff",
    "rate_limit_bps",
    "sample_freq",
    "flow_control",
    "headers_only",
    "deliver_subject",
    "deliver_group",
    "idle_heartbeat",
    "direct",
    "sourcing",
    "pause_until",
    "priority_groups",
    "priority_policy",
    "priority_timeout",
}
_FIXED: Final = {
    "deliver_policy": "deliver policy can not be updated",
    "mem_storage": "storage type can not be updated",
    "opt_start_seq": "start sequence can not be updated",
    "ack_policy": "ack policy can not be updated",
    "replay_policy": "replay policy can not be updated",
    "max_waiting": "max waiting can not be updated",
}
"""What of a consumer cannot be changed, and what the server says then."""


def stream_settings(asked: Mapping[str, Any]) -> Settings:
    """Complete and check the settings of a stream. Raises: Refused."""
    _known(asked, {*_ALWAYS, *_UNLESS_EMPTY}, _BEYOND)
    found: Settings = {
        **_ALWAYS,
        **_UNLESS_EMPTY,
        **{key: value for key, value in asked.items() if value is not None},
    }
    for limit in _LIMITS:
        found[limit] = found[limit] if found[limit] > 0 else -1
    found["subjects"] = list(found["subjects"]) or [found["name"]]
    found["num_replicas"] = found["num_replicas"] or 1
    found["metadata"] = _own(found["metadata"])
    found = {key: value for key, value in found.items() if key not in _BEYOND}
    if not found["duplicate_window"]:
        found["duplicate_window"] = min(_WINDOW, found["max_age"] or _WINDOW)
    if found["subject_delete_marker_ttl"]:
        raise NotSimulated("subject_delete_marker_ttl")
    if (wrong := _wrong_stream(found)) is not None:
        raise invalid_stream(wrong)
    if found["num_replicas"] > 1:
        raise Refused(*REPLICAS)
    return found


def _wrong_stream(found: Settings) -> str | None:
    age, window = found["max_age"], found["duplicate_window"]
    if not found["name"] or _BAD_NAME & set(found["name"]):
        return "stream name is required and can not contain '.', '*', '>', '\\', '/'"
    if age and age < _LEAST:
        return "max age needs to be >= 100ms"
    if age and window > age:
        return "duplicates window can not be larger then max age"
    if window < _LEAST:
        return "duplicates window needs to be >= 100ms"
    if found["deny_purge"] and found["allow_rollup_hdrs"]:
        return "roll-ups require the purge permission"
    if found["discard_new_per_subject"] and found["discard"] != "new":
        return "discard new per subject requires discard new policy to be set"
    if found["discard_new_per_subject"] and found["max_msgs_per_subject"] <= 0:
        return "discard new per subject requires max msgs per subject > 0"
    return _wrong_subjects(found["subjects"])


def _wrong_subjects(subjects: Sequence[str]) -> str | None:
    for n, subject in enumerate(subjects):
        if not is_valid(subject):
            return "invalid subject"
        if subject == ">":
            return "capturing all subjects requires no-ack to be true"
        if not matches(subject, "$JS.EVENT.>") and any(collide(subject, space) for space in _RESERVED):
            return "subjects that overlap with jetstream api require no-ack to be true"
        for other in subjects[n + 1 :]:
            if other == subject:
                return "duplicate subjects detected"
            if collide(subject, other):
                return f'subject "{subject}" overlaps with "{other}"'
    return None


def check_stream_update(old: Settings, new: Settings) -> None:
    """Raises: Refused, if a stream cannot be changed so."""
    if new["storage"] != old["storage"]:
        raise invalid_stream("stream configuration update can not change storage type")
    if new["retention"] != old["retention"] and "workqueue" in (new["retention"], old["retention"]):
        raise invalid_stream("stream configuration update can not change retention policy to/from workqueue")
    if old["sealed"] and not new["sealed"]:
        raise invalid_stream("stream configuration update can not unseal a sealed stream")
    if old["deny_delete"] and not new["deny_delete"]:
        raise invalid_stream("stream configuration update can not cancel deny message deletes")
    if old["deny_purge"] and not new["deny_purge"]:
        raise invalid_stream("stream configuration update can not cancel deny purge")
    if old["allow_msg_ttl"] and not new["allow_msg_ttl"]:
        raise invalid_stream("message TTL status can not be disabled")


def stream_told(settings: Settings) -> Settings:
    """Return the settings as the server tells them, with what it notes of its own."""
    told = {key: value for key, value in settings.items() if key in _ALWAYS or value}
    level = 2 if settings["allow_atomic"] else 1 if settings["allow_msg_ttl"] else 0
    return {**told, "metadata": {**settings["metadata"], **_noted(level)}}


def consumer_settings(asked: Mapping[str, Any] | None, stream: Settings) -> Settings:
    """Complete and check the settings of a consumer. Raises: Refused."""
    if not asked:
        raise Refused(*NO_CONSUMER_CONFIG)
    _known(asked, {*_CONSUMER_ALWAYS, *_CONSUMER_UNLESS_EMPTY}, _CONSUMER_BEYOND)
    given = {key: value for key, value in asked.items() if value is not None and key not in _CONSUMER_BEYOND}
    found: Settings = {**_CONSUMER_ALWAYS, **_CONSUMER_UNLESS_EMPTY, **given}
    found["name"] = found["name"] or found["durable_name"]
    found["max_deliver"] = found["max_deliver"] if found["max_deliver"] > 0 else -1
    found["max_waiting"] = found["max_waiting"] if found["max_waiting"] > 0 else 512
    found["metadata"] = _own(found["metadata"])
    if found["ack_policy"] != "none":
        found["ack_wait"] = found["ack_wait"] or _ACK_WAIT
        found["max_ack_pending"] = found["max_ack_pending"] or 1000
    _check_consumer(found, stream)
    return found


def _check_consumer(found: Settings, stream: Settings) -> None:
    if not found["name"] or _BAD_NAME & set(found["name"]):
        if not found["name"]:
            raise NotSimulated("a consumer without a name")
        raise invalid_stream("consumer name can not contain '.', '*', '>', '\\', '/'")
    if found["ack_policy"] == "none" and stream["retention"] == "workqueue":
        raise Refused(*PULL_NEEDS_ACK)
    if found["ack_policy"] not in ("none", "explicit"):
        raise NotSimulated(f"ack policy {found['ack_policy']}")
    if found["deliver_policy"] not in ("all", "new", "last", "by_start_sequence"):
        raise NotSimulated(f"deliver policy {found['deliver_policy']}")
    if found["filter_subject"] and found["filter_subjects"]:
        raise Refused(400, 10136, "consumer cannot have both FilterSubject and FilterSubjects specified")
    patterns = filters_of(found)
    if any(not is_valid(one) for one in patterns):
        raise invalid_stream("nats: invalid subject")
    for n, one in enumerate(patterns):
        if any(matches(one, other) for m, other in enumerate(patterns) if m != n):
            raise Refused(400, 10138, "consumer subject filters cannot overlap")


def filters_of(settings: Settings) -> tuple[str, ...]:
    return (settings["filter_subject"],) if settings["filter_subject"] else tuple(settings["filter_subjects"])


def check_new_in_queue(found: Settings, others: Sequence[Settings]) -> None:
    """Check a new consumer of a work queue against the others. Raises: Refused."""
    if found["ack_policy"] != "explicit":
        raise Refused(*NEEDS_EXPLICIT)
    if found["deliver_policy"] != "all":
        raise Refused(*NOT_ALL)
    if others and not filters_of(found):
        raise Refused(*UNFILTERED)
    check_unique_in_queue(found, others)


def check_unique_in_queue(found: Settings, others: Sequence[Settings]) -> None:
    """Raises: Refused, if a message of a work queue would belong to two consumers."""
    mine = filters_of(found)
    for other in others:
        theirs = filters_of(other)
        if not theirs or any(collide(one, another) for one in mine for another in theirs):
            raise Refused(*NOT_UNIQUE)


def check_consumer_update(old: Settings, new: Settings) -> None:
    """Raises: Refused, if a consumer cannot be changed so."""
    for name, words in _FIXED.items():
        if old[name] != new[name]:
            raise Refused(500, 10012, words)


def consumer_told(settings: Settings) -> Settings:
    """Return the settings as the server tells them, with what it notes of its own."""
    told = {key: value for key, value in settings.items() if key in _CONSUMER_ALWAYS or value}
    return {**told, "metadata": {**settings["metadata"], **_noted(0)}}


def _known(asked: Mapping[str, Any], known: set[str], beyond: set[str]) -> None:
    """Raises: Refused, for a setting that the server does not know; NotSimulated, for one that only it does."""
    for name, value in asked.items():
        if name in beyond and value:
            raise NotSimulated(name)
        if name not in known and name not in beyond:
            raise invalid_json(f'json: unknown field "{name}"')


def _own(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.startswith("_nats.")}


def _noted(level: int) -> dict[str, str]:
    return {"_nats.level": "5", "_nats.req.level": str(level), "_nats.ver": "2.15.1"}
