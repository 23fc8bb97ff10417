"""`infermq replay`, `infermq replay diff`: runs settled jobs again, and shows what is different."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from broker.cli import filters
from broker.cli.commands import Commands
from broker.cli.instructions import counted
from broker.cli.progress import watch
from broker.cli.repeats import say_that_it_goes_on, until_made
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    duration,
    err,
    fail,
    money,
    out,
    plain,
    print_fields,
    print_json,
    print_table,
    reporting_errors,
    with_client,
)
from broker.client import Client
from broker.core.replay import summed
from schemas.api import Batch
from schemas.codec import UNREADABLE
from schemas.instructions import Instruction
from schemas.job import Lane
from schemas.repeats import Change, Compared, Comparison, ReplayChoice, ReplayEstimate, Side

app = Commands(invoke_without_command=True)
_PER_S = {"s": 1, "m": 60, "h": 3600}


@app.callback()
def replay(
    context: typer.Context,
    *,
    job: Annotated[list[UUID] | None, typer.Option(help="A job; give it again for another.")] = None,
    batch: filters.OfBatch = None,
    model: filters.Model = None,
    state: filters.States = None,
    code: filters.Codes = None,
    custom_id: filters.CustomIdOption = None,
    since: filters.Since = None,
    until: filters.Until = None,
    metadata: filters.MetadataOption = None,
    to_model: Annotated[str | None, typer.Option(help="Run them on this model; by default on their own.")] = None,
    to_deployment: Annotated[str | None, typer.Option(help="Only this deployment may run them.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=JSON or NAME.NAME=JSON of the body; null removes it.")
    ] = None,
    patch: Annotated[str | None, typer.Option(help="A JSON merge patch (RFC 7396) of the body.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most output tokens of each.")] = None,
    rate: Annotated[str, typer.Option(help="How many are made: 100/s, 30/m, 1000/h, or `all` at once.")] = "100/s",
    lane: Annotated[Lane, typer.Option(help="Priority class.")] = Lane.BULK,
    deadline: Annotated[str | None, typer.Option(help="From now: 90s, 30m, 24h, 7d. By default the lane's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many, and what they would cost.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the new batch is complete.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Run settled jobs again, as the jobs of a new batch, or compare those with what they repeat (`diff`).

    Prints the new batch, and how to compare it.

    Examples:
      infermq replay --batch BATCH --to-model small-chat --dry-run
      infermq replay --state failed --since 7d --rate 20/s
      infermq replay diff BATCH
    """
    if context.invoked_subcommand is not None:
        return
    wanted = filters.job_filter(
        states=state, codes=code, model=model, batch=batch, custom_id=custom_id, since=since, until=until,
        metadata=metadata,
    )  # fmt: skip
    choice = ReplayChoice(
        filter=wanted,
        jobs=tuple(job or ()),
        model=to_model,
        deployment=to_deployment,
        patch=_patch(change or [], patch),
        max_tokens=max_tokens,
    )
    order = _Order(choice, lane, _rate(rate), filters.window_ms(deadline), wait)
    with reporting_errors():
        if dry_run:
            _print_estimate(with_client(url, data, lambda client: _estimated(client, choice)), as_json=as_json)
            return
        given, made = with_client(url, data, order.give)
    _say(given, made, waited=wait, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Order:
    choice: ReplayChoice
    lane: Lane
    rate_per_s: float | None
    deadline_in_ms: int | None
    wait: bool

    async def give(self, client: Client) -> tuple[Instruction, Batch]:
        """Give it, and wait for what is to be waited for. Returns how far it is, and its batch."""
        given = await client.replay(
            self.choice, lane=self.lane, rate_per_s=self.rate_per_s, deadline_in_ms=self.deadline_in_ms
        )
        if self.wait:
            say_that_it_goes_on(given)
        made = await until_made(client, given, wait=self.wait)
        return made, await (watch(client, given.id) if self.wait else client.batch(given.id))


def _say(given: Instruction, state: Batch, *, waited: bool, as_json: bool) -> None:
    """Raises: typer.Exit, if not all went well."""
    if as_json:
        print_json({"instruction": given, "batch": state})
    else:
        _print(given, state, waited=waited)
    if given.failure is not None or (waited and state.without_success()):
        raise typer.Exit(Exit.FAILED)


def _print(given: Instruction, state: Batch, *, waited: bool) -> None:
    if given.failure is not None:
        err.print(f"[bold red]ended early:[/] {plain(given.failure)}")
    goes_on = "" if given.ended_ms is not None else "so far; it goes on"
    done = counted(given) if given.counts else "no settled job matches" if given.ended_ms is not None else "none"
    out.print(f"batch [bold]{state.id}[/]: {done} {goes_on}".rstrip())
    if waited:
        ended = state.counts.settled() - state.counts.succeeded
        out.print(f"{state.counts.succeeded} succeeded, {ended} did not; {money(state.cost_nano_usd)}")
    else:
        out.print(f"watch it: infermq batch show {state.id}")
    out.print(f"compare:  infermq replay diff {state.id}")


def _patch(changes: Sequence[str], patch: str | None) -> str | None:
    """Make one patch of all changes. Raises: typer.Exit."""
    made = (patch or "{}").encode()
    try:
        msgspec.json.decode(made, type=dict[str, msgspec.Raw])
    except UNREADABLE as error:
        fail(f"--patch is no JSON object: {error}", Exit.USAGE)
    for change in changes:
        name, sign, text = change.partition("=")
        if not sign or not all(name.split(".")):
            fail(f"--set {change!r} is not NAME=VALUE", Exit.USAGE)
        value = _json(text)
        for part in reversed(name.split(".")):
            value = msgspec.json.encode({part: msgspec.Raw(value)})
        made = _joined(made, value)
    return None if made == b"{}" else made.decode()


def _joined(patch: bytes, more: bytes) -> bytes:
    """Add to a patch. Unlike applying one, this keeps each null, which removes a field of the body."""
    fields = msgspec.json.decode(patch, type=dict[str, msgspec.Raw])
    for name, value in msgspec.json.decode(more, type=dict[str, msgspec.Raw]).items():
        old = bytes(fields.get(name, b""))
        are_objects = old.startswith(b"{") and bytes(value).startswith(b"{")
        fields[name] = msgspec.Raw(_joined(old, bytes(value))) if are_objects else value
    return msgspec.json.encode(fields)


def _json(text: str) -> bytes:
    """Return a value as JSON: as it is if it is JSON, else as a string."""
    try:
        msgspec.json.decode(text)
    except UNREADABLE:
        return msgspec.json.encode(text)
    return text.encode()


def _rate(text: str) -> float | None:
    """Read a rate, in jobs per second. Raises: typer.Exit."""
    if text == "all":
        return None
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)/([smh])", text)
    rate = float(found[1]) / _PER_S[found[2]] if found else 0.0
    if rate <= 0:
        fail(f"--rate {text!r} is not a rate such as 100/s, 30/m, 1000/h, or all", Exit.USAGE)
    return rate


