"""The connection of a client that only listens over HTTP.

It is subscribed to all channels before its response begins. Output that arrives
meanwhile is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
from functools import partial
import logging
from typing import Any

import falcon
import falcon.asgi

from falcon_channels.access.handshake import HandshakeTiming
from falcon_channels.access.refusal_log import log_refusal
from falcon_channels.access.responders import is_cancelled
from falcon_channels.access.responders import note_failure
from falcon_channels.access.responders import text_for_client
from falcon_channels.access.subscribing import SubscribeOptions
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Joined
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.hub import Hub
from falcon_channels.node import Node
from falcon_channels.plain.event_request import EventRequest
from falcon_channels.protocol import event_codec
from falcon_channels.protocol.codes import DISCONNECT_FORCE
from falcon_channels.protocol.codes import DISCONNECT_INSUFFICIENT
from falcon_channels.protocol.codes import FIRST_RESUBSCRIBE_CODE
from falcon_channels.protocol.codes import reconnects
from falcon_channels.protocol.event_codec import Part
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import Newest
from falcon_channels.publication import Position
from falcon_channels.transports.base import Transport
from falcon_channels.transports.encoders import Encoder


class _Parts:
    """Framing of events without ids: lists of parts."""

    def frame(self, payloads: Sequence[Part], *, binary: bool) -> list[Part]:
        """Return a list of the parts."""
        return list(payloads)

    def join(self, blobs: Sequence[list[Part]]) -> list[Part]:
        """Return all parts of `blobs` in one list."""
        return [part for blob in blobs for part in blob]


#: Framing of output that the connection itself makes into events or an answer.
PARTS = _Parts()


class HttpConnection(Connection):
    """A client that only listens, and holds its output until it has joined.

    Args:
        node: Node of this process.
        transport: Carries bytes to the client.
        encoder: Encodes publications.
        req: The request, of an ASGI or a WSGI app.
        user: Id of the user; ``None`` for an anonymous one.
        info: Public information about the connection, any JSON value.

    Attributes:
        ended_with: Code and reason with which the server ended it, or ``None``.
        lost: Channels whose publications since the client's position are lost.
        positions: Position before the held output, by channel.
        ended: The end of each channel that has ended, and its position, by channel.
        held: Blobs that wait.
    """

    __slots__ = (
        'ended',
        'ended_with',
        'held',
        'held_bytes',
        'lost',
        'node',
        'positions',
    )

    hub: Hub

    def __init__(
        self,
        node: Node,
        transport: Transport,
        encoder: Encoder,
        req: Any,
        *,
        user: str | None,
        info: Any,
    ) -> None:
        super().__init__(node.hub, transport, encoder, req, user=user, info=info)
        self.node = node
        self.ended_with: tuple[int, str] | None = None
        self.lost: list[str] = []
        self.positions: dict[str, Position] = {}
        self.ended: dict[str, tuple[ChannelEnd, Position]] = {}
        self.held: list[Any] = []
        self.held_bytes = 0
        self.write = self.hold

    @property
    def backlog_bytes(self) -> int:
        """Bytes for the client that are still buffered in this process."""
        return self.transport.backlog_bytes + self.held_bytes

    def hold(self, blob: bytes | list[Part]) -> int:
        """Hold output; return its size in bytes."""
        self.held.append(blob)
        if isinstance(blob, bytes):
            self.held_bytes += len(blob)
        else:
            self.held_bytes += sum(len(part.content) for part in blob)
        return self.held_bytes

    async def subscribe(
        self, wanted: EventRequest, timing: HandshakeTiming, *, presence: bool
    ) -> None:
        """Subscribe the client to its channels.

        Args:
            wanted: The parsed request.
            timing: Timing of the handshake.
            presence: Whether the client is entered into presence.

        Raises:
            falcon.HTTPError: The client was refused.
        """
        with self._ending_after_errors():
            self.node.handshake.add(self, timing)
        for channel in wanted.channels:
            with self._ending_after_errors(channel):
                since = self._since(channel, wanted)
                await self.node.subscriber.subscribe(
                    self,
                    channel,
                    partial(self._on_joined, wanted, since),
                    SubscribeOptions(since=since, approved=True, presence=presence),
                )
        with self._ending_after_errors():
            if self.closed:
                raise UnsubscribedError(0, 'the connection has ended')
        self.flush()

    def _since(self, channel: str, wanted: EventRequest) -> Position | Newest | None:
        position = wanted.positions.get(channel)
        if position is not None:
            return position
        history = wanted.options.history
        return None if history == 0 or wanted.forgotten else Newest(history)

    def _on_joined(
        self,
        wanted: EventRequest,
        since: Position | Newest | None,
        subscription: Subscription,
        joined: Joined,
    ) -> None:
        channel, publications = subscription.channel, joined.publications
        epoch = joined.position.epoch
        is_lost = wanted.forgotten and bool(epoch)
        if isinstance(since, Position):
            is_latest = subscription.route.options.recovery_mode == 'latest'
            is_lost = not joined.recovered and not is_latest
        if is_lost:
            self.lost.append(channel)
        self.positions[channel] = joined.position
        if publications:
            self.positions[channel] = Position(publications[0].offset - 1, epoch)
            blob = self.hub.shared_encodings.encode(
                self.encoder, channel, publications, epoch
            )
            if blob is not None:
                self.send_blob(blob)

    @contextlib.contextmanager
    def _ending_after_errors(self, channel: str = '') -> Iterator[None]:
        """End the connection after an error; raise it as an `HTTPError`."""
        try:
            with self._errors_for_http(channel):
                yield
        except (ChannelNameError, UnknownChannelError) as ex:
            # NOTE: this can be a mistake of the application.
            log_refusal(self, 'subscribe', channel, 404, str(ex), level=logging.WARNING)
            self._end()
            raise falcon.HTTPNotFound(description=str(ex)) from None
        except falcon.HTTPError as ex:
            log_refusal(self, 'subscribe', channel, ex.status_code, text_for_client(ex))
            self._end()
            raise
        except asyncio.CancelledError as ex:
            self._end()
            if is_cancelled():
                raise
            note_failure(self, 'subscribe', ex)
            raise RuntimeError('a responder awaited a task that was cancelled') from ex
        except BaseException as ex:
            note_failure(self, 'subscribe', ex)
            self._end()
            raise

    @contextlib.contextmanager
    def _errors_for_http(self, channel: str) -> Iterator[None]:
        try:
            yield
        except UnsubscribedError as ex:
            raise self.refusal(ex.code >= FIRST_RESUBSCRIBE_CODE, ex.reason) from None
        except (BrokerUnavailableError, ClosedError) as ex:
            raise falcon.HTTPServiceUnavailable(description=str(ex)) from None
        except PayloadError:
            raise falcon.HTTPNotAcceptable(
                description=f'{channel} has a binary publication, which cannot be sent '
                'as text'
            ) from None

    def refusal(self, may_return: bool, reason: str) -> falcon.HTTPError:
        """Return the error for a client whose connection has ended.

        Args:
            may_return: Whether the client may return, if the application has not
                disconnected it.
            reason: Why it has ended, in the same case.
        """
        if self.ended_with is not None:
            code, reason = self.ended_with
            may_return = reconnects(code)
        if may_return:
            return falcon.HTTPServiceUnavailable(description=reason)
        return falcon.HTTPForbidden(description=reason)

    def _end(self) -> None:
        self.transport.abort()
        self.hub.remove(self)

    # --- what the transport and the hub report ---------------------------------------

    def on_message(self, message: str | bytes) -> None:
        """Ignore the message: such a client sends none."""

    def on_finished(
        self, subscription: Subscription, end: ChannelEnd, position: Position
    ) -> None:
        """Called when a channel has ended; the other channels continue."""
        self.ended[subscription.channel] = (end, position)

    def known_ends(self, wanted: EventRequest) -> frozenset[str]:
        """Return the channels whose ends the client has received, by its event id."""
        return frozenset(
            channel
            for channel, (_, position) in self.ended.items()
            if channel in wanted.ends and wanted.positions.get(channel) == position
        )

    def knows_ends(self, wanted: EventRequest) -> bool:
        """Return whether the client sent the end position of each ended channel."""
        return all(
            wanted.positions.get(channel) == position
            for channel, (_, position) in self.ended.items()
        )

    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Called when the server has ended a subscription: end the connection.

        An ``EventSource`` connects again, and the application decides again.
        """
        may_return = code >= FIRST_RESUBSCRIBE_CODE
        end = DISCONNECT_INSUFFICIENT if may_return else DISCONNECT_FORCE
        self.disconnect(end.code, reason)

    def disconnect(self, code: int, reason: str) -> None:
        """Write all queued blobs, then end."""
        if self.ended_with is None:
            self.ended_with = (code, reason)
        super().disconnect(code, reason)


def encode_event_id(
    positions: Mapping[str, Position], ended: Collection[str] = ()
) -> str:
    """Return the event id of positions, or ``''`` if no channel has a log.

    Args:
        positions: The positions by channel.
        ended: Channels whose end the client knows, if there are several channels.
    """
    if len(positions) > 1:
        return event_codec.encode_positions(positions, ended)
    [position] = positions.values()
    return event_codec.encode_position(position) if position.epoch else ''
