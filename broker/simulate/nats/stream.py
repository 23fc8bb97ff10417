"""A stream: which messages it takes, for how long it keeps them, and whom it tells."""

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from broker.simulate.nats.batches import Batches, Message
from broker.simulate.nats.consumer import Consumer
from broker.simulate.nats.interest import matches
from broker.simulate.nats.refusals import (
    BAD_TTL,
    OTHER_STREAM,
    OVERTAKEN,
    REPEATED,
    TOO_LARGE,
    TTL_OFF,
    NotSimulated,
    Refused,
    no_message,
    not_stored,
    wrong_last_sequence,
)
from broker.simulate.nats.settings import Settings, check_stream_update, stream_told
from broker.simulate.nats.store import ALL, Store, Stored
from broker.simulate.nats.times import NEVER, NS, ZERO, instant, lifetime_s
from broker.simulate.nats.wire import header
from broker.simulate.timers import Handle

if TYPE_CHECKING:
    from broker.simulate.nats.server import Server

_SERVER_HEADERS = b"\r\nNats-"
_ROLLUP = b"Nats-Rollup"
_LAST = b"Nats-Expected-Last-Sequence"
_LAST_OF_SUBJECT = b"Nats-Expected-Last-Subject-Sequence"
_OF_SUBJECT = b"Nats-Expected-Last-Subject-Sequence-Subject"
_SLACK_NS = 1000
"""How much too early a timer may be."""


