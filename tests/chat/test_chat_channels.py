"""The chat's channels, by the official Python SDK and by bare WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterator
from contextlib import asynccontextmanager
import json
from pathlib import Path
import random
from typing import Any

from centrifuge import Client
from centrifuge import ClientEventHandler
from centrifuge import ConnectedContext
from centrifuge import DisconnectedContext
from centrifuge import JoinContext
from centrifuge import LeaveContext
from centrifuge import PublicationContext
from centrifuge import ReplyError
from centrifuge import SubscribedContext
from centrifuge import SubscriptionEventHandler
from centrifuge import UnsubscribedContext
import httpx
import pytest
from support.chat_pages import chat_server
from support.chat_pages import new_folder
from support.processes import ServerProcess
from support.proxy import Proxy
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group('chat_channels'),
    pytest.mark.timeout(120),
]

WAIT_S = 30
SOCKET = '/connection/websocket'


@pytest.fixture(scope='module')
def server() -> Iterator[ServerProcess]:
    # Two processes: who talks to whom is often in the other one.
    with new_folder() as folder, chat_server(Path(folder), workers=2) as server:
        yield server


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    """Wait for the connections that the SDK closes in the background."""
    yield
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=WAIT_S)
        assert set() == left


class Talker(ClientEventHandler, SubscriptionEventHandler):
    """Somebody with a session, a connection by the SDK and notes of what came."""

    def __init__(self, http: httpx.AsyncClient, user: str, cookie: str) -> None:
        self.http = http
        self.user = user
        self.cookie = cookie
        self.publications: list[PublicationContext] = []
        self.joins: list[str] = []
        self.leaves: list[str] = []
        self.ends: list[int] = []
        self.connections = 0
        self.unrecovered = 0
        self._changed = asyncio.Event()
        self.client: Client | None = None

    # --- what the SDK tells ----------------------------------------------------------

    async def on_connected(self, ctx: ConnectedContext) -> None:
        self.connections += 1
        self._changed.set()

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        self.ends.append(ctx.code)
        self._changed.set()

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        self.unrecovered += ctx.was_recovering and not ctx.recovered
        self._changed.set()

    async def on_unsubscribed(self, ctx: UnsubscribedContext) -> None:
        self.ends.append(ctx.code)
        self._changed.set()

    async def on_publication(self, ctx: PublicationContext) -> None:
        self.publications.append(ctx)
        self._changed.set()

    async def on_join(self, ctx: JoinContext) -> None:
        self.joins.append(ctx.info.user)
        self._changed.set()

    async def on_leave(self, ctx: LeaveContext) -> None:
        self.leaves.append(ctx.info.user)
        self._changed.set()

    # --- what it does ----------------------------------------------------------------

    async def until(self, condition: Any, what: str) -> None:
        """Return when a condition is true that depends on what came."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
        assert condition(), what

    def connect(self, ws_url: str) -> Client:
        self.client = Client(
            ws_url + SOCKET,
            events=self,
            headers={'Cookie': f'chat_session={self.cookie}'},
            max_reconnect_delay=0.5,
        )
        return self.client

    async def say(self, text: str, room: str = 'lobby', key: str | None = None) -> Any:
        response = await self.http.post(
            f'/api/rooms/{room}/messages', json={'text': text, 'key': key}
        )
        response.raise_for_status()
        return response.json()


@asynccontextmanager
async def talker(url: str, name: str) -> AsyncIterator[Talker]:
    """Yield somebody with a session at a chat."""
    async with httpx.AsyncClient(base_url=url, headers={'Origin': url}) as http:
        made = await http.post('/api/session', json={'name': name})
        one = Talker(http, made.json()['id'], http.cookies['chat_session'])
        try:
            yield one
        finally:
            if one.client is not None:
                await one.client.disconnect()


async def test_what_clients_may_do(server: ServerProcess) -> None:
    """Rooms take nothing from clients, typing only from those who are there."""
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


async def test_typing_has_a_shape_and_an_author(server: ServerProcess) -> None:
    """What somebody types arrives with the server's word for who it is."""
    async with talker(server.url, 'Ada') as ada, talker(server.url, 'Bob') as bob:
        for one in (ada, bob):
            client = one.connect(server.ws_url)
            await client.connect()
            await client.new_subscription('typing:lobby', events=one).subscribe()
        typing = bob.client and bob.client.get_subscription('typing:lobby')
        assert typing is not None
        await typing.ready()
        heard = ada.client and ada.client.get_subscription('typing:lobby')
        assert heard is not None
        await heard.ready()
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


