"""Protobuf: commands in, replies and pushes out.

The same functions as in `json_codec`. A frame is one binary message (or HTTP body):
messages one after the other, each behind its length as a varint. Every ``encode_``
function returns its message with the length, so that `join` has nothing to add.

The schema is client.proto beside this module. Unknown fields are passed over, the
later of two values of a field counts and text must be UTF-8: Protobuf says so.

Import this module through `falcon_channels.protocol.codec.protobuf_codec`, which
explains what to install where google.protobuf is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Final

from google.protobuf.message import DecodeError

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import client_pb2 as pb
from falcon_channels.protocol.codes import ReplyError
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import EmulationRequest
from falcon_channels.protocol.messages import HistoryRequest
from falcon_channels.protocol.messages import JoinPush
from falcon_channels.protocol.messages import LeavePush
from falcon_channels.protocol.messages import Message
from falcon_channels.protocol.messages import Parts
from falcon_channels.protocol.messages import PingRequest
from falcon_channels.protocol.messages import PresenceRequest
from falcon_channels.protocol.messages import PresenceResult
from falcon_channels.protocol.messages import PresenceStatsRequest
from falcon_channels.protocol.messages import PublishRequest
from falcon_channels.protocol.messages import Push
from falcon_channels.protocol.messages import RefreshRequest
from falcon_channels.protocol.messages import Result
from falcon_channels.protocol.messages import RpcRequest
from falcon_channels.protocol.messages import SendRequest
from falcon_channels.protocol.messages import SubRefreshRequest
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.protocol.messages import UnsubscribeRequest
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

#: Whether frames are binary messages.
BINARY: Final = True
#: A server's ping, and a client's pong.
PING: Final = b'\x00'

_MAX_OFFSET: Final = 2**63 - 1
# Bytes of a varint that can be the length of a message: 35 bits.
_MAX_LENGTH_BYTES: Final = 5

# What stands before each publication: the field's number, and that it has a length.
_PUBLICATIONS_TAGS: Final = {
    kind: bytes([kind.DESCRIPTOR.fields_by_name['publications'].number << 3 | 2])
    for kind in (pb.SubscribeResult, pb.HistoryResult)
}

# ---- Reading -------------------------------------------------------------------


def decode_commands(frame: str | bytes) -> list[Command]:
    """Return the commands of one frame, in order.

    Args:
        frame: A binary message. Its size is the transport's to limit.

    Raises:
        ProtocolError: Not a frame of commands; close with its code.
    """
    if isinstance(frame, str):
        raise ProtocolError('a text message where Protobuf was agreed on')
    if not frame:
        raise ProtocolError('an empty frame')
    commands = []
    position = 0
    while position < len(frame):
        length, start = _read_length(frame, position)
        position = start + length
        if position > len(frame):
            raise ProtocolError(
                f'a command of {length} bytes in a frame with {len(frame) - start} left'
            )
        commands.append(_command(frame[start:position]) if length else _PONG)
    return commands


def decode_connect(body: str | bytes) -> ConnectRequest:
    """Return the bare request that opens a unidirectional connection.

    Raises:
        ProtocolError: Not a connect request; close with its code.
    """
    if isinstance(body, str):
        raise ProtocolError('a text message where Protobuf was agreed on')
    return _connect(_parse(pb.ConnectRequest, body))


def decode_emulation(body: bytes) -> EmulationRequest:
    """Return the request of the client's half of an emulated transport.

    Raises:
        ProtocolError: Not such a body; answer 400.
    """
    wire = _parse(pb.EmulationRequest, body)
    return EmulationRequest(wire.session, wire.node, wire.data)


_PONG: Final = Command(0, None)


def _read_length(frame: bytes, position: int) -> tuple[int, int]:
    """Return the varint at `position` and where it ends."""
    value = 0
    for index in range(_MAX_LENGTH_BYTES):
        if position + index >= len(frame):
            raise ProtocolError('a frame that ends within a length')
        byte = frame[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ProtocolError('a length of more than five bytes')


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except (DecodeError, ValueError, RecursionError) as ex:
        raise ProtocolError(f'not the Protobuf that was expected: {ex}') from ex


def _command(data: bytes) -> Command:
    wire = _parse(pb.Command, data)
    requests = [
        (field.name, value) for field, value in wire.ListFields() if field.name != 'id'
    ]
    if len(requests) != 1:
        raise ProtocolError(f'a command with {len(requests)} requests that are known')
    name, value = requests[0]
    request = _READERS[name](value)
    if not wire.id and not isinstance(request, SendRequest):
        raise ProtocolError(f'{name} without an id')
    return Command(wire.id, request)


def _offset(value: int) -> int:
    if value > _MAX_OFFSET:
        raise ProtocolError(f'an offset of {value} exceeds {_MAX_OFFSET}')
    return value


def _connect(wire: Any) -> ConnectRequest:
    return ConnectRequest(
        token=wire.token,
        data=wire.data or None,
        subs={channel: _subscribe(sub) for channel, sub in wire.subs.items()},
        name=wire.name,
        version=wire.version,
        headers=dict(wire.headers),
    )


def _subscribe(wire: Any) -> SubscribeRequest:
    return SubscribeRequest(
        channel=wire.channel,
        token=wire.token,
        recover=wire.recover,
        offset=_offset(wire.offset),
        epoch=wire.epoch,
        data=wire.data or None,
        positioned=wire.positioned,
        recoverable=wire.recoverable,
        join_leave=wire.join_leave,
        delta=wire.delta,
        filtered=wire.HasField('tf'),
        flag=wire.flag,
        type=wire.type,
    )


def _history(wire: Any) -> HistoryRequest:
    since = None
    if wire.HasField('since'):
        since = Position(_offset(wire.since.offset), wire.since.epoch)
    return HistoryRequest(wire.channel, wire.limit, since, wire.reverse)


_READERS: Final[dict[str, Any]] = {
    'connect': _connect,
    'subscribe': _subscribe,
    'unsubscribe': lambda wire: UnsubscribeRequest(wire.channel),
    'publish': lambda wire: PublishRequest(wire.channel, wire.data or None, wire.type),
    'presence': lambda wire: PresenceRequest(wire.channel),
    'presence_stats': lambda wire: PresenceStatsRequest(wire.channel),
    'history': _history,
    'ping': lambda wire: PingRequest(),
    'send': lambda wire: SendRequest(wire.data or None),
    'rpc': lambda wire: RpcRequest(wire.data or None, wire.method),
    'refresh': lambda wire: RefreshRequest(wire.token),
    'sub_refresh': lambda wire: SubRefreshRequest(wire.channel, wire.token, wire.type),
}


# ---- Writing -------------------------------------------------------------------


def join(messages: Sequence[bytes]) -> bytes:
    """Return one frame that carries the messages in order."""
    return b''.join(messages)


def encode_reply(command_id: int, result: Result) -> bytes:
    """Return a reply; the result is there even when it is empty."""
    reply = pb.Reply(id=command_id)
    _set(reply, result)
    return _framed(reply)


def encode_part(publication: Publication) -> bytes:
    """Return a publication for the `Parts` of a result: its length and its bytes."""
    return _framed(_publication(publication))


def encode_error(command_id: int, error: ReplyError) -> bytes:
    """Return a reply that refuses a command."""
    return _framed(
        pb.Reply(
            id=command_id,
            error=pb.Error(
                code=error.code, message=error.message, temporary=error.temporary
            ),
        )
    )


def encode_push(channel: str, push: Push) -> bytes:
    """Return a push.

    Args:
        channel: The channel; ``''`` for a push about the connection.
        push: What to say.
    """
    return _framed(pb.Reply(push=_push(channel, push)))


def encode_bare_push(channel: str, push: Push) -> bytes:
    """Return a push as unidirectional transports send it, not inside a reply."""
    return _framed(_push(channel, push))


def encode_publication(channel: str, publication: Publication) -> bytes:
    """Return the push of a publication.

    PERF: called once for a publication, however many subscribers there are.
    """
    return _framed(
        pb.Reply(push=pb.Push(channel=channel, pub=_publication(publication)))
    )


def encode_bare_publication(channel: str, publication: Publication) -> bytes:
    """Return a publication as unidirectional transports send it."""
    return _framed(pb.Push(channel=channel, pub=_publication(publication)))


def _framed(message: Any) -> bytes:
    body: bytes = message.SerializeToString()
    length = len(body)
    prefix = bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + body


def _push(channel: str, push: Push) -> Any:
    wire = pb.Push(channel=channel)
    _set(wire, push)
    return wire


def _set(envelope: Any, message: Message) -> None:
    field = getattr(envelope, message.field)
    field.SetInParent()
    _fill(field, message)


def _fill(wire: Any, message: Message) -> None:
    """Copy the fields of a result or push into its message on the wire."""
    if isinstance(message, ConnectResult):
        for channel, sub in message.subs.items():
            result = pb.SubscribeResult()
            _fill(result, sub)
            wire.subs[channel].CopyFrom(result)  # is there even when it is empty
    elif isinstance(message, PresenceResult):
        for client, info in message.presence.items():
            wire.presence[client].CopyFrom(_info(info))
        return
    elif isinstance(message, JoinPush | LeavePush):
        wire.info.CopyFrom(_info(message.info))
        return
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if not value or name == 'subs':
            continue
        if name == 'publications':
            _fill_publications(wire, value)
        else:
            setattr(wire, name, value)


def _fill_publications(wire: Any, publications: list[Publication] | Parts) -> None:
    if isinstance(publications, Parts):
        # NOTE: a field that is repeated is its tag and a value, again and again.
        tag = _PUBLICATIONS_TAGS[type(wire)]
        wire.MergeFromString(tag + tag.join(publications))
    else:
        wire.publications.extend(map(_publication, publications))


def _publication(publication: Publication) -> Any:
    return pb.Publication(
        data=publication.data,
        info=None if publication.info is None else _info(publication.info),
        offset=publication.offset,
        tags=publication.tags,
        time=publication.time_ms,
    )


def _info(info: ClientInfo) -> Any:
    return pb.ClientInfo(
        user=info.user,
        client=info.client,
        conn_info=info.conn_info,
        chan_info=info.chan_info,
    )