class Duplicates:
    """The message ids of the last minutes, by which a stream knows what it has stored. An id stays when its message goes."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._order: deque[tuple[int, str]] = deque()

    def find(self, message_id: str, since_ns: int) -> int | None:
        """Return the sequence of the message that had this id."""
        while self._order and self._order[0][0] <= since_ns:
            del self._known[self._order.popleft()[1]]
        return self._known.get(message_id)

    def add(self, message_id: str, seq: int, at_ns: int) -> None:
        if message_id not in self._known:
            self._order.append((at_ns, message_id))
        self._known[message_id] = seq


class Stream:
    def __init__(self, server: "Server", settings: Settings) -> None:
        self.server = server
        self.settings = settings
        self.name: str = settings["name"]
        self.created_ns = server.timers.wall_ns()
        self.store = Store(is_file=settings["storage"] == "file", first=settings["first_seq"])
        self.consumers: dict[str, Consumer] = {}
        self._batches = Batches(self)
        self._duplicates = Duplicates()
        self._last_id = ""
        self._wanted_by: dict[str, list[Consumer]] = {}
        """The consumers of each subject, as far as somebody has asked."""
        self._ends: list[tuple[int, int]] = []
        """When messages end that have a lifetime of their own: a heap of instants and sequences."""
        self._expiry: Handle | None = None
        self._first_ns, self._last_ns = 0, 0
        self.is_full = False
        """There is no room, whatever its limits are, so that nothing is stored."""
        self.refuses_after_s = 0.0
        """How late it says that it is full."""

    def __repr__(self) -> str:
        return f"Stream({self.name}, messages={len(self.store)})"

    # what is published

    def take(self, subject: str, reply: str, head: bytes, data: bytes) -> None:
        """Take a message that was published, and answer on `reply`."""
        batch_id = header(head, b"Nats-Batch-Id") if head else None
        try:
            if batch_id is not None:
                self._take_in_batch(batch_id, (subject, head, data), reply)
                return
            checked = _SERVER_HEADERS in head
            if checked and (known := self._checked(subject, head)) is not None:
                told = f'{{"stream":"{self.name}","seq":{known},"duplicate": true}}'
            else:
                told = f'{{"stream":"{self.name}","seq":{self._store(subject, head, data, checked=checked)}}}'
        except Refused as refused:
            told = msgspec.json.encode({"error": refused.error, "stream": self.name, "seq": 0}).decode()
            self.server.took(self.name, head, is_stored=False)
            if reply and self.is_full and self.refuses_after_s:
                timers = self.server.timers
                timers.call_at(timers.now_s() + self.refuses_after_s, self.server.answer, reply, told.encode())
                return
        else:
            self.server.took(self.name, head, is_stored=True)
        if reply:
            self.server.answer(reply, told.encode())

    def _take_in_batch(self, batch_id: str, message: Message, reply: str) -> None:
        """Take a message of an atomic batch; with the last one all are stored, or none. Raises: Refused."""
        self._check_size(message[1], message[2])
        messages = self._batches.take(batch_id, message)
        if messages is None:
            if reply:
                self.server.answer(reply, b"")
            return
        self._check_batch(messages)
        seq = 0
        for subject, head, data in messages:
            seq = self._store(subject, head, data, checked=True)
        if reply:
            told = f'{{"stream":"{self.name}","seq":{seq},"batch":"{batch_id}","count":{len(messages)}}}'
            self.server.answer(reply, told.encode())

    def _check_batch(self, messages: list[Message]) -> None:
        """Raises: Refused, if one of the messages cannot be stored together with the others."""
        ids: set[str] = set()
        seen: dict[str, int] = {}
        total = 0
        for subject, head, data in messages:
            self._check_expected_stream(head)
            message_id = header(head, b"Nats-Msg-Id")
            if message_id is not None:
                if message_id in ids or self._known(message_id) is not None:
                    raise Refused(*REPEATED)
                ids.add(message_id)
            if (wanted := header(head, _LAST)) is not None and int(wanted) != self.store.last + sum(seen.values()):
                raise wrong_last_sequence(self.store.last + sum(seen.values()))
            self._check_last_of_subject(subject, head, inside=seen)
            if header(head, _ROLLUP) is not None and not self.settings["allow_rollup_hdrs"]:
                raise Refused(500, 10111, "rollup not permitted")
            self._check_size(head, data)
            seen[subject] = seen.get(subject, 0) + 1
            total += self.store.size(subject, head, data)
            self._check_room_for(seen, total, subject)

    def _check_room_for(self, seen: dict[str, int], total: int, subject: str) -> None:
        """Raises: Refused, if a stream that discards what is new would be too full."""
        settings = self.settings
        if self.is_full:
            raise not_stored("maximum bytes exceeded")
        if settings["discard"] != "new":
            return
        most, most_bytes = settings["max_msgs"], settings["max_bytes"]
        if 0 < most < len(self.store) + sum(seen.values()):
            raise not_stored("maximum messages exceeded")
        if 0 < most_bytes < self.store.bytes + total:
            raise not_stored("maximum bytes exceeded")
        of_subject = self.store.of(subject) + seen[subject]
        if settings["discard_new_per_subject"] and of_subject > settings["max_msgs_per_subject"]:
            raise not_stored("maximum messages per subject exceeded")

    def _checked(self, subject: str, head: bytes) -> int | None:
        """Check what headers demand. Return the sequence of the message if it was stored before. Raises: Refused."""
        self._check_expected_stream(head)
        if header(head, b"Nats-TTL") is not None and not self.settings["allow_msg_ttl"]:
            raise Refused(*TTL_OFF)
        self._check_last_of_subject(subject, head, inside={})
        if (wanted := header(head, _LAST)) is not None and int(wanted) != self.store.last:
            raise wrong_last_sequence(self.store.last)
        if header(head, b"Nats-Schedule") is not None or header(head, b"Nats-Incr") is not None:
            raise NotSimulated("schedules and counters")
        message_id = header(head, b"Nats-Msg-Id")
        if message_id is not None and (known := self._known(message_id)) is not None:
            return known
        last_id = header(head, b"Nats-Expected-Last-Msg-Id")
        if last_id is not None and last_id != self._last_id:
            raise Refused(400, 10070, f"wrong last msg ID: {self._last_id}")
        if (rollup := header(head, _ROLLUP)) is not None:
            if not self.settings["allow_rollup_hdrs"] or self.settings["deny_purge"]:
                raise Refused(500, 10111, "rollup not permitted")
            if rollup not in ("sub", "all"):
                raise Refused(500, 10111, f'rollup value invalid: "{rollup}"')
        return None

    def _check_expected_stream(self, head: bytes) -> None:
        wanted = header(head, b"Nats-Expected-Stream")
        if wanted is not None and wanted != self.name:
            raise Refused(*OTHER_STREAM)

    def _check_last_of_subject(self, subject: str, head: bytes, *, inside: dict[str, int]) -> None:
        wanted = header(head, _LAST_OF_SUBJECT)
        if wanted is None:
            return
        if (other := header(head, _OF_SUBJECT)) is not None:
            subject = other
        if subject in inside:
            raise Refused(*OVERTAKEN)
        last = self.store.last_of(subject)
        found = 0 if last is None else last.seq
        if int(wanted) != found:
            raise wrong_last_sequence(found)

    def _check_size(self, head: bytes, data: bytes) -> None:
        if 0 <= self.settings["max_msg_size"] < len(head) + len(data):
            raise Refused(*TOO_LARGE)

    def _known(self, message_id: str) -> int | None:
        return self._duplicates.find(message_id, self.server.timers.wall_ns() - self.settings["duplicate_window"])

    def _store(self, subject: str, head: bytes, data: bytes, *, checked: bool) -> int:
        """Store a message, and have it delivered. Raises: Refused."""
        self._check_size(head, data)
        consumers = self.wanted_by(subject)
        at_ns = self.server.timers.wall_ns()
        message_id = (header(head, b"Nats-Msg-Id") or "") if checked else ""
        if not consumers and self.settings["retention"] == "interest":
            seq = self.store.skip()
        else:
            lifetime = self._lifetime(head) if checked else None
            self._check_room(subject, head, data, checked=checked)
            seq = self.store.append(subject, head, data, at_ns).seq
            self._last_ns = at_ns
            self._enforce(subject)
            self._keep_until(seq, at_ns, lifetime)
        self._last_id = message_id
        if message_id:
            self._duplicates.add(message_id, seq, at_ns)
        if checked and (rollup := header(head, _ROLLUP)) is not None:
            self.purge(subject if rollup == "sub" else None, keep=1)
        for consumer in consumers:
            consumer.pending += 1
            if consumer.waiting:
                self.server.due(consumer.pump)
        return seq

    def _lifetime(self, head: bytes) -> int | None:
        text = header(head, b"Nats-TTL")
        if text is None or text == "0":
            return None
        found = lifetime_s(text)
        if found is None:
            raise Refused(*BAD_TTL)
        return found

    def _check_room(self, subject: str, head: bytes, data: bytes, *, checked: bool) -> None:
        """Raises: Refused, if a stream that discards what is new is full."""
        settings, store = self.settings, self.store
        if self.is_full:
            raise not_stored("maximum bytes exceeded")
        if settings["discard"] != "new":
            return
        most_of_subject = settings["max_msgs_per_subject"]
        is_full = 0 < most_of_subject <= store.of(subject)
        is_rollup = checked and header(head, _ROLLUP) is not None
        if is_full and settings["discard_new_per_subject"] and not is_rollup:
            raise not_stored("maximum messages per subject exceeded")
        if 0 < settings["max_msgs"] <= len(store) and not is_full:
            raise not_stored("maximum messages exceeded")
        size = store.size(subject, head, data)
        if 0 < settings["max_bytes"] < store.bytes + size:
            first = store.first_of(subject) if is_full else None
            if first is None or first.size < size:
                raise not_stored("maximum bytes exceeded")

    def _enforce(self, subject: str) -> None:
        """Drop what is beyond the limits: the oldest."""
        settings, store = self.settings, self.store
        if 0 < settings["max_msgs_per_subject"] < store.of(subject):
            while store.of(subject) > settings["max_msgs_per_subject"] and (one := store.first_of(subject)):
                self.remove(one.seq)
        if settings["discard"] == "old":
            most, most_bytes = settings["max_msgs"], settings["max_bytes"]
            while 0 < most < len(store) or 0 < most_bytes < store.bytes:
                self.remove(store.first)

    # what leaves

    def remove(self, seq: int) -> Stored | None:
        """Remove a message for another reason than that it was acknowledged."""
        one = self.store.remove(seq)
        if one is not None:
            for consumer in self.wanted_by(one.subject):
                consumer.gone(one)
        return one

    def settled(self, seq: int) -> None:
        """Remove a message if no consumer needs it any more. A stream that keeps messages up to its limits keeps it."""
        if self.settings["retention"] == "limits":
            return
        one = self.store.messages.get(seq)
        if one is None or any(consumer.needs(seq) for consumer in self.wanted_by(one.subject)):
            return
        self.remove(seq)

    def delete_message(self, seq: int) -> None:
        """Raises: Refused."""
        if self.remove(seq) is None:
            raise Refused(400, 10043, f"sequence {seq} not found")

    def purge(self, pattern: str | None, *, keep: int = 0) -> int:
        """Remove messages of subjects, but for the newest `keep`. Return how many."""
        meant = [one for one in self.store.messages.values() if pattern is None or matches(one.subject, pattern)]
        meant = meant[: max(0, len(meant) - keep)]
        for one in meant:
            self.store.remove(one.seq)
            for consumer in self.wanted_by(one.subject):
                consumer.purged(one)
        return len(meant)

    def _keep_until(self, seq: int, at_ns: int, lifetime: int | None) -> None:
        if lifetime is not None and lifetime != NEVER:
            heapq.heappush(self._ends, (at_ns + lifetime * NS, seq))
            self._expire_at(at_ns + lifetime * NS)
        elif self._expiry is None and self.settings["max_age"]:
            self._expire_at(at_ns + self.settings["max_age"])

    def _expire_at(self, at_ns: int) -> None:
        timers = self.server.timers
        if self._expiry is not None:
            self._expiry.cancel()
            at_ns = min(at_ns, self._expiry_ns)
        self._expiry_ns = at_ns
        self._expiry = timers.call_at(timers.now_s() + max(0, at_ns - timers.wall_ns()) / NS, self._expire)

    _expiry_ns = 0

    def _expire(self) -> None:
        """Remove what is too old."""
        self._expiry = None
        now_ns, age, store = self.server.timers.wall_ns(), self.settings["max_age"], self.store
        next_ns: int | None = None
        if age:
            for one in store.from_on(0, ALL):
                if one.at_ns + age > now_ns + _SLACK_NS:
                    next_ns = one.at_ns + age
                    break
                if not (self.settings["allow_msg_ttl"] and header(one.head, b"Nats-TTL") == "never"):
                    self.remove(one.seq)
        while self._ends and self._ends[0][0] <= now_ns + _SLACK_NS:
            self.remove(heapq.heappop(self._ends)[1])
        if self._ends:
            next_ns = min(self._ends[0][0], next_ns or self._ends[0][0])
        if next_ns is not None:
            self._expire_at(next_ns)
        self.server.run_due()

    # its consumers

    def wanted_by(self, subject: str) -> list[Consumer]:
        """Return the consumers that want messages of a subject."""
        found = self._wanted_by.get(subject)
        if found is None:
            found = [one for one in self.consumers.values() if one.filter.wants(subject)]
            self._wanted_by[subject] = found
        return found

    def reassign(self) -> None:
        """Note that consumers came, went or want others; a stream of interest drops what nobody wants any more."""
        self._wanted_by.clear()
        if self.settings["retention"] == "interest":
            for seq in list(self.store.messages):
                self.settled(seq)

    def add_consumer(self, settings: Settings) -> Consumer:
        start = self._start_of(settings)
        consumer = self.consumers[settings["name"]] = Consumer(self, settings, start=start)
        self._wanted_by.clear()
        return consumer

    def _start_of(self, settings: Settings) -> int:
        store, policy = self.store, settings["deliver_policy"]
        first, after = max(1, store.first), store.last + 1
        if policy == "new":
            return after
        if policy == "by_start_sequence":
            return max(first, int(settings["opt_start_seq"]))
        if policy == "last":
            pattern = settings["filter_subject"] or ">"
            last = store.last_of(pattern)
            return after if last is None else last.seq
        return min(first, after)

    def delete_consumer(self, name: str) -> None:
        self.consumers.pop(name).delete()
        self.reassign()
        if self.settings["retention"] == "interest" and not self.consumers:
            self.store.begin_after()

    # its life

    def update(self, settings: Settings) -> None:
        """Change its settings. Raises: Refused."""
        check_stream_update(self.settings, settings)
        self.settings = settings
        self._wanted_by.clear()
        for subject in list(self.store.subjects):
            self._enforce(subject)
        if settings["max_age"] and self.store.messages:
            self._expire_at(self.store.messages[self.store.first].at_ns + settings["max_age"])

    def delete(self) -> None:
        for consumer in list(self.consumers.values()):
            consumer.delete()
        self.stop()

    def stop(self) -> None:
        """Forget what is in memory only."""
        self._batches.clear()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for consumer in self.consumers.values():
            consumer.stop()

    def resume(self) -> None:
        """Go on from what was kept on disk. Ids are known of those messages only that are still there."""
        self._duplicates = Duplicates()
        for one in self.store.messages.values():
            if one.head and (message_id := header(one.head, b"Nats-Msg-Id")) is not None:
                self._duplicates.add(message_id, one.seq, one.at_ns)
        for consumer in self.consumers.values():
            consumer.resume()
        self._expire()

    def message(self, seq: int) -> Stored:
        """Raises: Refused."""
        if (found := self.store.messages.get(seq)) is None:
            raise no_message()
        return found

    def told(self) -> dict[str, Any]:
        """Return what `STREAM.INFO` tells."""
        store = self.store
        first = store.messages.get(store.first)
        state: dict[str, Any] = {
            "messages": len(store),
            "bytes": store.bytes,
            "first_seq": store.first,
            "first_ts": ZERO if first is None else instant(first.at_ns),
            "last_seq": store.last,
            "last_ts": instant(self._last_ns) if self._last_ns else ZERO,
            "consumer_count": len(self.consumers),
        }
        if store.subjects:
            state["num_subjects"] = len(store.subjects)
        deleted = store.last - store.first + 1 - len(store) if store.messages else 0
        if deleted:
            state["num_deleted"] = deleted
        return {
            "config": stream_told(self.settings),
            "created": instant(self.created_ns),
            "state": state,
            "ts": instant(self.server.timers.wall_ns()),
        }
