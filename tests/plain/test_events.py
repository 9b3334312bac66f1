"""Plain event streams and long polling, over real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import json
import socket
import time
from typing import Any
from urllib.parse import quote

from endpoint.peer import Server
from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
import falcon
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.event_reader import EventReader
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions
from falcon_channels import InvalidValueError
from falcon_channels import NodeOptions
from falcon_channels import OptionsError
from falcon_channels.plain import events

pytestmark = pytest.mark.every_server

ORIGIN = 'https://app.example'

#: Options of the streams by the last part of their paths.
OPTIONS = {
    'plain': None,
    'named': EventStreamOptions(event_tag='kind', json=True),
    'history': EventStreamOptions(history=None),
    'last2': EventStreamOptions(history=2),
    'start': EventStreamOptions(start_event='begin', retry_ms=1234),
    'quick': EventStreamOptions(keepalive_s=0.1, poll_wait_s=0.1),
    'unread': EventStreamOptions(keepalive_s=None),
}


class Rules:
    """Refuse clients by the name of the room."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room.isdigit():
            raise falcon.HTTPError(int(room))
        if room == 'brief':
            subscription.expires_at = time.time() + 0.5
        if room == 'disconnected':
            await channels.disconnect_user(subscription.user)
        elif room == 'unsubscribed':
            await channels.unsubscribe_user(subscription.user, subscription.channel)


class Events:
    """``/events/{kind}/{names}``: names of channels, separated by commas."""

    async def on_get(self, req: Any, resp: Any, kind: str, names: str) -> None:
        listed = names.split(',')
        wanted: Any = listed if len(listed) > 1 else names
        if kind == 'named':
            wanted = {name: f'in {name}' for name in listed}
        await channels.serve_events(
            req,
            resp,
            wanted,
            user=req.get_param('user'),
            options=OPTIONS[kind],
        )
        if kind == 'unread':
            resp.stream = None
            resp.text = 'another answer'


class Publish:
    """``POST /publish/{channel}``: one publication, or a list of them."""

    async def on_post(self, req: Any, resp: Any, channel: str) -> None:
        tags = json.loads(req.get_param('tags', default='null'))
        for value in await req.get_media():
            await channels.publish(channel, value, tags=tags)


channels = Channels()


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    global channels
    channels = Channels(
        options=NodeOptions(allowed_origins=(ORIGIN,), max_channels_per_connection=5)
    )
    history = ChannelOptions(history_size=10, presence=True)
    channels.add_route('rooms:{room}', Rules(), history)
    channels.add_route('named:{room}', None, history)
    channels.add_route('live:{room}', None)
    channels.add_route(
        'latest:{room}', None, ChannelOptions(history_size=10, recovery='latest')
    )
    channels.add_route(
        'slow:{room}',
        None,
        ChannelOptions(max_backlog_bytes=200_000, history_size=10),
    )
    channels.add_route(
        'recorded:{room}',
        None,
        ChannelOptions(history_size=10, record_deliveries=True),
    )
    channels.add_route(
        'missed:{room}',
        None,
        ChannelOptions(
            max_backlog_bytes=200_000, history_size=300, recovery_limit_bytes=20_000_000
        ),
    )
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/events/{kind}/{names}', Events())
    app.add_route('/publish/{channel}', Publish())
    with serving_app(app, asgi_server) as server:
        yield server


@pytest.fixture(scope='module')
def client(server: Server) -> Iterator[httpx.Client]:
    url = f'http://127.0.0.1:{server.port}'
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        yield client


def publish(client: httpx.Client, channel: str, *values: Any, **tags: str) -> None:
    params = {'tags': json.dumps(tags)} if tags else {}
    answer = client.post(f'/publish/{channel}', json=values, params=params)
    assert 200 == answer.status_code


def wait_until_nobody_is_connected() -> None:
    wait_until(lambda: not channels.connections(), 'no connection is left')


# --- the stream ----------------------------------------------------------------------


