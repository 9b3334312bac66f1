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

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import itertools
import math
import re
from typing import Any
from typing import Final

import msgspec

from falcon_channels.errors import ProtocolError
from falcon_channels.json_decoding import has_extreme_numbers
from falcon_channels.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL
from falcon_channels.protocol.codes import ReplyError
from falcon_channels.protocol.deltas import DeltaPublication
from falcon_channels.protocol.frame_limits import FrameLimits
from falcon_channels.protocol.json_commands import WIRE_REQUESTS
from falcon_channels.protocol.json_commands import WireConnect
from falcon_channels.protocol.json_commands import WireEmulation
from falcon_channels.protocol.json_commands import WireId
from falcon_channels.protocol.json_commands import WirePublishCommand
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import EmulationRequest
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import Message
from falcon_channels.protocol.messages import PresenceResult
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

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_subs = msgspec.json.Decoder(dict[str, dict[str, msgspec.Raw] | None]).decode
_decode_id = msgspec.json.Decoder(WireId | None).decode
_REQUEST_DECODERS: Final = {
    name: msgspec.json.Decoder(kind | None).decode
    for name, kind in WIRE_REQUESTS.items()
}
_decode_publish = msgspec.json.Decoder(WirePublishCommand).decode
_decode_connect = msgspec.json.Decoder(WireConnect).decode
_decode_emulation = msgspec.json.Decoder(WireEmulation).decode
_encode = msgspec.json.Encoder().encode

# ---- Decoding ------------------------------------------------------------------


def decode_commands(
    frame: str | bytes, limits: FrameLimits | None = None
) -> Iterator[Command]:
    """Yield the commands of one frame, in order.

    Each command is decoded when the caller takes it from the iterator. A frame of many
    commands can therefore be executed in parts, so that it does not block the event
    loop.

    Args:
        frame: Text message, or its bytes. The caller limits its size.
        limits: Limits of the commands (default ``None``: no limits).

    Raises:
        ProtocolError: The next command is not valid. Close the connection with its
            code.
    """
    text = _utf8(frame)
    # PERF: most frames have one command (benchmarks/centrifugo.py).
    if b'\n' not in text:
        if limits is not None:
            limits.check(1, len(text))
        yield _command(text)
        return
    lines = text.split(b'\n')
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    if limits is not None:
        limits.check(len(lines), max(map(len, lines)))
    yield from map(_command, lines)


def decode_connect(body: str | bytes) -> ConnectRequest:
    """Return the request that opens a unidirectional connection.

    Its form is ``{"token": "...", "subs": {}}``, without an envelope.

    Raises:
        ProtocolError: The body is not a connect request. Close the connection with its
            code.
    """
    text = _utf8(body)
    wire: WireConnect = _parse(text, _decode_connect)
    _check_values(text)
    _check_nested('connect', _read_object('connect', text))
    return wire.to_request()


def decode_emulation(body: bytes) -> EmulationRequest:
    """Decode the body ``{"session": "...", "node": "...", "data": "<frame>"}``.

    Raises:
        ProtocolError: The body does not have this form. Answer with HTTP 400.
    """
    text = _utf8(body)
    wire: WireEmulation = _parse(text, _decode_emulation)
    _check_values(text)
    _read_object('of emulation', text)
    return EmulationRequest(wire.session, wire.node, wire.data.encode())


def check_payload(data: bytes) -> None:
    """Check that `data` is JSON that every client can read.

    Raises:
        ProtocolError: `data` is not JSON in UTF-8. Or it has a number outside the range
            of a double, a lone surrogate, or more than `MAX_DEPTH` levels.
    """
    text = _utf8(data)
    try:
        _decode_raw(text)
    except (ValueError, RecursionError) as ex:
        raise ProtocolError(f'not JSON: {ex}') from ex
    _check_values(text, MAX_DEPTH)


def read_payload(text: str) -> bytes:
    """Return the payload of a plain message that consists of JSON.

    Raises:
        ProtocolError: The text does not pass `check_payload`.
    """
    data = _utf8(text)
    check_payload(data)
    return remove_line_breaks(data)


def is_json(data: bytes) -> bool:
    """Return whether `data` passes `check_payload`."""
    try:
        check_payload(data)
    except ProtocolError:
        return False
    return True


