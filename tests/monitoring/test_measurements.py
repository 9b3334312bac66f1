"""The metrics with labels: what they count, and that clients cannot create series."""

from __future__ import annotations

import asyncio
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
import pytest
from support.fake_clock import on_fake_clock
from support.linked_broker import LinkedBroker
from support.linked_broker import start_node

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels import Subscription
from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.measurements import MAX_LABEL_SETS
from falcon_channels.measurements import StoredMeasurements
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.monitoring.prometheus import ChannelsCollector
from falcon_channels.monitoring.prometheus import NodeMetrics
from falcon_channels.monitoring.prometheus import read_metrics
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations
from falcon_channels.testing import SimulatedClient


def read(channels: Channels) -> dict[str, float]:
    """Return the samples of a node; labels follow the name in braces."""
    registry = CollectorRegistry()
    registry.register(ChannelsCollector(channels.node))
    return parse(generate_latest(registry).decode())


def parse(text: str) -> dict[str, float]:
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            pairs = ','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))
            name = sample.name.removeprefix('falcon_channels_')
            values[f'{name}{{{pairs}}}' if pairs else name] = sample.value
    return values


class Room:
    """Refuses mallory."""

    async def on_subscribe(self, req: Any, subscription: Subscription, n: str) -> None:
        if subscription.user == 'mallory':
            raise falcon.HTTPForbidden(description='not you')


def make_channels() -> Channels:
    channels = Channels(options=NodeOptions(allowed_origins=['*']))
    channels.add_route('rooms:{n}', Room(), ChannelOptions(history_size=10))
    channels.node.measure()
    return channels


@on_fake_clock
async def test_publication_is_counted_by_route() -> None:
    """Deliveries, bytes and the time until the write are counted by route."""
    channels = make_channels()
    async with channels:
        async with SimulatedClient(channels) as one, SimulatedClient(channels) as two:
            await one.subscribe('rooms:1')
            await two.subscribe('rooms:2')
            await two.subscribe('rooms:1')
            await channels.publish('rooms:1', 'hello')
            await asyncio.sleep(0)
        page = read(channels)
    route = '{route=rooms:{n}}'
    assert 1 == page[f'route_publications_total{route}']
    assert 2 == page[f'route_deliveries_total{route}']
    assert 1 == page[f'publish_to_write_seconds_count{route}']
    assert 1 == page['broker_call_seconds_count{method=publish,outcome=ok}']
    assert 3 == page['responder_seconds_count{outcome=ok,responder=on_subscribe}']


@on_fake_clock
async def test_recovery_is_counted_with_its_size() -> None:
    """The size of a recovery is a value of two histograms."""
    channels = make_channels()
    async with channels:
        first = await channels.publish('rooms:1', 0)
        for number in range(7):
            await channels.publish('rooms:1', number)
        async with SimulatedClient(channels) as client:
            await client.subscribe('rooms:1', since=first.position)
        page = read(channels)
    assert 7 == page['recovery_publications_sum']
    assert 0 == page['recovery_publications_bucket{le=5.0}']
    assert 1 == page['recovery_publications_bucket{le=10.0}']
    assert page['recovery_bytes_sum'] > 7


async def test_closes_and_refusals_are_counted_by_code() -> None:
    """Closes have the code and the side; refusals have the code that the client got."""
    channels = Channels()
    channels.add_route('rooms:{n}', Room())
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app)
    channels.add_metrics(app)
    path = '/connection/websocket'
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws(path) as ws:
            await ws.send_text('{"id":1,"connect":{}}')
            await ws.receive_text()
            await ws.send_text('{"id":2,"subscribe":{"channel":"unknown"}}')
            await ws.receive_text()
            await ws.close(4999)
        strange = {'Host': 'b.example', 'Origin': 'https://a.example'}
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws(path, headers=strange):
                pass
        async with conductor.simulate_ws(path) as ws:
            await ws.send_text('nonsense')
            with pytest.raises(falcon.WebSocketDisconnected):
                await ws.receive_text()
        page = parse((await conductor.simulate_get('/metrics')).text)
    assert 1 == page['closes_total{by=client,code=other}']
    assert 1 == page['closes_total{by=server,code=3501}']
    assert 1 == page['refused_commands_total{code=102,command=subscribe}']
    assert 1 == page['refused_connections_total{status=403}']
    assert 2 == page['handshake_seconds_count{outcome=ok}']
    assert 1 == page['handshake_seconds_count{outcome=refused}']


