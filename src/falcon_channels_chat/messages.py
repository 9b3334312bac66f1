"""Messages: send, read older ones, edit, delete."""

from __future__ import annotations

import secrets
from typing import Annotated

import falcon
import falcon.asgi
import msgspec

from falcon_channels import Channels
from falcon_channels_chat.bodies import read_json
from falcon_channels_chat.limits import RateLimit
from falcon_channels_chat.rooms import channel_of
from falcon_channels_chat.rooms import NEWS
from falcon_channels_chat.rooms import PAGE_LIMIT
from falcon_channels_chat.sessions import need_member
from falcon_channels_chat.store import MAX_ID
from falcon_channels_chat.store import Message
from falcon_channels_chat.store import Store
from falcon_channels_chat.words import message_text

Key = Annotated[str, msgspec.Meta(pattern='^[A-Za-z0-9_-]{1,64}$')]


class NewMessage(msgspec.Struct, forbid_unknown_fields=True):
    """What makes a message: ``{"text": "Hello"}``.

    Attributes:
        text: May be empty beside an image.
        key: The sender's own id for it, so that it can be sent again safely.
        image: Id of an image that the sender uploaded.
    """

    text: str = ''
    key: Key | None = None
    image: str | None = None


class Edit(msgspec.Struct, forbid_unknown_fields=True):
    """A new text for a message."""

    text: str


async def announce(channels: Channels, message: Message) -> None:
    """Tell the room what a message is now; the same version is told once."""
    await channels.publish(
        channel_of(message.room),
        message,
        idempotency_key=f'{message.id}:{message.version}',
    )


@falcon.before(need_member)
class Messages:
    """``/api/rooms/{room}/messages``."""

    def __init__(self, store: Store, channels: Channels, limit: RateLimit) -> None:
        self._store = store
        self._channels = channels
        self._limit = limit

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Return a page of messages older than ``?before=ID``, oldest first."""
        before = req.get_param_as_int('before', min_value=1, max_value=MAX_ID)
        messages = await self._store.messages(room, PAGE_LIMIT, before)
        resp.media = {
            'messages': msgspec.to_builtins(messages),
            'more': len(messages) == PAGE_LIMIT,
        }

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Send a message: 201 with it, or 200 if its key was used before."""
        new = await read_json(req, NewMessage)
        text = message_text(new.text)
        if not text and new.image is None:
            raise falcon.HTTPUnprocessableEntity(
                description='A message says something.'
            )
        member = req.context.member
        self._limit.take(member.id)
        if not await self._store.has_room(room):
            raise falcon.HTTPNotFound(description='There is no such room.')
        message, is_new = await self._store.add_message(
            room=room,
            key=new.key or secrets.token_urlsafe(16),
            user=member.id,
            name=member.name,
            text=text,
            image=new.image,
        )
        if message is None:
            raise falcon.HTTPUnprocessableEntity(description='There is no such image.')
        # NOTE: also when the key was used before: the first attempt may have ended
        #   between the store and the channel.
        await announce(self._channels, message)
        await self._channels.publish(
            NEWS,
            {'room': message.room, 'message': message.id, 'user': message.user},
            idempotency_key=str(message.id),
        )
        resp.status = falcon.HTTP_201 if is_new else falcon.HTTP_200
        resp.media = msgspec.to_builtins(message)


@falcon.before(need_member)
class OneMessage:
    """``/api/rooms/{room}/messages/{message_id}``."""

    def __init__(self, store: Store, channels: Channels, limit: RateLimit) -> None:
        self._store = store
        self._channels = channels
        self._limit = limit

    async def on_patch(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        room: str,
        message_id: int,
    ) -> None:
        """Edit an own message."""
        message = await self._own(req, room, message_id)
        text = message_text((await read_json(req, Edit)).text)
        if not text and message.image is None:
            raise falcon.HTTPUnprocessableEntity(
                description='A message says something.'
            )
        await self._store.edit_message(message_id, text)
        await self._announce(resp, room, message_id)

    async def on_delete(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        room: str,
        message_id: int,
    ) -> None:
        """Delete an own message."""
        await self._own(req, room, message_id)
        await self._store.delete_message(message_id)
        await self._announce(resp, room, message_id)

    async def _own(
        self, req: falcon.asgi.Request, room: str, message_id: int
    ) -> Message:
        self._limit.take(req.context.member.id)
        message = await self._store.message(room, message_id)
        if message is None:
            raise falcon.HTTPNotFound(description='There is no such message.')
        if message.user != req.context.member.id:
            raise falcon.HTTPForbidden(description='That is the message of another.')
        return message

    async def _announce(
        self, resp: falcon.asgi.Response, room: str, message_id: int
    ) -> None:
        message = await self._store.message(room, message_id)
        if message is not None:
            await announce(self._channels, message)
            resp.media = msgspec.to_builtins(message)
