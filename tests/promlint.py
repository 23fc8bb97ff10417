"""What `promtool check metrics` would say of a page of metrics, and some more: units, and series that come twice."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

_SERIES = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?P<labels>\{.*\})? (?P<value>\S+)$")
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
_NOT_BASE = re.compile(
    r"_(milliseconds|ms|microseconds|minutes|hours|days|kilobytes|kb|megabytes|mb|percent|usd)(_|$)"
)
"""Units that are not seconds, bytes or a ratio. Money is counted in whole nano-dollars, which no float rounds."""


def faults(page: str) -> list[str]:
    """Name what is wrong with a page, one line a fault."""
    help_of = dict(re.findall(r"^# HELP (\S+) (.*)$", page, re.MULTILINE))
    type_of = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    series = [line for line in page.splitlines() if line and not line.startswith("#")]
    found = [*_of_families(help_of, type_of), *_of_series(series, type_of)]
    return found if page.endswith("\n") else [*found, "the last line does not end"]


def _of_families(help_of: dict[str, str], type_of: dict[str, str]) -> Iterator[str]:
    for name, kind in type_of.items():
        if not help_of.get(name):
            yield f"{name}: no help"
        if (kind == "counter") != name.endswith("_total"):
            yield f"{name}: a {kind} by this name"
        if kind not in _PARTS and name.endswith(("_bucket", "_sum", "_count", "_created", "_info_total")):
            yield f"{name}: an ending that is a part of others"
        if re.search(r"[A-Z:]", name):
            yield f"{name}: capitals or colons"
        if _NOT_BASE.search(name.replace("_nano_usd", "")):
            yield f"{name}: not in a base unit"
        if re.search(r"_(counter|gauge|histogram|summary)(_|$)", name):
            yield f"{name}: its type in its name"


def _of_series(series: Sequence[str], type_of: dict[str, str]) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for line in series:
        if (match := _SERIES.match(line)) is None:
            yield f"not a series: {line}"
            continue
        name, labels = match["name"], match["labels"] or ""
        seen[name + labels] += 1
        families = {name, *(name.removesuffix(part) for kind in _PARTS for part in _PARTS[kind])}
        of = [type_of[family] for family in families if family in type_of]
        if not of:
            yield f"{name}: no type"
        if "histogram" not in of and re.search(r'[{,]le="', labels):
            yield f"{name}: the label le is of histograms"
    yield from (f"{one}: comes {times} times" for one, times in seen.items() if times > 1)
