"""Members who use the chat with the official Python SDK and record all events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from centrifuge import Client
from centrifuge import ClientEventHandler
from centrifuge import ConnectedContext
from centrifuge import DisconnectedContext
from centrifuge import JoinContext
from centrifuge import LeaveContext
from centrifuge import PublicationContext
from centrifuge import SubscribedContext
from centrifuge import SubscriptionEventHandler
from centrifuge import UnsubscribedContext
import httpx

WAIT_S = 30
SOCKET = '/connection/websocket'


class Talker(ClientEventHandler, SubscriptionEventHandler):
    """A person with a session and a connection of the SDK; records all events."""

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
        #: All clients of this person, also those before `client`.
        self.clients: list[Client] = []

    # --- events of the SDK -----------------------------------------------------------

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

    # --- actions ---------------------------------------------------------------------

    async def until(self, condition: Any, what: str) -> None:
        """Wait until a condition about the recorded events is true."""
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
        self.clients.append(self.client)
        return self.client

    async def say(self, text: str, room: str = 'lobby', key: str | None = None) -> Any:
        response = await self.http.post(
            f'/api/rooms/{room}/messages', json={'text': text, 'key': key}
        )
        response.raise_for_status()
        return response.json()


@asynccontextmanager
async def talker(url: str, name: str) -> AsyncIterator[Talker]:
    """Yield a person with a session."""
    async with httpx.AsyncClient(base_url=url, headers={'Origin': url}) as http:
        made = await http.post('/api/session', json={'name': name})
        one = Talker(http, made.json()['id'], http.cookies['chat_session'])
        try:
            yield one
        finally:
            for client in one.clients:
                await client.disconnect()
