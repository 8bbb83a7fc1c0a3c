"""`calculate_output`: arithmetic in floating point over named scores, never evaluated as code."""

import ast
import math
from collections.abc import Callable, Collection, Mapping

from service.training.graders.faults import GraderFault

MOST_NODES = 300

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_ANY_NUMBER = ("min", "max")
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    # Of floats: never a complex number, nor an integer of any length.
    ast.Pow: math.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: lambda a: a,
    ast.USub: lambda a: -a,
}


class Formula:
    """A parsed formula. `value` is finite, or None where there is none: 1/0, log 0, an overflow."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        """Raises GraderFault for what is no arithmetic over these names."""
        self._root = _parsed(text)
        nodes = list(ast.walk(self._root))
        if len(nodes) > MOST_NODES:
            raise _fault("is too long")
        _check(self._root, frozenset(names))

    def value(self, scores: Mapping[str, float]) -> float | None:
        """Compute it."""
        try:
            value = float(_value(self._root, scores))
        except (ArithmeticError, ValueError):
            return None
        return value if math.isfinite(value) else None


def _parsed(text: str) -> ast.expr:
    try:
        # OpenAI writes powers with ^, which Python binds otherwise.
        return ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _fault("is not an arithmetic expression") from None


def _check(node: ast.expr, names: frozenset[str]) -> None:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            _check_number(number)
        case ast.Name(id=name):
            if name not in names:
                raise _fault(f"names '{name}', which is not in graders")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check(left, names)
            _check(right, names)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            _check(operand, names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            if not args or (len(args) > 1 and name not in _ANY_NUMBER):
                raise _fault(f"gives {name} {len(args)} arguments")
            for arg in args:
                _check(arg, names)
        case _:
            known = ", ".join(FUNCTIONS)
            raise _fault(f"may only hold numbers, names, + - * / ^ and {known}")


def _check_number(number: float) -> None:
    try:
        float(number)
    except OverflowError:
        raise _fault("holds a number that is too great") from None


def _value(node: ast.expr, scores: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=number):
            return float(number)  # type: ignore[arg-type]  # checked to be a number
        case ast.Name(id=name):
            return scores[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, scores), _value(right, scores))
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, scores))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(arg, scores) for arg in args]
            return float(FUNCTIONS[name](*values) if len(values) > 1 else _one(name, values[0]))
        case _:
            raise AssertionError("a checked formula holds nothing else")


def _one(name: str, value: float) -> float:
    # min and max of a single number would take it for a list.
    return value if name in _ANY_NUMBER else FUNCTIONS[name](value)


def _fault(reason: str) -> GraderFault:
    return GraderFault(f"calculate_output {reason}", "calculate_output")