async def test_bytes_of_messages_are_counted_for_all_kinds_of_clients() -> None:
    """Messages of SDK clients, and of plain WebSockets, are counted with their size."""
    channels = Channels(options=NodeOptions(allowed_origins=['*']))
    channels.add_route('rooms:{n}', None, ChannelOptions(subscribers='anybody'))

    class Plain:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            await channels.serve(req, ws, 'rooms:1', user='ann')

    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app)
    channels.add_metrics(app)
    app.add_route('/plain', Plain())
    connect = '{"id":1,"connect":{}}'
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/connection/websocket') as ws:
            await ws.send_text(connect)
            await ws.receive_text()
        body = connect.encode()
        stream = await conductor.simulate_post('/connection/http_stream', body=body)
        async with conductor.simulate_ws('/plain') as ws:
            await ws.send_text('hello')
            await ws.close()
        page = parse((await conductor.simulate_get('/metrics')).text)
    assert 200 == stream.status_code
    assert 2 * len(connect) + len('hello') == page['received_bytes_total']


class Clients:
    """Accepts nobody."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        raise falcon.HTTPUnauthorized(description='log in')


async def test_refusals_of_all_kinds_of_clients_are_in_both_counters() -> None:
    """`refused` and `refused_commands` count the same, for each kind of client.

    A connect that is answered with a disconnect is counted with its close code.
    """
    channels = Channels()
    channels.add_route('rooms:{n}', Room())

    class Plain:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            await channels.serve(req, ws, 'rooms:1', user='mallory')

        async def on_get(self, req: Any, resp: Any) -> None:
            await channels.serve_events(req, resp, ['rooms:1'], user='mallory')

    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app, resource=Clients())
    channels.add_metrics(app)
    app.add_route('/plain', Plain())
    headers = {'Origin': 'http://falconframework.org'}
    async with testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws('/plain', headers=headers):
                pass
        assert 403 == (await conductor.simulate_get('/plain')).status_code
        for path in ('/connection/websocket', '/connection/uni_websocket'):
            async with conductor.simulate_ws(path, headers=headers) as ws:
                connect = '{}' if 'uni' in path else '{"id":1,"connect":{}}'
                await ws.send_text(connect)
                if 'uni' in path:
                    assert 'disconnect' in await ws.receive_text()
                with pytest.raises(falcon.WebSocketDisconnected) as end:
                    await ws.receive_text()
                assert 3500 == end.value.code
        page = parse((await conductor.simulate_get('/metrics')).text)
    assert 2 == page['refused_commands_total{code=403,command=subscribe}']
    assert 2 == page['refused_commands_total{code=3500,command=connect}']
    assert 4 == page['refused_total']
    assert 4 == sum(
        value for name, value in page.items() if name.startswith('refused_commands')
    )


@pytest.mark.parametrize('name', ['closes', 'broker_call_seconds'])
def test_metric_has_a_limited_number_of_label_sets(name: str) -> None:
    """Beyond the limit, all labels are `other`; known label sets still grow."""
    events, operations = Events(), Operations()
    measurements = StoredMeasurements()
    measurements.attach(events, operations)

    def happen(number: int) -> None:
        if name == 'closes':
            facts = {'by_client': False}
            events.tell(Event('connection_closed', code=number, facts=facts))
        else:
            with operations.time(Operation('broker', detail=str(number))):
                pass

    for number in (*range(1000), 5):
        happen(number)
    if name == 'closes':
        values = measurements.counters[name]
        assert 1000 + 1 == sum(values.values())
        assert 2 == values['5', 'server']
        assert 1000 - MAX_LABEL_SETS == values['other', 'other']
    else:
        counts = {k: sum(v.counts) for k, v in measurements.histograms[name].items()}
        assert 2 == counts['5', 'ok']
        assert 1000 - MAX_LABEL_SETS == counts['other', 'other']
        values = counts
    assert MAX_LABEL_SETS + 1 == len(values)


def test_codes_that_clients_choose_create_few_label_sets() -> None:
    """A client that closes with unusual codes does not use up the label sets."""
    events, operations = Events(), Operations()
    measurements = StoredMeasurements()
    measurements.attach(events, operations)
    for code in (0, *range(1000, 5000)):
        facts = {'by_client': True}
        events.tell(Event('connection_closed', code=code, facts=facts))
    events.tell(Event('connection_closed', code=3008, facts={'by_client': False}))
    assert len(measurements.counters['closes']) < 20
    assert 1 == measurements.counters['closes']['3008', 'server']


def test_time_of_a_clock_that_is_ahead_counts_as_zero() -> None:
    """A publication from the future was written after 0 seconds."""
    events, operations = Events(), Operations()
    measurements = StoredMeasurements()
    measurements.attach(events, operations)
    operation = Operation('deliver', route='x')
    operation.times_ms = [9_999_999_999_999, 1]
    with operations.time(operation):
        pass
    distribution = measurements.histograms['publish_to_write_seconds']['x',]
    assert (1, 1) == (distribution.counts[0], distribution.counts[-1])
    assert distribution.total > 10_000


@on_fake_clock
async def test_openmetrics_page_has_the_labelled_metrics() -> None:
    """Labelled counters and histograms are valid in the OpenMetrics format."""
    channels = make_channels()
    async with channels:
        await channels.publish('rooms:1', 1)
        registry = CollectorRegistry()
        registry.register(ChannelsCollector(channels.node))
        text = openmetrics.generate_latest(registry).decode()
    families = {
        family.name: family for family in openmetrics_families(text) if family.samples
    }
    histogram = families['falcon_channels_broker_call_seconds']
    assert 'histogram' == histogram.type
    infinite = {s.labels['le'] for s in histogram.samples if 'le' in s.labels}
    assert '+Inf' in infinite


def test_nothing_is_measured_before_metrics_are_added() -> None:
    """Without `add_metrics`, there is no listener and no observer."""
    channels = Channels()
    assert not channels.node.events.wanted
    assert not channels.node.operations.wanted
    channels.add_metrics(falcon.asgi.App())
    ChannelsCollector(channels.node)
    assert channels.node.events.wanted
    assert channels.node.operations.wanted
    assert channels.node.measure() is channels.node.measure()


async def test_page_of_all_processes_has_the_labelled_metrics_of_each() -> None:
    """Each process has its own samples of a histogram, with the label `node`."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    app = falcon.asgi.App()
    for number, channels in enumerate((two, one)):
        channels.add_metrics(app, f'/{number}', all_processes=True)
    async with testing.ASGIConductor(app) as conductor, two.subscribe('rooms:a'):
        await one.publish('rooms:a', 1)
        response = await conductor.simulate_get('/1')
    name = 'broker_call_seconds_count{method=subscribe,node='
    assert any(key.startswith(name) for key in parse(response.text))
    await one.close()
    await two.close()


