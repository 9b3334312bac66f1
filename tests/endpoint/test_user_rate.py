"""Rate of commands of one user over all connections."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any

import pytest
from support.asgi_servers import AsgiServer

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import OptionsError

pytestmark = pytest.mark.every_server

BURST = 30


class Clients:
    """Trusts the user id that a client sends."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = connection.data


@pytest.fixture
def world(asgi_server: AsgiServer) -> Iterator[tuple[Server, Channels]]:
    channels = Channels()
    options = EndpointOptions(user_commands_per_s=0.001, user_commands_burst=BURST)
    with serving(
        channels, Clients(), asgi_server=asgi_server, options=options
    ) as server:
        yield server, channels


def enter(stack: contextlib.ExitStack, server: Server, user: str) -> Peer:
    peer = stack.enter_context(Peer.to(server))
    peer.connect(data=user)
    return peer


def test_user_rate_is_shared_by_all_connections_of_the_user(
    world: tuple[Server, Channels],
) -> None:
    """Connections of one user share a burst. Other users are not affected."""
    server, channels = world
    with contextlib.ExitStack() as stack:
        tabs = [enter(stack, server, 'ann') for _ in range(5)]
        other = enter(stack, server, 'bob')
        for number in range(BURST):
            assert {'ping': {}} == tabs[number % 5].ask('ping')
        assert [111] * 5 == [tab.error('ping') for tab in tabs]
        assert 5 == channels.node.hub.counters.too_fast
        assert {'ping': {}} == other.ask('ping')
        # NOTE: a new connection does not fill the bucket.
        assert 111 == enter(stack, server, 'ann').error('ping')
        tabs[0].say(*({'id': number, 'ping': {}} for number in range(100, 130)))
        assert (3013, 'too many requests') == tabs[0].end()
        assert 111 == tabs[1].error('ping')
        assert {'ping': {}} == other.ask('ping')


def test_anonymous_connections_share_no_user_rate(
    world: tuple[Server, Channels],
) -> None:
    """Each connection without a user has its own rate only."""
    server, channels = world
    with contextlib.ExitStack() as stack:
        peers = [enter(stack, server, '') for _ in range(3)]
        for peer in peers:
            for _ in range(BURST):
                assert {'ping': {}} == peer.ask('ping')
        assert 0 == channels.node.hub.counters.too_fast


def test_without_user_rate_each_connection_has_its_own() -> None:
    """Without a rate per user, each connection is limited separately."""
    options = EndpointOptions(
        commands_per_s=0.001, commands_burst=BURST, user_commands_per_s=None
    )
    with serving(Channels(), Clients(), options=options) as server:
        with contextlib.ExitStack() as stack:
            for tab in [enter(stack, server, 'ann') for _ in range(3)]:
                for _ in range(BURST - 1):
                    assert {'ping': {}} == tab.ask('ping')
                assert 111 == tab.error('ping')


def test_zero_rate_or_burst_is_refused() -> None:
    """A rate or a burst of zero is refused when the options are built."""
    for options in ({'user_commands_per_s': 0}, {'user_commands_burst': 0}):
        with pytest.raises(OptionsError, match=next(iter(options))):
            EndpointOptions(**options)
