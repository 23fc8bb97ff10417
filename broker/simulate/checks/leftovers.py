"""Compares what processes and servers hold once all is quiet with what they hold when nothing was ever asked of them."""

from collections import Counter
from collections.abc import Iterator

from broker.simulate.cast.workers import WorkerPlan
from broker.simulate.checks.held import held, held_by_server
from broker.simulate.system import Member, Size, System
from broker.simulate.world.story import Story
from broker.simulate.world.world import World

Idle = dict[str, dict[str, int]]
"""What is held, by kind of holder: the broker that leads, another one, the worker of a deployment, the server."""
LEADER, BROKER, SERVER = "leader", "broker", "server"
_IDLE_S = 20.0
"""How long until all of an idle system is there, and nothing changes any more."""
_LOOK_AGAIN_S = 3.0
_LOOKS = 12
"""How often to look again whether it was under way only. What announces and remembers for a while has time to forget."""
_OF_NOW = ("task ", "subscription ")
_REMEMBERED = frozenset({
    "BacklogReader._heads", "BacklogReader._rests", "Beats._alive", "Beats._known", "Cancels._ruled", "Cancels.heard",
    "Directory._proven", "Directory.keys", "FailureLog._counts", "FailureLog._last_s", "KeyRecord.models",
    "KeyWatch._let_in", "KeyWatch._uses", "Leases.released", "Order.lanes", "Order.routes", "Order.tenants",
    "Outstanding._rates", "Pace._per_s", "Pace._started", "Presence._here", "Presence.departed", "Principal.lanes",
    "Principal.models", "Relay._mourned", "Relay._recent", "Releases._answered", "Releases._noted",
    "Releases._reconnects", "Releases._wanted", "RequestSuspects._deaths", "Reserves._full_until", "Shares.counters",
    "SpendReading.today", "SpendReading.week", "SummedLog._last_s", "Sweep.ended", "Wanted._offers",
    "Wards._free_since", "Wards._ran_apart", "Wards._suspected", "Webhooks._failing", "message in INFERMQ_ADVISORY",
    "message in KV_INFERMQ_SUSPECTS",
})  # fmt: skip
"""What is remembered of the past on purpose. Each is bounded, in time or in number."""
_GOES_ON = frozenset({"Webhooks._on_their_way", "task Webhooks._deliver"})
"""What quiet does not wait for: an endpoint that does not answer is told again for days."""
_OF_OPEN_BATCHES = "Controls.cancelling", "Controls.stopped_batches"
_OF_METRICS = "BrokerMetrics.", "WorkerMetrics."


def leftovers(system: System, idle: Idle) -> list[str]:
    """List what is held too much, and still is when looked at again and again."""
    found = _found(system, idle)
    for _ in range(_LOOKS):
        if not found:
            break
        system.world.run(lambda: False, within_s=_LOOK_AGAIN_S)
        found &= _found(system, idle)
    return sorted(found)


def idle_system(seed: int = 0) -> Idle:
    """Let a system be idle that is as large as any, and list what it holds. In a process of its own, as a seed runs."""
    story = Story()
    story.listen()
    deployments = ("swift", "steady", "spare", "swift", "steady")
    plans = tuple(WorkerPlan(f"{name}-{number}", name, 1) for number, name in enumerate(deployments))
    system = System(World(seed, story), Size(brokers=2, workers=plans))
    system.begin()
    system.world.run(lambda: False, within_s=_IDLE_S)
    found: Idle = {SERVER: dict(held_by_server(system.network.server))}
    for member in system.members.values():
        if member.process is not None:
            has = held(system.network.server, member.process, with_noughts=True)
            found.setdefault(_kind(system, member), dict(has))
    led = {what: count for what, count in found[LEADER].items() if not what.startswith(_OF_NOW)}
    found[BROKER] = dict(Counter(found[BROKER]) | Counter(led))  # one that led may have kept what it knew
    return found


def _kind(system: System, member: Member) -> str:
    if not member.name.startswith(BROKER):
        return member.name.split("-")[1]
    leader = system.tables.leader.get(0)
    return LEADER if leader is not None and leader.holder == member.name else BROKER


def _found(system: System, idle: Idle) -> set[str]:
    server = system.network.server
    found = set(_more("the server", held_by_server(server), idle[SERVER]))
    for member in system.members.values():
        if member.process is not None:
            found.update(_more(member.name, held(server, member.process), idle[_kind(system, member)]))
    living = {one.name for one in system.world.processes if not one.is_over}
    found.update(
        f"the server has a connection of {one.name}, which is gone"
        for one in server.sessions
        if one.name not in living
    )
    found.update(f"a transaction holds {table} {key}" for table, key in system.tables.locks.held())
    if system.lost:  # a batch that lacks what was lost is open until it is cancelled, and for some minutes after that
        found = {what for what in found if not any(of in what for of in _OF_OPEN_BATCHES)}
    return found


def _more(who: str, has: Counter[str], idle: dict[str, int]) -> Iterator[str]:
    """Find what somebody has more of than when idle."""
    for what, count in has.items():
        is_meant = what in _REMEMBERED or what in _GOES_ON or what.startswith(_OF_METRICS)
        if count > idle.get(what, 0) and not is_meant:
            yield f"{who} still has {count} × {what}, and {idle.get(what, 0)} when idle"
