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

#: Largest number of live tails of one process.
MAX_TAILS = 20
#: Seconds without a publication after which a comment is sent. If the client has left,
#: the write fails.
_PING_S = 2.0


class Tails:
    """The live tails of this process.

    Args:
        node: Node of this process.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._num_open = 0

    @property
    def full(self) -> bool:
        """Whether the process has the largest number of tails."""
        return self._num_open >= MAX_TAILS

    async def follow(
        self, channel: str, expires_at: float
    ) -> AsyncIterator[SSEvent | None]:
        """Yield the publications of a channel as events.

        Args:
            channel: Name of the channel.
            expires_at: Unix time in seconds at which the session and the tail end.
        """
        self._num_open += 1
        try:
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
            self._num_open -= 1


def _event(name: str, media: object) -> SSEvent:
    return SSEvent(data=msgspec.json.encode(media), event=name)
