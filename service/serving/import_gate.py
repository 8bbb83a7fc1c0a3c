"""The publish gate for adapters from elsewhere: without their trainer's figures."""

from adapters_store import RevisionRef
from service.base.probes import Probe, Probes
from service.rendering.renderer import Renderer
from service.serving.engine import Engine
from service.serving.gate import Rules, Verdict, examine

PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Name three things that are blue.",
    "def add(a, b):\n    return a + b",
)
"""Of several kinds: an adapter changes the base somewhere among them."""


class ImportGate:
    """Has the engine load an adapter and try it on prompts of its format."""

    def __init__(self, engine: Engine, renderer: Renderer) -> None:
        self._engine = engine
        self._render = {"chat": renderer.instruction, "raw": renderer.raw}

    async def examine(self, ref: RevisionRef, format_: str) -> Verdict:
        """Judge a revision. Raises EngineUnavailable."""
        probes = [Probe(self._render[format_](prompt)) for prompt in PROMPTS]
        return await examine(self._engine, ref, Probes(probes), Rules())
