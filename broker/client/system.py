"""The part of the client for operators: the catalog, the status of the system, what is paused, and who changed what."""

from uuid import UUID

from broker.client.session import Session
from schemas.api import CatalogApply, CatalogShow, Nothing, Status
from schemas.control import AuditList, AuditPage, Pause, PauseAnswer, PauseAsk, PauseKind, Pauses, ResumeAsk
from schemas.subjects import Verb


class SystemClient(Session):
    """Reads and applies catalogs, reads the status, pauses and resumes. Raises: RequestRefused, NoBroker, Unavailable."""

    async def apply_catalog(self, toml: str, *, dry_run: bool = False) -> CatalogShow:
        """Make a catalog the active one, or only say what it would change."""
        return await self._call(Verb.CATALOG_APPLY, CatalogApply(toml, dry_run), CatalogShow)

    async def catalog(self) -> CatalogShow:
        """Return the active catalog."""
        return await self._call(Verb.CATALOG_SHOW, Nothing(), CatalogShow)

    async def status(self) -> Status:
        """Return what one broker sees of workers and backlog."""
        return await self._call(Verb.STATUS, Nothing(), Status)

    async def pause(self, kind: PauseKind, name: str, *, reason: str | None = None) -> PauseAnswer:
        """Start nothing more of a batch, model, lane, tenant or deployment. What runs goes on."""
        return await self._call(Verb.PAUSE, PauseAsk(kind, name, reason), PauseAnswer)

    async def resume(self, kind: PauseKind, name: str) -> PauseAnswer:
        """Let it go on."""
        return await self._call(Verb.RESUME, ResumeAsk(kind, name), PauseAnswer)

    async def pauses(self) -> tuple[Pause, ...]:
        """List what is paused."""
        return (await self._call(Verb.PAUSES, Nothing(), Pauses)).pauses

    async def audit(self, *, limit: int = 50, before: UUID | None = None) -> AuditPage:
        """List who changed what, newest first; `before` is the last id of the page before."""
        return await self._call(Verb.AUDIT, AuditList(limit, before), AuditPage)