def _utf8(text: str | bytes) -> bytes:
    """Return text as UTF-8; check bytes and return them."""
    try:
        if isinstance(text, str):
            return text.encode()
        if not text.isascii():
            text.decode()
    except UnicodeError as ex:
        raise ProtocolError(f'the text is not UTF-8: {ex}') from ex
    return text


def _parse(text: bytes | msgspec.Raw, decode: Any) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError) as ex:
        # NOTE: ValueError is the base of msgspec's errors and of UnicodeDecodeError.
        raise ProtocolError(f'not the expected JSON: {ex}') from ex


def _command(line: bytes) -> Command:
    if line == PING:
        return Command(0, None)
    command = _publish_command(line)
    if command is not None:
        return command
    # NOTE: payloads stay raw. Their syntax is checked, but no Python objects are
    #   created. A text of 64 KiB can contain 30,000 objects.
    fields: dict[str, msgspec.Raw] = _parse(line, _decode_fields)
    _check_values(line)
    command_id, found, name = 0, None, ''
    for field, raw in fields.items():
        if field == 'id':
            command_id = _parse(raw, _decode_id) or 0
        elif decode := _REQUEST_DECODERS.get(field):
            value = _parse(raw, decode)
            if value is None:
                continue
            if found is not None:
                raise ProtocolError('a command has two requests')
            found, name = value, field
    _check_keys(line, fields, name)
    if found is None:
        if fields:
            raise ProtocolError('a command has no known request')
        return Command(0, None)
    request: Request = found.to_request()
    if not command_id and not isinstance(request, SendRequest):
        raise ProtocolError(f'the command {request.field} has no id')
    return Command(command_id, request)


def _publish_command(line: bytes) -> Command | None:
    """Decode a command that publishes; return ``None`` if the line is anything else.

    PERF: most commands publish. Their id, channel and payload are decoded in one step,
    which is a third of the cost of `_command` (benchmarks/centrifugo.py).

    Raises:
        ProtocolError: A value of the command is refused.
    """
    if b'"publish":{"channel":' not in line or b'\\u003' in line:
        return None
    try:
        wire = _decode_publish(line)
    except (ValueError, RecursionError):
        return None
    request = wire.publish
    if request is None or request.channel is None or not wire.id:
        return None
    # NOTE: with these four keys, the text has four more colons than their values. With
    #   a key more, which may be a duplicate, it has at least five.
    colons = 4 + request.channel.count(':') + bytes(request.data).count(b':')
    if not request.data or line.count(b':') != colons:
        return None
    _check_values(line)
    return Command(wire.id, request.to_request())


# ---- Checks of the text itself -------------------------------------------------
#
# PERF: these functions work on the whole text with methods that are written in C. A
# pattern that matches each token takes 20 ms for 64 KiB (benchmarks/blocking.py).

_BRACKETS: Final = b'[]{}'
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_AS_BRACES: Final = bytes.maketrans(b'[]', b'{}')
_OPENING: Final = ord('{')
_SHALLOW: Final = 8
_runs: Final = re.compile(rb'\{+|\}+').findall
# The objects inside a request that belong to its envelope.
_NESTED: Final = {'connect': ('headers', 'subs'), 'history': ('since',)}
_numbers: Final = re.compile(rb'-?[0-9][0-9.eE+-]*').findall


def _check_values(text: bytes, max_depth: int = MAX_DEPTH + _ENVELOPE_DEPTH) -> None:
    """Check what decoding into raw payloads does not check.

    Args:
        text: Valid JSON.
        max_depth: Maximum nesting depth of the text.

    Raises:
        ProtocolError: The text is nested too deep, or a number exceeds the range of a
            double.
    """
    if text.count(b'{') + text.count(b'[') > max_depth and _depth(text) > max_depth:
        raise ProtocolError(f'JSON nests deeper than {MAX_DEPTH} levels')
    if has_extreme_numbers(text):
        for number in set(_numbers(_outside_strings(text))):
            if math.isinf(float(number)):
                raise ProtocolError(f'no double can hold the number {number[:20]!r}')


