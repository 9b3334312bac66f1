"""Faults of Redis: all publications still arrive once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
from pathlib import Path
import subprocess
from typing import Any

import pytest
from support.audience import Audience
from support.audience import is_lost
from support.audience import lost_and_back
from support.audience import run_fault
from support.audience import SUBSCRIBERS
from support.proxy import Proxy
from support.redis_server import RedisCluster
from support.redis_server import RedisServer

from falcon_channels import ChannelOptions
from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceChange
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.redis.broker import RedisBroker
from falcon_channels.brokers.redis.command_connection import CommandConnection
from falcon_channels.brokers.redis.connections import RedisConnector
from falcon_channels.brokers.redis.keys import token
from falcon_channels.brokers.redis.listener import PubSubListener
from falcon_channels.brokers.redis.resp_connection import RespConnection
from falcon_channels.brokers.redis.revocations import MAX_REMEMBERED
from falcon_channels.brokers.redis.revocations import RememberedRevocations
from falcon_channels.brokers.urls import open_broker
from falcon_channels.channels import Channels
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder
from falcon_channels.testing.recorder import eventually

pytestmark = pytest.mark.xdist_group('redis faults')

#: Short times, so that faults are noticed soon.
QUICK = '?timeout_s=1&probe_s=0.2'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def durable_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that writes everything to the disk before it acknowledges."""
    words = ('--appendonly', 'yes', '--appendfsync', 'always')
    server = RedisServer(tmp_path, *words)
    yield server
    server.stop()


async def test_killed_server_that_keeps_its_data_loses_no_publication(
    durable_server: RedisServer,
) -> None:
    """After a trusted server was killed and restarted, nothing is missed."""

    async def fault(channels: Channels, audience: Audience) -> None:
        durable_server.kill()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        durable_server.start()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    url = f'{durable_server.url}{QUICK}&trusted=yes'
    audience, publisher, channels = await run_fault(url, fault)
    assert publisher.failures > 0
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_restarted_server_that_is_not_trusted_starts_new_epochs(
    durable_server: RedisServer,
) -> None:
    """If the server is not trusted, a restart begins new epochs; clients are told."""

    async def fault(channels: Channels, audience: Audience) -> None:
        durable_server.kill()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        durable_server.start()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    url = f'{durable_server.url}{QUICK}'
    audience, publisher, channels = await run_fault(url, fault)
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]
    assert SUBSCRIBERS == channels.node.hub.counters.insufficient_state


async def test_server_that_lost_its_data_is_reported_to_all_subscribers(
    server: RedisServer,
) -> None:
    """If the server restarts empty, all subscribers are told and continue."""

    async def fault(channels: Channels, audience: Audience) -> None:
        server.kill()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        server.start()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    assert publisher.failures > 0
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]
    assert SUBSCRIBERS == channels.node.hub.counters.insufficient_state


