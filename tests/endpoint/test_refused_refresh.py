"""A refresh that is refused changes nothing for the connection."""

from __future__ import annotations

import asyncio
from typing import Any

import falcon
import pytest

from endpoint.peer import Peer
from endpoint.peer import serving
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

KEY = TokenKey('k' * 32)
EXPIRED = 3005


class Clients:
    """Refuses every refresh after it has changed the connection."""

    def __init__(self, error: BaseException) -> None:
        self.channels = Channels()
        self.error = error
        self.commanded = False

    async def on_refresh(self, req: Any, connection: Any) -> None:
        connection.user = 'eve'
        connection.expires_at += 3600
        if self.commanded:
            connection.user = 'ann'
            await self.channels.refresh_user('ann', info={'role': 'guest'})
        raise self.error


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        (falcon.HTTPForbidden(), 103),
        (ValueError('a bug'), 100),
        (asyncio.CancelledError(), 100),
    ],
)
def test_refused_refresh_changes_neither_rights_nor_expiry(
    error: BaseException, code: int
) -> None:
    """The rights of the new token, and of ``on_refresh``, need its consent."""
    clients = Clients(error)
    options = EndpointOptions(expiry_grace_s=0.5, ping_interval_s=None)
    verifier = TokenVerifier(KEY)
    with (
        serving(clients.channels, clients, tokens=verifier, options=options) as server,
        Peer.to(server) as peer,
    ):
        token = make_connection_token(KEY, 'ann', ttl_s=3, info={'role': 'member'})
        peer.connect(token=token)
        [connection] = clients.channels.node.hub.connections
        before = connection.rights
        other = make_connection_token(KEY, 'ann', ttl_s=3600, info={'role': 'admin'})
        assert code == peer.error('refresh', token=other)
        assert before == connection.rights
        assert {'role': 'member'} == connection.info
        assert [connection] == clients.channels.node.hub.connections.of_user('ann')
        assert EXPIRED == peer.end()[0]


def test_refused_refresh_with_a_command_meanwhile_ends_the_connection() -> None:
    """If a command changed the rights during a refused refresh, the client returns."""
    clients = Clients(falcon.HTTPForbidden())
    clients.commanded = True
    with (
        serving(clients.channels, clients, tokens=TokenVerifier(KEY)) as server,
        Peer.to(server) as peer,
    ):
        peer.connect(token=make_connection_token(KEY, 'ann', ttl_s=600))
        peer.say(
            {'id': 9, 'refresh': {'token': make_connection_token(KEY, 'ann')}},
        )
        assert EXPIRED == peer.end()[0]
