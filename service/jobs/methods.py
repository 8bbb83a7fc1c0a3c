"""What `dpo` and `reinforcement` add to the fields that all methods share. Pure."""

import math
from typing import Any

import msgspec

from service.errors import BadRequest
from service.jobs.create_schemas import DpoChoice, ReinforcementChoice, SupervisedChoice
from service.jobs.schemas import (
    DpoHyperparameters,
    DpoMethod,
    JobMethod,
    ReinforcementHyperparameters,
    ReinforcementMethod,
    SupervisedMethod,
)
from service.training.graders.faults import GraderFault
from service.training.graders.grading import compile_grader
from service.training.spec import DpoSpec, ReinforcementSpec, TrainingSpec, held_out

BETA = 0.1
COMPLETIONS = 8
"""Sampled for each prompt at a `compute_multiplier` of 1."""

PATH = "method.reinforcement"


def of_its_kind(
    chosen: SupervisedChoice, shared: SupervisedMethod, spec: TrainingSpec, rows: int
) -> tuple[TrainingSpec, JobMethod]:
    """Add what the chosen method needs to spec and job. Raises BadRequest naming the field."""
    match chosen:
        case DpoChoice():
            return _dpo(chosen, shared, spec)
        case ReinforcementChoice():
            return _reinforcement(chosen, shared, spec, rows)
        case _:
            return spec, _shown(type="supervised", supervised=shared)


def _dpo(
    chosen: DpoChoice, shared: SupervisedMethod, spec: TrainingSpec
) -> tuple[TrainingSpec, JobMethod]:
    beta = _or(chosen.hyperparameters.beta, BETA)
    knobs = DpoHyperparameters(**_fields(shared.hyperparameters), beta=beta)
    method = DpoMethod(**_fields(shared) | {"hyperparameters": knobs})
    spec = msgspec.structs.replace(spec, method="dpo", dpo=DpoSpec(beta=beta))
    return spec, _shown(type="dpo", dpo=method)


def _reinforcement(
    chosen: ReinforcementChoice, shared: SupervisedMethod, spec: TrainingSpec, rows: int
) -> tuple[TrainingSpec, JobMethod]:
    _check(chosen, shared)
    asked = chosen.hyperparameters
    train = rows - held_out(rows, spec.validation_split)
    knobs = ReinforcementHyperparameters(
        **_fields(shared.hyperparameters),
        compute_multiplier=_or(asked.compute_multiplier, 1.0),
        eval_interval=_or(asked.eval_interval, max(1, math.ceil(train / spec.batch_size))),
        eval_samples=_or(asked.eval_samples, 1),
        reasoning_effort="default",
    )
    mine: dict[str, Any] = {
        "grader": chosen.grader,
        "max_completion_tokens": chosen.max_completion_tokens,
    }
    method = ReinforcementMethod(**_fields(shared) | mine | {"hyperparameters": knobs})
    added = ReinforcementSpec(
        **mine,
        completions=round(COMPLETIONS * knobs.compute_multiplier),
        eval_interval=knobs.eval_interval,
        eval_samples=knobs.eval_samples,
    )
    spec = msgspec.structs.replace(spec, method="reinforcement", reinforcement=added)
    return spec, _shown(type="reinforcement", reinforcement=method)


def _check(chosen: ReinforcementChoice, shared: SupervisedMethod) -> None:
    try:
        compile_grader(chosen.grader, f"{PATH}.grader")
    except GraderFault as fault:
        raise BadRequest(fault.message, param=fault.param) from None
    if chosen.hyperparameters.reasoning_effort != "default":
        message = "The base has no levels of reasoning effort: only 'default' is supported."
        raise BadRequest(message, param=f"{PATH}.hyperparameters.reasoning_effort")
    if chosen.max_completion_tokens >= shared.max_length:
        message = f"No room is left for a prompt: max_length is {shared.max_length} tokens."
        raise BadRequest(message, param=f"{PATH}.max_completion_tokens")


def _shown(**given: Any) -> JobMethod:
    return JobMethod(**{"supervised": None, "dpo": None, "reinforcement": None} | given)


def _fields(struct: Any) -> dict[str, Any]:
    return msgspec.structs.asdict(struct)


def _or(chosen: Any, default: Any) -> Any:
    return default if chosen == "auto" else chosen
