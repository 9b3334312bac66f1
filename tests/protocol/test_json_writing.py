"""The JSON codec: the bytes that it writes, as documented."""

from __future__ import annotations

import json
from typing import Any

import pytest

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import codes
from falcon_channels.protocol import json_codec
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import DisconnectPush
from falcon_channels.protocol.messages import HistoryResult
from falcon_channels.protocol.messages import JoinPush
from falcon_channels.protocol.messages import LeavePush
from falcon_channels.protocol.messages import MessagePush
from falcon_channels.protocol.messages import PingResult
from falcon_channels.protocol.messages import PresenceResult
from falcon_channels.protocol.messages import PresenceStatsResult
from falcon_channels.protocol.messages import PublishResult
from falcon_channels.protocol.messages import RefreshPush
from falcon_channels.protocol.messages import RefreshResult
from falcon_channels.protocol.messages import RpcResult
from falcon_channels.protocol.messages import SubRefreshResult
from falcon_channels.protocol.messages import SubscribePush
from falcon_channels.protocol.messages import SubscribeResult
from falcon_channels.protocol.messages import UnsubscribePush
from falcon_channels.protocol.messages import UnsubscribeResult
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication

INFO = ClientInfo(user='u', client='c', conn_info=b'{"n":1}', chan_info=b'[2]')
INFO_JSON = b'{"user":"u","client":"c","conn_info":{"n":1},"chan_info":[2]}'
PUB = Publication(
    data=b'{"a":\n1}', offset=7, time_ms=1700000000000, tags={'k': 'v'}, info=INFO
)
PUB_JSON = (
    b'{"data":{"a":1},"info":%s,"offset":7,"tags":{"k":"v"},"time":1700000000000}'
    % INFO_JSON
)

WRITTEN = [
    (
        ConnectResult(
            client='c',
            version='1',
            expires=True,
            ttl=60,
            data=b'{}',
            subs={'#u': SubscribeResult(recoverable=True, epoch='e', offset=1)},
            ping=25,
            pong=True,
            session='s',
            node='n',
            time=5,
        ),
        (b'"connect":{"client":"c","version":"1","expires":true,"ttl":60,"data":{},'
        b'"subs":{"#u":{"recoverable":true,"epoch":"e","offset":1}},"ping":25,'
        b'"pong":true,"session":"s","node":"n","time":5}'),
    ),
    (ConnectResult(client='c', version='1'), b'"connect":{"client":"c","version":"1"}'),
    (SubscribeResult(), b'"subscribe":{}'),
    (
        SubscribeResult(
            recoverable=True,
            epoch='e',
            offset=6,
            publications=[PUB],
            recovered=True,
            was_recovering=True,
            positioned=True,
        ),
        b'"subscribe":{"recoverable":true,"epoch":"e","offset":6,"publications":['
        + PUB_JSON
        + b'],"recovered":true,"was_recovering":true,"positioned":true}',
    ),
    (UnsubscribeResult(), b'"unsubscribe":{}'),
    (PublishResult(), b'"publish":{}'),
    (PresenceResult({'c': INFO}), b'"presence":{"presence":{"c":%s}}' % INFO_JSON),
    (PresenceResult(), b'"presence":{"presence":{}}'),
    (PresenceStatsResult(2, 1), b'"presence_stats":{"num_clients":2,"num_users":1}'),
    (PresenceStatsResult(), b'"presence_stats":{"num_clients":0,"num_users":0}'),
    (
        HistoryResult([PUB], 'e', 7),
        b'"history":{"publications":[%s],"epoch":"e","offset":7}' % PUB_JSON,
    ),
    (HistoryResult(), b'"history":{"publications":[],"epoch":"","offset":0}'),
    (PingResult(), b'"ping":{}'),
    (RpcResult(b'{"x":"\\n"}'), b'"rpc":{"data":{"x":"\\n"}}'),
    (RpcResult(), b'"rpc":{}'),
    (RefreshResult('c', '1', True, 9), (b'"refresh":{"client":"c","version":"1",'
     b'"expires":true,"ttl":9}')),
    (SubRefreshResult(True, 9), b'"sub_refresh":{"expires":true,"ttl":9}'),
]  # fmt: skip


