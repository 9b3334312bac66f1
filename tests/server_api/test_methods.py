"""The server API over a real server: called by `cent`, and by plain HTTP requests."""

from __future__ import annotations

import base64
from collections.abc import Iterator
import contextlib
import json
from typing import Any

import cent
import httpx
import pytest
from support.api_app import KEY
from support.api_app import OLD_KEY
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.processes import wait_until
import websockets
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from falcon_channels.errors import OptionsError
from falcon_channels.server_api.resource import ApiKeys

pytestmark = [
    pytest.mark.server,
    pytest.mark.every_server,
    pytest.mark.xdist_group('api'),
]


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    command = asgi_server.command('support.api_app:app')
    with ServerProcess(command, env={'PYTHONPATH': 'tests'}) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[cent.Client]:
    client = cent.Client(f'{server.url}/api', KEY)
    yield client
    client._session.close()


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """The name of a channel that no other test uses."""
    return f'rooms:{abs(hash(request.node.nodeid))}'


def post(
    server: ServerProcess, method: str, body: Any = None, **kwargs: Any
) -> httpx.Response:
    headers = {'X-API-Key': KEY, 'Content-Type': 'application/json'}
    headers.update(kwargs.pop('headers', {}))
    content = kwargs.pop('content', json.dumps(body))
    return httpx.post(
        f'{server.url}/api/{method}',
        headers={name: value for name, value in headers.items() if value},
        content=content,
        timeout=30,
        **kwargs,
    )


def call(server: ServerProcess, method: str, body: Any) -> Any:
    """Return the answer to a request that `cent` cannot make."""
    answer = post(server, method, body)
    assert 200 == answer.status_code
    return answer.json()


@contextlib.contextmanager
def subscribed(
    server: ServerProcess, channel: str, user: str = ''
) -> Iterator[ClientConnection]:
    with connect(f'{server.ws_url}/ws/{channel}?user={user}', open_timeout=30) as ws:
        assert 'subscribed' in json.loads(ws.recv(30))
        yield ws


# --- each method, called by cent -----------------------------------------------------


