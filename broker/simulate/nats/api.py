"""Answers requests to JetStream's API: `$JS.API.…`."""

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from broker.simulate.nats.consumer import Consumer
from broker.simulate.nats.direct import Direct
from broker.simulate.nats.interest import collide, matches
from broker.simulate.nats.refusals import (
    CONSUMER_ABSENT,
    CONSUMER_EXISTS,
    NAME_MISMATCH,
    NO_MEMORY,
    NO_STORAGE,
    OVERLAP,
    STREAM_EXISTS,
    NotSimulated,
    Refused,
    bad_request,
    consumer_not_found,
    invalid_json,
    no_message,
    stream_not_found,
)
from broker.simulate.nats.settings import (
    Settings,
    check_new_in_queue,
    check_unique_in_queue,
    consumer_settings,
    filters_of,
    stream_settings,
)
from broker.simulate.nats.store import Filter, Stored
from broker.simulate.nats.stream import Stream
from broker.simulate.nats.times import instant

if TYPE_CHECKING:
    from broker.simulate.nats.server import Server

Told = dict[str, Any]
_PAGE, _NAMES_PAGE = 256, 1024
_BEYOND = (
    "META.",
    "STREAM.PURGE.",
    "STREAM.SNAPSHOT.",
    "STREAM.RESTORE.",
    "STREAM.LEADER.",
    "STREAM.PEER.",
    "CONSUMER.LEADER.",
    "CONSUMER.PAUSE.",
    "CONSUMER.RESET.",
    "CONSUMER.UNPIN.",
)
_TYPE = "io.nats.jetstream.api.v1.{}_response"


