"""JSON: commands in, replies and pushes out.

A frame is one text message (or HTTP body): JSON objects separated by one ``\\n``,
with or without one at the end, in both directions. `decode_commands` reads it;
the ``encode_`` functions return one object each, and `join` makes a frame of several.

Reading is strict, because what is read here is spliced into what others are sent:

* every object is whole, valid JSON in UTF-8: no NaN or Infinity, no number beyond a
  double, no lone surrogate, and no more than `MAX_DEPTH` levels in a payload;
* an envelope has no key twice. Which of the two counts is a question on which
  parsers differ, and a proxy that checked the first would let the second pass;
* whatever is wrong raises `ProtocolError` and nothing else.

Fields that this package does not know are passed over, as in Protobuf: clients get
new ones. ``null`` is the same as leaving a field out, except for a payload.
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
from falcon_channels.protocol.json_wire import WireCommand
from falcon_channels.protocol.json_wire import WireConnect
from falcon_channels.protocol.json_wire import WireEmulation
from falcon_channels.protocol.json_wire import WirePublish
from falcon_channels.protocol.json_wire import WireRefresh
from falcon_channels.protocol.json_wire import WireRpc
from falcon_channels.protocol.json_wire import WireSend
from falcon_channels.protocol.json_wire import WireSub
from falcon_channels.protocol.json_wire import WireSubRefresh
from falcon_channels.protocol.json_wire import WireUnsubscribe
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import EmulationRequest
from falcon_channels.protocol.messages import Message
from falcon_channels.protocol.messages import Parts
from falcon_channels.protocol.messages import Push
from falcon_channels.protocol.messages import Request
from falcon_channels.protocol.messages import Result
from falcon_channels.protocol.messages import SendRequest
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication

#: Whether frames are binary messages.
BINARY: Final = False
#: A server's ping, and a client's pong.
PING: Final = b'{}'
#: How deep a payload may nest.
MAX_DEPTH: Final = 32
# The envelope around a payload: the command and the request.
_ENVELOPE_DEPTH: Final = 2

_REQUEST_FIELDS: Final = frozenset(WireCommand.__struct_fields__) - {'id'}

_decode_any = msgspec.json.Decoder().decode
_decode_command = msgspec.json.Decoder(WireCommand).decode
_decode_connect = msgspec.json.Decoder(WireConnect).decode
_decode_emulation = msgspec.json.Decoder(WireEmulation).decode
_encode = msgspec.json.Encoder().encode

# ---- Reading -------------------------------------------------------------------


def decode_commands(frame: str | bytes) -> list[Command]:
    """Return the commands of one frame, in order.

    Args:
        frame: A text message, or its bytes. Its size is the transport's to limit.

    Raises:
        ProtocolError: Not a frame of commands; close with its code.
    """
    lines = _bytes(frame).split(b'\n')
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    return [_command(line) for line in lines]


def decode_connect(body: str | bytes) -> ConnectRequest:
    """Return the bare request that opens a unidirectional connection.

    The shape is ``{"token": "...", "subs": {}}``, without an envelope.

    Raises:
        ProtocolError: Not a connect request; close with its code.
    """
    text = _bytes(body)
    _check(text)
    wire: WireConnect = _parse(text, _decode_connect)
    if not _envelope_is_unique(text, payload_level=1):
        raise ProtocolError('a key of the connect request is there twice')
    return wire.request()


def decode_emulation(body: bytes) -> EmulationRequest:
    """Return the body ``{"session": "...", "node": "...", "data": "<frame>"}``.

    Raises:
        ProtocolError: Not such a body; answer 400.
    """
    _check(body)
    wire: WireEmulation = _parse(body, _decode_emulation)
    if not _envelope_is_unique(body, payload_level=0):
        raise ProtocolError('a key of the emulation request is there twice')
    return EmulationRequest(wire.session, wire.node, wire.data.encode())


def check_payload(data: bytes) -> None:
    """Return if `data` is JSON that every client can read.

    Raises:
        ProtocolError: Not JSON in UTF-8, a number that no double holds, a lone
            surrogate, or more than `MAX_DEPTH` levels.
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
        raise ProtocolError('text that is not Unicode') from ex


def _parse(text: bytes, decode: Any) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError) as ex:
        # NOTE: msgspec's own errors and UnicodeDecodeError are all ValueError.
        raise ProtocolError(f'not the JSON that was expected: {ex}') from ex


def _check(text: bytes) -> Any:
    # PERF: raw payloads are passed over when a message is decoded into its type,
    #   numbers and UTF-8 unchecked, so each text is decoded twice. That costs 0.4 us
    #   for a chat message; finding out in each subscriber costs more.
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
                raise ProtocolError('a command with two requests')
            found = value
    if not (
        _is_simple(line, parsed, found) or _envelope_is_unique(line, payload_level=2)
    ):
        raise ProtocolError('a key of a command is there twice')
    command_id = wire.id or 0
    if found is None:
        if parsed:
            raise ProtocolError('a command without a request that is known')
        return Command(0, None)
    request: Request = found.request()
    if not command_id and not isinstance(request, SendRequest):
        raise ProtocolError(f'{request.field} without an id')
    return Command(command_id, request)


