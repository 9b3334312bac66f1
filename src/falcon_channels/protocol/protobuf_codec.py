"""Protobuf: decodes commands, encodes replies and pushes.

The functions are the same as in `json_codec`. A frame is one binary message (or HTTP
body): messages one after the other, each preceded by its length as a varint. Every
``encode_`` function returns its message with the length, so `join` only concatenates.

The schema is client.proto beside this module. Protobuf defines the rest: unknown fields
are ignored, the later of two values of a field counts, and text must be UTF-8.

Import this module through `falcon_channels.protocol.codec.protobuf_codec`. If
google.protobuf is missing, it raises an error that says what to install.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Final

from google.protobuf.message import DecodeError

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import client_pb2 as pb
from falcon_channels.protocol.codes import ReplyError
from falcon_channels.protocol.deltas import DeltaPublication
from falcon_channels.protocol.frame_limits import FrameLimits
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import EmulationRequest
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import FilterNode
from falcon_channels.protocol.messages import HistoryRequest
from falcon_channels.protocol.messages import JoinPush
from falcon_channels.protocol.messages import LeavePush
from falcon_channels.protocol.messages import Message
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
#: Bytes of a server's ping and of a client's pong.
PING: Final = b'\x00'

_MAX_OFFSET: Final = 2**63 - 1
# Maximum size of a length as a varint: 5 bytes, 35 bits.
_MAX_LENGTH_BYTES: Final = 5

# The tag before each publication: field number and wire type (length-delimited).
_PUBLICATIONS_TAGS: Final = {
    kind: bytes([kind.DESCRIPTOR.fields_by_name['publications'].number << 3 | 2])
    for kind in (pb.SubscribeResult, pb.HistoryResult)
}

# ---- Decoding ------------------------------------------------------------------


def decode_commands(
    frame: str | bytes, limits: FrameLimits | None = None
) -> Iterator[Command]:
    """Yield the commands of one frame, in order.

    Each command is decoded when the caller takes it from the iterator. A frame of many
    commands can therefore be executed in parts, so that it does not block the event
    loop.

    Args:
        frame: Binary message. The caller limits its size.
        limits: Limits of the commands (default ``None``: no limits).

    Raises:
        ProtocolError: The next command is not valid. Close the connection with its
            code.
    """
    if isinstance(frame, str):
        raise ProtocolError('a text message, but Protobuf was negotiated')
    if not frame:
        raise ProtocolError('the frame is empty')
    num_commands = 0
    position = 0
    while position < len(frame):
        length, start = _read_length(frame, position)
        position = start + length
        if position > len(frame):
            raise ProtocolError(
                f'a command of {length} bytes exceeds the {len(frame) - start} bytes '
                'that are left in its frame'
            )
        if limits is not None:
            num_commands += 1
            limits.check(num_commands, length)
        yield _command(frame[start:position]) if length else _PONG


def decode_connect(body: str | bytes) -> ConnectRequest:
    """Return the request that opens a unidirectional connection.

    Raises:
        ProtocolError: The body is not a connect request. Close the connection with its
            code.
    """
    if isinstance(body, str):
        raise ProtocolError('a text message, but Protobuf was negotiated')
    return _connect(_parse(pb.ConnectRequest, body))


def decode_emulation(body: bytes) -> EmulationRequest:
    """Return the commands of a client whose replies travel on another response.

    Raises:
        ProtocolError: The body is not valid. Answer with HTTP 400.
    """
    wire = _parse(pb.EmulationRequest, body)
    return EmulationRequest(wire.session, wire.node, wire.data)


_PONG: Final = Command(0, None)


def _read_length(frame: bytes, position: int) -> tuple[int, int]:
    """Return the varint at `position` and the index after it."""
    value = 0
    for index in range(_MAX_LENGTH_BYTES):
        if position + index >= len(frame):
            raise ProtocolError('the frame ends within a length')
        byte = frame[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ProtocolError('a length has more than five bytes')


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except (DecodeError, ValueError, RecursionError) as ex:
        raise ProtocolError(f'not the expected Protobuf: {ex}') from ex


def _command(data: bytes) -> Command:
    wire = _parse(pb.Command, data)
    requests = [
        (field.name, value) for field, value in wire.ListFields() if field.name != 'id'
    ]
    if len(requests) != 1:
        raise ProtocolError(f'a command has {len(requests)} known requests, not one')
    name, value = requests[0]
    request = _DECODERS[name](value)
    if not wire.id and not isinstance(request, SendRequest):
        raise ProtocolError(f'the command {name} has no id')
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
        tf=_filter_node(wire.tf) if wire.HasField('tf') else None,
        flag=wire.flag,
        type=wire.type,
    )


def _filter_node(wire: Any) -> FilterNode:
    return FilterNode(
        op=wire.op,
        key=wire.key,
        cmp=wire.cmp,
        val=wire.val,
        vals=list(wire.vals),
        nodes=[_filter_node(node) for node in wire.nodes],
    )


def _history(wire: Any) -> HistoryRequest:
    since = None
    if wire.HasField('since'):
        since = Position(_offset(wire.since.offset), wire.since.epoch)
    return HistoryRequest(wire.channel, wire.limit, since, wire.reverse)


_DECODERS: Final[dict[str, Any]] = {
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


# ---- Encoding ------------------------------------------------------------------


def join(messages: Sequence[bytes]) -> bytes:
    """Return one frame with the messages in order."""
    return b''.join(messages)


def encode_reply(command_id: int, result: Result) -> bytes:
    """Return a reply; the result is present even if it is empty."""
    reply = pb.Reply(id=command_id)
    _set(reply, result)
    return _framed(reply)


def encode_result_publication(publication: Publication) -> bytes:
    """Return a publication with its length, an item of `EncodedPublications`."""
    return _framed(_publication(publication))


def encode_error(command_id: int, error: ReplyError) -> bytes:
    """Return an error reply to a command."""
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
        channel: Name of the channel; ``''`` for a push about the connection.
        push: Content of the push.
    """
    return _framed(pb.Reply(push=_push(channel, push)))


def encode_unidirectional_push(channel: str, push: Push) -> bytes:
    """Return a push without an envelope, for unidirectional transports."""
    return _framed(_push(channel, push))


def encode_publication(channel: str, publication: Publication) -> bytes:
    """Return the push of a publication.

    PERF: called once per publication, however many subscribers there are.
    """
    return _framed(
        pb.Reply(push=pb.Push(channel=channel, pub=_publication(publication)))
    )


def encode_unidirectional_publication(channel: str, publication: Publication) -> bytes:
    """Return a publication without an envelope, for unidirectional transports."""
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
    """Copy the fields of a result or push into its Protobuf message."""
    if isinstance(message, ConnectResult):
        for channel, sub in message.subs.items():
            result = pb.SubscribeResult()
            _fill(result, sub)
            wire.subs[channel].CopyFrom(result)  # also creates empty messages
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


def _fill_publications(
    wire: Any, publications: list[Publication] | EncodedPublications
) -> None:
    if isinstance(publications, EncodedPublications):
        # NOTE: a repeated field is encoded as its tag and a value for each item.
        tag = _PUBLICATIONS_TAGS[type(wire)]
        wire.MergeFromString(tag + tag.join(publications))
    else:
        wire.publications.extend(map(_publication, publications))


def _publication(publication: Publication) -> Any:
    delta = None
    if isinstance(publication, DeltaPublication) and publication.patch is not None:
        delta = publication.patch.delta()
    return pb.Publication(
        data=publication.data if delta is None else delta,
        delta=delta is not None,
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
