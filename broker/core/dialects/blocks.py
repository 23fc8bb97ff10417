"""Says which block of an answer begins, grows or ends with a piece of a chat completion's stream.

A block is what other APIs number in an answer: some reasoning, a text, a refusal, or a call of a tool. A block ends when
the next one begins. A call whose arguments are not complete stays open, since a few engines send several calls by turns.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import msgspec

from broker.core.dialects.answers import CallPiece, Said

_any = msgspec.json.Decoder()


class Kind(Enum):
    REASONING = auto()
    TEXT = auto()
    REFUSAL = auto()
    CALL = auto()


@dataclass(slots=True, eq=False)
class Block:
    kind: Kind
    place: int = -1
    """Its number in the answer. -1: it has not begun, since the name of the tool has not come."""
    call: str = ""
    """The id of a call; empty: the engine gave it none."""
    name: str = ""
    """The tool that is called."""
    parts: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    is_open: bool = True

    @property
    def text(self) -> str:
        """The text so far, or the arguments of a call."""
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class Opened:
    block: Block


@dataclass(frozen=True, slots=True)
class Grew:
    block: Block
    text: str
    logprobs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Closed:
    block: Block


Change = Opened | Grew | Closed


class Blocks:
    """The blocks of one answer, in their order."""

    def __init__(self, *, shows_reasoning: bool = True) -> None:
        self._shows_reasoning = shows_reasoning
        self.all: list[Block] = []
        self._calls: dict[int, Block] = {}
        """The calls by their index in the chat completion, those that have not begun too."""
        self._recent: list[Block] = []
        """The blocks that have begun or grown since the last one began. Only they can have become complete."""

    def add(self, said: Said) -> list[Change]:
        """Take the next piece."""
        changes: list[Change] = []
        if self._shows_reasoning:
            changes += self._add_text(Kind.REASONING, said.reasoning)
        changes += self._add_text(Kind.TEXT, said.text, said.logprobs)
        changes += self._add_text(Kind.REFUSAL, said.refusal)
        for call in said.calls:
            changes += self._add_call(call)
        return changes

    def end(self, whole: Said) -> list[Change]:
        """Take the whole answer, which may say what no piece did, and end all blocks. There is at least one, maybe empty."""
        changes = self.add(self._rest(whole))
        if all(block.kind is Kind.REASONING for block in self.all):
            changes += self._begin(Block(Kind.TEXT))
        return changes + self._close([block for block in self.all if block.is_open])

    def _add_text(self, kind: Kind, text: str, logprobs: tuple[dict[str, Any], ...] = ()) -> list[Change]:
        if not text:
            return []
        block = next((block for block in self._recent if block.is_open and block.kind is kind), None)
        begun: list[Change] = []
        if block is None:
            block = Block(kind)
            begun = self._begin(block)
        return [*begun, *self._grow(block, text, logprobs)]

    def _add_call(self, piece: CallPiece) -> list[Change]:
        block = self._calls.setdefault(piece.number, Block(Kind.CALL))
        block.call = block.call or piece.id
        if block.place >= 0:
            return self._grow(block, piece.arguments) if block.is_open else []
        block.name = piece.name
        block.parts.append(piece.arguments)
        if not block.name:
            return []
        arguments, block.parts = block.text, []
        return [*self._begin(block), *self._grow(block, arguments)]

    def _begin(self, block: Block) -> list[Change]:
        closed = self._close([one for one in self._recent if one.is_open and _is_complete(one)])
        self._recent = [block]
        block.place = len(self.all)
        self.all.append(block)
        return [*closed, Opened(block)]

    def _grow(self, block: Block, text: str, logprobs: tuple[dict[str, Any], ...] = ()) -> list[Change]:
        if not text:
            return []
        if block not in self._recent:
            self._recent.append(block)
        block.parts.append(text)
        block.logprobs += logprobs
        return [Grew(block, text, logprobs)]

    @staticmethod
    def _close(blocks: list[Block]) -> list[Change]:
        for block in blocks:
            block.is_open = False
        return [Closed(block) for block in blocks]

    def _rest(self, whole: Said) -> Said:
        """Return what the whole answer says beyond the pieces so far."""
        indexes = sorted(self._calls)
        beyond = max(indexes, default=-1) + 1
        calls = []
        for place, call in enumerate(whole.calls):
            index = indexes[place] if place < len(indexes) else beyond + place
            known = self._calls.get(index, Block(Kind.CALL))
            calls.append(call._replace(number=index, arguments=_beyond(known.text, call.arguments)))
        return Said(
            reasoning=_beyond(self._text(Kind.REASONING), whole.reasoning),
            text=_beyond(self._text(Kind.TEXT), whole.text),
            refusal=_beyond(self._text(Kind.REFUSAL), whole.refusal),
            calls=tuple(calls),
            logprobs=() if self._text(Kind.TEXT) else whole.logprobs,
        )

    def _text(self, kind: Kind) -> str:
        return "".join(block.text for block in self.all if block.kind is kind)


def _is_complete(block: Block) -> bool:
    """Say whether no more of a block can come once another has begun: arguments are complete when they are JSON."""
    if block.kind is not Kind.CALL:
        return True
    try:
        _any.decode(block.text)
    except (ValueError, RecursionError):
        return False
    return True


def _beyond(so_far: str, whole: str) -> str:
    return whole[len(so_far) :] if whole.startswith(so_far) else ""
