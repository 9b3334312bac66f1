"""Views of the inspector: the answers of its API, with two nodes."""

from __future__ import annotations

from typing import Any
from typing import Literal

import falcon
from falcon import testing
import falcon.asgi
import msgspec
import pytest
from support.fake_clock import on_fake_clock
from support.linked_broker import LinkedBroker
from support.processes import free_port

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import OptionsError
from falcon_channels import parts
from falcon_channels.cluster.cluster import Cluster
from falcon_channels.cluster.connections import ConnectionSummary
from falcon_channels.cluster.connections import SubscriptionSummary
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.inspector import surveys
from falcon_channels.inspector.recent_events import RecentEvents
from falcon_channels.testing import CommandError
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk
from inspector.pages import Clients
from inspector.pages import Inspected
from inspector.pages import KEY
from inspector.pages import two_inspected
from inspector.pages import WRITE_KEY


@on_fake_clock
async def test_overview_has_the_numbers_of_each_process() -> None:
    """Each process is one row, whichever process answers."""
    async with two_inspected() as (one, two):
        two.token = one.token
        async with (
            SimulatedClient(one.channels, user='ann') as ann,
            SimulatedClient(two.channels, user='bob') as bob,
        ):
            await ann.subscribe('rooms:a')
            await bob.subscribe('rooms:a')
            await bob.subscribe('rooms:b')
            for inspected in (one, two):
                answer = await inspected.ask('overview')
                assert '' == answer['error']
                rows = {
                    node['id']: (
                        node['num_connections'],
                        node['num_users'],
                        node['num_channels'],
                        node['num_subscriptions'],
                        node['counters']['opened'],
                    )
                    for node in answer['nodes']
                }
                assert {
                    one.channels.node.cluster.id: (1, 1, 1, 1, 1),
                    two.channels.node.cluster.id: (1, 1, 2, 2, 1),
                } == rows
        (node, _) = answer['nodes']
        assert 'ok' == node['status']
        assert node['memory_bytes'] > 1_000_000


@on_fake_clock
async def test_process_that_answers_with_malformed_bytes_hides_no_other_process() -> (
    None
):
    """Each view shows the other processes, if one has an answer that is not readable.

    It can have another version.
    """
    async with two_inspected() as (one, two):
        for name in ('overview', 'channels', 'counts', 'events', 'slow readers'):
            two.channels.node.cluster.add_answerer(
                f'inspector {name}', lambda body: b'\xc1'
            )
        two.channels.node.cluster.add_answerer('connections', lambda body: b'')
        async with one.channels.subscribe('rooms:a'):
            nodes = (await one.ask('overview'))['nodes']
            assert [one.channels.node.cluster.id] == [node['id'] for node in nodes]
            (row,) = (await one.ask('largest_channels'))['channels']
            assert {'channel': 'rooms:a', 'num_subscribers': 1} == row
            assert 1 == (await one.ask('channel', channel='rooms:a'))['num_subscribers']
            assert 0 == (await one.ask('user', user='ann'))['num_connections']
            assert [] == (await one.ask('events'))['events']
            assert 0 == (await one.ask('slow_readers'))['num_slow']


@on_fake_clock
async def test_overview_without_a_link_describes_this_process_and_says_so() -> None:
    """A person can look at the process whose link to the broker is lost."""
    async with two_inspected() as (one, _):
        broker = one.channels.node.broker
        assert isinstance(broker, LinkedBroker)
        broker.cut = True
        one.channels.node.hub.receiver.on_link_lost()
        answer = await one.ask('overview')
        assert 'cannot be asked' in answer['error']
        assert ['link lost'] == [node['status'] for node in answer['nodes']]


async def test_overview_without_a_broker_describes_this_process_and_says_so() -> None:
    """A person can look at a process that has never reached its broker."""
    channels = Channels(f'redis://127.0.0.1:{free_port()}/0?timeout_s=1')
    views = surveys.InspectorSurveys(channels.node, RecentEvents())
    answer = await views.overview()
    assert 'cannot be asked: cannot connect to Redis' in answer['error']
    assert [channels.node.cluster.id] == [node.id for node in answer['nodes']]
    await channels.close()


