"""The timed operations of one process: each is observed once, with its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
import contextlib
import inspect
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions
from falcon_channels import NodeOptions
from falcon_channels import Publication
from falcon_channels import Subscription
from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.brokers.timed import TIMED_METHODS
from falcon_channels.brokers.timed import TimedBroker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.operations import Operation
from falcon_channels.operations import OPERATIONS
from falcon_channels.operations import Operations
from falcon_channels.testing import SimulatedClient


class Record:
    """Stores each operation when it has ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[Operation] = []

    def begin(self, operation: Operation) -> int:
        self.begun += 1
        return self.begun

    def end(self, operation: Operation, state: int) -> None:
        assert 1 <= state <= self.begun
        self.ended.append(operation)

    def of(self, name: str, detail: str = '') -> list[Operation]:
        return [
            operation
            for operation in self.ended
            if operation.name == name and detail in ('', operation.detail)
        ]


class Room:
    """Refuses mallory, and fails for eve."""

    async def on_subscribe(self, req: Any, subscription: Subscription, n: str) -> None:
        if subscription.user == 'mallory':
            raise falcon.HTTPForbidden(description='not you')
        if subscription.user == 'eve':
            raise RuntimeError('broken')

    async def on_publish(self, req: Any, publication: Any, n: str) -> None:
        await asyncio.sleep(0.5)


def make_channels(
    allowed_origins: Sequence[str] = ('*',),
) -> tuple[Channels, Record]:
    channels = Channels(options=NodeOptions(allowed_origins=allowed_origins))
    channels.add_route(
        'rooms:{n}', Room(), ChannelOptions(history_size=10, publishers='subscribers')
    )
    record = Record()
    channels.node.operations.observe(record)
    return channels, record


@on_fake_clock
async def test_publication_is_observed_from_the_responder_to_the_delivery() -> None:
    """A publish has a responder, a publish, a call of the broker and a delivery."""
    channels, record = make_channels()
    async with channels:
        async with SimulatedClient(channels, user='ann') as ann:
            async with SimulatedClient(channels, user='bob') as bob:
                await ann.subscribe('rooms:1')
                await bob.subscribe('rooms:1')
                record.ended.clear()
                await ann.publish('rooms:1', {'text': 'hello'})
                await asyncio.sleep(0)
    names = [(o.name, o.detail) for o in record.ended[:4]]
    assert [
        ('responder', 'on_publish'),
        ('broker', 'publish'),
        ('publish', ''),
        ('deliver', ''),
    ] == names
    _, _, publish, deliver = record.ended[:4]
    assert ('rooms:1', 'rooms:{n}') == (publish.channel, publish.route)
    assert len(b'{"text":"hello"}') == publish.num_bytes
    assert ('rooms:1', 'rooms:{n}') == (deliver.channel, deliver.route)
    assert (1, 2) == (deliver.num_publications, deliver.num_deliveries)
    assert 1 == len(deliver.times_ms)


@on_fake_clock
async def test_recovery_is_observed_with_its_size() -> None:
    """A client that asks for what it missed is observed with number and bytes."""
    channels, record = make_channels()
    async with channels:
        first = await channels.publish('rooms:1', 0)
        for number in range(3):
            await channels.publish('rooms:1', number)
        async with SimulatedClient(channels, user='ann') as ann:
            await ann.subscribe('rooms:1', since=first.position)
        async with SimulatedClient(channels, user='ann') as ann:
            await ann.subscribe('rooms:1')
    [recovery] = record.of('recovery')
    assert 3 == recovery.num_publications
    assert recovery.num_bytes > 3
    assert 'rooms:{n}' == recovery.route


@pytest.mark.parametrize(
    ('user', 'outcome'), [('ann', 'ok'), ('mallory', 'refused'), ('eve', 'failed')]
)
@on_fake_clock
async def test_responder_that_refuses_or_fails_has_its_outcome(
    user: str, outcome: str
) -> None:
    """A refusal is not a failure."""
    channels, record = make_channels()
    async with channels, SimulatedClient(channels, user=user) as client:
        try:
            await client.subscribe('rooms:1')
        except (falcon.HTTPError, RuntimeError):
            assert user != 'ann'
    [responder] = record.of('responder', 'on_subscribe')
    assert outcome == responder.outcome