def test_publication_is_an_event_with_its_payload_and_position(
    client: httpx.Client,
) -> None:
    """Data is the payload: text as it is, other values as JSON. The id is a position.

    Positions follow each other, and the headers keep proxies from buffering.
    """
    with EventReader.open(client, '/events/plain/rooms:a') as reader:
        headers = reader.response.headers
        assert 'text/event-stream' == headers['Content-Type']
        assert 'no' == headers['X-Accel-Buffering']
        assert 'no-store' in headers['Cache-Control']
        offset, _, epoch = reader.start().partition(':')
        assert ('0', 3000) == (offset, reader.retry_ms)
        publish(client, 'rooms:a', 'héllo', {'n': [1, None]}, 7, '', 'a: b\nid: 9\n')
        events = [reader.event() for _ in range(5)]
    assert ['héllo', '{"n":[1,null]}', '7', '', 'a: b\nid: 9\n'] == [
        event.data for event in events
    ]
    assert {'message'} == {event.name for event in events}
    assert [f'{n}:{epoch}' for n in range(1, 6)] == [event.id for event in events]


def test_event_name_comes_from_the_tag_or_from_the_channel(
    client: httpx.Client,
) -> None:
    """A tag names an event. Without the tag it has the name of its channel."""
    with EventReader.open(client, '/events/named/named:a,named:b') as reader:
        reader.start()
        publish(client, 'named:a', 'one')
        publish(client, 'named:b', 'two', kind='shout', other='x')
        events = [reader.event() for _ in range(2)]
    assert [('in named:a', '"one"'), ('shout', '"two"')] == [
        (event.name, event.data) for event in events
    ]


def test_line_end_in_a_tag_or_payload_begins_no_field(client: httpx.Client) -> None:
    """A client that chooses a tag or a text cannot write another field or event."""
    evil = 'x\r\rdata: evil\nid: 99:y\r\n\r\n\0event: evil'
    with EventReader.open(client, '/events/named/named:evil') as reader:
        reader.start()
        publish(client, 'named:evil', evil, kind=evil)
        event = reader.event()
    assert evil.replace('\r', ' ').replace('\n', ' ').replace('\0', ' ') == event.name
    assert (evil, '1') == (json.loads(event.data), event.id.split(':')[0])
    with EventReader.open(client, '/events/plain/named:evil2') as reader:
        reader.start()
        publish(client, 'named:evil2', evil)
        event = reader.event()
    assert 'message' == event.name
    assert 'x\n\ndata: evil\nid: 99:y\n\n\0event: evil' == event.data
    assert '1' == event.id.split(':')[0]


@pytest.mark.parametrize('way', ['Last-Event-ID', 'since'])
def test_client_that_returns_receives_exactly_what_it_missed(
    client: httpx.Client, way: str
) -> None:
    """Each event id is a place to go on from, without a gap and without a repeat."""
    channel = f'rooms:back{way[0]}'
    path = f'/events/plain/{channel}'
    with EventReader.open(client, path) as reader:
        ids = [reader.start()]
        publish(client, channel, *range(5))
        ids += [reader.event().id for _ in range(5)]
    publish(client, channel, 5, 6)
    for number, event_id in enumerate(ids):
        headers = {'last_event_id': event_id} if way == 'Last-Event-ID' else {}
        # An EventSource that returns has the same URL as before.
        since = ids[0] if way == 'Last-Event-ID' else event_id
        with EventReader.open(client, f'{path}?since={since}', **headers) as reader:
            publish(client, channel, 'live')
            expected = [*map(str, range(number, 7)), *['live'] * (number + 1)]
            assert event_id == reader.start()
            assert expected == reader.data(len(expected))


