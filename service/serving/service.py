"""Generation: find the revision, render the prompt, bound it, and hand it to the engine."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from functools import partial

from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from adapters_store import RevisionRef
from service import tracing
from service.adapters.service import ModelService, Target
from service.base.description import BaseDescription
from service.errors import BadRequest, NotFound
from service.http.tenant_labels import TenantLabels
from service.rendering.renderer import Renderer
from service.serving.call_events import Reading
from service.serving.engine import Engine, GenerationRequest, Piece, Sampling
from service.serving.generation import Caller, Generation
from service.serving.merging import closing, merged
from service.serving.metrics import GenerationMetrics
from service.serving.orders import (
    Conversation,
    Instruction,
    Order,
    Prompt,
    Raw,
    bounded,
    is_short,
    prompt_too_long,
)
from service.serving.requests import check_tokens
from service.serving.schemas import MOST_CHOICES
from service.serving.shapes import Shape, structure_of
from service.serving.tool_calls import call_reader
from service.tenants.usage_meter import UsageMeter


class GenerationService:
    """Answers with exactly the model that was asked for, or not at all."""

    def __init__(
        self,
        engine: Engine,
        models: ModelService,
        renderer: Renderer,
        meter: UsageMeter,
        max_batch: int = MOST_CHOICES,
        *,
        metrics: GenerationMetrics | None = None,
    ) -> None:
        self._engine = engine
        self._models = models
        self._renderer = renderer
        self._meter = meter
        self._max_batch = max_batch
        self._metrics = metrics or GenerationMetrics(CollectorRegistry(), TenantLabels())

    @property
    def _vocabulary(self) -> int:
        return self._renderer.tokenizer.get_vocab_size()

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""
        return self._renderer.base.context_length

    async def named(self, tenant_id: str, model: str, sticky: str | None) -> Target:
        """Find what the tenant calls by this name; `sticky` picks among a canary's revisions.

        It comes with a lease, which `start` takes over. Raises NotFound.
        """
        return await self._models.leased(tenant_id, model, sticky)

    async def adapter(self, tenant_id: str, adapter: str | None, sticky: str | None) -> Target:
        """Find the tenant's adapter, by default its newest; raises NotFound."""
        if adapter is None:
            adapter = await self._models.newest(tenant_id)
        try:
            return await self.named(tenant_id, adapter, sticky)
        except NotFound as fault:
            raise NotFound(fault.message, param="adapter", code=fault.code) from None

    async def start(
        self, generation_id: str, caller: Caller, target: Target, order: Order
    ) -> Generation:
        """Prepare a generation; the engine begins when it is drawn from.

        The target's lease is its own from now on, and ends with it.

        Raises BadRequest when the prompt cannot be rendered or does not fit, and for tokens that
        the base does not know; RateLimited and QuotaExceeded when the tenant has had its share.
        """
        try:
            return await self._start(generation_id, caller, target, order)
        except BaseException:
            if target.lease is not None:
                target.lease.close()
            raise

    async def _start(
        self, generation_id: str, caller: Caller, target: Target, order: Order
    ) -> Generation:
        if order.sampling.n > self._max_batch:
            raise BadRequest(
                f"This server generates at most {self._max_batch} choices at once.", param="n"
            )
        check_tokens(order.sampling, self._vocabulary)
        prompts, order, mark = await self._prepared(order, target)
        requests = self._requests(generation_id, caller, target, order, prompts)
        prompt_tokens = sum(map(len, prompts))
        most = sum(request.sampling.n * request.sampling.max_tokens for request in requests)
        await caller.allowance.generation(prompt_tokens, most)
        return Generation(
            generation_id=generation_id,
            caller=caller,
            target=target,
            fingerprint=mark,
            prompt_tokens=prompt_tokens,
            choices=len(prompts) * order.sampling.n,
            source=self._run(requests, order.shape.param),
            calls=self._reading(order.shape),
            metrics=self._metrics,
            meter=self._meter,
        )

    def _reading(self, shape: Shape) -> Reading | None:
        form = self._renderer.tool_format
        if form is None or shape.calls is None:
            return None
        functions = {one.name: one.parameters for one in shape.calls.functions}
        return partial(call_reader, form, functions)

    def _requests(
        self,
        generation_id: str,
        caller: Caller,
        target: Target,
        order: Order,
        prompts: Sequence[list[int]],
    ) -> list[GenerationRequest]:
        """Make one for each prompt."""
        places = None if target.revision is None else caller.allowance.places()
        return [
            GenerationRequest(
                id=generation_id if len(prompts) == 1 else f"{generation_id}-{place}",
                revision=target.revision,
                prompt=prompt,
                sampling=self._bounded(order, prompt),
                tenant=caller.tenant,
                weight=caller.weight,
                places=places,
                engine_id=target.engine_id,
                traceparent=tracing.traceparent(),
            )
            for place, prompt in enumerate(prompts)
        ]

    async def _prepared(self, order: Order, target: Target) -> tuple[list[list[int]], Order, str]:
        if is_short(order) and "digest" in vars(self._renderer.base):
            return self._prepare(order, target)
        # In a thread: a long prompt takes a while to tokenise, a schema to check, and so does the
        # base's digest once.
        return await asyncio.to_thread(self._prepare, order, target)

    def _prepare(self, order: Order, target: Target) -> tuple[list[list[int]], Order, str]:
        form, tokens = self._renderer.tool_format, self._renderer.call_tokens
        structure = structure_of(order.shape, form, tokens)
        shown = tuple(tokens.marks.values()) if order.shape.calls else ()
        sampling = replace(order.sampling, structure=structure, shown=shown)
        mark = fingerprint(self._renderer.base, target.revision)
        return self._render(order.prompt, target), replace(order, sampling=sampling), mark

    def _render(self, prompt: Prompt, target: Target) -> list[list[int]]:
        match prompt:
            case Conversation(messages, tools):
                self._require_room(len(messages), prompt.param)
                return [self._renderer.prompt(messages, tools)]
            case Instruction(text) if target.format == "chat":
                return [self._renderer.instruction(text)]
            case Instruction(text):
                return [self._raw(text)]
            case Raw(prompts):
                return [self._raw(given) for given in prompts]

    def _raw(self, given: str | list[int]) -> list[int]:
        ids = self._renderer.raw(given) if isinstance(given, str) else given
        if not ids:
            raise BadRequest("The prompt is empty.", param="prompt")
        if isinstance(given, list) and max(ids) >= self._vocabulary:
            raise BadRequest("The prompt holds unknown tokens.", param="prompt")
        return ids

    def _require_room(self, messages: int, param: str) -> None:
        # Every turn takes a token at least. Templates may take time quadratic in their number.
        if messages > self.context_length:
            raise prompt_too_long(f"you sent {messages} messages", self.context_length, param)

    def _bounded(self, order: Order, prompt: Sequence[int]) -> Sampling:
        return bounded(order, len(prompt), self.context_length)

    def _run(
        self, requests: Sequence[GenerationRequest], structured: str | None
    ) -> AsyncIterator[Piece]:
        # Nearly always it is one, whose pieces need nothing done to them.
        if len(requests) > 1:
            return self._all(requests)
        pieces = self._engine.generate(requests[0])
        return pieces if structured is None else _naming(pieces, structured)

    async def _all(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Piece]:
        """Number the choices of all prompts through."""
        n = requests[0].sampling.n
        sources = [self._shifted(request, place * n) for place, request in enumerate(requests)]
        # No more at once than the engine's batch holds: one request must not fill the queue.
        async with closing(merged(sources, max(1, self._max_batch // n))) as pieces:
            async for piece in pieces:
                yield piece

    async def _shifted(self, request: GenerationRequest, by: int) -> AsyncIterator[Piece]:
        async with closing(self._engine.generate(request)) as pieces:
            async for piece in pieces:
                yield replace(piece, index=piece.index + by)


async def _naming(pieces: AsyncIterator[Piece], param: str) -> AsyncIterator[Piece]:
    """Say which field asked for the structure where the engine cannot keep to it."""
    try:
        async with closing(pieces):
            async for piece in pieces:
                yield piece
    except BadRequest as fault:
        if fault.param == "structure":
            fault.param = param
        raise


def fingerprint(base: BaseDescription, revision: RevisionRef | None) -> str:
    """Name base and revision together, as OpenAI's `system_fingerprint`."""
    whole = f"{base.digest}:{revision.digest if revision else ''}"
    return "fp_" + hashlib.sha256(whole.encode()).hexdigest()[:10]
