"""Spans of OpenTelemetry for the operations of one process.

The attributes follow the semantic conventions for messaging; see docs/tracing.md.

* A span is a child of the current span. A handshake, a responder and a publish begin a
  trace if there is none. A call of the broker or a recovery has a span only within a
  span that is recorded. The hub also does work that nothing outside has caused.
* The context of a publish travels beside the publication, as a W3C ``traceparent``. The
  span of a delivery has a link to each publish. If all publications of the delivery
  have the same context, the delivery belongs to this trace. A delivery of publications
  without a context has no span.
"""

from __future__ import annotations

from collections.abc import Iterable
import re
from typing import Any
from typing import Final
from typing import NamedTuple

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace import NonRecordingSpan
from opentelemetry.trace import Span
from opentelemetry.trace import SpanContext
from opentelemetry.trace import SpanKind
from opentelemetry.trace import StatusCode
from opentelemetry.trace import TraceFlags
from opentelemetry.trace import Tracer

from falcon_channels.operations import Operation

#: Maximum number of links of a delivery. Further publications have no link.
MAX_LINKS: Final = 32

#: ``traceparent`` of version 00: trace id, span id and flags, in lower case.
_TRACEPARENT: Final = re.compile(r'00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})')

_KINDS: Final = {
    'publish': SpanKind.PRODUCER,
    'deliver': SpanKind.CONSUMER,
    'broker': SpanKind.CLIENT,
}
#: ``messaging.operation.type`` of operations.
_TYPES: Final = {'publish': 'send', 'deliver': 'process'}
#: Operations that have a span only within another one.
_INNER: Final = frozenset({'broker', 'recovery'})


def write_traceparent(context: SpanContext) -> str:
    """Return a span context as a ``traceparent``."""
    return (
        f'00-{trace.format_trace_id(context.trace_id)}'
        f'-{trace.format_span_id(context.span_id)}-{context.trace_flags:02x}'
    )


def read_traceparent(text: str) -> SpanContext | None:
    """Return the span context of a ``traceparent``, or ``None`` if it is malformed."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    context = SpanContext(trace_id, span_id, True, TraceFlags(flags))
    return context if context.is_valid else None


class _State(NamedTuple):
    """The span of an operation, and the token that restores the former context."""

    span: Span
    token: Any


class Tracing:
    """Creates a span for each operation.

    Args:
        tracer: Creates the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, operation: Operation) -> _State | None:
        """Called when an operation begins: start its span."""
        name = operation.name
        if name == 'deliver':
            return self._begin_delivery(operation)
        # PERF: within a trace that is not sampled, an inner span would only cost time.
        if name in _INNER and not trace.get_current_span().is_recording():
            return None
        span = self._start(operation)
        if name == 'publish' and span.is_recording():
            operation.trace = write_traceparent(span.get_span_context())
        if name == 'handshake':
            # NOTE: it ends in another function than it begins, so it is not current.
            return _State(span, None)
        return _State(span, context_api.attach(trace.set_span_in_context(span)))

    def _begin_delivery(self, operation: Operation) -> _State | None:
        contexts = list(_read_all(operation.traces))
        if not contexts:
            return None
        # NOTE: the current context is the one of a random callback of the event loop.
        parent = Context()
        if len(contexts) == 1:
            parent = trace.set_span_in_context(NonRecordingSpan(contexts[0]), parent)
        links = [Link(context) for context in contexts[:MAX_LINKS]]
        return _State(self._start(operation, parent, links), None)

    def _start(
        self,
        operation: Operation,
        context: Context | None = None,
        links: list[Link] | None = None,
    ) -> Span:
        name = operation.name
        subject = operation.route
        attributes: dict[str, str | int] = {}
        if operation.route:
            attributes['messaging.destination.template'] = operation.route
            attributes['messaging.destination.name'] = operation.channel
        if name in _TYPES:
            attributes['messaging.system'] = 'falcon_channels'
            attributes['messaging.operation.name'] = name
            attributes['messaging.operation.type'] = _TYPES[name]
        if name == 'publish':
            attributes['messaging.message.body.size'] = operation.num_bytes
        elif name == 'deliver':
            attributes['messaging.batch.message_count'] = operation.num_publications
        elif name == 'responder':
            name = operation.detail
            attributes['code.function.name'] = name
        elif name == 'broker':
            subject = operation.detail
        return self._tracer.start_span(
            f'{name} {subject}' if subject else name,
            context,
            _KINDS.get(operation.name, SpanKind.INTERNAL),
            attributes,
            links,
            record_exception=False,
        )

    def end(self, operation: Operation, state: _State | None) -> None:
        """Called when an operation has ended: end its span."""
        if state is None:
            return
        span, token = state
        if token is not None:
            context_api.detach(token)
        if span.is_recording():
            _describe(span, operation)
        span.end()


def _read_all(traces: Iterable[str]) -> Iterable[SpanContext]:
    """Yield the different span contexts of publications, without malformed ones."""
    for text in dict.fromkeys(traces):
        context = read_traceparent(text)
        if context is not None:
            yield context


def _describe(span: Span, operation: Operation) -> None:
    """Set what is known at the end of an operation."""
    name = operation.name
    if name == 'deliver':
        span.set_attribute('falcon_channels.deliveries', operation.num_deliveries)
        span.set_attribute('falcon_channels.bytes', operation.num_bytes)
    elif name == 'recovery':
        span.set_attribute('messaging.batch.message_count', operation.num_publications)
        span.set_attribute('falcon_channels.bytes', operation.num_bytes)
    elif name == 'handshake' and operation.detail:
        span.set_attribute('falcon_channels.connection.kind', operation.detail)
    if operation.outcome != 'ok':
        span.set_attribute('falcon_channels.outcome', operation.outcome)
        if operation.error is not None:
            # SECURITY: the message of an exception can contain data of a client. It is
            #   not sent, and neither is the traceback.
            span.set_attribute('error.type', type(operation.error).__qualname__)
        if operation.outcome == 'failed':
            span.set_status(StatusCode.ERROR)
