"""The part of the client for dead letters."""

from uuid import UUID

from broker.client.session import Session
from schemas.dead import (
    DeadDone,
    DeadDrop,
    DeadEach,
    DeadFilter,
    DeadGroup,
    DeadGroups,
    DeadLine,
    DeadList,
    DeadPage,
    DeadRef,
    DeadRequeue,
    DeadShow,
)
from schemas.subjects import Verb

_MANY_S = 60.0
"""How long ten thousand dead letters may take. On two busy cores it is 7 s."""


class DeadClient(Session):
    """Looks at dead letters, requeues and drops them. Raises: RequestRefused, NoBroker, Unavailable."""

    async def dead_groups(self, wanted: DeadFilter | None = None) -> tuple[DeadGroup, ...]:
        """Count dead letters by cause, with an example of each and what to do."""
        return (await self._call(Verb.DEAD_LIST, DeadList(filter=wanted or DeadFilter()), DeadGroups)).groups

    async def dead_letters(
        self, wanted: DeadFilter | None = None, *, limit: int = 20, before: UUID | None = None
    ) -> tuple[DeadLine, ...]:
        """List single dead letters, newest first."""
        ask = DeadEach(filter=wanted or DeadFilter(), limit=limit, before=before)
        return (await self._call(Verb.DEAD_EACH, ask, DeadPage)).letters

    async def dead_letter(self, letter: UUID) -> tuple[DeadShow, bytes]:
        """Return what is known of a dead letter, and all of its bytes: a message's payload, or the body of a job."""
        first = await self._call(Verb.DEAD_SHOW, DeadRef(letter), DeadShow)
        content = first.piece
        while len(content) < first.letter.size_bytes:
            more = (await self._call(Verb.DEAD_SHOW, DeadRef(letter, len(content)), DeadShow)).piece
            if not more:
                break
            content += more
        return first, content

    async def requeue(self, ask: DeadRequeue) -> DeadDone:
        """Run dead letters again: messages are published again, jobs are submitted again as new ones."""
        return await self._call(Verb.DEAD_REQUEUE, ask, DeadDone, within_s=_MANY_S)

    async def drop(self, ask: DeadDrop) -> DeadDone:
        """Delete messages, and take jobs out of the dead letters."""
        return await self._call(Verb.DEAD_DROP, ask, DeadDone, within_s=_MANY_S)