@pytest.mark.parametrize(('result', 'body'), WRITTEN)
def test_json_result_has_the_expected_bytes(result: Any, body: bytes) -> None:
    """Each result has the documented shape and is there even when it is empty."""
    assert b'{"id":2,%s}' % body == json_codec.encode_reply(2, result)
    json.loads(json_codec.encode_reply(2, result))


PUSHES = [
    ('a', JoinPush(INFO), b'"join":{"info":%s}' % INFO_JSON),
    (
        'a',
        LeavePush(ClientInfo(user='', client='c')),
        b'"leave":{"info":{"user":"","client":"c"}}',
    ),
    ('a', UnsubscribePush(2500, 'x'), b'"unsubscribe":{"code":2500,"reason":"x"}'),
    (
        'a',
        SubscribePush(True, 'e', 3, True, b'1'),
        (
            b'"subscribe":{"recoverable":true,"epoch":"e","offset":3,"positioned":true,'
            b'"data":1}'
        ),
    ),
    ('', MessagePush(b'"hi"'), b'"message":{"data":"hi"}'),
    (
        '',
        DisconnectPush(3001, 'shutdown', True),
        b'"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}',
    ),
    ('', ConnectResult(client='c'), b'"connect":{"client":"c"}'),
    ('', RefreshPush(True, 5), b'"refresh":{"expires":true,"ttl":5}'),
]


@pytest.mark.parametrize(('channel', 'push', 'body'), PUSHES)
def test_json_push_has_the_expected_bytes(channel: str, push: Any, body: bytes) -> None:
    """Each push names its channel if it has one; bare pushes have no wrapper."""
    bare = b'{%s%s}' % (b'"channel":"a",' if channel else b'', body)
    assert bare == json_codec.encode_unidirectional_push(channel, push)
    assert b'{"push":%s}' % bare == json_codec.encode_push(channel, push)


def test_json_publication_has_the_expected_bytes() -> None:
    """A publication is one push, its payload spliced in one line."""
    bare = b'{"channel":"a","pub":%s}' % PUB_JSON
    assert b'{"push":%s}' % bare == json_codec.encode_publication('a', PUB)
    assert bare == json_codec.encode_unidirectional_publication('a', PUB)
    assert b'{"channel":"\xc3\xa9\\"","pub":{"data":1}}' == (
        json_codec.encode_unidirectional_publication('é"', Publication(data=b'1'))
    )


def test_binary_payload_is_refused_in_json() -> None:
    """A binary publication cannot reach a JSON connection: code 3506."""
    with pytest.raises(ProtocolError) as caught:
        json_codec.encode_publication('a', Publication(data=b'\x00', binary=True))
    assert (3506, 'inappropriate protocol') == (caught.value.code, caught.value.reason)


@pytest.mark.parametrize('error', codes.REPLY_ERRORS.values(), ids=str)
def test_json_error_has_the_expected_bytes(error: codes.ReplyError) -> None:
    """An error has its code and message, and says if it is temporary."""
    text = json_codec.encode_error(3, error)
    temporary = ',"temporary":true' if error.temporary else ''
    assert text.decode() == (
        f'{{"id":3,"error":{{"code":{error.code},"message":"{error.message}"'
        f'{temporary}}}}}'
    )


def test_json_messages_are_joined_by_line_ends() -> None:
    """A frame of several messages has one line for each and no line end after it."""
    assert b'{}\n{"id":1}' == json_codec.join([json_codec.PING, b'{"id":1}'])
    assert b'{}' == json_codec.join([json_codec.PING])