async def test_frozen_server_fails_calls_in_time_and_loses_nothing(
    server: RedisServer,
) -> None:
    """If the server freezes for 10 s, calls fail in time and nothing is lost."""

    async def fault(channels: Channels, audience: Audience) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        server.freeze()
        await audience.until(lambda: is_lost(channels), 'the link is lost')
        await audience.until(lambda: loop.time() > begun_s + 10, '10 s are over')
        server.thaw()
        await audience.until(lambda: channels.status == 'ok', 'the link is back')

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    # NOTE: with a deadline of one second, at least two calls fail in this time.
    assert publisher.failures >= 2
    audience.check_all_heard(publisher.values)
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_link_is_restored_after_an_unexpected_error_of_its_task(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that reports the link starts again, and reads what was missed."""
    read = RedisBroker._read_missed_controls
    failed = []

    async def fail_once(broker: RedisBroker) -> bool:
        if not failed:
            failed.append(broker)
            raise RuntimeError('on purpose')
        return await read(broker)

    monkeypatch.setattr(RedisBroker, '_read_missed_controls', fail_once)
    command = ['redis-cli', '-p', str(server.port), 'CLIENT', 'KILL', 'TYPE', 'pubsub']

    async def fault(channels: Channels, audience: Audience) -> None:
        watching = asyncio.create_task(lost_and_back(channels, audience))
        await asyncio.to_thread(
            subprocess.run, command, check=True, capture_output=True
        )
        await watching

    audience, publisher, _ = await run_fault(f'{server.url}{QUICK}', fault)
    assert failed
    audience.check_all_heard(publisher.values)


async def test_subscribe_that_fails_leaves_no_subscription_at_the_server(
    server: RedisServer,
) -> None:
    """The server gets an unsubscribe, also if it could not confirm the subscribe.

    The channel is then subscribed again, and receives its publications.
    """
    broker = open_broker(f'{server.url}?timeout_s=0.5&probe_s=60')
    recorder = Recorder()
    await broker.start(recorder)
    settings = LogSettings()
    server.freeze()
    with pytest.raises(BrokerUnavailableError, match='did not confirm'):
        await broker.subscribe('news', settings)
    server.thaw()
    # NOTE: the server answers in order, and has therefore read the commands before.
    await broker.subscribe('other', settings)
    names = await asyncio.to_thread(server.ask, 'PUBSUB', 'CHANNELS', '*:news*')
    assert '' == names
    server.freeze()
    with pytest.raises(BrokerUnavailableError, match='did not confirm'):
        await broker.subscribe('news', settings)
    again = asyncio.create_task(broker.subscribe('news', settings))
    await asyncio.sleep(0)
    server.thaw()
    await again
    await broker.publish('news', Publication(data=b'1'), settings)
    await recorder.until(lambda: bool(recorder.publications), 'the publication arrived')
    await broker.close()


async def test_unsubscribe_while_the_link_is_restored_does_not_delay_the_link(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves between a `SUBSCRIBE` and its confirmation ends no wait.

    Otherwise the link would wait for a confirmation that it ignores, and would be lost
    again after the timeout.
    """
    broker = open_broker(f'{server.url}?timeout_s=60&probe_s=60')
    recorder = Recorder()
    settings = LogSettings()
    await broker.start(recorder)
    await broker.subscribe('news', settings)
    await broker.subscribe('other', settings)
    leaving: list[asyncio.Task[None]] = []
    real = PubSubListener.begin

    async def begin(self: PubSubListener, connection: RespConnection) -> None:
        # NOTE: the task runs when `begin` has written its commands, and waits.
        leaving.append(asyncio.create_task(broker.unsubscribe('news')))
        await real(self, connection)

    monkeypatch.setattr(PubSubListener, 'begin', begin)
    await asyncio.to_thread(server.ask, 'CLIENT', 'KILL', 'TYPE', 'pubsub')
    await recorder.until(lambda: 'restored' in recorder.links, 'the link is back')
    await asyncio.gather(*leaving)
    await broker.publish('other', Publication(data=b'1'), settings)
    await recorder.until(lambda: bool(recorder.publications), 'the publication arrived')
    names = await asyncio.to_thread(server.ask, 'PUBSUB', 'CHANNELS', '*:news*')
    assert '' == names
    await broker.close()


@pytest.mark.parametrize('place', ['connect', 'parse'])
async def test_commands_continue_after_an_unexpected_error_of_their_connection(
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    """The pending call fails at once, the next one opens another connection."""
    owner, name = {
        'connect': (RedisConnector, 'connect'),
        'parse': (CommandConnection, '_on_answer'),
    }[place]
    settings = LogSettings(size=10, ttl_s=60)
    broker = open_broker(f'{server.url}?timeout_s=60&probe_s=60')
    recorder = Recorder()
    await broker.start(recorder)
    await asyncio.to_thread(server.ask, 'CLIENT', 'KILL', 'TYPE', 'normal')
    real = getattr(owner, name)
    failed = []

    def fail_once(*args: Any) -> Any:
        if not failed:
            failed.append(args)
            raise RuntimeError('on purpose')
        return real(*args)

    monkeypatch.setattr(owner, name, fail_once)
    async with asyncio.timeout(20):
        while not failed:
            with contextlib.suppress(BrokerUnavailableError):
                await broker.history('news', settings)
        await broker.history('news', settings)
    assert 'an unexpected error ended the connection' in caplog.text
    await broker.close()


async def test_killed_pubsub_connections_lose_no_publication(
    server: RedisServer,
) -> None:
    """After pub/sub connections were killed, missed publications are read."""

    async def fault(channels: Channels, audience: Audience) -> None:
        for _ in range(3):
            command = ['redis-cli', '-p', str(server.port), 'CLIENT', 'KILL']
            watching = asyncio.create_task(lost_and_back(channels, audience))
            await asyncio.to_thread(
                subprocess.run,
                [*command, 'TYPE', 'pubsub'],
                check=True,
                capture_output=True,
            )
            await watching

    audience, publisher, channels = await run_fault(f'{server.url}{QUICK}', fault)
    audience.check_all_heard(publisher.values)
    assert channels.node.hub.counters.repairs >= 3
    assert 0 == channels.node.hub.counters.insufficient_state


async def test_cut_and_half_open_connections_lose_no_publication(
    server: RedisServer,
) -> None:
    """Connections that are reset, refused or silent lose no publication."""
    async with Proxy(server.port) as proxy:

        async def fault(channels: Channels, audience: Audience) -> None:
            watching = asyncio.create_task(lost_and_back(channels, audience))
            proxy.drop()
            await watching
            await proxy.cut()
            await audience.until(lambda: is_lost(channels), 'the link is lost')
            await proxy.mend()
            await audience.until(lambda: channels.status == 'ok', 'the link is back')
            proxy.swallow = True
            await audience.until(lambda: is_lost(channels), 'silence is noticed')
            proxy.swallow = False
            proxy.drop()
            await audience.until(lambda: channels.status == 'ok', 'the link is back')

        url = f'redis://127.0.0.1:{proxy.port}{QUICK}'
        audience, publisher, channels = await run_fault(url, fault)
        assert publisher.failures > 0
        audience.check_all_heard(publisher.values)
        assert 0 == channels.node.hub.counters.insufficient_state


async def test_moved_slot_of_a_cluster_is_followed_and_clients_are_told(
    tmp_path: Path,
) -> None:
    """If the slot of a channel moves, all subscribers are told and go on."""
    with RedisCluster(tmp_path) as cluster:

        async def fault(channels: Channels, audience: Audience) -> None:
            watching = asyncio.create_task(lost_and_back(channels, audience))
            await asyncio.to_thread(cluster.move_slot, f'{{{token("news")}}}')
            await watching

        audience, publisher, _ = await run_fault(f'{cluster.url}{QUICK}', fault)
    audience.check_heard_or_told(publisher.values)
    assert [2] * SUBSCRIBERS == [len(heard) for heard in audience.heard]


async def test_pending_commands_of_a_moved_slot_read_the_slots_once(
    tmp_path: Path,
) -> None:
    """If many commands meet a moved slot, few connections are opened for them."""
    with RedisCluster(tmp_path) as cluster:
        broker = open_broker(f'{cluster.url}{QUICK}')
        await broker.start(Recorder())
        settings = LogSettings(size=10)
        await broker.publish('news', Publication(data=b'1'), settings)
        before = cluster.num_connections()
        cluster.move_slot(f'{{{token("news")}}}')
        await asyncio.gather(
            *(
                broker.publish('news', Publication(data=b'1'), settings)
                for _ in range(500)
            )
        )
        assert cluster.num_connections() - before < 100
        page = await broker.history('news', settings)
        assert 501 == page.position.offset
        await broker.close()


@pytest.mark.parametrize('keeps_data', [False, True], ids=['empty', 'with its data'])
async def test_revocations_hold_after_the_server_has_restarted(
    tmp_path: Path, keeps_data: bool
) -> None:
    """Revocations are written again if they are lost; removed ones stay removed."""
    words = ('--appendonly', 'yes', '--appendfsync', 'always') if keeps_data else ()
    server = RedisServer(tmp_path, *words)
    brokers = [open_broker(f'{server.url}{QUICK}') for _ in range(2)]
    recorders = [Recorder() for _ in brokers]
    for broker, recorder in zip(brokers, recorders, strict=True):
        await broker.start(recorder)
    one, two = brokers
    for user in ('ann', 'bob', 'cleo'):
        await one.revoke('news', user, 60)
    await one.revoke('news', 'bob', 0)
    if keeps_data:
        # NOTE: without its data, only the process that has revoked remembers.
        await two.revoke('news', 'cleo', 0)
    server.kill()
    for recorder in recorders:
        await recorder.until(lambda r=recorder: r.links == ['lost'], 'lost')  # type: ignore[misc]
    server.start()
    for recorder in recorders:
        await recorder.until(lambda r=recorder: r.links[1:], 'restored')  # type: ignore[misc]
    revoked = [await two.is_revoked('news', user) for user in ('ann', 'bob', 'cleo')]
    assert [True, False, not keeps_data] == revoked
    left_ms = int(server.ask('PTTL', f'falcon:{{{token("news")}}}:r:{token("ann")}'))
    assert 0 < left_ms < 60_000
    for broker in brokers:
        await broker.close()
    server.stop()


async def test_lost_revocations_are_written_as_soon_as_the_server_accepts_them(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new primary can refuse writes at first, for example without replicas.

    The revocations were once not written again before the next loss of the link.
    """
    broker, recorder = open_broker(f'{server.url}{QUICK}'), Recorder()
    await broker.start(recorder)
    assert isinstance(broker, RedisBroker)
    await broker.revoke('news', 'ann', 60)
    client = broker._get_client()
    call = client.call
    refused: list[str] = []

    async def refuse_at_first(key: bytes, *words: Any) -> Any:
        if words[0] == 'SET' and not refused:
            refused.append('SET')
            raise BrokerUnavailableError('NOREPLICAS')
        return await call(key, *words)

    monkeypatch.setattr(client, 'call', refuse_at_first)
    server.kill()
    await recorder.until(lambda: recorder.links == ['lost'], 'lost')
    server.start()
    await recorder.until(lambda: recorder.links[1:], 'restored')
    assert ['SET'] == refused
    assert not await broker.is_revoked('news', 'ann')

    async def revoked() -> bool:
        return await broker.is_revoked('news', 'ann')

    await eventually(revoked, 'the revocation is written')
    await broker.close()


async def test_control_message_of_a_second_loss_of_the_link_is_not_missed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link can be lost again while the missed messages are read."""
    recorder = Recorder()
    broker, other = (open_broker(f'{server.url}{QUICK}') for _ in range(2))
    await broker.start(recorder)
    await other.start(Recorder())
    assert isinstance(broker, RedisBroker)
    client = broker._get_client()
    call = client.call
    reads: list[Any] = []

    async def is_down() -> bool:
        return not broker._is_up()

    async def is_up() -> bool:
        return broker._is_up()

    async def lose_the_link_after_the_first_read(key: bytes, *words: Any) -> Any:
        result = await call(key, *words)
        if words[0] == 'XRANGE':
            reads.append(result)
            if len(reads) == 1:
                server.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
                await eventually(is_down, 'the link is lost again')
                await other.control(b'missed')
                await eventually(is_up, 'the link is back again')
        return result

    monkeypatch.setattr(client, 'call', lose_the_link_after_the_first_read)
    server.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await recorder.until(lambda: 'restored' in recorder.links, 'the link is restored')
    await other.control(b'later')
    await recorder.until(lambda: b'later' in recorder.controls, 'the last message')
    assert [b'missed', b'later'] == recorder.controls
    await broker.close()
    await other.close()


async def test_expired_entries_are_returned_although_a_server_fails_after_them(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that were removed are announced; no other process finds them again."""
    broker = open_broker(f'{server.url}{QUICK}')
    await broker.start(Recorder())
    assert isinstance(broker, RedisBroker)
    client = broker._get_client()
    run = client.run
    found: list[int] = []

    async def fail_after_an_entry(*arguments: Any) -> Any:
        if sum(found) and len(found) < 100:
            found.extend([0] * 100)
            raise BrokerUnavailableError('the link is lost')
        result = await run(*arguments)
        found.append(result[0])
        return result

    rooms = [f'room:{number}' for number in range(30)]
    entries = [
        PresenceEntry(room, ClientInfo(user='ann', client='c1')) for room in rooms
    ]
    await broker.add_presence(entries, 0.05)
    monkeypatch.setattr(client, 'run', fail_after_an_entry)
    changes: list[PresenceChange] = []

    async def done() -> bool:
        changes.extend(await broker.expire_presence(100))
        return len(changes) == len(rooms)

    await eventually(done, 'all entries')
    assert len(found) > 100
    assert {*rooms} == {change.channel for change in changes}
    await broker.close()


async def test_link_is_restored_after_a_restarted_server_has_loaded_its_data(
    tmp_path: Path,
) -> None:
    """A server that loads its data has announcements, but no logs; it is tried again.

    The link once stayed lost for ever, because nothing was reported after the load.
    """
    server = RedisServer(
        tmp_path,
        *('--key-load-delay', '20000'),
        *('--loading-process-events-interval-bytes', '1024'),
    )
    broker, recorder = open_broker(f'{server.url}{QUICK}'), Recorder()
    await broker.start(recorder)
    # NOTE: the server serves its connections after each key, because each has a KB.
    large = Publication(data=b'"%b"' % (b'x' * 1024))
    for number in range(100):
        await broker.publish(f'news:{number}', large, LogSettings(size=1))
    server.ask('SAVE')
    server.kill()
    await recorder.until(lambda: recorder.links == ['lost'], 'lost')
    server.start()
    assert 'loading:1' in server.ask('INFO', 'persistence')
    await recorder.until(lambda: recorder.links == ['lost', 'restored'], 'restored')
    assert 'loading:0' in server.ask('INFO', 'persistence')
    assert 1 == len((await broker.history('news:0', LogSettings(size=1))).publications)
    await broker.close()
    server.stop()


async def test_control_messages_arrive_once_although_the_server_lost_the_newest(
    server: RedisServer,
) -> None:
    """After a loss, new control messages arrive, and no earlier one arrives again.

    The clock of the server is behind after the loss, so that the ids are lower.
    """
    recorder = Recorder()
    other = open_broker(f'{server.url}{QUICK}')
    async with Proxy(server.port) as proxy:
        broker = open_broker(f'redis://127.0.0.1:{proxy.port}{QUICK}')
        await broker.start(recorder)
        await other.start(Recorder())
        for number in range(600):
            await other.control(b'%d' % number)
        server.ask('SAVE')
        server.ask('XSETID', 'falcon:{!control}:log', f'{2**43}-0')
        await other.control(b'lost')
        await recorder.until(lambda: b'lost' in recorder.controls, 'all messages')
        await proxy.cut()
        await recorder.until(lambda: recorder.links, 'the link is lost')
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        while True:
            # NOTE: the connection of the sender notices the end of the server.
            try:
                await other.control(b'new 0')
                break
            except BrokerUnavailableError:
                continue
        await other.control(b'new 1')
        await proxy.mend()
        await recorder.until(lambda: 'restored' in recorder.links, 'the link is back')
        await other.control(b'new 2')
        await recorder.until(lambda: b'new 2' in recorder.controls, 'the last message')
        await broker.close()
        await other.close()
    assert [
        *(b'%d' % number for number in range(600)),
        *(b'lost', b'new 0', b'new 1', b'new 2'),
    ] == recorder.controls


async def test_control_messages_arrive_after_the_server_lost_all_data(
    server: RedisServer,
) -> None:
    """After a loss of all data, new control messages with lower ids arrive."""
    recorder = Recorder()
    broker = open_broker(f'{server.url}{QUICK}')
    await broker.start(recorder)
    await broker.control(b'before')
    server.ask('XSETID', 'falcon:{!control}:log', f'{2**43}-0')
    await broker.control(b'lost')
    await recorder.until(lambda: b'lost' in recorder.controls, 'both messages')
    await asyncio.to_thread(server.kill)
    await recorder.until(lambda: recorder.links, 'the link is lost')
    await asyncio.to_thread(server.start)
    await recorder.until(lambda: 'restored' in recorder.links, 'the link is back')
    await broker.control(b'new')
    await recorder.until(lambda: b'new' in recorder.controls, 'the new message')
    await broker.close()
    assert [b'before', b'lost', b'new'] == recorder.controls


async def test_remembered_revocations_are_limited() -> None:
    """A process remembers the newest revocations, until they expire."""
    revocations = RememberedRevocations()
    for number in range(MAX_REMEMBERED + 5):
        revocations.add('news', str(number), 100.0 + number)
    assert MAX_REMEMBERED == len(revocations.left(0.0))
    assert [('news', '10', 1.0)] == revocations.left(109.0)[:1]
    revocations.remove('news', '10')
    assert [('news', '11', 2.0)] == revocations.left(109.0)[:1]


async def test_client_of_an_evicted_log_is_told_that_it_missed_publications(
    tmp_path: Path,
) -> None:
    """A full server that removes keys never makes a client recover wrongly.

    Each client recovers all publications after its position, or is told that it did
    not.
    """
    words = ('--maxmemory', '2500kb', '--maxmemory-policy', 'allkeys-random')
    server = RedisServer(tmp_path, *words)
    channels = Channels(server.url)
    channels.add_route('{name}', object(), ChannelOptions(history_size=100))
    await channels.start()
    names = [f'news:{number}' for number in range(200)]
    first = await channels.broadcast(names, 0)
    for number in range(1, 10):
        await channels.broadcast(names, [number, 'x' * 1000])
    recovered = 0
    for name, result in zip(names, first, strict=True):
        async with channels.subscribe(name, since=result.position) as subscription:
            if subscription.recovered:
                recovered += 1
                values = [(await anext(subscription)).value()[0] for _ in range(9)]
                assert list(range(1, 10)) == values
    await channels.close()
    server.stop()
    assert 0 < recovered < len(names)