async def _estimated(client: Client, choice: ReplayChoice) -> ReplayEstimate:
    total = ReplayEstimate()
    async for part in client.replay_estimates(choice):
        total = summed(total, part)
    return total


def _print_estimate(total: ReplayEstimate, *, as_json: bool) -> None:
    if as_json:
        print_json(total)
        return
    fields: list[tuple[str, object]] = [
        ("jobs", total.jobs),
        ("tokens", f"{total.usage.input_tokens} in, {total.usage.output_tokens} out, as recorded"),
        ("cost", f"about {money(total.cost_nano_usd)}"),
    ]
    if total.by_price:
        fields.append(("", f"{total.by_price} jobs: recorded tokens at the price of where they would run"))
    if total.by_record:
        fields.append(
            ("", f"{total.by_record} jobs: recorded cost, since they would run as before and no price is known")
        )
    if total.unknown:
        fields.append(
            ("", f"{total.unknown} jobs are not in the cost: no tokens are recorded of them, or no price is known")
        )
    print_fields(fields)


@dataclass(slots=True)
class _Summary:
    """Adds up pairs. Cost and tokens are of the pairs whose old job is known."""

    pairs: int = 0
    comparisons: Counter[Comparison] = field(default_factory=Counter)
    cost: list[int] = field(default_factory=lambda: [0, 0])
    input_tokens: list[int] = field(default_factory=lambda: [0, 0])
    output_tokens: list[int] = field(default_factory=lambda: [0, 0])
    run_ms: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    def add(self, pair: Compared) -> None:
        self.pairs += 1
        self.comparisons[pair.comparison] += 1
        if pair.old is None:
            return
        for which, side in enumerate((pair.old, pair.new)):
            self.cost[which] += side.cost_nano_usd
            self.input_tokens[which] += side.usage.input_tokens
            self.output_tokens[which] += side.usage.output_tokens
            if side.run_ms is not None:
                self.run_ms[which].append(side.run_ms)

    def medians(self) -> tuple[int | None, int | None]:
        """Return the medians of how long executions ran."""
        old, new = (int(statistics.median(found)) if found else None for found in self.run_ms)
        return old, new

    def as_json(self) -> dict[str, object]:
        names = ("old", "new")
        return {
            "pairs": self.pairs,
            "comparisons": {str(one): self.comparisons[one] for one in Comparison},
            "cost_nano_usd": dict(zip(names, self.cost, strict=True)),
            "input_tokens": dict(zip(names, self.input_tokens, strict=True)),
            "output_tokens": dict(zip(names, self.output_tokens, strict=True)),
            "median_run_ms": dict(zip(names, self.medians(), strict=True)),
        }


