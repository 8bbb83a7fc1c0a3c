"""From a grader's shape to the function that scores an answer."""

from collections.abc import Callable, Mapping
from typing import Any

from service.training.graders import templates
from service.training.graders.faults import GraderFault
from service.training.graders.formula import FUNCTIONS, Formula
from service.training.graders.shapes import (
    Grader,
    LabelModelGrader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)
from service.training.graders.similarity import METRICS, similarity

Grade = Callable[[str, Mapping[str, Any]], float | None]
"""Scores an answer for an item; None where a formula has no value.

Raises GraderFault when the item lacks a field that the grader names.
"""

_CHECKS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


def compile_grader(grader: Grader, param: str = "") -> Grade:
    """Make the function. Raises GraderFault, whose `param` begins with the one given."""
    match grader:
        case StringCheckGrader():
            check = _CHECKS[grader.operation]
            return _comparing(grader, lambda text, ref: float(check(text, ref)), param)
        case TextSimilarityGrader(evaluation_metric=metric):
            if metric not in METRICS:
                raise GraderFault(
                    f"The metric '{metric}' is not supported; these are: {', '.join(METRICS)}.",
                    _under(param, "evaluation_metric"),
                )
            return _comparing(grader, lambda text, ref: similarity(metric, text, ref), param)
        case MultiGrader():
            return _combining(grader, param)
        case PythonGrader():
            reason = "Graders of the type 'python' are not supported: they would run tenants' code."
        case ScoreModelGrader() | LabelModelGrader():
            reason = "Graders that ask a model are not supported."
    raise GraderFault(reason, _under(param, "type"))


def _comparing(
    grader: StringCheckGrader | TextSimilarityGrader, score: Callable[[str, str], float], param: str
) -> Grade:
    text = templates.parse(grader.input, _under(param, "input"))
    reference = templates.parse(grader.reference, _under(param, "reference"))
    return lambda answer, item: score(text.fill(answer, item), reference.fill(answer, item))


def _combining(grader: MultiGrader, param: str) -> Grade:
    for name in grader.graders:
        if not (name.isascii() and name.isidentifier()) or name in FUNCTIONS:
            message = f"The name '{name[:100]}' cannot stand in a formula."
            raise GraderFault(message, _under(param, "graders"))
    parts = {
        name: compile_grader(part, _under(param, f"graders.{name}"))
        for name, part in grader.graders.items()
    }
    try:
        formula = Formula(grader.calculate_output, parts)
    except GraderFault as fault:
        raise GraderFault(f"{fault.message}.", _under(param, fault.param)) from None

    def grade(answer: str, item: Mapping[str, Any]) -> float | None:
        # Parts never are formulas themselves, so each has a score.
        return formula.value({name: part(answer, item) or 0.0 for name, part in parts.items()})

    return grade


def _under(param: str, field: str) -> str:
    return f"{param}.{field}".lstrip(".")
