"""What the task itself did wrong, in the words of the solo trainer."""

from service.base.memory_plan import Refusal
from service.training.spec import TrainingSpec
from service.training.trainer import TrainingError


def non_finite(what: str) -> TrainingError:
    """Say that the arithmetic overflowed."""
    message = f"{what} is no longer a finite number; a lower learning rate may help"
    return TrainingError(message, "non_finite_loss", "method.supervised.learning_rate")


def too_long(tokens: int) -> TrainingError:
    """Say that not even one example fits into the memory that there is."""
    message = f"There is no memory to train on an example of {tokens} tokens"
    return TrainingError(message, "out_of_memory", "method.supervised.max_length")


def no_room(refusal: Refusal) -> TrainingError:
    """Say beforehand that the adapter, or its longest example, does not fit, with the figures."""
    adapter = refusal.cause == "adapter"
    what = "an adapter of this shape" if adapter else "examples this long"
    field = "lora.rank" if adapter else "max_length"
    message = f"There is no memory to train {what}: {refusal.figures}"
    return TrainingError(message, "out_of_memory", f"method.supervised.{field}")


def held_otherwise(held: str) -> TrainingError:
    """Say that the job wants the base held otherwise than it is here, once for all."""
    message = f"This server holds its base as '{held}', and trains on that one base"
    return TrainingError(message, "unsupported_value", "method.supervised.quantization")


def bad_shape(reason: str) -> TrainingError:
    """Say that the base cannot carry such an adapter."""
    message = f"The base cannot carry this adapter: {reason}"
    return TrainingError(message, "invalid_value", "method.supervised.lora")


def bad_parent(reason: str) -> TrainingError:
    """Say that training cannot go on from the adapter it was told to."""
    message = f"The base adapter cannot be gone on from: {reason}"
    return TrainingError(message, "invalid_adapter", "method.supervised.base_adapter")


def check_measurable(spec: TrainingSpec, held_out: int) -> None:
    """Raise TrainingError if a task has nothing to measure with, though it needs that."""
    asked = {"early_stopping": spec.early_stopping, "eval_steps": spec.eval_steps}
    for name, value in asked.items():
        if value is not None and not held_out:
            raise nothing_to_measure(name)


def nothing_to_measure(field: str) -> TrainingError:
    """Say that there is no held-out example, though `field` needs some."""
    message = f"No held-out example has a token to measure, and {field} needs some"
    return TrainingError(message, "no_validation_examples", f"method.supervised.{field}")


def no_such_layer(target: str) -> TrainingError:
    """Say that a target is not there."""
    message = f"The base has no linear layer '{target}'"
    return TrainingError(message, "invalid_value", "method.supervised.lora.target_modules")
