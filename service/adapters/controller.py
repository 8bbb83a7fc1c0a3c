"""`/v1/models`."""

from litestar import Controller, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.adapters.schemas import Model, ModelList
from service.adapters.service import ModelService
from service.http.errors import errors
from service.tenants.auth import requires
from service.wire import Deleted


class ModelController(Controller):
    """Any key of a tenant may read; deleting needs the scope `adapters`."""

    path = "/v1/models"
    tags = ["models"]

    @get(operation_id="listModels", responses=errors())
    async def list_models(
        self, tenant_id: NamedDependency[str], models: NamedDependency[ModelService]
    ) -> ModelList:
        """List the base model and the tenant's own fine-tuned ones, checkpoints included."""
        return await models.list(tenant_id)

    # A path, so that a name with slashes is an unknown model and not an unknown URL.
    @get("/{model:path}", operation_id="retrieveModel", responses=errors(404))
    async def retrieve_model(
        self,
        model: FromPath[str],
        tenant_id: NamedDependency[str],
        models: NamedDependency[ModelService],
    ) -> Model:
        """Show a model; `{adapter}`, `{adapter}@{revision}` and `{adapter}@{alias}` show which one
        they stand for, and of a canary one of its revisions by weight.
        """
        return await models.retrieve(tenant_id, model.removeprefix("/"))

    @delete(
        "/{model:path}",
        operation_id="deleteModel",
        responses=errors(404, 409),
        guards=[requires("adapters")],
        status_code=200,
    )
    async def delete_model(
        self,
        model: FromPath[str],
        tenant_id: NamedDependency[str],
        models: NamedDependency[ModelService],
    ) -> Deleted:
        """Delete a fine-tuned model by its exact name. It stops answering at once.

        409 while an unfinished job goes on from it, or an alias names it.
        """
        return await models.delete(tenant_id, model.removeprefix("/"))
