"""Follows what the active catalog says of this worker's deployment, and reads what the broker declared for it."""

import asyncio
import logging

import msgspec

from schemas import subjects
from schemas.catalog import Deployment, Revision
from schemas.codec import UNREADABLE
from schemas.endpoints import ENDPOINTS, Endpoint
from schemas.jetstream import Message, NatsConnection, NatsError, NatsTimeoutError, direct_last
from schemas.units import DurationMs, Ms
from workers.core.capacity import deferrable_outcomes
from workers.ports import EngineConfigError

log = logging.getLogger(__name__)
_STREAM = f"KV_{subjects.CATALOG_BUCKET}"
_POLL_S = 0.2
_MISSES = 3
"""How often a deployment must be missing before it is believed: any replica answers, and one may be behind."""
_EVERY_S = 10.0
_SETTLED_S = 1.0
"""How long after its announcement a revision can surely be read from the bucket. A guess: it takes milliseconds."""
_MAX_OUTPUT_TOKENS = 1024
"""The limit for an attempt whose model the catalog no longer has. A guess."""
_revision = msgspec.json.Decoder(Revision)
_lease = msgspec.json.Decoder(DurationMs)


class ActiveCatalog:
    """The entry of one deployment in the newest revision of the catalog."""

    def __init__(self, revision: Revision, deployment: str) -> None:
        """Raises: EngineConfigError, if the revision does not have the deployment."""
        found = revision.catalog.deployments.get(deployment)
        if found is None:
            raise unknown_deployment(deployment, revision.number)
        self._revision = revision
        self.name = deployment
        self.deployment: Deployment = found
        """The last entry there was: attempts that still run keep it when the catalog drops the deployment."""
        self._made_of = _made_of(found)
        self._taken_up = revision.number
        self._heard_s: float | None = None
        """When the bucket last announced a revision. None: not yet."""

    def __repr__(self) -> str:
        return f"ActiveCatalog({self.name}, revision={self._revision.number})"

    @property
    def revision(self) -> int:
        return self._revision.number

    @property
    def taken_up(self) -> int:
        """The number of the newest revision with what the engine was made of. A later one asks for another engine."""
        return self._taken_up

    def apply(self, revision: Revision) -> None:
        """Use this revision. It may have a lower number, if the ledger was restored from a backup.

        One that has not got the deployment is another's: whoever may read that can have it sent here.
        """
        found = revision.catalog.deployments.get(self.name)
        if found is None:
            log.warning("catalog ignored: it is not of deployment %s", self.name)
            return
        self._revision = revision
        self.deployment = found
        if _made_of(self.deployment) == self._made_of:
            self._taken_up = revision.number
        elif self._taken_up < revision.number:
            log.warning("revision %d changes what the engine is made of: restart this worker", revision.number)

    async def read(self, nc: NatsConnection) -> None:
        """Apply what the bucket holds, unless it has just announced something, which may be newer than what is read."""
        revision = await _entry(nc, self.name)
        now_s = asyncio.get_running_loop().time()
        if isinstance(revision, Revision) and (self._heard_s is None or now_s > self._heard_s + _SETTLED_S):
            self.apply(revision)

    async def follow(self, nc: NatsConnection, every_s: float = _EVERY_S) -> None:
        """Read the bucket now and then, since announcements can be lost."""
        while True:
            await asyncio.sleep(every_s)
            await self.read(nc)

    async def applied(self, message: Message) -> None:
        """Apply a revision that the bucket announced. If it cannot be read, the one before it stays in force.

        So it does if the catalog drops the deployment.
        """
        if not message.data:
            log.warning("the catalog has dropped this deployment: what runs goes on, nothing more comes")
            return
        try:
            self.apply(_revision.decode(message.data))
            self._heard_s = asyncio.get_running_loop().time()
        except UNREADABLE as error:
            log.warning("catalog ignored bytes=%d error=%s", len(message.data), error)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return what the deployment is to serve, by the models whose route has it."""
        models = self._revision.catalog.models.values()
        ours = [model for model in models if any(route.deployment == self.name for route in model.route)]
        paths = dict.fromkeys(path for model in ours for path in model.endpoints)
        return tuple(ENDPOINTS[path] for path in paths if path in ENDPOINTS)

    def max_output_tokens(self, model: str) -> int:
        """Return how many tokens to generate at most if the request does not say."""
        catalog = self._revision.catalog
        found = catalog.models.get(model) or catalog.model(model)
        return found.max_output_tokens if found else _MAX_OUTPUT_TOKENS

    def deferrable_outcomes(self, slots: int) -> int:
        """Return how many outcomes may be held back while slots are free: none under a daily cap, when
        the broker dispatches nothing ahead.
        """
        return 0 if self.deployment.daily_cap_usd is not None else deferrable_outcomes(slots)


def _made_of(deployment: Deployment) -> tuple[object, ...]:
    """Return what an engine is made of. The rest of a deployment is looked up while it runs."""
    return (
        deployment.engine,
        deployment.source,
        deployment.context_tokens,
        deployment.max_concurrency,
        deployment.reserve,
        deployment.base_url,
        deployment.key_env,
        deployment.options,
    )


async def active_catalog(nc: NatsConnection, deployment: str) -> ActiveCatalog:
    """Wait until a catalog is active, and follow it. Raises: EngineConfigError, if it does not have the deployment."""
    waits_for, missed = "", 0
    while not isinstance(found := await _entry(nc, deployment), Revision):
        if isinstance(found, EngineConfigError):
            missed += 1
            if missed == _MISSES:
                raise found
        elif found != waits_for:
            waits_for = found
            log.info("waiting for %s", waits_for)
        await asyncio.sleep(_POLL_S)
    catalog = ActiveCatalog(found, deployment)
    await nc.subscribe(subjects.catalog_entry(deployment), cb=catalog.applied)
    await catalog.read(nc)  # it may have changed before the subscription
    return catalog


async def _entry(nc: NatsConnection, deployment: str) -> Revision | str | EngineConfigError:
    """Return what the active revision says of the deployment, or what is still to come before there is one.

    Or an error, if there is a revision and it does not have the deployment.
    """
    try:
        number = await direct_last(nc, _STREAM, subjects.CATALOG_NUMBER)
        entry = await direct_last(nc, _STREAM, subjects.catalog_entry(deployment)) if number else None
    except NatsTimeoutError:
        return f"an answer of NATS about {deployment!r}: may the key of this worker serve it?"
    except NatsError:
        return _NO_CATALOG
    if number and not entry:
        return unknown_deployment(deployment, number.decode(errors="replace"))
    try:
        return _revision.decode(entry) if entry else _NO_CATALOG
    except UNREADABLE as error:
        return f"a catalog that can be read ({error}): infermq apply FILE"


_NO_CATALOG = "a catalog: infermq apply FILE"


def unknown_deployment(name: str, revision: object) -> EngineConfigError:
    return EngineConfigError(
        f"revision {revision} of the catalog has no deployment {name!r}: infermq catalog shows those that it has"
    )


async def declared_lease_ms(nc: NatsConnection, deployment: str) -> Ms:
    """Wait until a broker has declared the deployment's consumers; return how long a lease of RUN lasts."""
    while True:
        try:
            declared = await direct_last(nc, _STREAM, subjects.declared_pool(deployment))
            if declared:
                return _lease.decode(declared)
        except (NatsError, *UNREADABLE) as error:
            log.info("waiting for the consumers of %s error=%s", deployment, str(error) or type(error).__name__)
        await asyncio.sleep(_POLL_S)