class Api:
    def __init__(self, server: "Server") -> None:
        self._server = server
        self._direct = Direct(server)
        self._calls: Mapping[str, Callable[[str, bytes], Told]] = {
            "INFO": self._tell_account,
            "STREAM.CREATE": self._create_stream,
            "STREAM.UPDATE": self._update_stream,
            "STREAM.INFO": self._tell_stream,
            "STREAM.DELETE": self._delete_stream,
            "STREAM.MSG.GET": self._get_message,
            "STREAM.MSG.DELETE": self._delete_message,
            "STREAM.NAMES": self._name_streams,
            "STREAM.LIST": self._list_streams,
            "CONSUMER.CREATE": self._create_consumer,
            "CONSUMER.DURABLE.CREATE": self._create_consumer,
            "CONSUMER.INFO": self._tell_consumer,
            "CONSUMER.DELETE": self._delete_consumer,
            "CONSUMER.NAMES": self._name_consumers,
            "CONSUMER.LIST": self._list_consumers,
        }

    def answer(self, subject: str, reply: str, request: bytes) -> bool:
        """Answer a request. False: nobody would hear it."""
        if subject.startswith("CONSUMER.MSG.NEXT."):
            return self._pull(subject.split(".")[3:], reply, request)
        if subject.startswith("DIRECT.GET."):
            return self._direct.answer(subject[len("DIRECT.GET.") :], reply, request)
        if subject.startswith(_BEYOND):
            raise NotSimulated(subject)
        verb, path = _verb(subject, self._calls)
        if verb is not None and reply:
            self._server.answer(reply, msgspec.json.encode(self._told(verb, path, request)))
        return True  # what the server does not know it hears too, and does not answer

    def _told(self, verb: str, path: str, request: bytes) -> Told:
        kind = _KINDS[verb]
        try:
            return {"type": _TYPE.format(kind), **self._calls[verb](path, request)}
        except Refused as refused:
            return _refusal(kind, refused)

    def _pull(self, names: list[str], reply: str, request: bytes) -> bool:
        stream = self._server.streams.get(names[0])
        consumer = None if stream is None or len(names) != 2 else stream.consumers.get(names[1])
        if consumer is None:
            return False
        if reply:
            consumer.pull(request, reply)
        return True

    def _tell_account(self, _: str, __: bytes) -> Told:
        streams = self._server.streams.values()
        used = {kind: [one for one in streams if one.settings["storage"] == kind] for kind in ("memory", "file")}
        reserved = {kind: sum(max(0, one.settings["max_bytes"]) for one in found) for kind, found in used.items()}
        return {
            "memory": sum(one.store.bytes for one in used["memory"]),
            "storage": sum(one.store.bytes for one in used["file"]),
            "reserved_memory": reserved["memory"],
            "reserved_storage": reserved["file"],
            "streams": len(streams),
            "consumers": sum(len(one.consumers) for one in streams),
        }

    # streams

    def _create_stream(self, path: str, request: bytes) -> Told:
        settings = stream_settings(_asked(request))
        if settings["name"] != path:
            raise Refused(*NAME_MISMATCH)
        server = self._server
        if (there := server.streams.get(path)) is not None:
            if there.settings != settings:
                raise Refused(*STREAM_EXISTS)
            return {**there.told(), "did_create": True}
        self._check_overlap(settings)
        self._check_room(settings, 0)
        made = server.streams[path] = Stream(server, settings)
        server.reassign()
        return {**made.told(), "did_create": True}

    def _update_stream(self, path: str, request: bytes) -> Told:
        settings = stream_settings(_asked(request))
        if settings["name"] != path:
            raise Refused(*NAME_MISMATCH)
        stream = self._stream(path)
        self._check_overlap(settings)
        self._check_room(settings, max(0, stream.settings["max_bytes"]))
        stream.update(settings)
        self._server.reassign()
        return stream.told()

    def _check_overlap(self, settings: Settings) -> None:
        for other in self._server.streams.values():
            if other.name != settings["name"] and any(
                collide(mine, theirs) for mine in settings["subjects"] for theirs in other.settings["subjects"]
            ):
                raise Refused(*OVERLAP)

    def _check_room(self, settings: Settings, already: int) -> None:
        storage = settings["storage"]
        room, wanted = self._server.room[storage], max(0, settings["max_bytes"])
        if room is None or wanted <= already:
            return
        others = [one.settings for one in self._server.streams.values() if one.settings["storage"] == storage]
        if sum(max(0, one["max_bytes"]) for one in others) - already + wanted > room:
            raise Refused(*(NO_STORAGE if storage == "file" else NO_MEMORY))

    def _tell_stream(self, path: str, request: bytes) -> Told:
        stream = self._stream(path)
        asked = _asked(request)
        told = stream.told()
        if (pattern := asked.get("subjects_filter")) is not None:
            counts = {name: stream.store.of(name) for name in stream.store.subjects if matches(name, pattern)}
            if counts:
                told["state"]["subjects"] = counts
        return {"total": len(told["state"].get("subjects", ())), "offset": 0, "limit": 0, **told}

    def _delete_stream(self, path: str, _: bytes) -> Told:
        stream = self._stream(path)
        del self._server.streams[path]
        self._server.reassign()
        stream.delete()
        return {"success": True}

    def _get_message(self, path: str, request: bytes) -> Told:
        stream, asked = self._stream(path), _asked(request)
        found: Stored | None
        if (last_of := asked.get("last_by_subj")) is not None:
            found = stream.store.last_of(last_of)
        elif (next_of := asked.get("next_by_subj")) is not None:
            found = stream.store.next(asked.get("seq", 0), Filter((next_of,)))
        elif seq := asked.get("seq", 0):
            found = stream.store.messages.get(seq)
        else:
            raise bad_request()
        if found is None:
            raise no_message()
        told: Told = {"subject": found.subject, "seq": found.seq, "time": instant(found.at_ns)}
        for name, part in (("hdrs", found.head), ("data", found.data)):
            if part:
                told[name] = base64.b64encode(part).decode()
        return {"message": told}

    def _delete_message(self, path: str, request: bytes) -> Told:
        self._stream(path).delete_message(_asked(request).get("seq", 0))
        return {"success": True}

    def _name_streams(self, _: str, request: bytes) -> Told:
        asked = _asked(request)
        names = sorted(self._server.streams)
        if pattern := asked.get("subject"):
            names = [
                name
                for name in names
                if any(collide(pattern, one) for one in self._server.streams[name].settings["subjects"])
            ]
        return _page("streams", names, asked, _NAMES_PAGE)

    def _list_streams(self, _: str, request: bytes) -> Told:
        told = [stream.told() for _, stream in sorted(self._server.streams.items())]
        return _page("streams", told, _asked(request), _PAGE)

    # consumers

    def _create_consumer(self, path: str, request: bytes) -> Told:
        names = path.split(".", 2)
        asked = _asked(request)
        stream = self._stream(names[0])
        if asked.get("stream_name") != stream.name:
            raise Refused(*NAME_MISMATCH)
        settings = consumer_settings(asked.get("config"), stream.settings)
        if len(names) > 1 and settings["name"] != names[1]:
            raise Refused(400, 10017, "consumer name in subject does not match durable name in request")
        if len(names) > 2 and names[2:] != list(filters_of(settings)):
            raise Refused(400, 10131, "Consumer create request did not match filtered subject from create subject")
        return self._consumer_made(stream, settings, asked.get("action", "")).told()

    def _consumer_made(self, stream: Stream, settings: Settings, action: str) -> Consumer:
        there = stream.consumers.get(settings["name"])
        others = [one.settings for one in stream.consumers.values() if one is not there]
        is_queue = stream.settings["retention"] == "workqueue"
        if there is not None:
            if action == "create" and there.settings != settings:
                raise Refused(*CONSUMER_EXISTS)
            if is_queue:
                check_unique_in_queue(settings, others)
            there.update(settings)
            return there
        if action == "update":
            raise Refused(*CONSUMER_ABSENT)
        if is_queue:
            check_new_in_queue(settings, others)
        return stream.add_consumer(settings)

    def _tell_consumer(self, path: str, _: bytes) -> Told:
        stream, name = self._consumer_of(path)
        return stream.consumers[name].told()

    def _delete_consumer(self, path: str, _: bytes) -> Told:
        stream, name = self._consumer_of(path)
        stream.delete_consumer(name)
        return {"success": True}

    def _name_consumers(self, path: str, request: bytes) -> Told:
        return _page("consumers", sorted(self._stream(path).consumers), _asked(request), _NAMES_PAGE)

    def _list_consumers(self, path: str, request: bytes) -> Told:
        told = [one.told() for _, one in sorted(self._stream(path).consumers.items())]
        return _page("consumers", told, _asked(request), _PAGE)

    def _stream(self, name: str) -> Stream:
        if (found := self._server.streams.get(name)) is None:
            raise stream_not_found()
        return found

    def _consumer_of(self, path: str) -> tuple[Stream, str]:
        stream, _, name = path.partition(".")
        found = self._stream(stream)
        if name not in found.consumers:
            raise consumer_not_found()
        return found, name


