"""What a runtime tells Prometheus by itself; what its engine does, the API tells for it."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from service.http.tenant_labels import TenantLabels
from service.runtime.conductor import Kind
from service.settings import Settings
from service.training.trainer import StepDone

TURN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class RuntimeMetrics:
    """A runtime's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry, tenants: TenantLabels) -> None:
        self._tenants = tenants
        self.trained_tokens = Counter(
            "lorehouse_trained_tokens", "Tokens trained on", ("tenant",), registry=registry
        )
        self.steps = Counter("lorehouse_training_steps", "Optimizer steps", registry=registry)
        self.jobs = Gauge("lorehouse_training_jobs", "Jobs held and worked on", registry=registry)
        self.row_tokens = Gauge(
            "lorehouse_training_row_tokens", "Tokens of the last training row", registry=registry
        )
        self.turns = Histogram(
            "lorehouse_base_turn_seconds",
            "Time that the base went to a step of generation, or of training with its pauses",
            ("kind",),
            buckets=TURN_BUCKETS,
            registry=registry,
        )
        self.ended = Counter(
            "lorehouse_jobs_ended", "Jobs ended here", ("status",), registry=registry
        )
        self.given_back = Counter(
            "lorehouse_jobs_given_back",
            "Jobs not ended here: lost with their lease, crashed, or given back at shutdown",
            ("reason",),
            registry=registry,
        )

    def turned(self, kind: Kind, seconds: float) -> None:
        """Record a turn on the base."""
        self.turns.labels(kind).observe(seconds)

    def trained(self, tenant: str, before: int) -> "Trained":
        """Count what is trained of a tenant's job, from where earlier attempts left it."""
        tokens = self.trained_tokens.labels(self._tenants.label(tenant))
        return Trained(self.steps, tokens, before)


class Trained:
    """Counts one attempt at one job; steps are told by the job's thread."""

    def __init__(self, steps: Counter, tokens: Counter, before: int) -> None:
        self._steps, self._tokens, self._before = steps, tokens, before

    def step(self, done: StepDone) -> None:
        """Count a step; what is done again after a crash is not counted again."""
        self._steps.inc()
        self._tokens.inc(max(0, done.tokens - self._before))
        self._before = max(done.tokens, self._before)


def serve_metrics(settings: Settings, registry: CollectorRegistry) -> None:
    """Answer scrapers in a thread of its own, if the settings name a port. Raises OSError."""
    if settings.runtime_metrics_port:
        ProcessCollector(registry=registry)
        start_http_server(settings.runtime_metrics_port, settings.host, registry)


def unread() -> RuntimeMetrics:
    """Make metrics that nobody reads."""
    return RuntimeMetrics(CollectorRegistry(), TenantLabels())
