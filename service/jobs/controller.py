"""`/v1/fine_tuning/jobs`. Every route needs the scope `jobs`."""

import re
from typing import Annotated, Any

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter

from service.http.errors import errors
from service.http.sse import event_stream
from service.jobs.create_schemas import CreateJob
from service.jobs.schemas import Job, JobCheckpointList, JobEventList, JobList
from service.jobs.service import JobService
from service.jobs.streaming import encoded
from service.tenants.auth import requires
from service.tenants.idempotency import IDEMPOTENT
from service.tenants.principal import Principal

MOST = 100

Jobs = NamedDependency[JobService]
TenantId = NamedDependency[str]
After = Annotated[
    str | None, QueryParameter(description="Id of the last item of the page before this one.")
]
Limit = Annotated[int, QueryParameter(ge=1, le=MOST, description="Most items to give.")]
Stream = Annotated[bool, QueryParameter(description="Follow the events as server-sent events.")]
LastEventId = Annotated[
    str | None,
    HeaderParameter(name="last-event-id", description="The last event that a stream has told."),
]

_METADATA = re.compile(r"metadata\[(?P<key>.+)\]", re.DOTALL)


class JobController(Controller):
    """Fine-tuning jobs, as OpenAI's clients use them."""

    path = "/v1/fine_tuning/jobs"
    tags = ["fine-tuning"]
    guards = [requires("jobs")]

    @post(
        operation_id="createFineTuningJob",
        responses=errors(404, 409),
        status_code=200,
        opt={IDEMPOTENT: True},
    )
    async def create_job(
        self,
        data: JSONBody[CreateJob],
        tenant_id: TenantId,
        principal: NamedDependency[Principal],
        jobs: Jobs,
    ) -> Job:
        """Create a job that trains an adapter on a file. It is queued at once."""
        return await jobs.create(tenant_id, data, principal.key_id)

    @get(operation_id="listFineTuningJobs", responses=errors())
    async def list_jobs(
        self,
        request: Request[Any, Any, Any],
        tenant_id: TenantId,
        jobs: Jobs,
        after: After = None,
        limit: Limit = 20,
    ) -> JobList:
        """List jobs, newest first. `metadata[key]=value` keeps those that carry the pair."""
        return await jobs.list(tenant_id, after, limit, _metadata(request))

    @get("/{job_id:str}", operation_id="retrieveFineTuningJob", responses=errors(404))
    async def retrieve_job(self, job_id: FromPath[str], tenant_id: TenantId, jobs: Jobs) -> Job:
        """Show a job."""
        return await jobs.retrieve(tenant_id, job_id)

    @post(
        "/{job_id:str}/cancel",
        operation_id="cancelFineTuningJob",
        responses=errors(404, 409),
        status_code=200,
    )
    async def cancel_job(self, job_id: FromPath[str], tenant_id: TenantId, jobs: Jobs) -> Job:
        """Cancel a job. One that is running stops at its next step."""
        return await jobs.cancel(tenant_id, job_id)

    @post(
        "/{job_id:str}/pause",
        operation_id="pauseFineTuningJob",
        responses=errors(404, 409),
        status_code=200,
    )
    async def pause_job(self, job_id: FromPath[str], tenant_id: TenantId, jobs: Jobs) -> Job:
        """Pause a job. One that is running keeps a checkpoint and stops at its next step."""
        return await jobs.pause(tenant_id, job_id)

    @post(
        "/{job_id:str}/resume",
        operation_id="resumeFineTuningJob",
        responses=errors(404, 409),
        status_code=200,
    )
    async def resume_job(self, job_id: FromPath[str], tenant_id: TenantId, jobs: Jobs) -> Job:
        """Resume a paused job: it is queued, and goes on from its checkpoint."""
        return await jobs.resume(tenant_id, job_id)

    @get("/{job_id:str}/events", operation_id="listFineTuningJobEvents", responses=errors(404))
    async def list_events(
        self,
        job_id: FromPath[str],
        tenant_id: TenantId,
        jobs: Jobs,
        after: After = None,
        limit: Limit = 20,
        stream: Stream = False,
        last_event_id: LastEventId = None,
    ) -> Response[JobEventList]:
        """List a job's events, newest first.

        With `stream=true`: server-sent events, oldest first, from the beginning, or from behind
        `Last-Event-ID` or `after`; they end with `data: [DONE]` when the job does.
        """
        if stream:
            # A client that comes back says so beside the `after` that it began with.
            behind = last_event_id or after
            return event_stream(encoded(jobs.follow(tenant_id, job_id, behind)))
        return Response(await jobs.events(tenant_id, job_id, after, limit))

    @get(
        "/{job_id:str}/checkpoints",
        operation_id="listFineTuningJobCheckpoints",
        responses=errors(404),
    )
    async def list_checkpoints(
        self,
        job_id: FromPath[str],
        tenant_id: TenantId,
        jobs: Jobs,
        after: After = None,
        limit: Limit = 10,
    ) -> JobCheckpointList:
        """List a job's checkpoints, newest first: one for each epoch, each a callable model."""
        return await jobs.checkpoints(tenant_id, job_id, after, limit)


def _metadata(request: Request[Any, Any, Any]) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    return {found["key"]: value for name, value in pairs if (found := _METADATA.fullmatch(name))}
