"""Lets a schedule of faults happen to a simulated system."""

from collections.abc import Callable, Sequence

from broker.simulate.cast.gate import Trap
from broker.simulate.faults.kinds import Fault, FaultKind
from broker.simulate.system import Member, System
from broker.simulate.world.waiting import Snare
from broker.simulate.world.world import Process
from schemas import subjects
from schemas.job import Lane
from schemas.subjects import Source


class Faults:
    """Lets a schedule happen."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._world = system.world
        self.last_s = 0.0
        """When the last one is over."""

    def begin(self, schedule: Sequence[Fault]) -> None:
        for fault in schedule:
            self._world.call_at(fault.at_s, self._happen, fault)
            self.last_s = max(self.last_s, fault.at_s + fault.for_s)

    def _happen(self, fault: Fault) -> None:
        self._world.story.tell(f"* {fault}")
        for_s = float("inf") if fault.kind is FaultKind.SKEW else fault.for_s  # a clock stays wrong
        self._system.trouble(fault.who, for_s)
        self._system.happened.append(fault)
        getattr(self, f"_{fault.kind}")(fault)

    def _later(self, fault: Fault, call: Callable[[], object]) -> None:
        def end() -> None:
            self._world.story.tell(f"* {fault.kind} is over{fault.who and ' of ' + fault.who}")
            call()

        self._world.call_at(self._world.now_s() + fault.for_s, end)

    def _process(self, fault: Fault) -> Process | None:
        member = self._system.members.get(fault.who)
        process = (
            member.process if member else next((one for one in self._system.callers if one.name == fault.who), None)
        )
        return None if process is None or process.is_dead or process.is_over else process

    def _kill(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.fuse = int(fault.amount)

    def _kill_at_wait(self, fault: Fault) -> None:
        member = self._system.members.get(fault.who)
        if member is None:
            return

        def kill() -> None:
            if member.process is not None:
                member.process.die(f"it is killed at {fault.where}")
            if member.snare is snare:
                member.snare = None

        def leave() -> None:
            if member.snare is snare:
                self._leave(fault)

        snare = member.snare = Snare(fault.where, int(fault.amount), kill)
        if member.process is not None:
            member.process.snare = snare
        if fault.for_s:
            self._world.call_at(self._world.now_s() + fault.for_s, leave)

    def _stop(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.is_stopped = True
            self._later(fault, lambda: setattr(process, "is_stopped", False))

    def _stop_in_transaction(self, fault: Fault) -> None:
        self._trap(fault, self._stop)

    def _kill_in_transaction(self, fault: Fault) -> None:
        def kill(_: Fault) -> None:
            if (process := self._process(fault)) is not None:
                process.die("it is killed in a transaction")

        self._trap(fault, kill)

    def _trap(self, fault: Fault, spring: Callable[[Fault], object]) -> None:
        def sprung() -> None:
            self._world.story.tell(f"* {fault} happens")
            self._system.trouble(fault.who, fault.for_s)
            spring(fault)

        trap = Trap(fault.where, bool(fault.amount), sprung)
        self._system.database.traps[fault.who] = trap

    def _slow(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.pace = fault.amount
            self._later(fault, lambda: setattr(process, "pace", 1.0))

    def _skew(self, fault: Fault) -> None:
        member: Member | None = self._system.members.get(fault.who)
        if member is not None:
            member.skew_ms = int(fault.amount)
        if (process := self._process(fault)) is not None:
            process.skew_ms = int(fault.amount)
            if fault.who.startswith("worker"):
                self._leave(fault)  # it reads its clock as it starts

    def _cut(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            self._system.network.cut(process)
            self._system.web.cut(process)

    def _stall(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            self._system.network.stall(process)
            self._system.web.stall(process)

            def go_on() -> None:
                self._system.network.go_on(process)
                self._system.web.go_on(process)

            self._later(fault, go_on)

    def _nats_away(self, fault: Fault) -> None:
        self._system.network.server_ends()
        self._later(fault, self._system.network.server_starts)

    def _store_lost(self, fault: Fault) -> None:
        self._system.lose(None)
        self._system.network.server_ends()
        self._later(fault, self._system.network.server_starts)

    def _stream_lost(self, fault: Fault) -> None:
        self._system.lose(fault.who)

    def _forgetful(self, fault: Fault) -> None:
        self._system.network.forget(fault.who)

    def _twice(self, fault: Fault) -> None:
        self._system.network.deliver_again(fault.who)

    def _full(self, fault: Fault) -> None:
        self._system.network.fill(fault.who, late_s=fault.amount)
        self._later(fault, lambda: self._system.network.make_room(fault.who))

    def _postgres_away(self, fault: Fault) -> None:
        self._system.database.is_away = True
        self._later(fault, lambda: setattr(self._system.database, "is_away", False))

    def _postgres_fails(self, fault: Fault) -> None:
        self._system.database.failing = fault.amount
        self._later(fault, lambda: setattr(self._system.database, "failing", 0.0))

    def _postgres_slow(self, fault: Fault) -> None:
        self._system.database.slow = fault.amount
        self._later(fault, lambda: setattr(self._system.database, "slow", 1.0))

    def _files_away(self, fault: Fault) -> None:
        if (store := self._system.file_store) is not None:
            store.is_away = True
            self._later(fault, lambda: setattr(store, "is_away", False))

    def _files_fail(self, fault: Fault) -> None:
        if (store := self._system.file_store) is not None:
            store.failing = fault.amount
            self._later(fault, lambda: setattr(store, "failing", 0.0))

    def _leave(self, fault: Fault) -> None:
        member = self._system.members.get(fault.who)
        if (process := self._process(fault)) is None or member is None:
            return
        worker = getattr(member.life, "worker", None)
        if worker is not None:
            process.call_soon(worker.stop)
        elif fault.who.startswith("broker"):
            process.leave()

    def _rubbish(self, _: Fault) -> None:
        for subject in (
            subjects.submit(Source(Lane.BULK, "quick", subjects.DEFAULT, subjects.DEFAULT)),
            subjects.run("swift"),
            subjects.now("swift"),
            subjects.outcome("swift"),
            subjects.RULING,
            subjects.cancel_order("swift"),
            subjects.infer("quick", subjects.DEFAULT, subjects.DEFAULT),
        ):
            self._system.network.server.publish(subject, "", b"", b"\xc1 nobody can read this")