def test_stream_of_several_channels_resumes_all_of_them(client: httpx.Client) -> None:
    """Each id has the positions in all channels, also of those without an event yet.

    A channel without history has no position, and its events have no id of their own.
    """
    path = '/events/plain/rooms:m1,live:m,rooms:m 2&=%25'.replace(' ', '%20')
    second = 'rooms:m 2&=%'
    with EventReader.open(client, path) as reader:
        reader.start()
        publish(client, 'rooms:m1', 'one')
        publish(client, quote(second), 'two')
        publish(client, 'rooms:m1', 'three')
        publish(client, 'live:m', 'four')
        events = [reader.event() for _ in range(4)]
    assert ['one', 'two', 'three', 'four'] == [event.data for event in events]
    assert events[2].id == events[3].id
    publish(client, quote(second), 'five')
    for number, missed in enumerate(
        [{'two', 'three', 'five'}, {'three', 'five'}, {'five'}]
    ):
        event_id = events[number].id
        with EventReader.open(client, path, last_event_id=event_id) as reader:
            assert event_id == reader.start()
            assert missed == set(reader.data(len(missed)))
            last_id = reader.last_id
        with EventReader.open(client, path, last_event_id=last_id) as reader:
            publish(client, 'live:m', 'next')
            assert ['next'] == reader.data(1)


def test_history_is_sent_to_a_client_without_a_position(client: httpx.Client) -> None:
    """With `history`, a new client begins with the newest stored publications.

    A client that returns gets only what it missed.
    """
    publish(client, 'rooms:old', *range(15))
    with EventReader.open(client, '/events/history/rooms:old') as reader:
        reader.start()
        publish(client, 'rooms:old', 'live')
        assert [*map(str, range(5, 15)), 'live'] == reader.data(11)
    with EventReader.open(client, '/events/last2/rooms:old') as reader:
        assert '14' == reader.start().split(':')[0]
        assert ['14', 'live'] == reader.data(2)
        last_id = reader.last_id
    publish(client, 'rooms:old', 'more')
    for kind in ('history', 'last2'):
        path = f'/events/{kind}/rooms:old'
        with EventReader.open(client, path, last_event_id=last_id) as reader:
            assert ['more'] == reader.data(1)
    with EventReader.open(client, '/events/history/rooms:none') as reader:
        publish(client, 'rooms:none', 'first')
        assert ['first'] == reader.data(1)


@pytest.mark.parametrize(
    'last_id',
    [
        '3:{epoch}',
        '999999999999999:{epoch}',
        '20:other',
        '99999999999999999999999999:x',
        'x' * 5000,
        'nonsense',
        '-1:x',
    ],
)
def test_lost_log_is_told_as_an_event(client: httpx.Client, last_id: str) -> None:
    """A client whose position is not in the log any more gets the event ``lost``.

    It goes on from the current position.
    """
    publish(client, 'rooms:lost', *range(20))
    with EventReader.open(client, '/events/plain/rooms:lost') as reader:
        current = reader.start()
    last_id = last_id.replace('{epoch}', current.partition(':')[2])
    path = '/events/plain/rooms:lost'
    with EventReader.open(client, path, last_event_id=last_id) as reader:
        publish(client, 'rooms:lost', 'next')
        lost, following = reader.event(), reader.event()
    assert ('lost', current) == (lost.name, lost.id)
    assert {'channel': 'rooms:lost', 'since': current} == json.loads(lost.data)
    assert 'next' == following.data


def test_event_id_of_another_channel_opens_no_channel(client: httpx.Client) -> None:
    """A forged id reads nothing but the channels that the application named."""
    publish(client, 'rooms:private', 'secret')
    publish(client, 'rooms:mine', 'mine')
    path = '/events/plain/rooms:mine'
    forged = 'rooms:private=0:&rooms:mine=0:'
    with EventReader.open(client, path, last_event_id=forged) as reader:
        publish(client, 'rooms:private', 'secret')
        publish(client, 'rooms:mine', 'next')
        assert ['mine', 'next'] == reader.data(2)
        assert {'rooms:mine'} == {
            name for item in channels.connections() for name in item.subscriptions
        }


