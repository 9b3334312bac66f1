"""The live tail: publications of a channel, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
import time

from falcon.asgi import SSEvent
import msgspec

from falcon_channels.errors import ChannelsError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.inspector.methods import describe_publication
from falcon_channels.local_subscription import LocalSubscription
from falcon_channels.node import Node
from falcon_channels.server_api.tail_places import TailPlaces

#: Largest number of live tails of one process.
MAX_LIVE_TAILS = 20
#: Seconds without a publication after which a comment is sent. If the client has left,
#: the write fails.
_PING_S = 2.0


class LiveTails:
    """The live tails of this process; see `server_api.tail_places`.

    Args:
        node: Node of this process.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._places = TailPlaces(MAX_LIVE_TAILS)

    @property
    def is_full(self) -> bool:
        """Whether this process has `MAX_LIVE_TAILS` live tails."""
        return self._places.is_full

    async def open(
        self, channel: str, expires_at: float
    ) -> AsyncIterator[SSEvent | None]:
        """Take a place, and return the publications of a channel as events.

        The caller has checked `is_full`, and awaited nothing since.

        Args:
            channel: Name of the channel.
            expires_at: Unix time in seconds at which the session and the tail end.
        """
        events = self._follow(channel, expires_at)
        # NOTE: this runs `_follow` up to its first `yield`, which takes the place. If
        #   the client leaves before the response begins, nobody reads the events. The
        #   event loop then closes them, because they have begun, and the place is free.
        await anext(events)
        return events

    async def _follow(
        self, channel: str, expires_at: float
    ) -> AsyncIterator[SSEvent | None]:
        self._places.take()
        try:
            yield None
            async with LocalSubscription(self._node, channel, None) as subscription:
                yield _event('begin', subscription.position._asdict())
                while time.time() < expires_at:
                    try:
                        async with asyncio.timeout(_PING_S):
                            publication = await anext(subscription, None)
                    except TimeoutError:
                        yield None
                        continue
                    if publication is None:
                        break
                    yield _event('publication', describe_publication(publication))
            yield _event('end', {'reason': 'the channel or the session has ended'})
        except UnsubscribedError as ex:
            yield _event('end', {'reason': ex.reason})
        except ChannelsError as ex:
            yield _event('end', {'reason': str(ex)})
        finally:
            self._places.release()


def _event(name: str, media: object) -> SSEvent:
    return SSEvent(data=msgspec.json.encode(media), event=name)