# ---- Checks of the text itself -------------------------------------------------

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_strip_strings = re.compile(_STRING).sub
_brackets = re.compile(rb'[\[{]+|[\]}]+').finditer
# A name of the envelope spelled with escapes, `"\\u0063hannel":`, or what may be one.
_hidden_name = re.compile(
    rb'\\u[0-9a-fA-F]{4}(?:[a-z_]|\\u[0-9a-fA-F]{4}){0,13}+"\s*:'
).search
_tokens = re.compile(rb'(' + _STRING + rb')(\s*:)?|([{}\[\]])').finditer


def _depth(text: bytes) -> int:
    """Return how deep valid JSON nests, or less than it may if that is plain."""
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


# The names that count in a command, by the type on the wire. Connect is not here: the
# names of its subscriptions are repeated by right.
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
        ('subscribe', WireSub),
        ('unsubscribe', WireUnsubscribe),
        ('publish', WirePublish),
        ('send', WireSend),
        ('rpc', WireRpc),
        ('refresh', WireRefresh),
        ('sub_refresh', WireSubRefresh),
    )
}


def _is_simple(line: bytes, parsed: dict[str, Any], wire: Any) -> bool:
    """Return whether it is plain, from counting, that no key is there twice.

    PERF: most lines are; the exact answer costs several times as much.

    Args:
        line: The command.
        parsed: What a parser made of it.
        wire: Its request.
    """
    row = _NAMES.get(type(wire))
    if row is None or (b'\\u' in line and _hidden_name(line)):
        return False
    field, envelope_keys, request_keys, quoted = row
    if not (parsed.keys() <= envelope_keys and parsed[field].keys() <= request_keys):
        return False
    return all(line.count(name) <= 1 for name in quoted)


def _envelope_is_unique(text: bytes, payload_level: int) -> bool:
    """Return whether no object of the envelope of valid JSON has a key twice.

    Args:
        text: Valid JSON.
        payload_level: How many objects there are around a key ``data`` that holds
            a payload, which is the application's own and not looked into.
    """
    # The keys of each open object of the envelope, None for what is not looked into.
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
            looked_into = bracket == b'{' and not (
                inside and (open_objects[-1] is None or opaque)
            )
            open_objects.append(set() if looked_into else None)
    return True


# ---- Writing -------------------------------------------------------------------


def join(messages: Sequence[bytes]) -> bytes:
    """Return one frame that carries the messages in order."""
    return b'\n'.join(messages)


def encode_reply(command_id: int, result: Result) -> bytes:
    """Return ``{"id":2,"subscribe":{"recoverable":true,"offset":7}}``.

    The result is there even when it is empty; zero values are left out of it.
    """
    return b'{"id":%d,"%s":%s}' % (command_id, result.field.encode(), _body(result))


def encode_part(publication: Publication) -> bytes:
    """Return a publication for the `Parts` of a result, ``{"data":...,"offset":1}``.

    Raises:
        ProtocolError: The payload is binary: code 3506.
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
        channel: The channel; ``''`` for a push about the connection.
        push: What to say.
    """
    return b'{"push":%s}' % encode_bare_push(channel, push)


def encode_bare_push(channel: str, push: Push) -> bytes:
    """Return a push as unidirectional transports send it, without ``{"push":...}``."""
    if not channel:
        return b'{"%s":%s}' % (push.field.encode(), _body(push))
    return b'{"channel":%s,"%s":%s}' % (
        _encode(channel),
        push.field.encode(),
        _body(push),
    )


def encode_publication(channel: str, publication: Publication) -> bytes:
    """Return ``{"push":{"channel":"rooms:1","pub":{"data":...,"offset":1}}}``.

    PERF: called once for a publication, however many subscribers there are.

    Raises:
        ProtocolError: The payload is binary: code 3506.
    """
    return b'{"push":%s}' % encode_bare_publication(channel, publication)


def encode_bare_publication(channel: str, publication: Publication) -> bytes:
    """Return a publication as unidirectional transports send it."""
    return b'{"channel":%s,"pub":%s}' % (_encode(channel), _publication(publication))


def one_line(data: bytes) -> bytes:
    """Return JSON without raw line ends, which separate messages here and in SSE.

    Valid JSON has them between tokens only; in its strings they are escaped.
    """
    if b'\n' in data or b'\r' in data:
        return data.translate(None, b'\r\n')
    return data


def publication_fields(publication: Publication) -> bytes:
    """Return the inside of a publication's object, ``"data":...,"offset":1``.

    Raises:
        ProtocolError: The payload is binary: code 3506.
    """
    if publication.binary:
        raise ProtocolError(
            'a binary publication for a connection that speaks JSON',
            *DISCONNECT_INAPPROPRIATE_PROTOCOL,
        )
    parts = [b'"data":', one_line(publication.data) or b'null']
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
    """Return values that msgspec writes: payloads spliced, zero values left out."""
    if isinstance(value, bytes):
        return msgspec.Raw(one_line(value))
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
        # NOTE: the only lists of the protocol are those of publications.
        parts = value if isinstance(value, Parts) else map(_publication, value)
        return msgspec.Raw(b'[%s]' % b','.join(parts))
    return value
