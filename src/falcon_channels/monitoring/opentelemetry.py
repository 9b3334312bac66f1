"""Observes a node for OpenTelemetry. No other module imports the modules behind it."""

from __future__ import annotations

from importlib import metadata

from opentelemetry import metrics
from opentelemetry import trace

from falcon_channels.monitoring.otel_metrics import OtelMeasurements
from falcon_channels.monitoring.tracing import Tracing
from falcon_channels.node import Node

_SCOPE = 'falcon_channels'


def observe_node(
    node: Node,
    tracer_provider: trace.TracerProvider | None,
    meter_provider: metrics.MeterProvider | None,
) -> None:
    """Implement `Channels.add_tracing`."""
    version = metadata.version('falcon-channels')
    tracer = trace.get_tracer(_SCOPE, version, tracer_provider)
    node.operations.observe(Tracing(tracer))
    if meter_provider is not None:
        meter = meter_provider.get_meter(_SCOPE, version)
        OtelMeasurements(node, meter).attach(node.events, node.operations)
