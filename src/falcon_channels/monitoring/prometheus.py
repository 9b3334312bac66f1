"""NodeMetrics for Prometheus: a page that it reads, and the collector behind it.

The names are ``falcon_channels_...``; docs/metrics.md lists them. `metrics` has
their help texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from falcon_channels.channels import Channels

_PREFIX = 'falcon_channels_'
_SURVEY = 'figures'


class NodeMetrics(msgspec.Struct, frozen=True):
    """The figures of one process.

    Attributes:
        node: Its name, of host and process id.
        counters: Values by the names of `COUNTERS`.
        gauges: Values by the names of `GAUGES`.
    """

    node: str
    counters: dict[str, int]
    gauges: dict[str, float]


def read_metrics(channels: Channels) -> NodeMetrics:
    """Return the figures of this process."""
    hub = channels.hub
    here = channels.census.here()
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
    """Return figures as metrics.

    Args:
        processes: One or several.
        labels: Whether each sample has the label ``node``.
    """
    known = list(processes)
    names = ['node'] if labels else []

    def values(figures: NodeMetrics) -> list[str]:
        return [figures.node] if labels else []

    families: list[Metric] = []
    for name, text in COUNTERS.items():
        counter = CounterMetricFamily(_PREFIX + name, text, labels=names)
        for figures in known:
            counter.add_metric(values(figures), figures.counters.get(name, 0))
        families.append(counter)
    for name, text in GAUGES.items():
        gauge = GaugeMetricFamily(_PREFIX + name, text, labels=names)
        for figures in known:
            gauge.add_metric(values(figures), figures.gauges.get(name, 0))
        families.append(gauge)
    return families


class ChannelsCollector(Collector):
    """The figures of this process, for a registry of the application's own.

    ::

        prometheus_client.REGISTRY.register(ChannelsCollector(channels))
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics as they are now."""
        return metric_families([read_metrics(self._channels)], labels=False)


class _Snapshot(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class MetricsResource:
    """Falcon resource of the page that Prometheus reads.

    Args:
        channels: Whose figures.
        all_processes: Also those of all processes that share the broker.
    """

    def __init__(self, channels: Channels, all_processes: bool) -> None:
        self._channels = channels
        self._all_processes = all_processes
        channels.nodes.answer(
            _SURVEY, lambda _: msgspec.msgpack.encode(read_metrics(channels))
        )

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Show the figures, in Prometheus' text format or as OpenMetrics."""
        processes = [read_metrics(self._channels)]
        if self._all_processes:
            await self._channels.start()
            processes = _decode(await self._channels.nodes.survey(_SURVEY))
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
    channels: Channels,
    app: falcon.asgi.App[Any, Any],
    path: str,
    all_processes: bool,
) -> None:
    """Do what `Channels.add_metrics` promises."""
    app.add_route(path, MetricsResource(channels, all_processes))