@on_fake_clock
async def test_process_that_does_not_answer_is_counted_in_each_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A person is told that the numbers of a process are missing."""
    monkeypatch.setattr(Cluster.ask_encoded, '__kwdefaults__', {'timeout_s': 0.2})
    async with two_inspected() as (one, two):
        views = {
            'largest_channels': {},
            'channel': {'channel': 'rooms:a'},
            'user': {'user': 'ann'},
            'events': {},
            'slow_readers': {},
        }
        for method, fields in views.items():
            assert 0 == (await one.ask(method, **fields))['num_missing'], method
        broker = two.channels.node.broker
        assert isinstance(broker, LinkedBroker)
        for method, fields in views.items():
            broker.cut = True
            assert 1 == (await one.ask(method, **fields))['num_missing'], method
            # The next survey does not wait for it, until it is heard of again.
            broker.cut = False
            await two.channels.node.cluster.hello()
            await one.ask('overview')


@on_fake_clock
async def test_channels_are_sorted_by_the_subscribers_of_all_processes() -> None:
    """A channel is counted over all processes, also where it is not among the largest.

    ``rooms:both`` has two subscribers in each process, and so is the second of each.
    ``rooms:x`` is the largest in one process only, and is counted in the other one too.
    """
    async with two_inspected() as (one, two):
        clients = []
        for channels, numbers in (
            (one.channels, {'rooms:x': 3, 'rooms:both': 2, 'states:s': 1}),
            (
                two.channels,
                {'rooms:y': 3, 'rooms:both': 2, 'rooms:x': 1, 'states:s': 1},
            ),
        ):
            for channel, number in numbers.items():
                for _ in range(number):
                    client = SimulatedClient(channels)
                    await client.__aenter__()
                    await client.subscribe(channel)
                    clients.append(client)
        answer = await one.ask('largest_channels', limit=1)
        assert [{'channel': 'rooms:x', 'num_subscribers': 4}] == answer['channels']
        assert not answer['is_complete']
        answer = await one.ask('largest_channels', limit=2)
        assert {'channel': 'rooms:both', 'num_subscribers': 4} == answer['channels'][0]
        answer = await one.ask('largest_channels', search='s:s')
        assert [{'channel': 'states:s', 'num_subscribers': 2}] == answer['channels']
        assert answer['is_complete']
        assert not answer['partial']
        for client in clients:
            await client.__aexit__(None, None, None)


@on_fake_clock
async def test_search_that_is_too_long_is_refused() -> None:
    """A search term has at most 255 characters, so that the work for it is limited."""
    async with two_inspected() as (one, _):
        assert 107 == await one.refused('largest_channels', search='x' * 256)
        assert 107 == await one.refused('largest_channels', limit=100_000)
        assert 107 == await one.refused('user', user='x' * 256)
        assert [] == (await one.ask('largest_channels', search='x' * 255))['channels']


@pytest.fixture
def small_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, 'MAX_SCANNED', 3)
    monkeypatch.setattr(parts, 'PART', 2)


@pytest.mark.usefixtures('small_scans')
@on_fake_clock
async def test_process_with_too_many_channels_answers_in_part_and_says_so() -> None:
    """A scan reads a limited number of channels, and the answer says that it did."""
    async with two_inspected() as (one, _):
        async with SimulatedClient(one.channels) as client:
            for number in range(3):
                await client.subscribe(f'rooms:{number}')
            answer = await one.ask('largest_channels')
            assert 3 == len(answer['channels'])
            assert not answer['partial']
            await client.subscribe('rooms:3')
            answer = await one.ask('largest_channels')
            assert 3 == len(answer['channels'])
            assert answer['partial']
            # The counts of the overview need no scan.
            assert 4 == max(
                n['num_channels'] for n in (await one.ask('overview'))['nodes']
            )


@on_fake_clock
async def test_channel_shows_route_position_presence_and_subscribers() -> None:
    """One answer has the options, the position and the subscribers of all processes."""
    async with two_inspected() as (one, two):
        async with (
            SimulatedClient(one.channels, user='ann') as ann,
            SimulatedClient(two.channels, user='<b>bob</b>') as bob,
        ):
            await ann.subscribe('rooms:a')
            await bob.subscribe('rooms:a')
            await one.channels.publish('rooms:a', {'n': 1})
            answer = await one.ask('channel', channel='rooms:a')
        assert 'rooms:{room}' == answer['route']['template']
        assert 10 == answer['route']['options']['history_size']
        assert 'stream' == answer['route']['options']['recovery']
        assert 1 == answer['position']['offset']
        assert 2 == answer['num_subscribers']
        found = {item['user']: item for item in answer['subscribers']}
        assert {'ann', '<b>bob</b>'} == found.keys()
        state = found['ann']['state']['channels']['rooms:a']
        assert {'state': 'live', 'delivered_offset': 1} == state
        assert 'presence' not in answer
        assert 102 == await one.refused('channel', channel='nothing')


@on_fake_clock
async def test_log_is_read_in_pages_with_cut_payloads() -> None:
    """A page of the log has the start of each payload, newest first."""
    async with two_inspected() as (one, _):
        await one.channels.publish('rooms:a', 'x' * 3000)
        await one.channels.publish('rooms:a', '<script>', tags={'a': 'b'})
        page = await one.ask('log', channel='rooms:a', limit=1)
        (newest,) = page['publications']
        assert ('"<script>"', 2, {'a': 'b'}) == (
            newest['text'],
            newest['offset'],
            newest['tags'],
        )
        before = {'offset': 2, 'epoch': page['position']['epoch']}
        page = await one.ask('log', channel='rooms:a', before=before)
        (oldest,) = page['publications']
        assert (1, True, 3002, 2048) == (
            oldest['offset'],
            oldest['is_cut'],
            oldest['size_bytes'],
            len(oldest['text']),
        )


@on_fake_clock
async def test_user_has_the_connections_and_last_errors_of_all_processes() -> None:
    """A refusal in one process is shown by the other one."""
    async with two_inspected() as (one, two):
        async with SimulatedClient(one.channels, user='ann') as ann:
            await ann.subscribe('rooms:a')
            async with SimulatedSdk(two.channels, Clients(), data='ann') as sdk:
                with pytest.raises(CommandError):
                    await sdk.subscribe('closed:x')
                answer = await one.ask('user', user='ann')
        assert 2 == answer['num_connections']
        assert {'rooms:a'} == {
            channel
            for connection in answer['connections']
            for channel in connection['state']['channels']
        }
        (event,) = answer['events']
        assert ('command_refused', 'closed:x', 103) == (
            event['name'],
            event['channel'],
            event['code'],
        )
        assert [] == (await one.ask('user', user='bob'))['events']


@on_fake_clock
async def test_events_count_each_reason_over_all_processes() -> None:
    """Refusals and closes are listed, and counted by event, code and reason."""
    async with two_inspected() as (one, two):
        for channels in (one.channels, two.channels):
            async with SimulatedSdk(channels, Clients(), data='ann') as sdk:
                with pytest.raises(CommandError):
                    await sdk.subscribe('closed:x')
        async with SimulatedClient(two.channels, user='bob'):
            await one.channels.disconnect_user('bob', code=4001, reason='go')
            closes = await one.ask('events', kind='closes')
        assert ('connection_closed', 4001, 'go') == tuple(
            closes['events'][0][name] for name in ('name', 'code', 'reason')
        )
        refusals = await one.ask('events', kind='refusals')
        assert 2 == len(refusals['events'])
        (count,) = refusals['counts']
        assert ('command_refused', 103, 2) == (
            count['name'],
            count['code'],
            count['count'],
        )


@on_fake_clock
async def test_slow_readers_are_sorted_by_what_they_have_not_read() -> None:
    """A reader that stopped reading is shown, with the channels that it lags in."""
    async with two_inspected() as (one, two):
        async with (
            SimulatedClient(two.channels, user='fast') as fast,
            SimulatedClient(two.channels, user='slow') as slow,
        ):
            await fast.subscribe('states:s')
            await slow.subscribe('states:s')
            slow.stop_reading()
            for number in range(4):
                await two.channels.publish('states:s', f'{number}' * 40_000)
                await fast.receive()
            answer = await one.ask('slow_readers')
        (reader,) = answer['readers']
        assert ('slow', ['states:s']) == (reader['user'], reader['channels'])
        assert two.channels.node.cluster.id == reader['node']
        assert reader['backlog_bytes'] > 40_000
        assert reader['pending_bytes'] > 0
        assert 1 == answer['num_slow']


def state_of(user: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the subscription of a user to the channel of an answer."""
    (found,) = [item for item in answer['subscribers'] if item['user'] == user]
    state: dict[str, Any] = found['state']['channels'][answer['channel']]
    return state


