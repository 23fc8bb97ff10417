"""One broker process: every role, side by side, on one connection to NATS and one pool to Postgres."""

import asyncio
import contextlib
import importlib.metadata
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from nats.aio.client import Client
from nats.errors import Error

from broker.bus.beats import Beats
from broker.bus.catalogs import Catalogs
from broker.bus.connect import BrokerConnection, connected
from broker.bus.groups import Groups, ack_all
from broker.bus.streams import ADVISED, ack_pending, declare_pool, declare_streams
from broker.config import BrokerConfig
from broker.core.pools import Pool, alive, snapshot
from broker.core.principal import open_principal
from broker.doors.health import build_app
from broker.doors.nats_api import nats_api
from broker.doors.nats_infer import NatsInfer
from broker.doors.server import listening
from broker.errors import Unavailable
from broker.ledger import open_ledger
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.retrying import until_available
from broker.roles.dispatch import Dispatch
from broker.roles.intake import Intake
from broker.roles.late_acks import LATER_S, LateAcks
from broker.roles.leader import Leader
from broker.roles.limits import DailySpend
from broker.roles.relay import Relay
from broker.roles.reserves import Reserves
from broker.roles.settle import Settle
from broker.service import BatchService, CatalogService, JobService, Services, StatusService
from schemas import subjects
from schemas.catalog import Catalog, CatalogError
from schemas.clock import wall_clock
from schemas.job import Lane

log = logging.getLogger(__name__)
_ADVISORY_BYTES = 1024 * 1024
POOLS_S = 1.0
NETS_S = 5.0


def entropy() -> int:
    return secrets.randbits(80)


def unit() -> float:
    return secrets.randbelow(1 << 53) / (1 << 53)


def version() -> str:
    return importlib.metadata.version("infermq")


