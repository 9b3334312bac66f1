"""Long polling: answer with what is new in channels, or wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any

import falcon
import falcon.asgi
import msgspec

from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.hub.connection import ClientKind
from falcon_channels.hub.connection import Subscription
from falcon_channels.node import Node
from falcon_channels.plain.event_request import EventRequest
from falcon_channels.plain.http_connection import encode_event_id
from falcon_channels.plain.http_connection import HttpConnection
from falcon_channels.plain.http_connection import PARTS
from falcon_channels.protocol import event_codec
from falcon_channels.protocol.codes import reconnects
from falcon_channels.protocol.event_codec import end_media
from falcon_channels.protocol.event_codec import Part
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import Position
from falcon_channels.transports.encoders import Encoder
from falcon_channels.transports.http_stream import set_stream_headers

_POLLS = Encoder(event_codec.PartsCodec(event_codec.encode_media), PARTS)


class _NoTransport:
    """The transport of a poll: its answer is made of held output."""

    descriptor = -1
    backlog_bytes = 0
    framing = PARTS

    def write(self, blob: Any) -> int:
        """Ignore output; return a backlog of 0."""
        return 0

    def close(self, code: int, reason: str) -> None:
        """Ignore the end: the poll is woken by `on_end`."""

    def abort(self) -> None:
        """Ignore the end: the poll is woken by `on_end`."""

    def pause_reading(self) -> None:
        """Ignore the call: a poll reads nothing."""

    def resume_reading(self) -> None:
        """Ignore the call: a poll reads nothing."""


class Poll(HttpConnection):
    """A client that waits for the next publications of its channels."""

    __slots__ = ('_wake',)

    def __init__(self, node: Node, req: Any, *, user: str | None, info: Any) -> None:
        super().__init__(node, _NoTransport(), _POLLS, req, user=user, info=info)
        self._wake = asyncio.Event()

    @property
    def kind(self) -> ClientKind:
        """How the client is connected."""
        return ClientKind('poll', 'json')

    def hold(self, blob: bytes | list[Part]) -> int:
        """Hold output, and end the wait."""
        self._wake.set()
        return super().hold(blob)

    def on_end(self) -> None:
        """Called when the connection has ended: end the wait."""
        self._wake.set()

    def on_finished(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        """Called when a channel has ended: end the wait."""
        super().on_finished(subscription, end, position)
        self._wake.set()

    async def answer(
        self,
        wanted: EventRequest,
        timing: HandshakeTiming,
        receive: Callable[[], Awaitable[Any]] | None,
    ) -> bytes:
        """Subscribe the client, and return what is new as JSON.

        Args:
            wanted: The parsed request.
            timing: Timing of the handshake.
            receive: ASGI's ``receive``, which reports that the client has left, or
                ``None``.

        Raises:
            falcon.HTTPError: The client was refused.
        """
        # NOTE: a poll is short. In presence, the client would leave and join again and
        #   again.
        await self.subscribe(wanted, timing, presence=False)
        left = False
        if self._must_wait(wanted):
            # NOTE: the event is set if a channel has ended, but the client knows that.
            self._wake.clear()
            left = await self._wait(wanted.options.poll_wait_s, receive)
        if not self.held and self.ended_with and not reconnects(self.ended_with[0]):
            raise self.refusal(False, '')
        parts = [part for blob in self.held for part in blob]
        for part in parts:
            if part.position.offset:
                self.positions[part.channel] = part.position
        for channel, (_, position) in self.ended.items():
            self.positions[channel] = position
        ended = [end_media(channel, end) for channel, (end, _) in self.ended.items()]
        if not left:
            # NOTE: the answer has the held output, which is not in the backlog any more
            #   when the connection ends.
            self.held_bytes = 0
        return b'{"publications":[%s],"since":%s,"lost":%s,"ended":[%s]}' % (
            b','.join([part.content for part in parts]),
            msgspec.json.encode(encode_event_id(self.positions)),
            msgspec.json.encode(self.lost),
            b','.join(ended),
        )

    def _must_wait(self, wanted: EventRequest) -> bool:
        """Return whether the client already has everything, so that the poll must wait.

        The client knows the end of a channel if its position is the end. If all
        channels have ended, nothing more can arrive, and the poll does not wait.
        """
        if not wanted.returns or self.held or self.lost:
            return False
        if len(self.ended) == len(wanted.channels):
            return False
        return self.knows_ends(wanted)

    async def _wait(
        self, wait_s: float, receive: Callable[[], Awaitable[Any]] | None
    ) -> bool:
        """Wait for output, for the end, for the client to leave, or for a deadline.

        Returns:
            Whether the client has left.
        """
        waits: list[Coroutine[Any, Any, object]] = [self._wake.wait()]
        if receive is not None:
            waits.append(_wait_for_disconnect(receive))
        tasks = [
            asyncio.create_task(wait, name='falcon_channels poll') for wait in waits
        ]
        try:
            await asyncio.wait(
                tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
        return any(task.done() for task in tasks[1:])


async def _wait_for_disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())['type'] != 'http.disconnect':
        pass


async def poll(
    connection: Poll,
    wanted: EventRequest,
    timing: HandshakeTiming,
    receive: Callable[[], Awaitable[Any]] | None = None,
) -> bytes:
    """Return what is new in channels as JSON, or wait for it.

    Raises:
        falcon.HTTPError: The client was refused.
    """
    try:
        return await connection.answer(wanted, timing, receive)
    finally:
        connection.hub.remove(connection)


def answer_poll(resp: falcon.Response, body: bytes) -> None:
    """Answer a poll."""
    set_stream_headers(resp, falcon.MEDIA_JSON)
    resp.data = body
