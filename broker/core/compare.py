"""Compares what a job came to with what its repetition came to: text by text, or field by field where both are JSON."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from schemas.api import State
from schemas.codec import UNREADABLE
from schemas.repeats import Change, Compared, Comparison, Side

MOST_CHANGES = 20
"""How many fields that differ are named."""
MOST_WORDS = 2000
"""Texts of more words are not measured for similarity, which takes the square of it."""
_SHOWN = 200
"""How many characters of a value are shown."""
_AROUND = 30
"""How many characters before the first difference of two texts are shown."""
_WORDS = re.compile(r"\w+|[^\w\s]")
_MISSING = object()


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has ended, with its answer."""

    side: Side
    body: bytes | None
    """The OpenAI response. None: it did not succeed."""


def compared(old: Ended | None, new: Ended, *, custom_id: str | None, line: int | None) -> Compared:
    """Put the two side by side."""
    found = Compared(
        comparison=_comparison(old, new),
        custom_id=custom_id,
        line=line,
        old=None if old is None else old.side,
        new=new.side,
    )
    if old is None or old.body is None or new.body is None:
        return found
    before, after = _answer(old.body), _answer(new.body)
    if not (changes := list(_changes(before, after, ""))):
        return found
    is_text = isinstance(before, str) and isinstance(after, str)
    return msgspec.structs.replace(
        found,
        comparison=Comparison.DIFFERENT,
        changes=tuple(changes[:MOST_CHANGES]),
        more_changes=max(0, len(changes) - MOST_CHANGES),
        similarity=_similarity(before, after) if is_text else None,
    )


def _comparison(old: Ended | None, new: Ended) -> Comparison:
    if old is None:
        return Comparison.UNKNOWN
    match (old.side.state is State.SUCCEEDED, new.side.state is State.SUCCEEDED):
        case (True, True):
            return Comparison.SAME
        case (False, True):
            return Comparison.NOW_SUCCEEDS
        case (True, False):
            return Comparison.NOW_FAILS
        case _:
            return Comparison.BOTH_FAIL


def text_of(body: bytes | None) -> str:
    """Return the text of an answer; JSON where it has none."""
    if body is None:
        return ""
    answer = _answer(body, parse=False)
    return answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()


def _answer(body: bytes, *, parse: bool = True) -> Any:
    """Return what a response answers, without its id, times and counts: the text of its only choice, or what that text holds
    if it is JSON; else all choices, or the vectors.
    """
    response = _parsed(body)
    if not isinstance(response, dict):
        return body.decode(errors="replace")
    if not isinstance(choices := response.get("choices"), list):
        return response.get("data", response)
    answers = [_choice(choice) for choice in choices]
    if len(answers) != 1:
        return answers
    if isinstance(answers[0], str) and parse and answers[0].lstrip()[:1] in {"{", "["}:
        held = _parsed(answers[0].encode())
        return answers[0] if held is None else held
    return answers[0]


def _choice(choice: Any) -> Any:
    """Return the text of a choice; its message, if that holds more."""
    if not isinstance(choice, dict):
        return choice
    message = choice.get("message")
    if not isinstance(message, dict):
        return choice.get("text", choice)
    told = {name: value for name, value in message.items() if value and name != "role"}
    return told.get("content", "") if told.keys() <= {"content"} else told


def _changes(old: Any, new: Any, path: str) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(name, _MISSING), new.get(name, _MISSING), f"{path}.{name}" if path else name)
    elif isinstance(old, list) and isinstance(new, list):
        for place in range(max(len(old), len(new))):
            before, after = (side[place] if place < len(side) else _MISSING for side in (old, new))
            yield from _changes(before, after, f"{path}[{place}]")
    elif isinstance(old, str) and isinstance(new, str):
        if old != new:
            yield Change(path, *_first_difference(old, new))
    elif isinstance(old, bool) is not isinstance(new, bool) or old != new:
        yield Change(path, _shown(old), _shown(new))


def _first_difference(old: str, new: str) -> tuple[str, str]:
    """Return both texts from shortly before where they differ first."""
    same = next(
        (place for place, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    start = max(0, same - _AROUND)
    head = "…" if start else ""
    return _cut(head + old[start:]), _cut(head + new[start:])


def _shown(value: Any) -> str | None:
    return None if value is _MISSING else _cut(msgspec.json.encode(value).decode())


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _similarity(old: str, new: str) -> float | None:
    words, others = _WORDS.findall(old), _WORDS.findall(new)
    if max(len(words), len(others)) > MOST_WORDS:
        return None
    return round(difflib.SequenceMatcher(None, words, others, autojunk=False).ratio(), 3)


def _parsed(text: bytes) -> Any:
    """Parse JSON; None if it is none."""
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return None
