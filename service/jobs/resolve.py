"""From what a tenant asked for to what is trained: bounds that depend on base and data, and `auto`.

Pure. Bounds that depend on nothing stand in create_schemas.
"""

import math
from typing import Any

import msgspec

from service.adapters.names import PATTERN, RESERVED, is_alias, is_name
from service.adapters.parents import FIELD as BASE_ADAPTER
from service.adapters.parents import Parent
from service.errors import BadRequest, MissingParameter, UnsupportedField
from service.jobs.create_schemas import (
    UNSERVABLE,
    CreateJob,
    DpoChoice,
    HyperparameterChoice,
    LoraChoice,
    MethodChoice,
    PublishChoice,
    SupervisedChoice,
)
from service.jobs.methods import of_its_kind
from service.jobs.schemas import (
    EarlyStopping,
    Hyperparameters,
    JobMethod,
    Lora,
    Quantization,
    SupervisedMethod,
)
from service.rendering.examples import RowFormat
from service.training import spec as training
from service.training.spec import (
    DEFAULT_TARGETS,
    MAX_RANK,
    LoraSpec,
    Method,
    TrainingSpec,
    held_out,
)

FEW_EXAMPLES = 100
BATCH_SIZE = 8
EPOCHS = 3
FEWEST_EPOCHS_OF_FEW, MOST_EPOCHS_OF_FEW = 5, 10
EXAMPLES_TO_SEE = 400
"""With few examples, epochs are added until this many were seen."""
LONGEST_BY_DEFAULT = 2048
ROWS: dict[Method, tuple[RowFormat, ...]] = {
    "supervised": ("messages", "instruction", "completion", "text"),
    "dpo": ("preference",),
    "reinforcement": ("reinforcement",),
}
METHODS = tuple(ROWS)
NOT_YET: dict[Method, tuple[str, ...]] = {
    "supervised": (),
    "dpo": ("early_stopping", "base_adapter"),
    # It has `eval_interval`.
    "reinforcement": ("early_stopping", "base_adapter", "eval_steps", "response_format"),
}
SPLIT, SPLIT_OF_FEW, MOST_HELD_OUT = 0.05, 0.1, 64

FINE_TUNED = "ft:"


class Facts(msgspec.Struct, frozen=True):
    """What a job meets here: the base's limits, the server's quantization, the file's rows."""

    base: str
    linear_modules: frozenset[str]
    context_length: int
    quantization: Quantization
    rows: int
    validation_file: bool
    row_format: RowFormat = "messages"
    validation_row_format: RowFormat | None = None
    parent: Parent | None = None
    """What the job goes on from."""
    max_rank: int = MAX_RANK
    """What the serving engine loads."""


def resolve(body: CreateJob, facts: Facts, seed: int) -> tuple[TrainingSpec, JobMethod]:
    """Decide what to train, and how the job shows it. Raises BadRequest naming the field."""
    refuse_unsupported(body)
    check_suffix(body.suffix, facts.base)
    check_publish(body.publish)
    kind = "supervised" if body.method is None else body.method.type
    check_rows(kind, facts)
    path = f"method.{kind}"
    chosen, knobs = _chosen(body)
    hyperparameters = _hyperparameters(knobs, facts.rows)
    validation_split = _validation_split(chosen.validation_split, facts, path)
    _check_measurable(chosen, facts, validation_split, path)
    method = SupervisedMethod(
        hyperparameters=hyperparameters,
        lora=_lora(chosen.lora, facts, path),
        quantization=_quantization(chosen.quantization, facts.quantization, path),
        learning_rate=chosen.learning_rate,
        max_length=_max_length(chosen.max_length, facts.context_length, path),
        warmup_ratio=chosen.warmup_ratio,
        gradient_clip=chosen.gradient_clip,
        validation_split=validation_split,
        eval_steps=chosen.eval_steps,
        early_stopping=_early_stopping(chosen),
        base_adapter=None if facts.parent is None else facts.parent.model,
    )
    return of_its_kind(chosen, method, _spec(method, facts.parent, seed), facts.rows)


def refuse_unsupported(body: CreateJob) -> None:
    """Raise UnsupportedField for a known field that would not be honoured."""
    method = body.method
    if method is not None:
        _refuse_others(method)
        chosen = getattr(method, method.type)
        _refuse_given(f"method.{method.type}", chosen, NOT_YET[method.type])
        if chosen is not None:
            _refuse_unservable(f"method.{method.type}.lora", chosen.lora)
    if body.integrations:
        raise _unsupported("integrations", "Integrations are not supported: nothing is reported.")


