"""Rows as the wire shows them. Pure."""

from collections.abc import Sequence

import msgspec

from service.database.models import JobCheckpointRow, JobEventRow, JobRow
from service.jobs.lifecycle import Status, is_terminal
from service.jobs.schemas import (
    CheckpointMetrics,
    Hyperparameters,
    Job,
    JobCheckpoint,
    JobCheckpointList,
    JobError,
    JobEvent,
    JobEventList,
    JobList,
    JobMethod,
    Publish,
)
from service.wire import page


def job(row: JobRow) -> Job:
    """Show a job."""
    status = Status(row.status)
    method = _method(row)
    return Job(
        id=row.id,
        object="fine_tuning.job",
        created_at=row.created_at,
        error=_error(row),
        fine_tuned_model=row.fine_tuned_model,
        finished_at=row.finished_at,
        hyperparameters=msgspec.convert(
            method.chosen().hyperparameters, Hyperparameters, from_attributes=True
        ),
        model=row.model,
        organization_id=row.tenant_id,
        result_files=[],
        seed=row.seed,
        status=status,
        trained_tokens=row.trained_tokens if is_terminal(status) else None,
        training_file=row.training_file,
        validation_file=row.validation_file,
        estimated_finish=row.estimated_finish if status is Status.RUNNING else None,
        integrations=row.integrations,
        metadata=row.job_metadata,
        method=method,
        suffix=row.suffix,
        adapter=row.adapter,
        publish=None if row.publish_alias is None else Publish(alias=row.publish_alias),
        priority=row.priority,
    )


def job_list(rows: Sequence[JobRow], limit: int) -> JobList:
    """Show a page of jobs; the row beyond `limit` only tells that there are more."""
    return JobList(
        object="list", data=[job(row) for row in rows[:limit]], has_more=len(rows) > limit
    )


def event(row: JobEventRow) -> JobEvent:
    """Show an event."""
    return JobEvent(
        id=row.id,
        object="fine_tuning.job.event",
        created_at=row.created_at,
        level=row.level,
        message=row.message,
        type=row.type,
        data=row.data,
    )


def event_list(rows: Sequence[JobEventRow], limit: int) -> JobEventList:
    """Show a page of events; the row beyond `limit` only tells that there are more."""
    return JobEventList(
        object="list", data=[event(row) for row in rows[:limit]], has_more=len(rows) > limit
    )


def checkpoint_list(rows: Sequence[JobCheckpointRow], limit: int) -> JobCheckpointList:
    """Show a page of checkpoints; the row beyond `limit` only tells that there are more."""
    data = [_checkpoint(row) for row in rows[:limit]]
    return page(JobCheckpointList, data, has_more=len(rows) > limit)


def _checkpoint(row: JobCheckpointRow) -> JobCheckpoint:
    return JobCheckpoint(
        id=row.id,
        object="fine_tuning.job.checkpoint",
        created_at=row.created_at,
        fine_tuned_model_checkpoint=row.model_name,
        fine_tuning_job_id=row.job_id,
        metrics=CheckpointMetrics(
            step=row.step_number,
            train_loss=row.metrics.get("train_loss"),
            train_mean_token_accuracy=row.metrics.get("train_mean_token_accuracy"),
            valid_loss=row.metrics.get("valid_loss"),
            valid_mean_token_accuracy=row.metrics.get("valid_mean_token_accuracy"),
            full_valid_loss=row.metrics.get("full_valid_loss"),
            full_valid_mean_token_accuracy=row.metrics.get("full_valid_mean_token_accuracy"),
        ),
        step_number=row.step_number,
    )


def _method(row: JobRow) -> JobMethod:
    # Rows of jobs that were accepted before there was such a choice.
    newer = {"eval_steps": None, "early_stopping": None, "base_adapter": None}
    kind = row.method["type"]
    others = {"supervised": None, "dpo": None, "reinforcement": None}
    return msgspec.convert(others | row.method | {kind: newer | row.method[kind]}, JobMethod)


def _error(row: JobRow) -> JobError | None:
    if row.error_code is None:
        return None
    return JobError(
        code=row.error_code, message=row.error_message or row.error_code, param=row.error_param
    )
