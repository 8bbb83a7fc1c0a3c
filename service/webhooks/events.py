"""What webhooks are told of: OpenAI's event objects. Pure."""

from typing import Any, Literal, get_args

EventType = Literal[
    "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)


def event(event_id: str, kind: str, created_at: int, subject: str) -> dict[str, Any]:
    """Build the event that something of the id `subject` met with."""
    return {
        "id": event_id,
        "object": "event",
        "created_at": created_at,
        "type": kind,
        "data": {"id": subject},
    }
