"""Spans of OpenTelemetry, also across processes, and its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import json
from pathlib import Path
import subprocess
import sys
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import msgspec
from opentelemetry import propagate
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanKind
from opentelemetry.trace import StatusCode
import pytest
from support.fake_clock import on_fake_clock
from support.processes import python_path
from support.processes import ROOT
from support.redis_server import RedisServer

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels import Subscription
from falcon_channels.brokers.encoding import decode_publication
from falcon_channels.brokers.encoding import encode_publication
from falcon_channels.errors import OptionsError
from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import GAUGES
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS
from falcon_channels.monitoring.tracing import MAX_LINKS
from falcon_channels.monitoring.tracing import read_traceparent
from falcon_channels.monitoring.tracing import Tracing
from falcon_channels.monitoring.tracing import write_traceparent
from falcon_channels.operations import Operation
from falcon_channels.operations import OPERATIONS
from falcon_channels.operations import Operations
from falcon_channels.portal import Portal
from falcon_channels.publication import Publication
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk

TRACE = f'00-{"a" * 32}-{"b" * 16}-01'


class Traces:
    """A provider whose finished spans are in memory."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer('tests')

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def clear(self) -> None:
        self._exporter.clear()


class Room:
    """Refuses mallory, and fails for eve."""

    async def on_subscribe(self, req: Any, subscription: Subscription, n: str) -> None:
        if subscription.user == 'mallory':
            raise falcon.HTTPForbidden(description='secret of mallory')
        if subscription.user == 'eve':
            raise RuntimeError('secret of eve')


def make_channels(traces: Traces, broker: str | None = None) -> Channels:
    channels = Channels(broker, NodeOptions(allowed_origins=['*']))
    channels.add_route(
        'rooms:{n}', Room(), ChannelOptions(history_size=10, publishers='subscribers')
    )
    channels.add_tracing(traces.provider)
    return channels


def context_of(span: ReadableSpan) -> trace.SpanContext:
    assert span.context is not None
    return span.context


# --- one process ---------------------------------------------------------------------


@on_fake_clock
async def test_delivery_belongs_to_the_trace_of_its_publish_and_has_a_link() -> None:
    """The spans follow the conventions for messaging."""
    traces = Traces()
    channels = make_channels(traces)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe('rooms:1')
        traces.clear()
        with traces.tracer.start_as_current_span('request') as request:
            await channels.publish('rooms:1', 'hello')
        await asyncio.sleep(0)
    publish = traces.one('publish rooms:{n}')
    deliver = traces.one('deliver rooms:{n}')
    assert (SpanKind.PRODUCER, SpanKind.CONSUMER) == (publish.kind, deliver.kind)
    assert publish.parent == request.get_span_context()
    assert deliver.parent is not None
    assert context_of(publish).span_id == deliver.parent.span_id
    (link,) = deliver.links
    assert context_of(publish).span_id == link.context.span_id
    assert context_of(publish).trace_id == context_of(deliver).trace_id
    common = {
        'messaging.system': 'falcon_channels',
        'messaging.destination.template': 'rooms:{n}',
        'messaging.destination.name': 'rooms:1',
    }
    assert {
        **common,
        'messaging.operation.name': 'publish',
        'messaging.operation.type': 'send',
        'messaging.message.body.size': len('"hello"'),
    } == dict(publish.attributes or {})
    sent = dict(deliver.attributes or {})
    assert sent.pop('falcon_channels.bytes') == 0  # A simulated client writes nothing.
    assert {
        **common,
        'messaging.operation.name': 'deliver',
        'messaging.operation.type': 'process',
        'messaging.batch.message_count': 1,
        'falcon_channels.deliveries': 1,
    } == sent
    broker = traces.one('broker publish')
    assert broker.parent == context_of(publish)


@on_fake_clock
async def test_delivery_of_several_traces_is_a_trace_with_links() -> None:
    """A delivery with publications of several traces belongs to none of them."""
    traces = Traces()
    channels = make_channels(traces)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe('rooms:1')
        traces.clear()
        await channels.broadcast(['rooms:1'] * (MAX_LINKS + 2), 1)
        await asyncio.sleep(0)
    deliver = traces.one('deliver rooms:{n}')
    assert deliver.parent is None
    assert MAX_LINKS == len(deliver.links)
    published = {context_of(span).span_id for span in traces.spans}
    assert {link.context.span_id for link in deliver.links} <= published


