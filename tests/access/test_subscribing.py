"""`Subscriber`: an error in any step of a subscription leaves nothing behind.

The steps are those of the module's docstring. After each error these tests check the
connection, the hub, the broker's presence and the client. The client can then subscribe
to the same channel again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

import falcon
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelNameError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels import Subscription
from falcon_channels import UnknownChannelError
from falcon_channels import UnsubscribedError
from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.errors import AlreadySubscribedError
from falcon_channels.errors import TooManyChannelsError
from falcon_channels.hub.connection import Joined
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient

CHANNEL = 'rooms:a'

Step = Callable[[], Awaitable[None]]


class FaultyBroker(MemoryBroker):
    """A memory broker whose methods can fail or wait; tests set `before`."""

    def __init__(self) -> None:
        super().__init__()
        #: Awaited before a method, by the name of the method.
        self.before: dict[str, Step] = {}

    async def _run_before(self, method: str) -> None:
        step = self.before.get(method)
        if step is not None:
            await step()

    async def subscribe(self, *args: Any) -> Any:
        await self._run_before('subscribe')
        return await super().subscribe(*args)

    async def history(self, *args: Any, **options: Any) -> Any:
        await self._run_before('history')
        return await super().history(*args, **options)

    async def is_revoked(self, *args: Any) -> Any:
        await self._run_before('is_revoked')
        return await super().is_revoked(*args)

    async def add_presence(self, *args: Any) -> Any:
        await self._run_before('add_presence')
        return await super().add_presence(*args)

    async def signal(self, *args: Any) -> Any:
        await self._run_before('signal')
        return await super().signal(*args)


class Room:
    """A resource that records its calls; tests set what ``on_subscribe`` awaits."""

    def __init__(self) -> None:
        self.before_accept: Step | None = None
        self.calls: list[str] = []

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        self.calls.append('on_subscribe')
        if self.before_accept is not None:
            await self.before_accept()

    async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
        self.calls.append('on_unsubscribe')


class World:
    """Channels on a faulty broker, and one client that subscribes."""

    def __init__(self) -> None:
        self.broker = FaultyBroker()
        self.room = Room()
        self.channels = Channels(
            self.broker, options=NodeOptions(max_channels_per_connection=2)
        )
        self.channels.add_route(
            'rooms:{room}',
            self.room,
            ChannelOptions(history_size=10, presence=True, join_leave='connection'),
        )
        self.client = SimulatedClient(self.channels, user='ann')
        self.steps: list[str] = []
        self.before_open: Step | None = None
        self.join_error: Exception | None = None

    async def on_authorized(self) -> None:
        self.steps.append('on_authorized')
        if self.before_open is not None:
            await self.before_open()

    def on_joined(self, subscription: Subscription, joined: Joined) -> None:
        self.steps.append('on_joined')
        if self.join_error is not None:
            raise self.join_error

    async def subscribe(
        self, channel: str = CHANNEL, since: Position | None = None
    ) -> Subscription:
        return await self.channels.node.subscriber.subscribe(
            self.client.connection,
            channel,
            self.on_joined,
            SubscribeOptions(since=since, on_authorized=self.on_authorized),
        )

    async def assert_nothing_is_left(self) -> None:
        """Check every place that a subscription is registered in."""
        node = self.channels.node
        assert {} == self.client.connection.subscriptions
        assert 0 == node.hub.num_subscriptions
        await asyncio.sleep(1)
        assert {} == await self.broker.presence(CHANNEL)
        before = len(self.client.events)
        await self.channels.publish(CHANNEL, 'after the error')
        # NOTE: longer than two refreshes of presence, which must not enter it again.
        await asyncio.sleep(200)
        assert {} == await self.broker.presence(CHANNEL)
        assert [] == [
            event
            for event in list(self.client.events)[before:]
            if isinstance(event, Received)
        ]

    async def assert_client_can_subscribe(self) -> None:
        """Subscribe without a fault, and end that subscription."""
        self.broker.before.clear()
        self.room.before_accept = self.before_open = self.join_error = None
        await self.client.subscribe(CHANNEL)
        await self.channels.publish(CHANNEL, 'received')
        assert 'received' == (await self.client.receive()).value()
        assert [self.client.connection.id] == list(await self.broker.presence(CHANNEL))
        self.client.unsubscribe(CHANNEL)
        await self.assert_nothing_is_left()


def raising(error: Exception) -> Step:
    async def step() -> None:
        raise error

    return step


def fail_revocation_check(world: World) -> None:
    world.broker.before['is_revoked'] = raising(BrokerUnavailableError('fault'))


def fail_on_subscribe(world: World) -> None:
    world.room.before_accept = raising(falcon.HTTPForbidden())


def break_on_subscribe(world: World) -> None:
    world.room.before_accept = raising(RuntimeError('fault'))


def fail_opening(world: World) -> None:
    world.broker.before['subscribe'] = raising(BrokerUnavailableError('fault'))


def break_on_authorized(world: World) -> None:
    world.before_open = raising(RuntimeError('fault'))


def fail_recovery(world: World) -> None:
    world.broker.before['history'] = raising(BrokerUnavailableError('fault'))


def break_on_joined(world: World) -> None:
    world.join_error = RuntimeError('fault')


@pytest.mark.parametrize(
    ('fault', 'error', 'steps', 'calls'),
    [
        (fail_revocation_check, BrokerUnavailableError, [], []),
        (fail_on_subscribe, falcon.HTTPForbidden, [], ['on_subscribe']),
        (break_on_subscribe, RuntimeError, [], ['on_subscribe']),
        (fail_opening, BrokerUnavailableError, [], ['on_subscribe']),
        (break_on_authorized, RuntimeError, ['on_authorized'], ['on_subscribe']),
        (fail_recovery, BrokerUnavailableError, ['on_authorized'], ['on_subscribe']),
        (
            break_on_joined,
            RuntimeError,
            ['on_authorized', 'on_joined'],
            ['on_subscribe', 'on_unsubscribe'],
        ),
    ],
)
def test_error_in_a_step_is_raised_and_leaves_nothing(
    fault: Callable[[World], None],
    error: type[Exception],
    steps: list[str],
    calls: list[str],
) -> None:
    """The error of a step is raised, no later step runs, and nothing is left.

    ``on_unsubscribe`` is called only if the hub had joined the subscription.
    """

    @on_fake_clock
    async def scenario() -> None:
        world = World()
        async with world.client:
            position = (await world.channels.publish(CHANNEL, 'before')).position
            fault(world)
            with pytest.raises(error):
                await world.subscribe(since=Position(0, position.epoch))
            world.broker.before.clear()
            await world.assert_nothing_is_left()
            assert (steps, calls) == (world.steps, world.room.calls)
            assert not world.client.connection.closed
            await world.assert_client_can_subscribe()
        await world.channels.close()

    scenario()


@pytest.mark.parametrize(
    ('channel', 'error'),
    [
        ('rooms:\n', ChannelNameError),
        ('Rooms:a', UnknownChannelError),
        ('rooms:a/b', UnknownChannelError),
        ('other', UnknownChannelError),
    ],
)
def test_channel_without_a_route_raises_and_opens_nothing(
    channel: str, error: type[Exception]
) -> None:
    """A client cannot create a channel by subscribing to its name."""

    @on_fake_clock
    async def scenario() -> None:
        world = World()
        async with world.client:
            with pytest.raises(error):
                await world.client.subscribe(channel)
            with pytest.raises(error):
                await world.subscribe(channel)
            await world.assert_nothing_is_left()
            assert ([], []) == (world.steps, world.room.calls)
        await world.channels.close()

    scenario()


@on_fake_clock
async def test_second_subscription_to_a_channel_raises_and_the_first_stays() -> None:
    """A request for a subscribed channel is refused, also while the first is made."""
    world = World()
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    world.room.before_accept = wait
    async with world.client as client:
        first = asyncio.create_task(world.subscribe())
        await asyncio.sleep(1)
        with pytest.raises(AlreadySubscribedError):
            await world.subscribe()
        release.set()
        subscription = await first
        with pytest.raises(AlreadySubscribedError):
            await world.subscribe()
        assert {CHANNEL: subscription} == client.connection.subscriptions
        await world.channels.publish(CHANNEL, 'once')
        await asyncio.sleep(1)
        assert 1 == sum(
            isinstance(event, Received) and event.channel == CHANNEL
            for event in client.events
            if getattr(getattr(event, 'item', None), 'data', None) == b'"once"'
        )
    await world.channels.close()


@on_fake_clock
async def test_two_requests_that_start_the_node_make_one_subscription() -> None:
    """Both requests wait for the start of the node. The second one is then refused."""
    world = World()

    async def add() -> None:
        world.channels.node.handshake.add(world.client.connection)

    world.before_open = add
    first, second = await asyncio.gather(
        world.subscribe(), world.subscribe(), return_exceptions=True
    )
    assert isinstance(second, AlreadySubscribedError)
    assert {CHANNEL: first} == world.client.connection.subscriptions
    assert 1 == world.channels.node.hub.count_subscribers(CHANNEL)
    world.client.disconnect()
    await world.assert_nothing_is_left()
    await world.channels.close()


@on_fake_clock
async def test_subscription_above_the_limit_raises_and_leaves_nothing() -> None:
    """A connection has at most `max_channels_per_connection` subscriptions."""
    world = World()
    async with world.client as client:
        for channel in ('rooms:1', 'rooms:2'):
            await world.subscribe(channel)
        with pytest.raises(TooManyChannelsError):
            await world.subscribe()
        assert ['rooms:1', 'rooms:2'] == list(client.connection.subscriptions)
        for channel in ('rooms:1', 'rooms:2'):
            client.unsubscribe(channel)
        await world.assert_client_can_subscribe()
    await world.channels.close()


@pytest.mark.parametrize(
    'place', ['is_revoked', 'on_subscribe', 'subscribe', 'on_authorized', 'history']
)
@pytest.mark.parametrize('end', ['cancel', 'unsubscribe', 'disconnect'])
def test_end_during_a_step_leaves_nothing(place: str, end: str) -> None:
    """A subscription that ends while a step waits is left by every later step.

    It can end by cancellation, by a command of the application, or with its connection.
    """

    @on_fake_clock
    async def scenario() -> None:
        world = World()
        release, waits = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            waits.set()
            await release.wait()

        async with world.client as client:
            position = (await world.channels.publish(CHANNEL, 'before')).position
            if place == 'on_subscribe':
                world.room.before_accept = wait
            elif place == 'on_authorized':
                world.before_open = wait
            else:
                world.broker.before[place] = wait
            task = asyncio.create_task(
                world.subscribe(since=Position(0, position.epoch))
            )
            await waits.wait()
            if end == 'cancel':
                task.cancel()
            elif end == 'unsubscribe':
                await world.channels.unsubscribe_user('ann', CHANNEL)
                await asyncio.sleep(1)
            else:
                client.disconnect()
            release.set()
            await asyncio.wait([task])
            if end == 'cancel':
                assert task.cancelled()
            else:
                assert isinstance(task.exception(), UnsubscribedError)
            assert 'on_joined' not in world.steps
            world.broker.before.clear()
            await world.assert_nothing_is_left()
            if end != 'disconnect':
                await world.assert_client_can_subscribe()
        await world.channels.close()

    scenario()


@on_fake_clock
async def test_revocation_during_the_join_ends_the_subscription() -> None:
    """A revocation between the first check and the join is found by the second check.

    Its command to unsubscribe was carried out before the subscription existed.
    """
    world = World()

    async def revoke() -> None:
        del world.broker.before['subscribe']
        await world.broker.revoke(CHANNEL, 'ann', 100.0)

    world.broker.before['subscribe'] = revoke
    async with world.client as client:
        subscription = await world.subscribe()
        assert subscription.ended
        assert (2000, 'server unsubscribe') == subscription.end
        await asyncio.sleep(1)
        assert 2000 == client.events[-1].code
        await world.assert_nothing_is_left()
    await world.channels.close()


@on_fake_clock
async def test_failing_second_revocation_check_ends_the_subscription() -> None:
    """The subscription ends with 2500, with which the client subscribes again."""
    world = World()
    checks = 0

    async def fail_the_second() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            raise BrokerUnavailableError('fault')

    world.broker.before['is_revoked'] = fail_the_second
    async with world.client as client:
        subscription = await world.subscribe()
        assert subscription.ended
        await asyncio.sleep(1)
        assert 2500 == client.events[-1].code
        await world.assert_nothing_is_left()
        await world.assert_client_can_subscribe()
    await world.channels.close()


@pytest.mark.parametrize('method', ['add_presence', 'signal'])
def test_subscription_whose_presence_is_unavailable_stays(method: str) -> None:
    """The subscription is live. A later refresh enters and announces it."""

    @on_fake_clock
    async def scenario() -> None:
        world = World()
        world.broker.before[method] = raising(BrokerUnavailableError('fault'))
        async with world.client as client, SimulatedClient(world.channels) as other:
            subscription = await world.subscribe()
            assert not subscription.ended
            assert 1 <= world.channels.node.hub.counters.presence_errors
            world.broker.before.clear()
            await other.subscribe(CHANNEL)
            assert other.connection.id == (await other.receive_signal()).info.client
            signal = await other.receive_signal(timeout_s=300.0)
            assert ('join', 'ann') == (signal.kind, signal.info.user)
            assert client.connection.id in await world.broker.presence(CHANNEL)
            other.unsubscribe(CHANNEL)
            client.unsubscribe(CHANNEL)
            await world.assert_nothing_is_left()
        await world.channels.close()

    scenario()


@pytest.mark.parametrize('method', ['add_presence', 'signal'])
def test_defect_in_presence_is_raised_and_leaves_nothing(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error in presence ends the subscription, and no connection.

    The error is in a task of the hub, which logs and counts it.
    """

    @on_fake_clock
    async def scenario() -> None:
        world = World()
        world.broker.before[method] = raising(RuntimeError('fault'))
        async with world.client as client:
            with pytest.raises(RuntimeError, match='fault'):
                await world.subscribe()
            world.broker.before.clear()
            await world.assert_nothing_is_left()
            assert 1 == world.channels.node.hub.counters.task_errors
            assert not client.connection.closed
            await world.assert_client_can_subscribe()
        assert "'falcon_channels presence entry' failed" in caplog.text
        await world.channels.close()

    scenario()


