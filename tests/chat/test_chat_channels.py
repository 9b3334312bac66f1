"""The channels of the chat, used by the official Python SDK and by WebSockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Iterator
import json
from pathlib import Path

from centrifuge import ReplyError
import pytest
from support.asgi_servers import AsgiServer
from support.chat_pages import chat_server
from support.chat_pages import new_folder
from support.chat_talkers import SOCKET
from support.chat_talkers import talker
from support.processes import ServerProcess
from support.sdk_tasks import finish_tasks
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group('chat_channels'),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    # With two processes, two members are often connected to different processes.
    with (
        new_folder() as folder,
        chat_server(Path(folder), asgi_server=asgi_server, workers=2) as server,
    ):
        yield server


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    """Wait for the connections that the SDK closes in the background."""
    yield
    await finish_tasks()


async def test_client_publish_and_subscribe_outside_its_rights_is_refused(
    server: ServerProcess,
) -> None:
    """Clients cannot publish to rooms, nor to `typing` without a subscription."""
    async with talker(server.url, 'Ada') as ada, talker(server.url, 'Bob') as bob:
        client = ada.connect(server.ws_url)
        await client.connect()
        room = client.new_subscription('rooms:lobby', events=ada, join_leave=True)
        await room.subscribe()
        await ada.until(lambda: ada.joins, 'Ada has joined')
        for data in ({'text': 'forged', 'user': bob.user}, {'typing': True}):
            with pytest.raises(ReplyError) as caught:
                await room.publish(data)
            assert 103 == caught.value.code
        with pytest.raises(ReplyError) as caught:
            await client.publish('typing:lobby', {'typing': True})
        assert 103 == caught.value.code
        with pytest.raises(ReplyError) as caught:
            await client.publish('news', {'room': 'x', 'message': 1, 'user': ''})
        assert 103 == caught.value.code
        for channel, code in (
            (f'users:{bob.user}', 103),
            ('rooms:no-such-room', 102),
            ('anything', 102),
        ):
            refused = client.new_subscription(channel, events=ada)
            await refused.subscribe()
            await ada.until(lambda: ada.ends, f'{channel} is refused')
            assert [code] == ada.ends
            ada.ends.clear()
        own = client.new_subscription(f'users:{ada.user}', events=ada)
        await own.subscribe()
        await own.ready()
        assert [] == ada.publications


async def test_typing_signal_is_validated_and_carries_its_user(
    server: ServerProcess,
) -> None:
    """A typing signal of another type is refused; the server adds the user's name."""
    async with talker(server.url, 'Ada') as ada, talker(server.url, 'Bob') as bob:
        for member in (ada, bob):
            client = member.connect(server.ws_url)
            await client.connect()
            await client.new_subscription('typing:lobby', events=member).subscribe()
        typing = bob.client and bob.client.get_subscription('typing:lobby')
        assert typing is not None
        await typing.ready()
        received = ada.client and ada.client.get_subscription('typing:lobby')
        assert received is not None
        await received.ready()
        for data in ({'typing': 'yes'}, {'typing': True, 'user': ada.user}, 'x', None):
            with pytest.raises(ReplyError):
                await typing.publish(data)
        await typing.publish({'typing': True})
        await ada.until(lambda: ada.publications, 'Bob types')
        (context,) = ada.publications
        assert context.pub.info is not None
        assert (bob.user, {'name': 'Bob'}) == (
            context.pub.info.user,
            context.pub.info.conn_info,
        )


async def test_two_connections_of_a_person_join_and_leave_once(
    server: ServerProcess,
) -> None:
    """Two connections of one person cause one join and one leave."""
    async with talker(server.url, 'Ada') as ada, talker(server.url, 'Bob') as bob:
        await ada.http.post('/api/rooms', json={'name': 'club'})
        await ada.connect(server.ws_url).connect()
        assert ada.client is not None
        room = ada.client.new_subscription('rooms:club', events=ada, join_leave=True)
        await room.subscribe()
        await ada.until(lambda: ada.joins == [ada.user], 'Ada has joined')
        tabs = [bob.connect(server.ws_url) for _ in range(2)]
        for tab in tabs:
            await tab.connect()
            await tab.new_subscription('rooms:club').subscribe()
        await ada.until(lambda: len(ada.joins) == 2, 'Bob has joined')
        await tabs[0].disconnect()
        await bob.say('one tab is left', 'club')
        await ada.until(lambda: ada.publications, "Ada has Bob's message")
        assert [] == ada.leaves
        await tabs[1].disconnect()
        await ada.until(lambda: ada.leaves, 'Bob has left')
        assert ([ada.user, bob.user], [bob.user]) == (ada.joins, ada.leaves)


@pytest.mark.parametrize('origin', ['https://evil.example', 'null'])
async def test_websocket_from_another_origin_is_refused(
    server: ServerProcess, origin: str
) -> None:
    """A handshake from a page of another site gets a 403, even with a cookie."""
    async with talker(server.url, 'Ada') as ada:
        with pytest.raises(InvalidStatus) as caught:
            await connect(
                server.ws_url + SOCKET,
                origin=origin,  # type: ignore[arg-type] # any str
                additional_headers={'Cookie': f'chat_session={ada.cookie}'},
            )
        assert 403 == caught.value.response.status_code


@pytest.mark.parametrize('cookie', ['', 'forged', 'a.b.c'])
async def test_connection_without_a_valid_session_is_closed(
    server: ServerProcess, cookie: str
) -> None:
    """Without a valid session the connection is closed with 3500: do not reconnect."""
    async with connect(
        server.ws_url + SOCKET, additional_headers={'Cookie': f'chat_session={cookie}'}
    ) as ws:
        await ws.send(json.dumps({'id': 1, 'connect': {}}))
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert 3500 == ws.close_code
