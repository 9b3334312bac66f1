"""The Protobuf codec, against the schema that the official Python SDK carries."""

from __future__ import annotations

import contextlib
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

import centrifuge.protocol.client_pb2 as sdk
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import client_pb2 as ours
from falcon_channels.protocol import codes
from falcon_channels.protocol import protobuf_codec
from falcon_channels.protocol.frame_limits import FrameLimits
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import DisconnectPush
from falcon_channels.protocol.messages import FilterNode
from falcon_channels.protocol.messages import HistoryRequest
from falcon_channels.protocol.messages import HistoryResult
from falcon_channels.protocol.messages import JoinPush
from falcon_channels.protocol.messages import LeavePush
from falcon_channels.protocol.messages import MessagePush
from falcon_channels.protocol.messages import PingRequest
from falcon_channels.protocol.messages import PingResult
from falcon_channels.protocol.messages import PresenceRequest
from falcon_channels.protocol.messages import PresenceResult
from falcon_channels.protocol.messages import PresenceStatsRequest
from falcon_channels.protocol.messages import PresenceStatsResult
from falcon_channels.protocol.messages import PublishRequest
from falcon_channels.protocol.messages import PublishResult
from falcon_channels.protocol.messages import RefreshPush
from falcon_channels.protocol.messages import RefreshRequest
from falcon_channels.protocol.messages import RefreshResult
from falcon_channels.protocol.messages import RpcRequest
from falcon_channels.protocol.messages import RpcResult
from falcon_channels.protocol.messages import SendRequest
from falcon_channels.protocol.messages import SubRefreshRequest
from falcon_channels.protocol.messages import SubRefreshResult
from falcon_channels.protocol.messages import SubscribePush
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.protocol.messages import SubscribeResult
from falcon_channels.protocol.messages import UnsubscribePush
from falcon_channels.protocol.messages import UnsubscribeRequest
from falcon_channels.protocol.messages import UnsubscribeResult
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

# The SDK's names of our messages, where they differ.
SDK_NAMES = {
    'RpcRequest': 'RPCRequest',
    'RpcResult': 'RPCResult',
    'JoinPush': 'Join',
    'LeavePush': 'Leave',
    'UnsubscribePush': 'Unsubscribe',
    'SubscribePush': 'Subscribe',
    'MessagePush': 'Message',
    'ConnectPush': 'Connect',
    'DisconnectPush': 'Disconnect',
    'RefreshPush': 'Refresh',
    'TagFilter': 'FilterNode',
}
# Fields that are newer than this SDK, from the protocol's definition.
NEWER = {
    ('SubscribeRequest', 'type'): 15,
    ('PublishRequest', 'type'): 3,
    ('SubRefreshRequest', 'type'): 3,
}
MESSAGES = sorted(ours.DESCRIPTOR.message_types_by_name)


def theirs(name: str) -> Any:
    return getattr(sdk, SDK_NAMES.get(name, name)).DESCRIPTOR


def shape(field: FieldDescriptor) -> tuple[Any, ...]:
    return field.number, field.type, field.is_repeated


@pytest.mark.parametrize('name', MESSAGES)
def test_schema_has_the_numbers_and_types_of_the_protocol(name: str) -> None:
    """Every field of ours is in the SDK's schema, with its number and type."""
    reference = theirs(name).fields_by_name
    for field in getattr(ours, name).DESCRIPTOR.fields:
        if (name, field.name) in NEWER:
            expected = (NEWER[name, field.name], FieldDescriptor.TYPE_INT32, False)
            assert expected == shape(field)
            continue
        assert shape(reference[field.name]) == shape(field)
        if field.message_type and not field.message_type.GetOptions().map_entry:
            inner = SDK_NAMES.get(field.message_type.name, field.message_type.name)
            assert inner == reference[field.name].message_type.name


def test_generated_module_has_every_field_of_the_schema() -> None:
    """Each field of client.proto is in the generated module; run make proto if not."""
    source = Path(ours.__file__).with_name('client.proto').read_text()
    written = [
        (block.group(1), name, int(number))
        for block in re.finditer(r'^message (\w+) {\n(.*?)^}', source, re.M | re.S)
        for name, number in re.findall(r'(\w+) = (\d+);', block.group(2))
    ]
    generated = [
        (name, field.name, field.number)
        for name, message in ours.DESCRIPTOR.message_types_by_name.items()
        for field in message.fields
    ]
    assert sorted(written) == sorted(generated)


