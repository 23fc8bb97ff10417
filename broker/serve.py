"""Composes one broker process: doors, use-cases and roles, on one connection to NATS and one pool to Postgres."""

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec

from broker.bus.beats import Beats
from broker.bus.catalogs import Catalogs
from broker.bus.connect import connected
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
from broker.core.accounts import Account
from broker.core.keys import KeyName
from broker.core.line import Depth
from broker.core.nats_keys import NatsKeys
from broker.core.pools import Pool, alive, snapshot, withheld
from broker.core.principal import Identify, let_in, open_door
from broker.core.readiness import streams_part
from broker.core.request_suspects import RequestSuspects
from broker.core.seals import KEY_BYTES
from broker.core.webhooks import SECRET_BYTES as WEBHOOK_SECRET_BYTES
from broker.doors.access_log import logged
from broker.doors.browsers import for_browsers
from broker.doors.health import App, build_app
from broker.doors.http.app import Front
from broker.doors.http.routes import UPLOADS
from broker.doors.nats_api import nats_api
from broker.doors.nats_infer import NatsInfer
from broker.doors.requests import Requests
from broker.doors.server import listening, shown_certificate
from broker.errors import CannotListen, Unavailable
from broker.ledger import open_ledger
from broker.metrics import BrokerMetrics
from broker.ports import Clock, Entropy, Ledger, StreamAdmin
from broker.posting import Posting
from broker.roles.advisories import Advisories
from broker.roles.batch_cancels import BatchCancels
from broker.roles.callout import Callout
from broker.roles.cancels import Cancels
from broker.roles.catalog_refresh import CatalogRefresh
from broker.roles.controls_watch import ControlsWatch
from broker.roles.daily_spend import DailySpend
from broker.roles.dispatch import Dispatch
from broker.roles.failure_log import FailureLog
from broker.roles.files import FileDrop
from broker.roles.gauges import Gauges
from broker.roles.instructions import Instructions
from broker.roles.intake import Intake
from broker.roles.key_watch import KeyWatch
from broker.roles.late_acks import LATER_S, LateAcks
from broker.roles.leader import Leader
from broker.roles.parking import Parking
from broker.roles.reconcile import EVERY_S, Reconcile
from broker.roles.relay import Relay
from broker.roles.releases import Releases
from broker.roles.reserves import Reserves
from broker.roles.restarting import Roles
from broker.roles.seal_key import SealKey
from broker.roles.settle import Settle
from broker.roles.sweep import Sweep
from broker.roles.upkeep import Upkeep
from broker.roles.wards import Wards
from broker.roles.webhooks import Webhooks
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
from schemas.clock import wall_clock
from schemas.health import Part
from schemas.ids import process_ids, uuid7
from schemas.jetstream.client import NatsClient
from schemas.job import Lane
from schemas.urls import is_loopback, public

log = logging.getLogger(__name__)
_DRAWN_BYTES = 10
_DRAWN = 256
REFRESH_S = 5.0
"""Between two looks at what is announced and may have been missed, and at what costs a query to measure."""
_SEALING = frozenset({"settle", "interactive", "dispatch"})
"""The roles that begin once the key for seals is known."""
_DOORS = {BrokerRole.HTTP: ("http",), BrokerRole.NATS: ("infer", "api"), BrokerRole.INTAKE: ("submit",)}
"""The doors that each role is."""


def _random_bits() -> Iterator[int]:
    """Draw random numbers in blocks, since the system takes as long for one as for many."""
    while True:
        block = secrets.token_bytes(_DRAWN_BYTES * _DRAWN)
        for start in range(0, len(block), _DRAWN_BYTES):
            yield int.from_bytes(block[start : start + _DRAWN_BYTES])


entropy: Entropy = _random_bits().__next__
"""80 random bits. Of the event loop's thread only."""


def unit() -> float:
    return secrets.randbelow(1 << 53) / (1 << 53)


def version() -> str:
    return importlib.metadata.version("infermq")


