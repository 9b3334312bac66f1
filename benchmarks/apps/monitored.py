"""The rooms of `rooms.py`, with metrics or tracing as MONITORING says."""

from __future__ import annotations

from collections.abc import Sequence
import os

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from benchmarks.apps import rooms
from falcon_channels import Channels


class Nowhere(SpanExporter):
    """Exports nothing, so that only the spans themselves are measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def monitor(channels: Channels, mode: str) -> None:
    """Add metrics or tracing to channels.

    Args:
        channels: The channels.
        mode: ``''``, ``'metrics'``, or ``'trace:RATE'`` with the rate of the sampler.
    """
    if mode == 'metrics':
        channels.add_metrics(rooms.app)
    elif mode:
        rate = float(mode.removeprefix('trace:'))
        provider = TracerProvider(ParentBased(TraceIdRatioBased(rate)))
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        channels.add_tracing(provider)


channels, app = rooms.channels, rooms.app
monitor(channels, os.environ.get('MONITORING', ''))