COMMANDS: list[tuple[dict[str, Any], Command]] = [
    ({'id': 1, 'connect': {}}, Command(1, ConnectRequest())),
    (
        {
            'id': 1,
            'connect': {
                'token': 't',
                'data': 'AAEC/w==',
                'name': 'python',
                'version': '7',
                'headers': {'X': 'y'},
                'subs': {'news': {'recover': True, 'offset': 5, 'epoch': 'e'}},
            },
        },
        Command(
            1,
            ConnectRequest(
                token='t',
                data=b'\x00\x01\x02\xff',
                subs={'news': SubscribeRequest(recover=True, offset=5, epoch='e')},
                name='python',
                version='7',
                headers={'X': 'y'},
            ),
        ),
    ),
    (
        {
            'id': 2,
            'subscribe': {
                'channel': 'a',
                'token': 't',
                'data': 'e30=',
                'recover': True,
                'offset': 2**63 - 1,
                'epoch': 'e',
                'positioned': True,
                'recoverable': True,
                'join_leave': True,
                'delta': 'fossil',
                'tf': {'op': 'and'},
                'flag': 3,
            },
        },
        Command(
            2,
            SubscribeRequest(
                channel='a',
                token='t',
                recover=True,
                offset=2**63 - 1,
                epoch='e',
                data=b'{}',
                positioned=True,
                recoverable=True,
                join_leave=True,
                delta='fossil',
                tf=FilterNode(op='and'),
                flag=3,
            ),
        ),
    ),
    ({'id': 3, 'unsubscribe': {'channel': 'a'}}, Command(3, UnsubscribeRequest('a'))),
    (
        {'id': 4, 'publish': {'channel': 'a', 'data': 'e30='}},
        Command(4, PublishRequest('a', b'{}')),
    ),
    ({'id': 5, 'presence': {'channel': 'a'}}, Command(5, PresenceRequest('a'))),
    (
        {'id': 6, 'presence_stats': {'channel': 'a'}},
        Command(6, PresenceStatsRequest('a')),
    ),
    ({'id': 7, 'history': {'channel': 'a'}}, Command(7, HistoryRequest('a'))),
    (
        {
            'id': 7,
            'history': {
                'channel': 'a',
                'limit': -1,
                'since': {'offset': 3, 'epoch': 'e'},
                'reverse': True,
            },
        },
        Command(7, HistoryRequest('a', -1, Position(3, 'e'), True)),
    ),
    (
        {'id': 7, 'history': {'channel': 'a', 'since': {}}},
        Command(7, HistoryRequest('a', 0, Position(0, ''))),
    ),
    ({'id': 8, 'ping': {}}, Command(8, PingRequest())),
    ({'send': {'data': 'e30='}}, Command(0, SendRequest(b'{}'))),
    ({'id': 9, 'rpc': {'method': 'm'}}, Command(9, RpcRequest(None, 'm'))),
    ({'id': 10, 'refresh': {'token': 't'}}, Command(10, RefreshRequest('t'))),
    (
        {'id': 2**32 - 1, 'sub_refresh': {'channel': 'a', 'token': 't'}},
        Command(2**32 - 1, SubRefreshRequest('a', 't')),
    ),
]


def sdk_frame(*commands: dict[str, Any]) -> bytes:
    """Return the frame that the SDK's own schema makes of commands."""
    frame = b''
    for command in commands:
        body = ParseDict(command, sdk.Command()).SerializeToString()
        frame += varint(len(body)) + body
    return frame


def varint(number: int) -> bytes:
    head = [number >> shift & 0x7F for shift in range(0, 35, 7)]
    while len(head) > 1 and not head[-1]:
        head.pop()
    return bytes([*(part | 0x80 for part in head[:-1]), head[-1]])


@pytest.mark.parametrize(('wire', 'command'), COMMANDS)
def test_each_command_is_decoded(wire: dict[str, Any], command: Command) -> None:
    """Each command that the SDK writes becomes its request."""
    assert [command] == list(protobuf_codec.decode_commands(sdk_frame(wire)))


def test_subscription_types_of_newer_clients_are_decoded() -> None:
    """The kind of a subscription is read, so that it can be refused."""
    frame = b''.join(
        raw_frame(command.SerializeToString())
        for command in (
            ours.Command(id=1, subscribe=ours.SubscribeRequest(type=4)),
            ours.Command(id=2, publish=ours.PublishRequest(type=1)),
            ours.Command(id=3, sub_refresh=ours.SubRefreshRequest(type=2)),
        )
    )
    assert [
        Command(1, SubscribeRequest(type=4)),
        Command(2, PublishRequest(type=1)),
        Command(3, SubRefreshRequest(type=2)),
    ] == list(protobuf_codec.decode_commands(frame))