@pytest.mark.parametrize('policy', ['drop_oldest', 'latest'])
@on_fake_clock
async def test_slow_reader_shows_how_many_publications_it_is_behind(
    policy: Literal['drop_oldest', 'latest'],
) -> None:
    """Its offset stays at the last publication before it became slow."""
    options = ChannelOptions(
        subscribers='anybody',
        history_size=10,
        recovery='latest',
        slow_reader=policy,
        max_backlog_bytes=70_000,
    )
    async with two_inspected() as (one, _):
        one.channels.add_route('log:{name}', None, options)
        async with (
            SimulatedClient(one.channels, user='slow') as slow,
            SimulatedClient(one.channels, user='fast') as fast,
        ):
            await slow.subscribe('log:s')
            await fast.subscribe('log:s')
            slow.stop_reading()
            for number in range(6):
                await one.channels.publish('log:s', f'{number}' * 40_000)
                await fast.receive()
            answer = await one.ask('channel', channel='log:s')
            state = state_of('slow', answer)
            assert 6 == answer['position']['offset']
            assert ('lagging', 1) == (state['state'], state['delivered_offset'])
            slow.read_again()
            state = state_of('slow', await one.ask('channel', channel='log:s'))
            assert ('live', 6) == (state['state'], state['delivered_offset'])


