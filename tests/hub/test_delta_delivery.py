"""Deltas in the hub: the bases of clients, slow readers, joins, and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
import contextlib
import json
from typing import Any

import pytest
from support.deltas import DeltaReader
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import filters
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.unidirectional import UnidirectionalConnection
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.protocol import deltas
from falcon_channels.protocol.json_codec import decode_connect
from falcon_channels.protocol.messages import Command
from falcon_channels.publication import HistoryPage
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk
from falcon_channels.testing.client import SimulatedTransport

PADDING = [f'part {number}' for number in range(40)]


class State:
    """A channel; each client gets the filter of the test, if there is one."""

    filter: Any = None

    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        subscription.filter = self.filter


class Clients:
    """A connection resource that subscribes the client of the test by itself."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'
        if connection.data == 'server-side':
            connection.add_channel('state')


def make_channels(broker: MemoryBroker | None = None, **options: Any) -> Channels:
    channels = Channels(broker)
    channels.add_route(
        'state',
        State(),
        ChannelOptions(
            **{'delta': True, 'history_size': 50, 'publishers': 'anybody'} | options
        ),
    )
    return channels


async def publish(channels: Channels, *numbers: int, **options: Any) -> None:
    for number in numbers:
        await channels.publish('state', [number, PADDING], **options)


class Follower:
    """An SDK with delta that follows the channel, and restores its payloads."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.reader = DeltaReader()
        self.offset = 0
        self.epoch = ''

    @contextlib.asynccontextmanager
    async def following(self, recover: bool = False) -> AsyncIterator[SimulatedSdk]:
        """Subscribe, and recover if asked for; unsubscribe and disconnect on exit."""
        async with SimulatedSdk(self.channels) as sdk:
            await self.subscribe(sdk, recover)
            yield sdk

    async def subscribe(self, sdk: SimulatedSdk, recover: bool = False) -> None:
        fields = {'recover': True, 'offset': self.offset, 'epoch': self.epoch}
        result = await sdk.subscribe(
            'state', delta='fossil', **(fields if recover else {})
        )
        assert result['delta'] is True
        self.epoch = result.get('epoch', '')
        for publication in result.get('publications', ()):
            self.read(publication)

    def read(self, publication: dict[str, Any]) -> None:
        self.reader.read(publication)
        self.offset = publication.get('offset', 0)

    async def receive(self, sdk: SimulatedSdk, count: int) -> None:
        for _ in range(count):
            push = await sdk.receive()
            self.read(push['pub'])

    @property
    def numbers(self) -> list[int]:
        return [json.loads(payload)[0] for payload in self.reader.payloads]


def local_channel(channels: Channels) -> LocalChannel:
    found: LocalChannel = channels.node.hub._channels['state']
    return found


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the targets of all deltas that are made."""
    made: list[bytes] = []
    create_delta = deltas.create_delta

    def record(base: bytes, target: bytes) -> bytes | None:
        made.append(target)
        return create_delta(base, target)

    monkeypatch.setattr(deltas, 'create_delta', record)
    return made