class Addresses(msgspec.Struct, frozen=True):
    """Where a broker listens."""

    http: str
    """The URL of /metrics, /livez and /readyz."""
    api: str
    """The URL of the API over HTTP. Empty: it serves none."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is done again and again is done, in seconds."""

    refresh_s: float
    later_s: float
    reconcile_s: float


async def serve(
    config: BrokerConfig,
    *,
    ready: Callable[[Addresses], None],
    nats_keys: NatsKeys | None = None,
    refresh_s: float = REFRESH_S,
    later_s: float = LATER_S,
    reconcile_s: float = EVERY_S,
) -> None:
    """Run a broker until cancelled. `ready` is called with where it listens once it takes requests.

    It waits for NATS, and serves what it can while Postgres is away. `nats_keys`: those that the servers of NATS were
    configured with; without them whoever reaches NATS may do everything. Raises: Unavailable, CannotListen, Conflict.
    """
    if nats_keys is None and not is_loopback(config.api_host):
        raise CannotListen(
            f"--api-host {config.api_host}: without keys only this machine may call (infermq nats-config)"
        )
    pace = Pace(refresh_s, later_s, reconcile_s)
    async with open_ledger(config.postgres_url, clock=wall_clock, connections=config.database_connections) as ledger:
        process = _process(config, ledger, nats_keys, pace=pace)
        async with (
            listening(process.app(), option="http", host=config.http_host, port=config.http_port) as url,
            process.listening_front() as api_url,
            _connections(config, nats_keys, process.reconnected.set, process.clients()),
        ):
            await process.run(lambda: ready(Addresses(url, api_url)))


