"""A connection that must not notice the faults of others."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any

from endpoint.peer import Peer
from endpoint.peer import Server


class News:
    async def on_publish(self, req: Any, publication: Any) -> None:
        """Subscribers may publish."""


@contextlib.contextmanager
def standing_by(server: Server) -> Iterator[Peer]:
    """Open a connection that is subscribed to ``news``."""
    with Peer.to(server) as peer:
        peer.answer_pings = True
        peer.connect()
        peer.ask('subscribe', channel='news')
        yield peer


def notices_nothing(bystander: Peer) -> None:
    """Check that a connection received nothing, and still receives publications."""
    assert [] == bystander.pushes
    assert {'publish': {}} == bystander.ask('publish', channel='news', data=1)
    push = bystander.push()
    assert ('news', 1) == (push['channel'], push['pub']['data'])
    assert [] == bystander.pushes
