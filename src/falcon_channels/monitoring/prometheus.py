"""Metrics for Prometheus: the page that it reads, and a collector for a registry.

The names begin with ``falcon_channels_``; docs/metrics.md lists them. `Counters` become
counters, and current numbers become gauges. The metrics with labels come from
`Node.measure`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import falcon
import falcon.asgi
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from falcon_channels.app_routes import add_routes
from falcon_channels.app_routes import check_path
from falcon_channels.burst_log import BurstLog
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ClosedError
from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import GAUGES
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS
from falcon_channels.node import Node

__all__ = ['ChannelsCollector']

_PREFIX = 'falcon_channels_'
_SURVEY = 'metrics'


class _Values(msgspec.Struct, frozen=True, array_like=True):
    """The values of a histogram with one set of labels; see `Distribution`."""

    labels: list[str]
    counts: list[int]
    total: float


class NodeMetrics(msgspec.Struct, frozen=True):
    """The metrics of one process. One with an older version has no labelled ones.

    Attributes:
        node: Host name and process id.
        counters: Counters by name.
        gauges: Gauges by name.
        labelled: Labels and values of the counters with labels, by name.
        histograms: Values of the histograms, by name.
    """

    node: str
    counters: dict[str, int]
    gauges: dict[str, float]
    labelled: dict[str, list[tuple[list[str], int]]] = {}
    histograms: dict[str, list[_Values]] = {}


def read_metrics(node: Node) -> NodeMetrics:
    """Return the metrics of this process."""
    measurements = node.measure()
    hub = node.hub
    # NOTE: the registry of an application is often read in a thread of its own, while
    #   the event loop adds labels. The dicts are therefore copied first.
    return NodeMetrics(
        node=node.info.this_node().name,
        counters=hub.counters.to_media(),
        gauges=node.gauges(),
        labelled={
            name: [(list(labels), value) for labels, value in values.copy().items()]
            for name, values in measurements.counters.items()
        },
        histograms={
            name: [
                _Values(list(labels), distribution.counts, distribution.total)
                for labels, distribution in values.copy().items()
            ]
            for name, values in measurements.histograms.items()
        },
    )


def metric_families(processes: Iterable[NodeMetrics], *, labels: bool) -> list[Metric]:
    """Return metrics as objects of prometheus-client.

    Args:
        processes: Metrics of one process or of several.
        labels: Whether each sample has the label ``node``.
    """
    known = list(processes)
    names = ['node'] if labels else []

    def values(metrics: NodeMetrics) -> list[str]:
        return [metrics.node] if labels else []

    families: list[Metric] = []
    for name, text in COUNTERS.items():
        counter = CounterMetricFamily(_PREFIX + name, text, labels=names)
        for metrics in known:
            counter.add_metric(values(metrics), metrics.counters.get(name, 0))
        families.append(counter)
    for name, text in GAUGES.items():
        gauge = GaugeMetricFamily(_PREFIX + name, text, labels=names)
        for metrics in known:
            gauge.add_metric(values(metrics), metrics.gauges.get(name, 0))
        families.append(gauge)
    for name, row in LABELLED_COUNTERS.items():
        counter = CounterMetricFamily(
            _PREFIX + name, row.text, labels=[*names, *row.labels]
        )
        for metrics in known:
            for own, value in metrics.labelled.get(name, ()):
                # NOTE: a process of another version may have other labels, or other
                #   buckets below. Its series are left out, and the others are shown.
                if len(own) == len(row.labels):
                    counter.add_metric([*values(metrics), *own], value)
        families.append(counter)
    for name, table in HISTOGRAMS.items():
        bounds = [*(str(float(bound)) for bound in table.buckets), '+Inf']
        histogram = HistogramMetricFamily(
            _PREFIX + name, table.text, labels=[*names, *table.labels]
        )
        for metrics in known:
            for series in metrics.histograms.get(name, ()):
                if (len(series.labels), len(series.counts)) == (
                    len(table.labels),
                    len(bounds),
                ):
                    histogram.add_metric(
                        [*values(metrics), *series.labels],
                        list(zip(bounds, accumulate(series.counts), strict=True)),
                        series.total,
                    )
        families.append(histogram)
    return families


class ChannelsCollector(Collector):
    """Collects the metrics of this process for the application's own registry.

    ::

        prometheus_client.REGISTRY.register(ChannelsCollector(channels.node))
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        node.measure()

    def collect(self) -> Iterable[Metric]:
        """Return the current metrics."""
        return metric_families([read_metrics(self._node)], labels=False)


class _Snapshot(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class MetricsResource:
    """Falcon resource of the page that Prometheus reads.

    Args:
        node: Node of this process.
        all_processes: Whether the page shows all processes that share the broker.
    """

    def __init__(self, node: Node, all_processes: bool) -> None:
        self._node = node
        self._all_processes = all_processes
        self._errors = BurstLog()
        node.measure()
        node.cluster.add_answerer(
            _SURVEY, lambda _: msgspec.msgpack.encode(read_metrics(node))
        )

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer with the metrics, in Prometheus' text format or as OpenMetrics."""
        processes = [read_metrics(self._node)]
        if self._all_processes:
            processes = await self._read_all()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(
            _Snapshot(metric_families(processes, labels=self._all_processes))
        )
        encode, content_type = choose_encoder(req.get_header('Accept') or '')
        resp.data = encode(registry)
        resp.content_type = content_type
        resp.cache_control = ['no-store']

    async def _read_all(self) -> list[NodeMetrics]:
        """Return the metrics of all processes that answer, and always of this one."""
        found: dict[str, NodeMetrics] = {}
        try:
            await self._node.start()
            answers = await self._node.cluster.ask(_SURVEY, b'', NodeMetrics)
            found.update(answers.by_node)
        except (BrokerUnavailableError, ClosedError) as ex:
            # NOTE: an operator needs the page most while the broker cannot be reached.
            self._errors.warning('the page has the metrics of one process only: %s', ex)
        found.setdefault(self._node.cluster.id, read_metrics(self._node))
        return list(found.values())


def mount_metrics(
    node: Node,
    app: falcon.asgi.App[Any, Any],
    path: str,
    all_processes: bool,
) -> None:
    """Add the page of the metrics to an app; see `Channels.add_metrics`.

    Raises:
        OptionsError: The path is wrong or taken.
    """
    path = check_path('path', path, '/metrics', root=True) or '/'
    routes = {path: MetricsResource(node, all_processes)}
    add_routes(app, routes, method='add_metrics', argument='path')
