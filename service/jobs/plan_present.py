"""What was found, as the wire shows it. Pure."""

from service.jobs.plan_answers import Answers
from service.jobs.plan_schemas import (
    FrequentAnswer,
    PlannedAnswers,
    PlannedData,
    PlannedExamples,
    PlannedQuota,
    PlannedSteps,
)
from service.jobs.plan_survey import Found
from service.tenants.limits import Limits
from service.tenants.quotas import Use
from service.training.batch.order import order_of
from service.training.counting import Total
from service.training.spec import TrainingSpec, warmup_steps

QUOTAS = ("queued_jobs", "trained_tokens_per_month", "adapters")
"""That a job uses, and whose use is known beforehand."""


def data(found: Found, rows: int) -> PlannedData:
    """Show what the files hold."""
    return PlannedData(
        rows=rows,
        train=_examples(found.train),
        validation=_examples(found.validation),
        duplicates=found.duplicates,
        overlap=found.overlap,
        compared_rows=found.compared,
        answers=_answers(found.answers),
    )


def steps(spec: TrainingSpec, train: Total) -> PlannedSteps | None:
    """Show the optimizer steps, if there are any."""
    if not train.kept:
        return None
    planned = order_of(spec, train.kept)
    return PlannedSteps(
        per_epoch=planned.steps_per_epoch,
        total=planned.total_steps,
        warmup=warmup_steps(spec.warmup_ratio, planned.total_steps),
    )


def quotas(limits: Limits, used: Use, asked: Use) -> list[PlannedQuota]:
    """Show what a job would use."""
    return [
        PlannedQuota(
            quota=name,
            asked=getattr(asked, name),
            used=getattr(used, name),
            limit=getattr(limits, name),
        )
        for name in QUOTAS
    ]


def _examples(total: Total) -> PlannedExamples:
    return PlannedExamples(
        examples=total.kept,
        tokens=total.tokens,
        longest=total.longest,
        truncated=total.cut,
        dropped=total.dropped,
    )


def _answers(answers: Answers) -> PlannedAnswers:
    frequent = [
        FrequentAnswer(answer=one.answer, count=one.count, share=one.count / answers.count)
        for one in answers.frequent
    ]
    return PlannedAnswers(
        count=answers.count,
        near_empty=answers.near_empty,
        different=answers.different,
        most_frequent=frequent,
    )
