"""The end of a channel, for clients without an SDK, over real servers."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import time
from typing import Any

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
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions

pytestmark = pytest.mark.every_server

JSON = {'Accept': 'application/json'}

channels = Channels()


class Secrets:
    async def on_subscribe(self, req: Any, subscription: Any, name: str) -> None:
        raise falcon.HTTPForbidden()


class Position:
    async def on_get(self, req: Any, resp: Any, name: str) -> None:
        position = await channels.position(name)
        resp.text = f'{position.offset}:{position.epoch}'


class Answers:
    """``/answers/{names}``: read, write and end channels."""

    async def on_get(self, req: Any, resp: Any, names: str) -> None:
        listed = names.split(',')
        await channels.serve_events(
            req,
            resp,
            listed if len(listed) > 1 else names,
            options=EventStreamOptions(
                history=None if req.has_param('all') else 0,
                poll_wait_s=req.get_param_as_float('wait', default=20.0),
                end_event=req.get_param('end_event', default='end'),
            ),
        )

    async def on_post(self, req: Any, resp: Any, names: str) -> None:
        for value in await req.get_media():
            await channels.publish(names, value)

    async def on_delete(self, req: Any, resp: Any, names: str) -> None:
        error = req.get_param('error', default='')
        await channels.finish(names, req.get_param('data'), error=error)

    async def on_websocket(self, req: Any, ws: Any, names: str) -> None:
        media = req.has_param('media')
        await channels.serve(req, ws, names, media=media)


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    global channels
    channels = Channels()
    channels.add_route(
        'answers:{number}',
        None,
        ChannelOptions(
            history_size=100, subscribers='anybody', publishers='subscribers'
        ),
    )
    app = falcon.asgi.App(middleware=[channels])
    channels.add_route('secret:{name}', Secrets(), ChannelOptions(history_size=10))
    app.add_route('/answers/{names}', Answers())
    app.add_route('/position/{name}', Position())
    with serving_app(app, asgi_server) as server:
        yield server


@pytest.fixture(scope='module')
def client(server: Server) -> Iterator[httpx.Client]:
    url = f'http://127.0.0.1:{server.port}'
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        yield client


def publish(client: httpx.Client, channel: str, *values: Any) -> None:
    assert 200 == client.post(f'/answers/{channel}', json=values).status_code


def finish(client: httpx.Client, channel: str, **params: str) -> None:
    answer = client.delete(f'/answers/{channel}', params=params)
    assert 200 == answer.status_code


def end_of(channel: str, error: str = '') -> dict[str, str]:
    return {'channel': channel, 'error': error}


# --- event streams -------------------------------------------------------------------


@pytest.mark.parametrize('error', ['', 'too long: "é"'])
def test_stream_ends_with_an_event_after_the_last_publication(
    client: httpx.Client, error: str
) -> None:
    """An open stream has every publication, then the event `end`, and ends."""
    channel = f'answers:live{len(error)}'
    with EventReader.open(client, f'/answers/{channel}') as reader:
        epoch = reader.start().partition(':')[2]
        publish(client, channel, 'a')
        finish(client, channel, data='b', error=error)
        assert ['a', 'b'] == reader.data(2)
        event = reader.event()
        assert ('end', f'2:{epoch}:end') == (event.name, event.id)
        assert end_of(channel, error) == json.loads(event.data)
        assert reader.next() is None
    wait_until(lambda: not channels.connections(), 'the connection has ended')


def test_event_source_that_returns_with_everything_gets_204(
    client: httpx.Client,
) -> None:
    """A client that is behind gets the rest and the end. One with all gets 204."""
    channel = 'answers:returns'
    path = f'/answers/{channel}'
    publish(client, channel, 'a', 'b')
    finish(client, channel)
    with EventReader.open(client, path + '?all=1') as reader:
        reader.start()
        first, second, end = (reader.event() for _ in range(3))
        assert ['a', 'b', 'end'] == [first.data, second.data, end.name]
        assert reader.next() is None
    position = end.id.removesuffix(':end')
    for last_id, expected in ((first.id, ['b']), (second.id, []), (position, [])):
        with EventReader.open(client, path, last_event_id=last_id) as reader:
            reader.start()
            events = [reader.event() for _ in [*expected, 'end']]
            assert expected == [event.data for event in events[:-1]]
            assert ('end', end.id) == (events[-1].name, events[-1].id)
            assert reader.next() is None
    answer = client.get(
        path, headers={'Last-Event-ID': end.id, 'Accept': 'text/event-stream'}
    )
    assert (204, b'') == (answer.status_code, answer.content)
    assert 'no-store' in answer.headers['Cache-Control']
    assert [] == channels.connections()


def test_stream_without_a_position_of_a_finished_channel_says_the_end(
    client: httpx.Client,
) -> None:
    """A client that comes late learns the end, also without history."""
    finish(client, 'answers:late', data='a')
    with EventReader.open(client, '/answers/answers:late') as reader:
        start = reader.start()
        event = reader.event()
        assert ('end', f'{start}:end') == (event.name, event.id)
        assert reader.next() is None


def test_stream_whose_publications_are_lost_says_that_and_the_end(
    client: httpx.Client,
) -> None:
    """A position of another log is lost, and the channel has ended nevertheless."""
    finish(client, 'answers:lost')
    path = '/answers/answers:lost'
    with EventReader.open(client, path, last_event_id='7:another') as reader:
        reader.start()
        events = [reader.event() for _ in range(2)]
        assert ['lost', 'end'] == [event.name for event in events]
        assert reader.next() is None
        assert '1' == reader.last_id.partition(':')[0]


def test_stream_of_several_channels_ends_with_the_last_one(
    client: httpx.Client,
) -> None:
    """Each channel has its end. The stream goes on until all have ended."""
    path = '/answers/answers:m1,answers:m2'
    finish(client, 'answers:m1')
    with EventReader.open(client, path) as reader:
        reader.start()
        assert end_of('answers:m1') == json.loads(reader.event().data)
        publish(client, 'answers:m2', 'a')
        assert 'a' == reader.event().data
        before = reader.last_id
        finish(client, 'answers:m2', error='x')
        event = reader.event()
        assert ('end', end_of('answers:m2', 'x')) == (
            event.name,
            json.loads(event.data),
        )
        assert reader.next() is None
        assert before.replace('m2=1', 'm2=2') + ':end' == reader.last_id
        assert ':end&' in before
    with EventReader.open(client, path, last_event_id=before) as reader:
        reader.start()
        # NOTE: the client knows the other end already.
        assert end_of('answers:m2', 'x') == json.loads(reader.event().data)
        assert reader.next() is None
        last_id = reader.last_id
    answer = client.get(path, headers={'Last-Event-ID': last_id})
    assert 204 == answer.status_code
    with EventReader.open(client, path.replace('m1', 'm3')) as reader:
        reader.start()
        assert end_of('answers:m2', 'x') == json.loads(reader.event().data)


def test_end_of_one_of_several_channels_is_told_once(client: httpx.Client) -> None:
    """A client that returns does not get an end again that its event id names.

    Each further id names this end, too, also the first one of a stream.
    """
    path = '/answers/answers:o1,answers:o2'
    finish(client, 'answers:o1')
    with EventReader.open(client, path) as reader:
        reader.start()
        assert end_of('answers:o1') == json.loads(reader.event().data)
        last_id = reader.last_id
    for data in ('a', 'b'):
        with EventReader.open(client, path, last_event_id=last_id) as reader:
            reader.start()
            assert last_id == reader.last_id
            publish(client, 'answers:o2', data)
            assert data == reader.event().data
            last_id = reader.last_id
    assert ':end&' in last_id
    with EventReader.open(
        client, path, last_event_id=last_id.replace(':end', '')
    ) as reader:
        reader.start()
        assert end_of('answers:o1') == json.loads(reader.event().data)


def test_event_of_the_end_has_the_name_that_the_application_chooses(
    client: httpx.Client,
) -> None:
    """An app can rename the event. Without a name, the stream ends with an id only."""
    finish(client, 'answers:named', data='a')
    path = '/answers/answers:named?all=1'
    named = client.get(f'{path}&end_event=done').text
    *events, end, rest = named.split('\n\n')
    name, data, last_id = end.split('\n')
    assert ('event: done', '') == (name, rest)
    assert end_of('answers:named') == json.loads(data.removeprefix('data: '))
    quiet = client.get(f'{path}&end_event=').text
    assert [*events, last_id, ''] == quiet.split('\n\n')


def test_forged_id_of_an_end_neither_ends_nor_reveals_a_channel(
    client: httpx.Client,
) -> None:
    """An id is believed only at the end of a channel, and after the permission."""
    channel = 'answers:forged'
    path = f'/answers/{channel}'
    since = poll(client, path)['since']
    for forged in (f'{since}:end', '999:x:end', 'x:end'):
        with EventReader.open(client, path, last_event_id=forged) as reader:
            reader.start()
            publish(client, channel, forged)
            while (event := reader.event()).name == 'lost':
                pass
            assert forged == event.data
    finish(client, channel)
    with EventReader.open(client, path, last_event_id=f'{since}:end') as reader:
        reader.start()
        assert ['message'] * 3 + ['end'] == [reader.event().name for _ in range(4)]
    finish(client, 'secret:a')
    end = (client.get('/position/secret:a')).text
    for last_id in (end, f'{end}:end', '1:x:end'):
        answer = client.get('/answers/secret:a', headers={'Last-Event-ID': last_id})
        assert 403 == answer.status_code


# --- polls ---------------------------------------------------------------------------


def poll(client: httpx.Client, path: str, since: str | None = None) -> Any:
    # NOTE: the argument `params` of httpx would replace the query of the path.
    params = {} if since is None else {'since': since}
    url = httpx.URL(path).copy_merge_params(params)
    answer = client.get(url, headers=JSON)
    assert 200 == answer.status_code
    return answer.json()


def test_poll_names_the_channels_that_have_ended(client: httpx.Client) -> None:
    """The answer has the rest and the end, and later polls are answered at once."""
    path = '/answers/answers:poll'
    since = poll(client, path)['since']
    publish(client, 'answers:poll', 'a')
    finish(client, 'answers:poll', error='x')
    found = poll(client, path, since)
    assert ['a'] == [item['data'] for item in found['publications']]
    assert [end_of('answers:poll', 'x')] == found['ended']
    assert '2' == found['since'].partition(':')[0]
    again = poll(client, path, found['since'])
    assert {**found, 'publications': []} == again


def test_poll_waits_for_channels_that_have_not_ended(client: httpx.Client) -> None:
    """The end of one channel is news once; then the poll waits for the others."""
    path = '/answers/answers:p1,answers:p2?wait=0.1'
    since = poll(client, path)['since']
    finish(client, 'answers:p1')
    slow = path.replace('0.1', '20')
    found = poll(client, slow, since)
    assert ([], [end_of('answers:p1')]) == (found['publications'], found['ended'])
    begun_s = time.monotonic()
    again = poll(client, path.replace('0.1', '0.5'), found['since'])
    assert 0.5 <= time.monotonic() - begun_s
    assert (found['since'], found['ended']) == (again['since'], again['ended'])


# --- WebSockets ----------------------------------------------------------------------


@contextlib.contextmanager
def websocket(server: Server, path: str) -> Iterator[ClientConnection]:
    url = f'ws://127.0.0.1:{server.port}/answers/{path}'
    with connect(url, proxy=None, open_timeout=TIMEOUT_S) as ws:
        yield ws


def rest(ws: ClientConnection) -> tuple[list[Any], int, str]:
    """Return the messages until the close, its code and its reason."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(ws.recv(TIMEOUT_S))
    assert ws.close_code is not None
    return messages, ws.close_code, ws.close_reason or ''