@on_fake_clock
async def test_subscriber_receives_one_whole_publication_and_then_deltas() -> None:
    """The first publication after a subscribe is whole, and all others are deltas."""
    channels = make_channels()
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1, 2, 3)
        await follower.receive(sdk, 3)
        await publish(channels, 4)
        await follower.receive(sdk, 1)
    assert [1, 2, 3, 4] == follower.numbers
    assert 3 == follower.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_delta_is_made_once_for_all_subscribers(patches: list[bytes]) -> None:
    """Each publication is compared with the one before it once, for all clients."""
    channels = make_channels()
    followers = [Follower(channels) for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        sdks = [await stack.enter_async_context(f.following()) for f in followers]
        for number in range(4):
            await publish(channels, number)
            for follower, sdk in zip(followers, sdks, strict=True):
                await follower.receive(sdk, 1)
        # A client that joins later causes no other deltas.
        late = Follower(channels)
        late_sdk = await stack.enter_async_context(late.following())
        await publish(channels, 4, 5)
        for follower, sdk in zip([*followers, late], [*sdks, late_sdk], strict=True):
            await follower.receive(sdk, 2)
    assert 5 == len(patches)
    assert all([*range(6)] == follower.numbers for follower in followers)
    assert [4, 5] == late.numbers
    assert 1 == late.reader.num_deltas
    await channels.close()


@pytest.mark.parametrize('options', [{'delta': False}, {}])
@on_fake_clock
async def test_delta_needs_the_option_and_the_request_of_the_client(
    options: dict[str, Any],
) -> None:
    """Without the option, or without the request, payloads are JSON as ever."""
    channels = make_channels(**options)
    fields = {} if not options else {'delta': 'fossil'}
    async with SimulatedSdk(channels) as sdk, SimulatedSdk(channels) as other:
        assert 'delta' not in await sdk.subscribe('state', **fields)
        assert 'delta' not in await other.subscribe('state', delta='unknown')
        await publish(channels, 1, 2)
        for client in (sdk, other):
            for number in (1, 2):
                publication = (await client.receive())['pub']
                assert [number, PADDING] == publication['data']
                assert 'delta' not in publication
    await channels.close()


@on_fake_clock
async def test_deltas_and_filters_exclude_each_other() -> None:
    """With a filter of the client or of the server, no delta is agreed."""
    channels = Channels()
    room = State()
    channels.add_route(
        'state', room, ChannelOptions(delta=True, client_filters=True, history_size=9)
    )
    async with SimulatedSdk(channels) as sdk, SimulatedSdk(channels) as other:
        wanted = {'key': 'kind', 'cmp': 'eq', 'val': 'a'}
        assert 'delta' not in await sdk.subscribe('state', delta='fossil', tf=wanted)
        room.filter = filters.eq('kind', 'a')
        assert 'delta' not in await other.subscribe('state', delta='fossil')
        for number, kind in enumerate('abab'):
            await publish(channels, number, tags={'kind': kind})
        for client in (sdk, other):
            for number in (0, 2):
                assert [number, PADDING] == (await client.receive())['pub']['data']
    await channels.close()


@on_fake_clock
async def test_publish_without_delta_is_whole_for_all() -> None:
    """``publish(delta=False)`` sends the payload whole, live and recovered."""
    channels = make_channels()
    follower, late = Follower(channels), Follower(channels)
    async with follower.following() as sdk:
        late.epoch = follower.epoch
        await publish(channels, 1)
        await publish(channels, 2, delta=False)
        await publish(channels, 3)
        await channels.broadcast(['state'], [4, PADDING], delta=False)
        await follower.receive(sdk, 4)
    async with late.following(recover=True):
        pass
    for client in (follower, late):
        assert [1, 2, 3, 4] == client.numbers
        assert 1 == client.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_on_publish_may_choose_that_a_publication_is_whole() -> None:
    """``publication.delta = False`` in on_publish sends a message of a client whole."""

    class Room(State):
        async def on_publish(self, req: Any, publication: Any) -> None:
            publication.delta = publication.data[0] != 2

    channels = Channels()
    channels.add_route('state', Room(), ChannelOptions(delta=True, history_size=9))
    follower = Follower(channels)
    async with follower.following() as sdk:
        for number in (1, 2, 3):
            await sdk.publish('state', [number, PADDING])
            await follower.receive(sdk, 1)
    assert [1, 2, 3] == follower.numbers
    assert 1 == follower.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_recovered_publications_are_a_base_for_the_next_one() -> None:
    """Only the first recovered publication is whole; live ones follow as deltas."""
    channels = make_channels()
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1)
        await follower.receive(sdk, 1)
    await publish(channels, 2, 3, 4)
    follower.reader.num_deltas = 0
    async with follower.following(recover=True) as sdk:
        await publish(channels, 5)
        await follower.receive(sdk, 1)
    assert [1, 2, 3, 4, 5] == follower.numbers
    assert 3 == follower.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_client_that_recovers_nothing_gets_the_next_publication_whole() -> None:
    """The server does not know what a client has that recovered no publication."""
    channels = make_channels()
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1)
        await follower.receive(sdk, 1)
    async with follower.following(recover=True) as sdk:
        follower.reader.base = None
        await publish(channels, 2)
        await follower.receive(sdk, 1)
    assert [1, 2] == follower.numbers
    await channels.close()