def test_latest_publication_is_not_repeated_to_a_client_that_has_it(
    client: httpx.Client,
) -> None:
    """With ``recovery='latest'`` a client gets the latest publication, if it is new."""
    publish(client, 'latest:a', 1, 2, 3)
    path = '/events/plain/latest:a'
    with EventReader.open(client, f'{path}?since=1:') as reader:
        assert ['3'] == reader.data(1)
        last_id = reader.last_id
    with EventReader.open(client, path, last_event_id=last_id) as reader:
        publish(client, 'latest:a', 4)
        assert ['4'] == reader.data(1)


def test_start_event_has_the_position_and_comments_keep_a_stream_open(
    client: httpx.Client,
) -> None:
    """Clients that ignore an id without data can ask for a first event with data."""
    with EventReader.open(client, '/events/start/rooms:start') as reader:
        begin = reader.event()
        assert ('begin', 1234) == (begin.name, reader.retry_ms)
        assert {'since': begin.id} == json.loads(begin.data)
    with EventReader.open(client, '/events/quick/rooms:quiet') as reader:
        reader.start()
        assert [[':', '']] * 3 == [(reader.block() or []) + [''] for _ in range(3)]
    wait_until_nobody_is_connected()


# --- who may listen ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'status'),
    [
        ('rooms:403', 403),
        ('rooms:401', 401),
        ('nowhere', 404),
        ('rooms:disconnected', 403),
        ('rooms:unsubscribed', 403),
        ('rooms:ok,rooms:403', 403),
    ],
)
def test_refused_event_source_gets_the_status_of_the_refusal(
    client: httpx.Client, name: str, status: int
) -> None:
    """After such a status an EventSource gives up. No subscription stays behind."""
    for accept in ('text/event-stream', 'application/json'):
        answer = client.get(
            f'/events/plain/{name}?user=ann', headers={'Accept': accept}
        )
        assert status == answer.status_code
    assert [] == channels.connections()
    assert 0 == channels.node.hub.num_subscriptions


def test_event_source_that_may_return_gets_a_stream_that_ends(
    client: httpx.Client,
) -> None:
    """An EventSource gives up after a 503, so it gets an empty stream instead."""
    path = '/events/plain/rooms:503'
    with EventReader.open(client, path) as reader:
        assert reader.next() is None
    assert 5000 <= reader.retry_ms <= 15000
    assert 503 == client.get(path).status_code
    assert 503 == client.get(path, headers={'Accept': 'application/json'}).status_code


