"""The prompts on which a merged model is compared with base and adapter."""

from service.rendering.renderer import Renderer

TURNS = (
    "Where is my parcel?",
    "I was charged twice for my order. What can I do about it?",
    "Write two sentences about the sea.",
    "How do I reset my password?",
)
TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def add(a, b):\n    return a + b\n",
    "1 + 1 = 2, 2 + 2 = 4, 4 + 4 = 8.",
)
"""Some of what a model may be asked, as a chat and as plain text: no tenant's own words."""


def probes(renderer: Renderer) -> list[list[int]]:
    """Render them for a base."""
    return [*map(renderer.instruction, TURNS), *map(renderer.raw, TEXTS)]
