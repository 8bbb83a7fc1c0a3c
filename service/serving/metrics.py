"""Counts of generations, by what answered, and by who asked as far as tenants have labels."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.http.tenant_labels import TenantLabels

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class GenerationMetrics:
    """The room's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry, labels: TenantLabels) -> None:
        self._labels = labels
        self.generations = Counter(
            "lorehouse_generations",
            "Generations ended, by what answered and how they ended",
            ("kind", "outcome"),
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "lorehouse_prompt_tokens", "Tokens read", ("kind", "tenant"), registry=registry
        )
        self.completion_tokens = Counter(
            "lorehouse_completion_tokens", "Tokens generated", ("kind", "tenant"), registry=registry
        )
        self.first = Histogram(
            "lorehouse_first_token_seconds",
            "Time from a generation's beginning to its first piece",
            ("tenant",),
            buckets=BUCKETS,
            registry=registry,
        )
        self.refused = Counter(
            "lorehouse_generations_refused",
            "Requests that the engine refused because too many waited",
            ("tenant",),
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "lorehouse_generation_queue_seconds",
            "Time that requests waited for a place in the batch, adapters' loads included",
            ("tenant",),
            buckets=BUCKETS,
            registry=registry,
        )

    def admitted(self, tenant: str, seconds: float) -> None:
        """Record that the engine had a place for a request, after so long."""
        self.queue_seconds.labels(self._labels.label(tenant)).observe(seconds)

    def turned_away(self, tenant: str) -> None:
        """Record that the engine had none even to wait in."""
        self.refused.labels(self._labels.label(tenant)).inc()

    def began(self, tenant: str, seconds: float) -> None:
        """Record a generation's first piece."""
        self.first.labels(self._labels.label(tenant)).observe(seconds)

    def ended(
        self, kind: str, outcome: str, tenant: str, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """Record one ended generation; `kind` is `base` or `adapter`."""
        label = self._labels.label(tenant)
        self.generations.labels(kind, outcome).inc()
        self.prompt_tokens.labels(kind, label).inc(prompt_tokens)
        self.completion_tokens.labels(kind, label).inc(completion_tokens)