@pytest.mark.parametrize(
    ('headers', 'status'),
    [
        ({'Origin': 'https://evil.example'}, 403),
        ({'Origin': 'null'}, 403),
        ({'Sec-Fetch-Site': 'cross-site'}, 403),
        ({'Host': 'a b'}, 400),
        ({'Origin': ORIGIN}, 200),
        ({'Sec-Fetch-Site': 'same-origin'}, 200),
    ],
)
def test_page_of_another_site_is_refused(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    """A page of an origin that is not allowed cannot listen with a user's cookies."""
    path = '/events/plain/rooms:page'
    for accept in ('text/event-stream', 'application/json'):
        with client.stream('GET', path, headers={'Accept': accept, **headers}) as got:
            assert status == got.status_code
            assert headers.get('Origin') == got.headers.get(
                'Access-Control-Allow-Origin', headers.get('Origin')
            )
            if status == 200:
                assert {'Origin', 'Accept'} <= set(
                    ', '.join(got.headers.get_list('Vary')).split(', ')
                )


def test_connection_over_the_limit_is_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams and polls count as connections."""
    wait_until_nobody_is_connected()
    monkeypatch.setattr(channels.options, 'max_connections', 1)
    with EventReader.open(client, '/events/plain/rooms:full') as reader:
        reader.start()
        path = '/events/plain/rooms:full?since='
        assert 503 == client.get(path).status_code
        with EventReader.open(client, path) as refused:
            assert refused.next() is None
    wait_until_nobody_is_connected()


def test_stream_ends_when_a_subscription_expires(client: httpx.Client) -> None:
    """`on_subscribe` sets `expires_at`. A client that connects again is asked again."""
    path = '/events/plain/rooms:other,rooms:brief'
    for _ in range(2):
        with EventReader.open(client, path) as reader:
            reader.start()
            assert reader.next() is None


@pytest.mark.parametrize('way', ['disconnect', 'revoke'])
def test_lost_right_ends_the_stream_and_is_refused_next_time(
    client: httpx.Client, server: Server, way: str
) -> None:
    """A stream ends with the right, and a revoked user cannot return."""
    path = f'/events/plain/rooms:{way}?user=eve{way}'
    with EventReader.open(client, path) as reader:
        reader.start()
        [connection] = channels.connections(f'eve{way}')
        loop = channels.loop
        assert loop is not None
        ending = (
            channels.disconnect_user(f'eve{way}')
            if way == 'disconnect'
            else channels.revoke_user(f'eve{way}', f'rooms:{way}')
        )
        asyncio.run_coroutine_threadsafe(ending, loop).result(TIMEOUT_S)
        assert reader.next() is None
    assert connection.closed
    if way == 'revoke':
        headers = {'Accept': 'text/event-stream'}
        assert 403 == client.get(path, headers=headers).status_code


def test_listener_is_in_presence_until_it_leaves(client: httpx.Client) -> None:
    """A stream is a member of its channel, a poll is not."""

    def present() -> list[str]:
        loop = channels.loop
        assert loop is not None
        found = asyncio.run_coroutine_threadsafe(
            channels.presence('rooms:here'), loop
        ).result(TIMEOUT_S)
        return [info.user for info in found.values()]

    path = '/events/plain/rooms:here?user=ann'
    with EventReader.open(client, path):
        assert 200 == client.get(path + '2', headers=JSON).status_code
        wait_until(lambda: present() == ['ann'], 'ann is present')
    wait_until(lambda: present() == [], 'ann has left')
    wait_until_nobody_is_connected()


def test_stream_that_is_not_read_is_ended_as_slow(
    server: Server, client: httpx.Client
) -> None:
    """A client that does not read fills no memory: its connection ends."""
    slow = channels.node.hub.counters.slow_disconnects
    with socket.create_connection(('127.0.0.1', server.port), TIMEOUT_S) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b'GET /events/plain/slow:a HTTP/1.1\r\nHost: a\r\n\r\n')
        wait_until(lambda: channels.connections(), 'it listens')
        for _ in range(400):
            publish(client, 'slow:a', 'x' * 60_000)
            if not channels.connections():
                break
        wait_until_nobody_is_connected()
    assert slow + 1 == channels.node.hub.counters.slow_disconnects


def test_stream_that_recovers_more_than_the_backlog_limit_is_not_slow(
    server: Server, client: httpx.Client
) -> None:
    """Recovered publications do not count towards the backlog limit.

    A stream was ended as slow by the next publication, if its client had not read all
    recovered publications by then. The log had a warning for each such client.
    """
    for _ in range(20):
        publish(client, 'missed:a', *['x' * 60_000] * 10)
    answer = client.get('/events/plain/missed:a', headers=JSON)
    since = '0:' + answer.json()['since'].partition(':')[2]
    slow = channels.node.hub.counters.slow_disconnects
    with socket.socket() as sock:
        sock.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(('127.0.0.1', server.port))
        sock.sendall(
            b'GET /events/plain/missed:a HTTP/1.1\r\nHost: a\r\n'
            b'Accept: text/event-stream\r\nLast-Event-ID: %s\r\n\r\n' % since.encode()
        )
        received = b''
        while b'data: ' not in received:
            received += _read(sock, 4096)
        # NOTE: nearly all recovered publications are still in the backlog.
        publish(client, 'missed:a', 'last')
        while b'data: last' not in received:
            received = received[-100:] + _read(sock, 1 << 20)
    wait_until_nobody_is_connected()
    assert slow == channels.node.hub.counters.slow_disconnects


def _read(sock: socket.socket, size: int) -> bytes:
    chunk = sock.recv(size)
    assert chunk, 'the stream has ended'
    return chunk


def test_stream_that_the_application_does_not_send_is_removed(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection does not stay if another response was sent, and the log says it."""
    monkeypatch.setattr(events, 'UNREAD_TIMEOUT_S', 0.1)
    assert 'another answer' == client.get('/events/unread/rooms:unread').text
    wait_until_nobody_is_connected()
    assert 'its stream was never read' in caplog.text


def test_streams_that_cannot_be_served_raise_an_error_for_the_developer() -> None:
    """Mistakes of the application are found with the first request."""
    req: Any = falcon.asgi.Request({**_SCOPE}, None)
    resp = falcon.asgi.Response()
    channels = Channels(options=NodeOptions(max_channels_per_connection=100))
    long = [f'rooms:{n}{"x" * 200}' for n in range(20)]
    wrong: list[tuple[Any, str]] = [
        ([], '1 to 100'),
        ([f'a{n}' for n in range(101)], '1 to 100'),
        (long, 'event ids'),
        ({'rooms:a': 'x\ny'}, 'one line'),
        ({'rooms:a': None}, 'one line'),
    ]
    for names, message in wrong:
        with pytest.raises(InvalidValueError, match=message):
            asyncio.run(channels.serve_events(req, resp, names))
    refused: list[dict[str, Any]] = [
        {'start_event': 'a\nb'},
        {'end_event': 'a\r'},
        {'end_event': None},
        {'event_tag': 1},
        {'history': -1},
    ]
    for options in refused:
        with pytest.raises(OptionsError, match=next(iter(options))):
            EventStreamOptions(**options)


_SCOPE: dict[str, Any] = {
    'type': 'http',
    'asgi': {'version': '3.0'},
    'http_version': '1.1',
    'method': 'GET',
    'path': '/',
    'query_string': b'',
    'headers': [(b'host', b'a')],
    'server': ('a', 80),
}


# --- long polling --------------------------------------------------------------------

JSON = {'Accept': 'application/json'}


def poll(client: httpx.Client, path: str, since: str | None) -> dict[str, Any]:
    params = {} if since is None else {'since': since}
    answer = client.get(path, params=params, headers=JSON)
    assert 200 == answer.status_code, answer.text
    assert 'no-store' in answer.headers['Cache-Control']
    found: dict[str, Any] = answer.json()
    return found


def test_poll_returns_what_is_new_with_the_next_position(client: httpx.Client) -> None:
    """Polls that follow each other receive every publication once."""
    path = '/events/plain/rooms:poll'
    first = poll(client, path, None)
    assert ([], []) == (first['publications'], first['lost'])
    publish(client, 'rooms:poll', 'one', {'two': 2}, kind='x')
    second = poll(client, path, first['since'])
    assert [
        {'channel': 'rooms:poll', 'data': 'one', 'offset': 1, 'tags': {'kind': 'x'}},
        {
            'channel': 'rooms:poll',
            'data': {'two': 2},
            'offset': 2,
            'tags': {'kind': 'x'},
        },
    ] == second['publications']
    publish(client, 'rooms:poll', 'three')
    third = poll(client, path, second['since'])
    assert ['three'] == [item['data'] for item in third['publications']]
    old = poll(client, '/events/last2/rooms:poll', None)
    assert [2, 3] == [item['offset'] for item in old['publications']]
    assert third['since'] == old['since']
    assert [] == channels.connections()


def test_poll_waits_for_a_publication_or_the_deadline(client: httpx.Client) -> None:
    """A poll with nothing new waits. It answers at the first publication."""
    since = poll(client, '/events/quick/rooms:wait', None)['since']
    assert {'publications': [], 'since': since, 'lost': [], 'ended': []} == poll(
        client, '/events/quick/rooms:wait', since
    )

    async def wait_and_publish() -> dict[str, Any]:
        url = str(client.base_url)
        async with httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, trust_env=False
        ) as other:
            waiting = asyncio.create_task(
                other.get(f'/events/plain/rooms:wait?since={since}', headers=JSON)
            )
            await asyncio.to_thread(
                wait_until, lambda: channels.connections(), 'it waits'
            )
            await other.post('/publish/rooms:wait', json=['now'])
            found: dict[str, Any] = (await waiting).json()
            return found

    found = asyncio.run(wait_and_publish())
    assert ['now'] == [item['data'] for item in found['publications']]
    assert [] == channels.connections()