@pytest.mark.parametrize(
    ('user', 'outcome', 'status', 'error'),
    [
        ('ann', None, StatusCode.UNSET, None),
        ('mallory', 'refused', StatusCode.UNSET, 'HTTPForbidden'),
        ('eve', 'failed', StatusCode.ERROR, 'RuntimeError'),
    ],
)
@on_fake_clock
async def test_refusal_is_not_an_error_and_no_span_has_the_text_of_an_exception(
    user: str, outcome: str | None, status: StatusCode, error: str | None
) -> None:
    """A span has the class of an exception, and neither its text nor a traceback."""
    traces = Traces()
    channels = make_channels(traces)
    async with channels, SimulatedClient(channels, user=user) as client:
        try:
            await client.subscribe('rooms:1')
        except (falcon.HTTPError, RuntimeError):
            assert outcome
    span = traces.one('on_subscribe rooms:{n}')
    assert status is span.status.status_code
    attributes = span.attributes or {}
    assert outcome == attributes.get('falcon_channels.outcome')
    assert error == attributes.get('error.type')
    assert 'secret' not in ''.join(span.to_json() for span in traces.spans)


async def test_publish_of_a_responder_belongs_to_the_trace_of_the_responder() -> None:
    """A responder is the parent of what it publishes."""

    class Greeter:
        async def on_subscribe(self, req: Any, subscription: Subscription) -> None:
            await channels.publish('log', 1)

    traces = Traces()
    channels = Channels(options=NodeOptions(allowed_origins=['*']))
    channels.add_route('room', Greeter())
    channels.add_route('log', None)
    channels.add_tracing(traces.provider)
    async with channels, SimulatedClient(channels) as client:
        await client.subscribe('room')
    responder = traces.one('on_subscribe room')
    assert traces.one('publish log').parent == context_of(responder)
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_handshake_and_recovery_have_spans() -> None:
    """A handshake has the class of the connection; a recovery its size."""
    traces = Traces()
    channels = make_channels(traces)
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app)
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/connection/websocket'):
            pass
        first = await channels.publish('rooms:1', 0)
        await channels.publish('rooms:1', 1)
        with traces.tracer.start_as_current_span('command'):
            async with SimulatedClient(channels, user='ann') as client:
                await client.subscribe('rooms:1', since=first.position)
    handshake = traces.one('handshake')
    attributes = dict(handshake.attributes or {})
    assert {'falcon_channels.connection.kind': 'ClientConnection'} == attributes
    recovery = traces.one('recovery rooms:{n}').attributes or {}
    assert 1 == recovery['messaging.batch.message_count']


def test_publish_of_synchronous_code_belongs_to_the_trace_of_its_thread() -> None:
    """A `Portal` passes the context of the calling thread to its event loop."""
    traces = Traces()
    portal = Portal(make_channels(traces), timeout_s=30.0)
    try:
        with traces.tracer.start_as_current_span('request') as request:
            portal.publish('rooms:1', 1)
    finally:
        portal.close()
    assert traces.one('publish rooms:{n}').parent == request.get_span_context()


async def test_work_of_the_hub_itself_has_no_spans() -> None:
    """A call of the broker without a cause outside makes no trace of its own."""
    traces = Traces()
    channels = make_channels(traces)
    async with channels, channels.subscribe('rooms:1'):
        await channels.history('rooms:1')
    assert [] == traces.spans


@on_fake_clock
async def test_publish_that_is_not_sampled_sends_nothing_beside_it() -> None:
    """Without a recording span, a publication has no trace, and a delivery no span."""
    traces = Traces(ALWAYS_OFF)
    channels = make_channels(traces)
    async with channels, channels.subscribe('rooms:1') as subscription:
        await channels.publish('rooms:1', 1)
        assert '' == (await anext(subscription)).trace
    assert [] == traces.spans


@on_fake_clock
async def test_trace_is_not_sent_to_clients() -> None:
    """No frame of an SDK has the trace context, neither live nor recovered."""
    traces = Traces()
    channels = make_channels(traces)
    async with channels, SimulatedSdk(channels) as sdk:
        first = (await channels.publish('rooms:1', 0)).position
        await channels.publish('rooms:1', 1)
        options = {'recover': True, 'offset': first.offset, 'epoch': first.epoch}
        reply = await sdk.subscribe('rooms:1', **options)
        assert 1 == len(reply['publications'])
        await channels.publish('rooms:1', 2)
        push = await sdk.receive()
        page = await channels.history('rooms:1')
    frames = json.dumps([reply, push, page.to_media()])
    contexts = [publication.trace for publication in page.publications]
    assert 3 == len(list(filter(None, contexts)))
    for context in contexts:
        assert context.split('-')[1] not in frames


