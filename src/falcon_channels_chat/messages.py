"""Messages of a room: send, read older messages, edit, delete."""

from __future__ import annotations

import secrets
from typing import Annotated

import falcon
import falcon.asgi
import msgspec

from falcon_channels import Channels
from falcon_channels_chat.rate_limit import RequestLimit
from falcon_channels_chat.request_body import read_json
from falcon_channels_chat.rooms import channel_of
from falcon_channels_chat.rooms import NEWS
from falcon_channels_chat.rooms import PAGE_LIMIT
from falcon_channels_chat.sessions import require_member
from falcon_channels_chat.store import MAX_ID
from falcon_channels_chat.store import Message
from falcon_channels_chat.store import Store
from falcon_channels_chat.validation import valid_message_text

Key = Annotated[str, msgspec.Meta(pattern='^[A-Za-z0-9_-]{1,64}$')]


class NewMessage(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a new message: ``{"text": "Hello"}``.

    Attributes:
        text: Text of the message. It may be empty if there is an image.
        key: Id chosen by the sender. A second request with the same key does not
            add another message, so that a client can safely retry.
        image: Id of an image that the sender has uploaded.
    """

    text: str = ''
    key: Key | None = None
    image: str | None = None


class Edit(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an edit: ``{"text": "Hello"}``."""

    text: str


async def publish_message(channels: Channels, message: Message) -> None:
    """Publish the current state of a message to its room.

    The id and the version are the idempotency key: each version is published once.
    """
    await channels.publish(
        channel_of(message.room),
        message,
        idempotency_key=f'{message.id}:{message.version}',
    )


@falcon.before(require_member)
class Messages:
    """``/api/rooms/{room}/messages``: the messages of a room."""

    def __init__(self, store: Store, channels: Channels, limit: RequestLimit) -> None:
        self._store = store
        self._channels = channels
        self._limit = limit

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Return a page of messages, oldest first.

        With ``?before=ID`` all of them are older than that message.
        """
        before = req.get_param_as_int('before', min_value=1, max_value=MAX_ID)
        messages = await self._store.messages(room, PAGE_LIMIT, before)
        resp.media = {
            'messages': msgspec.to_builtins(messages),
            'more': len(messages) == PAGE_LIMIT,
        }

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str
    ) -> None:
        """Send a message.

        The answer is the message: 201 for a new one, 200 if its key was used before.
        """
        new = await read_json(req, NewMessage)
        text = valid_message_text(new.text)
        if not text and new.image is None:
            raise falcon.HTTPUnprocessableEntity(
                description='A message needs a text or an image.'
            )
        member = req.context.member
        self._limit.take(req)
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
            raise falcon.HTTPUnprocessableEntity(
                description='You have no unused image with this id. Upload it again.'
            )
        # NOTE: the message is published even if its key was used before, because the
        #   first attempt may have failed after it was stored and before it was
        #   published. The idempotency key prevents a second publication.
        await publish_message(self._channels, message)
        await self._channels.publish(
            NEWS,
            {'room': message.room, 'message': message.id, 'user': message.user},
            idempotency_key=str(message.id),
        )
        resp.status = falcon.HTTP_201 if is_new else falcon.HTTP_200
        resp.media = msgspec.to_builtins(message)


@falcon.before(require_member)
class OneMessage:
    """``/api/rooms/{room}/messages/{message_id}``: one message."""

    def __init__(self, store: Store, channels: Channels, limit: RequestLimit) -> None:
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
        """Change the text of a message of the requesting member."""
        message = await self._own_message(req, room, message_id)
        text = valid_message_text((await read_json(req, Edit)).text)
        if not text and message.image is None:
            raise falcon.HTTPUnprocessableEntity(
                description='A message needs a text or an image.'
            )
        await self._store.edit_message(message_id, text)
        await self._publish_and_return(resp, room, message_id)

    async def on_delete(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        room: str,
        message_id: int,
    ) -> None:
        """Delete a message of the requesting member."""
        await self._own_message(req, room, message_id)
        await self._store.delete_message(message_id)
        await self._publish_and_return(resp, room, message_id)

    async def _own_message(
        self, req: falcon.asgi.Request, room: str, message_id: int
    ) -> Message:
        """Return a message; refuse if another member sent it."""
        self._limit.take(req)
        message = await self._store.message(room, message_id)
        if message is None:
            raise falcon.HTTPNotFound(description='There is no such message.')
        if message.user != req.context.member.id:
            raise falcon.HTTPForbidden(
                description='Only the sender can change or delete a message.'
            )
        return message

    async def _publish_and_return(
        self, resp: falcon.asgi.Response, room: str, message_id: int
    ) -> None:
        message = await self._store.message(room, message_id)
        if message is not None:
            await publish_message(self._channels, message)
            resp.media = msgspec.to_builtins(message)