@on_fake_clock
async def test_subscription_without_history_has_no_offset() -> None:
    """Publications without an offset cannot be counted. With a history, 0 is shown."""
    async with two_inspected() as (one, two):
        for node in (one, two):
            options = ChannelOptions(subscribers='anybody', history_size=1)
            node.channels.add_route('log:{name}', None, options)
        async with SimulatedClient(two.channels, user='ann') as ann:
            for channel, expected in (
                ('states:s', {}),
                ('log:s', {'delivered_offset': 0}),
            ):
                await ann.subscribe(channel)
                (found,) = (await one.ask('channel', channel=channel))['subscribers']
                state = found['state']['channels'][channel]
                assert {'state': 'live', **expected} == state


@on_fake_clock
async def test_write_key_publishes_disconnects_and_revokes() -> None:
    """With a key for writing, the methods of the server API can be called."""
    async with two_inspected(WRITE_KEY) as (one, two):
        async with SimulatedClient(two.channels, user='bob') as bob:
            await bob.subscribe('rooms:a')
            answer = await one.ask('publish', channel='rooms:a', data={'n': 1})
            assert 1 == answer['offset']
            await one.ask('disconnect', user='bob')
            assert bob.end is not None
            assert 3503 == bob.end[0]
        await one.ask('revoke', user='bob', channel='rooms:a')
        async with SimulatedClient(one.channels, user='bob') as bob:
            with pytest.raises(falcon.HTTPForbidden):
                await bob.subscribe('rooms:a')
        await one.ask('restore', user='bob', channel='rooms:a')


