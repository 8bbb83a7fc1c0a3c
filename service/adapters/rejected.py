"""What is said of a revision that the publish gate rejected."""

from service.database.models import RevisionRow
from service.errors import Conflict

PUBLISHED, REJECTED = "published", "rejected"


def reason_of(row: RevisionRow) -> str:
    """Say what the gate found wrong, with the figures."""
    reason: str = (row.gate or {}).get("reason") or "it gave no reason"
    return reason


def revision_rejected(row: RevisionRow, param: str = "model") -> Conflict:
    """Say that a revision cannot be used, and why; `param` named it."""
    message = (
        f"The revision {row.adapter}@{row.rev} was rejected by the publish gate and cannot be "
        f"used: {reason_of(row)}"
    )
    return Conflict(message, param=param, code="revision_rejected")