class Served:
    """Serves every client with the methods of `Channels` for plain clients."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await self._channels.serve(req, ws, 'rooms:1', user=req.get_param('user'))

    async def on_get(self, req: Any, resp: Any) -> None:
        options = EventStreamOptions(poll_wait_s=0.01)
        user = req.get_param('user')
        await self._channels.serve_events(
            req, resp, 'rooms:1', user=user, options=options
        )


#: Headers of a page of another site.
STRANGE = {'Host': 'b.example', 'Origin': 'https://a.example'}


@pytest.mark.parametrize(
    ('path', 'headers', 'detail', 'outcome'),
    [
        ('/connection/websocket', {}, 'ClientConnection', 'ok'),
        ('/connection/websocket', STRANGE, '', 'refused'),
        ('/connection/uni_websocket', {}, 'UnidirectionalConnection', 'ok'),
        ('/plain?user=ann', {}, 'PlainConnection', 'ok'),
        ('/plain?user=ann', STRANGE, '', 'refused'),
        ('/plain?user=mallory', {}, '', 'refused'),
        ('/plain?user=eve', {}, '', 'failed'),
    ],
)
async def test_handshake_of_a_websocket_is_observed_once(
    path: str, headers: dict[str, str], detail: str, outcome: str
) -> None:
    """A handshake ends when the connection is added, or with any refusal."""
    channels, record = make_channels(allowed_origins=[])
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app)
    app.add_route('/plain', Served(channels))
    async with testing.ASGIConductor(app) as conductor:
        with contextlib.suppress(falcon.WebSocketDisconnected, RuntimeError):
            path, _, query = path.partition('?')
            async with conductor.simulate_ws(path, query_string=query, headers=headers):
                pass
    [handshake] = record.of('handshake')
    assert (detail, outcome) == (handshake.detail, handshake.outcome)


@pytest.mark.parametrize(
    ('method', 'path', 'options', 'detail', 'outcome'),
    [
        ('POST', '/http_stream', {'body': b'\xff'}, '', 'refused'),
        ('POST', '/http_stream', {'headers': STRANGE}, '', 'refused'),
        ('GET', '/sse?cf_connect=x', {}, '', 'refused'),
        ('POST', '/sse', {'body': b'\xff'}, '', 'refused'),
        ('POST', '/uni_http_stream', {'body': b'x'}, '', 'refused'),
        ('GET', '/uni_sse?cf_connect=x', {}, '', 'refused'),
        ('POST', '/uni_sse', {'body': b'x'}, '', 'refused'),
        ('GET', '/plain', {'headers': STRANGE}, '', 'refused'),
        ('GET', '/plain?since=x', {}, '', 'refused'),
        ('GET', '/plain', {'headers': {'Accept': 'application/json'}}, 'Poll', 'ok'),
    ],
)
async def test_handshake_of_an_http_request_is_observed_once(
    method: str, path: str, options: dict[str, Any], detail: str, outcome: str
) -> None:
    """A request for a stream that is refused also ends its handshake."""
    channels, record = make_channels(allowed_origins=[])
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app, '/')
    app.add_route('/plain', Served(channels))
    async with testing.ASGIConductor(app) as conductor:
        found = await conductor.simulate_request(method, path, **options)
    [handshake] = record.of('handshake')
    assert (detail, outcome) == (handshake.detail, handshake.outcome)
    assert (outcome == 'ok') == (found.status_code == 200)


async def test_cancelled_call_of_the_broker_is_not_a_failure() -> None:
    """The outcome of a cancelled operation is `cancelled`."""
    operations, record = Operations(), Record()
    operations.observe(record)

    async def wait() -> None:
        with operations.time(Operation('broker')):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert ['cancelled'] == [operation.outcome for operation in record.ended]


@pytest.mark.parametrize(
    ('error', 'outcome'),
    [
        (falcon.HTTPForbidden(), 'refused'),
        (falcon.HTTPServiceUnavailable(), 'failed'),
        (UnknownChannelError('x'), 'refused'),
        (BrokerUnavailableError('x'), 'failed'),
        (ValueError(), 'failed'),
    ],
)
def test_error_decides_the_outcome(error: Exception, outcome: str) -> None:
    """An error that the client or the caller has caused is a refusal."""
    operations, record = Operations(), Record()
    operations.observe(record)
    with pytest.raises(type(error)), operations.time(Operation('broker')):
        raise error
    assert (outcome, error) == (record.ended[0].outcome, record.ended[0].error)


def test_observer_that_fails_does_not_end_the_operation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exception of an observer is logged; the operation and the others go on."""

    class Broken:
        def begin(self, operation: Operation) -> None:
            raise RuntimeError('begin')

        def end(self, operation: Operation, state: None) -> None:
            raise AssertionError('it has not begun')

    operations, record = Operations(), Record()
    operations.observe(Broken())
    operations.observe(record)
    with operations.time(Operation('publish')):
        pass
    assert 1 == len(record.ended)
    assert 'begin' in caplog.text