def wanted_parent(body: CreateJob) -> tuple[str, str] | None:
    """Tell which model a job goes on from, and which field says so. Raises BadRequest."""
    method = body.method
    named = method.supervised.base_adapter if method and method.supervised else None
    if not body.model.startswith(FINE_TUNED):
        return None if named is None else (named, BASE_ADAPTER)
    if method is not None and method.type != "supervised":
        raise _unsupported("model", f"'{method.type}' cannot go on from a fine-tuned model yet.")
    if named not in (None, body.model):
        message = "`model` and `base_adapter` name two models to go on from: leave one out."
        raise BadRequest(message, param=BASE_ADAPTER)
    return body.model, "model"


def check_suffix(suffix: str | None, base: str) -> None:
    """Raise BadRequest unless the suffix can be an adapter's name."""
    if suffix is None:
        return
    if not is_name(suffix):
        message = f"The suffix '{suffix}' names the adapter and must match ^{PATTERN}$."
        raise BadRequest(message, param="suffix")
    if suffix in RESERVED or suffix == base:
        raise BadRequest(f"The suffix '{suffix}' is reserved.", param="suffix")


def check_publish(publish: PublishChoice | None) -> None:
    """Raise BadRequest unless the result can be published under that name."""
    if publish is not None and not is_alias(publish.alias):
        message = f"An alias matches ^{PATTERN}$ and does not read as a revision."
        raise BadRequest(message, param="publish.alias")


def check_rows(kind: Method, facts: Facts) -> None:
    """Raise BadRequest unless the files' rows are what the method trains on."""
    given = {"training_file": facts.row_format, "validation_file": facts.validation_row_format}
    for param, shape in given.items():
        if shape is not None and shape not in ROWS[kind]:
            shapes = " or ".join(f"'{one}'" for one in ROWS[kind])
            message = f"The method '{kind}' trains on rows of the shape {shapes}; the file's are "
            raise BadRequest(f"{message}'{shape}'.", param=param)


def epochs(rows: int) -> int:
    """Choose the number of epochs: the fewer the examples, the more often each is seen."""
    if rows >= FEW_EXAMPLES:
        return EPOCHS
    wanted = math.ceil(EXAMPLES_TO_SEE / max(1, rows))
    return min(MOST_EPOCHS_OF_FEW, max(FEWEST_EPOCHS_OF_FEW, wanted))


def split(rows: int) -> float:
    """Choose the share of the rows to hold out."""
    if rows < FEW_EXAMPLES:
        return SPLIT_OF_FEW
    return min(SPLIT, MOST_HELD_OUT / rows)


def _chosen(body: CreateJob) -> tuple[SupervisedChoice, HyperparameterChoice]:
    if body.method is None:
        return SupervisedChoice(), body.hyperparameters or HyperparameterChoice()
    if body.hyperparameters not in (None, HyperparameterChoice()):
        message = "Give `method`, or the deprecated `hyperparameters`, but not both."
        raise BadRequest(message, param="hyperparameters")
    chosen = _of_type(body.method)
    return chosen, chosen.hyperparameters


def _of_type(method: MethodChoice) -> SupervisedChoice:
    match method.type:
        case "supervised":
            return method.supervised or SupervisedChoice()
        case "dpo":
            return method.dpo or DpoChoice()
        case "reinforcement" if method.reinforcement is not None:
            return method.reinforcement
    raise MissingParameter("method.reinforcement.grader")


def _refuse_others(method: MethodChoice) -> None:
    for other in METHODS:
        if other != method.type and getattr(method, other) is not None:
            message = f"The method's type is '{method.type}': leave '{other}' out."
            raise BadRequest(message, param=f"method.{other}")


def _hyperparameters(knobs: HyperparameterChoice, rows: int) -> Hyperparameters:
    multiplier = knobs.learning_rate_multiplier
    return Hyperparameters(
        batch_size=BATCH_SIZE if knobs.batch_size == "auto" else knobs.batch_size,
        learning_rate_multiplier=1.0 if multiplier == "auto" else multiplier,
        n_epochs=epochs(rows) if knobs.n_epochs == "auto" else knobs.n_epochs,
    )


def _lora(chosen: LoraChoice, facts: Facts, path: str) -> Lora:
    targets = _targets(chosen.target_modules, facts.linear_modules, path)
    given = LoraSpec() if facts.parent is None else facts.parent.lora
    if facts.parent is not None:
        _check_shape(chosen, given, path)
        targets = list(given.target_modules)
    rank = given.rank if chosen.rank is None else chosen.rank
    if rank > facts.max_rank:
        message = f"The serving engine loads adapters of rank {facts.max_rank} at most, not {rank}."
        raise BadRequest(message, param=f"{path}.lora.rank")
    return Lora(
        rank=rank,
        alpha=given.alpha if chosen.alpha is None else chosen.alpha,
        dropout=chosen.dropout,
        target_modules=targets,
        rslora=given.rslora if chosen.rslora is None else chosen.rslora,
    )