@on_fake_clock
async def test_methods_of_the_server_api_without_a_place_in_the_page_are_refused() -> (
    None
):
    """The inspector offers only the methods that its page calls."""
    async with two_inspected(WRITE_KEY) as (one, _):
        for method in ('history', 'broadcast', 'batch', 'rpc', 'refresh', 'nothing'):
            result = await one.post(method, {})
            assert 404 == result.status_code


@on_fake_clock
async def test_inspector_works_after_the_channels_were_closed_and_started_again() -> (
    None
):
    """A restart builds new parts, and the inspector shows these."""
    channels = Channels()
    channels.add_route('rooms:{room}', None, ChannelOptions(subscribers='anybody'))
    app = falcon.asgi.App()
    channels.add_inspector(app, keys=KEY)
    ids = []
    async with testing.ASGIConductor(app) as conductor:
        inspected = Inspected(channels, conductor)
        await inspected.login(KEY)
        for number in (1, 2):
            async with channels, SimulatedClient(channels, user='ann') as client:
                await client.subscribe('rooms:a')
                (node,) = (await inspected.ask('overview'))['nodes']
                assert 1 == node['num_subscriptions']
                assert number == node['counters']['opened']
                found = await inspected.ask('largest_channels')
                assert ['rooms:a'] == [row['channel'] for row in found['channels']]
                ids.append(node['id'])
    assert 2 == len(set(ids))


def test_page_is_closed_by_default() -> None:
    """Nothing is served until the application calls `add_inspector` with a key."""
    app = falcon.asgi.App()
    with pytest.raises(OptionsError, match='at least one key'):
        Channels().add_inspector(app, keys=[])
    with pytest.raises(OptionsError, match='at least one key'):
        Channels().add_inspector(app, keys=[], write_keys=['a-key-for-writing'])
    with pytest.raises(OptionsError, match='shorter than 12'):
        Channels().add_inspector(app, keys='short')
    with pytest.raises(OptionsError, match='in keys and in write_keys'):
        Channels().add_inspector(
            app, keys='a-key-for-both-uses', write_keys='a-key-for-both-uses'
        )
    with pytest.raises(OptionsError, match='must be like'):
        Channels().add_inspector(app, '/', keys='a-key-for-reading')


#: The fields of answers that have no default. Processes of an older version send them.
FIRST_FIELDS: dict[type[msgspec.Struct], str] = {
    surveys.ProcessSummary: 'id name version status uptime_s memory_bytes '
    'num_connections num_users num_channels num_subscriptions counters',
    surveys.SlowConnection: 'client user node backlog_bytes pending_bytes channels',
    ConnectionSummary: 'client user node transport protocol app_name app_version '
    'connected_at backlog_bytes num_channels state',
    SubscriptionSummary: 'state',
    NodeRecords: 'id now',
    RecordedConnection: 'id',
    RecordedSubscription: 'at epoch start_offset',
}


@pytest.mark.parametrize('answer_type', FIRST_FIELDS, ids=lambda kind: kind.__name__)
def test_new_field_of_an_answer_has_a_default(
    answer_type: type[msgspec.Struct],
) -> None:
    """A process whose answer lacks a field without default is missing in all views."""
    fields = msgspec.structs.fields(answer_type)
    required = [field.name for field in fields if field.required]
    assert FIRST_FIELDS[answer_type].split() == required


@on_fake_clock
async def test_answer_with_unknown_fields_is_shown() -> None:
    """A newer process sends fields that this version does not know."""
    async with two_inspected() as (one, two):
        answers = await two.channels.node.cluster.ask_encoded('inspector overview')
        newer = {
            **msgspec.msgpack.decode(answers.by_node[two.channels.node.cluster.id]),
            'from_a_newer_version': [1],
        }
        two.channels.node.cluster.add_answerer(
            'inspector overview', lambda _: msgspec.msgpack.encode(newer)
        )
        nodes = (await one.ask('overview'))['nodes']
        assert 2 == len(nodes)
        assert 0 == one.channels.node.hub.counters.control_errors
