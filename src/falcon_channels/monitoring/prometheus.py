"""Metrics for Prometheus: the page that it reads, and a collector for a registry.

The names begin with ``falcon_channels_``; docs/metrics.md lists them. `Counters` become
counters, and current numbers become gauges.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import falcon
import falcon.asgi
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import GAUGES
from falcon_channels.node import Node

__all__ = ['ChannelsCollector']

_PREFIX = 'falcon_channels_'
_SURVEY = 'metrics'


class NodeMetrics(msgspec.Struct, frozen=True):
    """The metrics of one process.

    Attributes:
        node: Host name and process id.
        counters: Counters by name.
        gauges: Gauges by name.
    """

    node: str
    counters: dict[str, int]
    gauges: dict[str, float]


def read_metrics(node: Node) -> NodeMetrics:
    """Return the metrics of this process."""
    hub = node.hub
    here = node.info.this_node()
    return NodeMetrics(
        node=here.name,
        counters=hub.counters.to_media(),
        gauges={
            'connections': here.num_clients,
            'users': here.num_users,
            'channels': here.num_channels,
            'subscriptions': here.num_subs,
            'backlog_bytes': sum(
                connection.backlog_bytes for connection in hub.connections.values()
            ),
            'link_up': 0 if hub.link_lost else 1,
            'uptime_seconds': here.uptime,
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
    return families


class ChannelsCollector(Collector):
    """Collects the metrics of this process for the application's own registry.

    ::

        prometheus_client.REGISTRY.register(ChannelsCollector(channels.node))
    """

    def __init__(self, node: Node) -> None:
        self._node = node

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
        node.cluster.answer(
            _SURVEY, lambda _: msgspec.msgpack.encode(read_metrics(node))
        )

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer with the metrics, in Prometheus' text format or as OpenMetrics."""
        processes = [read_metrics(self._node)]
        if self._all_processes:
            await self._node.start()
            processes = _decode(await self._node.cluster.survey(_SURVEY))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(
            _Snapshot(metric_families(processes, labels=self._all_processes))
        )
        encode, content_type = choose_encoder(req.get_header('Accept') or '')
        resp.data = encode(registry)
        resp.content_type = content_type
        resp.cache_control = ['no-store']


def _decode(answers: Mapping[str, bytes]) -> list[NodeMetrics]:
    return [
        msgspec.msgpack.decode(answer, type=NodeMetrics)
        for _, answer in sorted(answers.items())
    ]


def mount_metrics(
    node: Node,
    app: falcon.asgi.App[Any, Any],
    path: str,
    all_processes: bool,
) -> None:
    """Add the page of the metrics to an app; see `Channels.add_metrics`."""
    app.add_route(path, MetricsResource(node, all_processes))
