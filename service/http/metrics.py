"""Counts and durations of requests, by route template: never by path, which holds names."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.http.tenant_labels import TenantLabels

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class RequestMetrics:
    """The edge's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry, tenants: TenantLabels) -> None:
        self._tenants = tenants
        labels = ("method", "route", "status")
        self.requests = Counter(
            "lorehouse_http_requests", "Requests answered", labels, registry=registry
        )
        self.seconds = Histogram(
            "lorehouse_http_request_seconds",
            "Time to the end of the answer",
            labels,
            buckets=BUCKETS,
            registry=registry,
        )

        self.tenant_requests = Counter(
            "lorehouse_tenant_requests",
            "Requests answered, by who asked",
            ("tenant", "status"),
            registry=registry,
        )

    def observe(
        self, route: str, method: str, status: int, seconds: float, tenant: str | None
    ) -> None:
        """Record one answered request."""
        labels = (self.known_method(method), route, str(status))
        self.requests.labels(*labels).inc()
        self.seconds.labels(*labels).observe(seconds)
        self.tenant_requests.labels(self._tenants.label(tenant), str(status)).inc()

    @staticmethod
    def known_method(method: str) -> str:
        """Keep clients from making up labels."""
        return method if method in METHODS else "OTHER"
