"""Files of requests, as callers make them: with good lines and bad ones, short and of several pieces, or empty."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.simulate.cast.told import KINDS
from schemas.endpoints import CHAT, EMBEDDINGS

_LONG = 200_000
_BLANK = b" " * _LONG + b"\n"
_USABLE = tuple(kind for kind in KINDS if kind.model != "nobody" and kind.words != "expires")


@dataclass(frozen=True, slots=True)
class Content:
    """A file, and what is known of its lines."""

    data: bytes
    good: dict[str, frozenset[str]]
    """How each good line may end, by its custom id."""
    bad: tuple[str | None, ...]
    """The custom ids of the bad lines, as far as they can be read."""

    def names(self) -> Counter[str | None]:
        """How often each custom id stands in what a batch of it comes to, if its good lines run."""
        return Counter([*self.good, *self.bad])


@dataclass(slots=True)
class _Making:
    chance: random.Random
    lines: list[bytes] = field(default_factory=list)
    good: dict[str, frozenset[str]] = field(default_factory=dict)
    bad: list[str | None] = field(default_factory=list)

    def new_name(self) -> str:
        return f"c{len(self.good)}-{self.chance.getrandbits(24):x}"

    def add_good(self) -> None:
        kind = self.chance.choices(_USABLE, [one.weight for one in _USABLE])[0]
        name = self.new_name()
        self.good[name] = kind.ends
        words = f"{kind.words} {self.chance.getrandbits(48):x}"
        self.lines.append(self._line(name, kind.model, words, self.chance.randint(*kind.tokens)))

    def add_bad(self) -> None:
        kinds: tuple[Callable[[], tuple[bytes, str | None]], ...] = (
            self._no_json, self._wrong_url, self._unknown_model, self._twice, self._too_long, self._streamed,
        )  # fmt: skip
        line, name = self.chance.choice(kinds)()
        self.lines.append(line)
        self.bad.append(name)

    def _line(self, name: str, model: str, words: str, tokens: int, **more: object) -> bytes:
        if self.chance.random() < 0.03:
            more["user"] = "x" * self.chance.randrange(_LONG)
        body = {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": tokens, **more}
        return json.dumps({"custom_id": name, "method": "POST", "url": CHAT.path, "body": body}).encode()

    def _no_json(self) -> tuple[bytes, None]:
        return b'{"custom_id": "half', None

    def _wrong_url(self) -> tuple[bytes, str]:
        name = self.new_name() + "-url"
        return json.dumps(
            {"custom_id": name, "url": EMBEDDINGS.path + "x", "body": {"model": "quick"}}
        ).encode(), name

    def _unknown_model(self) -> tuple[bytes, str]:
        name = self.new_name() + "-model"
        return self._line(name, "nobody", "quick", 2), name

    def _twice(self) -> tuple[bytes, str | None]:
        if not self.good:
            return self._no_json()
        name = self.chance.choice(list(self.good))
        return self._line(name, "quick", "quick again", 2), name

    def _too_long(self) -> tuple[bytes, None]:
        return self._line("long", "quick", "x" * 300_000, 2), None

    def _streamed(self) -> tuple[bytes, str]:
        name = self.new_name() + "-stream"
        return self._line(name, "quick", "quick", 2, stream=True), name


def a_content(chance: random.Random) -> Content:
    """Make a file. What is blank in it is no line."""
    making = _Making(chance)
    bad = chance.choice((0.0, 0.0, 0.0, 0.2, 1.0))
    for _ in range(chance.choice((0, 1, 3, 8, 20))):
        (making.add_bad if chance.random() < bad else making.add_good)()
    ends, blank = [b"\n", b"\n", b"\r\n", b"\n\n"], chance.choice((0.0, 0.0, 0.05, 0.3))
    parts = []
    for line in making.lines:
        parts += [line, chance.choice(ends)]
        if chance.random() < blank:
            parts.append(chance.choice((_BLANK * chance.randint(1, 6), b"\n" * 2100)))
    return Content(b"".join(parts), making.good, tuple(making.bad))
