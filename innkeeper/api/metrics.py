"""What Prometheus may ask: requests of this process, and the state that the database tells."""

import logging
from collections import Counter as Counts
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.errors import InnkeeperError
from innkeeper.services import statistics
from innkeeper.services.views import HostView

logger = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_RESOURCES = ("vcpus", "memory_mib", "disk_gib")


class Metrics:
    """The registry of one app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route")
        self._requests = Counter(
            "innkeeper_api_requests",
            "Requests answered, by route and status.",
            (*labels, "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "innkeeper_api_request_seconds",
            "Time from request to the end of the answer, streams excluded.",
            labels,
            registry=self._registry,
        )
        self._registry.register(StateCollector())

    def observe(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count a request; `seconds` is None for one without a meaningful duration."""
        known = method if method in _METHODS else "other"  # labels are not for clients to make
        self._requests.labels(known, route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(known, route).observe(seconds)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class StateCollector(Collector):
    """Asks the database at each scrape, in a constant number of queries."""

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registering does not need the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield servers, operations and hosts; only `innkeeper_database_up 0` when it is down."""
        up = GaugeMetricFamily("innkeeper_database_up", "Whether the database answers.")
        try:
            state = statistics.snapshot()
        except InnkeeperError:
            logger.warning("The database does not answer: metrics are without state.")
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        servers = GaugeMetricFamily(
            "innkeeper_servers", "Servers by status and host.", labels=("status", "host")
        )
        for (status, host), count in state.servers.items():
            servers.add_metric([status, host], count)
        yield servers
        operations = GaugeMetricFamily(
            "innkeeper_operations", "Operations by phase and verb.", labels=("phase", "verb")
        )
        by_phase: Counts[tuple[str, str]] = Counts()
        for (phase, verb, _), count in state.operations.items():
            by_phase[phase, verb] += count
        for labels, count in by_phase.items():
            operations.add_metric(labels, count)
        yield operations
        snapshots = GaugeMetricFamily(
            "innkeeper_snapshots", "Ready snapshots by the verdict on them.", labels=("verdict",)
        )
        for verdict, count in state.snapshots.items():
            snapshots.add_metric([verdict], count)
        yield snapshots
        yield from _ended(state)
        yield from _hosts(state.hosts)


def _ended(state: statistics.Snapshot) -> Iterator[Metric]:
    """Yield one counter a verb; a count that grows, for operations are never forgotten."""
    for verb in Verb:
        counter = CounterMetricFamily(
            f"innkeeper_vm_{verb.replace('-', '_')}",
            f"Ended operations: {verb} of a server.",
            labels=("provider_type", "outcome"),
        )
        for (phase, of, hypervisor), count in state.operations.items():
            if of == verb and Phase(phase).ended:
                counter.add_metric([hypervisor, phase], count)
        yield counter


def _hosts(hosts: list[HostView]) -> Iterator[Metric]:
    capacity = GaugeMetricFamily(
        "innkeeper_host_capacity", "Physical size of a host.", labels=("host", "resource")
    )
    reserved = GaugeMetricFamily(
        "innkeeper_host_reserved", "What servers hold of a host.", labels=("host", "resource")
    )
    up = GaugeMetricFamily("innkeeper_host_up", "Whether a host answers.", labels=("host",))
    for host in hosts:
        for resource in _RESOURCES:
            capacity.add_metric([host.name, resource], getattr(host, resource))
            reserved.add_metric([host.name, resource], getattr(host, f"reserved_{resource}"))
        up.add_metric([host.name], int(host.reachable))
    yield from (capacity, reserved, up)