def test_answer_of_an_older_process_has_no_labelled_metrics() -> None:
    """Processes of both versions can share a broker during a rolling deploy."""
    old = msgspec.msgpack.encode({'node': 'a', 'counters': {}, 'gauges': {}})
    assert {} == msgspec.msgpack.decode(old, type=NodeMetrics).histograms

    class OldMetrics(msgspec.Struct, frozen=True):
        node: str
        counters: dict[str, int]
        gauges: dict[str, float]

    new = msgspec.msgpack.encode(read_metrics(make_channels().node))
    assert msgspec.msgpack.decode(new, type=OldMetrics).gauges['link_up']


def test_survey_answer_stays_small() -> None:
    """A node whose metrics have all label sets answers a survey with few pieces."""
    channels = make_channels()
    measurements = channels.node.measure()
    for name, table in HISTOGRAMS.items():
        for number in range(MAX_LABEL_SETS if table.labels else 1):
            labels = tuple(f'{label}-{number}' for label in table.labels)
            measurements.observe(name, labels, 0.1)
    size_bytes = len(msgspec.msgpack.encode(read_metrics(channels.node)))
    assert size_bytes < 32_000


def test_buckets_are_ascending_and_fixed() -> None:
    """Buckets are strictly ascending; the ones for times go from 0.5 ms to 10 s."""
    for name, table in HISTOGRAMS.items():
        assert sorted(set(table.buckets)) == list(table.buckets)
        if name.endswith('_seconds'):
            assert (0.0005, 10.0) == (table.buckets[0], table.buckets[-1])
