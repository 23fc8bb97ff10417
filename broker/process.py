"""Puts the parts of one broker process together: doors, use-cases and roles, out of what the process is given.

Nothing here knows a clock, chance, a socket or a database: `broker.serve` gives it those of a machine.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from broker.bus.beats import Beats
from broker.bus.catalogs import Catalogs
from broker.bus.connections import Connections
from broker.bus.dead_letters import publish_again
from broker.bus.directories import NatsDirectories
from broker.bus.notices import announce_instruction
from broker.bus.request_suspects import SuspectBucket
from broker.bus.results import hearing_job, hearing_results
from broker.bus.runs import Rulings, Runs
from broker.bus.seal_keys import NatsSealKeys
from broker.bus.streams import NatsStreams
from broker.bus.submissions import store
from broker.bus.submitted import SubmittedJobs
from broker.config import BrokerConfig, BrokerRole
from broker.core.keys import KeyName
from broker.core.line import Depth
from broker.core.nats_keys import NatsKeys
from broker.core.pools import Pool, alive, snapshot, withheld
from broker.core.principal import Identify, let_in, open_door
from broker.core.readiness import streams_part
from broker.core.request_suspects import RequestSuspects
from broker.core.seals import KEY_BYTES
from broker.core.webhooks import SECRET_BYTES as WEBHOOK_SECRET_BYTES
from broker.doors.health import App, build_app
from broker.doors.http.app import Front
from broker.doors.nats_infer import NatsInfer
from broker.doors.requests import Requests
from broker.errors import Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import Clock, Entropy, Ledger, StreamAdmin
from broker.retrying import until_available
from broker.roles.advisories import Advisories
from broker.roles.batch_cancels import BatchCancels
from broker.roles.callout import Callout
from broker.roles.cancels import Cancels
from broker.roles.catalog_refresh import CatalogRefresh
from broker.roles.controls_watch import ControlsWatch
from broker.roles.daily_spend import DailySpend
from broker.roles.dispatch import Dispatch
from broker.roles.failure_log import FailureLog
from broker.roles.files import EVERY_S, FileDrop
from broker.roles.gauges import Gauges
from broker.roles.instructions import Instructions
from broker.roles.intake import Intake
from broker.roles.key_watch import KeyWatch
from broker.roles.late_acks import LateAcks
from broker.roles.leader import Leader
from broker.roles.parking import Parking
from broker.roles.reconcile import Reconcile
from broker.roles.relay import Relay
from broker.roles.releases import Releases
from broker.roles.reserves import Reserves
from broker.roles.restarting import Roles
from broker.roles.seal_key import SealKey
from broker.roles.settle import Settle
from broker.roles.sweep import Sweep
from broker.roles.tasks import Tasks
from broker.roles.upkeep import Upkeep
from broker.roles.wards import Wards
from broker.roles.webhooks import Post, Webhooks
from broker.service import (
    BatchService,
    CancelService,
    CatalogService,
    ChangeService,
    ControlService,
    DeadLetterService,
    FileBatchService,
    FileService,
    HealthService,
    InstructionService,
    JobService,
    KeyService,
    RepeatService,
    Services,
    SingleJobService,
    StatusService,
    SubmissionService,
    TenantService,
    WebhookService,
)
from schemas.api import Problem
from schemas.api_keys import SECRET_BYTES
from schemas.catalog import Catalog
from schemas.health import Part
from schemas.ids import uuid7
from schemas.jetstream import NatsConnection
from schemas.job import Lane
from schemas.urls import public

log = logging.getLogger(__name__)
_SEALING = frozenset({"settle", "interactive", "dispatch"})
"""The roles that begin once the key for seals is known."""
_INTAKES = {lane: f"intake {lane}" for lane in Lane}
"""The role that admits the jobs of each lane."""
_REFUSING = frozenset({*_SEALING, *_INTAKES.values(), "instructions"})
"""Those that begin once the catalog is known: a job that they refuse for want of it would stay refused."""
_DOORS = {BrokerRole.HTTP: ("http",), BrokerRole.NATS: ("infer", "api"), BrokerRole.INTAKE: ("submit",)}
"""The doors that each role is."""


class Api(Protocol):
    def __call__(self, services: Services, identify: Identify) -> AbstractAsyncContextManager[object]:
        """Answer calls over NATS while the block runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a broker process has of the world around it, beside its ledger and its connections."""

    clock: Clock
    now_s: Callable[[], float]
    """A steady clock."""
    entropy: Entropy
    unit: Callable[[], float]
    """A number at random from 0 to 1, which it never is."""
    secret: Callable[[int], bytes]
    """So many random bytes that nobody can guess."""
    message_ids: Callable[[], str]
    """Another id at each call, unique among all processes."""
    version: str
    """Of this software."""
    api: Api
    posting: Callable[[], AbstractAsyncContextManager[Post]]
    """Sends messages to webhooks while the block runs."""


@dataclass(frozen=True, slots=True)
class BrokerConnections:
    """The connections to NATS of a broker, by account. They may not be connected yet."""

    nc: NatsConnection
    doors: NatsConnection
    """In the tenants' account. Without keys it is `nc`."""
    system: NatsConnection | None = None
    """In the servers' own account. None: there are no keys."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is done again and again is done, in seconds."""

    refresh_s: float
    later_s: float
    reconcile_s: float
    drop_s: float = EVERY_S
    """Between two looks for files that can be dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Puts the parts of a broker process together, out of what they share."""

    config: BrokerConfig
    outside: Outside
    nc: NatsConnection
    doors: NatsConnection
    """Where callers are: a connection in the tenants' account. Without keys it is `nc`."""
    system: NatsConnection | None
    """A connection in the servers' own account, through which connections are ended. None: there are no keys."""
    nats_keys: NatsKeys | None
    """None: whoever reaches NATS may do everything."""
    streams: StreamAdmin
    ledger: Ledger
    catalogs: Catalogs
    beats: Beats
    daily_spend: DailySpend
    controls: ControlsWatch
    metrics: BrokerMetrics
    roles: Roles
    rulings: Rulings
    seal_key: SealKey
    keys: KeyWatch
    identify: Identify
    """Says who calls. Every door asks here."""
    front: Front
    """The API over HTTP."""
    reconnected: asyncio.Event
    remade: asyncio.Event
    """Set by reconcile when a stream of attempts or outcomes was made anew, and read by dispatch."""
    pace: Pace

    def app(self) -> App:
        """Build the HTTP application, which answers while NATS and Postgres are still away."""
        health = HealthService(
            name=self.config.name,
            nats=self._nats,
            ledger=self.ledger.status,
            catalogs=self.catalogs,
            roles=lambda: self.roles.states,
            others={"streams": lambda: streams_part(self.streams.kept), "seal key": self.seal_key.part},
            doors={door for role in self.config.roles for door in _DOORS.get(role, ())},
        )
        return build_app(self.metrics.registry, health)

    def _nats(self) -> Part:
        is_there = self.nc.is_connected and self.doors.is_connected
        return Part(ok=True) if is_there else Part(ok=False, why=f"away: {public(self.config.nats_url)}")

    async def run(self, ready: Callable[[], None]) -> None:
        """Answer callers once the beats and the active catalog are known; then run every role until cancelled."""
        reconcile = Reconcile(
            streams=self.streams,
            catalogs=self.catalogs,
            pools=self._pools,
            lease_s=self.config.lease_s,
            metrics=self.metrics,
            reconnected=self.reconnected,
            remade=self.remade,
            every_s=self.pace.reconcile_s,
        )
        await reconcile.look()
        await self.catalogs.listen()
        await self.beats.listen()
        refresh = CatalogRefresh(
            ledger=self.ledger.catalogs, catalogs=self.catalogs, metrics=self.metrics, every_s=self.pace.refresh_s
        )
        with contextlib.suppress(Unavailable):  # then the role finds it
            await refresh.refresh()
        with contextlib.suppress(Unavailable):
            await self.seal_key.learn()
        with contextlib.suppress(Unavailable):
            await self.keys.learn()
        callout = self._callout()
        self._heed_ended_keys(callout)
        roles = {"streams": reconcile.serve, "catalog": refresh.serve, **self._roles()}
        roles |= {} if callout is None else {"callout": callout.serve}
        services = self._services()
        async with self._api(services), self.front.serving(services), asyncio.TaskGroup() as group:
            for name, role in roles.items():
                group.create_task(self.roles.keep(name, role, once=partial(self._needs_known, name)))
            group.create_task(until_available(self.ledger.stores.current))  # so that the log says if it is away
            if callout is not None:
                await callout.listening.wait()  # who connects now is let in by us, perhaps by nobody else
            ready()

    async def _needs_known(self, role: str) -> None:
        """Wait until all is known that a role needs to begin."""
        if role in _SEALING:
            await self.seal_key.known()
        if role in _REFUSING:
            await self.catalogs.known()

    def _api(self, services: Services) -> AbstractAsyncContextManager[object]:
        if BrokerRole.NATS not in self.config.roles:
            return contextlib.nullcontext()
        return self.outside.api(services, self.identify)

    def _roles(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what each role does, by its name."""
        late_acks = LateAcks(self.nc, beats=self.beats.alive, later_s=self.pace.later_s)
        settle = Settle(
            nc=self.nc,
            late_acks=late_acks,
            seal_key=self.seal_key,
            ledger=self.ledger.settlement,
            dead_letters=self.ledger.dead_letters,
            attempts=self.ledger.attempts,
            spend=self.ledger.spend,
            revision=lambda: self.catalogs.active,
            alive=lambda: alive(self._pools()),
            clock=self.outside.clock,
            unit=self.outside.unit,
            metrics=self.metrics,
            failures=FailureLog(now_s=self.outside.now_s),
        )
        gauges = Gauges(
            ledger=self.ledger.status,
            pools=self._pools,
            metrics=self.metrics,
            clock=self.outside.clock,
            every_s=self.pace.refresh_s,
        )
        selectable: dict[BrokerRole, dict[str, Callable[[], Awaitable[None]]]] = {
            BrokerRole.INTAKE: self._intakes(),
            BrokerRole.DISPATCH: {"dispatch": self._dispatch},
            BrokerRole.SETTLE: {"settle": settle.serve, "late acks": late_acks.serve},
            BrokerRole.UPKEEP: self._upkeep(),
            BrokerRole.WEBHOOKS: {"webhooks": self._webhooks},
            BrokerRole.HTTP: {"interactive": self._interactive},
            BrokerRole.NATS: {"interactive": self._interactive},
        }
        chosen = {name: role for one in self.config.roles for name, role in selectable[one].items()}
        return {
            **chosen,
            "seal key": self.seal_key.serve,
            "keys": self.keys.serve,
            "beats": self.beats.watch,
            "daily spend": self.daily_spend.serve,
            "controls": self.controls.serve,
            "gauges": gauges.serve,
        }

    def _upkeep(self) -> dict[str, Callable[[], Awaitable[None]]]:
        instructions = Instructions(
            nc=self.nc, ledger=self.ledger.instructions, metrics=self.metrics, clock=self.outside.clock
        )
        upkeep = Upkeep(
            days=self.ledger.days, retention=self.ledger.retention, keep=self.config.keep, clock=self.outside.clock
        )
        advisories = Advisories(nc=self.nc, ledger=self.ledger.dead_letters, metrics=self.metrics)
        files = FileDrop(
            ledger=self.ledger.files,
            stores=self.ledger.stores,
            clock=self.outside.clock,
            every_s=self.pace.drop_s,
        )
        return {
            "advisories": advisories.serve,
            "instructions": instructions.serve,
            "upkeep": upkeep.serve,
            "files": files.serve,
        }

    async def _webhooks(self) -> None:
        async with self.outside.posting() as post:
            webhooks = Webhooks(
                ledger=self.ledger.deliveries,
                post=post,
                metrics=self.metrics,
                clock=self.outside.clock,
                unit=self.outside.unit,
            )
            await webhooks.serve()

    def _callout(self) -> Callout | None:
        """Make the role that says who may connect to NATS, if servers ask."""
        if self.nats_keys is None or self.system is None:
            log.warning("no keys are asked for: whoever reaches NATS may do everything (infermq nats-config)")
            return None
        return Callout(
            nc=self.nc,
            doors=self.doors,
            connections=Connections(self.system),
            keys=self.nats_keys,
            identify=self.keys.identify_text,
            clock=self.outside.clock,
            answered=self.metrics.connection_answered,
        )

    def _heed_ended_keys(self, callout: Callout | None) -> None:
        """End what callers have open whose keys are let in no more."""
        tasks = Tasks() if callout is None else callout.tasks

        def shut_out(names: frozenset[KeyName]) -> None:
            why = self._why_ended(names)
            if callout is not None:
                callout.end(why)
            tasks.check()
            tasks.spawn(self.front.shut_out(why))

        self.keys.shut_out = shut_out

    def _why_ended(self, names: Iterable[KeyName]) -> dict[KeyName, Problem]:
        why = {name: self.keys.directory.identify(*name, self.outside.clock()) for name in names}
        return {name: problem for name, problem in why.items() if isinstance(problem, Problem)}

    def _intakes(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            name: Intake(
                nc=self.nc,
                ledger=self.ledger.intake,
                dead_letters=self.ledger.dead_letters,
                identify=self.identify,
                catalog=self._catalog,
                metrics=self.metrics,
                lane=lane,
            ).serve
            for lane, name in _INTAKES.items()
        }

    def _services(self) -> Services:
        clock, entropy = self.outside.clock, self.outside.entropy
        submissions, jobs = SubmissionService(store=partial(store, self.nc)), self._job_service()
        repeats = RepeatService(
            retries=self.ledger.retries,
            replays=self.ledger.replays,
            catalogs=self.catalogs,
            tell=partial(announce_instruction, self.nc),
            clock=clock,
            entropy=entropy,
        )
        return Services(
            batches=self._batch_service(),
            files=self._file_service(),
            file_batches=FileBatchService(
                ledger=self.ledger.file_batches,
                webhooks=self.ledger.webhooks,
                tell=partial(announce_instruction, self.nc),
                repeats=repeats,
                clock=clock,
                entropy=entropy,
            ),
            cancels=self._cancel_service(),
            changes=self._change_service(),
            jobs=jobs,
            repeats=repeats,
            instructions=InstructionService(ledger=self.ledger.instructions),
            catalogs=CatalogService(
                ledger=self.ledger.catalogs, status=self.ledger.status, catalogs=self.catalogs, clock=clock
            ),
            controls=self._control_service(),
            dead_letters=self._dead_letter_service(),
            tenants=TenantService(
                ledger=self.ledger.tenants, announce=self.keys.announce, clock=clock, entropy=entropy
            ),
            keys=self._key_service(),
            webhooks=self._webhook_service(),
            submissions=submissions,
            single_jobs=self._single_jobs(submissions, jobs),
            status=StatusService(
                name=self.config.name,
                version=self.outside.version,
                ledger=self.ledger.status,
                catalogs=self.catalogs,
                beats=self.beats,
                pools=self._pools,
                controls=lambda: self.controls.active,
                clock=clock,
            ),
        )

    def _single_jobs(self, submissions: SubmissionService, jobs: JobService) -> SingleJobService:
        return SingleJobService(
            submissions=submissions,
            jobs=jobs,
            ledger=self.ledger.jobs,
            hearing=partial(hearing_job, self.nc),
            catalog=self._catalog,
            clock=self.outside.clock,
            entropy=self.outside.entropy,
        )

    def _file_service(self) -> FileService:
        return FileService(
            ledger=self.ledger.files,
            stores=self.ledger.stores,
            file_batches=self.ledger.file_batches,
            clock=self.outside.clock,
            entropy=self.outside.entropy,
        )

    def _cancel_service(self) -> CancelService:
        return CancelService(
            nc=self.nc,
            ledger=self.ledger.cancels,
            submitted=SubmittedJobs(self.nc),
            orders=self.ledger.cancel_orders,
            batches=self.ledger.batches,
            catalog=self._catalog,
            announce=self.controls.announce,
            tell=partial(announce_instruction, self.nc),
            metrics=self.metrics,
            clock=self.outside.clock,
            entropy=self.outside.entropy,
        )

    def _batch_service(self) -> BatchService:
        return BatchService(
            ledger=self.ledger.batches,
            webhooks=self.ledger.webhooks,
            clock=self.outside.clock,
            hearing=partial(hearing_results, self.nc),
            controls=lambda: self.controls.active,
        )

    def _key_service(self) -> KeyService:
        return KeyService(
            ledger=self.ledger.api_keys,
            announce=self.keys.announce,
            clock=self.outside.clock,
            entropy=self.outside.entropy,
            secret=partial(self.outside.secret, SECRET_BYTES),
        )

    def _webhook_service(self) -> WebhookService:
        return WebhookService(
            ledger=self.ledger.webhooks,
            targets=self.config.webhooks.targets(),
            clock=self.outside.clock,
            entropy=self.outside.entropy,
            secret=partial(self.outside.secret, WEBHOOK_SECRET_BYTES),
        )

    def _control_service(self) -> ControlService:
        return ControlService(
            ledger=self.ledger.controls,
            audit=self.ledger.audit,
            batches=self.ledger.batches,
            catalogs=self.catalogs,
            announce=self.controls.announce,
            clock=self.outside.clock,
            entropy=self.outside.entropy,
        )

    def _change_service(self) -> ChangeService:
        return ChangeService(
            nc=self.nc,
            ledger=self.ledger.changes,
            batches=self.ledger.batches,
            tell=partial(announce_instruction, self.nc),
            clock=self.outside.clock,
            entropy=self.outside.entropy,
        )

    def _job_service(self) -> JobService:
        return JobService(
            ledger=self.ledger.jobs,
            batches=self.ledger.batches,
            submitted=SubmittedJobs(self.nc),
            catalogs=self.catalogs,
            pools=self._pools,
            controls=lambda: self.controls.active,
            clock=self.outside.clock,
        )

    def _dead_letter_service(self) -> DeadLetterService:
        return DeadLetterService(
            ledger=self.ledger.dead_letters,
            publish=partial(publish_again, self.nc),
            tell=partial(announce_instruction, self.nc),
            clock=self.outside.clock,
            entropy=self.outside.entropy,
        )

    def _catalog(self) -> Catalog:
        return self.catalogs.catalog

    def _pools(self) -> dict[str, Pool]:
        catalog = self.catalogs.active.catalog
        return snapshot(
            catalog,
            self.beats.alive(),
            self.daily_spend.accounts(catalog),
            now=self.outside.clock(),
            paused=self.controls.active.deployment,
        )

    async def _interactive(self) -> None:
        suspects = RequestSuspects()
        bucket = SuspectBucket(self.nc, suspects, clock=self.outside.clock)
        reserves = Reserves(
            catalog=self._catalog,
            beats=self.beats.alive,
            daily_spend=self.daily_spend,
            clock=self.outside.clock,
            entropy=self.outside.entropy,
            suspects=suspects,
            presence=self.beats.presence,
            controls=lambda: self.controls.active,
            pulled=lambda: self.streams.pulled,
        )
        relay = Relay(
            self.nc,
            name=self.config.name,
            reserves=reserves,
            rulings=self.rulings,
            seal_key=self.seal_key,
            clock=self.outside.clock,
            presence=self.beats.presence,
            tell=bucket.tell,
            lost=self.metrics.lost.inc,
            waited=self.metrics.request_waited,
            waiting=self.metrics.requests_waiting,
            depth=Depth(self.config.waiting_requests, self.config.waiting_bytes),
        )
        requests = Requests(
            relay=relay, catalog=self._catalog, clock=self.outside.clock, entropy=self.outside.entropy
        )
        door = NatsInfer(
            self.doors,
            requests,
            identify=self.identify,
            clock=self.outside.clock,
            entropy=self.outside.entropy,
            ended=self.metrics.request_ended,
        )
        async with bucket.open():
            if BrokerRole.NATS in self.config.roles:
                await door.serve(beside=self.front.attached(requests))
                return
            async with relay.open():
                with self.front.attached(requests):
                    await relay.watch()

    async def _dispatch(self) -> None:
        leader = Leader(ledger=self.ledger.leadership, holder=self.config.name, metrics=self.metrics)
        await leader.serve(self._dispatch_in_term)

    async def _dispatch_in_term(self, term: int) -> None:
        runs = Runs(self.nc)
        dispatch = Dispatch(
            self.nc,
            backlog=self.ledger.backlog,
            attempts=self.ledger.attempts,
            runs=runs,
            rulings=self.rulings,
            sweep=self._sweep(runs),
            catalog=self._catalog,
            beats=self.beats,
            daily_spend=self.daily_spend,
            controls=self.controls,
            metrics=self.metrics,
            clock=self.outside.clock,
            term=term,
            lease_s=self.config.lease_s,
            remade=self.remade,
        )
        wards = self._wards(term)
        releases = self._releases(wards)
        cancels = Cancels(
            nc=self.nc,
            ledger=self.ledger.cancels,
            rulings=self.rulings,
            metrics=self.metrics,
            clock=self.outside.clock,
        )
        async with asyncio.TaskGroup() as roles:
            beside = [
                roles.create_task(releases.serve()),
                roles.create_task(wards.serve()),
                roles.create_task(self._parking().serve()),
                roles.create_task(cancels.serve()),
                roles.create_task(self._batch_cancels(dispatch.is_busy).serve()),
            ]
            try:
                await dispatch.serve()
            finally:
                for task in beside:
                    task.cancel()

    def _batch_cancels(self, is_busy: Callable[[], bool]) -> BatchCancels:
        return BatchCancels(
            nc=self.nc,
            ledger=self.ledger.cancels,
            controls=lambda: self.controls.active,
            is_busy=is_busy,
            metrics=self.metrics,
            clock=self.outside.clock,
        )

    def _parking(self) -> Parking:
        return Parking(
            nc=self.nc, ledger=self.ledger.controls, controls=lambda: self.controls.active, clock=self.outside.clock
        )

    def _sweep(self, runs: Runs) -> Sweep:
        return Sweep(
            nc=self.nc,
            attempts=self.ledger.attempts,
            jobs=self.ledger.settlement,
            runs=runs,
            rulings=self.rulings,
            catalog=self._catalog,
            clock=self.outside.clock,
            metrics=self.metrics,
        )

    def _wards(self, term: int) -> Wards:
        return Wards(
            nc=self.nc,
            presence=self.beats.presence,
            suspects=self.ledger.suspects,
            rulings=self.rulings,
            catalog=self._catalog,
            metrics=self.metrics,
            clock=self.outside.clock,
            new_group=lambda: uuid7(self.outside.clock(), self.outside.entropy()),
            held=lambda: withheld(self._pools()),
            term=term,
        )

    def _releases(self, wards: Wards) -> Releases:
        return Releases(
            nc=self.nc,
            presence=self.beats.presence,
            attempts=self.ledger.attempts,
            rulings=self.rulings,
            catalog=self._catalog,
            metrics=self.metrics,
            blame=wards.blame,
        )


def process_of(
    config: BrokerConfig,
    ledger: Ledger,
    connections: BrokerConnections,
    outside: Outside,
    *,
    nats_keys: NatsKeys | None = None,
    asks_keys: bool | None = None,
    pace: Pace,
) -> Process:
    """Make the parts that all others share. `asks_keys`: whether callers are let in by their keys; None: if NATS is too."""
    asks_keys = nats_keys is not None if asks_keys is None else asks_keys
    nc = connections.nc
    metrics = BrokerMetrics(outside.version)
    seal_key = SealKey(ledger=ledger.seal_keys, copy=NatsSealKeys(nc), random_key=partial(outside.secret, KEY_BYTES))
    catalogs = Catalogs(nc, ignored=metrics.ignored.labels("catalog").inc)
    key_watch = KeyWatch(nc, ledger.api_keys, NatsDirectories(nc), clock=outside.clock, every_s=pace.refresh_s)
    return Process(
        config=config,
        outside=outside,
        nc=nc,
        doors=connections.doors,
        system=connections.system,
        nats_keys=nats_keys,
        streams=NatsStreams(nc, replicas=config.replicas, store_bytes=config.store_bytes),
        ledger=ledger,
        catalogs=catalogs,
        beats=Beats(nc, clock=outside.clock, ignored=metrics.ignored.labels("beat").inc),
        daily_spend=DailySpend(ledger.spend, outside.clock),
        controls=ControlsWatch(nc, ledger.controls, every_s=pace.refresh_s),
        metrics=metrics,
        roles=Roles(),
        rulings=Rulings(nc, outside.message_ids, seal_key),
        seal_key=seal_key,
        keys=key_watch,
        identify=key_watch.identify if asks_keys else open_door,
        front=Front(
            identify=key_watch.identify_text if asks_keys else let_in,
            catalog=lambda: catalogs.catalog,
            clock=outside.clock,
            version=outside.version,
            entropy=outside.entropy,
            ended=metrics.request_ended,
            answered=metrics.http_answered,
        ),
        reconnected=asyncio.Event(),
        remade=asyncio.Event(),
        pace=pace,
    )
