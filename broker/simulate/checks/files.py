"""What must hold of files and of the batches that were made of them, once everything is quiet."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

from broker.core.openai_batch import ERRORS, OUTPUT, shown_batch
from broker.core.records import FileBatchState
from broker.ports import Ledger
from broker.roles.files import FileDrop
from broker.service.files import FileService
from broker.simulate.cast.file_callers import GivenBatch
from broker.simulate.system import System
from broker.simulate.world.world import BEGAN_MS
from schemas import subjects
from schemas.units import Ms

_WITHIN_S = 60.0
_DAY_MS = 25 * 3600 * 1000
"""After which what is left of uploads that were cut off is dropped; and after as long again, what was put there since."""


def broken_files(system: System) -> list[str]:
    """Read all files and batches as their tenant would; then drop what can be dropped, and look what is left."""
    process = system.world.process("reader")
    checks = _Checks(system)
    process.start(checks.run())
    if not system.world.run(lambda: process.is_over, within_s=_WITHIN_S):
        return [*checks.wrong, "files cannot be read to their ends"]
    return [*system.files.wrong, *checks.wrong]


class _Checks:
    def __init__(self, system: System) -> None:
        self._system = system
        self._ledger: Ledger = system.ledger()
        self._service = FileService(
            ledger=self._ledger.files,
            stores=self._ledger.stores,
            file_batches=self._ledger.file_batches,
            clock=self._now,
            entropy=lambda: 0,
        )
        self.wrong: list[str] = []

    def _now(self) -> Ms:
        return Ms(BEGAN_MS + int(self._system.world.now_s() * 1000))

    async def run(self) -> None:
        for batch, given in self._system.files.batches.items():
            state = await self._ledger.file_batches.find(batch, subjects.DEFAULT)
            if state is None:
                self.wrong.append(f"batch {batch} of a file was accepted and is not there")
            else:
                await self._batch(state, given)
        for file, data in self._system.files.whole.items():
            await self._file(file, data)
        self._nothing_left_of_dropped()
        await self._drop(_DAY_MS)
        await self._drop(2 * _DAY_MS)
        self._left()

    async def _drop(self, later_ms: int) -> None:
        await FileDrop(
            ledger=self._ledger.files, stores=self._ledger.stores, clock=lambda: Ms(self._now() + later_ms)
        ).drop()

    def _nothing_left_of_dropped(self) -> None:
        """But for what a process has put there that could not drop it again: that is done a day later."""
        tables = self._system.tables
        there = {row.id for row in tables.files if row.dropped_ms is None}
        left = {piece.file for piece in tables.blobs if piece.by.troubles == piece.troubles} - there
        self.wrong += [f"pieces of the file {file} are there after it was dropped" for file in sorted(left)]

    async def _batch(self, state: FileBatchState, given: GivenBatch) -> None:
        batch = state.batch.id
        contents = [await _whole(self._service.lines(state, which)) for which in (OUTPUT, ERRORS)]
        output, errors = ([json.loads(line) for line in content.splitlines()] for content in contents)
        wrong = [*self._ends(state, given), *self._lines(state, given, output, errors)]
        if (sizes := await self._ledger.file_batches.sizes(state)) != tuple(map(len, contents)):
            wrong.append(f"has files of {[*map(len, contents)]} bytes, and says {sizes}")
        counts = shown_batch(state, [])["request_counts"]
        if state.failed_ms is None and counts != _counts(state, output, errors):
            wrong.append(f"counts {counts}, with {len(output)} lines of output and {len(errors)} of errors")
        self.wrong += [f"batch {batch} of a file {what}" for what in wrong]

    def _ends(self, state: FileBatchState, given: GivenBatch) -> list[str]:
        """Whether it failed as a whole, or ran."""
        if state.expanded_ms is None and state.failed_ms is None:
            return ["is not made of its lines yet"]
        if state.failed_ms is not None and given.runs:
            return ["failed, and its lines could run"]
        if state.failed_ms is None and not given.runs and state.batch.cancel_ms is None:
            return ["runs, and should have failed"]
        if state.failed_ms is not None and state.batch.counts.admitted:
            return [f"failed, and {state.batch.counts.admitted} of its lines are jobs"]
        return []

    def _lines(
        self,
        state: FileBatchState,
        given: GivenBatch,
        output: list[dict[str, object]],
        errors: list[dict[str, object]],
    ) -> list[str]:
        """Each line stands once in what it came to, and ended as it may."""
        names = Counter([str(one["custom_id"]) for one in (*output, *errors)])
        expected = Counter({str(name): times for name, times in given.content.names().items()})
        if state.failed_ms is not None:
            expected = Counter(map(str, given.content.bad)) or Counter(["None"])
        is_cut = state.batch.cancel_ms is not None
        if names != expected and not (is_cut and names <= expected):
            return [f"lacks {dict(expected - names)} and has {dict(names - expected)} too many"]
        return [
            f"has among its {which} {line}, and that may end as {', '.join(sorted(ends))}"
            for name, ends in given.content.good.items()
            for which, lines in ((OUTPUT, output), (ERRORS, errors))
            for line in lines
            if line["custom_id"] == name and not self._may(state, line, ends, is_output=which == OUTPUT)
        ]

    def _may(self, state: FileBatchState, line: dict[str, object], ends: frozenset[str], *, is_output: bool) -> bool:
        error = line["error"]
        code = error["code"] if isinstance(error, dict) else None
        if code == "duplicate_custom_id":
            return True
        if code == "batch_cancelled":
            told = self._system.told
            return state.batch.id in told.meddled or any(
                tenant == subjects.DEFAULT for _, tenant in told.meddled_models
            )
        return "succeeded" in ends if is_output else bool(ends - {"succeeded"})

    async def _file(self, file: UUID, data: bytes) -> None:
        found = await self._ledger.files.find(file, subjects.DEFAULT, self._now())
        if found is None:
            self.wrong.append(f"file {file} was stored, nobody has deleted it, and it is not there")
        elif await _whole(self._service.content(found, 0, found.bytes)) != data:
            self.wrong.append(f"file {file} is not what was stored")

    def _left(self) -> None:
        """Of what was dropped nothing is left, and what was not is whole."""
        tables = self._system.tables
        sizes: dict[UUID, int] = {}
        for piece in tables.blobs:
            sizes[piece.file] = sizes.get(piece.file, 0) + len(piece.data)
        self.wrong += [
            f"pieces of the file {file} are left, which was dropped" for file in sizes if file not in tables.files
        ]
        for row in tables.files:
            if row.stored_ms is None or row.deleted_ms is not None:
                self.wrong.append(f"file {row.id} is not dropped")
            elif sizes.get(row.id, 0) != row.bytes:
                self.wrong.append(f"file {row.id} has {row.bytes} bytes, in pieces of {sizes.get(row.id, 0)}")
        if names := len(tables.line_names):
            self.wrong.append(f"{names} names of lines are left, whose batches were checked")


def _counts(
    state: FileBatchState, output: list[dict[str, object]], errors: list[dict[str, object]]
) -> dict[str, int]:
    return {"total": state.lines, "completed": len(output), "failed": len(errors)}


async def _whole(parts: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in parts])
