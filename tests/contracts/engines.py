"""Every engine with three adapters of two tenants, small limits, and prompts it can answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters_store import AdapterStore, FilesystemAdapterStore, RevisionRef
from service.base.description import BaseDescription
from service.runtime.client import RemoteEngine
from service.runtime.server import EngineServer
from service.serving.engine import Engine, EngineStatus, GenerationRequest, Piece, Sampling
from tests.builders import a_peft_folder, an_origin
from tests.fakes.engine import FakeEngine
from tests.fakes.words import default_answer
from tests.vllm_core import Core

MAX_RESIDENT, MAX_BATCH, MAX_QUEUE, CONTEXT = 2, 4, 3, 256
SPECIAL = 2
"""The tiny base's `<|im_start|>`."""
ADAPTERS = [("acme", "support"), ("acme", "style"), ("globex", "support")]


class Answer(msgspec.Struct):
    """One choice, put together."""

    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    logprobs: list[Any] = msgspec.field(default_factory=list)


class House(msgspec.Struct):
    """An engine with what is published for it."""

    engine: Engine
    store: FilesystemAdapterStore
    refs: list[RevisionRef]
    dtype: str = "float32"
    """What it computes in."""
    special: int | None = None
    """A special token; None where there are only words."""
    bounds_penalties: bool = False
    """Whether penalties are refused beyond 2, as the API refuses them."""

    def needs_penalties_beyond_the_apis(self) -> None:
        """Skip a test that makes the outcome sure by penalties that no caller can give."""
        if self.bounds_penalties:
            pytest.skip("it takes penalties from -2 to 2; test_vllm_engine.py has them")

    def request(
        self, revision: RevisionRef | None = None, prompt: str = "hello there", **sampling: Any
    ) -> GenerationRequest:
        """Ask for twelve greedy tokens, unless told otherwise."""
        given: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0, **sampling}
        return GenerationRequest(
            id=f"gen-{prompt}",
            revision=revision,
            prompt=[5 + ord(letter) for letter in prompt],
            sampling=Sampling(**given),
        )

    async def choices(self, request: GenerationRequest) -> list[Answer]:
        """Run a request to its end."""
        answers = [Answer() for _ in range(request.sampling.n)]
        async for piece in self.engine.generate(request):
            put_together(answers[piece.index], piece)
        assert all(answer.finish_reason for answer in answers)
        return answers

    async def answer(self, revision: RevisionRef | None = None, **asked: Any) -> Answer:
        """Run one request of one choice."""
        (answer,) = await self.choices(self.request(revision, **asked))
        return answer

    async def until(self, holds: Callable[[EngineStatus], bool]) -> EngineStatus:
        """Wait for a status; pytest's own timeout ends it if it never comes."""
        # A status is asked for, not announced: there is no event to wait on.
        while not holds(status := await self.engine.status()):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        return status

    @asynccontextmanager
    async def begun(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[Piece]]:
        """Hold a request that has begun to answer; it is cancelled at the end."""
        async with aclosing(self.engine.generate(request)) as pieces:  # type: ignore[type-var]
            await anext(pieces)
            yield pieces


def put_together(answer: Answer, piece: Piece) -> None:
    """Add a piece to its choice."""
    assert answer.finish_reason is None, "a piece after the last"
    answer.text += piece.text
    answer.logprobs += piece.logprobs or []
    answer.tokens, answer.finish_reason = piece.tokens, piece.finish_reason


@asynccontextmanager
async def fake(folder: Path) -> AsyncIterator[House]:
    """The fake engine, with answers longer than anybody asks for."""
    store, refs = _random_revisions(folder)
    engine = FakeEngine(store, answer=_long, context_length=CONTEXT, **_limits())
    yield House(engine, store, refs)
    await engine.close()


@asynccontextmanager
async def remote(folder: Path) -> AsyncIterator[House]:
    """The fake engine behind a socket."""
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(fake(folder))
        server = EngineServer(house.engine, folder / "run" / "generation.sock")
        await server.start()
        stack.push_async_callback(server.stop, 0.0)
        engine = RemoteEngine(folder / "run" / "generation.sock")
        stack.push_async_callback(engine.close)
        yield House(engine, house.store, house.refs)


@asynccontextmanager
async def resident(folder: Path, kv_tokens: int = 0) -> AsyncIterator[House]:
    """The real engine on a tiny random base."""
    from service.base.loading import load_base
    from service.base.segmented.base import SegmentedBase
    from service.rendering.renderer import Renderer
    from service.serving.resident_engine import ResidentEngine
    from tests.fakes.own_thread import OwnThread
    from tests.fakes.tiny import tiny_base

    base = tiny_base(folder / "base")
    store, refs = tiny_revisions(folder, base)
    segmented = SegmentedBase(load_base(base, "none", 1).model)
    limits = {**_limits(), "kv_tokens": kv_tokens}
    held = ("none", "float32")
    engine = ResidentEngine(segmented, base, store, Renderer(base), held=held, **limits)
    OwnThread(engine.loop)
    yield House(engine, store, refs, special=SPECIAL)
    await engine.close()


@asynccontextmanager
async def vllm(folder: Path, core: Core) -> AsyncIterator[House]:
    """vLLM on the same base, behind a socket; more than it can run is never given to it."""
    store, refs = tiny_revisions(folder, core.base)
    async with core.serving(store, folder, core.options, max_queue=MAX_QUEUE) as engine:
        yield House(engine, store, refs, core.dtype, SPECIAL, bounds_penalties=True)


def tiny_revisions(
    folder: Path, base: BaseDescription
) -> tuple[FilesystemAdapterStore, list[RevisionRef]]:
    """Publish three adapters of two tenants for the tiny base, each of another make."""
    from tests.fakes.tiny import publish

    store = FilesystemAdapterStore(folder / "adapters")
    made = [{"rank": 4}, {"rank": 16, "rslora": True}, {"rank": 2, "targets": ("down_proj",)}]
    refs = [
        publish(store, base, tenant, adapter, seed=seed, **how)
        for seed, ((tenant, adapter), how) in enumerate(zip(ADAPTERS, made, strict=True))
    ]
    return store, refs


def _limits() -> dict[str, int]:
    return {"max_resident": MAX_RESIDENT, "max_batch": MAX_BATCH, "max_queue": MAX_QUEUE}


def _random_revisions(folder: Path) -> tuple[FilesystemAdapterStore, list[RevisionRef]]:
    store = FilesystemAdapterStore(folder / "adapters")
    return store, [_publish(store, seed, *names) for seed, names in enumerate(ADAPTERS)]


def _publish(store: AdapterStore, seed: int, tenant: str, adapter: str) -> RevisionRef:
    with store.stage() as staged:
        folder = a_peft_folder(staged, seed=seed)
        return store.publish(tenant, adapter, folder, an_origin()).ref


def _long(request: GenerationRequest, index: int) -> str:
    parts = (msgspec.structs.replace(request, prompt=[*request.prompt, n]) for n in range(40))
    return " ".join(default_answer(part, index) for part in parts)