async def test_presence_is_by_person(server: ServerProcess) -> None:
    """Two connections of one person join once and leave once."""
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
        await ada.until(lambda: ada.publications, 'Bob is heard')
        assert [] == ada.leaves
        await tabs[1].disconnect()
        await ada.until(lambda: ada.leaves, 'Bob has left')
        assert ([ada.user, bob.user], [bob.user]) == (ada.joins, ada.leaves)


@pytest.mark.parametrize('origin', ['https://evil.example', 'null'])
async def test_foreign_pages_cannot_connect(server: ServerProcess, origin: str) -> None:
    """A page of another site does not even get a WebSocket, cookie or not."""
    async with talker(server.url, 'Ada') as ada:
        with pytest.raises(InvalidStatus) as caught:
            await connect(
                server.ws_url + SOCKET,
                origin=origin,  # type: ignore[arg-type] # any str
                additional_headers={'Cookie': f'chat_session={ada.cookie}'},
            )
        assert 403 == caught.value.response.status_code


@pytest.mark.parametrize('cookie', ['', 'forged', 'a.b.c'])
async def test_nobody_cannot_connect(server: ServerProcess, cookie: str) -> None:
    """Without a session that this chat signed a connection ends for good."""
    async with connect(
        server.ws_url + SOCKET, additional_headers={'Cookie': f'chat_session={cookie}'}
    ) as ws:
        await ws.send(json.dumps({'id': 1, 'connect': {}}))
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert 3500 == ws.close_code


PEOPLE = 10
MESSAGES_EACH = 150


async def test_ten_people_talk(server: ServerProcess) -> None:
    """Ten people whose connections break now and then miss nothing and see it once."""
    dice = random.Random(20)
    async with Proxy(server.port) as cable:
        people: list[Talker] = []
        async with talker(server.url, 'Host') as host:
            await host.http.post('/api/rooms', json={'name': 'crowd'})
            rooms = [talker(server.url, f'Person {number}') for number in range(PEOPLE)]
            for room in rooms:
                people.append(await room.__aenter__())
            ws_url = cable.url.replace('http', 'ws')
            for one in people:
                await one.connect(ws_url).connect()
                assert one.client is not None
                subscription = one.client.new_subscription('rooms:crowd', events=one)
                await subscription.subscribe()
                await subscription.ready()
            talking = [
                asyncio.create_task(talk(one, number, dice))
                for number, one in enumerate(people)
            ]
            breaks = 0
            while not all(task.done() for task in talking):
                cable.drop_one(dice)
                breaks += 1
                await asyncio.wait(talking, timeout=dice.uniform(0.02, 0.2))
            await asyncio.gather(*talking)
            wanted = PEOPLE * MESSAGES_EACH
            for one in people:
                await one.until(
                    lambda one=one: len(one.publications) >= wanted, 'all has come'
                )
            await host.say('the end', 'crowd')
            for one in people:
                await one.until(
                    lambda one=one: len(one.publications) > wanted, 'the end has come'
                )
            for room in rooms:
                await room.__aexit__(None, None, None)
    offsets = list(range(1, wanted + 2))
    texts = [ctx.pub.data['text'] for ctx in people[0].publications]
    for one in people:
        assert offsets == [ctx.pub.offset for ctx in one.publications]
        assert texts == [ctx.pub.data['text'] for ctx in one.publications]
    said = {
        f'{number} {message}'
        for number in range(PEOPLE)
        for message in range(MESSAGES_EACH)
    }
    assert said | {'the end'} == set(texts)
    assert 0 == sum(one.unrecovered for one in people)
    assert breaks > 5
    assert sum(one.connections for one in people) > PEOPLE


async def talk(one: Talker, number: int, dice: random.Random) -> None:
    """Say all messages of one person, some of them twice by mistake."""
    for message in range(MESSAGES_EACH):
        text, key = f'{number} {message}', f'{number}-{message}'
        await one.say(text, 'crowd', key)
        if dice.random() < 0.2:
            await one.say(text, 'crowd', key)
