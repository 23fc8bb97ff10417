"""Small wrong edits of SQL statements."""

import re
from collections.abc import Iterator

from tests.mutation.edits import Edit

_COMMENT = re.compile(r"--[^\n]*")
_SET = re.compile(r"\bset\b.*?(?=\bfrom\b|\bwhere\b|\breturning\b|\Z)", re.DOTALL)
"""An equals sign there is no comparison."""
_CONDITION = r"[\w.$:]+(?:\s+is(?:\s+not)?\s+null|\s*(?:<>|<=|>=|=|<|>)\s*(?:any\([^)]*\)|[\w.$:']+))"
_RULES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("comparison", re.compile(r"(?<![<>!:])=(?![<>])"), "<>"),
    ("comparison", re.compile(r"<=(?!>)"), "<"),
    ("comparison", re.compile(r">="), ">"),
    ("comparison", re.compile(r"(?<!<)>(?![=>])"), ">="),
    ("comparison", re.compile(r"<(?![=>])"), "<="),
    ("condition taken out", re.compile(rf"(?<=\band )\s*{_CONDITION}"), "true"),
    ("condition taken out", re.compile(rf"(?<=\bwhere )\s*{_CONDITION}"), "true"),
    ("and/or", re.compile(r"\band\b"), "or"),
    ("and/or", re.compile(r"\bor\b"), "and"),
    ("order taken out", re.compile(r"\border by [^()\n]*?(?=\s+(?:limit|rows|for)\b|\)|\n|\Z)"), ""),
    ("order turned round", re.compile(r"\bdesc\b"), "asc"),
    ("limit taken out", re.compile(r"\blimit [\w$]+"), ""),
    ("lock taken out", re.compile(r"\bfor (?:no key )?update\b"), ""),
    ("null", re.compile(r"\bis not null\b"), "is null"),
    ("null", re.compile(r"\bis null\b"), "is not null"),
    ("arithmetic", re.compile(r"(?<=[\w)] )\+(?= )"), "-"),
    ("constant", re.compile(r"(?<![\w$.'])\d+(?![\w.'])"), "7"),
    ("conflict", re.compile(r"\bon conflict(?: \(\w+\))? do nothing\b"), ""),
    ("default taken out", re.compile(r"\bcoalesce\((?P<kept>[\w.]+), [^()]*?\)"), r"\g<kept>"),
    ("once or all", re.compile(r"\bexists \("), "not exists ("),
)


def sql_edits(file: str, text: str) -> list[Edit]:
    """All of them, in the order of the text."""
    return sorted(_found(file, text), key=lambda edit: (edit.start, edit.end, edit.becomes))


def _found(file: str, text: str) -> Iterator[Edit]:
    code = _COMMENT.sub(lambda comment: " " * len(comment[0]), text)
    assignments = [clause.span() for clause in _SET.finditer(code)]
    for kind, pattern, becomes in _RULES:
        for match in pattern.finditer(code):
            start, end = match.span()
            if match[0] == "=" and any(low <= start < high for low, high in assignments):
                continue
            line = code.count("\n", 0, start) + 1
            yield Edit(file, line, start, end, match.expand(becomes), kind)
