"""Rooms: the list, one room and its channel, who types, how far somebody has read."""

from __future__ import annotations

from typing import Annotated

import falcon
import falcon.asgi
import msgspec

from falcon_channels import Channels
from falcon_channels import PublicationDraft
from falcon_channels import Subscription
from falcon_channels_chat.bodies import read_json
from falcon_channels_chat.limits import RateLimit
from falcon_channels_chat.sessions import need_member
from falcon_channels_chat.store import MAX_ID
from falcon_channels_chat.store import Store
from falcon_channels_chat.words import room_name

PAGE_LIMIT = 50
#: What is new in any room, for the list of rooms.
NEWS = 'news'


def channel_of(room: str) -> str:
    """Return the channel of a room."""
    return f'rooms:{room}'


class NewRoom(msgspec.Struct, forbid_unknown_fields=True):
    """What makes a room: ``{"name": "Garden"}``."""

    name: str


@falcon.before(need_member)
class Rooms:
    """``/api/rooms``, and the channel `NEWS`."""

    def __init__(self, store: Store, channels: Channels, max_rooms: int) -> None:
        self._store = store
        self._channels = channels
        self._max_rooms = max_rooms
        self._limit = RateLimit(per_s=0.1, burst=5)

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Return all rooms, and the position of the news at that moment or before."""
        member = req.context.member
        position = await self._channels.position(NEWS)
        rooms = await self._store.rooms(member.id, member.since_ms)
        resp.media = {
            'rooms': msgspec.to_builtins(rooms),
            'position': position._asdict(),
        }

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Make a room; one that is there already is as good."""
        name = room_name((await read_json(req, NewRoom)).name)
        if not await self._store.has_room(name):
            self._limit.take(req.context.member.id)
            if not await self._store.add_room(name, self._max_rooms):
                raise falcon.HTTPConflict(
                    description=f'There are {self._max_rooms} rooms already.'
                )
            await self._channels.publish(
                NEWS, {'room': name, 'message': 0, 'user': req.context.member.id}
            )
        resp.status = falcon.HTTP_201
        resp.location = f'/api/rooms/{name}'
        resp.media = {'name': name}


class Room:
    """``/api/rooms/{room}`` and the channel ``rooms:{room}``."""

    def __init__(self, store: Store, channels: Channels) -> None:
        self._store = store
        self._channels = channels

    @falcon.before(need_member)
    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Return the newest messages and the position to subscribe from."""
        if not await self._store.has_room(room):
            raise falcon.HTTPNotFound(description='There is no such room.')
        # NOTE: the position first. A message that comes between the two is then in
        #   the page and comes again from the channel, where it is known by its id;
        #   the other way round it would be in neither.
        position = await self._channels.position(channel_of(room))
        messages = await self._store.messages(room, PAGE_LIMIT)
        resp.media = {
            'room': room,
            'messages': msgspec.to_builtins(messages),
            'more': len(messages) == PAGE_LIMIT,
            'position': position._asdict(),
        }

    async def on_subscribe(
        self, req: falcon.asgi.Request, subscription: Subscription, room: str
    ) -> None:
        """Let everybody with a name into every room that there is."""
        if not await self._store.has_room(room):
            raise falcon.HTTPNotFound(description='There is no such room.')


class TypingSignal(msgspec.Struct, forbid_unknown_fields=True):
    """What clients publish to ``typing:{room}``: ``{"typing": true}``."""

    typing: bool


class Typing:
    """The channel ``typing:{room}``: published by clients, kept by nobody."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limit = RateLimit(per_s=1.0, burst=5)

    async def on_subscribe(
        self, req: falcon.asgi.Request, subscription: Subscription, room: str
    ) -> None:
        """Let in whoever may be in the room."""
        if not await self._store.has_room(room):
            raise falcon.HTTPNotFound(description='There is no such room.')

    async def on_publish(
        self, req: falcon.asgi.Request, publication: PublicationDraft, room: str
    ) -> None:
        """Take it, not too often; the server adds who it was."""
        self._limit.take(publication.user)


class Own:
    """The channel ``users:{user}``: what all tabs of one person should know."""

    async def on_subscribe(
        self, req: falcon.asgi.Request, subscription: Subscription, user: str
    ) -> None:
        """Let nobody in but that person."""
        if subscription.user != user:
            raise falcon.HTTPForbidden(description='That is the channel of another.')


class ReadMark(msgspec.Struct, forbid_unknown_fields=True):
    """How far somebody has read: ``{"message": 17}``."""

    message: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]


@falcon.before(need_member)
class Read:
    """``/api/rooms/{room}/read``."""

    def __init__(self, store: Store, channels: Channels) -> None:
        self._store = store
        self._channels = channels
        self._limit = RateLimit(per_s=2.0, burst=30)

    async def on_put(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Note it, and tell the other tabs."""
        mark = await read_json(req, ReadMark)
        user = req.context.member.id
        self._limit.take(user)
        if await self._store.message(room, mark.message) is None:
            raise falcon.HTTPNotFound(description='There is no such message.')
        if await self._store.mark_read(user, room, mark.message):
            await self._channels.publish(
                f'users:{user}', {'room': room, 'read': mark.message}
            )
        resp.status = falcon.HTTP_204
