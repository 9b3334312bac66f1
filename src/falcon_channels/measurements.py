"""Turns events and operations into the metrics that have labels.

`StoredMeasurements` stores them for Prometheus. Other subclasses of `Measurements` can
send them to other systems.

SECURITY: a metric has a limited number of label sets, because each one takes memory
here and in the monitoring system. Text that a client chooses is never a label.
"""

from __future__ import annotations

import abc
from bisect import bisect_left
from collections.abc import Callable
import time
from typing import Any
from typing import Final

from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations

#: Values of the labels of a metric, in the order of their names.
Labels = tuple[str, ...]

#: Maximum number of label sets of a metric. All others are counted together as `OTHER`.
MAX_LABEL_SETS: Final = 100
#: Value of every label when a metric has too many label sets, or for unusual values.
OTHER: Final = 'other'

#: Close codes of clients that are labels: those of RFC 6455 section 7.4.1.
_CLIENT_CODES: Final = range(1000, 1016)


class Measurements(abc.ABC):
    """Observes the events and the operations of one process."""

    def __init__(self) -> None:
        names = [*LABELLED_COUNTERS, *HISTOGRAMS]
        self._known: dict[str, set[Labels]] = {name: set() for name in names}

    def attach(self, events: Events, operations: Operations) -> Callable[[], None]:
        """Begin to measure, and return a function that stops it."""
        stops = [events.listen(self.on_event), operations.observe(self)]

        def stop() -> None:
            for function in stops:
                function()

        return stop

    @abc.abstractmethod
    def add(self, name: str, labels: Labels, amount: int) -> None:
        """Add to a counter of `LABELLED_COUNTERS`."""

    @abc.abstractmethod
    def observe(self, name: str, labels: Labels, value: float) -> None:
        """Add a value to a histogram of `HISTOGRAMS`."""

    def _bounded(self, name: str, labels: Labels) -> Labels:
        """Return the labels, or `OTHER` for all of them if there are too many sets."""
        known = self._known[name]
        if labels not in known:
            if len(known) >= MAX_LABEL_SETS:
                return (OTHER,) * len(labels)
            known.add(labels)
        return labels

    def _add(self, name: str, *labels: str, amount: int = 1) -> None:
        self.add(name, self._bounded(name, labels), amount)

    def _observe(self, name: str, value: float, *labels: str) -> None:
        self.observe(name, self._bounded(name, labels), value)

    # --- what happens ----------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Called with each event."""
        if event.name == 'connection_closed':
            by_client = bool(event.facts['by_client'])
            code = str(event.code)
            if by_client and event.code and event.code not in _CLIENT_CODES:
                # SECURITY: a client can choose any code up to 4999. Without this check,
                #   an attacker could use up all label sets.
                code = OTHER
            self._add('closes', code, 'client' if by_client else 'server')
        elif event.name == 'command_refused':
            self._add('refused_commands', str(event.facts['command']), str(event.code))
        elif event.name == 'connection_refused':
            self._add('refused_connections', str(event.code))

    def begin(self, operation: Operation) -> None:
        """Called when an operation begins. Nothing is measured here."""
        return

    def end(self, operation: Operation, state: Any) -> None:
        """Called when an operation has ended."""
        name, outcome = operation.name, operation.outcome
        duration_s = operation.duration_s
        if name == 'deliver':
            self._on_delivered(operation)
        elif name == 'broker':
            self._observe('broker_call_seconds', duration_s, operation.detail, outcome)
        elif name == 'responder':
            self._observe('responder_seconds', duration_s, operation.detail, outcome)
        elif name == 'handshake':
            self._observe('handshake_seconds', duration_s, outcome)
        elif name == 'recovery' and outcome == 'ok':
            self._observe('recovery_publications', operation.num_publications)
            self._observe('recovery_bytes', operation.num_bytes)

    def _on_delivered(self, operation: Operation) -> None:
        route = operation.route
        self._add('route_publications', route, amount=operation.num_publications)
        self._add('route_deliveries', route, amount=operation.num_deliveries)
        self._add('route_bytes', route, amount=operation.num_bytes)
        if operation.outcome == 'ok' and operation.times_ms:
            now_ms = time.time() * 1000
            for time_ms in operation.times_ms:
                # NOTE: the clock of the broker's server can be ahead of our clock.
                waited_s = max(0.0, (now_ms - time_ms) / 1000)
                self._observe('publish_to_write_seconds', waited_s, route)


class Distribution:
    """The values of a histogram for one label set.

    Attributes:
        counts: Number of values in each bucket, not cumulative. The last bucket is for
            values above all bounds.
        total: Sum of all values.
    """

    __slots__ = ('counts', 'total')

    def __init__(self, num_buckets: int) -> None:
        self.counts = [0] * (num_buckets + 1)
        self.total = 0.0


class StoredMeasurements(Measurements):
    """Stores the measurements of one process.

    Attributes:
        counters: Values of `LABELLED_COUNTERS` by name and labels.
        histograms: Values of `HISTOGRAMS` by name and labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counters: dict[str, dict[Labels, int]] = {
            name: {} for name in LABELLED_COUNTERS
        }
        self.histograms: dict[str, dict[Labels, Distribution]] = {
            name: {} for name in HISTOGRAMS
        }

    def add(self, name: str, labels: Labels, amount: int) -> None:
        """Add to a counter."""
        values = self.counters[name]
        values[labels] = values.get(labels, 0) + amount

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """Add a value to a histogram."""
        buckets = HISTOGRAMS[name].buckets
        values = self.histograms[name]
        distribution = values.get(labels)
        if distribution is None:
            distribution = values[labels] = Distribution(len(buckets))
        distribution.counts[bisect_left(buckets, value)] += 1
        distribution.total += value
