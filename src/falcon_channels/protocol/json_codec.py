"""JSON: decodes commands, encodes replies and pushes.

A frame is one text message or HTTP body. In both directions it consists of JSON objects
separated by ``\\n``; a trailing ``\\n`` is allowed. `decode_commands` reads a frame.
Each ``encode_`` function returns one object, and `join` makes a frame of several
objects.

Decoding is strict, because decoded payloads are spliced into messages to other clients:

* Every object is complete, valid JSON in UTF-8: no NaN or Infinity, no number outside
  the range of a double, no lone surrogate, and at most `MAX_DEPTH` levels in a payload.
* No envelope has a duplicate key. Parsers differ on which of the two values counts. A
  proxy that checks the first one would let the second one pass.
* Every error is a `ProtocolError`; no other exception is raised.

Unknown fields are ignored, as in Protobuf, because newer clients send more of them.
``null`` has the same meaning as a missing field, except for a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set
import re
from typing import Any
from typing import Final

import msgspec

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL
from falcon_channels.protocol.codes import ReplyError
from falcon_channels.protocol.frame_limits import FrameLimits
from falcon_channels.protocol.json_commands import WireCommand
from falcon_channels.protocol.json_commands import WireConnect
from falcon_channels.protocol.json_commands import WireEmulation
from falcon_channels.protocol.json_commands import WirePublish
from falcon_channels.protocol.json_commands import WireRefresh
from falcon_channels.protocol.json_commands import WireRpc
from falcon_channels.protocol.json_commands import WireSend
from falcon_channels.protocol.json_commands import WireSubRefresh
from falcon_channels.protocol.json_commands import WireSubscribe
from falcon_channels.protocol.json_commands import WireUnsubscribe
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import EmulationRequest
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import Message
from falcon_channels.protocol.messages import Push
from falcon_channels.protocol.messages import Request
from falcon_channels.protocol.messages import Result
from falcon_channels.protocol.messages import SendRequest
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication

#: Whether frames are binary messages.
BINARY: Final = False
#: Bytes of a server's ping and of a client's pong.
PING: Final = b'{}'
#: Maximum nesting depth of a payload, in levels.
MAX_DEPTH: Final = 32
# Levels of the envelope around a payload: the command and the request.
_ENVELOPE_DEPTH: Final = 2

_REQUEST_FIELDS: Final = frozenset(WireCommand.__struct_fields__) - {'id'}

_decode_any = msgspec.json.Decoder().decode
_decode_command = msgspec.json.Decoder(WireCommand).decode
_decode_connect = msgspec.json.Decoder(WireConnect).decode
_decode_emulation = msgspec.json.Decoder(WireEmulation).decode
_encode = msgspec.json.Encoder().encode

# ---- Decoding ------------------------------------------------------------------


def decode_commands(
    frame: str | bytes, limits: FrameLimits | None = None
) -> list[Command]:
    """Return the commands of one frame, in order.

    Args:
        frame: Text message, or its bytes. The caller limits its size.
        limits: Limits of the commands (default ``None``: no limits).

    Raises:
        ProtocolError: The frame is not valid. Close the connection with its code.
    """
    lines = _bytes(frame).split(b'\n')
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    if limits is not None:
        limits.check(lines)
    return [_command(line) for line in lines]


def decode_connect(body: str | bytes) -> ConnectRequest:
    """Return the request that opens a unidirectional connection.

    Its form is ``{"token": "...", "subs": {}}``, without an envelope.

    Raises:
        ProtocolError: The body is not a connect request. Close the connection with its
            code.
    """
    text = _bytes(body)
    _check(text)
    wire: WireConnect = _parse(text, _decode_connect)
    if not _envelope_is_unique(text, payload_level=1):
        raise ProtocolError('the connect request has a duplicate key')
    return wire.to_request()


def decode_emulation(body: bytes) -> EmulationRequest:
    """Decode the body ``{"session": "...", "node": "...", "data": "<frame>"}``.

    Raises:
        ProtocolError: The body does not have this form. Answer with HTTP 400.
    """
    _check(body)
    wire: WireEmulation = _parse(body, _decode_emulation)
    if not _envelope_is_unique(body, payload_level=0):
        raise ProtocolError('the emulation request has a duplicate key')
    return EmulationRequest(wire.session, wire.node, wire.data.encode())


def check_payload(data: bytes) -> None:
    """Check that `data` is JSON that every client can read.

    Raises:
        ProtocolError: `data` is not JSON in UTF-8. Or it has a number outside the range
            of a double, a lone surrogate, or more than `MAX_DEPTH` levels.
    """
    _parse(data, _decode_any)
    if _depth(data) > MAX_DEPTH:
        raise ProtocolError(f'JSON nests deeper than {MAX_DEPTH} levels')


def is_json(data: bytes) -> bool:
    """Return whether `data` passes `check_payload`."""
    try:
        check_payload(data)
    except ProtocolError:
        return False
    return True


def _bytes(frame: str | bytes) -> bytes:
    if isinstance(frame, bytes):
        return frame
    try:
        return frame.encode()
    except UnicodeEncodeError as ex:
        raise ProtocolError('the text has a lone surrogate') from ex


def _parse(text: bytes, decode: Any) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError) as ex:
        # NOTE: ValueError is the base of msgspec's errors and of UnicodeDecodeError.
        raise ProtocolError(f'not the expected JSON: {ex}') from ex


def _check(text: bytes) -> Any:
    # NOTE: decoding into a type does not check numbers and UTF-8 in raw payloads. Each
    #   text is therefore decoded twice, which costs 0.4 us for a chat message.
    #   Otherwise a wrong payload would cause an error in every subscriber.
    value = _parse(text, _decode_any)
    if _depth(text) > MAX_DEPTH + _ENVELOPE_DEPTH:
        raise ProtocolError(f'JSON nests deeper than {MAX_DEPTH} levels')
    return value


def _command(line: bytes) -> Command:
    if line == PING:
        return Command(0, None)
    parsed = _check(line)
    wire: WireCommand = _parse(line, _decode_command)
    found = None
    for name in parsed:
        value = getattr(wire, name) if name in _REQUEST_FIELDS else None
        if value is not None:
            if found is not None:
                raise ProtocolError('a command has two requests')
            found = value
    if not (
        _is_simple(line, parsed, found) or _envelope_is_unique(line, payload_level=2)
    ):
        raise ProtocolError('a command has a duplicate key')
    command_id = wire.id or 0
    if found is None:
        if parsed:
            raise ProtocolError('a command has no known request')
        return Command(0, None)
    request: Request = found.to_request()
    if not command_id and not isinstance(request, SendRequest):
        raise ProtocolError(f'the command {request.field} has no id')
    return Command(command_id, request)


# ---- Checks of the text itself -------------------------------------------------

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_strip_strings = re.compile(_STRING).sub
_brackets = re.compile(rb'[\[{]+|[\]}]+').finditer
# A name of the envelope that is or may be written with escapes: `"\\u0063hannel":`.
_hidden_name = re.compile(
    rb'\\u[0-9a-fA-F]{4}(?:[a-z_]|\\u[0-9a-fA-F]{4}){0,13}+"\s*:'
).search
_tokens = re.compile(rb'(' + _STRING + rb')(\s*:)?|([{}\[\]])').finditer


def _depth(text: bytes) -> int:
    """Return the nesting depth of valid JSON, or an upper bound within the limit."""
    opening = text.count(b'{') + text.count(b'[')
    if opening <= MAX_DEPTH:
        return opening
    depth = deepest = 0
    for run in _brackets(_strip_strings(b'', text)):
        size = run.end() - run.start()
        if run.group()[0] in b'[{':
            depth += size
            deepest = max(deepest, depth)
        else:
            depth -= size
    return deepest


# The names that may occur once in a command, by type on the wire. Connect is missing,
# because each of its subscriptions repeats the same names.
_NAMES: Final[dict[Any, tuple[str, Set[str], Set[str], tuple[bytes, ...]]]] = {
    wire: (
        field,
        frozenset({'id', field}),
        frozenset(wire.__struct_fields__),
        tuple(
            b'"%s"' % name.encode() for name in ('id', field, *wire.__struct_fields__)
        ),
    )
    for field, wire in (
        ('subscribe', WireSubscribe),
        ('unsubscribe', WireUnsubscribe),
        ('publish', WirePublish),
        ('send', WireSend),
        ('rpc', WireRpc),
        ('refresh', WireRefresh),
        ('sub_refresh', WireSubRefresh),
    )
}


def _is_simple(line: bytes, parsed: dict[str, Any], wire: Any) -> bool:
    """Return whether counting names is enough to rule out a duplicate key.

    PERF: it is enough for most lines; the exact check costs several times as much.

    Args:
        line: The command as JSON.
        parsed: The decoded command.
        wire: The request of the command.
    """
    row = _NAMES.get(type(wire))
    if row is None or (b'\\u' in line and _hidden_name(line)):
        return False
    field, envelope_keys, request_keys, quoted = row
    if not (parsed.keys() <= envelope_keys and parsed[field].keys() <= request_keys):
        return False
    return all(line.count(name) <= 1 for name in quoted)


def _envelope_is_unique(text: bytes, payload_level: int) -> bool:
    """Return whether no object of the envelope has a duplicate key.

    Args:
        text: Valid JSON.
        payload_level: Number of objects around a key ``data`` that holds a payload.
            Payloads belong to the application and are not checked.
    """
    # The keys of each open object of the envelope; None for an unchecked value.
    open_objects: list[set[str] | None] = []
    key = ''
    for match in _tokens(text):
        string, colon, bracket = match.groups()
        if bracket is None:
            keys = open_objects[-1] if open_objects else None
            if colon is not None and keys is not None:
                key = msgspec.json.decode(string, type=str)
                if key in keys:
                    return False
                keys.add(key)
        elif bracket in b'}]':
            open_objects.pop()
        else:
            inside = len(open_objects)
            opaque = inside == payload_level and key == 'data'
            checked = bracket == b'{' and not (
                inside and (open_objects[-1] is None or opaque)
            )
            open_objects.append(set() if checked else None)
    return True


# ---- Encoding ------------------------------------------------------------------


def join(messages: Sequence[bytes]) -> bytes:
    """Return one frame with the messages in order."""
    return b'\n'.join(messages)


def encode_reply(command_id: int, result: Result) -> bytes:
    """Return ``{"id":2,"subscribe":{"recoverable":true,"offset":7}}``.

    The result is present even if it is empty; its zero values are left out.
    """
    return b'{"id":%d,"%s":%s}' % (command_id, result.field.encode(), _body(result))


def encode_result_publication(publication: Publication) -> bytes:
    """Return ``{"data":...,"offset":1}``, an item of `EncodedPublications`.

    Raises:
        ProtocolError: The payload is binary. Its code is 3506.
    """
    return _publication(publication)


def encode_error(command_id: int, error: ReplyError) -> bytes:
    """Return ``{"id":2,"error":{"code":103,"message":"permission denied"}}``."""
    body: dict[str, Any] = {'code': error.code, 'message': error.message}
    if error.temporary:
        body['temporary'] = True
    return b'{"id":%d,"error":%s}' % (command_id, _encode(body))


def encode_push(channel: str, push: Push) -> bytes:
    """Return ``{"push":{"channel":"rooms:1","join":{"info":{...}}}}``.

    Args:
        channel: Name of the channel; ``''`` for a push about the connection.
        push: Content of the push.
    """
    return b'{"push":%s}' % encode_unidirectional_push(channel, push)


def encode_unidirectional_push(channel: str, push: Push) -> bytes:
    """Return a push for unidirectional transports, without ``{"push":...}``."""
    if not channel:
        return b'{"%s":%s}' % (push.field.encode(), _body(push))
    return b'{"channel":%s,"%s":%s}' % (
        _encode(channel),
        push.field.encode(),
        _body(push),
    )


def encode_publication(channel: str, publication: Publication) -> bytes:
    """Return ``{"push":{"channel":"rooms:1","pub":{"data":...,"offset":1}}}``.

    PERF: called once per publication, however many subscribers there are.

    Raises:
        ProtocolError: The payload is binary. Its code is 3506.
    """
    return b'{"push":%s}' % encode_unidirectional_publication(channel, publication)


def encode_unidirectional_publication(channel: str, publication: Publication) -> bytes:
    """Return a publication without an envelope, for unidirectional transports."""
    return b'{"channel":%s,"pub":%s}' % (_encode(channel), _publication(publication))


def remove_line_breaks(data: bytes) -> bytes:
    """Return JSON without raw line breaks, which separate messages here and in SSE.

    Valid JSON has line breaks only between tokens; inside strings they are escaped.
    """
    if b'\n' in data or b'\r' in data:
        return data.translate(None, b'\r\n')
    return data


def publication_fields(publication: Publication) -> bytes:
    """Return the fields of a publication without braces, ``"data":...,"offset":1``.

    Raises:
        ProtocolError: The payload is binary. Its code is 3506.
    """
    if publication.binary:
        raise ProtocolError(
            'a binary publication cannot be sent to a JSON connection',
            *DISCONNECT_INAPPROPRIATE_PROTOCOL,
        )
    parts = [b'"data":', remove_line_breaks(publication.data) or b'null']
    if publication.info is not None:
        parts += (b',"info":', _encode(_wire(publication.info)))
    if publication.offset:
        parts.append(b',"offset":%d' % publication.offset)
    if publication.tags:
        parts += (b',"tags":', _encode(publication.tags))
    if publication.time_ms:
        parts.append(b',"time":%d' % publication.time_ms)
    return b''.join(parts)


def _publication(publication: Publication) -> bytes:
    return b'{%s}' % publication_fields(publication)


def _body(message: Message) -> bytes:
    return _encode(_wire(message))


def _wire(value: Any) -> Any:
    """Return a value for msgspec, with payloads but without zero values."""
    if isinstance(value, bytes):
        return msgspec.Raw(remove_line_breaks(value))
    if isinstance(value, Message):
        return {
            name: _wire(item)
            for name in value.__struct_fields__
            if (item := getattr(value, name)) or name in value.always
        }
    if isinstance(value, ClientInfo):
        info: dict[str, Any] = {'user': value.user, 'client': value.client}
        if value.conn_info:
            info['conn_info'] = _wire(value.conn_info)
        if value.chan_info:
            info['chan_info'] = _wire(value.chan_info)
        return info
    if isinstance(value, dict):
        return {key: _wire(item) for key, item in value.items()}
    if isinstance(value, list):
        # NOTE: the only lists in the protocol are lists of publications.
        parts = (
            value
            if isinstance(value, EncodedPublications)
            else map(_publication, value)
        )
        return msgspec.Raw(b'[%s]' % b','.join(parts))
    return value