async def test_methods_of_the_broker_are_its_own_while_nobody_observes() -> None:
    """Without an observer, a call of the broker passes through nothing."""
    channels = Channels()
    broker = channels.node.broker
    for name in TIMED_METHODS:
        assert getattr(broker, name) == getattr(channels.node.hub.broker, name)
    record = Record()
    stop = channels.node.operations.observe(record)
    await channels.node.hub.broker.is_revoked('x', 'ann')
    stop()
    stop()
    await channels.node.hub.broker.is_revoked('x', 'ann')
    assert ['is_revoked'] == [operation.detail for operation in record.ended]
    assert not channels.node.operations.wanted


async def test_broker_is_observed_after_a_new_start() -> None:
    """An observer stays when the node has closed and starts again."""
    channels, record = make_channels()
    async with channels:
        pass
    record.ended.clear()
    async with channels:
        await channels.publish('rooms:1', 1)
    assert 1 == len(record.of('broker', 'publish'))


#: All methods of the contract of a broker.
BROKER_METHODS = [
    name
    for name, value in vars(Broker).items()
    if callable(value) and not name.startswith('_')
]


def test_every_call_of_a_broker_is_timed() -> None:
    """All methods that wait for the store are timed, except start and close."""
    calls = {
        name
        for name in BROKER_METHODS
        if inspect.iscoroutinefunction(method := getattr(Broker, name))
        or inspect.signature(method).return_annotation.startswith('asyncio.Future')
    }
    assert calls - {'start', 'close'} == set(TIMED_METHODS)


class RecordingBroker:
    """Records each call of any method, and answers with a future."""

    capabilities = MemoryBroker.capabilities

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> asyncio.Future[str]:
            self.calls.append((name, args, options))
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(f'answer of {name}')
            return answer

        return call


@pytest.mark.parametrize('name', BROKER_METHODS)
async def test_method_of_an_observed_broker_gets_every_argument(name: str) -> None:
    """An observed broker passes each argument to the same method, also new ones."""
    operations, record = Operations(), Record()
    broker: Any = RecordingBroker()
    timed = TimedBroker(broker, operations)
    operations.observe(record)
    _, *parameters = inspect.signature(getattr(Broker, name)).parameters.values()
    args = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    options = {p.name: p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    answer = getattr(timed, name)(*args, **options)
    if inspect.isawaitable(answer):
        answer = await answer
        await asyncio.sleep(0)
    assert [(name, args, options)] == broker.calls
    assert answer in (f'answer of {name}', None)
    assert [name] * (name in TIMED_METHODS) == [o.detail for o in record.ended]


def test_every_operation_has_a_meaning() -> None:
    """`OPERATIONS` explains each operation."""
    assert all(len(meaning.split()) > 3 for meaning in OPERATIONS.values())


async def test_broker_passes_the_trace_of_a_publication_on() -> None:
    """A trace context beside a publication arrives and stays in the log."""
    channels = Channels(broker := MemoryBroker())
    channels.add_route('x', None, ChannelOptions(history_size=1))
    trace = f'00-{"a" * 32}-{"b" * 16}-01'
    async with channels, channels.subscribe('x') as subscription:
        route = channels.node.router.match('x')
        assert route is not None
        publisher = channels.node.publisher
        await publisher._give_to_broker(route, 'x', Publication(data=b'1', trace=trace))
        assert trace == (await anext(subscription)).trace
        page = await channels.history('x')
    assert [trace] == [publication.trace for publication in page.publications]
    assert 'trace' not in str(page.to_media())
    assert broker.capabilities.history
