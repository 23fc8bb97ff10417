"""What is kept no longer is dropped, a page at a time, and nothing else."""

from broker.config import Keep
from broker.core.records import Audited, Entry
from broker.ports import Ledger
from broker.roles.upkeep import Upkeep
from schemas.api import State
from schemas.dead import DeadFilter, DeadWhat
from schemas.ids import uuid7
from schemas.units import Ms
from tests.builders import a_dead_letter, an_entry, now
from tests.contract.ledger.test_dead_letters import a_dead_job
from tests.settling import state_of

DAY_MS = 24 * 3_600_000
KEEP = Keep(dead_letters=3, audit=5, idempotency=2)


def an_upkeep(ledger: Ledger, *, in_days: float = 0, page: int = 2) -> Upkeep:
    """At work so many days from now."""

    def clock() -> Ms:
        return Ms(int(now() + in_days * DAY_MS))

    return Upkeep(days=ledger.days, retention=ledger.retention, keep=KEEP, clock=clock, page=page)


async def letters(ledger: Ledger, what: DeadWhat) -> int:
    return sum(one.count for one in await ledger.dead_letters.count(DeadFilter(what=what)))


async def test_messages_are_deleted_after_their_days(ledger: Ledger) -> None:
    await ledger.dead_letters.record([a_dead_letter() for _ in range(5)])

    await an_upkeep(ledger, in_days=2.9).drop()
    kept = await letters(ledger, DeadWhat.MESSAGE)
    await an_upkeep(ledger, in_days=3.1).drop()

    assert (kept, await letters(ledger, DeadWhat.MESSAGE)) == (5, 0)


async def test_dead_jobs_leave_the_dead_letters_after_their_days_and_stay_in_the_ledger(ledger: Ledger) -> None:
    jobs = [await a_dead_job(ledger, tenant="default") for _ in range(5)]

    await an_upkeep(ledger, in_days=2.9).drop()
    kept = await letters(ledger, DeadWhat.JOB)
    await an_upkeep(ledger, in_days=3.1).drop()

    assert (kept, await letters(ledger, DeadWhat.JOB)) == (5, 0)
    assert [await state_of(ledger, job) for job in jobs] == [State.DEAD] * 5


async def test_an_idempotency_key_stands_for_its_job_for_its_days(ledger: Ledger) -> None:
    def keyed() -> list[Entry]:
        return [an_entry(idempotency_key=f"k{n}") for n in range(5)]

    await ledger.intake.admit(keyed())
    await an_upkeep(ledger, in_days=1.9).drop()
    same = await ledger.intake.admit(keyed())
    await an_upkeep(ledger, in_days=2.1).drop()
    new = await ledger.intake.admit(keyed())

    assert (len(same.waiting), len(new.waiting)) == (0, 5)


async def test_each_page_is_a_transaction_of_its_own(ledger: Ledger) -> None:
    await ledger.dead_letters.record([a_dead_letter() for _ in range(5)])
    later = Ms(now() + 4 * DAY_MS)

    pages = [await ledger.retention.drop_messages(later, limit=2) for _ in range(4)]

    assert pages == [2, 2, 1, 0]


async def test_the_audit_is_kept_for_its_days(ledger: Ledger) -> None:
    for days in (0, 4.9, 5.1, 9):
        at = Ms(int(now() - days * DAY_MS))
        letter = a_dead_letter()
        await ledger.dead_letters.record([letter])
        await ledger.dead_letters.drop([letter.id], [], Audited(uuid7(at, int(days * 10)), at, f"{days}", "k"), {})

    await an_upkeep(ledger).drop()

    assert {entry.tenant for entry in await ledger.audit.page(None, 9, None)} == {"0", "4.9"}
