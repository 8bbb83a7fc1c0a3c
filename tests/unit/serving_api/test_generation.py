"""A generation under way: half an answer is never a whole one, and its end is always recorded."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from adapters_store import RevisionRef
from service.adapters.service import Target
from service.database import Database
from service.errors import EngineBusy, EngineUnavailable
from service.http.tenant_labels import TenantLabels
from service.serving.engine import Piece
from service.serving.generation import Caller, Generation
from service.serving.merging import closing
from service.serving.metrics import GenerationMetrics
from service.tenants.usage_meter import UsageMeter
from tests.builders import an_allowance

REVISION = RevisionRef("acme", "support", "ab" * 32)


class Script:
    """Yields pieces, then perhaps fails; knows whether it was closed."""

    def __init__(self, *pieces: Piece, fault: Exception | None = None) -> None:
        self.pieces, self.fault, self.closed = pieces, fault, False
        self.registry = CollectorRegistry()

    async def _play(self) -> AsyncIterator[Piece]:
        try:
            for piece in self.pieces:
                yield piece
            if self.fault:
                raise self.fault
        finally:
            self.closed = True

    def generation(self, choices: int = 1, revision: RevisionRef | None = REVISION) -> Generation:
        return Generation(
            generation_id="gen-1",
            caller=Caller("acme", "key_1", 1.0, an_allowance()),
            target=Target(revision=revision, model="m", format="chat", created=0),
            fingerprint="fp_0",
            prompt_tokens=7,
            choices=choices,
            source=self._play(),
            metrics=GenerationMetrics(self.registry, TenantLabels()),
            meter=UsageMeter(Database("sqlite+aiosqlite://")),
        )

    def counted(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"lorehouse_{name}_total", labels)


def piece(text: str, tokens: int, index: int = 0, reason: str | None = None) -> Piece:
    return Piece(index=index, text=text, tokens=tokens, finish_reason=reason)


async def test_choices_are_put_together_and_tokens_counted() -> None:
    script = Script(
        piece("a", 1),
        piece("x", 1, index=1),
        piece("b", 2),
        piece("", 3, reason="stop"),
        piece("y", 2, index=1, reason="length"),
    )
    run = script.generation(choices=2)
    first, second = await run.collect()
    assert (first.text, first.finish_reason) == ("ab", "stop")
    assert (second.text, second.finish_reason) == ("xy", "length")
    assert (run.usage.prompt_tokens, run.usage.completion_tokens) == (7, 5)
    assert run.usage.total_tokens == 12
    assert script.counted("generations", kind="adapter", outcome="finished") == 1
    assert script.counted("prompt_tokens", kind="adapter", tenant="acme") == 7
    assert script.counted("completion_tokens", kind="adapter", tenant="acme") == 5


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (piece("a", 1),),
        (piece("a", 1, reason="stop"), piece("b", 1, index=1)),
        (piece("a", 1, reason="stop"),),
    ],
)
async def test_an_engine_that_stops_half_way_is_an_error(pieces: tuple[Piece, ...]) -> None:
    script = Script(*pieces)
    with pytest.raises(EngineUnavailable):
        await script.generation(choices=2).collect()
    assert script.counted("generations", kind="adapter", outcome="failed") == 1


async def test_a_fault_of_the_engine_passes_through_and_is_recorded() -> None:
    script = Script(piece("a", 1), fault=EngineUnavailable("gone"))
    with pytest.raises(EngineUnavailable, match="gone"):
        await script.generation().collect()
    assert script.closed
    assert script.counted("generations", kind="adapter", outcome="failed") == 1


async def test_closing_early_closes_the_engines_iterator() -> None:
    script = Script(piece("a", 1), piece("b", 2, reason="stop"))
    run = script.generation(revision=None)
    async with closing(run.pieces()) as pieces:
        async for _ in pieces:
            break
    assert script.closed
    assert script.counted("generations", kind="base", outcome="cancelled") == 1
    assert script.counted("completion_tokens", kind="base", tenant="acme") == 1


async def test_one_log_line_tells_who_and_how_much_but_never_what() -> None:
    script = Script(piece("the secret", 1, reason="stop"))
    with capture_logs() as lines:
        await script.generation().collect()
    [line] = lines
    assert line["event"] == "generation.ended"
    assert (line["tenant"], line["model"], line["outcome"]) == ("acme", "m", "finished")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 1)
    assert line["total_ms"] >= line["first_ms"] >= 0
    assert "secret" not in str(line)


async def test_the_wait_for_a_place_is_counted_for_the_tenant() -> None:
    script = Script(replace(piece("a", 1), queued=0.3), piece("b", 2, reason="stop"))
    with capture_logs() as logs:
        await script.generation().collect()
    assert logs[-1]["queued_ms"] == 300
    name = "lorehouse_generation_queue_seconds"
    read = script.registry.get_sample_value
    assert read(f"{name}_sum", {"tenant": "acme"}) == 0.3
    assert read(f"{name}_bucket", {"tenant": "acme", "le": "0.25"}) == 0
    assert read(f"{name}_bucket", {"tenant": "acme", "le": "0.5"}) == 1


async def test_who_may_not_even_wait_is_counted_as_refused() -> None:
    script = Script(fault=EngineBusy("too many"))
    with pytest.raises(EngineBusy):
        await script.generation().collect()
    assert script.counted("generations", kind="adapter", outcome="refused") == 1
    assert script.counted("generations_refused", tenant="acme") == 1
