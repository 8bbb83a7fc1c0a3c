"""Why a job that would be accepted is known to fail. Pure."""

from collections.abc import Sequence

from service.base.memory_plan import admit
from service.jobs.plan_survey import Found
from service.jobs.runtimes import Report
from service.training.batch.faults import check_measurable, held_otherwise, no_room
from service.training.counting import none_left
from service.training.spec import TrainingSpec
from service.training.trainer import TrainingError


def unfit(spec: TrainingSpec, found: Found, alive: Sequence[Report]) -> TrainingError | None:
    """Give what training would fail with, by the data or on a runtime that may claim the job."""
    if not found.train.kept:
        return none_left(spec)
    try:
        if spec.method == "supervised":
            check_measurable(spec, found.validation.kept)
    except TrainingError as fault:
        return fault
    return next(filter(None, (_unfit_there(spec, found, one) for one in alive)), None)


def _unfit_there(spec: TrainingSpec, found: Found, there: Report) -> TrainingError | None:
    held, memory = there.hardware.quantization, there.hardware.memory
    if spec.quantization not in ("auto", held):
        return held_otherwise(held)
    # What the other methods take is not planned: they are tried.
    if memory is None or spec.method != "supervised":
        return None
    refusal = admit(memory, spec.lora, found.train.longest)
    return None if refusal is None else no_room(refusal)