@on_fake_clock
async def test_cancellation_during_presence_leaves_nothing() -> None:
    """The entry is completed although its client has left, and then removed."""
    world = World()
    release, waits = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        waits.set()
        await release.wait()

    world.broker.before['add_presence'] = wait
    async with world.client:
        task = asyncio.create_task(world.subscribe())
        await waits.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        release.set()
        world.broker.before.clear()
        await world.assert_nothing_is_left()
        await world.assert_client_can_subscribe()
    await world.channels.close()


@on_fake_clock
async def test_on_unsubscribe_that_fails_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of ``on_unsubscribe`` ends no connection."""

    class FailingRoom:
        async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
            raise RuntimeError('a defect of the application')

    channels = Channels()
    channels.add_route(
        'rooms:{room}', FailingRoom(), ChannelOptions(subscribers='anybody')
    )
    async with SimulatedClient(channels) as client:
        await client.subscribe('rooms:a')
    await asyncio.sleep(1)
    assert 1 == channels.node.hub.counters.responder_errors
    assert 'on_unsubscribe failed' in caplog.text
    await channels.close()


@on_fake_clock
async def test_changed_params_of_a_subscription_do_not_change_the_next_one() -> None:
    """Each subscription has its own values, because a responder may change them."""
    seen = []

    class Renaming:
        async def on_subscribe(
            self, req: Any, subscription: Subscription, room: str
        ) -> None:
            seen.append((room, dict(subscription.params)))
            subscription.params['room'] = 'changed'

        async def on_publish(self, req: Any, publication: Any, room: str) -> None:
            seen.append((room, {}))

    channels = Channels()
    channels.add_route('rooms:{room}', Renaming(), ChannelOptions())
    for _ in range(2):
        async with SimulatedClient(channels) as client:
            await client.subscribe(CHANNEL)
            await client.publish(CHANNEL, 1)
    assert [('a', {'room': 'a'}), ('a', {})] * 2 == seen
    await channels.close()
