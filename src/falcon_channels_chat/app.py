"""The chat as a Falcon application: all HTTP routes and all channels."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

import falcon
import falcon.asgi

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClientConnection
from falcon_channels import NodeOptions
from falcon_channels import OriginCheck
from falcon_channels_chat.images import Images
from falcon_channels_chat.images import OneImage
from falcon_channels_chat.messages import Messages
from falcon_channels_chat.messages import OneMessage
from falcon_channels_chat.page import Page
from falcon_channels_chat.page import SafeHeaders
from falcon_channels_chat.rate_limit import RequestLimit
from falcon_channels_chat.rooms import NEWS
from falcon_channels_chat.rooms import PersonalChannel
from falcon_channels_chat.rooms import ReadMarks
from falcon_channels_chat.rooms import Room
from falcon_channels_chat.rooms import Rooms
from falcon_channels_chat.rooms import Typing
from falcon_channels_chat.rooms import TypingSignal
from falcon_channels_chat.sessions import Identify
from falcon_channels_chat.sessions import Session
from falcon_channels_chat.sessions import Signer
from falcon_channels_chat.settings import Settings
from falcon_channels_chat.store import MAX_ID
from falcon_channels_chat.store import Store

_logger = logging.getLogger('falcon_channels_chat')

LOBBY = 'lobby'

App = falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]


class ChatClients:
    """Endpoint resource: accepts connections of everybody who has a name."""

    async def on_connect(
        self, req: falcon.asgi.Request, connection: ClientConnection
    ) -> None:
        """Called when a client connects; set its user id and name.

        The page sends the id of its member as data; see `MEMBER_HEADER`.
        """
        member = req.context.member
        data = connection.data
        expected = data.get('member') if isinstance(data, dict) else None
        if member is None or expected not in (None, member.id):
            raise falcon.HTTPUnauthorized(description='Pick a name first.')
        connection.user = member.id
        connection.info = {'name': member.name}


class Health:
    """``/health``: answers while this process serves, for a proxy or a container.

    NOTE: it asks neither the database nor the broker. If it did, an outage of one of
    them would take all processes out of service, and a restart would not help.
    """

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Answer 200."""
        resp.media = {'status': 'ok'}


async def refuse_while_unavailable(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    ex: Exception,
    params: dict[str, Any],
) -> None:
    """Error handler: answer 503 while the database or the broker is unavailable."""
    _logger.error('%r %r: %s', req.method, req.path, ex)
    raise falcon.HTTPServiceUnavailable(
        description='That did not work. Try again.', retry_after=2
    )


def add_channels(channels: Channels, store: Store, settings: Settings) -> Room:
    """Add the routes of all channels.

    Returns:
        The resource of a room, which also answers HTTP requests.
    """
    room = Room(store, channels)
    channels.add_route(
        'rooms:{room}',
        room,
        ChannelOptions(
            history_size=1000,
            presence=True,
            join_leave='user',
            leave_grace_s=settings.leave_grace_s,
            publishers='nobody',
        ),
    )
    channels.add_route(
        'typing:{room}', Typing(store), ChannelOptions(data_type=TypingSignal)
    )
    channels.add_route(
        NEWS, object(), ChannelOptions(subscribers='users', history_size=1000)
    )
    channels.add_route(
        'users:{user}', PersonalChannel(), ChannelOptions(history_size=20)
    )
    return room


def create_app(settings: Settings | None = None) -> App:
    """Return the chat application. The caller may add more routes to it.

    Args:
        settings: Settings of the chat; the defaults of `Settings` if ``None``.
    """
    settings = settings or Settings()
    store = Store(settings.database)
    store.add_room_nowait(LOBBY)
    origins = tuple(settings.allowed_origins.split())
    origin = OriginCheck(origins)
    channels = Channels(settings.broker, NodeOptions(allowed_origins=origins))
    room = add_channels(channels, store, settings)
    signer = Signer(settings.secret or store.secret())
    people = settings.people_per_address
    limit = RequestLimit(settings.messages_per_s, settings.message_burst, people)

    middleware: list[Any] = [
        store,
        channels,
        origin,
        SafeHeaders(),
        Identify(signer, origin),
    ]
    app: App = falcon.asgi.App(middleware=middleware)
    app.add_error_handler(sqlite3.OperationalError, refuse_while_unavailable)
    app.add_error_handler(BrokerUnavailableError, refuse_while_unavailable)
    page = Page()
    app.add_route('/health', Health())
    app.add_route('/', page)
    app.add_route('/rooms/{room}', page)
    app.add_route('/assets/{name}', page, suffix='asset')
    app.add_route('/api/session', Session(signer, channels, people))
    app.add_route('/api/rooms', Rooms(store, channels, settings))
    app.add_route('/api/rooms/{room}', room)
    app.add_route('/api/rooms/{room}/read', ReadMarks(store, channels))
    app.add_route('/api/rooms/{room}/messages', Messages(store, channels, limit))
    app.add_route(
        f'/api/rooms/{{room}}/messages/{{message_id:int(min=1, max={MAX_ID})}}',
        OneMessage(store, channels, limit),
    )
    app.add_route('/api/images', Images(store, settings))
    app.add_route('/api/images/{image_id}', OneImage(store))
    channels.add_endpoints(app, resource=ChatClients())
    if settings.api_key:
        channels.add_api(app, keys=[settings.api_key])
    return app