def _depth(text: bytes) -> int:
    """Return the nesting depth of valid JSON."""
    brackets = _outside_strings(text).translate(_AS_BRACES, _NOT_BRACKETS)
    # NOTE: most objects have few levels. Each replacement removes the innermost level
    #   of all objects. Only few runs of brackets are left after the loop.
    removed = 0
    while brackets and removed < _SHALLOW:
        brackets = brackets.replace(b'{}', b'')
        removed += 1
    depth = deepest = 0
    for run in _runs(brackets):
        if run[0] == _OPENING:
            depth += len(run)
            deepest = max(deepest, depth)
        else:
            depth -= len(run)
    return deepest + removed


def _outside_strings(text: bytes) -> bytes:
    """Return valid JSON without its strings."""
    if b'\\' in text:
        text = text.replace(b'\\\\', b'').replace(b'\\"', b'')
    return b''.join(text.split(b'"')[::2])


def _check_keys(line: bytes, fields: dict[str, msgspec.Raw], name: str) -> None:
    """Refuse a command if one of its objects has a duplicate key.

    Args:
        line: The command.
        fields: Its decoded fields. An ``id`` is a number or null.
        name: Name of its request, or ``''`` if it has none.
    """
    # PERF: nearly all commands are an id and a request, and are checked as one object
    #   (benchmarks/centrifugo.py).
    if name and fields.keys() == {'id', name} and b'\\u003' not in line:
        request = _decode_fields(fields[name])
        if _has_all_colons(line, [*fields, *request], request.values()):
            _check_nested(name, request)
            return
    _read_object('of a command', line)
    if name:
        _check_nested(name, _read_object(name, bytes(fields[name])))


def _check_nested(name: str, fields: dict[str, msgspec.Raw]) -> None:
    """Refuse a request if an object inside its envelope has a duplicate key."""
    for inner in _NESTED.get(name, ()):
        value = bytes(fields.get(inner, b'null'))
        if value == b'null':
            continue
        if inner == 'subs':
            _check_subs(_unescape_colons(value))
        else:
            _read_object(inner, value)


