"""What the active catalog says of this worker's deployment, and what the broker declared for it."""

import asyncio
import contextlib
import logging

import msgspec

from schemas import subjects
from schemas.catalog import Deployment, Revision
from schemas.codec import UNREADABLE
from schemas.jetstream import Message, NatsConnection, NatsError, ack_wait_s, last_message
from schemas.units import Ms
from workers.core.capacity import deferrable_outcomes
from workers.ports import EngineConfigError

log = logging.getLogger(__name__)
_SUBJECT = f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}"
_LOOK_S = 0.2
_MAX_OUTPUT_TOKENS = 1024
"""For an attempt of a model that the catalog no longer has."""
_DEFAULT_LEASE_S = 30
"""The server's own ack_wait."""
_revision = msgspec.json.Decoder(Revision)


class ActiveCatalog:
    """The newest revision, as far as one deployment is concerned."""

    def __init__(self, revision: Revision, deployment: str) -> None:
        """Raises: EngineConfigError, if it has no such deployment."""
        found = revision.catalog.deployments.get(deployment)
        if found is None:
            known = ", ".join(sorted(revision.catalog.deployments))
            raise EngineConfigError(f"the catalog has no deployment {deployment!r}; known: {known or 'none'}")
        self._revision = revision
        self.name = deployment
        self.deployment: Deployment = found
        """Its last terms: what still runs keeps them when the catalog drops the deployment."""

    def __repr__(self) -> str:
        return f"ActiveCatalog({self.name}, revision={self._revision.number})"

    def apply(self, revision: Revision) -> None:
        """Go by this revision if it is newer; they may arrive in any order."""
        if revision.number > self._revision.number:
            self._revision = revision
            self.deployment = revision.catalog.deployments.get(self.name, self.deployment)

    async def applied(self, message: Message) -> None:
        """Take a revision from the bucket."""
        with contextlib.suppress(*UNREADABLE):
            self.apply(_revision.decode(message.data))

    def max_output_tokens(self, model: str) -> int:
        """The tokens to generate at most where the request does not say."""
        found = self._revision.catalog.models.get(model)
        return found.max_output_tokens if found else _MAX_OUTPUT_TOKENS

    def deferrable_outcomes(self, slots: int) -> int:
        """How many outcomes may wait beside free slots. Under a daily cap the broker does not look ahead, so none."""
        return 0 if self.deployment.daily_cap_usd is not None else deferrable_outcomes(slots)


async def active_catalog(nc: NatsConnection, deployment: str) -> ActiveCatalog:
    """Wait for an active catalog, and follow it. Raises: EngineConfigError, if it does not have the deployment."""
    has_said = False
    while (revision := await _active(nc)) is None:
        if not has_said:
            log.info("waiting for a catalog: infermq apply FILE")
            has_said = True
        await asyncio.sleep(_LOOK_S)
    catalog = ActiveCatalog(revision, deployment)
    await nc.subscribe(_SUBJECT, cb=catalog.applied)
    if (revision := await _active(nc)) is not None:  # it may have changed before the subscription
        catalog.apply(revision)
    return catalog


async def _active(nc: NatsConnection) -> Revision | None:
    try:
        return _revision.decode(await last_message(nc, f"KV_{subjects.CATALOG_BUCKET}", _SUBJECT))
    except NatsError:
        return None


async def declared_lease_ms(nc: NatsConnection, deployment: str) -> Ms:
    """Wait until the broker has declared the deployment's consumers; return how long a lease of RUN lasts."""
    name = subjects.pool_consumer(deployment)
    while True:
        try:
            lease_s = await ack_wait_s(nc, subjects.RUN, name)
            await ack_wait_s(nc, subjects.NOW, name)
        except NatsError:
            await asyncio.sleep(_LOOK_S)
        else:
            return Ms(int((lease_s or _DEFAULT_LEASE_S) * 1000))
