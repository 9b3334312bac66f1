"""Rooms: the list of rooms, one room and its channel, typing, read marks."""

from __future__ import annotations

from typing import Annotated

import falcon
import falcon.asgi
import msgspec

from falcon_channels import Channels
from falcon_channels import PublicationDraft
from falcon_channels import Subscription
from falcon_channels_chat.rate_limit import RateLimit
from falcon_channels_chat.rate_limit import RequestLimit
from falcon_channels_chat.request_body import read_json
from falcon_channels_chat.sessions import require_member
from falcon_channels_chat.settings import Settings
from falcon_channels_chat.store import MAX_ID
from falcon_channels_chat.store import Store
from falcon_channels_chat.validation import valid_room_name

PAGE_LIMIT = 50
#: The channel that carries one entry for each new room and each new message.
#: The list of rooms on the page uses it to count unread messages.
NEWS = 'news'


def channel_of(room: str) -> str:
    """Return the name of the channel of a room."""
    return f'rooms:{room}'


class NewRoom(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a new room: ``{"name": "Garden"}``."""

    name: str


@falcon.before(require_member)
class Rooms:
    """``/api/rooms``: the list of rooms."""

    def __init__(self, store: Store, channels: Channels, settings: Settings) -> None:
        self._store = store
        self._channels = channels
        self._max_rooms = settings.max_rooms
        self._limit = RequestLimit(0.1, 5, settings.people_per_address)

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Return all rooms, and the position from which to subscribe to `NEWS`."""
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
        """Create a room. If it exists already, the answer is the same."""
        name = valid_room_name((await read_json(req, NewRoom)).name)
        if not await self._store.has_room(name):
            self._limit.take(req)
            if not await self._store.add_room(name, self._max_rooms):
                raise falcon.HTTPConflict(
                    description=f'The limit of {self._max_rooms} rooms is reached.'
                )
            await self._channels.publish(
                NEWS, {'room': name, 'message': 0, 'user': req.context.member.id}
            )
        resp.status = falcon.HTTP_201
        resp.location = f'/api/rooms/{name}'
        resp.media = {'name': name}


class Room:
    """``/api/rooms/{room}`` and the channel ``rooms:{room}``: one room."""

    def __init__(self, store: Store, channels: Channels) -> None:
        self._store = store
        self._channels = channels

    @falcon.before(require_member)
    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Return the newest messages and the position from which to subscribe."""
        if not await self._store.has_room(room):
            raise falcon.HTTPNotFound(description='There is no such room.')
        # NOTE: the position is read before the messages. A message sent between the
        #   two reads is then in the answer and also arrives on the channel; the page
        #   ignores the second copy because it knows the id. In the opposite order the
        #   page would not get this message at all.
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
        """Called when a client subscribes; every room is open to all members."""
        if not await self._store.has_room(room):
            raise falcon.HTTPNotFound(description='There is no such room.')


class TypingSignal(msgspec.Struct, forbid_unknown_fields=True):
    """Data that clients publish to ``typing:{room}``: ``{"typing": true}``."""

    typing: bool


class Typing:
    """The channel ``typing:{room}``: published by clients, without history."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limit = RateLimit(per_s=1.0, burst=5)

    async def on_subscribe(
        self, req: falcon.asgi.Request, subscription: Subscription, room: str
    ) -> None:
        """Called when a client subscribes; allowed if the room exists."""
        if not await self._store.has_room(room):
            raise falcon.HTTPNotFound(description='There is no such room.')

    async def on_publish(
        self, req: falcon.asgi.Request, publication: PublicationDraft, room: str
    ) -> None:
        """Called when a client publishes; limits the rate. The server adds the user."""
        self._limit.take(publication.user)


class PersonalChannel:
    """The channel ``users:{user}``: synchronizes all tabs of one person."""

    async def on_subscribe(
        self, req: falcon.asgi.Request, subscription: Subscription, user: str
    ) -> None:
        """Called when a client subscribes; allowed for this person only."""
        if subscription.user != user:
            raise falcon.HTTPForbidden(
                description='This channel belongs to another person.'
            )


class ReadMark(msgspec.Struct, forbid_unknown_fields=True):
    """The id of the last message that a person has read: ``{"message": 17}``."""

    message: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]


@falcon.before(require_member)
class ReadMarks:
    """``/api/rooms/{room}/read``: how far the requesting member has read."""

    def __init__(self, store: Store, channels: Channels) -> None:
        self._store = store
        self._channels = channels
        self._limit = RateLimit(per_s=2.0, burst=30)

    async def on_put(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Store the read mark, and publish it to the other tabs of the member."""
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