def _read_object(name: str, text: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields of an object.

    Raises:
        ProtocolError: The text is not an object, or the object has a duplicate key.
    """
    fields: dict[str, msgspec.Raw] = _parse(text, _decode_fields)
    if b'\\u003' in text:
        text = _unescape_colons(text)
        checked = _decode_fields(text)
    else:
        checked = fields
    _check_colons(name, text, checked, checked.values())
    return fields


def _check_subs(text: bytes) -> None:
    # NOTE: there can be thousands of subscriptions. They are checked together.
    subs = _decode_subs(text)
    objects = [sub for sub in subs.values() if sub]
    keys = [*subs, *itertools.chain.from_iterable(objects)]
    values = itertools.chain.from_iterable(map(dict.values, objects))
    _check_colons('subs', text, keys, values)


def _check_colons(
    name: str, text: bytes, keys: Collection[str], values: Iterable[msgspec.Raw]
) -> None:
    """Refuse a text if a key of its objects occurs twice; see `_has_all_colons`.

    Raises:
        ProtocolError: A key occurs twice in the object.
    """
    if not _has_all_colons(text, keys, values):
        raise ProtocolError(f'the object {name} has a duplicate key')


def _has_all_colons(
    text: bytes, keys: Collection[str], values: Iterable[msgspec.Raw]
) -> bool:
    """Return whether the decoded keys and values have all colons of a text.

    If a key occurs twice, a decoder returns only the last value. The text then has more
    colons than the decoded object.
    """
    return text.count(b':') == (
        len(keys) + ''.join(keys).count(':') + b''.join(values).count(b':')
    )


def _unescape_colons(text: bytes) -> bytes:
    """Write escaped colons as colons, so that they can be counted.

    SECURITY: otherwise, an escaped colon in a key could hide the colon of a duplicate
    key.
    """
    text = text.replace(b'\\\\', b'\\ufdd0')
    return text.replace(b'\\u003a', b':').replace(b'\\u003A', b':')


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
    return b'{"push":{"channel":%s,"pub":{%s}}}' % (
        _encode(channel),
        publication_fields(publication),
    )


def encode_unidirectional_publication(channel: str, publication: Publication) -> bytes:
    """Return a publication without an envelope, for unidirectional transports."""
    return b'{"channel":%s,"pub":{%s}}' % (
        _encode(channel),
        publication_fields(publication),
    )


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
    if isinstance(publication, DeltaPublication):
        parts = _delta_data(publication)
    else:
        parts = [b'"data":', remove_line_breaks(publication.data) or b'null']
    if publication.info is not None:
        parts += (b',"info":', _encode(_wire_info(publication.info)))
    if publication.offset:
        parts.append(b',"offset":%d' % publication.offset)
    if publication.tags:
        parts += (b',"tags":', _encode(publication.tags))
    if publication.time_ms:
        parts.append(b',"time":%d' % publication.time_ms)
    return b''.join(parts)


def _delta_data(publication: DeltaPublication) -> list[bytes]:
    """Return ``"data":"o\\n9@0,5:world...;","delta":true``, or a payload as a string.

    Raises:
        ProtocolError: The payload is not text in UTF-8. Its code is 3506.
    """
    delta = None if publication.patch is None else publication.patch.delta()
    if delta is not None:
        try:
            return [b'"data":', _encode(delta.decode()), b',"delta":true']
        except UnicodeDecodeError:
            pass  # sent whole
    try:
        return [b'"data":', _encode(publication.data.decode())]
    except UnicodeDecodeError:
        raise ProtocolError(
            'a publication that is not text cannot be sent to a JSON connection',
            *DISCONNECT_INAPPROPRIATE_PROTOCOL,
        ) from None


def _publication(publication: Publication) -> bytes:
    return b'{%s}' % publication_fields(publication)


def _body(message: Message) -> bytes:
    # PERF: the reply to a publish has no fields (benchmarks/centrifugo.py).
    return _encode(_wire(message)) if message.__struct_fields__ else b'{}'


def _wire(value: Any) -> Any:
    """Return a value for msgspec, with payloads but without zero values."""
    convert = _WIRE_FORMS.get(type(value))
    if convert is not None:
        return convert(value)
    return _wire_message(value) if isinstance(value, Message) else value


def _wire_message(message: Message) -> Message | dict[str, Any]:
    # PERF: msgspec leaves out zero values itself. Most replies need no more
    #   (benchmarks/centrifugo.py).
    if not message.always and not any(
        (value := getattr(message, name)) or isinstance(value, EncodedPublications)
        for name in _converted_fields(type(message))
    ):
        return message
    return {
        name: _wire(item)
        for name in message.__struct_fields__
        if (item := getattr(message, name)) or name in message.always
    }


@functools.cache
def _converted_fields(kind: type[Message]) -> tuple[str, ...]:
    """Return the fields of a message that can have payloads."""
    fields = msgspec.structs.fields(kind)
    return tuple(f.name for f in fields if f.type not in (str, int, bool))


def _wire_payload(data: bytes) -> msgspec.Raw:
    return msgspec.Raw(remove_line_breaks(data))


def _wire_presence(result: PresenceResult) -> dict[str, Any]:
    # PERF: a result has a client info for each connection, mostly without payloads.
    #   msgspec writes these infos itself (benchmarks/centrifugo.py).
    infos = result.presence
    with_payloads = {
        client: _wire_info(info)
        for client, info in infos.items()
        if info.conn_info is not None or info.chan_info is not None
    }
    return {'presence': {**infos, **with_payloads} if with_payloads else infos}


def _wire_info(info: ClientInfo) -> ClientInfo | dict[str, Any]:
    if info.conn_info is None and info.chan_info is None:
        return info
    fields: dict[str, Any] = {'user': info.user, 'client': info.client}
    if info.conn_info:
        fields['conn_info'] = _wire_payload(info.conn_info)
    if info.chan_info:
        fields['chan_info'] = _wire_payload(info.chan_info)
    return fields


def _wire_dict(items: dict[str, Any]) -> dict[str, Any]:
    return {key: _wire(item) for key, item in items.items()}


def _wire_publications(publications: list[Publication]) -> msgspec.Raw:
    # NOTE: the only lists in the protocol are lists of publications.
    return _wire_encoded(map(_publication, publications))


def _wire_encoded(parts: Iterable[bytes]) -> msgspec.Raw:
    return msgspec.Raw(b'[%s]' % b','.join(parts))


#: Functions that convert the values of these types, by type.
_WIRE_FORMS: Final[dict[type, Callable[[Any], Any]]] = {
    bytes: _wire_payload,
    ClientInfo: _wire_info,
    dict: _wire_dict,
    list: _wire_publications,
    EncodedPublications: _wire_encoded,
    PresenceResult: _wire_presence,
}