def test_frame_over_a_limit_is_refused_with_1009() -> None:
    """The size of each command and their number are limited, not the frame."""
    small, large = {'id': 1, 'ping': {}}, {'id': 2, 'rpc': {'data': 'eA=='}}
    longest_bytes = len(ParseDict(large, sdk.Command()).SerializeToString())
    limits = FrameLimits(longest_bytes, 3)
    frame = sdk_frame(small, large, large)
    assert 3 == len(list(protobuf_codec.decode_commands(frame, limits)))
    for tight in (FrameLimits(longest_bytes - 1, 3), FrameLimits(longest_bytes, 2)):
        with pytest.raises(ProtocolError) as caught:
            list(protobuf_codec.decode_commands(frame, tight))
        assert 1009 == caught.value.code


def test_batch_of_commands_is_decoded_in_order() -> None:
    """Commands and pongs of one frame come out in the order they were sent in."""
    frame = sdk_frame(*(wire for wire, _ in COMMANDS), {}, COMMANDS[0][0])
    expected = [command for _, command in COMMANDS]
    assert [*expected, Command(0, None), expected[0]] == (
        list(protobuf_codec.decode_commands(frame))
    )


def raw_frame(body: bytes) -> bytes:
    return varint(len(body)) + body


PING_COMMAND = sdk.Command(id=1, ping=sdk.PingRequest()).SerializeToString()
WRONG = {
    'empty frame': b'',
    'length without end': b'\x80',
    'length of six bytes': b'\xff\xff\xff\xff\xff\x00',
    'length beyond the frame': b'\x05\x08\x01',
    'huge length': b'\xff\xff\xff\xff\x7f' + PING_COMMAND,
    'no request': sdk_frame({'id': 1}),
    'no id': sdk_frame({'ping': {}}),
    'two requests': sdk_frame({'id': 1, 'ping': {}, 'connect': {}}),
    'unknown request': raw_frame(b'\x08\x01\x92\x03\x00'),
    'wrong wire type': raw_frame(b'\x0a\x01\x01'),
    'truncated field': raw_frame(b'\x08\x01\x22\x7f'),
    'channel that is not UTF-8': raw_frame(b'\x08\x01\x32\x03\x0a\x01\xff'),
    'end group': raw_frame(b'\x0c'),
    'offset over 63 bits': sdk_frame({'id': 1, 'subscribe': {'offset': 2**63}}),
    'since over 63 bits': sdk_frame({'id': 1, 'history': {'since': {'offset': 2**63}}}),
    'offset in connect': sdk_frame({'id': 1, 'connect': {'subs': {'a': {
        'offset': 2**64 - 1}}}}),
    'JSON': b'{"id":1,"ping":{}}',
    'nested groups': raw_frame(b'\x93\x01' * 5000 + b'\x94\x01' * 5000),
}  # fmt: skip


@pytest.mark.parametrize('frame', WRONG.values(), ids=WRONG.keys())
def test_malformed_protobuf_frame_raises_protocol_error_3501(frame: bytes) -> None:
    """Anything wrong is a ProtocolError with code 3501."""
    with pytest.raises(ProtocolError) as caught:
        list(protobuf_codec.decode_commands(frame))
    assert (3501, 'bad request') == (caught.value.code, caught.value.reason)


def test_text_message_is_refused_by_the_protobuf_codec() -> None:
    """A text message is not Protobuf."""
    with pytest.raises(ProtocolError):
        list(protobuf_codec.decode_commands('{}'))
    with pytest.raises(ProtocolError):
        protobuf_codec.decode_connect('{}')


def test_unknown_protobuf_fields_are_ignored() -> None:
    """Fields that newer clients send are not an error, at any depth."""
    wire = ours.Command(id=1, publish=ours.PublishRequest(channel='a', data=b'1'))
    unknown = b'\xfa\x07\x03new'
    body = wire.publish.SerializeToString() + unknown
    frame = raw_frame(b'\x08\x01\x3a' + varint(len(body)) + body + unknown)
    assert [Command(1, PublishRequest('a', b'1'))] == (
        list(protobuf_codec.decode_commands(frame))
    )


def decode_all(frame: bytes) -> list[Command]:
    """Return all commands of a frame."""
    return list(protobuf_codec.decode_commands(frame))


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_protocol_error(frame: bytes) -> None:
    """Whatever arrives is read or refused; nothing else comes out."""
    for decode, data in (
        (decode_all, frame),
        (decode_all, raw_frame(frame)),
        (protobuf_codec.decode_connect, frame),
        (protobuf_codec.decode_emulation, frame),
    ):
        with contextlib.suppress(ProtocolError):
            decode(data)