@pytest.mark.parametrize('error', ['', 'x' * 123])
def test_text_websocket_closes_with_1000_after_the_last_publication(
    server: Server, client: httpx.Client, error: str
) -> None:
    """A plain-text client gets every text, code 1000, and the error as reason."""
    channel = f'answers:text{len(error)}'
    with websocket(server, channel) as ws:
        wait_until(lambda: len(channels.connections()) == 1, 'it is connected')
        publish(client, channel, 'a')
        finish(client, channel, data='b', error=error)
        reason = error or 'channel finished'
        assert (['a', 'b'], 1000, reason) == rest(ws)
    with websocket(server, channel) as ws:
        assert ([], 1000, reason) == rest(ws)


def test_media_websocket_receives_the_end_as_a_message(
    server: Server, client: httpx.Client
) -> None:
    """A client with positions gets ``{"end": ...}``, also when it returns."""
    channel = 'answers:media'
    with websocket(server, channel + '?media=1') as ws:
        epoch = json.loads(ws.recv(TIMEOUT_S))['subscribed']['epoch']
        publish(client, channel, 'a', 'b')
        finish(client, channel, error='x')
        messages, code, reason = rest(ws)
        assert ['a', 'b', None] == [json.loads(m).get('data') for m in messages]
        assert {'end': {'error': 'x'}} == json.loads(messages[-1])
        assert (1000, 'x') == (code, reason)
    for offset, expected in ((1, ['b']), (2, []), (3, [])):
        with websocket(server, f'{channel}?media=1&since={offset}:{epoch}') as ws:
            (first, *messages), code, _ = rest(ws)
            start = json.loads(first)['subscribed']
            assert (True, 3) == (start['recovered'], start['offset'])
            decoded = [json.loads(message) for message in messages]
            assert expected == [message['data'] for message in decoded[:-1]]
            assert ({'end': {'error': 'x'}}, 1000) == (decoded[-1], code)


def test_client_cannot_end_a_channel(server: Server, client: httpx.Client) -> None:
    """A payload that looks like an end is data, and a late message is refused."""
    channel = 'answers:deceived'
    with websocket(server, channel + '?media=1') as ws:
        assert 'subscribed' in json.loads(ws.recv(TIMEOUT_S))
        for text in ('{"end": {"error": ""}}', '{"data": 1, "end": {"error": "x"}}'):
            ws.send(text)
            item = json.loads(ws.recv(TIMEOUT_S))
            assert json.loads(text) == item['data']
            assert 'end' not in item
        publish(client, channel, 'still open')
        assert 'still open' == json.loads(ws.recv(TIMEOUT_S))['data']
