"""What clients and the log are told in words."""

from __future__ import annotations

from collections.abc import Iterator
import logging
from typing import Any

import falcon
import msgspec
import pytest

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier


class Place(msgspec.Struct):
    lat: float


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'closed':
            raise falcon.HTTPForbidden(description='this room is closed')
        if room == 'away':
            raise falcon.HTTPServiceUnavailable(description='db 10.0.0.7 is down')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        """Subscribers may publish."""


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        if connection.data:
            raise falcon.HTTPUnauthorized(description='log in first')
        connection.user = 'ann'


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
    channels = Channels()
    channels.add_route(
        'rooms:{room}',
        Room(),
        ChannelOptions(data_type=Place, max_publication_bytes=32),
    )
    with serving(channels, Clients()) as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer.to(server) as peer:
        yield peer


def test_a_refusal_has_the_words_of_the_application(peer: Peer) -> None:
    """What an HTTPError describes reaches the client; faults of the server do not."""
    peer.connect()
    closed = peer.ask('subscribe', channel='rooms:closed')['error']
    assert {'code': 103, 'message': 'this room is closed'} == closed
    away = peer.ask('subscribe', channel='rooms:away')['error']
    assert (100, 'internal server error') == (away['code'], away['message'])


def test_a_wrong_payload_is_told_what_is_wrong(peer: Peer) -> None:
    """A field of the wrong type is named, and a payload too large is told the limit."""
    peer.connect()
    peer.ask('subscribe', channel='rooms:a')
    wrong = peer.ask('publish', channel='rooms:a', data={'lat': 'x'})['error']
    assert 107 == wrong['code']
    assert '$.lat' in wrong['message']
    large = peer.ask('publish', channel='rooms:a', data={'lat': 'x' * 50})['error']
    assert 106 == large['code']
    assert 'max_publication_bytes of 32' in large['message']


def test_who_may_not_connect_is_told_why(peer: Peer) -> None:
    """The reason of the close frame is the description of the HTTPError."""
    peer.say({'id': 1, 'connect': {'data': 1}})
    assert (3500, 'log in first') == peer.end()


def test_refusals_can_be_followed_in_the_log(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG the log has who, what and why, in one line whatever the words hold."""
    with caplog.at_level(logging.DEBUG, 'falcon_channels'):
        peer.connect()
        peer.ask('subscribe', channel='rooms:closed')
        peer.ask('subscribe', channel='no:\nline')
    (closed, line) = [
        record.getMessage() for record in caplog.records if 'refused' in record.msg
    ]
    assert "user='ann'" in closed
    assert "subscribe 'rooms:closed' refused with 103: 'this room" in closed
    assert '\n' not in line


def test_a_key_that_is_not_shared_shows(caplog: pytest.LogCaptureFixture) -> None:
    """A token signed with another key is a warning, with neither key nor token."""
    channels = Channels()
    ours = TokenVerifier([TokenKey('a' * 40)])
    token = make_connection_token(TokenKey('b' * 40), 'ann')
    with serving(channels, tokens=ours) as server, Peer.to(server) as peer:
        peer.say({'id': 1, 'connect': {'token': token}})
        assert (3500, 'invalid token') == peer.end()
    (line,) = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == 'WARNING' and record.name == 'falcon_channels'
    ]
    assert 'not signed by any of the keys' in line
    assert token not in caplog.text
    assert 'a' * 40 not in caplog.text
