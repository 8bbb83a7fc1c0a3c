"""`/v1/fine_tuning/plan`. It needs the scope `jobs`."""

from typing import Any

from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.http.errors import errors
from service.http.hanging_up import unless_gone
from service.jobs.create_schemas import CreateJob
from service.jobs.plan_schemas import JobPlan
from service.jobs.planning import PlanService
from service.tenants.audit import CHANGES_NOTHING
from service.tenants.auth import requires


class PlanController(Controller):
    """What a job would be, before it is one."""

    path = "/v1/fine_tuning/plan"
    tags = ["fine-tuning"]
    guards = [requires("jobs")]

    @post(
        operation_id="planFineTuningJob",
        responses=errors(404, 409),
        status_code=200,
        opt={CHANGES_NOTHING: True},
    )
    async def plan_job(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[CreateJob],
        tenant_id: NamedDependency[str],
        plans: NamedDependency[PlanService],
    ) -> JobPlan:
        """Say what a job would be and do, from the body that would create it.

        The files are read as training would read them, which takes a while for large ones. What
        creating the job would refuse as wrong is refused here alike; that a quota or the memory
        does not allow it, or that its data would fail it, is an answer: `admitted` is false.
        """
        return await unless_gone(request, plans.plan(tenant_id, data))
