"""`/v1/adapters/{adapter}/aliases`. Every route needs the scope `adapters`."""

from typing import Annotated

from litestar import Controller, Response, delete, get, post, put
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter

from service.adapters.aliases import AliasService
from service.adapters.aliases_schemas import (
    LONGEST_REASON,
    TEXT,
    Alias,
    AliasHistory,
    AliasList,
    MoveAlias,
    RollBackAlias,
)
from service.adapters.preconditions import ETAG_PATTERN, IF_MATCH, IF_NONE_MATCH, etag, expected
from service.http.errors import errors
from service.tenants.auth import requires
from service.tenants.principal import Principal
from service.wire import Deleted

MOST = 100
ETAG = ResponseHeader(
    name="etag", description="The alias's version, for `If-Match`.", documentation_only=True
)

Aliases = NamedDependency[AliasService]
TenantId = NamedDependency[str]
Who = NamedDependency[Principal]
After = Annotated[str | None, QueryParameter(description="`last_id` of the page before this one.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MOST, description="Most items to give.")]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name=IF_MATCH,
        description="The version that is changed, in quotes.",
        schema_extra={"pattern": f"^{ETAG_PATTERN}$"},
    ),
]
IfNoneMatch = Annotated[
    str | None,
    HeaderParameter(
        name=IF_NONE_MATCH,
        description="`*`: make it, unless it is there.",
        schema_extra={"pattern": r"^\*$"},
    ),
]


class AliasController(Controller):
    """Names of an adapter that move from revision to revision."""

    path = "/v1/adapters/{adapter:str}/aliases"
    tags = ["adapters"]
    guards = [requires("adapters")]

    @get(operation_id="listAliases", responses=errors(404))
    async def list_aliases(
        self,
        adapter: FromPath[str],
        tenant_id: TenantId,
        aliases: Aliases,
        after: After = None,
        limit: Limit = 20,
    ) -> AliasList:
        """List an adapter's aliases by name."""
        return await aliases.list(tenant_id, adapter, after, limit)

    @get(
        "/{alias:str}",
        operation_id="retrieveAlias",
        responses=errors(404),
        response_headers=[ETAG],
    )
    async def retrieve_alias(
        self, adapter: FromPath[str], alias: FromPath[str], tenant_id: TenantId, aliases: Aliases
    ) -> Response[Alias]:
        """Show what an alias names."""
        return _tagged(await aliases.retrieve(tenant_id, adapter, alias))

    @put(
        "/{alias:str}",
        operation_id="moveAlias",
        responses=errors(404, 412, 428),
        response_headers=[ETAG],
    )
    async def move_alias(
        self,
        adapter: FromPath[str],
        alias: FromPath[str],
        data: JSONBody[MoveAlias],
        tenant_id: TenantId,
        principal: Who,
        aliases: Aliases,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response[Alias]:
        """Make an alias name one revision, or several by weight.

        `If-Match: "N"` names the version that is changed; `If-None-Match: *` makes a new alias. If
        it is not so any more, the answer is 412 and its error's `current` is the alias as it is.
        """
        moved = await aliases.move(
            tenant_id,
            adapter,
            alias,
            data,
            expected=expected(if_match, if_none_match),
            key_id=principal.key_id,
        )
        return _tagged(moved)

    @delete(
        "/{alias:str}",
        operation_id="deleteAlias",
        status_code=200,
        responses=errors(404, 412, 428),
    )
    async def delete_alias(
        self,
        adapter: FromPath[str],
        alias: FromPath[str],
        tenant_id: TenantId,
        principal: Who,
        aliases: Aliases,
        if_match: IfMatch = None,
        reason: Annotated[
            str | None,
            QueryParameter(
                max_length=LONGEST_REASON, pattern=TEXT, description="Why; kept in its history."
            ),
        ] = None,
    ) -> Deleted:
        """Delete an alias. Its history stays, and its versions count on if it is made again."""
        await aliases.delete(
            tenant_id,
            adapter,
            alias,
            expected=expected(if_match),
            key_id=principal.key_id,
            reason=reason,
        )
        return Deleted(id=f"{adapter}@{alias}", object="adapter.alias", deleted=True)

    @get("/{alias:str}/history", operation_id="listAliasHistory", responses=errors(404))
    async def list_history(
        self,
        adapter: FromPath[str],
        alias: FromPath[str],
        tenant_id: TenantId,
        aliases: Aliases,
        after: After = None,
        limit: Limit = 20,
    ) -> AliasHistory:
        """List an alias's versions, newest first: what it named, who made it so, when and why."""
        return await aliases.history(tenant_id, adapter, alias, after, limit)

    @post(
        "/{alias:str}/rollback",
        operation_id="rollBackAlias",
        status_code=200,
        responses=errors(404, 409, 412),
        response_headers=[ETAG],
    )
    async def roll_back_alias(
        self,
        adapter: FromPath[str],
        alias: FromPath[str],
        data: JSONBody[RollBackAlias],
        tenant_id: TenantId,
        principal: Who,
        aliases: Aliases,
        if_match: IfMatch = None,
    ) -> Response[Alias]:
        """Make an alias name what it named one version before, as a new version.

        Rolling back twice is therefore where one began: send `If-Match` where a request may be sent
        again. 409 when there is no such version, or a revision of it was deleted.
        """
        rolled = await aliases.roll_back(
            tenant_id,
            adapter,
            alias,
            expected=None if if_match is None else expected(if_match),
            key_id=principal.key_id,
            reason=data.reason,
        )
        return _tagged(rolled)


def _tagged(alias: Alias) -> Response[Alias]:
    return Response(alias, headers={"etag": etag(alias.version)})