@asynccontextmanager
async def _connections(
    config: BrokerConfig,
    nats_keys: NatsKeys | None,
    came_back: Callable[[], None],
    clients: Mapping[Account, NatsClient | None],
) -> AsyncIterator[None]:
    """Connect in each account while the block runs. Without keys there is one account for all."""
    async with contextlib.AsyncExitStack() as stack:
        for account, client in clients.items():
            if client is None or (nats_keys is None and account is not Account.BROKERS):
                continue
            seed = None if nats_keys is None else nats_keys.user_seed(account)
            name = f"infermq-broker-{config.name}" + ("" if account is Account.BROKERS else f" in {account}")
            back = came_back if account is Account.BROKERS else lambda: None
            connection = connected(
                config.nats_url, name=name, came_back=back, client=client, seed=seed, trust=config.trust
            )
            await stack.enter_async_context(connection)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Puts the parts of a broker process together, out of what they share."""

    config: BrokerConfig
    nc: NatsClient
    doors: NatsClient
    """Where callers are: a connection in the tenants' account. Without keys it is `nc`."""
    system: NatsClient | None
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
    clock: Clock
    entropy: Entropy
    unit: Callable[[], float]
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

    def clients(self) -> Mapping[Account, NatsClient | None]:
        """Return the connection in each account."""
        return {Account.BROKERS: self.nc, Account.TENANTS: self.doors, Account.SYSTEM: self.system}

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

    def listening_front(self) -> AbstractAsyncContextManager[str]:
        """Serve the API over HTTP while the block runs, if that is among its roles; the value is the URL."""
        if BrokerRole.HTTP not in self.config.roles:
            return contextlib.nullcontext("")
        api = self.config.api
        app: App = self.front
        if api.cors_origins:
            app = for_browsers(app, api.cors_origins)
        if api.access_log:
            app = logged(app)
        return listening(
            app,
            option="api",
            host=self.config.api_host,
            port=self.config.api_port,
            uploads=UPLOADS,
            limits=api.limits,
            tls=None if api.certificate is None else shown_certificate(api.certificate, api.certificate_key),
            cut=self.metrics.http_cut,
        )

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
        roles = {"streams": reconcile.serve, "catalog": refresh.serve, **self._roles()}
        roles |= {} if callout is None else {"callout": callout.serve}
        services = self._services()
        async with self._api(services), self.front.serving(services), asyncio.TaskGroup() as group:
            for name, role in roles.items():
                group.create_task(self.roles.keep(name, role, once=self.seal_key.known if name in _SEALING else None))
            if callout is not None:
                await callout.listening.wait()  # who connects now is let in by us, perhaps by nobody else
            ready()

    def _api(self, services: Services) -> AbstractAsyncContextManager[object]:
        if BrokerRole.NATS not in self.config.roles:
            return contextlib.nullcontext()
        return nats_api(
            self.config.nats_url,
            services,
            name=self.config.name,
            connection=NatsClient,
            identify=self.identify,
            clock=self.clock,
            seed=None if self.nats_keys is None else self.nats_keys.user_seed(Account.TENANTS),
            trust=self.config.trust,
        )

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
            clock=self.clock,
            unit=self.unit,
            metrics=self.metrics,
            failures=FailureLog(now_s=time.monotonic),
        )
        gauges = Gauges(
            ledger=self.ledger.status,
            pools=self._pools,
            metrics=self.metrics,
            clock=self.clock,
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
            nc=self.nc, ledger=self.ledger.instructions, metrics=self.metrics, clock=self.clock
        )
        upkeep = Upkeep(
            days=self.ledger.days, retention=self.ledger.retention, keep=self.config.keep, clock=self.clock
        )
        advisories = Advisories(nc=self.nc, ledger=self.ledger.dead_letters, metrics=self.metrics)
        files = FileDrop(ledger=self.ledger.files, blobs=self.ledger.blobs, clock=self.clock)
        return {
            "advisories": advisories.serve,
            "instructions": instructions.serve,
            "upkeep": upkeep.serve,
            "files": files.serve,
        }

    async def _webhooks(self) -> None:
        async with Posting.opened(self.config.webhooks.targets(), agent=f"infermq/{version()}") as posting:
            webhooks = Webhooks(
                ledger=self.ledger.deliveries,
                post=posting.post,
                metrics=self.metrics,
                clock=self.clock,
                unit=self.unit,
            )
            await webhooks.serve()

    def _callout(self) -> Callout | None:
        """Make the role that says who may connect to NATS, if servers ask."""
        if self.nats_keys is None or self.system is None:
            log.warning("no keys are asked for: whoever reaches NATS may do everything (infermq nats-config)")
            return None
        callout = Callout(
            nc=self.nc,
            doors=self.doors,
            connections=Connections(self.system),
            keys=self.nats_keys,
            identify=self.keys.identify_text,
            clock=self.clock,
            answered=self.metrics.connection_answered,
        )
        tasks = callout.tasks

        def shut_out(names: frozenset[KeyName]) -> None:
            why = self._why_ended(names)
            callout.end(why)
            tasks.spawn(self.front.shut_out(why))

        self.keys.shut_out = shut_out
        return callout

    def _why_ended(self, names: Iterable[KeyName]) -> dict[KeyName, Problem]:
        why = {name: self.keys.directory.identify(*name, self.clock()) for name in names}
        return {name: problem for name, problem in why.items() if isinstance(problem, Problem)}

    def _intakes(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            f"intake {lane}": Intake(
                nc=self.nc,
                ledger=self.ledger.intake,
                dead_letters=self.ledger.dead_letters,
                identify=self.identify,
                catalog=self._catalog,
                metrics=self.metrics,
                lane=lane,
            ).serve
            for lane in Lane
        }

    def _services(self) -> Services:
        submissions, jobs = SubmissionService(store=partial(store, self.nc)), self._job_service()
        return Services(
            batches=self._batch_service(),
            files=self._file_service(),
            file_batches=FileBatchService(
                ledger=self.ledger.file_batches,
                webhooks=self.ledger.webhooks,
                tell=partial(announce_instruction, self.nc),
                clock=self.clock,
                entropy=self.entropy,
            ),
            cancels=self._cancel_service(),
            changes=self._change_service(),
            jobs=jobs,
            repeats=RepeatService(
                retries=self.ledger.retries,
                replays=self.ledger.replays,
                catalogs=self.catalogs,
                tell=partial(announce_instruction, self.nc),
                clock=self.clock,
                entropy=self.entropy,
            ),
            instructions=InstructionService(ledger=self.ledger.instructions),
            catalogs=CatalogService(
                ledger=self.ledger.catalogs, status=self.ledger.status, catalogs=self.catalogs, clock=self.clock
            ),
            controls=self._control_service(),
            dead_letters=self._dead_letter_service(),
            tenants=TenantService(
                ledger=self.ledger.tenants, announce=self.keys.announce, clock=self.clock, entropy=self.entropy
            ),
            keys=self._key_service(),
            webhooks=self._webhook_service(),
            submissions=submissions,
            single_jobs=self._single_jobs(submissions, jobs),
            status=StatusService(
                name=self.config.name,
                version=version(),
                ledger=self.ledger.status,
                catalogs=self.catalogs,
                beats=self.beats,
                pools=self._pools,
                controls=lambda: self.controls.active,
                clock=self.clock,
            ),
        )

    def _single_jobs(self, submissions: SubmissionService, jobs: JobService) -> SingleJobService:
        return SingleJobService(
            submissions=submissions,
            jobs=jobs,
            ledger=self.ledger.jobs,
            hearing=partial(hearing_job, self.nc),
            catalog=self._catalog,
            clock=self.clock,
            entropy=self.entropy,
        )

    def _file_service(self) -> FileService:
        return FileService(
            ledger=self.ledger.files,
            blobs=self.ledger.blobs,
            batches=self.ledger.batches,
            file_batches=self.ledger.file_batches,
            clock=self.clock,
            entropy=self.entropy,
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
            clock=self.clock,
            entropy=self.entropy,
        )

    def _batch_service(self) -> BatchService:
        return BatchService(
            ledger=self.ledger.batches,
            webhooks=self.ledger.webhooks,
            clock=self.clock,
            hearing=partial(hearing_results, self.nc),
            controls=lambda: self.controls.active,
        )

    def _key_service(self) -> KeyService:
        return KeyService(
            ledger=self.ledger.api_keys,
            announce=self.keys.announce,
            clock=self.clock,
            entropy=self.entropy,
            secret=partial(secrets.token_bytes, SECRET_BYTES),
        )

    def _webhook_service(self) -> WebhookService:
        return WebhookService(
            ledger=self.ledger.webhooks,
            targets=self.config.webhooks.targets(),
            clock=self.clock,
            entropy=self.entropy,
            secret=partial(secrets.token_bytes, WEBHOOK_SECRET_BYTES),
        )

    def _control_service(self) -> ControlService:
        return ControlService(
            ledger=self.ledger.controls,
            audit=self.ledger.audit,
            batches=self.ledger.batches,
            catalogs=self.catalogs,
            announce=self.controls.announce,
            clock=self.clock,
            entropy=self.entropy,
        )

    def _change_service(self) -> ChangeService:
        return ChangeService(
            nc=self.nc,
            ledger=self.ledger.changes,
            batches=self.ledger.batches,
            tell=partial(announce_instruction, self.nc),
            clock=self.clock,
            entropy=self.entropy,
        )

    def _job_service(self) -> JobService:
        return JobService(
            ledger=self.ledger.jobs,
            batches=self.ledger.batches,
            submitted=SubmittedJobs(self.nc),
            catalogs=self.catalogs,
            pools=self._pools,
            controls=lambda: self.controls.active,
            clock=self.clock,
        )

    def _dead_letter_service(self) -> DeadLetterService:
        return DeadLetterService(
            ledger=self.ledger.dead_letters,
            publish=partial(publish_again, self.nc),
            tell=partial(announce_instruction, self.nc),
            clock=self.clock,
            entropy=self.entropy,
        )

    def _catalog(self) -> Catalog:
        return self.catalogs.active.catalog

    def _pools(self) -> dict[str, Pool]:
        catalog = self._catalog()
        return snapshot(
            catalog,
            self.beats.alive(),
            self.daily_spend.accounts(catalog),
            now=self.clock(),
            paused=self.controls.active.deployment,
        )

    async def _interactive(self) -> None:
        suspects = RequestSuspects()
        bucket = SuspectBucket(self.nc, suspects, clock=self.clock)
        reserves = Reserves(
            catalog=self._catalog,
            beats=self.beats.alive,
            daily_spend=self.daily_spend,
            clock=self.clock,
            entropy=self.entropy,
            suspects=suspects,
            presence=self.beats.presence,
            controls=lambda: self.controls.active,
        )
        relay = Relay(
            self.nc,
            name=self.config.name,
            reserves=reserves,
            rulings=self.rulings,
            seal_key=self.seal_key,
            clock=self.clock,
            presence=self.beats.presence,
            tell=bucket.tell,
            lost=self.metrics.lost.inc,
            waited=self.metrics.request_waited,
            waiting=self.metrics.requests_waiting,
            depth=Depth(self.config.waiting_requests, self.config.waiting_bytes),
        )
        requests = Requests(relay=relay, catalog=self._catalog, clock=self.clock, entropy=self.entropy)
        door = NatsInfer(
            self.doors,
            requests,
            identify=self.identify,
            clock=self.clock,
            entropy=self.entropy,
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
            clock=self.clock,
            term=term,
            lease_s=self.config.lease_s,
            remade=self.remade,
        )
        wards = self._wards(term)
        releases = self._releases(wards)
        cancels = Cancels(
            nc=self.nc, ledger=self.ledger.cancels, rulings=self.rulings, metrics=self.metrics, clock=self.clock
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
            clock=self.clock,
        )

    def _parking(self) -> Parking:
        return Parking(
            nc=self.nc, ledger=self.ledger.controls, controls=lambda: self.controls.active, clock=self.clock
        )

    def _sweep(self, runs: Runs) -> Sweep:
        return Sweep(
            nc=self.nc,
            attempts=self.ledger.attempts,
            jobs=self.ledger.settlement,
            runs=runs,
            rulings=self.rulings,
            catalog=self._catalog,
            clock=self.clock,
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
            clock=self.clock,
            new_group=lambda: uuid7(self.clock(), self.entropy()),
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


def _process(config: BrokerConfig, ledger: Ledger, nats_keys: NatsKeys | None, *, pace: Pace) -> Process:
    """Make the parts that all others share."""
    nc = NatsClient()
    doors, system = (nc, None) if nats_keys is None else (NatsClient(), NatsClient())
    metrics = BrokerMetrics(version())
    seal_key = SealKey(
        ledger=ledger.seal_keys, copy=NatsSealKeys(nc), random_key=partial(secrets.token_bytes, KEY_BYTES)
    )
    catalogs = Catalogs(nc, ignored=metrics.ignored.labels("catalog").inc)
    key_watch = KeyWatch(nc, ledger.api_keys, NatsDirectories(nc), clock=wall_clock, every_s=pace.refresh_s)
    return Process(
        config=config,
        nc=nc,
        doors=doors,
        system=system,
        nats_keys=nats_keys,
        streams=NatsStreams(nc, replicas=config.replicas, store_bytes=config.store_bytes),
        ledger=ledger,
        catalogs=catalogs,
        beats=Beats(nc, clock=wall_clock, ignored=metrics.ignored.labels("beat").inc),
        daily_spend=DailySpend(ledger.spend, wall_clock),
        controls=ControlsWatch(nc, ledger.controls, every_s=pace.refresh_s),
        metrics=metrics,
        roles=Roles(),
        clock=wall_clock,
        entropy=entropy,
        unit=unit,
        rulings=Rulings(nc, process_ids(os.getpid(), os.urandom(6)).__next__, seal_key),
        seal_key=seal_key,
        keys=key_watch,
        identify=open_door if nats_keys is None else key_watch.identify,
        front=Front(
            identify=let_in if nats_keys is None else key_watch.identify_text,
            catalog=lambda: catalogs.active.catalog,
            clock=wall_clock,
            version=version(),
            entropy=entropy,
            ended=metrics.request_ended,
            answered=metrics.http_answered,
        ),
        reconnected=asyncio.Event(),
        remade=asyncio.Event(),
        pace=pace,
    )
