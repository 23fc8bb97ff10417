"""A pull consumer: what it has delivered, what waits for an acknowledgement, and what is delivered again."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from broker.simulate.nats.pulls import SLACK_S, BadPull, Pull, Waiting, pull_of
from broker.simulate.nats.settings import Settings, check_consumer_update, consumer_told, filters_of
from broker.simulate.nats.store import Filter, Stored
from broker.simulate.nats.times import NS, duration_ns, instant
from broker.simulate.nats.wire import status
from broker.simulate.timers import Handle

if TYPE_CHECKING:
    from broker.simulate.nats.stream import Stream

_ACK_DELAY_S = 0.001
"""The server waits so much longer than a lease, so that what ends together is looked at together."""
_NAK_LOOK_S = 0.01
_UPDATE_LOOK_S = 0.1
_RESTART_LOOK_S = 0.5
"""How soon, and up to a second later, a consumer that was read from disk looks after its leases."""
_UNACKED = "Unacknowledged message was deleted"


@dataclass(slots=True, eq=False)
class Lease:
    """A message that was delivered and is not acknowledged."""

    delivery: int
    """The number of its first delivery."""
    at_s: float


@dataclass(slots=True, eq=False)
class Progress:
    """What the server keeps of a consumer on disk."""

    next_seq: int
    delivered: int
    """The last message of the stream that was delivered."""
    floor: int
    """All messages up to this one are acknowledged."""
    written_floor: int
    """The floor as it is on disk, which skips nothing that was not delivered."""
    next_delivery: int = 1
    floor_delivery: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)
    again: dict[int, int] = field(default_factory=dict)
    """How often a message was delivered again."""


class Redeliveries:
    """The messages to be delivered again, in their order."""

    def __init__(self) -> None:
        self._queue: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, seq: int) -> bool:
        return seq in self._queue

    def add(self, seq: int) -> None:
        self._queue[seq] = None

    def next(self) -> int:
        seq = next(iter(self._queue))
        del self._queue[seq]
        return seq

    def remove(self, seq: int) -> None:
        self._queue.pop(seq, None)

    def clear(self) -> None:
        self._queue.clear()


class Consumer:
    def __init__(self, stream: "Stream", settings: Settings, *, start: int) -> None:
        self._stream = stream
        self._server = stream.server
        self._timers = stream.server.timers
        self.name: str = settings["name"]
        self.created_ns = self._timers.wall_ns()
        self.progress = Progress(start, start - 1, start - 1, start - 1)
        self.redeliveries = Redeliveries()
        self.waiting = Waiting(settings["max_waiting"], has_interest=stream.server.interest.has, say=self._say)
        self._look: Handle | None = None
        """When to look after the pulls."""
        self._look_s = 0.0
        self._check: Handle | None = None
        """When to look after the leases."""
        self._check_s = 0.0
        self._is_open = True
        self._use(settings)

    def __repr__(self) -> str:
        return f"Consumer({self._stream.name}.{self.name}, leases={len(self.progress.leases)})"

    def _use(self, settings: Settings) -> None:
        self.settings = settings
        self.filter = Filter(filters_of(settings))
        self._acks = settings["ack_policy"] != "none"
        self._ack_wait_s = settings["ack_wait"] / NS
        self._most_leases: int = settings["max_ack_pending"]
        self._most_deliveries = max(0, settings["max_deliver"])
        self._ack_head = f"$JS.ACK.{self._stream.name}.{self.name}."
        self.pending = self._stream.store.count(self.progress.next_seq, self.filter)
        """How many messages it has still to deliver. The stream counts what it stores."""

    # pulls

    def pull(self, request: bytes, reply: str) -> None:
        """Take a request for messages."""
        now_s = self._timers.now_s()
        try:
            pull = pull_of(request, reply, now_s)
        except BadPull as error:
            self._say(reply, status(400, f"Bad Request - {error}"))
            return
        if self.waiting.is_full:
            self.waiting.look(now_s, at_end=False)
        if pull.no_wait and self._is_refused_at_once(pull, now_s):
            return
        if self.waiting.is_full:
            if not pull.heartbeat_s:  # else the client will notice that none comes
                self._say(reply, status(409, "Exceeded MaxWaiting"))
            return
        self.waiting.add(pull)
        for when in (pull.next_beat_s, pull.expires_s):
            if when is not None:
                self._look_at(when)
        self.pump()

    def _is_refused_at_once(self, pull: Pull, now_s: float) -> bool:
        there = max(0, self.pending) + len(self.redeliveries)
        if not there and pull.expires_s is None:
            self._say(pull.reply, status(404, "No Messages"))
            return True
        if there:
            self.waiting.look(now_s, at_end=False)
            if there < self.waiting.wanted:
                self._say(pull.reply, status(408, "Requests Pending"))
                return True
        return False

    def pump(self) -> None:
        """Deliver what there is to those that wait."""
        now_s = self._timers.now_s()
        is_stalled = False
        while self.waiting and self._is_open:
            found = self._next()
            if found is None:
                is_stalled = self._is_full()
                break
            if not self._deliver(*found, now_s):
                break
        if self.waiting.has_hasty:
            self.waiting.look(now_s, at_end=not is_stalled)

    def _is_full(self) -> bool:
        return self._acks and 0 < self._most_leases <= len(self.progress.leases)

    def _next(self) -> tuple[Stored, int] | None:
        """Return the next message and how often it will have been delivered then."""
        while self.redeliveries:
            seq = self.redeliveries.next()
            count = self._counted_again(seq)
            if count is not None:
                stored = self._stream.store.messages.get(seq)
                if stored is not None:
                    return stored, count
                self._uncount(seq)
                if (lease := self.progress.leases.get(seq)) is not None:
                    self._terminated(seq, lease.delivery, count - 1, _UNACKED)
        if self._is_full():
            return None
        stored = self._stream.store.next(self.progress.next_seq, self.filter)
        if stored is None:
            self.progress.next_seq = max(self.progress.next_seq, self._stream.store.last + 1)
            return None
        self.progress.next_seq = stored.seq + 1
        return stored, 1

    def _counted_again(self, seq: int) -> int | None:
        """Count a delivery more, and return how many there will have been. None: there were enough."""
        state = self.progress
        state.again[seq] = state.again.get(seq, 0) + 1
        count = state.again[seq] + 1
        if not self._most_deliveries or count <= self._most_deliveries:
            return count
        if count == self._most_deliveries + 1:
            self._advise_exceeded(seq, count - 1)
        if (lease := state.leases.pop(seq, None)) is not None:
            self._move_floor(lease.delivery, seq)
        return None

    def _deliver(self, stored: Stored, count: int, now_s: float) -> bool:
        """Send a message to whose turn it is. False: nobody can have it now."""
        state = self.progress
        if count == 1:
            self.pending -= 1
        delivery = state.next_delivery
        left = max(0, self.pending)
        ack = f"{self._ack_head}{count}.{stored.seq}.{delivery}.{stored.at_ns}.{left}"
        pull = self.waiting.take(len(stored.subject) + len(ack) + len(stored.head) + len(stored.data), now_s)
        if pull is None:
            self._put_back(stored.seq, count)
            return False
        state.next_delivery = delivery + 1
        state.delivered = max(state.delivered, stored.seq)
        if self._acks:
            self._lease(stored.seq, delivery, now_s)
        else:
            state.floor_delivery, state.floor, state.written_floor = delivery, stored.seq, stored.seq
        self._server.deliver(pull.reply, stored.subject, ack, stored.head, stored.data)
        if pull.left <= 0:
            if pull.bytes > 0:
                self._say(pull.reply, status(409, "Batch Completed", pull.pending()))
        elif pull.heartbeat_s:
            pull.next_beat_s = now_s + pull.heartbeat_s
        if not self._acks:
            self._stream.settled(stored.seq)
        return True

    def _put_back(self, seq: int, count: int) -> None:
        state = self.progress
        if count == 1 and seq == state.next_seq - 1:
            state.next_seq -= 1
            self.pending += 1
        elif seq not in self.redeliveries:
            self._uncount(seq)
            self.redeliveries.add(seq)

    def _uncount(self, seq: int) -> None:
        """Take back that a message was delivered again."""
        again = self.progress.again
        again[seq] -= 1
        if not again[seq]:
            del again[seq]

    def _lease(self, seq: int, delivery: int, now_s: float) -> None:
        lease = self.progress.leases.get(seq)
        if lease is None:
            self.progress.leases[seq] = Lease(delivery, now_s)
        else:
            lease.at_s = now_s
        due_s = now_s + self._ack_wait_s + _ACK_DELAY_S
        if self._check is None or self._check_s > due_s:
            self._check_at(due_s)

    # the times of pulls

    def _look_at(self, when_s: float) -> None:
        if self._look is None or when_s < self._look_s:
            if self._look is not None:
                self._look.cancel()
            self._look, self._look_s = self._timers.call_at(when_s, self._look_now), when_s

    def _look_now(self) -> None:
        self._look = None
        now_s, state = self._timers.now_s(), self.progress
        next_s = self.waiting.look(now_s, at_end=True)
        beat_s = self.waiting.beat(
            now_s, {"Nats-Last-Consumer": state.next_delivery - 1, "Nats-Last-Stream": state.next_seq - 1}
        )
        for when in (next_s, beat_s):
            if when is not None:
                self._look_at(when)
        self._server.run_due()

    # acknowledgements

    def answered(self, answer: bytes, facts: tuple[int, int, int], reply: str) -> None:
        """Take the answer to a message: the delivery's count, the message's sequence, and the number of the delivery."""
        count, seq, delivery = facts
        is_done = True
        if answer in (b"+ACK", b"", b"+OK"):
            is_done = self._acked(seq)
        elif answer.startswith(b"+NXT"):
            self._acked(seq)
            self.pull(answer[4:], reply)
            is_done = False
        elif answer.startswith(b"-NAK"):
            self._nacked(seq, delivery, count, answer[4:].strip())
        elif answer == b"+WPI":
            self._extended(seq)
        elif answer.startswith(b"+TERM"):
            is_done = self._terminated(seq, delivery, count, answer[5:].strip().decode(errors="replace"))
        if reply and seq and is_done:
            self._server.deliver(reply, reply, "", b"", b"")

    def _acked(self, seq: int) -> bool:
        state = self.progress
        if seq >= state.next_seq or not self._is_open:
            return False
        if not self._acks:
            return True
        was_full = self._is_full()
        if (lease := state.leases.pop(seq, None)) is not None:
            self._move_floor(lease.delivery, seq)
        state.again.pop(seq, None)
        self.redeliveries.remove(seq)
        self._stream.settled(seq)
        if lease is not None and was_full:
            self.pump()
        return True

    def _move_floor(self, delivery: int, seq: int) -> None:
        state = self.progress
        if not state.leases:
            state.floor_delivery, state.floor = state.next_delivery - 1, state.next_seq - 1
            state.written_floor = state.delivered
        elif delivery == state.floor_delivery + 1:
            state.floor_delivery, state.floor = delivery, seq
            for after in range(seq + 1, state.next_seq):
                if (lease := state.leases.get(after)) is not None:
                    state.floor_delivery, state.floor = lease.delivery - 1, after - 1
                    break
            state.written_floor = state.floor

    def _nacked(self, seq: int, delivery: int, count: int, delay: bytes) -> None:
        state = self.progress
        if not state.floor_delivery < delivery <= state.next_delivery or seq not in state.leases:
            return
        self._advise("MSG_NAKED", "nak", consumer_seq=delivery, stream_seq=seq, deliveries=count)
        if (after_ns := _delay_ns(delay)) is not None:
            self.redeliveries.remove(seq)
            now_s = self._timers.now_s()
            state.leases[seq].at_s = now_s - self._ack_wait_s + after_ns / NS
            self._check_at(now_s + _NAK_LOOK_S)
            return
        if seq not in self.redeliveries:
            self.redeliveries.add(seq)
        self.pump()

    def _extended(self, seq: int) -> None:
        if (lease := self.progress.leases.get(seq)) is not None:
            lease.at_s = self._timers.now_s()

    def _terminated(self, seq: int, delivery: int, count: int, reason: str) -> bool:
        is_done = self._acked(seq)
        told = {"reason": reason} if reason else {}
        self._advise("MSG_TERMINATED", "terminated", consumer_seq=delivery, stream_seq=seq, deliveries=count, **told)
        return is_done

    # leases

    def _check_at(self, when_s: float) -> None:
        if self._check is not None:
            self._check.cancel()
        self._check, self._check_s = self._timers.call_at(when_s, self._check_now), when_s

    def _check_now(self) -> None:
        """Have what was not acknowledged in time delivered again."""
        self._check = None
        now_s, state = self._timers.now_s(), self.progress
        next_s = self._ack_wait_s + _ACK_DELAY_S
        ended: list[int] = []
        for seq, lease in list(state.leases.items()):
            if seq < self._stream.store.first or seq <= state.floor:
                self._forget(seq, lease)
                continue
            left_s = lease.at_s + self._ack_wait_s - now_s
            if left_s > SLACK_S:
                next_s = min(next_s, left_s)
            elif seq not in self.redeliveries and not self._has_enough(seq):
                ended.append(seq)
        self._again(sorted(ended), now_s)
        if state.leases:
            self._check_at(now_s + next_s)
        else:
            self.redeliveries.clear()
            state.floor_delivery, state.floor = state.next_delivery - 1, state.next_seq - 1
        if ended:
            self.pump()
        self._server.run_due()

    def _again(self, seqs: list[int], now_s: float) -> None:
        """Queue these, and move their times on so that they keep their order should they end once more."""
        if not seqs:
            return
        later_s = now_s - self.progress.leases[seqs[0]].at_s
        for seq in seqs:
            self.redeliveries.add(seq)
            self.progress.leases[seq].at_s += later_s

    def _forget(self, seq: int, lease: Lease) -> None:
        state = self.progress
        del state.leases[seq]
        state.again.pop(seq, None)
        self.redeliveries.remove(seq)
        state.floor = max(state.floor, seq)
        state.floor_delivery = max(state.floor_delivery, lease.delivery)

    def _has_enough(self, seq: int) -> bool:
        """Give a message up that was delivered as often as it may be."""
        state, count = self.progress, max(1, self.progress.again.get(seq, 0) + 1)
        if not self._most_deliveries or count < self._most_deliveries:
            return False
        if count == self._most_deliveries:
            self._advise_exceeded(seq, count)
        was_full = self._is_full()
        lease = state.leases.pop(seq)
        self._move_floor(lease.delivery, seq)
        state.again[seq] = count
        if was_full:
            self._server.due(self.pump)
        return True

    # what the stream tells

    def gone(self, stored: Stored) -> None:
        """Note that a message which it wants has left the stream."""
        state, seq = self.progress, stored.seq
        if seq >= state.next_seq:
            self.pending -= 1
        if (lease := state.leases.get(seq)) is not None:
            count = max(1, state.again.get(seq, 0) + 1)
            self._server.due(self._terminated, seq, lease.delivery, count, _UNACKED)
        else:
            state.again.pop(seq, None)

    def purged(self, stored: Stored) -> None:
        """Note that a message which it wants was purged: nobody is told."""
        state, seq = self.progress, stored.seq
        if seq >= state.next_seq:
            self.pending -= 1
        if (lease := state.leases.pop(seq, None)) is not None:
            self._move_floor(lease.delivery, seq)
        state.again.pop(seq, None)
        self.redeliveries.remove(seq)

    def needs(self, seq: int) -> bool:
        """Say whether a message that it wants must stay for it."""
        state = self.progress
        if seq in state.again:
            return True
        if seq <= state.floor:
            return False
        return not self._acks or seq >= state.next_seq or seq in state.leases

    # its life

    def update(self, settings: Settings) -> None:
        """Change its settings. Raises: Refused."""
        check_consumer_update(self.settings, settings)
        before, self_filter = self.settings, self.filter.patterns
        self._use(settings)
        if before["ack_wait"] != settings["ack_wait"] and self._check is not None:
            self._check_at(self._timers.now_s() + _UPDATE_LOOK_S)
        if self.filter.patterns != self_filter:
            self._stream.reassign()
        self.pump()

    def delete(self) -> None:
        self.waiting.end(409, "Consumer Deleted", with_pending=False)
        self.stop()

    def stop(self) -> None:
        """Forget what is in memory only: the pulls, and what was to be delivered again."""
        self._is_open = False
        for handle in (self._look, self._check):
            if handle is not None:
                handle.cancel()
        self._look = self._check = None
        self.waiting.forget()
        self.redeliveries.clear()

    def resume(self) -> None:
        """Go on from what was kept on disk."""
        self._is_open = True
        state = self.progress
        state.next_seq = state.delivered + 1
        self._use(self.settings)
        if state.leases:
            look_s = _RESTART_LOOK_S + self._server.unit()
            self._check_at(self._timers.now_s() + min(look_s, self._ack_wait_s + _ACK_DELAY_S))

    def restart(self) -> None:
        """Lose what it knows of its deliveries: everything that is still in the stream comes as for the first time."""
        self.redeliveries.clear()
        start = max(1, self._stream.store.first)
        self.progress = Progress(start, start - 1, start - 1, start - 1)
        self._use(self.settings)
        self.pump()

    def deliver_again(self, seq: int) -> None:
        """Deliver a message again although its lease is not over."""
        if seq in self.progress.leases and seq not in self.redeliveries:
            self.redeliveries.add(seq)
            self.pump()

    def told(self) -> dict[str, Any]:
        """Return what `CONSUMER.INFO` tells."""
        state = self.progress
        self.waiting.look(self._timers.now_s(), at_end=False)
        return {
            "stream_name": self._stream.name,
            "name": self.name,
            "created": instant(self.created_ns),
            "config": consumer_told(self.settings),
            "delivered": {"consumer_seq": state.next_delivery - 1, "stream_seq": self._told_delivered()},
            "ack_floor": {
                "consumer_seq": state.floor_delivery,
                "stream_seq": state.written_floor,
            },
            "num_ack_pending": len(state.leases),
            "num_redelivered": 0 if self._most_deliveries == 1 else len(state.again),
            "num_waiting": len(self.waiting),
            "num_pending": max(0, self.pending),
            "ts": instant(self._timers.wall_ns()),
        }

    def _told_delivered(self) -> int:
        """Return the last message that was delivered. In memory, the server tells up to where it has looked until one is."""
        is_new = self.progress.delivered == 0 and self._stream.settings["storage"] == "memory"
        return self.progress.next_seq - 1 if is_new else self.progress.delivered

    def _advise_exceeded(self, seq: int, count: int) -> None:
        self._advise("MAX_DELIVERIES", "max_deliver", stream_seq=seq, deliveries=count)

    def _advise(self, what: str, kind: str, **facts: object) -> None:
        self._server.advise(
            f"$JS.EVENT.ADVISORY.CONSUMER.{what}.{self._stream.name}.{self.name}",
            {
                "type": f"io.nats.jetstream.advisory.v1.{kind}",
                "stream": self._stream.name,
                "consumer": self.name,
                **facts,
            },
        )

    def _say(self, inbox: str, head: bytes) -> None:
        self._server.deliver(inbox, inbox, "", head, b"")


def _delay_ns(text: bytes) -> int | None:
    """Read after how long a message that was turned back is to come again. None: at once."""
    if not text:
        return None
    if text.startswith(b"{"):
        try:
            return int(msgspec.json.decode(text, type=dict[str, int]).get("delay", 0))
        except msgspec.DecodeError:
            return None
    return duration_ns(text.decode(errors="replace"))
