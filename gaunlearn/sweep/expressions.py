"""Arithmetic in specifications: derived values ("4 * m") and filters ("d >= 2 * m").

A small subset of Python's expressions, read by Python's parser and evaluated here: numbers and
quoted strings, names of parameters, + - * / // % **, comparisons, and, or, not, and a few
functions. Nothing else of the language can be reached; nothing is ever executed.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Expression", "ExpressionError", "parse"]


class ExpressionError(ValueError):
    """An expression that cannot be read or has no value; the message says why."""


Lookup = Callable[[str], Any]
_Node = Callable[[Lookup], Any]

_MAX_LENGTH = 500
# Integers beyond this are no parameters of anything; powers of powers would take for ever, and
# Python refuses to print what is longer than some thousand digits.
_MAX_BITS = 256
# Python would compute 10 to that power.
_MAX_DIGITS = 400


class Expression(NamedTuple):
    """A parsed expression.

    Attributes:
        text: as it was written.
        names: the parameters that it refers to, as written ("m", "data.m").
        node: evaluates it; called by ``value``.
    """

    text: str
    names: frozenset[str]
    node: _Node

    def value(self, lookup: Lookup) -> Any:
        """Its value, names being looked up; what ``lookup`` raises passes unchanged.

        Raises:
            ExpressionError: division by zero, overflow, a comparison of text with a number.
        """
        try:
            return self.node(lookup)
        except ExpressionError as error:
            raise ExpressionError(f"{self.text!r}: {error}") from None


def _apply(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives.

    Raises:
        ExpressionError: it gives nothing, or a whole number that is too large.
    """
    try:
        found = function(*arguments)
    except (ZeroDivisionError, OverflowError, TypeError, ValueError) as error:
        raise ExpressionError(str(error)) from None
    if isinstance(found, int) and found.bit_length() > _MAX_BITS:
        raise ExpressionError("a whole number is too large")
    return found


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base.bit_length() * exponent > _MAX_BITS:
            raise OverflowError("a whole number is too large")
        return base**exponent
    found = float(base) ** float(exponent)
    if isinstance(found, complex):
        raise ValueError(f"{base} ** {exponent} is not real")
    return found


def _round(value: Any, digits: int = 0, /) -> Any:
    if abs(digits) > _MAX_DIGITS:
        raise ValueError(f"cannot round to {digits} digits")
    return round(value, digits) if digits else round(value)


def _times(a: Any, b: Any) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        raise TypeError("text cannot be multiplied")
    return a * b


def _modulo(a: Any, b: Any) -> Any:
    if isinstance(a, str):
        raise TypeError("text has no remainder")
    return a % b


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false: write a comparison")
    return value


_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _times,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: _modulo,
    ast.Pow: _power,
}
_UNARY: Mapping[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: lambda value: not _truth(value),
}
_COMPARE: Mapping[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": _round,
    "sqrt": math.sqrt,
}
_ALLOWED = (
    "numbers, names of parameters, + - * / // % **, comparisons, and, or, not, "
    f"and {', '.join(_FUNCTIONS)}"
)


def _constant(value: Any) -> _Node:
    return lambda _: value


def _name(name: str) -> _Node:
    return lambda lookup: lookup(name)


def _build(node: ast.expr, names: set[str]) -> _Node:
    match node:
        case ast.Constant(value=bool() | int() | float() | str()):
            return _constant(_apply(lambda: node.value))
        case ast.Name():
            names.add(node.id)
            return _name(node.id)
        case ast.Attribute(value=ast.Name(id=section), attr=key):
            names.add(f"{section}.{key}")
            return _name(f"{section}.{key}")
        case ast.UnaryOp() if type(node.op) in _UNARY:
            apply_one, operand = _UNARY[type(node.op)], _build(node.operand, names)
            return lambda lookup: _apply(apply_one, operand(lookup))
        case ast.BinOp() if type(node.op) in _BINARY:
            apply_two = _BINARY[type(node.op)]
            left, right = _build(node.left, names), _build(node.right, names)
            return lambda lookup: _apply(apply_two, left(lookup), right(lookup))
        case ast.BoolOp():
            parts = [_build(value, names) for value in node.values]
            combine = all if isinstance(node.op, ast.And) else any
            return lambda lookup: combine(_apply(_truth, part(lookup)) for part in parts)
        case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
            terms = [_build(value, names) for value in (node.left, *node.comparators)]
            tests = [_COMPARE[type(op)] for op in node.ops]
            return lambda lookup: all(
                _apply(test, terms[place](lookup), terms[place + 1](lookup))
                for place, test in enumerate(tests)
            )
        case ast.Call(func=ast.Name(id=called), keywords=[]) if called in _FUNCTIONS:
            function = _FUNCTIONS[called]
            arguments = [_build(value, names) for value in node.args]
            return lambda lookup: _apply(function, *(argument(lookup) for argument in arguments))
    raise ExpressionError(f"{ast.unparse(node)!r} cannot stand here; allowed are {_ALLOWED}")


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ExpressionError: it is not one, or has more in it than is allowed.
    """
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"is longer than {_MAX_LENGTH} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        names: set[str] = set()
        node = _build(tree.body, names)
    except (SyntaxError, MemoryError, RecursionError):
        raise ExpressionError(f"{text!r} is not an expression; allowed are {_ALLOWED}") from None
    return Expression(text, frozenset(names), node)