def test_add_tracing_twice_is_refused() -> None:
    """A second call would make every span twice."""
    channels = make_channels(Traces())
    with pytest.raises(OptionsError, match='call it once'):
        channels.add_tracing()


# --- the trace context ---------------------------------------------------------------


def test_traceparent_is_read_as_it_was_written() -> None:
    """Writing and reading are inverse."""
    context = read_traceparent(TRACE)
    assert context is not None
    assert context.is_remote
    assert TRACE == write_traceparent(context)


@pytest.mark.parametrize(
    'text',
    [
        '',
        'x',
        TRACE.upper(),
        TRACE + '-more',
        TRACE.replace('00-', '01-', 1),
        f'00-{"0" * 32}-{"b" * 16}-01',
        f'00-{"a" * 32}-{"0" * 16}-01',
        f'{TRACE[:-1]}\u0661',
        'a' * 100_000,
    ],
)
def test_malformed_traceparent_is_ignored(text: str) -> None:
    """A delivery with a malformed context has no span, and goes on."""
    traces, operations = Traces(), Operations()
    operations.observe(Tracing(traces.tracer))
    operation = Operation('deliver')
    operation.traces = [text]
    with operations.time(operation):
        pass
    assert [] == traces.spans
    assert read_traceparent(text) is None


@pytest.mark.parametrize('trace', ['', 'x' * 56, 7, None, [TRACE], {'a': 1}])
def test_publication_with_a_malformed_trace_can_be_read(trace: object) -> None:
    """A malformed trace of another process does not make a publication unreadable."""
    row: list[object] = [b'1', 5, False, None, None, None, False, trace]
    publication = decode_publication(msgspec.msgpack.encode(row), 3)
    assert (b'1', 3, '') == (publication.data, publication.offset, publication.trace)


def test_processes_with_and_without_the_trace_read_each_other() -> None:
    """During a rolling deploy, old and new processes share one log."""

    class OldStored(msgspec.Struct, array_like=True, omit_defaults=True):
        data: bytes
        time_ms: int = 0
        binary: bool = False
        tags: dict[str, str] | None = None
        info: None = None
        end: None = None
        whole: bool = False

    body = encode_publication(Publication(data=b'1', trace=TRACE, time_ms=5))
    assert b'1' == msgspec.msgpack.decode(body, type=OldStored).data
    assert TRACE == decode_publication(body, 1).trace
    old = msgspec.msgpack.encode(OldStored(b'1', 5))
    assert '' == decode_publication(old, 1).trace
    # Without a trace, nothing is added to what is stored.
    assert old == encode_publication(Publication(data=b'1', time_ms=5))


# --- several processes ---------------------------------------------------------------


@pytest.fixture(scope='module')
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp('redis'))
    yield server
    server.stop()


@pytest.fixture(params=['redis', 'sqlite'])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == 'sqlite':
        return f'sqlite:///{tmp_path}/channels.db'
    return str(request.getfixturevalue('redis').url)


