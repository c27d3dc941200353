"""Mutants of a module: mutmut's operators, and those that it lacks, without changes that no test should notice."""

from __future__ import annotations

import difflib
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import libcst as cst
from mutmut.mutation.mutators import mutation_operators

from tools.mutants.table import modules

T = TypeVar("T")
FALSE = {"None", "False", "0", "0.0", "()", "{}", "[]", '""'}
LOGS = {"log", "logger", "warnings"}
CHOICES = ("_SECONDS", "_ROUNDS", "_BYTES", "_CHARS")
WAITS = ("timeout", "_seconds")  # given as numbers: 5 or 6 seconds
CLOCK = re.compile(r"monotonic\(\)|\bnow\b")
KNOB = 10  # from here on the exact value of a constant is a choice: 30 or 31 seconds


@dataclass(frozen=True)
class _Place:
    path: str
    module: cst.Module
    operator: str
    node: cst.CSTNode
    changed: Any


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One changed line of a module."""

    group: str
    path: str
    line: int
    operator: str
    diff: str
    code: str  # the whole module


def sample(root: Path, *, n: int, seed: int, only: str = "") -> list[Mutant]:
    """Return n mutants, or all if there are fewer: as many of each group, and in it of each operator, as there are."""
    dice = random.Random(seed)
    found: dict[str, Iterator[Mutant]] = {}
    for group, paths in modules(root).items():
        every: dict[str, list[_Place]] = defaultdict(list)
        for place in (place for path in paths if only in path for place in _places(root, path)):
            every[place.operator].append(place)
        for places in every.values():
            dice.shuffle(places)
        operators = dice.sample(sorted(every), len(every))
        found[group] = _made(group, _in_turn({name: iter(every[name]) for name in operators}))
    return list(islice(_in_turn(found), n))


def _in_turn(found: dict[str, Iterator[T]]) -> Iterator[T]:
    while found:
        for name in list(found):
            try:
                yield next(found[name])
            except StopIteration:
                del found[name]


def _made(group: str, places: Iterable[_Place]) -> Iterator[Mutant]:
    seen = set()
    for place in places:
        before, after = place.module.code, place.module.deep_replace(place.node, place.changed).code
        if after == before or after in seen or not _compiles(after):
            continue
        seen.add(after)
        lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))
        line = int(lines[2].split()[1].lstrip("-").partition(",")[0])
        yield Mutant(
            group=group,
            path=place.path,
            line=line,
            operator=place.operator,
            diff="\n".join(lines[3:]),
            code=after,
        )


def _compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _places(root: Path, path: str) -> list[_Place]:
    module = cst.parse_module((root / path).read_text(encoding="utf-8"))
    finder = _Finder(module)
    module.visit(finder)
    return [_Place(path, module, *found) for found in finder.found]


class _Finder(cst.CSTVisitor):
    """Collects operators with a node and what they put in its place."""

    def __init__(self, module: cst.Module) -> None:
        super().__init__()
        self.found: list[tuple[str, cst.CSTNode, Any]] = []
        self._code = module.code_for_node
        self._depth = 0  # of functions
        # Numbers of rows of which the first is read, and of random bytes; the very moment of a deadline.
        self._enough: set[cst.CSTNode] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if self._no_behaviour(node):
            return False
        self._depth += isinstance(node, cst.FunctionDef)
        for kind, operator in [*mutation_operators, *OPERATORS]:
            if isinstance(node, kind):
                changes = [changed for changed in operator(node) if not self._alike(node, changed)]
                if isinstance(node, cst.BaseString):
                    del changes[1:]  # the others change the case alone
                self.found += [(operator.__name__, node, changed) for changed in changes]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self._depth -= isinstance(original_node, cst.FunctionDef)

    def _no_behaviour(self, node: cst.CSTNode) -> bool:
        """Annotations, names for export, logs, sentences, assertions (`strict`, too), other platforms, limits."""
        match node:
            case cst.Annotation() | cst.Decorator() | cst.Import() | cst.ImportFrom() | cst.Assert():
                return True
            case cst.Arg(keyword=cst.Name("strict")):
                return True
            case cst.SimpleString() | cst.FormattedString() | cst.ConcatenatedString():
                return _is_sentence(self._code(node))
            case cst.Arg(keyword=cst.Name(name), value=cst.Integer() | cst.Float()) if name.endswith(WAITS):
                return self._code(node.value) not in FALSE
            case cst.Arg():
                return _is_sentence(self._code(node.value))
            case cst.Expr(value=cst.Call() as call):
                return self._code(call.func).partition(".")[0] in LOGS
            case cst.Assign():
                name = self._code(node.targets[0].target)
                value = self._code(node.value)
                choice = not self._depth and name.endswith(CHOICES)
                return name in LOGS or name.startswith("__") or choice or "Literal[" in value or _is_sentence(value)
            case cst.Call(func=cst.Attribute(attr=cst.Name("limit")), args=[cst.Arg(value=cst.Integer())]):
                self._enough.add(node.args[0].value)
            case cst.Arg(keyword=cst.Name("limit"), value=cst.Integer()):
                self._enough.add(node.value)
            case cst.Comparison() if CLOCK.search(self._code(node)):
                self._enough.update(target.operator for target in node.comparisons)
            case cst.Param(default=cst.Integer() as value) if float(value.evaluated_value) >= KNOB:
                self._enough.add(value)
            case cst.Call(func=cst.Attribute(value=cst.Name("secrets")), args=[cst.Arg(value=cst.Integer())]):
                self._enough.add(node.args[0].value)
            case cst.IfExp() if _is_sentence(self._code(node.orelse)) or _is_sentence(self._code(node.body)):
                return True
            case cst.If(body=cst.IndentedBlock(body=[cst.SimpleStatementLine(body=[cst.Expr() as only])]), orelse=None):
                return self._no_behaviour(only)
            case cst.If() | cst.IfExp():
                return "sys.platform" in self._code(node.test)
            case cst.LessThan() | cst.LessThanEqual() | cst.GreaterThan() | cst.GreaterThanEqual():
                return node in self._enough
            case cst.Integer() | cst.Float():
                return node in self._enough or (not self._depth and float(node.evaluated_value) >= KNOB)
        return False

    def _alike(self, node: cst.CSTNode, changed: cst.CSTNode) -> bool:
        """Another false value for a false one; a call without the sentence or the false value it had."""
        match node:
            case cst.Assign() | cst.AnnAssign() | cst.Return():
                return node.value is not None and self._code(node.value) in FALSE
            case cst.Lambda():
                return self._code(node.body) in FALSE
            case cst.Call() if isinstance(changed, cst.Call):
                gone = [self._code(arg.value) for arg in node.args if not any(arg is kept for kept in changed.args)]
                return any(_is_sentence(code) or code in FALSE for code in gone)
        return False


def _is_sentence(code: str) -> bool:
    """Whether an expression is a text for people: a literal with a space."""
    return code.lstrip("rbfRBF")[:1] in ("'", '"') and " " in code


def _without(node: cst.Expr | cst.Raise | cst.AugAssign) -> Iterable[cst.CSTNode]:
    if not isinstance(node, cst.Expr) or isinstance(node.value, cst.Call | cst.Yield):
        yield cst.Pass()


def _no_result(node: cst.Return) -> Iterable[cst.CSTNode]:
    if node.value is not None:
        yield node.with_changes(value=None)


def _negated(node: cst.If | cst.While | cst.CompIf) -> Iterable[cst.CSTNode]:
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(operator=cst.Not(), expression=test))


OPERATORS: list[tuple[type | tuple[type, ...], Callable[[Any], Iterable[cst.CSTNode]]]] = [
    ((cst.Expr, cst.Raise, cst.AugAssign), _without),
    (cst.Return, _no_result),
    ((cst.If, cst.While, cst.CompIf), _negated),
]
