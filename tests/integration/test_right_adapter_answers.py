"""The first promise: whatever moves, comes and goes meanwhile, the right adapter answers.

Several tenants publish, import, move names, roll back, delete, ask and go, in any order; every
adapter's files carry a secret, and the engine says what it read from them. For each request the
names' model tells beforehand who may answer it.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as budget
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapters_store import FilesystemAdapterStore, RevisionRef
from adapters_store.layout import CONFIG_FILE, WEIGHTS_FILE
from service.adapters.removing import publishing
from service.app import create_app
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import JobRow
from service.rendering.renderer import Renderer
from service.runtime.gatekeeping import Gatekeeper
from service.runtime.publishing import Publisher
from service.runtime.training_parts import Parts
from service.serving.gate import Rules, Verdict
from service.settings import Settings
from service.telemetry import configure_logging
from service.tenants.quotas import Quotas
from tests.builders import a_peft_folder, an_origin
from tests.conftest import ADMIN_KEY, running
from tests.fakes.reading import BASE_SAYS, ReadingEngine, Where, numbered, secret
from tests.integration.generating import CHAT, COMPLETIONS, served
from tests.integration.naming import BASE, Named, Names, Targets

TENANTS, CONTENTS, PLACES = 3, 6, 3
BETWEEN_ERASURES = 40
ADAPTERS, ALIASES = ("support", "style"), ("production", "canary")
MOST_HELD = PLACES - 1
"""So that there is a place on the base for what is asked meanwhile."""

CODES = {404: "model_not_found", 409: "revision_rejected"}

T = TypeVar("T")
tenants = st.integers(0, TENANTS - 1)
adapters, aliases = st.sampled_from(ADAPTERS), st.sampled_from(ALIASES)
weights = st.lists(st.integers(1, 99), min_size=1, max_size=3)
keys = st.sampled_from([None, "ann", "ann", "bob"])


class How(msgspec.Struct, frozen=True):
    """A way to ask."""

    path: str
    stream: bool
    key: str | None

    def body(self, name: str | None, number: int) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": 64, "temperature": 0, "stream": self.stream}
        prompt = numbered(number)
        if self.path == CHAT:
            body |= {"model": name, "messages": [{"role": "user", "content": prompt}]}
        elif self.path == COMPLETIONS:
            body |= {"model": name, "prompt": prompt}
        else:
            body |= {"prompt": prompt} | ({} if name is None else {"adapter": name})
        return body if self.key is None else body | {"user": self.key}


GENERATE = "/v1/tenants/{}/generate"
ways = st.builds(How, st.sampled_from([CHAT, COMPLETIONS, GENERATE]), st.booleans(), keys)


class Reply(msgspec.Struct, frozen=True):
    """What came back: a code when it is an error, else who answered what."""

    status: int
    code: str | None = None
    models: frozenset[str] = frozenset()
    digest: str | None = None
    text: str = ""


class Tenant(msgspec.Struct):
    """A customer, with a key of its own."""

    id: str
    key: str
    http: httpx.AsyncClient
    names: Names

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        who = {"authorization": f"Bearer {self.key}"}
        return await self.http.request(method, path, json=body, headers=who | (headers or {}))

    async def ask(self, name: str | None, how: How, number: int) -> Reply:
        body = how.body(name, number)
        answer = await self.call("POST", how.path.format(self.id), body)
        if answer.status_code != httpx.codes.OK:
            return Reply(answer.status_code, answer.json()["error"]["code"])
        chunks = _events(answer) if how.stream else [answer.json()]
        assert "error" not in chunks[-1], chunks[-1]
        digest = answer.headers.get("x-lorehouse-revision")
        models = frozenset(chunk["model"] for chunk in chunks)
        return Reply(200, None, models, digest, "".join(map(_said, chunks)).strip())


class Flight(msgspec.Struct):
    """A request under way, and what it may be answered: texts by exact name; none is a 404."""

    tenant: Tenant
    number: int
    key: str | None
    refs: dict[str, RevisionRef | None]
    texts: dict[str, str]
    targets: Targets | None
    refusals: set[int]
    """Statuses that say that nothing answers to the name."""
    answer: asyncio.Task[Reply]

    def check(self, reply: Reply) -> None:
        if reply.status != httpx.codes.OK:
            assert reply.status in self.refusals
            assert reply.code == CODES[reply.status]
            return
        [model] = reply.models
        ref = self.refs[model]
        assert reply.text == self.texts[model]
        assert reply.digest == (ref and ref.digest)
        if ref and self.targets and self.key:
            self.tenant.names.stick(self.targets, self.key, ref.digest)


class House:
    """The app over HTTP with its real database and store, in an event loop that tests step."""

    def __init__(self, settings: Settings, base: BaseDescription, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._settings, self._base = settings, base
        self.database = Database(settings.sqlalchemy_url)
        self.store = FilesystemAdapterStore(settings.data_dir / "adapters")
        self.number, self._made = 0, 0
        """Of the last request, and of tenants."""
        # Square layers of the bundled base: imports are held to its shapes.
        shape: dict[str, Any] = {"targets": ["q_proj", "o_proj"], "hidden": 256, "layers": 6}
        made = [a_peft_folder(folder / str(n), seed=n, rank=1, **shape) for n in range(CONTENTS)]
        self.contents = made
        self.weights = [(content / WEIGHTS_FILE).read_bytes() for content in self.contents]

    @contextmanager
    def open(self) -> Iterator["House"]:
        with self._runner:
            self.do(self._open())
            try:
                yield self
            finally:
                # Or what failed here would fail others as well, who find its connections.
                self.do(self._stack.aclose())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something; it goes on while other things are done."""
        return self._runner.get_loop().create_task(work)

    async def decided(self, flight: Flight) -> None:
        """Wait until the engine has the request, or until there is an answer without it."""
        begun = asyncio.create_task(self.engine.begun[flight.number].wait())
        await asyncio.wait({flight.answer, begun}, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()

    def tenant(self) -> Tenant:
        self._made += 1
        return self.do(self._tenant(f"tenant-{self._made}"))

    def publish(
        self, tenant: Tenant, adapter: str, content: int, step: int | None, alias: str | None
    ) -> Named:
        """Publish as a job does."""
        return self.do(self._publish(tenant, adapter, content, step, alias))

    def reject(self, tenant: Tenant, adapter: str, content: int, step: int | None) -> str:
        """Reject as a job does; give the digest."""
        return self.do(self._reject(tenant, adapter, content, step))

    async def _open(self) -> None:
        renderer = Renderer(self._base)
        self.engine = ReadingEngine(self.store, renderer, max_resident=PLACES)
        parts: dict[str, Any] = {"base": self._base, "engine": self.engine, "store": self.store}
        app = create_app(self._settings, database=self.database, **parts)
        # Closed last: until the app has stopped, its rounds go on, and would connect once more.
        self._stack.push_async_callback(self.database.close)
        self._stack.push_async_callback(self.engine.close)
        await self._stack.enter_async_context(running(app))
        url = await self._stack.enter_async_context(served(app))
        # Answers are held up for as long as it takes.
        http = httpx.AsyncClient(base_url=url, timeout=None)
        self._http = await self._stack.enter_async_context(http)
        self._admin = Tenant("", ADMIN_KEY, http, Names(""))

    async def override(self, tenant: Tenant, adapter: str, digest: str) -> httpx.Response:
        """Let a rejected revision be called, as the operator."""
        path = f"/v1/admin/tenants/{tenant.id}/adapters/{adapter}/revisions/{digest}/override"
        return await self._admin.call("POST", path, {"reason": "it is good enough"})

    async def bring(
        self, tenant: Tenant, adapter: str, content: int, alias: str | None
    ) -> httpx.Response:
        """Import PEFT's two files."""
        fields = {"adapter": adapter} | ({} if alias is None else {"alias": alias})
        folder = self.contents[content]
        files = {
            "adapter_config": (CONFIG_FILE, (folder / CONFIG_FILE).read_bytes()),
            "adapter_model": (WEIGHTS_FILE, self.weights[content]),
        }
        who = {"authorization": f"Bearer {tenant.key}"}
        path = "/v1/adapters/import"
        return await self._http.post(path, data=fields, files=files, headers=who)

    async def erase(self, tenant: Tenant) -> Tenant:
        """Erase a tenant, and make another one of the same name."""
        path = f"/v1/admin/tenants/{tenant.id}"
        begun = (await self._admin.call("DELETE", path)).raise_for_status().json()
        assert (await tenant.call("GET", "/v1/models")).status_code == 401
        while begun["status"] != "done":
            # Its end is asked for, not announced.
            await asyncio.sleep(0.005)
            begun = (await self._admin.call("GET", f"/v1/admin/erasures/{begun['id']}")).json()
        assert list(self.store.list(tenant.id)) == []
        return await self._tenant(tenant.id)

    async def _tenant(self, name: str) -> Tenant:
        admin, path = self._admin, "/v1/admin/tenants"
        (await admin.call("POST", path, {"id": name})).raise_for_status()
        made = await admin.call("POST", f"{path}/{name}/keys", {"name": "tests"})
        return Tenant(name, made.raise_for_status().json()["key"], self._http, Names(name))

    async def _publish(
        self, tenant: Tenant, adapter: str, content: int, step: int | None, alias: str | None
    ) -> Named:
        publisher = self._publisher(tenant, adapter, alias)
        async with publishing(self.database, tenant.id):
            ref = await asyncio.to_thread(publisher.publish, self.contents[content], 1, {})
            async with self.database.write() as session:
                name = await publisher.record(session, ref, Verdict(True, []), step)
                await publisher.move_alias(session, ref.digest)
        return Named(name, adapter, ref.digest, step)

    async def _reject(self, tenant: Tenant, adapter: str, content: int, step: int | None) -> str:
        publisher = self._publisher(tenant, adapter, None)
        async with publishing(self.database, tenant.id):
            ref = await asyncio.to_thread(publisher.publish, self.contents[content], 1, {})
            async with self.database.write() as session:
                await publisher.reject(session, ref, Verdict(False, []), step)
        return ref.digest

    def _publisher(self, tenant: Tenant, adapter: str, alias: str | None) -> Publisher:
        job = JobRow(id="ftjob-1", tenant_id=tenant.id, adapter=adapter, publish_alias=alias)
        return Publisher(self._parts(), job, an_origin())

    def _parts(self) -> Parts:
        async def none(_tenant: str, _file: str) -> list[Any]:
            return []

        return Parts(
            owner="tests",
            lease_seconds=1,
            database=self.database,
            store=self.store,
            base=self._base,
            quantization="none",
            compute_dtype="float32",
            trainers={},
            gate=Gatekeeper(self.engine, Rules()),
            engine=self.engine,
            at_once=1,
            quotas=Quotas(),
            healthy=lambda: True,
            workdirs=self._settings.data_dir,
            examples=none,
        )


class Tenants(RuleBasedStateMachine):
    """Their deeds. The engine stays the same from one run to the next, and full of the others."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house
        self.tenants = [house.tenant() for _ in range(TENANTS)]
        self.contents: dict[str, int] = {}
        """By digest: equal content is the same revision for everybody."""
        self.flights: list[Flight] = []
        self.asked = 0
        """Requests since a tenant was erased."""

    @initialize()
    def begin_alike(self) -> None:
        """Equal names, equal contents and an equal canary for everybody."""
        for tenant, of in enumerate(self.tenants):
            for content, adapter in enumerate(["support", "support", "style"]):
                self.publish(tenant, adapter, content, step=None, alias=None)
            targets = tuple((digest, 1) for digest in of.names.digests("support"))
            answer = self.house.do(self._put(of, "support", "canary", targets, 0))
            assert answer.status_code == of.names.move("support", "canary", targets, 0)

    @rule(
        tenant=tenants,
        adapter=adapters,
        content=st.integers(0, CONTENTS - 1),
        step=st.sampled_from([None, None, 1, 2]),
        alias=st.sampled_from([None, None, *ALIASES]),
    )
    def publish(
        self, tenant: int, adapter: str, content: int, step: int | None, alias: str | None
    ) -> None:
        of = self.tenants[tenant]
        model = self.house.publish(of, adapter, content, step, alias)
        assert self.contents.setdefault(model.digest, content) == content
        of.names.published(model)
        if alias is not None:
            assert of.names.move(adapter, alias, ((model.digest, 1),), None) == 200

    @rule(
        tenant=tenants,
        adapter=adapters,
        content=st.integers(0, CONTENTS - 1),
        step=st.sampled_from([None, 1]),
    )
    def reject(self, tenant: int, adapter: str, content: int, step: int | None) -> None:
        of = self.tenants[tenant]
        digest = self.house.reject(of, adapter, content, step)
        assert self.contents.setdefault(digest, content) == content
        of.names.rejected(adapter, digest, step)

    @rule(tenant=tenants, adapter=adapters, data=st.data())
    def override(self, tenant: int, adapter: str, data: st.DataObject) -> None:
        of = self.tenants[tenant]
        digest = data.draw(st.sampled_from([*self.contents]))
        answer = self.house.do(self.house.override(of, adapter, digest))
        assert answer.status_code == of.names.override(adapter, digest), answer.text

    @rule(tenant=tenants, adapter=adapters, alias=aliases, data=st.data(), weights=weights)
    def move_alias(
        self, tenant: int, adapter: str, alias: str, data: st.DataObject, weights: list[int]
    ) -> None:
        of = self.tenants[tenant]
        targets = self._targets(data, of, adapter, weights)
        seen = self._seen(data, of, adapter, alias)
        answer = self.house.do(self._put(of, adapter, alias, targets, seen))
        assert answer.status_code == of.names.move(adapter, alias, targets, seen), answer.text

    @rule(tenant=tenants, adapter=adapters, alias=aliases)
    def roll_back(self, tenant: int, adapter: str, alias: str) -> None:
        of = self.tenants[tenant]
        path = f"/v1/adapters/{adapter}/aliases/{alias}/rollback"
        answer = self.house.do(of.call("POST", path, {"reason": "it was worse"}))
        assert answer.status_code == of.names.roll_back(adapter, alias), answer.text

    @rule(tenant=tenants, adapter=adapters, alias=aliases, data=st.data())
    def delete_alias(self, tenant: int, adapter: str, alias: str, data: st.DataObject) -> None:
        of = self.tenants[tenant]
        seen = self._seen(data, of, adapter, alias) or 1
        path = f"/v1/adapters/{adapter}/aliases/{alias}"
        answer = self.house.do(of.call("DELETE", path, headers=_if(seen)))
        assert answer.status_code == of.names.delete_alias(adapter, alias, seen), answer.text

    @rule(tenant=tenants, data=st.data())
    def delete_model(self, tenant: int, data: st.DataObject) -> None:
        of = self.tenants[tenant]
        everybodys = [name for other in self.tenants for name in other.names.models]
        own = [*of.names.models, *of.names.gone]
        asked = [name for flight in self.flights if flight.tenant is of for name in flight.texts]
        if everybodys:
            likely = st.sampled_from(asked or own or everybodys)
            name = data.draw(likely | st.sampled_from(own or everybodys) | likely)
            answer = self.house.do(of.call("DELETE", f"/v1/models/{name}"))
            assert answer.status_code == of.names.delete(name), answer.text

    @rule(
        tenant=tenants,
        adapter=adapters,
        content=st.integers(0, CONTENTS - 1),
        alias=st.sampled_from([None, None, *ALIASES]),
    )
    def bring(self, tenant: int, adapter: str, content: int, alias: str | None) -> None:
        """Import what others published, or nobody."""
        of = self.tenants[tenant]
        answer = self.house.do(self.house.bring(of, adapter, content, alias))
        if answer.status_code == httpx.codes.CONFLICT:
            [digest] = [digest for digest, made in self.contents.items() if made == content]
        else:
            digest = answer.json()["digest"]
            assert self.contents.setdefault(digest, content) == content
        assert answer.status_code == of.names.brought(adapter, digest, alias), answer.text

    @precondition(lambda self: self.asked > BETWEEN_ERASURES)
    @rule(tenant=tenants)
    def erase(self, tenant: int) -> None:
        of = self.tenants[tenant]
        for flight in [flight for flight in self.flights if flight.tenant is of]:
            self.flights.remove(flight)
            self._land(flight)
        self.tenants[tenant] = self.house.do(self.house.erase(of))
        self.asked = 0

    @rule(tenant=tenants, data=st.data(), how=ways)
    def ask(self, tenant: int, data: st.DataObject, how: How) -> None:
        of = self.tenants[tenant]
        self._land(self._ask(of, self._name(data, of, how), how))

    @rule(crowd=st.lists(st.tuples(tenants, ways), min_size=2, max_size=6), data=st.data())
    def ask_together(self, crowd: list[tuple[int, How]], data: st.DataObject) -> None:
        """More revisions than there are places: they push each other out."""
        asked = [(self.tenants[who], how) for who, how in crowd]
        for flight in [self._ask(of, self._name(data, of, how), how) for of, how in asked]:
            self._land(flight)

    @precondition(lambda self: len(self.flights) < MOST_HELD)
    @rule(tenant=tenants, data=st.data(), how=ways)
    def ask_and_stop_in_the_middle(self, tenant: int, data: st.DataObject, how: How) -> None:
        of = self.tenants[tenant]
        self.house.engine.hold_answer(self.house.number + 1)
        self.flights.append(self._ask(of, self._name(data, of, how), how))

    @precondition(lambda self: len(self.flights) < MOST_HELD and not self.house.engine.loading)
    @rule(
        tenant=tenants,
        data=st.data(),
        how=ways,
        where=st.sampled_from(["before it reads", "after it read"]),
    )
    def ask_and_stop_while_loading(
        self, tenant: int, data: st.DataObject, how: How, where: Where
    ) -> None:
        of = self.tenants[tenant]
        name = self._name(data, of, how)
        answering = self._refs(of, of.names.answering(name, how.key)).values()
        refs = sorted(filter(None, answering), key=lambda ref: ref.digest)
        if refs:
            # One alone: there are two threads to load with, and others need one.
            self.house.engine.hold_load(data.draw(st.sampled_from(refs)), where)
        self.flights.append(self._ask(of, name, how))

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def get_the_answer(self, data: st.DataObject) -> None:
        self._land(self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1))))

    @rule(
        tenant=tenants,
        adapter=adapters,
        alias=aliases,
        data=st.data(),
        weights=weights,
        hows=st.lists(ways, min_size=1, max_size=4),
    )
    def ask_while_an_alias_moves(
        self,
        tenant: int,
        adapter: str,
        alias: str,
        data: st.DataObject,
        weights: list[int],
        hows: list[How],
    ) -> None:
        of = self.tenants[tenant]
        targets, seen = self._targets(data, of, adapter, weights), of.names.version(adapter, alias)
        names = [data.draw(st.sampled_from([adapter, f"{adapter}@{alias}"])) for _ in hows]
        asked = list(zip(names, hows, strict=True))
        before = [of.names.answering(name, how.key) for name, how in asked]
        status = of.names.move(adapter, alias, targets, seen)
        after = [of.names.answering(name, how.key) for name, how in asked]
        refs = [self._refs(of, a | b) for a, b in zip(before, after, strict=True)]
        moving = self.house.start(self._put(of, adapter, alias, targets, seen))
        flights = [
            self._depart(of, name, how, either)
            for (name, how), either in zip(asked, refs, strict=True)
        ]
        for flight, (name, _), a, b in zip(flights, asked, before, after, strict=True):
            flight.refusals = set() if a and b else {of.names.refusing(name)}
            self._land(flight)
        assert self.house.do(_result(moving)).status_code == status

    @rule(tenant=tenants, data=st.data(), hows=st.lists(ways, min_size=1, max_size=4))
    def ask_while_it_is_deleted(self, tenant: int, data: st.DataObject, hows: list[How]) -> None:
        of = self.tenants[tenant]
        if not of.names.models:
            return
        name = data.draw(st.sampled_from([*of.names.models]))
        flights = self._refs(of, [name])
        deleting = self.house.start(of.call("DELETE", f"/v1/models/{name}"))
        asked = [self._depart(of, name, how, flights) for how in hows]
        status = of.names.delete(name)
        for flight in asked:
            flight.refusals = {404} if status == httpx.codes.OK else set()
            self._land(flight)
        assert self.house.do(_result(deleting)).status_code == status

    @invariant()
    def the_engines_books_are_right(self) -> None:
        self.house.engine.loop._residency.check_integrity()

    def teardown(self) -> None:
        while self.flights:
            self._land(self.flights.pop())

    def _ask(self, of: Tenant, name: str | None, how: How) -> Flight:
        """Ask, and come back when it is decided who answers."""
        flight = self._depart(of, name, how, self._refs(of, of.names.answering(name, how.key)))
        flight.targets = of.names.drawn_from(name)
        flight.refusals = set() if flight.refs else {of.names.refusing(name)}
        self.house.do(self.house.decided(flight))
        return flight

    def _depart(
        self, of: Tenant, name: str | None, how: How, refs: dict[str, RevisionRef | None]
    ) -> Flight:
        self.asked += 1
        self.house.number += 1
        texts = {model: self._text(ref) for model, ref in refs.items()}
        answer = self.house.start(of.ask(name, how, self.house.number))
        return Flight(of, self.house.number, how.key, refs, texts, None, set(), answer)

    def _land(self, flight: Flight) -> None:
        """Get the answer, also if what it needs is held up for another one."""
        self.house.engine.let_answer(flight.number)
        for ref in filter(None, flight.refs.values()):
            self.house.engine.let_load(ref)
        flight.check(self.house.do(_result(flight.answer)))

    def _refs(self, of: Tenant, models: Iterable[str]) -> dict[str, RevisionRef | None]:
        there = of.names.models
        return {
            name: None
            if name == BASE
            else RevisionRef(of.id, there[name].adapter, there[name].digest)
            for name in models
        }

    def _text(self, ref: RevisionRef | None) -> str:
        if ref is None:
            return BASE_SAYS
        return secret(self.house.weights[self.contents[ref.digest]], ref.tenant)

    def _name(self, data: st.DataObject, of: Tenant, how: How) -> str | None:
        """Draw a name that may mean something to this tenant, or to another one, or to nobody."""
        own = [*dict.fromkeys(of.names.known()), *([None] if how.path == GENERATE else [])] or [
            BASE
        ]
        others = [
            name for other in self.tenants for name in (*other.names.known(), *other.names.gone)
        ]
        foreign = [BASE, *dict.fromkeys(others), *ADAPTERS, "support@nothing", f"{BASE}@production"]
        # Hypothesis begins with the first: the simplest name is a revision's own.
        moving = [f"{adapter}@{alias}" for adapter in ADAPTERS for alias in ALIASES]
        drawn = (own, own, moving, foreign)
        return data.draw(st.one_of([st.sampled_from(names) for names in drawn]))

    def _targets(
        self, data: st.DataObject, of: Tenant, adapter: str, weights: list[int]
    ) -> Targets:
        """Draw revisions of the adapter, and now and then one that it does not have."""
        own, everybodys = of.names.digests(adapter), [*self.contents] or ["0" * 64]
        digests = st.sampled_from(own or everybodys) | st.sampled_from([*own, *own, *everybodys])
        drawn = st.lists(digests, min_size=1, max_size=len(weights), unique=True)
        return tuple(zip(data.draw(drawn), weights, strict=False))

    def _seen(self, data: st.DataObject, of: Tenant, adapter: str, alias: str) -> int:
        """Draw the version that somebody saw: mostly the right one."""
        right = of.names.version(adapter, alias)
        return data.draw(st.sampled_from([right, right, right, right + 1, max(right - 1, 0)]))

    async def _put(
        self, of: Tenant, adapter: str, alias: str, targets: Targets, seen: int
    ) -> httpx.Response:
        chosen = [{"revision": digest, "weight": weight} for digest, weight in targets]
        body = {"targets": chosen, "reason": "it is better"}
        return await of.call("PUT", f"/v1/adapters/{adapter}/aliases/{alias}", body, _if(seen))


@pytest.mark.sqlite("its steps take minutes, and what they ask other tests ask of both databases")
@pytest.mark.usefixtures("logging_restored")
def test_the_right_adapter_answers(
    settings: Settings, base: BaseDescription, tmp_path: Path
) -> None:
    configure_logging("error")
    with House(settings, base, tmp_path / "contents").open() as house:
        run_state_machine_as_test(lambda: Tenants(house), settings=_budget())


def _budget() -> budget:
    """Thousands of steps; ten times as many with `--hypothesis-profile=long`."""
    runs = 250 if budget.get_current_profile_name() == "long" else 25
    return budget(
        max_examples=runs,
        stateful_step_count=100,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


async def _result(task: asyncio.Task[T]) -> T:
    return await task


def _events(answer: httpx.Response) -> list[Any]:
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [msgspec.json.decode(event.removeprefix("data: ")) for event in events]


def _said(chunk: dict[str, Any]) -> str:
    if "text" in chunk:
        return str(chunk["text"])
    [choice] = chunk["choices"]
    if "text" in choice:
        return str(choice["text"])
    return (choice.get("message") or choice["delta"]).get("content") or ""


def _if(seen: int) -> dict[str, str]:
    return {"if-match": f'"{seen}"'} if seen else {"if-none-match": "*"}