@settings(max_examples=700, deadline=None)
@given(st.data())
def test_damaged_frames_end_in_a_protocol_error(data: st.DataObject) -> None:
    """A real frame with some bytes changed is read or refused."""
    frame = bytearray(sdk_frame(*(wire for wire, _ in COMMANDS)))
    for _ in range(data.draw(st.integers(1, 5))):
        index = data.draw(st.integers(0, len(frame) - 1))
        frame[index] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        list(protobuf_codec.decode_commands(bytes(frame)))


def test_unidirectional_connect_request_is_decoded() -> None:
    """A unidirectional client sends the request without an envelope."""
    body = sdk.ConnectRequest(token='t', data=b'\x00').SerializeToString()
    assert ConnectRequest(token='t', data=b'\x00') == (
        protobuf_codec.decode_connect(body)
    )


def test_emulation_request_is_decoded() -> None:
    """The client's half of an emulated transport carries a frame as bytes."""
    body = sdk.EmulationRequest(session='s', node='n', data=b'\x00')
    request = protobuf_codec.decode_emulation(body.SerializeToString())
    assert ('s', 'n', b'\x00') == (request.session, request.node, request.data)
    with pytest.raises(ProtocolError):
        protobuf_codec.decode_emulation(b'\xff')


def sdk_replies(frame: bytes) -> list[Any]:
    """Return what the SDK's own schema reads from a frame."""
    replies = []
    while frame:
        length = shift = index = 0
        while True:
            length |= (frame[index] & 0x7F) << shift
            shift += 7
            index += 1
            if frame[index - 1] < 0x80:
                break
        reply = sdk.Reply()
        reply.ParseFromString(frame[index : index + length])
        replies.append(
            MessageToDict(
                reply,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=False,
            )
        )
        frame = frame[index + length :]
    return replies


INFO = ClientInfo(user='u', client='c', conn_info=b'\x00', chan_info=b'{}')
INFO_DICT = {'user': 'u', 'client': 'c', 'conn_info': 'AA==', 'chan_info': 'e30='}
PUB = Publication(
    data=b'\xff\x00',
    offset=7,
    binary=True,
    time_ms=1700000000000,
    tags={'k': 'v'},
    info=INFO,
)
PUB_DICT = {
    'data': '/wA=',
    'info': INFO_DICT,
    'offset': '7',
    'tags': {'k': 'v'},
    'time': '1700000000000',
}
WRITTEN: list[tuple[Any, dict[str, Any]]] = [
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
        {
            'client': 'c',
            'version': '1',
            'expires': True,
            'ttl': 60,
            'data': 'e30=',
            'subs': {'#u': {'recoverable': True, 'epoch': 'e', 'offset': '1'}},
            'ping': 25,
            'pong': True,
            'session': 's',
            'node': 'n',
            'time': '5',
        },
    ),
    (SubscribeResult(), {}),
    (
        SubscribeResult(
            recoverable=True,
            epoch='e',
            offset=6,
            publications=[PUB, PUB],
            recovered=True,
            was_recovering=True,
            positioned=True,
            expires=True,
            ttl=5,
            data=b'{}',
        ),
        {
            'recoverable': True,
            'epoch': 'e',
            'offset': '6',
            'publications': [PUB_DICT, PUB_DICT],
            'recovered': True,
            'was_recovering': True,
            'positioned': True,
            'expires': True,
            'ttl': 5,
            'data': 'e30=',
        },
    ),
    (UnsubscribeResult(), {}),
    (PublishResult(), {}),
    (
        PresenceResult({'c': INFO, 'd': ClientInfo(user='', client='d')}),
        {'presence': {'c': INFO_DICT, 'd': {'client': 'd'}}},
    ),
    (PresenceStatsResult(2, 1), {'num_clients': 2, 'num_users': 1}),
    (
        HistoryResult([PUB], 'e', 7),
        {'publications': [PUB_DICT], 'epoch': 'e', 'offset': '7'},
    ),
    (PingResult(), {}),
    (RpcResult(b'\x00'), {'data': 'AA=='}),
    (
        RefreshResult('c', '1', True, 9),
        {'client': 'c', 'version': '1', 'expires': True, 'ttl': 9},
    ),
    (SubRefreshResult(True, 9), {'expires': True, 'ttl': 9}),
]


