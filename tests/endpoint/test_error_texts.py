"""Texts of errors: for clients and in the log."""

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


def test_http_error_description_reaches_the_client_unless_server_error(
    peer: Peer,
) -> None:
    """The description of a client error is sent. The one of a server error is not."""
    peer.connect()
    closed = peer.ask('subscribe', channel='rooms:closed')['error']
    assert {'code': 103, 'message': 'this room is closed'} == closed
    away = peer.ask('subscribe', channel='rooms:away')['error']
    assert (100, 'internal server error') == (away['code'], away['message'])


def test_invalid_payload_error_names_the_field_or_limit(peer: Peer) -> None:
    """The error names the field of the wrong type, or the limit of the size."""
    peer.connect()
    peer.ask('subscribe', channel='rooms:a')
    wrong = peer.ask('publish', channel='rooms:a', data={'lat': 'x'})['error']
    assert 107 == wrong['code']
    assert '$.lat' in wrong['message']
    large = peer.ask('publish', channel='rooms:a', data={'lat': 'x' * 50})['error']
    assert 106 == large['code']
    assert 'max_publication_bytes of 32' in large['message']


def test_refused_connect_sends_the_description_as_close_reason(peer: Peer) -> None:
    """The reason of the close frame is the description of the HTTPError."""
    peer.say({'id': 1, 'connect': {'data': 1}})
    assert (3500, 'log in first') == peer.end()


def test_refusal_is_logged_in_one_line_at_debug(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG the log has user, command and reason in one line."""
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


def test_token_of_unknown_key_logs_a_warning_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
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
