"""Metrics and logs. One registry per process, Prometheus text at ``/metrics``; JSON lines on stderr with one request id."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clearspan.platform import clock
from clearspan.platform.pan import mask_pan

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 10.0, 30.0)


class Metrics:
    """The names that dashboards and alerts rely on; docs/operations.md lists them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "gateway_requests_total", "HTTP requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._durations = Histogram(
            "gateway_request_duration_seconds",
            "From the first byte received to the last byte sent.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        # The name ends in _total although it goes up and down: it is the published one.
        self.payments_inflight = Gauge(
            "payments_inflight_total", "Calls to PSPs under way in this process.", registry=self.registry
        )
        self.rebill_jobs_failed = Counter(
            "rebill_jobs_failed_total", "Rebill jobs that ended in an error.", registry=self.registry
        )
        self.webhook_lag = Gauge(
            "webhook_lag_seconds", "How long the oldest webhook has been waiting for us.", registry=self.registry
        )
        self.webhook_attempts = Counter(
            "webhook_attempts_total",
            "Tries to deliver a webhook that ended in this process, by what follows.",
            ("result",),
            registry=self.registry,
        )
        self.psp_call_errors = Counter(
            "psp_call_errors_total",
            "PSP calls without a clear answer.",
            ("psp", "verb", "kind"),
            registry=self.registry,
        )
        self.psp_webhooks_received = Counter(
            "psp_webhooks_received_total",
            "Messages of PSPs, by what was done with them.",
            ("psp", "result"),
            registry=self.registry,
        )
        self.psp_webhooks_waiting = Gauge(
            "psp_webhooks_waiting", "Messages of PSPs that wait, in all tenants.", ("state",), registry=self.registry
        )
        self.psp_webhooks_oldest = Gauge(
            "psp_webhooks_oldest_seconds",
            "Age of the oldest message of a PSP that waits.",
            ("state",),
            registry=self.registry,
        )
        self.psp_circuit_state = Gauge(
            "psp_circuit_state",
            "Whether a PSP account is called: 0 closed (it is), 1 half open (a few to try), 2 open (it is not).",
            ("psp", "account", "verb"),
            registry=self.registry,
        )
        self.psp_calls_rejected = Counter(
            "psp_calls_rejected_total",
            "Calls to PSPs that were not made.",
            ("psp", "account", "verb", "reason"),
            registry=self.registry,
        )
        self.psp_account_misconfigured = Gauge(
            "psp_account_misconfigured",
            "Whether a PSP refuses the settings of an account: 1 it does.",
            ("psp", "account"),
            registry=self.registry,
        )
        self.reconciliation_mismatches = Counter(
            "reconciliation_mismatches_total", "Differences between our books and a PSP's.", registry=self.registry
        )
        self._sealed = Gauge("audit_sealed_size", "Entries in the tree over the journal.", registry=self.registry)
        self._seal_lag = Gauge(
            "audit_seal_lag_seconds", "Age of the oldest event that is not sealed.", registry=self.registry
        )
        self._checkpoint_lag = Gauge(
            "audit_checkpoint_age_seconds",
            "Age of the oldest sealed event that no checkpoint covers.",
            registry=self.registry,
        )
        self._push_failures = Gauge(
            "audit_push_failures",
            "Tries in a row that did not bring a checkpoint to its target.",
            ("target",),
            registry=self.registry,
        )
        self.sources: list[Callable[[], Awaitable[None]]] = []
        """Asked before each ``collect``, for what is true of the installation and not of this process."""

    async def collect(self) -> bytes:
        """Everything, up to date."""
        for source in self.sources:
            await source()
        return self.render()

    def audit(
        self, *, size: int, unsealed_at: datetime | None, behind_at: datetime | None, failures: Mapping[str, int]
    ) -> None:
        """How the audit trail's tree stands."""
        now = clock.now()
        self._sealed.set(size)
        self._seal_lag.set(0 if unsealed_at is None else max(0, (now - unsealed_at).total_seconds()))
        self._checkpoint_lag.set(0 if behind_at is None else max(0, (now - behind_at).total_seconds()))
        for target, count in failures.items():
            self._push_failures.labels(target).set(count)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, status).inc()
        self._durations.labels(method, route).observe(seconds)

    def render(self) -> bytes:
        """The Prometheus text exposition format."""
        return generate_latest(self.registry)


def configure_logging(level: str, style: str) -> None:
    """JSON lines (or coloured text for people) on stderr, for our own log and the libraries' alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_card_numbers,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in (
        "uvicorn.access",
        "httpx",
        "httpcore",
        "saq",
    ):  # The gate writes the request's line; bodies stay out of logs.
        logging.getLogger(name).setLevel(logging.WARNING)


def mask_card_numbers(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last net: whatever a library logs, no card number leaves the process."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = mask_pan(value)
    return event