@pytest.mark.parametrize(('result', 'body'), WRITTEN)
def test_protobuf_result_is_read_by_the_sdk(result: Any, body: dict[str, Any]) -> None:
    """The SDK's schema reads each result back, present even when it is empty."""
    frame = protobuf_codec.encode_reply(2, result)
    assert [{'id': 2, result.field: body}] == sdk_replies(frame)


PUSHES: list[tuple[str, Any, dict[str, Any]]] = [
    ('a', JoinPush(INFO), {'info': INFO_DICT}),
    ('a', LeavePush(ClientInfo(user='', client='c')), {'info': {'client': 'c'}}),
    ('a', UnsubscribePush(2500, 'x'), {'code': 2500, 'reason': 'x'}),
    (
        'a',
        SubscribePush(True, 'e', 3, True, b'1'),
        {
            'recoverable': True,
            'epoch': 'e',
            'offset': '3',
            'positioned': True,
            'data': 'MQ==',
        },
    ),
    ('', MessagePush(b'\x00'), {'data': 'AA=='}),
    (
        '',
        DisconnectPush(3001, 'shutdown', True),
        {'code': 3001, 'reason': 'shutdown', 'reconnect': True},
    ),
    (
        '',
        ConnectResult(client='c', data=b'1', ttl=5, subs={'a': SubscribeResult()}),
        {'client': 'c', 'data': 'MQ==', 'ttl': 5, 'subs': {'a': {}}},
    ),
    ('', RefreshPush(True, 5), {'expires': True, 'ttl': 5}),
]


@pytest.mark.parametrize(('channel', 'push', 'body'), PUSHES)
def test_protobuf_push_is_read_by_the_sdk(
    channel: str, push: Any, body: dict[str, Any]
) -> None:
    """The SDK's schema reads each push back, bare ones without the reply around."""
    expected = {'channel': channel} if channel else {}
    expected |= {push.field: body}
    assert [{'push': expected}] == sdk_replies(
        protobuf_codec.encode_push(channel, push)
    )
    bare = protobuf_codec.encode_unidirectional_push(channel, push)
    wire = sdk.Push.FromString(bare[1:])
    assert expected == MessageToDict(wire, preserving_proto_field_name=True)


def test_protobuf_publications_and_pings_are_read_by_the_sdk() -> None:
    """A frame of a publication, a ping and a publication is read in order."""
    long = Publication(data=b'x' * 20_000)
    frame = protobuf_codec.join(
        [
            protobuf_codec.encode_publication('a', PUB),
            protobuf_codec.PING,
            protobuf_codec.encode_publication('b', long),
        ]
    )
    first, ping, second = sdk_replies(frame)
    assert {'push': {'channel': 'a', 'pub': PUB_DICT}} == first
    assert {} == ping
    assert 'b' == second['push']['channel']
    bare = protobuf_codec.encode_unidirectional_publication('a', PUB)
    assert sdk.Push.FromString(bare[1:]).pub.data == PUB.data


@pytest.mark.parametrize('error', codes.REPLY_ERRORS.values(), ids=str)
def test_protobuf_error_is_read_by_the_sdk(error: codes.ReplyError) -> None:
    """An error has its code and message, and says if it is temporary."""
    expected: dict[str, Any] = {'code': error.code, 'message': error.message}
    if error.temporary:
        expected['temporary'] = True
    assert [{'id': 3, 'error': expected}] == sdk_replies(
        protobuf_codec.encode_error(3, error)
    )


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    ).stdout


def test_protobuf_is_imported_only_when_asked_for() -> None:
    """JSON users need no google.protobuf; the codec loads it when it is called."""
    loaded = "any(name.startswith('google') for name in sys.modules)"
    out = run_python(
        'import sys\n'
        'from falcon_channels.protocol import codec\n'
        f'print({loaded})\n'
        'print(codec.protobuf_codec().BINARY, codec.json_codec.BINARY)\n'
        f'print({loaded})\n'
    )
    assert ['False', 'True False', 'True'] == out.splitlines()


def test_missing_protobuf_extra_is_named_in_the_error() -> None:
    """Without google.protobuf the error says what to install."""
    out = run_python(
        'import sys\n'
        "sys.modules['google.protobuf'] = None\n"
        'from falcon_channels.protocol import codec\n'
        'from falcon_channels.errors import ExtraMissingError\n'
        'try:\n'
        '    codec.protobuf_codec()\n'
        'except ExtraMissingError as ex:\n'
        '    print(ex.extra, ex)\n'
    )
    assert (
        'protobuf The Protobuf encoding needs an extra: '
        "pip install 'falcon-channels[protobuf]'\n"
    ) == out