class Tracer:
    """Middleware of the application that continues the trace of a request."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def wrap(self, app: Any) -> Any:
        async def call(scope: Any, receive: Any, send: Any) -> None:
            if scope['type'] != 'http':
                await app(scope, receive, send)
                return
            headers = {k.decode(): v.decode() for k, v in scope['headers']}
            with self._tracer.start_as_current_span(
                'POST /messages', propagate.extract(headers), SpanKind.SERVER
            ):
                await app(scope, receive, send)

        return call


@pytest.mark.server
async def test_one_trace_goes_from_a_request_to_the_delivery_of_another_process(
    url: str,
) -> None:
    """Request, publish, broker and delivery are in the trace of the caller."""
    traces = Traces()
    channels = make_channels(traces, url)

    class Messages:
        async def on_post(
            self, req: falcon.asgi.Request, resp: falcon.asgi.Response
        ) -> None:
            await channels.publish('rooms:1', await req.get_media())

    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/messages', Messages())
    subscriber = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(ROOT / 'tests/support/traced_subscriber.py'), url, 'rooms:1', '1'),
        stdout=subprocess.PIPE,
        env={'PYTHONPATH': python_path()},
    )
    assert subscriber.stdout is not None
    try:
        assert b'ready\n' == await subscriber.stdout.readline()
        async with channels:
            await post(Tracer(traces.tracer).wrap(app), TRACE, b'"hello"')
        output, _ = await subscriber.communicate()
    finally:
        if subscriber.returncode is None:
            subscriber.kill()
    values, *lines = output.decode().splitlines()
    assert ['hello'] == json.loads(values)
    request = traces.one('POST /messages')
    publish = traces.one('publish rooms:{n}')
    broker = traces.one('broker publish')
    (deliver,) = [json.loads(line) for line in lines]
    assert 'deliver rooms:{room}' == deliver['name']
    wanted = TRACE.split('-')[1]
    spans = [request, publish, broker]
    ids = [trace.format_trace_id(context_of(span).trace_id) for span in spans]
    assert [wanted] * 3 == ids
    assert f'0x{wanted}' == deliver['context']['trace_id']
    assert publish.parent == context_of(request)
    assert broker.parent == context_of(publish)
    span_id = f'0x{trace.format_span_id(context_of(publish).span_id)}'
    assert span_id == deliver['parent_id']
    assert [span_id] == [link['context']['span_id'] for link in deliver['links']]


async def post(app: Any, traceparent: str, body: bytes) -> None:
    """Send one request to an ASGI app."""
    scope = testing.create_scope(
        '/messages',
        method='POST',
        headers={'traceparent': traceparent, 'Content-Type': 'application/json'},
        content_length=len(body),
    )
    sent = []

    async def receive() -> dict[str, Any]:
        return {'type': 'http.request', 'body': body, 'more_body': False}

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    await app(scope, receive, send)
    assert 200 == sent[0]['status']


# --- metrics and imports -------------------------------------------------------------


@on_fake_clock
async def test_metrics_of_opentelemetry_come_from_the_same_table() -> None:
    """Each metric of Prometheus is an instrument, with the same buckets."""
    reader = InMemoryMetricReader()
    channels = Channels(options=NodeOptions(allowed_origins=['*']))
    channels.add_route('rooms:{n}', None, ChannelOptions(history_size=10))
    channels.add_tracing(Traces().provider, MeterProvider([reader]))
    async with channels:
        first = await channels.publish('rooms:1', 0)
        async with channels.subscribe('rooms:1', since=first.position):
            await channels.publish('rooms:1', 1)
            await asyncio.sleep(0)
            data = reader.get_metrics_data()
        assert data is not None
        found = {
            metric.name.removeprefix('falcon_channels.'): metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
    assert COUNTERS.keys() <= found.keys()
    assert {
        name.removesuffix('_seconds').removesuffix('_bytes') for name in GAUGES
    } <= (found.keys())
    (subscriptions,) = found['subscriptions'].data.data_points
    assert 1 == subscriptions.value  # type: ignore[union-attr]
    (deliveries,) = found['route_deliveries'].data.data_points
    assert {'route': 'rooms:{n}'} == deliveries.attributes
    (waited,) = found['publish_to_write'].data.data_points
    bounds = HISTOGRAMS['publish_to_write_seconds'].buckets
    assert bounds == waited.explicit_bounds  # type: ignore[union-attr]
    assert 's' == found['publish_to_write'].unit
    assert 'route_bytes' in LABELLED_COUNTERS


@pytest.mark.parametrize(
    ('lines', 'imported'),
    [
        ((), False),
        (('channels.add_metrics(falcon.asgi.App())',), False),
        (('channels.add_tracing()',), True),
    ],
)
def test_nothing_of_opentelemetry_is_imported_before_it_is_used(
    lines: tuple[str, ...], imported: bool
) -> None:
    """Only `add_tracing` imports the API of OpenTelemetry, and nothing the SDK."""
    script = '\n'.join(
        (
            'import asyncio, sys, falcon.asgi',
            'from falcon_channels import Channels',
            'import falcon_channels.monitoring.prometheus',
            'import falcon_channels.testing',
            'channels = Channels()',
            'channels.add_route("x", None)',
            *lines,
            'asyncio.run(channels.publish("x", 1))',
            'print(any(n.split(".")[0] == "opentelemetry" for n in sys.modules))',
            'print("opentelemetry.sdk" in sys.modules)',
        )
    )
    done = subprocess.run(
        [sys.executable, '-c', script],
        capture_output=True,
        check=True,
        text=True,
        env={'PYTHONPATH': python_path()},
    )
    assert [str(imported), 'False'] == done.stdout.split()


def test_every_operation_and_attribute_is_documented() -> None:
    """docs/tracing.md has each operation and each attribute of a span."""
    page = (ROOT / 'docs' / 'tracing.md').read_text()
    for name in OPERATIONS:
        assert f'| `{name}' in page
    source = (ROOT / 'src/falcon_channels/monitoring/tracing.py').read_text()
    names = {
        word
        for word in source.replace("'", ' ').split()
        if word.startswith(('messaging.', 'falcon_channels.', 'error.'))
        and word.count('.')
        and not word.startswith(('falcon_channels.operations', 'messaging.;'))
    }
    for name in names:
        assert f'`{name}`' in page, name