@on_fake_clock
async def test_clients_that_recover_together_share_pieces(
    patches: list[bytes],
) -> None:
    """Clients that recover at the same time cause each delta once, also mixed ones."""
    channels = make_channels()
    async with Follower(channels).following() as sdk:
        epoch = (await channels.position('state')).epoch
        await publish(channels, *range(1, 8))
        assert 7 == len([await sdk.receive() for _ in range(7)])
        patches.clear()
        followers = []
        for since in [3, 3, 3, 1, 3, 1, 5, 1]:
            follower = Follower(channels)
            follower.offset, follower.epoch = since, epoch
            async with follower.following(recover=True):
                followers.append(follower)
            assert [*range(since + 1, 8)] == follower.numbers
            assert 6 - since == follower.reader.num_deltas
    # The first client encodes for itself, and the others share the rest.
    assert len(patches) <= 3 + 5 + 1
    await channels.close()


class _AheadBroker(MemoryBroker):
    """A broker that announces publications later than its log has them."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Callable[[], None]] | None = None

    async def start(self, receiver: Any) -> None:
        broker = self

        class Late:
            def __getattr__(self, name: str) -> Any:
                return getattr(receiver, name)

            def on_publication(self, *args: Any) -> None:
                if broker.held is None:
                    receiver.on_publication(*args)
                else:
                    broker.held.append(lambda: receiver.on_publication(*args))

        await super().start(Late())

    def announce(self, count: int) -> None:
        assert self.held is not None
        for call in self.held[:count]:
            call()
        del self.held[:count]


@pytest.mark.parametrize('together', [False, True])
@on_fake_clock
async def test_client_that_recovered_ahead_of_its_channel_continues_in_step(
    together: bool,
) -> None:
    """A client ahead of the announcements gets each publication once, as a delta."""
    broker = _AheadBroker()
    channels = make_channels(broker)
    follower, ahead = Follower(channels), Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1)
        await follower.receive(sdk, 1)
        ahead.offset, ahead.epoch = 1, follower.epoch
        broker.held = []
        await publish(channels, 2, 3)
        async with ahead.following(recover=True) as ahead_sdk:
            await publish(channels, 4)
            if together:
                broker.announce(3)
            else:
                for _ in range(3):
                    broker.announce(1)
                    await asyncio.sleep(0.01)
            await follower.receive(sdk, 3)
            await ahead.receive(ahead_sdk, 1)
            broker.held = None
            await publish(channels, 5)
            await follower.receive(sdk, 1)
            await ahead.receive(ahead_sdk, 1)
    assert [1, 2, 3, 4, 5] == follower.numbers
    assert [2, 3, 4, 5] == ahead.numbers
    assert 4 == follower.reader.num_deltas
    assert (2 if together else 3) == ahead.reader.num_deltas
    await channels.close()


@pytest.mark.parametrize('slow_reader', ['latest', 'drop_oldest'])
@on_fake_clock
async def test_slow_reader_that_skipped_gets_a_whole_publication(
    slow_reader: str,
) -> None:
    """After a slow reader skipped publications, its next one is whole."""
    channels = make_channels(
        slow_reader=slow_reader,
        recovery='off',
        max_backlog_bytes=4096,
        max_publication_bytes=4096,
    )
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1)
        await follower.receive(sdk, 1)
        sdk.connection.transport.stop_reading()  # type: ignore[attr-defined]
        for number in range(2, 80):
            await channels.publish('state', [number, PADDING, 'x' * (number * 29)])
            await asyncio.sleep(0.01)
        found = local_channel(channels).deltas
        assert found is not None
        # What the client has received last is not stored while it misses publications.
        assert {} == found._bases
        sdk.connection.transport.read_again()  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        await follower.receive(sdk, len(sdk.pushes))
        assert 79 == follower.numbers[-1]
        assert len(follower.numbers) < 79
        await channels.publish('state', [80, PADDING, 'x' * (79 * 29)])
        num_deltas = follower.reader.num_deltas
        await follower.receive(sdk, 1)
    assert 80 == follower.numbers[-1]
    # The client has caught up, and is in step again.
    assert num_deltas + 1 == follower.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_slow_reader_that_missed_nothing_stays_in_step() -> None:
    """A reader that was slow for a moment, and missed nothing, gets the next delta."""
    channels = make_channels(slow_reader='latest', recovery='off')
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1)
        await follower.receive(sdk, 1)
        sdk.connection.transport.stop_reading()  # type: ignore[attr-defined]
        await publish(channels, 2)
        await asyncio.sleep(0.01)
        assert local_channel(channels).lagging
        sdk.connection.transport.read_again()  # type: ignore[attr-defined]
        await publish(channels, 3)
        await follower.receive(sdk, 2)
    assert [1, 2, 3] == follower.numbers
    assert 2 == follower.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_channel_stores_a_base_only_while_a_client_has_delta() -> None:
    """The last publication is dropped with the last subscription with delta."""
    channels = make_channels(history_size=0)
    plain = SimulatedSdk(channels)
    async with plain:
        await plain.subscribe('state')
        await publish(channels, 1)
        await plain.receive()
        assert local_channel(channels).deltas is None
        async with Follower(channels).following() as sdk:
            await publish(channels, 2)
            await sdk.receive()
            found = local_channel(channels).deltas
            assert found is not None
            assert found.base is not None
        assert local_channel(channels).deltas is None
    await channels.close()


@on_fake_clock
async def test_ended_slow_reader_leaves_no_base() -> None:
    """A subscription that ends while it lags is forgotten, with its base."""
    channels = make_channels(slow_reader='latest', recovery='off')
    follower = Follower(channels)
    async with follower.following() as sdk:
        slow = Follower(channels)
        async with slow.following() as slow_sdk:
            slow_sdk.connection.transport.stop_reading()  # type: ignore[attr-defined]
            await publish(channels, 1)
            await follower.receive(sdk, 1)
            assert local_channel(channels).lagging
        found = local_channel(channels).deltas
        assert found is not None
        assert (1, {}) == (found.num_members, found._bases)
    await channels.close()


@on_fake_clock
async def test_channel_without_history_has_deltas() -> None:
    """Deltas need no history: only this process decides what its clients have."""
    channels = make_channels(history_size=0)
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1, 2)
        await follower.receive(sdk, 2)
    assert [1, 2] == follower.numbers
    assert 1 == follower.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_clients_with_and_without_joins_are_in_step_together(
    patches: list[bytes],
) -> None:
    """A join between two publications changes no base, and is sent if asked for."""
    channels = make_channels(join_leave='connection')
    asking, other = Follower(channels), Follower(channels)
    async with SimulatedSdk(channels) as sdk, other.following() as other_sdk:
        await sdk.subscribe('state', delta='fossil', join_leave=True)
        assert 'join' in await sdk.receive()
        for number in (1, 2):
            await publish(channels, number)
            asking.read((await sdk.receive())['pub'])
            await other.receive(other_sdk, 1)
            async with SimulatedSdk(channels) as passing:
                await passing.subscribe('state')
                assert 'join' in await sdk.receive()
            assert 'leave' in await sdk.receive()
        await channels.publish('state', [3, PADDING])
        asking.read((await sdk.receive())['pub'])
        await other.receive(other_sdk, 1)
    for follower in (asking, other):
        assert [1, 2, 3] == follower.numbers
        assert 2 == follower.reader.num_deltas
    assert 2 == len(patches)
    await channels.close()


@on_fake_clock
async def test_last_publication_of_a_channel_is_a_delta() -> None:
    """The data of ``finish`` may be a delta, and the end follows it."""
    channels = make_channels()
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1)
        await channels.finish('state', [2, PADDING])
        await follower.receive(sdk, 2)
        assert 'unsubscribe' in await sdk.receive()
    late = Follower(channels)
    late.epoch = follower.epoch
    async with SimulatedSdk(channels) as sdk:
        await late.subscribe(sdk, recover=True)
    for client in (follower, late):
        assert [1, 2] == client.numbers
        assert 1 == client.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_repaired_publications_are_deltas() -> None:
    """Publications that were read from the log after a gap are deltas as well."""
    broker = _AheadBroker()
    channels = make_channels(broker)
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1)
        await follower.receive(sdk, 1)
        broker.held = []
        await publish(channels, 2, 3)
        broker.held = None
        await publish(channels, 4)
        await follower.receive(sdk, 3)
    assert [1, 2, 3, 4] == follower.numbers
    assert 3 == follower.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_log_that_was_lost_does_not_mislead_a_client() -> None:
    """A reused offset of another log is no base, and the client gets it whole."""
    broker = MemoryBroker()
    channels = make_channels(broker)
    follower = Follower(channels)
    async with follower.following() as sdk:
        await publish(channels, 1, 2)
        await follower.receive(sdk, 2)
        other = Follower(channels)
        other.epoch, other.offset = follower.epoch, 1
        history = broker.history

        async def forged(*args: Any, **options: Any) -> HistoryPage:
            page = await history(*args, **options)
            return page._replace(
                publications=[
                    type(item)(data=b'["forged"]', offset=item.offset)
                    for item in page.publications
                ]
            )

        channels.node.hub.broker.history = forged  # type: ignore[method-assign]
        async with other.following(recover=True) as other_sdk:
            await publish(channels, 3)
            await other.receive(other_sdk, 1)
    assert ['forged', 3] == other.numbers
    assert 0 == other.reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_server_side_subscription_of_a_connect_request_has_deltas() -> None:
    """A client that asks for delta in ``subs`` of connect gets deltas there."""
    channels = make_channels()
    sdk = SimulatedSdk(channels, Clients(), data='server-side')
    sdk._request['subs'] = {'state': {'delta': 'fossil'}}
    reader = DeltaReader()
    async with sdk:
        assert sdk.connected['subs']['state']['delta'] is True
        await publish(channels, 1, 2)
        for _ in range(2):
            reader.read((await sdk.receive())['pub'])
    assert 1 == reader.num_deltas
    await channels.close()


@on_fake_clock
async def test_unidirectional_client_recovers_and_follows_with_deltas() -> None:
    """A unidirectional client gets recovered and live publications as deltas."""
    channels = make_channels()
    await channels.start()
    await publish(channels, 1, 2, 3)
    epoch = (await channels.position('state')).epoch
    messages: list[bytes] = []
    transport = SimulatedTransport(messages.append, lambda: None)
    endpoint = Endpoint(channels.node, Clients(), None, None)
    req = SimulatedClient(channels).req
    connection = UnidirectionalConnection(endpoint, transport, req)
    transport.receiver = connection
    channels.node.handshake.add(connection)
    sub = {'delta': 'fossil', 'recover': True, 'offset': 1, 'epoch': epoch}
    request = decode_connect(json.dumps({'subs': {'state': sub}}))
    await connection.carry_out_only(Command(1, request))
    await publish(channels, 4)
    await asyncio.sleep(0.01)
    first, *pushes = [json.loads(line) for m in messages for line in m.split(b'\n')]
    assert first['connect']['subs']['state']['delta'] is True
    reader = DeltaReader()
    for push in pushes:
        reader.read(push['pub'])
    assert [2, 3, 4] == [json.loads(payload)[0] for payload in reader.payloads]
    assert 2 == reader.num_deltas
    connection.disconnect(3001, '')
    await channels.close()
