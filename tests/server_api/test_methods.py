"""The server API, called by `cent` and by hand, over a live server."""

from __future__ import annotations

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
    """A channel of the test's own."""
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


@contextlib.contextmanager
def joined(
    server: ServerProcess, channel: str, user: str = ''
) -> Iterator[ClientConnection]:
    with connect(f'{server.ws_url}/ws/{channel}?user={user}', open_timeout=30) as ws:
        assert 'subscribed' in json.loads(ws.recv(30))
        yield ws


# --- cent, method by method ----------------------------------------------------------


def test_cent_publishes(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A publication by `cent` reaches subscribers and returns its position."""
    with joined(server, channel) as ws:
        result = client.publish(
            cent.PublishRequest(channel=channel, data={'text': 'né'}, tags={'a': 'b'})
        )
        got = json.loads(ws.recv(30))
    assert (1, {'text': 'né'}) == (result.offset, got['data'])
    assert (result.offset, result.epoch) == (got['offset'], got['epoch'])


def test_idempotency_key_holds_per_channel(client: cent.Client, channel: str) -> None:
    """The same key stores once in one channel, and again in another."""
    positions = [
        client.publish(cent.PublishRequest(channel=c, data=1, idempotency_key='k'))
        for c in (channel, channel, f'{channel}b')
    ]
    assert [1, 1, 1] == [position.offset for position in positions]
    assert positions[0].epoch == positions[1].epoch
    page = client.history(cent.HistoryRequest(channel=channel, limit=10))
    assert 1 == len(page.publications)


def test_cent_broadcasts(client: cent.Client, channel: str) -> None:
    """A broadcast publishes to each channel and says for each what became of it."""
    result = client.broadcast(
        cent.BroadcastRequest(channels=[channel, 'nowhere', channel], data=[1])
    )
    first, second, third = result.responses
    assert (1, 2) == (first.result.offset, third.result.offset)
    assert 102 == second.error.code


def test_cent_reads_history(client: cent.Client, channel: str) -> None:
    """History has data, tags and the position, both ways and since a position."""
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


def test_cent_removes_history(client: cent.Client, channel: str) -> None:
    """After a removal the log is empty, and its offset and epoch stay."""
    sent = client.publish(cent.PublishRequest(channel=channel, data=1))
    client.history_remove(cent.HistoryRemoveRequest(channel=channel))
    page = client.history(cent.HistoryRequest(channel=channel, limit=-1))
    assert (0, 1, sent.epoch) == (len(page.publications), page.offset, page.epoch)


def test_cent_reads_presence(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """Presence has connections with user and info, and its numbers."""
    request = cent.PresenceStatsRequest(channel=channel)
    with (
        joined(server, channel, 'ann'),
        joined(server, channel, 'ann'),
        joined(server, channel, 'bob'),
    ):
        wait_until(lambda: client.presence_stats(request).num_clients == 3, 'three')
        assert 2 == client.presence_stats(request).num_users
        there = client.presence(cent.PresenceRequest(channel=channel)).presence
        facts = sorted((info.user, info.conn_info['name']) for info in there.values())
        assert [('ann', 'ANN'), ('ann', 'ANN'), ('bob', 'BOB')] == facts
        assert all(key == info.client for key, info in there.items())


def test_cent_unsubscribes(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A user who is unsubscribed gets nothing more; others do."""
    with joined(server, channel, 'eve') as eve, joined(server, channel, 'bob') as bob:
        client.unsubscribe(cent.UnsubscribeRequest(user='eve', channel=channel))
        with pytest.raises(websockets.ConnectionClosed) as caught:
            eve.recv(30)
        assert 3403 == caught.value.rcvd.code
        client.publish(cent.PublishRequest(channel=channel, data=1))
        assert 1 == json.loads(bob.recv(30))['data']


def test_cent_disconnects(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A user is disconnected with the given code, but for the listed connections."""
    request = cent.PresenceRequest(channel=channel)
    with joined(server, channel, 'zoe') as first:
        wait_until(lambda: len(client.presence(request).presence) == 1, 'one')
        (kept,) = client.presence(request).presence
        with joined(server, channel, 'zoe') as second:
            client.disconnect(
                cent.DisconnectRequest(
                    user='zoe',
                    whitelist=[kept],
                    disconnect=cent.Disconnect(code=4100, reason='enough'),
                )
            )
            with pytest.raises(websockets.ConnectionClosed) as caught:
                second.recv(30)
        assert (4100, 'enough') == (caught.value.rcvd.code, caught.value.rcvd.reason)
        client.publish(cent.PublishRequest(channel=channel, data=1))
        assert 1 == json.loads(first.recv(30))['data']


def test_cent_expires_connections(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """A connection that is refreshed as expired closes with 3005."""
    with joined(server, channel, 'old') as ws:
        client.refresh(cent.RefreshRequest(user='old', expired=True))
        with pytest.raises(websockets.ConnectionClosed) as caught:
            ws.recv(30)
    assert 3005 == caught.value.rcvd.code


def test_cent_subscribes(client: cent.Client, channel: str) -> None:
    """Subscribing a user is taken; a raw connection is passed over."""
    assert client.subscribe(cent.SubscribeRequest(user='nobody', channel=channel))


def test_cent_lists_channels(
    server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """Channels with subscribers are listed, by a pattern, with their numbers."""
    with joined(server, channel), joined(server, channel), joined(server, 'plain:a'):
        everything = client.channels(cent.ChannelsRequest()).channels
        assert {channel, 'plain:a'} <= everything.keys()
        some = client.channels(cent.ChannelsRequest(pattern='rooms:*')).channels
        assert 2 == some[channel].num_clients
        assert 'plain:a' not in some


def test_cent_asks_for_info(
    asgi_server: AsgiServer, server: ServerProcess, client: cent.Client, channel: str
) -> None:
    """The process is described with what it holds."""
    with joined(server, channel, 'ann'):
        (node,) = client.info(cent.InfoRequest()).nodes
    assert node.num_clients >= 1
    assert node.num_subs >= 1
    assert node.num_users >= 1
    assert node.num_channels >= 1
    pids = server.child_pids() if asgi_server.forks else [server.pid]
    assert int(node.name.rpartition('_')[2]) in pids


@pytest.mark.parametrize('parallel', [False, True])
def test_cent_batches(client: cent.Client, channel: str, parallel: bool) -> None:
    """A batch answers each of its commands in order."""
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


def test_cent_gets_108_for_what_is_not_there(client: cent.Client) -> None:
    """Methods that exist only elsewhere answer with error 108."""
    with pytest.raises(cent.CentApiResponseError) as caught:
        client.block_user(cent.BlockUserRequest(user='eve'))
    assert 108 == caught.value.code


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('method', 'body', 'code', 'words'),
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
            '255 bytes',
        ),
        ('publish', {'channel': 'rooms:x', 'data': 1, 'skip_history': True}, 108, ''),
        ('publish', {'channel': 'rooms:x', 'data': 1, 'version': 1}, 108, ''),
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
        ('rpc', {'method': 'x'}, 108, ''),
        ('map_publish', {}, 108, ''),
        ('no_such_thing', {}, 104, 'method not found'),
        ('batch', {'commands': [{}] * 1001}, 107, '$.commands'),
        ('publish', [], 107, ''),
        ('publish', None, 107, ''),
    ],
)
def test_errors_are_those_documented(
    server: ServerProcess, method: str, body: Any, code: int, words: str
) -> None:
    """What cannot be done answers 200 with the documented code, and says why."""
    response = post(server, method, body)
    assert 200 == response.status_code
    error = response.json()['error']
    assert code == error['code']
    assert words in error['message']


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
def test_rubbish_is_a_bad_request(server: ServerProcess, content: bytes) -> None:
    """What is not JSON, or is nested without end, answers error 107."""
    response = post(server, 'publish', content=content)
    assert (200, 107) == (response.status_code, response.json()['error']['code'])


def test_batch_tells_errors_apart(server: ServerProcess, channel: str) -> None:
    """One failing command of a batch does not harm the others."""
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


def test_binary_payload_is_shown_as_base64(server: ServerProcess, channel: str) -> None:
    """A publication of bytes comes back from history as it was sent."""
    assert (
        'result'
        in post(server, 'publish', {'channel': channel, 'b64data': '/wAB'}).json()
    )
    page = post(server, 'history', {'channel': channel, 'limit': -1}).json()['result']
    assert '/wAB' == page['publications'][0]['b64data']


# --- who may, and how requests have to look ------------------------------------------


@pytest.mark.parametrize(
    'headers',
    [
        {'X-API-Key': KEY},
        {'X-API-Key': OLD_KEY},
        {'X-API-Key': None, 'Authorization': f'apikey {KEY}'},
        {'X-API-Key': None, 'Authorization': f'APIKEY {OLD_KEY}'},
    ],
)
def test_each_key_is_taken(server: ServerProcess, headers: dict[str, str]) -> None:
    """Every listed key opens the API, in either header."""
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
def test_other_keys_are_refused(server: ServerProcess, headers: dict[str, str]) -> None:
    """A wrong key, none, or one in a cookie is refused with 401."""
    assert 401 == post(server, 'info', {}, headers=headers).status_code


def test_key_in_the_url_is_refused(server: ServerProcess) -> None:
    """A key in the query is refused even beside a right one in the header."""
    response = post(server, 'info', {}, params={'api_key': KEY})
    assert (400, False) == (response.status_code, KEY in response.text)


def test_keys_stay_out_of_the_log(server: ServerProcess) -> None:
    """Neither right nor wrong keys are logged."""
    post(server, 'info', {}, headers={'X-API-Key': 'some-wrong-key-here'})
    wait_until(lambda: 'without a valid key' in server.log(), 'the refusal is logged')
    assert 'some-wrong-key-here' not in server.log()
    assert KEY not in server.log().replace(f'api_key={KEY}', '')


@pytest.mark.parametrize(
    'content_type',
    ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonx', None],
)
def test_only_json_is_taken(server: ServerProcess, content_type: str | None) -> None:
    """What a form of another site could send is refused with 415."""
    response = post(server, 'info', {}, headers={'Content-Type': content_type})
    assert 415 == response.status_code


def test_compressed_requests_are_refused(server: ServerProcess) -> None:
    """A compressed body is refused, not inflated."""
    response = post(server, 'info', {}, headers={'Content-Encoding': 'gzip'})
    assert 415 == response.status_code


def test_charset_of_json_is_allowed(server: ServerProcess) -> None:
    """A content type with parameters is JSON as well."""
    content_type = 'application/json; charset=utf-8'
    response = post(server, 'info', {}, headers={'Content-Type': content_type})
    assert 200 == response.status_code


def test_large_bodies_are_refused(server: ServerProcess) -> None:
    """A body over the limit is refused with 413, with and without its length."""

    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield b' ' * 10_000

    assert 413 == post(server, 'info', content=b' ' * 100_001).status_code
    assert 413 == post(server, 'info', content=chunks()).status_code


def test_only_post_is_answered(server: ServerProcess) -> None:
    """GET is refused, and OPTIONS allows no other site anything."""
    assert 405 == httpx.get(f'{server.url}/api/info').status_code
    options = httpx.options(f'{server.url}/api/info', headers={'Origin': 'http://x'})
    assert 'access-control-allow-origin' not in options.headers


@pytest.mark.parametrize('keys', [[], '', 'short', ['long-enough-key', 'ä' * 20]])
def test_bad_keys_are_refused_at_start(keys: Any) -> None:
    """No key, a short one or one that no header can carry is refused when given."""
    with pytest.raises(OptionsError):
        ApiKeys(keys)
