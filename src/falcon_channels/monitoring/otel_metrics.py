"""The metrics of OpenTelemetry: the same ones as for Prometheus.

The names begin with ``falcon_channels.``. Counters and gauges without labels are read
when they are exported. The other metrics are recorded when something happens.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import time

from opentelemetry.metrics import CallbackOptions
from opentelemetry.metrics import Meter
from opentelemetry.metrics import Observation

from falcon_channels.measurements import Labels
from falcon_channels.measurements import Measurements
from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import GAUGES
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS
from falcon_channels.node import Node

_PREFIX = 'falcon_channels.'

#: Seconds for which gauges that were read together are used.
_GAUGES_S = 0.5

_Callback = Callable[[CallbackOptions], Iterable[Observation]]


class OtelMeasurements(Measurements):
    """Passes the metrics of one process to a meter.

    Args:
        node: Node of this process.
        meter: Creates the instruments.
    """

    def __init__(self, node: Node, meter: Meter) -> None:
        super().__init__()
        self._node = node
        self._gauges: dict[str, float] = {}
        self._read_at_s = float('-inf')
        for name, text in COUNTERS.items():
            meter.create_observable_counter(
                _PREFIX + name, [self._counter(name)], description=text
            )
        for name, text in GAUGES.items():
            meter.create_observable_gauge(
                _PREFIX + _base(name),
                [self._gauge(name)],
                unit=_unit(name),
                description=text,
            )
        self._counters = {
            name: meter.create_counter(_PREFIX + name, description=counter.text)
            for name, counter in LABELLED_COUNTERS.items()
        }
        self._histograms = {
            name: meter.create_histogram(
                _PREFIX + _base(name),
                unit=_unit(name),
                description=histogram.text,
                explicit_bucket_boundaries_advisory=histogram.buckets,
            )
            for name, histogram in HISTOGRAMS.items()
        }

    def _counter(self, name: str) -> _Callback:
        def read(options: CallbackOptions) -> list[Observation]:
            # NOTE: the hub is another object after the node was reopened.
            hub = self._node.hub
            return [Observation(getattr(hub.counters, name))]

        return read

    def _gauge(self, name: str) -> _Callback:
        def read(options: CallbackOptions) -> list[Observation]:
            now_s = time.monotonic()
            if now_s - self._read_at_s > _GAUGES_S:
                self._gauges, self._read_at_s = self._node.gauges(), now_s
            return [Observation(self._gauges[name])]

        return read

    def add(self, name: str, labels: Labels, amount: int) -> None:
        """Add to a counter."""
        names = LABELLED_COUNTERS[name].labels
        self._counters[name].add(amount, dict(zip(names, labels, strict=True)))

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """Add a value to a histogram."""
        names = HISTOGRAMS[name].labels
        self._histograms[name].record(value, dict(zip(names, labels, strict=True)))


def _base(name: str) -> str:
    """Return a name without its unit, which an exporter may add."""
    return name.removesuffix('_seconds').removesuffix('_bytes')


def _unit(name: str) -> str:
    return {'seconds': 's', 'bytes': 'By'}.get(name.rpartition('_')[2], '')
