"""Every row. All that belongs to a tenant carries `tenant_id`; `seq` gives lists their order."""

from service.database.models.adapters import (
    AdapterRow,
    AliasVersionRow,
    EngineIdRow,
    FineTunedModelRow,
    MergeRow,
    RevisionRow,
)
from service.database.models.columns import Json, Leased
from service.database.models.datasets import FileRow, UploadPartRow, UploadRow
from service.database.models.jobs import (
    FINISHED_JOBS,
    JobCheckpointRow,
    JobEventRow,
    JobRow,
    RuntimeRow,
)
from service.database.models.tenancy import (
    ApiKeyRow,
    AuditRow,
    ErasureRow,
    IdempotencyRow,
    PlaceRow,
    RateRow,
    TenantRow,
    UsageRow,
)
from service.database.models.webhooks import DeliveryRow, WebhookRow

__all__ = [
    "FINISHED_JOBS",
    "AdapterRow",
    "AliasVersionRow",
    "ApiKeyRow",
    "AuditRow",
    "DeliveryRow",
    "EngineIdRow",
    "ErasureRow",
    "FileRow",
    "FineTunedModelRow",
    "IdempotencyRow",
    "JobCheckpointRow",
    "JobEventRow",
    "JobRow",
    "Json",
    "Leased",
    "MergeRow",
    "PlaceRow",
    "RateRow",
    "RevisionRow",
    "RuntimeRow",
    "TenantRow",
    "UploadPartRow",
    "UploadRow",
    "UsageRow",
    "WebhookRow",
]
