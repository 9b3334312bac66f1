"""Tag filters that clients send: the two encodings, and the limits."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
import pytest
from support.tag_filters import tag_filters
from support.tag_filters import to_wire

from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import ProtocolError
from falcon_channels.filters import MAX_DEPTH
from falcon_channels.filters import TagFilter
from falcon_channels.protocol import client_pb2 as pb
from falcon_channels.protocol import json_codec
from falcon_channels.protocol import protobuf_codec
from falcon_channels.protocol.client_filters import client_filter
from falcon_channels.protocol.client_filters import MAX_NODES
from falcon_channels.protocol.client_filters import MAX_TEXT_BYTES
from falcon_channels.protocol.client_filters import MAX_VALUES
from falcon_channels.protocol.messages import FilterNode
from falcon_channels.protocol.messages import SubscribeRequest


def decoded(wire: Any) -> FilterNode | None:
    """Return the filter that both codecs decode."""
    (command,) = json_codec.decode_commands(
        json.dumps({'id': 1, 'subscribe': {'channel': 'a', 'tf': wire}})
    )
    assert isinstance(command.request, SubscribeRequest)
    message = pb.Command(id=1)
    message.subscribe.channel = 'a'
    if wire is not None:
        _fill(message.subscribe.tf, wire)
    text = message.SerializeToString()
    (same,) = protobuf_codec.decode_commands(_varint(len(text)) + text)
    assert command == same
    return command.request.tf


def _fill(node: Any, wire: dict[str, Any]) -> None:
    node.SetInParent()
    for name in ('op', 'key', 'cmp', 'val'):
        setattr(node, name, wire.get(name) or '')
    node.vals.extend(wire.get('vals') or ())
    for child in wire.get('nodes') or ():
        _fill(node.nodes.add(), child)


@given(tag_filters)
def test_filter_of_an_sdk_is_the_filter_of_the_application(
    tag_filter: TagFilter,
) -> None:
    """Both sides make equal filters, except those without any value or condition."""
    node = decoded(to_wire(tag_filter))
    assert node is not None
    if _is_empty(tag_filter):
        with pytest.raises(InvalidValueError):
            client_filter(node)
    else:
        assert tag_filter == client_filter(node)


def _is_empty(tag_filter: TagFilter) -> bool:
    return (
        (tag_filter.cmp in ('in', 'nin') and not tag_filter.vals)
        or (tag_filter.op == 'or' and not tag_filter.nodes)
        or any(map(_is_empty, tag_filter.nodes))
    )


def test_request_without_a_filter_has_none() -> None:
    """``null`` means the same as a missing filter."""
    assert decoded(None) is None


def leaf(**fields: Any) -> dict[str, Any]:
    return {'key': 't', 'cmp': 'eq', 'val': 'a', **fields}


def nested(levels: int) -> dict[str, Any]:
    wire = leaf()
    for _ in range(levels - 1):
        wire = {'op': 'not', 'nodes': [wire]}
    return wire


REFUSED: list[dict[str, Any]] = [
    {},
    {'op': 'xor', 'nodes': [leaf()]},
    {'op': 'and'},
    {'op': 'or', 'nodes': []},
    {'op': 'not', 'nodes': [leaf(), leaf()]},
    {'op': 'and', 'nodes': [{}]},
    leaf(cmp=''),
    leaf(cmp='like'),
    leaf(key=''),
    leaf(val=''),
    leaf(vals=['b']),
    leaf(cmp='in'),
    leaf(cmp='in', val=''),
    leaf(cmp='ex'),
    nested(MAX_DEPTH + 1),
    {'op': 'or', 'nodes': [leaf()] * MAX_NODES},
    leaf(cmp='in', val='', vals=['b'] * (MAX_VALUES + 1)),
    leaf(val='x' * MAX_TEXT_BYTES),
    leaf(val='ä' * (MAX_TEXT_BYTES // 2)),
]


@pytest.mark.parametrize('wire', REFUSED)
def test_malformed_or_large_filter_of_a_client_is_refused(wire: dict[str, Any]) -> None:
    """A client's filter is checked before it is stored."""
    node = decoded(wire)
    assert node is not None
    with pytest.raises(InvalidValueError, match='filter'):
        client_filter(node)


ALLOWED: list[dict[str, Any]] = [
    nested(MAX_DEPTH),
    {'op': 'or', 'nodes': [leaf()] * (MAX_NODES - 1)},
    leaf(cmp='in', val='', vals=[str(n) for n in range(MAX_VALUES)]),
    leaf(val='x' * (MAX_TEXT_BYTES - 1)),
]


@pytest.mark.parametrize('wire', ALLOWED)
def test_filter_at_a_limit_is_allowed(wire: dict[str, Any]) -> None:
    """Each limit is inclusive."""
    node = decoded(wire)
    assert node is not None
    client_filter(node)


@pytest.mark.parametrize(
    'wire', ['text', 5, [], {'key': 5}, {'vals': ['a', None]}, {'nodes': [[]]}]
)
def test_filter_of_another_type_breaks_the_protocol(wire: Any) -> None:
    """A field of the wrong type is not the expected JSON, as in any request."""
    with pytest.raises(ProtocolError):
        list(
            json_codec.decode_commands(
                json.dumps({'id': 1, 'subscribe': {'channel': 'a', 'tf': wire}})
            )
        )


def test_deeply_nested_filter_ends_in_a_protocol_error() -> None:
    """A filter in thousands of levels exhausts no stack."""
    text = '{"op":"not","nodes":[' * 2000 + '{}' + ']}' * 2000
    with pytest.raises(ProtocolError):
        list(json_codec.decode_commands('{"id":1,"subscribe":{"tf":' + text + '}}'))
    with pytest.raises(ProtocolError):
        json_codec.decode_connect('{"subs":{"a":{"tf":' + text + '}}}')
    message = b''
    for _ in range(2000):
        message = b'\x32' + _varint(len(message)) + message
    tf = b'\x6a' + _varint(len(message)) + message
    command = b'\x08\x01\x2a' + _varint(len(tf)) + tf
    with pytest.raises(ProtocolError):
        list(protobuf_codec.decode_commands(_varint(len(command)) + command))


def _varint(number: int) -> bytes:
    text = b''
    while number > 127:
        text += bytes([number % 128 + 128])
        number //= 128
    return text + bytes([number])
