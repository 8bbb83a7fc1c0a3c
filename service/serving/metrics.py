"""Counts of generations. Labelled by what answered, not who asked: tenants are without bound."""

from prometheus_client import CollectorRegistry, Counter


class GenerationMetrics:
    """The room's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.generations = Counter(
            "lorehouse_generations",
            "Generations ended, by what answered and how they ended",
            ("kind", "outcome"),
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "lorehouse_prompt_tokens", "Tokens read", ("kind",), registry=registry
        )
        self.completion_tokens = Counter(
            "lorehouse_completion_tokens", "Tokens generated", ("kind",), registry=registry
        )

    def observe(self, kind: str, outcome: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Record one ended generation; `kind` is `base` or `adapter`."""
        self.generations.labels(kind, outcome).inc()
        self.prompt_tokens.labels(kind).inc(prompt_tokens)
        self.completion_tokens.labels(kind).inc(completion_tokens)