def test_publish_reaches_subscribers_and_returns_its_position(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A publication of a back end reaches the subscribers of its channel."""
    with subscribed(server, channel) as ws:
        result = client.publish(
            cent.PublishRequest(channel=channel, data={'text': 'né'}, tags={'a': 'b'})
        )
        message = json.loads(ws.recv(30))
    assert (1, {'text': 'né'}) == (result.offset, message['data'])
    assert (result.offset, result.epoch) == (message['offset'], message['epoch'])


def test_publish_with_a_used_idempotency_key_stores_once_per_channel(
    client: cent.Client, channel: str
) -> None:
    """A used key stores nothing. In another channel, the same key is a new key."""
    positions = [
        client.publish(cent.PublishRequest(channel=c, data=1, idempotency_key='k'))
        for c in (channel, channel, f'{channel}b')
    ]
    assert [1, 1, 1] == [position.offset for position in positions]
    assert positions[0].epoch == positions[1].epoch
    page = client.history(cent.HistoryRequest(channel=channel, limit=10))
    assert 1 == len(page.publications)


def test_publish_that_skips_the_history_only_reaches_subscribers(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A publication with `skip_history` has no offset, and is not stored."""
    with subscribed(server, channel) as ws:
        result = client.publish(
            cent.PublishRequest(channel=channel, data='typing', skip_history=True)
        )
        client.broadcast(
            cent.BroadcastRequest(channels=[channel], data='too', skip_history=True)
        )
        assert [{'data': 'typing'}, {'data': 'too'}] == [
            json.loads(ws.recv(30)) for _ in range(2)
        ]
    assert (0, '') == (result.offset, result.epoch)
    assert 0 == client.history(cent.HistoryRequest(channel=channel)).offset


def test_options_of_cent_that_are_not_supported_are_refused(
    client: cent.Client, channel: str
) -> None:
    """`cent` raises an error that names the option."""
    override = cent.ChannelOptionsOverride(presence=cent.BoolValue(value=True))
    with pytest.raises(cent.CentApiResponseError, match='override') as caught:
        client.subscribe(
            cent.SubscribeRequest(user='ann', channel=channel, override=override)
        )
    assert 108 == caught.value.code


def test_broadcast_returns_one_result_or_error_per_channel(
    client: cent.Client, channel: str
) -> None:
    """An error in one channel does not stop the publications to the others."""
    result = client.broadcast(
        cent.BroadcastRequest(channels=[channel, 'nowhere', channel], data=[1])
    )
    first, second, third = result.responses
    assert (1, 2) == (first.result.offset, third.result.offset)
    assert 102 == second.error.code


def test_history_is_read_in_both_directions_from_a_position(
    client: cent.Client, channel: str
) -> None:
    """History has data, tags and the position; only the position without `limit`."""
    for n in range(4):
        client.publish(
            cent.PublishRequest(channel=channel, data={'n': n}, tags={'t': str(n)})
        )
    bare = client.history(cent.HistoryRequest(channel=channel))
    assert (0, 4) == (len(bare.publications), bare.offset)
    page = client.history(cent.HistoryRequest(channel=channel, limit=2))
    assert [{'n': 0}, {'n': 1}] == [item.data for item in page.publications]
    assert {'t': '0'} == page.publications[0].tags
    since = cent.StreamPosition(offset=2, epoch=page.epoch)
    after = client.history(cent.HistoryRequest(channel=channel, limit=-1, since=since))
    assert [3, 4] == [item.offset for item in after.publications]
    back = client.history(
        cent.HistoryRequest(channel=channel, limit=-1, since=since, reverse=True)
    )
    assert [1] == [item.offset for item in back.publications]


def test_publish_with_an_old_version_is_skipped(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A late back end does not replace a newer state. A new epoch starts again."""
    for version, epoch, skipped, offset in (
        (5, '', False, 1),
        (5, '', True, 1),
        (4, '', True, 1),
        (6, '', False, 2),
        (1, 'restored', False, 3),
    ):
        request = {'channel': channel, 'data': version, 'version': version}
        result = call(server, 'publish', {**request, 'version_epoch': epoch})['result']
        assert (skipped, offset) == (result.get('skipped', False), result['offset'])
    sent = client.publish(
        cent.PublishRequest(
            channel=channel, data=2, version=1, version_epoch='restored'
        )
    )
    assert 3 == sent.offset
    page = client.history(cent.HistoryRequest(channel=channel, limit=-1))
    assert [5, 6, 1] == [item.data for item in page.publications]


@pytest.mark.parametrize('error', ['', 'too long'])
def test_finished_channel_refuses_publications_and_history_has_its_end(
    server: ServerProcess, client: cent.Client, channel: str, error: str
) -> None:
    """The method `finish` ends a channel, once; `history_remove` opens it again."""
    client.publish(cent.PublishRequest(channel=channel, data='a'))
    request = {'channel': channel, 'error': error, 'idempotency_key': 'end'}
    first, again = (call(server, 'finish', request) for _ in range(2))
    assert (2, first) == (first['result']['offset'], again)
    for method, body in (('publish', {'data': 'b'}), ('finish', {})):
        answer = call(server, method, {'channel': channel, **body})['error']
        assert 108 == answer['code']
        assert 'not available: the channel is finished' == answer['message']
    page = call(server, 'history', {'channel': channel, 'limit': -1})['result']
    assert {'error': error} == page['end'] == page['publications'][-1]['end']
    assert ['a', None] == [item['data'] for item in page['publications']]
    assert 2 == len(
        client.history(cent.HistoryRequest(channel=channel, limit=-1)).publications
    )
    client.history_remove(cent.HistoryRemoveRequest(channel=channel))
    body = {'channel': channel, 'data': {'last': True}, 'tags': {'t': 'v'}}
    assert 3 == call(server, 'finish', body)['result']['offset']
    page = call(server, 'history', {'channel': channel, 'limit': -1})['result']
    (item,) = page['publications']
    assert ({'last': True}, {'t': 'v'}) == (item['data'], item['tags'])


def test_removed_history_is_empty_and_keeps_its_position(
    client: cent.Client, channel: str
) -> None:
    """After a removal the log is empty. Its offset and epoch stay."""
    sent = client.publish(cent.PublishRequest(channel=channel, data=1))
    client.history_remove(cent.HistoryRemoveRequest(channel=channel))
    page = client.history(cent.HistoryRequest(channel=channel, limit=-1))
    assert (0, 1, sent.epoch) == (len(page.publications), page.offset, page.epoch)


def test_presence_has_connections_and_their_counts(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """Presence has the user and the info of each connection; the stats count them."""
    request = cent.PresenceStatsRequest(channel=channel)
    with (
        subscribed(server, channel, 'ann'),
        subscribed(server, channel, 'ann'),
        subscribed(server, channel, 'bob'),
    ):
        wait_until(lambda: client.presence_stats(request).num_clients == 3, 'three')
        assert 2 == client.presence_stats(request).num_users
        present = client.presence(cent.PresenceRequest(channel=channel)).presence
        facts = sorted((info.user, info.conn_info['name']) for info in present.values())
        assert [('ann', 'ANN'), ('ann', 'ANN'), ('bob', 'BOB')] == facts
        assert all(key == info.client for key, info in present.items())


def test_unsubscribed_user_receives_nothing_more(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A plain WebSocket of the user closes. Other users still receive publications."""
    with (
        subscribed(server, channel, 'eve') as eve,
        subscribed(server, channel, 'bob') as bob,
    ):
        client.unsubscribe(cent.UnsubscribeRequest(user='eve', channel=channel))
        with pytest.raises(websockets.ConnectionClosed) as caught:
            eve.recv(30)
        assert 3403 == caught.value.rcvd.code
        client.publish(cent.PublishRequest(channel=channel, data=1))
        assert 1 == json.loads(bob.recv(30))['data']


def test_disconnected_user_receives_the_code_unless_excluded(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """Connections of the user close with the given code, unless they are excluded."""
    request = cent.PresenceRequest(channel=channel)
    with subscribed(server, channel, 'zoe') as first:
        wait_until(lambda: len(client.presence(request).presence) == 1, 'one')
        (excluded,) = client.presence(request).presence
        with subscribed(server, channel, 'zoe') as second:
            client.disconnect(
                cent.DisconnectRequest(
                    user='zoe',
                    whitelist=[excluded],
                    disconnect=cent.Disconnect(code=4100, reason='enough'),
                )
            )
            with pytest.raises(websockets.ConnectionClosed) as caught:
                second.recv(30)
        assert (4100, 'enough') == (caught.value.rcvd.code, caught.value.rcvd.reason)
        client.publish(cent.PublishRequest(channel=channel, data=1))
        assert 1 == json.loads(first.recv(30))['data']


def test_revoked_user_is_disconnected_and_refused_until_restored(
    server: ServerProcess, channel: str
) -> None:
    """`revoke` ends the subscription and refuses new ones; `restore` undoes it."""
    request = {'user': 'mal', 'channel': channel}
    with subscribed(server, channel, 'mal') as ws:
        assert {'result': {}} == call(server, 'revoke', request)
        with pytest.raises(websockets.ConnectionClosed) as caught:
            ws.recv(30)
        assert 3403 == caught.value.rcvd.code
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(f'{server.ws_url}/ws/{channel}?user=mal', open_timeout=30)
    assert 403 == refused.value.response.status_code
    with subscribed(server, channel, 'bob'):
        assert {'result': {}} == call(server, 'restore', request)
    with subscribed(server, channel, 'mal'):
        assert {'result': {}} == call(server, 'revoke', {**request, 'ttl_s': 0.001})


def test_connections_are_described_up_to_the_limit(
    server: ServerProcess, channel: str
) -> None:
    """`connections` describes those of a user and of a channel, and counts them."""
    with (
        subscribed(server, channel, 'con'),
        subscribed(server, channel, 'con') as second,
        subscribed(server, f'{channel}b', 'con'),
    ):
        answer = call(server, 'connections', {'user': 'con', 'limit': 2})['result']
        assert (2, 3, 1) == (
            len(answer['connections']),
            answer['total'],
            answer['num_nodes'],
        )
        query = {'user': 'con', 'channel': channel}
        wait_until(
            lambda: call(server, 'connections', query)['result']['total'] == 2,
            'both subscriptions have joined',
        )
        found = call(server, 'connections', query)['result']['connections']
        assert set(found) == {facts['client'] for facts in found.values()}
        facts = next(iter(found.values()))
        assert ('con', 'plain_websocket', 'json', 0, 1) == tuple(
            facts[name]
            for name in (
                'user',
                'transport',
                'protocol',
                'backlog_bytes',
                'num_channels',
            )
        )
        expected = {'state': 'live', 'delivered_offset': 0}
        assert {channel: expected} == facts['state']['channels']
        (node,) = call(server, 'info', {})['result']['nodes']
        assert node['uid'] == facts['node']
        second.close()
        wait_until(
            lambda: call(server, 'connections', query)['result']['total'] == 1,
            'one has left',
        )
        assert (
            {}
            == call(server, 'connections', {'user': 'nobody'})['result']['connections']
        )


def test_refresh_with_expired_closes_with_3005(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A connection that is refreshed as expired closes with 3005."""
    with subscribed(server, channel, 'old') as ws:
        client.refresh(cent.RefreshRequest(user='old', expired=True))
        with pytest.raises(websockets.ConnectionClosed) as caught:
            ws.recv(30)
    assert 3005 == caught.value.rcvd.code


def test_subscribe_accepts_information_in_base64(
    client: cent.Client, channel: str
) -> None:
    """`b64info` and `b64data` carry JSON."""
    client.subscribe(
        cent.SubscribeRequest(
            user='nobody', channel=channel, b64info='eyJhIjoxfQ==', b64data='MQ=='
        )
    )
    with pytest.raises(cent.CentApiResponseError, match='b64info') as caught:
        client.subscribe(
            cent.SubscribeRequest(user='nobody', channel=channel, b64info='%')
        )
    assert 107 == caught.value.code


def test_subscribe_of_a_user_without_connections_succeeds(
    client: cent.Client, channel: str
) -> None:
    """The command is accepted although the user has no connection."""
    assert client.subscribe(cent.SubscribeRequest(user='nobody', channel=channel))


def test_channels_lists_those_that_match_a_pattern(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """Channels with subscribers are listed with their number of clients."""
    with (
        subscribed(server, channel),
        subscribed(server, channel),
        subscribed(server, 'plain:a'),
    ):
        all_channels = client.channels(cent.ChannelsRequest()).channels
        assert {channel, 'plain:a'} <= all_channels.keys()
        matching = client.channels(cent.ChannelsRequest(pattern='rooms:*')).channels
        assert 2 == matching[channel].num_clients
        assert 'plain:a' not in matching


def test_info_describes_each_node(
    asgi_server: AsgiServer, server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A node is described with its name and its counts."""
    with subscribed(server, channel, 'ann'):
        (node,) = client.info(cent.InfoRequest()).nodes
    assert node.num_clients >= 1
    assert node.num_subs >= 1
    assert node.num_users >= 1
    assert node.num_channels >= 1
    pids = server.child_pids() if asgi_server.forks else [server.pid]
    assert int(node.name.rpartition('_')[2]) in pids


@pytest.mark.parametrize('parallel', [False, True])
def test_batch_returns_replies_in_order(
    client: cent.Client, channel: str, parallel: bool
) -> None:
    """A batch has one reply to each command, in the order of the commands."""
    result = client.batch(
        cent.BatchRequest(
            requests=[
                cent.PublishRequest(channel=channel, data=1),
                cent.PresenceStatsRequest(channel=channel),
                cent.InfoRequest(),
            ],
            parallel=parallel,
        )
    )
    first, second, third = result.replies
    assert (1, 0, 1) == (first.offset, second.num_clients, len(third.nodes))


def test_unsupported_method_of_centrifugo_returns_108(client: cent.Client) -> None:
    """A method that only Centrifugo has returns error 108."""
    with pytest.raises(cent.CentApiResponseError) as caught:
        client.block_user(cent.BlockUserRequest(user='eve'))
    assert 108 == caught.value.code


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('method', 'body', 'code', 'message'),
    [
        ('publish', {'channel': 'nowhere', 'data': 1}, 102, 'unknown channel'),
        ('publish', {'channel': 'rooms:x'}, 107, 'data is missing'),
        ('publish', {'channel': '', 'data': 1}, 107, 'empty'),
        ('publish', {'channel': 'rooms:\n', 'data': 1}, 107, 'U+000A'),
        ('publish', {'channel': 5, 'data': 1}, 107, '$.channel'),
        ('publish', {'channel': 'rooms:x', 'data': 1, 'dada': 2}, 107, 'dada'),
        ('publish', {'channel': 'rooms:x', 'data': 'x' * 70000}, 107, '65536'),
        ('publish', {'channel': 'rooms:x', 'b64data': '%'}, 107, 'base64'),
        (
            'publish',
            {'channel': 'rooms:x', 'data': 1, 'idempotency_key': 'k' * 256},
            107,
            'length <= 255',
        ),
        ('publish', {'channel': 'rooms:x', 'data': 1, 'version': -1}, 107, '$.version'),
        (
            'publish',
            {'channel': 'rooms:x', 'data': 1, 'version_epoch': 'x'},
            107,
            'needs a version',
        ),
        ('publish', {'channel': 'plain:x', 'data': 1, 'version': 1}, 108, 'version'),
        ('finish', {'channel': 'plain:x'}, 108, 'finish needs a log'),
        ('finish', {'channel': 'rooms:x', 'error': 'x' * 124}, 107, '123 bytes'),
        ('finish', {'channel': 'rooms:x', 'b64data': '%'}, 107, 'base64'),
        ('finish', {'channel': 'nowhere'}, 102, ''),
        ('broadcast', {'channels': [], 'data': 1}, 107, '$.channels'),
        ('presence', {'channel': 'plain:x'}, 108, 'presence'),
        ('presence_stats', {'channel': 'nowhere'}, 102, ''),
        ('history', {'channel': 'plain:x'}, 108, 'history'),
        ('history', {'channel': 'rooms:x', 'limit': -2}, 107, '$.limit'),
        (
            'history',
            {'channel': 'rooms:x', 'since': {'offset': 1, 'epoch': 'zzz'}},
            112,
            'unrecoverable',
        ),
        (
            'history',
            {'channel': 'rooms:x', 'since': {'offset': 0}, 'reverse': True},
            107,
            'offset 0',
        ),
        ('disconnect', {'user': 'x', 'disconnect': {'code': 9}}, 107, '3000'),
        ('unsubscribe', {'user': 'x', 'channel': ''}, 107, '$.channel'),
        ('subscribe', {'user': 'x', 'channel': 'nowhere'}, 102, ''),
        ('revoke', {'user': 'x', 'channel': 'nowhere'}, 102, ''),
        ('revoke', {'user': '', 'channel': 'rooms:x'}, 107, '$.user'),
        ('revoke', {'user': 'x', 'channel': 'rooms:x', 'ttl_s': 0}, 107, '$.ttl_s'),
        ('restore', {'user': 'x', 'channel': 'nowhere'}, 102, ''),
        ('connections', {'limit': 1001}, 107, '$.limit'),
        ('connections', {'expression': 'true'}, 108, 'expression'),
        ('rpc', {'method': 'x'}, 108, ''),
        ('map_publish', {}, 108, ''),
        ('no_such_thing', {}, 104, 'method not found'),
        ('batch', {'commands': [{}] * 1001}, 107, '$.commands'),
        ('publish', [], 107, ''),
        ('publish', None, 107, ''),
    ],
)
def test_invalid_command_returns_the_documented_error(
    server: ServerProcess, method: str, body: Any, code: int, message: str
) -> None:
    """A command that cannot be done returns 200 and the documented code and reason."""
    response = post(server, method, body)
    assert 200 == response.status_code
    error = response.json()['error']
    assert code == error['code']
    assert message in error['message']


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'{',
        b'\xff',
        b'{"channel": "rooms:x", "data": "\\ud800"}',
        b'{"channel": "rooms:x", "data": NaN}',
        b'{"channel": "rooms:x", "data": ' + b'[' * 40000 + b'}',
        b'{"channel": "rooms:x", "data": ' + b'[' * 40000 + b']' * 40000 + b'}',
    ],
)
def test_invalid_json_returns_107(server: ServerProcess, content: bytes) -> None:
    """A body that is not JSON, or is nested too deeply, returns error 107."""
    response = post(server, 'publish', content=content)
    assert (200, 107) == (response.status_code, response.json()['error']['code'])


def test_failing_command_of_a_batch_does_not_stop_the_others(
    server: ServerProcess, channel: str
) -> None:
    """Each command of a batch has its own result or error."""
    commands = [
        {'publish': {'channel': channel, 'data': 1}},
        {'publish': {'channel': 'nowhere', 'data': 1}},
        {},
        {'batch': {'commands': []}},
        {'publish': {'channel': channel, 'data': 2}},
    ]
    replies = post(server, 'batch', {'commands': commands}).json()['replies']
    assert [1, 2] == [replies[0]['publish']['offset'], replies[4]['publish']['offset']]
    assert [102, 107, 104] == [reply['error']['code'] for reply in replies[1:4]]


def test_binary_payload_is_returned_as_base64(
    server: ServerProcess, channel: str
) -> None:
    """History returns the bytes of a publication as they were sent."""
    channel = channel.replace('rooms:', 'binary:')
    assert (
        'result'
        in post(server, 'publish', {'channel': channel, 'b64data': '/wAB'}).json()
    )
    page = post(server, 'history', {'channel': channel, 'limit': -1}).json()['result']
    assert '/wAB' == page['publications'][0]['b64data']


def test_binary_payload_is_refused_where_the_channel_carries_json(
    server: ServerProcess, channel: str
) -> None:
    """Bytes that are not JSON are refused, and the error says what to do."""
    body = {'channel': channel, 'b64data': '/wAB'}
    error = post(server, 'publish', body).json()['error']
    assert 107 == error['code']
    assert 'these 3 bytes are not JSON' in error['message']
    assert 'ChannelOptions(binary=True)' in error['message']
    body['b64data'] = base64.b64encode(b'{"a": 1}').decode()
    assert 1 == post(server, 'publish', body).json()['result']['offset']


# --- keys and the form of requests ---------------------------------------------------


@pytest.mark.parametrize(
    'headers',
    [
        {'X-API-Key': KEY},
        {'X-API-Key': OLD_KEY},
        {'X-API-Key': None, 'Authorization': f'apikey {KEY}'},
        {'X-API-Key': None, 'Authorization': f'APIKEY {OLD_KEY}'},
    ],
)
def test_each_configured_key_is_accepted_in_both_headers(
    server: ServerProcess, headers: dict[str, str]
) -> None:
    """Each key is accepted, in `X-API-Key` and in `Authorization`."""
    response = post(server, 'info', {}, headers=headers)
    assert (200, True) == (response.status_code, 'result' in response.json())


@pytest.mark.parametrize(
    'headers',
    [
        {'X-API-Key': None},
        {'X-API-Key': 'wrong-key-of-the-tests'},
        {'X-API-Key': KEY[:-1]},
        {'X-API-Key': f'{KEY}x'},
        {'X-API-Key': None, 'Authorization': f'Bearer {KEY}'},
        {'X-API-Key': None, 'Cookie': f'X-API-Key={KEY}; api_key={KEY}'},
        {'X-API-Key': b'\xff\xfe'},
    ],
)
def test_missing_or_wrong_key_returns_401(
    server: ServerProcess, headers: dict[str, str]
) -> None:
    """A wrong key, no key, or a key in a cookie is refused with 401."""
    assert 401 == post(server, 'info', {}, headers=headers).status_code


def test_key_in_the_url_returns_400(server: ServerProcess) -> None:
    """A key in the query is refused, although the header has a valid key."""
    response = post(server, 'info', {}, params={'api_key': KEY})
    assert (400, False) == (response.status_code, KEY in response.text)


def test_keys_are_not_logged(server: ServerProcess) -> None:
    """Neither valid nor wrong keys appear in the log."""
    post(server, 'info', {}, headers={'X-API-Key': 'some-wrong-key-here'})
    wait_until(lambda: 'without a valid key' in server.log(), 'the refusal is logged')
    assert 'some-wrong-key-here' not in server.log()
    assert KEY not in server.log().replace(f'api_key={KEY}', '')


@pytest.mark.parametrize(
    'content_type',
    ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonx', None],
)
def test_content_type_other_than_json_returns_415(
    server: ServerProcess, content_type: str | None
) -> None:
    """A content type that a form of another site could send is refused."""
    response = post(server, 'info', {}, headers={'Content-Type': content_type})
    assert 415 == response.status_code


def test_compressed_request_returns_415(server: ServerProcess) -> None:
    """A compressed body is refused, and not decompressed."""
    response = post(server, 'info', {}, headers={'Content-Encoding': 'gzip'})
    assert 415 == response.status_code


def test_content_type_with_a_charset_is_accepted(server: ServerProcess) -> None:
    """`application/json` may have parameters."""
    content_type = 'application/json; charset=utf-8'
    response = post(server, 'info', {}, headers={'Content-Type': content_type})
    assert 200 == response.status_code


def test_body_above_the_limit_returns_413(server: ServerProcess) -> None:
    """A too large body is refused with 413, with and without Content-Length."""

    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield b' ' * 10_000

    assert 413 == post(server, 'info', content=b' ' * 100_001).status_code
    assert '100001 bytes exceed max_body_bytes of 100000' in server.log()
    assert 413 == post(server, 'info', content=chunks()).status_code


def test_methods_other_than_post_are_refused(server: ServerProcess) -> None:
    """GET returns 405, and OPTIONS allows no other site anything."""
    assert 405 == httpx.get(f'{server.url}/api/info').status_code
    options = httpx.options(f'{server.url}/api/info', headers={'Origin': 'http://x'})
    assert 'access-control-allow-origin' not in options.headers


@pytest.mark.parametrize('keys', [[], '', 'short', ['long-enough-key', 'ä' * 20]])
def test_invalid_configured_key_raises(keys: Any) -> None:
    """No key, a short key, or a key that no header can carry raises `OptionsError`."""
    with pytest.raises(OptionsError):
        ApiKeys(keys)
