"""Whoever names another tenant's thing, anywhere, is told what is told of what nobody has.

The walk is derived from the OpenAPI document: it fails where an operation takes a text that is
neither known to name something (`belongings`) nor to be free (`walking.FREE`).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from sqlalchemy import update

from adapters_store import AdapterStore
from service.database import Database
from service.database.models import ApiKeyRow
from service.maintenance import openapi_document
from service.tenants.auth import SCOPE_MARK
from service.tenants.principal import SCOPES
from service.wire import now
from tests.conftest import ADMIN_KEY
from tests.integration.belongings import BASE, CURSORS, Belongings, Names, nothing
from tests.integration.test_tenants_api import bearer, make_key
from tests.integration.walking import Operation, Place, operations

pytestmark = pytest.mark.sqlite("what it walks are the routes, which both databases stand behind")

WALK = operations(msgspec.json.decode(openapi_document()))
TAKING_IDS = [operation for operation in WALK if operation.places]
ADMIN = "/v1/admin/"
KEYS = "/v1/admin/tenants/acme/keys"
Ids = dict[Place, str]
ERASING = "eraseTenant"
NOT_YET = '"unsupported_parameter"'
UNFOUND = {400, 401, 403, 404, 422}
OPERATORS = {"tenant", "erasure_id", "after"}
"""What the operator may name, whosever it is."""


@pytest.fixture
def belongings(
    admin: httpx.AsyncClient, database: Database, store: AdapterStore, tmp_path: Path
) -> Belongings:
    return Belongings(admin, database, store, tmp_path / "peft")


@pytest.fixture
async def acme(acme: httpx.AsyncClient, admin: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client whose key lacks no scope."""
    made = await make_key(admin, "acme", scopes=list(SCOPES))
    acme.headers.update(bearer(made["key"]))
    return acme


class Keys:
    """Keys of the tenant `acme` that open less than they might."""

    def __init__(self, admin: httpx.AsyncClient, database: Database) -> None:
        self._admin, self._database = admin, database

    async def headers(self, held: str) -> dict[str, str]:
        """Hold `no` key, or one that is of no use."""
        if held == "no":
            return {}
        made = await make_key(self._admin, "acme")
        if held == "a revoked":
            await self._admin.delete(f"{KEYS}/{made['id']}")
        if held == "an expired":
            async with self._database.write() as session:
                expired = update(ApiKeyRow).where(ApiKeyRow.id == made["id"])
                await session.execute(expired.values(expires_at=now() - 1))
        return bearer("lh-" + "0" * 43 if held == "a wrong" else made["key"])

    async def without(self, scope: str) -> dict[str, str]:
        """Hold a key that may do everything else."""
        others = [one for one in SCOPES if one != scope]
        return bearer((await make_key(self._admin, "acme", scopes=others))["key"])


@pytest.fixture
def keys(admin: httpx.AsyncClient, database: Database) -> Keys:
    return Keys(admin, database)


def kind(operation: Operation, place: Place) -> str:
    """What a place names, in the words of `belongings`."""
    return CURSORS[operation.id] if place.name == "after" else place.name


def foreign_places(operation: Operation) -> Iterator[list[Place]]:
    """Each place alone, and all of the path together."""
    yield from ([place] for place in operation.places)
    path = [place for place in operation.places if place.where == "path"]
    if len(path) > 1:
        yield path


def request_of(
    operation: Operation, own: Names, places: Iterable[Place], theirs: Names, which: int = 0
) -> dict[str, Any]:
    """Ask for one's own things, but for those at `places`."""
    mine = {name: spelled[0] for name, spelled in own.items()} | {"model": BASE}
    ids = {place: own[kind(operation, place)][0] for place in in_path(operation)}
    return operation.request(ids | named(operation, places, theirs, which), mine)


def named(operation: Operation, places: Iterable[Place], names: Names, which: int) -> Ids:
    """Name things at the places, by the `which`th of their names."""
    spelled = {place: names[kind(operation, place)] for place in places}
    return {place: known[min(which, len(known) - 1)] for place, known in spelled.items()}


def in_path(operation: Operation) -> set[Place]:
    return {place for place in operation.places if place.where == "path"}


def told(answer: httpx.Response, ids: Ids) -> tuple[int, str | None, str]:
    """What an answer says, but for the names that were asked for."""
    text = answer.text
    for name in ids.values():
        text = text.replace(name, "...")
    return answer.status_code, answer.headers.get("content-type"), text


def test_every_text_that_an_operation_takes_is_known_to_name_something_or_to_be_free() -> None:
    unknown = [
        f"{operation.id}: {place.where} {'.'.join(place.path)}"
        for operation in TAKING_IDS
        for place in operation.places
        if (CURSORS.get(operation.id) if place.name == "after" else place.name) not in nothing()
    ]
    assert unknown == []
    assert len(TAKING_IDS) > 40