def test_poll_of_several_channels_has_one_position_for_all(
    client: httpx.Client,
) -> None:
    """The value of `since` has a position in each channel."""
    path = '/events/plain/rooms:p1,rooms:p2'
    since = poll(client, path, None)['since']
    publish(client, 'rooms:p2', 'two')
    publish(client, 'rooms:p1', 'one')
    found = poll(client, path, since)
    assert {('rooms:p1', 'one'), ('rooms:p2', 'two')} == {
        (item['channel'], item['data']) for item in found['publications']
    }
    publish(client, 'rooms:p2', 'three')
    again = poll(client, path, found['since'])['publications']
    assert [('rooms:p2', 'three')] == [(i['channel'], i['data']) for i in again]


def test_poll_with_a_position_that_is_lost_is_told_at_once(
    client: httpx.Client,
) -> None:
    """The answer names the channels whose publications are lost."""
    publish(client, 'rooms:plost', *range(20))
    path = '/events/plain/rooms:plost'
    found = poll(client, path, '3:')
    assert ([], ['rooms:plost']) == (found['publications'], found['lost'])
    publish(client, 'rooms:plost', 'next')
    following = poll(client, path, found['since'])
    assert ['next'] == [item['data'] for item in following['publications']]


@pytest.mark.parametrize('since', ['x', '-1:x', '9' * 16 + ':x', 'a=b', 'x' * 5000])
def test_malformed_since_is_refused_with_400(client: httpx.Client, since: str) -> None:
    """A value that the client has written by hand is refused with a reason."""
    path = '/events/plain/rooms:bad'
    for accept in ('text/event-stream', 'application/json'):
        answer = client.get(path, params={'since': since}, headers={'Accept': accept})
        assert 400 == answer.status_code


