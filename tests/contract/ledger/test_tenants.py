"""One tenant's jobs, batches, results and keys are no other's."""

from broker.core.records import Entry
from broker.core.settle import decide
from broker.ports import Ledger
from schemas.job import Lane
from tests.builders import a_report, a_success, an_attempt, an_entry, an_id, now
from tests.settling import PRICES, a_verdict, running, settled

TENANTS = ("a.b", "a_2e_b", "ü*", "a b>")
"""Among them one whose name is how another's is written in a subject."""


# in the ledger


def of(tenant: str, **changes: object) -> Entry:
    return an_entry(tenant=tenant, **changes)


async def test_an_idempotency_key_stands_for_one_job_of_each_tenant(ledger: Ledger) -> None:
    first = {tenant: of(tenant, idempotency_key="k") for tenant in TENANTS}
    again = [of(tenant, idempotency_key="k") for tenant in TENANTS]

    admitted = await ledger.intake.admit(list(first.values()))
    repeated = await ledger.intake.admit(again)

    assert [place.job for _, place in admitted.waiting] == [entry.id for entry in first.values()]
    assert not repeated.waiting
    assert not repeated.conflicts


async def test_an_id_of_anothers_job_is_a_conflict(ledger: Ledger) -> None:
    theirs = of("a.b")
    await ledger.intake.admit([theirs])

    admitted = await ledger.intake.admit([of("a_2e_b", id=theirs.id)])

    assert [one.id for one in admitted.conflicts] == [theirs.id]
    assert not admitted.waiting
    assert await ledger.jobs.find(theirs.id, "a_2e_b") is None


async def test_a_flow_holds_its_own_jobs_only(ledger: Ledger) -> None:
    entries = [of("a.b"), of("a_2e_b"), of("a.b", model="n"), of("a.b", lane=Lane.STANDARD)]
    await ledger.intake.admit(entries)

    jobs = [await ledger.backlog.page(entry.flow, after=None, limit=9) for entry in entries]

    assert [[job.place for job in ahead] for ahead in jobs] == [[entry.place] for entry in entries]
    assert sorted(head.flow for head in await ledger.backlog.heads()) == sorted(entry.flow for entry in entries)


async def test_requests_of_two_tenants_with_one_id_are_two_jobs(ledger: Ledger) -> None:
    job, admitted_ms = an_id(), now()
    asks = [an_attempt(job=job, tenant=tenant, key="k", admitted_ms=admitted_ms) for tenant in TENANTS[:2]]

    ends = [await settled(ledger, a_verdict(one, a_success(), interactive=one)) for one in asks]

    [[(first, _)], [(second, _)]] = ends
    assert first == job != second
    assert await ledger.jobs.find(first, TENANTS[0]) is not None
    assert await ledger.jobs.find(second, TENANTS[1]) is not None
    assert await ledger.jobs.find(first, TENANTS[1]) is None


async def test_requests_of_two_tenants_with_one_id_are_two_jobs_when_settled_together(ledger: Ledger) -> None:
    job, admitted_ms = an_id(), now()
    asks = [an_attempt(job=job, tenant=tenant, key="k", admitted_ms=admitted_ms) for tenant in TENANTS[:2]]
    reports = [a_report(job=job, interactive=one) for one in asks]
    verdicts = decide(reports, {}, prices=PRICES, now=now(), unit=0.5)

    first = await settled(ledger, *verdicts)
    again = await settled(ledger, *verdicts)

    assert len({job for job, _ in first}) == 2
    assert sorted(first) == sorted(again)
    for one in TENANTS[:2]:
        [shown] = [found for found, _ in first if await ledger.jobs.find(found, one) is not None]
        found = await ledger.jobs.find(shown, one)
        assert found is not None
        assert len(found.executions) == 1


async def test_the_jobs_of_a_tenant_run_as_its_own(ledger: Ledger) -> None:
    attempt = await running(ledger, tenant="a b>")

    done = await ledger.settlement.settle([a_verdict(attempt, a_success())], now=now())

    assert attempt.tenant == "a b>"
    assert [one.tenant for one in done.final] == ["a b>"]
