"""Arithmetic expressions of named quantities: parsed once, checked for units, computed for one patient or many.

Numbers, names, + - * / **, min, max, sqrt, exp, log, and `sum(group.quantity)` over the members of a group. Values are () or
(m,) for m patients, and may be complex, so that complex-step derivatives work: min and max choose by the real part.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError, UnitError
from tdt_core.kinetics.units import PURE, Unit

Array = npt.NDArray[Any]
Quantities = Mapping[str, Array]
"""Values by full name, each () or (m,)."""


@dataclass(frozen=True)
class Node:
    """A node of an expression: a number, a name (both in `value`), or an operation on `args`."""

    op: str
    args: tuple[Node, ...] = ()
    value: float | str = 0.0

    @cached_property
    def names(self) -> frozenset[str]:
        """Quantities that it is computed from."""
        if self.op == "name":
            return frozenset([str(self.value)])
        return frozenset().union(*(a.names for a in self.args))


def _smaller(a: Array, b: Array) -> Array:
    return np.where(np.real(a) <= np.real(b), a, b)


def _larger(a: Array, b: Array) -> Array:
    return np.where(np.real(a) >= np.real(b), a, b)


_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_TWO: dict[str, Callable[[Array, Array], Array]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "min": _smaller,
    "max": _larger,
}
_ONE: dict[str, Callable[[Array], Array]] = {"neg": lambda a: -a, "sqrt": np.sqrt, "exp": np.exp, "log": np.log}


def parse(owner: str, text: str, resolve: Callable[[str], str], members: Callable[[str], Sequence[str]]) -> Node:
    """Tree of an expression.

    Parameters
    ----------
    owner : quantity whose rule it is, for errors. resolve : makes a full name of a written one. members : scopes of a group.

    Raises
    ------
    ModelError `model.rule` for what is no arithmetic, and what `resolve` and `members` raise.
    """

    def refuse(node: ast.AST) -> ModelError:
        return ModelError(
            f"the rule of {owner} holds {ast.unparse(node)!r}",
            expected="numbers, names, + - * / **, min, max, sqrt, exp, log, sum(group.quantity)",
            remedy=f"rewrite the row {owner} = {text}",
            kind="model.rule",
        )

    def walk(node: ast.AST) -> Node:
        match node:
            case ast.Constant(value=bool()):
                raise refuse(node)
            case ast.Constant(value=int() | float() as number):
                return Node("number", value=float(number))
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(), attr=name):
                return Node("name", value=resolve(ast.unparse(node)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Node("neg", (walk(operand),))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return walk(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return Node(_OPERATORS[type(op)], (walk(left), walk(right)))
            case ast.Call(func=ast.Name(id="sum"), args=[ast.Attribute(value=ast.Name(id=group), attr=name)], keywords=[]):
                terms = tuple(Node("name", value=resolve(f"{scope}.{name}")) for scope in members(group))
                return Node("+", terms) if terms else Node("number", value=0.0)
            case ast.Call(func=ast.Name(id=name), args=[operand], keywords=[]) if name in _ONE and name != "neg":
                return Node(name, (walk(operand),))
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[_, _, *_] as operands, keywords=[]):
                return Node(name, tuple(walk(a) for a in operands))
        raise refuse(node)

    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise ModelError(
            f"the rule of {owner} does not parse: {text!r}",
            expected="a number or an arithmetic expression",
            remedy=f"correct the row {owner}",
            kind="model.rule",
        ) from None
    return walk(tree)


def compiled(node: Node) -> Callable[[Quantities], Array]:
    """The tree as nested functions of the quantities."""
    if node.op == "number":
        number = np.float64(node.value)
        return lambda q: number  # type: ignore[return-value]
    if node.op == "name":
        name = str(node.value)
        return lambda q: q[name]
    parts = [compiled(a) for a in node.args]
    if node.op in _ONE:
        one, part = _ONE[node.op], parts[0]
        return lambda q: one(part(q))
    two = _TWO[node.op]
    if len(parts) == 2:
        left, right = parts
        return lambda q: two(left(q), right(q))
    return lambda q: reduce(two, (p(q) for p in parts))


def unit(node: Node, unit_of: Callable[[str], Unit]) -> Unit | None:
    """Unit of an expression; None for a zero, which has any. Raises UnitError where parts do not fit."""
    if node.op == "number":
        return None if node.value == 0 else PURE
    if node.op == "name":
        return unit_of(str(node.value))
    if node.op == "**":
        base, exponent = (unit(a, unit_of) or PURE for a in node.args)
        if not exponent.same(PURE):
            raise UnitError(f"an exponent is in {exponent}")
        if base.same(PURE):
            return PURE
        if node.args[1].names:
            raise UnitError(f"a power of something in {base} has an exponent that is no number")
        return base ** float(compiled(node.args[1])({}))
    units = [unit(a, unit_of) for a in node.args]
    if node.op in ("+", "-", "min", "max"):
        known = [u for u in units if u is not None]
        for other in known[1:]:
            if not other.same(known[0]):
                raise UnitError(f"{node.op} joins {known[0]} and {other}")
        return known[0] if known else None
    if node.op == "neg":
        return units[0]
    if node.op == "sqrt":
        return (units[0] or PURE) ** 0.5
    if node.op in ("exp", "log"):
        if units[0] is not None and not units[0].same(PURE):
            raise UnitError(f"{node.op} of something in {units[0]}")
        return PURE
    left, right = (u or PURE for u in units)
    return left * right if node.op == "*" else left / right