@app.command()
def diff(
    batch: Annotated[UUID, typer.Argument(help="The batch of a replay, or of a retry.")],
    *,
    limit: Annotated[int, typer.Option(min=0, help="How many jobs to show.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="Show also those whose answers are the same.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Put the jobs of a replay beside those that they repeat: state, answer, tokens, cost, time.

    Prints how many answer the same, and the differences of some.

    Examples:
      infermq replay diff BATCH
      infermq replay diff BATCH --limit 100 --json
    """
    summary = _Summary()
    kept: list[Compared] = []

    async def read(client: Client) -> Batch:
        async for pair in client.replay_diff(batch):
            summary.add(pair)
            if len(kept) < limit and (every or pair.comparison is not Comparison.SAME):
                kept.append(pair)
        return await client.batch(batch)

    with reporting_errors():
        state = with_client(url, data, read)
    still = state.counts.admitted - state.counts.settled()
    if as_json:
        print_json({"summary": summary.as_json() | {"open": still}, "pairs": kept})
        return
    _print_summary(summary, still)
    for pair in kept:
        _print_pair(pair)
    different = summary.pairs - summary.comparisons[Comparison.SAME]
    if (left := (summary.pairs if every else different) - len(kept)) > 0:
        out.print(f"\n… and {left} more: --limit {len(kept) + left}")


def _print_summary(summary: _Summary, still: int) -> None:
    for comparison in Comparison:
        if number := summary.comparisons[comparison]:
            out.print(f"{number:>8} {_WORDS[comparison]}")
    if still:
        out.print(f"{still:>8} have not ended yet")
    if not summary.pairs:
        out.print("there is nothing to compare: no job of this batch has ended that repeats another")
        return
    old_ms, new_ms = summary.medians()
    (old_in, new_in), (old_out, new_out), (old, new) = summary.input_tokens, summary.output_tokens, summary.cost
    print_table(
        ("", "old>", "new>"),
        [
            ("tokens in", old_in, new_in),
            ("tokens out", old_out, new_out),
            ("cost", money(old), money(new)),
            ("median run", duration(old_ms), duration(new_ms)),
        ],
    )


_WORDS = {
    Comparison.SAME: "answer the same",
    Comparison.DIFFERENT: "answer something else",
    Comparison.NOW_SUCCEEDS: "succeed now",
    Comparison.NOW_FAILS: "fail now",
    Comparison.BOTH_FAIL: "fail again",
    Comparison.UNKNOWN: "repeat jobs that are gone from the ledger",
}


def _print_pair(pair: Compared) -> None:
    where = pair.custom_id or (f"job {pair.new.job}" if pair.line is None else f"line {pair.line}")
    alike = "" if pair.similarity is None else f", {pair.similarity:.0%} of the words alike"
    out.print(f"\n[bold]{plain(where)}[/]: {pair.comparison.replace('_', ' ')}{alike}")
    rows = [_side("old", pair.old), _side("new", pair.new)]
    print_table(("", "state", "model", "ran on", "tokens>", "cost>", "run>"), [row for row in rows if row])
    for change in pair.changes:
        _print_change(change)
    if pair.more_changes:
        out.print(f"  … and {pair.more_changes} more fields")


def _side(name: str, side: Side | None) -> tuple[object, ...]:
    if side is None:
        return ()
    state = side.state if side.failure is None else f"{side.state}: {side.failure}"
    tokens = f"{side.usage.input_tokens} + {side.usage.output_tokens}"
    return name, state, side.model, side.deployment or "-", tokens, money(side.cost_nano_usd), duration(side.run_ms)


def _print_change(change: Change) -> None:
    if change.path:
        out.print(f"  {plain(change.path)}")
    for sign, colour, text in (("-", "red", change.old), ("+", "green", change.new)):
        if text is not None:
            out.print(f"  [{colour}]{sign} {plain(text)}[/]")