def test_poll_of_a_client_that_leaves_ends_at_once(server: Server) -> None:
    """A poll does not wait for a client that has left."""
    with socket.create_connection(('127.0.0.1', server.port), TIMEOUT_S) as sock:
        sock.sendall(
            b'GET /events/plain/rooms:gone?since= HTTP/1.1\r\n'
            b'Host: a\r\nAccept: application/json\r\n\r\n'
        )
        wait_until(lambda: channels.connections(), 'it waits')
    wait_until(lambda: not channels.connections(), 'it has ended')


def test_publications_of_an_answered_poll_are_explained_as_received(
    client: httpx.Client,
) -> None:
    """A poll that was answered has received what its answer has.

    Its output seemed to be in the backlog when it ended. Each publication was then
    explained as possibly lost.
    """

    def explain(offset: int) -> set[str]:
        loop = channels.loop
        assert loop is not None
        answers = asyncio.run_coroutine_threadsafe(
            channels.explain('recorded:a', offset, user='polly'), loop
        ).result(TIMEOUT_S)
        return {str(answer.verdict) for answer in answers}

    def poll_since(since: str) -> dict[str, Any]:
        path = f'/events/plain/recorded:a?user=polly&since={since}'
        found: dict[str, Any] = client.get(path, headers=JSON).json()
        return found

    publish(client, 'recorded:a', 1)
    since = poll(client, '/events/plain/recorded:a', None)['since']
    publish(client, 'recorded:a', 2)
    found = poll_since(since)
    assert [2] == [item['data'] for item in found['publications']]
    assert {'recovered'} == explain(2)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(poll_since, found['since'])
        wait_until(lambda: channels.connections('polly'), 'it waits')
        publish(client, 'recorded:a', 3)
        assert [3] == [item['data'] for item in waiting.result()['publications']]
    assert 'delivered' in explain(3)