async def compare(
    client: httpx.AsyncClient, operation: Operation, places: list[Place], own: Names, theirs: Names
) -> None:
    """Name their things at the places, then what nobody has; nothing may differ."""
    heard = []
    for which in range(max(len(theirs[kind(operation, place)]) for place in places)):
        for names in (theirs, nothing()):
            answer = await client.request(**request_of(operation, own, places, names, which))
            heard.append(told(answer, named(operation, places, names, which)))
        assert heard[-1] == heard[-2], (operation.id, places, which)
        if places[0].where == "path" and in_path(operation) <= {*places}:
            assert heard[-1][0] == (403 if refuses(client, operation) else 404), operation.id


def refuses(client: httpx.AsyncClient, operation: Operation) -> bool:
    """Whether the operation is the operator's, and the client is not."""
    return operation.path.startswith(ADMIN) and ADMIN_KEY not in client.headers["authorization"]


async def test_another_tenants_id_is_told_of_like_an_unknown_one(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, belongings: Belongings
) -> None:
    own, theirs = await belongings.of("acme", acme), await belongings.of("globex", globex)
    before = await belongings.rows("globex")
    for operation in TAKING_IDS:
        for places in foreign_places(operation):
            await compare(acme, operation, places, own, theirs)
    assert await belongings.rows("globex") == before


async def test_the_operator_finds_nothing_of_one_tenant_under_another(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    belongings: Belongings,
) -> None:
    own, theirs = await belongings.of("acme", acme), await belongings.of("globex", globex)
    before = await belongings.rows("globex")
    for operation in TAKING_IDS:
        if operation.path.startswith(ADMIN):
            for places in foreign_places(operation):
                foreign = [place for place in places if place.name not in OPERATORS]
                if foreign:
                    await compare(admin, operation, foreign, own, theirs)
    assert await belongings.rows("globex") == before


async def test_with_ones_own_ids_the_same_requests_find_what_they_name(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, belongings: Belongings
) -> None:
    own = await belongings.of("acme", acme)
    # What removes things comes last, each with new ones, and erasing at the very end. What was
    # changed before may be in conflict; it is found all the same.
    for operation in sorted(
        TAKING_IDS, key=lambda one: (one.method == "delete", one.id == ERASING)
    ):
        client = admin if operation.path.startswith(ADMIN) else acme
        for places in {frozenset({*in_path(operation), place}) for place in operation.places}:
            if operation.method == "delete":
                own = await belongings.of("acme", acme)
            answer = await client.request(**request_of(operation, own, places, own))
            if NOT_YET not in answer.text:
                assert answer.status_code not in UNFOUND, (operation.id, places, answer.text)


@pytest.mark.parametrize("held", ["no", "a wrong", "a revoked", "an expired"])
async def test_without_a_good_key_every_operation_answers_alike(
    client: httpx.AsyncClient,
    acme: httpx.AsyncClient,
    belongings: Belongings,
    keys: Keys,
    held: str,
) -> None:
    own = await belongings.of("acme", acme)
    headers = await keys.headers(held)
    heard = set()
    for operation in WALK:
        if not operation.is_open:
            for names in (own, nothing()):
                request = request_of(operation, names, operation.places, names)
                answer = await client.request(**request | {"headers": request["headers"] | headers})
                heard.add((answer.status_code, answer.headers["www-authenticate"], answer.text))
    ((status, scheme, _),) = heard
    assert (status, scheme) == (401, "Bearer")


async def test_a_key_that_lacks_the_scope_is_told_so_whatever_it_asks_for(
    app: Litestar,
    client: httpx.AsyncClient,
    acme: httpx.AsyncClient,
    belongings: Belongings,
    keys: Keys,
) -> None:
    own = await belongings.of("acme", acme)
    scopes = scopes_of(app)
    lacking = {scope: await keys.without(scope) for scope in {*scopes.values()}}
    for operation in WALK:
        if operation.id not in scopes:  # open to whoever has a key, or to all
            continue
        headers = lacking[scopes[operation.id]]
        heard = set()
        for names in (own, nothing()):
            request = request_of(operation, names, operation.places, names)
            answer = await client.request(**request | {"headers": request["headers"] | headers})
            heard.add((answer.status_code, answer.text))
        ((status, _),) = heard
        assert status == 403, operation.id


def scopes_of(app: Litestar) -> dict[str, str]:
    """The scope that each operation asks for, by the guards of its handler."""
    return {
        str(handler.operation_id): scope
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        for guard in handler.resolve_guards()
        if (scope := getattr(guard, SCOPE_MARK, None))
    }