def _check_shape(chosen: LoraChoice, parent: LoraSpec, path: str) -> None:
    """Raise BadRequest for what is asked for otherwise than the parent has it."""
    for name in ("rank", "alpha", "rslora"):
        asked, there = getattr(chosen, name), getattr(parent, name)
        if asked is not None and asked != there:
            raise _other_shape(f"{path}.lora", name, str(there).lower())
    targets = chosen.target_modules
    if targets is not None and set(targets) != set(parent.target_modules):
        there = ", ".join(sorted(parent.target_modules))
        raise _other_shape(f"{path}.lora", "target_modules", there)


def _other_shape(path: str, name: str, there: str) -> BadRequest:
    message = f"The base adapter's {name} is {there}, and stays so: leave it out."
    return BadRequest(message, param=f"{path}.{name}")


def _targets(chosen: list[str] | None, modules: frozenset[str], path: str) -> list[str]:
    if chosen is None:
        # A base that calls its projections otherwise gets all of its linear layers.
        return [name for name in DEFAULT_TARGETS if name in modules] or sorted(modules)
    for name in chosen:
        if name not in modules:
            raise BadRequest(
                f"The base has no linear layer '{name}'; it has {', '.join(sorted(modules))}.",
                param=f"{path}.lora.target_modules",
            )
    return list(dict.fromkeys(chosen))


def _quantization(chosen: Quantization, server: Quantization, path: str) -> Quantization:
    if chosen == "auto":
        return server
    # One base is held for all jobs and answers. What an `auto` server chose, its runtime knows.
    if server not in (chosen, "auto"):
        message = f"This server holds its base as '{server}': leave it out, or ask for that."
        raise BadRequest(message, param=f"{path}.quantization", code="unsupported_value")
    return chosen


def _max_length(chosen: int | None, context_length: int, path: str) -> int:
    if chosen is None:
        return min(LONGEST_BY_DEFAULT, context_length)
    if chosen > context_length:
        message = f"The base's context is {context_length} tokens."
        raise BadRequest(message, param=f"{path}.max_length")
    return chosen


def _validation_split(chosen: float | None, facts: Facts, path: str) -> float:
    if not facts.validation_file:
        return split(facts.rows) if chosen is None else chosen
    if chosen:
        message = "Give `validation_file` or `validation_split`, but not both."
        raise BadRequest(message, param=f"{path}.validation_split")
    return 0.0


def _check_measurable(chosen: SupervisedChoice, facts: Facts, share: float, path: str) -> None:
    if facts.validation_file or held_out(facts.rows, share):
        return
    for name in ("eval_steps", "early_stopping"):
        if getattr(chosen, name) is not None:
            message = (
                f"`{name}` needs examples to measure on: give `validation_file`, or a "
                "`validation_split` above 0."
            )
            raise BadRequest(message, param=f"{path}.{name}")


def _early_stopping(chosen: SupervisedChoice) -> EarlyStopping | None:
    asked = chosen.early_stopping
    return None if asked is None else EarlyStopping(asked.patience, asked.min_delta)


def _spec(method: SupervisedMethod, parent: Parent | None, seed: int) -> TrainingSpec:
    knobs, lora, early = method.hyperparameters, method.lora, method.early_stopping
    return TrainingSpec(
        lora=LoraSpec(
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            target_modules=tuple(lora.target_modules),
            rslora=lora.rslora,
        ),
        quantization=method.quantization,
        n_epochs=knobs.n_epochs,
        batch_size=knobs.batch_size,
        learning_rate=method.learning_rate * knobs.learning_rate_multiplier,
        max_length=method.max_length,
        warmup_ratio=method.warmup_ratio,
        gradient_clip=method.gradient_clip,
        validation_split=method.validation_split,
        seed=seed,
        eval_steps=method.eval_steps,
        early_stopping=None
        if early is None
        else training.EarlyStopping(patience=early.patience, min_delta=early.min_delta),
        base_adapter=None if parent is None else parent.base_adapter,
    )


def _refuse_given(path: str, given: Any, fields: tuple[str, ...]) -> None:
    for field in fields:
        if getattr(given, field, None) is not None:
            param = f"{path}.{field}".lstrip(".")
            raise _unsupported(param, f"The parameter '{param}' is not supported yet.")


def _refuse_unservable(path: str, chosen: LoraChoice) -> None:
    for name in UNSERVABLE:
        # What PEFT writes where nothing special is wanted changes nothing.
        if getattr(chosen, name) not in (None, False, "none", [], {}):
            message = f"The serving engine loads plain LoRA only: it cannot serve '{name}'."
            raise _unsupported(f"{path}.{name}", message)


def _unsupported(param: str, message: str) -> UnsupportedField:
    return UnsupportedField(message, param=param)
