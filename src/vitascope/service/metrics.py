"""Prometheus metrics. Counted in the database at each scrape, so that they survive restarts and agree between replicas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vitascope.domain.access import OPEN
from vitascope.domain.command import WorkerState
from vitascope.domain.job import JobStatus

from .service import Service

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(service: Service) -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Queue(service))
    return generate_latest(registry)


class _Queue(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        return []  # else registering would collect once

    def collect(self) -> Iterator[Metric]:
        stats = self._service.condition.queue_stats()
        queued = GaugeMetricFamily("vitascope_jobs_queued", "Jobs that wait.", labels=["model"])
        # a model that nobody waits for shows 0, so that a graph has no holes
        for model in sorted({*stats.queued, *(spec.id for spec in self._service.models(OPEN))}):
            queued.add_metric([model], stats.queued.get(model, 0))
        yield queued
        total = CounterMetricFamily("vitascope_jobs", "Jobs that have ended.", labels=["status"])
        for status in JobStatus:
            if status.is_terminal:
                total.add_metric([status.value], stats.total.get(status, 0))
        yield total
        backlog = self._service.condition.webhook_backlog()
        gauges = {
            "vitascope_jobs_running": ("Jobs that are being made.", sum(stats.running.values())),
            "vitascope_queue_oldest_age_seconds": (
                "How long the oldest queued job has waited.",
                stats.oldest_queued_seconds,
            ),
            "vitascope_files_overdue": (
                "Jobs whose files expired more than a minute ago and are still to be removed.",
                self._service.condition.count_overdue(),
            ),
            "vitascope_webhooks_pending": ("Webhooks that are still to be delivered.", backlog.num_pending),
            "vitascope_webhooks_oldest_age_seconds": (
                "How long the oldest of them has been tried.",
                backlog.oldest_seconds,
            ),
            "vitascope_workers_live": (
                "Workers that were seen lately.",
                self._service.condition.live_workers(),
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        yield from _memory(self._service.commands.workers())
        if (free_bytes := self._service.condition.free_bytes) is not None:
            text = "Free bytes on the disk of the data folder."
            yield GaugeMetricFamily("vitascope_disk_free_bytes", text, value=free_bytes)


_COUNTED = {
    "loads": "Models that were loaded.",
    "load_seconds": "Seconds that loading took.",
    "loads_ahead": "Models that were loaded while something else ran.",
    "hits": "Videos whose model was loaded already.",
    "evictions": "Models that were unloaded because another needed the room.",
    "out_of_memory": "Videos and loads that failed because the memory was not enough.",
}


def _memory(workers: Sequence[WorkerState]) -> Iterator[Metric]:
    """What each worker's engine has loaded; counters begin again with each engine process, as Prometheus expects."""
    for name, text in _COUNTED.items():
        total = CounterMetricFamily(f"vitascope_model_{name}", text, labels=["worker"])
        for worker in workers:
            total.add_metric([worker.id], getattr(worker.residency, name))
        yield total
    labels = ["worker", "model"]
    weights = GaugeMetricFamily("vitascope_model_bytes", "Memory of a loaded model's weights.", labels=labels)
    for worker in workers:
        for model, memory in worker.residency.models.items():
            weights.add_metric([worker.id, model], memory.weights_bytes)
    yield weights