_KINDS = {
    "INFO": "account_info",
    "STREAM.CREATE": "stream_create",
    "STREAM.UPDATE": "stream_update",
    "STREAM.INFO": "stream_info",
    "STREAM.DELETE": "stream_delete",
    "STREAM.MSG.GET": "stream_msg_get",
    "STREAM.MSG.DELETE": "stream_msg_delete",
    "STREAM.NAMES": "stream_names",
    "STREAM.LIST": "stream_list",
    "CONSUMER.CREATE": "consumer_create",
    "CONSUMER.DURABLE.CREATE": "consumer_create",
    "CONSUMER.INFO": "consumer_info",
    "CONSUMER.DELETE": "consumer_delete",
    "CONSUMER.NAMES": "consumer_names",
    "CONSUMER.LIST": "consumer_list",
}


def _verb(subject: str, calls: Mapping[str, object]) -> tuple[str | None, str]:
    """Split a subject into what is asked and of what."""
    tokens = subject.split(".")
    for count in (3, 2, 1):
        verb = ".".join(tokens[:count])
        if verb in calls:
            return verb, ".".join(tokens[count:])
    return None, ""


def _asked(request: bytes) -> dict[str, Any]:
    if not request:
        return {}
    try:
        asked: dict[str, Any] = msgspec.json.decode(request, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid_json(str(error)) from error
    return asked


def _page(name: str, found: list[Any], asked: Mapping[str, Any], most: int) -> Told:
    offset = asked.get("offset", 0)
    page = found[offset : offset + most]
    return {"total": len(found), "offset": offset, "limit": most, name: page}


def _refusal(kind: str, refused: Refused) -> Told:
    return {"type": _TYPE.format(kind), "error": refused.error}
