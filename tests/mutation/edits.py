"""Small wrong edits of Python source: what a slip of the hand, or a careless change, could leave behind.

Left out, since no test should depend on them: logs, metrics, reprs, annotations, words of messages, and plain numbers that
have a name at module level, which are tunings.
"""

import ast
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_WRITTEN: dict[type[ast.AST], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.And: "and",
    ast.Or: "or",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
}
_TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_SILENT = ("log", "metrics", "_metrics", "warnings")
"""What is only observed."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of one file."""

    file: str
    line: int
    start: int
    end: int
    """Offsets into the text, in characters."""
    becomes: str
    kind: str
    within: str = ""
    """The innermost function around it."""

    def applied(self, text: str) -> str:
        return text[: self.start] + self.becomes + text[self.end :]

    def shown(self, text: str) -> tuple[str, str]:
        """The lines that it touches, before and after; they name it, wherever it moves in its file."""
        first = text.rfind("\n", 0, self.start) + 1
        last = text.find("\n", self.end)
        last = len(text) if last < 0 else last
        before = text[first:last]
        after = text[first : self.start] + self.becomes + text[self.end : last]
        return " ".join(before.split()), " ".join(after.split())


def python_edits(file: str, text: str) -> list[Edit]:
    """All of them, in the order of the text."""
    found = _Finder(file, text)
    found.visit(ast.parse(text))
    return sorted(found.edits, key=lambda edit: (edit.start, edit.end, edit.becomes))


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.edits: list[Edit] = []
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = text.splitlines()
        self._around: list[str] = []
        """The functions around what is visited."""

    def _at(self, line: int, column: int) -> int:
        """The offset of a position of `ast`, whose columns count bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _source(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self.text[start:end]

    def _add(self, node: ast.expr | ast.stmt, becomes: str, kind: str) -> None:
        start, end = self._span(node)
        self._found(node.lineno, start, end, becomes, kind)

    def _between(self, left: ast.expr, right: ast.expr, before: str, becomes: str, kind: str) -> None:
        """The operator between two operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        at = self.text.find(before, start, end)
        if at >= 0:
            line = self.text.count("\n", 0, at) + 1
            self._found(line, at, at + len(before), becomes, kind)

    def _found(self, line: int, start: int, end: int, becomes: str, kind: str) -> None:
        within = self._around[-1] if self._around else ""
        self.edits.append(Edit(self.file, line, start, end, becomes, kind, within))

    # what is left out

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "__repr__":
            return
        self._around.append(node.name)
        for default in [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]:
            self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self._around.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for keyword in node.keywords:
            if keyword.arg == "forbid_unknown_fields":  # the other options of a Struct are the type checker's
                self.visit(keyword.value)
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not self._around and isinstance(node.value, ast.Constant | ast.BinOp | ast.UnaryOp | ast.Call):
            return
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add(node, "pass", "statement taken out")
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if self._source(node.test) == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """It only tells the type checker."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Words of a message."""

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "pass", "statement taken out")

    # edits

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(value, ast.Call):
            if set(ast.unparse(value.func).split(".")) & set(_SILENT) or ast.unparse(value.func) == "assert_never":
                return
            self._add(node, "pass", "statement taken out")
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "pass", "statement taken out")
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        if not isinstance(node.targets[0], ast.Name):  # `del ask` says that an argument is not used
            self._add(node, "pass", "statement taken out")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "pass", "statement taken out")

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "pass", "statement taken out")

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp | ast.NamedExpr) and ast.unparse(test) != "True":
            self._add(test, f"not ({self._source(test)})", "condition turned round")

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._add(test, "True", "filter taken out")
        self.generic_visit(node)

    def visit_match_case(self, node: ast.match_case) -> None:
        if node.guard is not None:
            self._negate(node.guard)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            self._between(left, right, _WRITTEN[type(operator)], _COMPARISONS[type(operator)], "comparison")
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        before = _WRITTEN[type(node.op)]
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, before, "or" if before == "and" else "and", "and/or")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, f"bool({self._source(node.operand)})", "condition turned round")
        self.visit(node.operand)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        becomes = _ARITHMETIC.get(type(node.op))
        sides = (node.left, node.right)
        texts = any(isinstance(s, ast.JoinedStr) or isinstance(getattr(s, "value", None), str | bytes) for s in sides)
        if becomes is not None and not texts:
            self._between(node.left, node.right, _WRITTEN[type(node.op)], becomes, "arithmetic")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        match node.value:
            case bool() as value:
                self._add(node, str(not value), "constant")
            case int() as value:
                self._add(node, str(value + 1), "constant")
            case float() as value:
                self._add(node, str(value * 2 + 1), "constant")

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            if node.func.id in _TWINS:
                self._add(node.func, _TWINS[node.func.id], "its opposite")
            if node.func.id == "sorted" and node.args:
                self._add(node, f"list({self._source(node.args[0])})", "order taken out")
        self.generic_visit(node)