async def serve(
    config: BrokerConfig, *, ready: Callable[[str], None], nets_s: float = NETS_S, later_s: float = LATER_S
) -> None:
    """Until cancelled. `ready` is told the URL of /metrics and /healthz. Raises: Unavailable, Conflict."""
    back = asyncio.Event()
    async with (
        open_ledger(config.postgres_url, connections=config.database_connections) as ledger,
        connected(config.nats_url, name=f"infermq-broker-{config.name}", came_back=back.set) as nc,
    ):
        await declare_streams(nc)
        process = Process(
            config=config,
            nc=nc,
            ledger=ledger,
            catalogs=Catalogs(nc),
            beats=Beats(nc),
            daily_spend=DailySpend(ledger.spend, wall_clock),
            metrics=BrokerMetrics(),
            back=back,
            nets_s=nets_s,
            later_s=later_s,
        )
        await process.run(ready)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What the roles share."""

    config: BrokerConfig
    nc: Client
    ledger: Ledger
    catalogs: Catalogs
    beats: Beats
    daily_spend: DailySpend
    metrics: BrokerMetrics
    back: asyncio.Event
    """NATS was away: what it kept in memory only, streams and consumers, is to be declared again."""
    nets_s: float
    later_s: float

    async def run(self, ready: Callable[[str], None]) -> None:
        await self.catalogs.listen()
        await self.beats.listen()
        await self._refresh_catalog()
        app = build_app(self.metrics.registry, self._health)
        api = nats_api(
            self.config.nats_url,
            self._services(),
            name=self.config.name,
            connection=BrokerConnection,
            principal=open_principal,
        )
        async with (
            listening(app, host=self.config.http_host, port=self.config.http_port) as url,
            api,
            asyncio.TaskGroup() as roles,
        ):
            for role in self._roles():
                roles.create_task(_kept_up(role))
            ready(url)

    def _roles(self) -> list[Callable[[], Awaitable[None]]]:
        intakes = [
            Intake(
                nc=self.nc,
                ledger=self.ledger.intake,
                dead_letters=self.ledger.dead_letters,
                principal=open_principal,
                catalog=self._catalog,
                metrics=self.metrics,
                lane=lane,
            ).serve
            for lane in Lane
        ]
        late_acks = LateAcks(self.nc, beats=self.beats.alive, later_s=self.later_s)
        settle = Settle(
            nc=self.nc,
            late_acks=late_acks,
            ledger=self.ledger.settlement,
            dead_letters=self.ledger.dead_letters,
            revision=lambda: self.catalogs.active,
            alive=lambda: alive(self._snapshot()),
            clock=wall_clock,
            unit=unit,
            metrics=self.metrics,
        )
        return [
            *intakes,
            settle.serve,
            late_acks.serve,
            self._interactive,
            self.daily_spend.serve,
            self._dispatch,
            self._pools,
            self._advisories,
            self._nets,
        ]

    def _services(self) -> Services:
        return Services(
            batches=BatchService(ledger=self.ledger.batches, clock=wall_clock),
            jobs=JobService(ledger=self.ledger.jobs, catalogs=self.catalogs, pools=self._snapshot, clock=wall_clock),
            catalogs=CatalogService(ledger=self.ledger.catalogs, catalogs=self.catalogs, clock=wall_clock),
            status=StatusService(
                name=self.config.name,
                version=version(),
                ledger=self.ledger.status,
                catalogs=self.catalogs,
                beats=self.beats,
                pools=self._snapshot,
                clock=wall_clock,
            ),
        )

    def _catalog(self) -> Catalog:
        return self.catalogs.active.catalog

    def _snapshot(self) -> dict[str, Pool]:
        return snapshot(self._catalog(), self.beats.alive(), self.daily_spend.by_deployment, now=wall_clock())

    async def _interactive(self) -> None:
        reserves = Reserves(
            catalog=self._catalog,
            beats=self.beats.alive,
            daily_spend=self.daily_spend,
            clock=wall_clock,
            entropy=entropy,
        )
        relay = Relay(self.nc, name=self.config.name, reserves=reserves, clock=wall_clock)
        door = NatsInfer(
            self.nc, relay, principal=open_principal, catalog=self._catalog, clock=wall_clock, entropy=entropy
        )
        await answer_requests(relay, door)

    async def _dispatch(self) -> None:
        leader = Leader(ledger=self.ledger.leadership, holder=self.config.name, metrics=self.metrics)
        await leader.serve(self._dispatch_in_term)

    async def _dispatch_in_term(self, term: int) -> None:
        await Dispatch(
            self.nc,
            backlog=self.ledger.backlog,
            attempts=self.ledger.attempts,
            jobs=self.ledger.settlement,
            catalog=self._catalog,
            beats=self.beats,
            daily_spend=self.daily_spend,
            metrics=self.metrics,
            clock=wall_clock,
            term=term,
        ).serve()

    async def _pools(self) -> None:
        """The consumers of every deployment in the catalog, as large as its workers need them."""
        declared: dict[str, int] = {}
        while True:
            if self.back.is_set():
                self.back.clear()
                await declare_streams(self.nc)
                declared.clear()
            pools = self._snapshot()
            for deployment in self._catalog().deployments:
                slots = pools[deployment].slots
                if declared.get(deployment) != (wanted := ack_pending(slots)):
                    await declare_pool(self.nc, deployment, slots=slots, lease_s=self.config.lease_s)
                    declared[deployment] = wanted
            self.catalogs.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POOLS_S):
                    await self.catalogs.changed.wait()

    async def _advisories(self) -> None:
        """Nothing is given up on in silence: count and log what JetStream says it will not deliver again."""
        groups = Groups(self.nc, stream=subjects.ADVISORY, consumer=ADVISED, room=1000, group_bytes=_ADVISORY_BYTES)
        async with groups.open():
            while True:
                messages = await groups.next()
                for message in messages:
                    kind, _, where = message.subject.removeprefix("$JS.EVENT.ADVISORY.CONSUMER.").partition(".")
                    self.metrics.advisories.labels(kind.lower()).inc()
                    log.warning("advisory kind=%s consumer=%s", kind.lower(), where)
                await ack_all(self.nc, messages)

    async def _nets(self) -> None:
        """What was announced and perhaps not heard, and what is dear to measure."""
        while True:
            await self._refresh_catalog()
            self.metrics.backlog(await until_available(lambda: self.ledger.status.backlog(wall_clock())))
            self.metrics.holds(self._snapshot())
            await asyncio.sleep(self.nets_s)

    async def _refresh_catalog(self) -> None:
        try:
            active = await until_available(self.ledger.catalogs.active)
        except CatalogError as error:  # a newer broker's
            log.warning("catalog of the ledger cannot be read, the present one stays error=%s", error)
            return
        if active is not None and active[0].number > self.catalogs.active.number:
            await self.catalogs.publish(active[0])

    async def _health(self) -> Mapping[str, str | bool | int]:
        return {
            "name": self.config.name,
            "nats": self.nc.is_connected,
            "postgres": await self._postgres_answers(),
            "revision": self.catalogs.active.number,
        }

    async def _postgres_answers(self) -> bool:
        try:
            async with asyncio.timeout(2):
                await self.ledger.status.database_now()
        except (Unavailable, TimeoutError):
            return False
        return True


async def answer_requests(relay: Relay, door: NatsInfer) -> None:
    """Until cancelled. Then the door closes first, and what runs may finish."""
    async with door.hearing_leavers(), relay.open(), door.open():
        await relay.watch()


async def _kept_up(role: Callable[[], Awaitable[None]]) -> None:
    """Begin a role again when NATS or Postgres failed under it; any other exception is a bug and ends the process."""
    while True:
        try:
            await role()
        except (Unavailable, Error, OSError) as error:
            log.warning("role begins again error=%s", str(error) or type(error).__name__)
        await asyncio.sleep(1)
