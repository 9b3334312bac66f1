"""The JSON codec: what it reads, what it refuses, what it writes."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import json_codec
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import ConnectRequest
from falcon_channels.protocol.messages import FilterNode
from falcon_channels.protocol.messages import HistoryRequest
from falcon_channels.protocol.messages import PingRequest
from falcon_channels.protocol.messages import PresenceRequest
from falcon_channels.protocol.messages import PresenceStatsRequest
from falcon_channels.protocol.messages import PublishRequest
from falcon_channels.protocol.messages import RefreshRequest
from falcon_channels.protocol.messages import RpcRequest
from falcon_channels.protocol.messages import SendRequest
from falcon_channels.protocol.messages import SubRefreshRequest
from falcon_channels.protocol.messages import SubscribeRequest
from falcon_channels.protocol.messages import UnsubscribeRequest
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

READ = [
    ('{}', Command(0, None)),
    ('{ }', Command(0, None)),
    ('{"id":1,"connect":{}}', Command(1, ConnectRequest())),
    (
        (
            '{"id":1,"connect":{"token":"t","data":{"a": 1},"name":"js","version":"5",'
            '"headers":{"X":"y"},"subs":{"news":{"recover":true,"offset":5,"epoch":"e"},'
            '"old":{}},"flag":1,"profile":"p","dict":"d"}}'
        ),
        Command(
            1,
            ConnectRequest(
                token='t',
                data=b'{"a": 1}',
                subs={
                    'news': SubscribeRequest(recover=True, offset=5, epoch='e'),
                    'old': SubscribeRequest(),
                },
                name='js',
                version='5',
                headers={'X': 'y'},
            ),
        ),
    ),
    (
        (
            '{"id":2,"subscribe":{"channel":"a","token":"t","data":[1],"recover":true,'
            '"offset":9007199254740993,"epoch":"e","positioned":true,"recoverable":true,'
            '"join_leave":true,"delta":"fossil","tf":{"op":"and"},"flag":3,"type":4}}'
        ),
        Command(
            2,
            SubscribeRequest(
                channel='a',
                token='t',
                recover=True,
                offset=9007199254740993,
                epoch='e',
                data=b'[1]',
                positioned=True,
                recoverable=True,
                join_leave=True,
                delta='fossil',
                tf=FilterNode(op='and'),
                flag=3,
                type=4,
            ),
        ),
    ),
    (
        '{"id":2,"subscribe":{"channel":"a","token":null,"tf":null,"offset":null}}',
        Command(2, SubscribeRequest(channel='a')),
    ),
    ('{"id":3,"unsubscribe":{"channel":"a"}}', Command(3, UnsubscribeRequest('a'))),
    (
        '{"id":4,"publish":{"channel":"a","data":null}}',
        Command(4, PublishRequest('a', b'null')),
    ),
    ('{"id":4,"publish":{"channel":"a"}}', Command(4, PublishRequest('a', None))),
    (
        '{"id":4,"publish":{"channel":"\\u0061","data":"\\ud83d\\ude00"}}',
        Command(4, PublishRequest('a', b'"\\ud83d\\ude00"')),
    ),
    (
        '{"id":4,"publish":{"channel":"a","data":{"id":1,"id":2,"data":{"x":1,"x":2}}}}',
        Command(4, PublishRequest('a', b'{"id":1,"id":2,"data":{"x":1,"x":2}}')),
    ),
    ('{"id":5,"presence":{"channel":"a"}}', Command(5, PresenceRequest('a'))),
    (
        '{"id":6,"presence_stats":{"channel":"a"}}',
        Command(6, PresenceStatsRequest('a')),
    ),
    ('{"id":7,"history":{"channel":"a"}}', Command(7, HistoryRequest('a'))),
    (
        (
            '{"id":7,"history":{"channel":"a","limit":-1,"since":{"offset":3,"epoch":"e"},'
            '"reverse":true}}'
        ),
        Command(7, HistoryRequest('a', -1, Position(3, 'e'), True)),
    ),
    (
        '{"id":7,"history":{"channel":"a","since":{}}}',
        Command(7, HistoryRequest('a', 0, Position(0, ''))),
    ),
    ('{"id":8,"ping":{}}', Command(8, PingRequest())),
    ('{"send":{"data":"x"}}', Command(0, SendRequest(b'"x"'))),
    ('{"id":9,"rpc":{}}', Command(9, RpcRequest())),
    (
        '{"id":9,"rpc":{"method":"m","data":1.5e3}}',
        Command(9, RpcRequest(b'1.5e3', 'm')),
    ),
    ('{"id":10,"refresh":{"token":"t"}}', Command(10, RefreshRequest('t'))),
    (
        '{"id":11,"sub_refresh":{"channel":"a","token":"t","type":1}}',
        Command(11, SubRefreshRequest('a', 't', 1)),
    ),
    (
        '{"id":4294967295,"ping":{},"publish":null,"new":1}',
        Command(4294967295, PingRequest()),
    ),
]


@pytest.mark.parametrize(('text', 'command'), READ)
def test_each_command_is_decoded(text: str, command: Command) -> None:
    """Each command becomes its request, from text and from bytes."""
    assert [command] == decode_all(text)
    assert [command] == decode_all(text.encode())


@pytest.mark.parametrize('end', ['', '\n'])
def test_batch_of_commands_is_decoded_in_order(end: str) -> None:
    """Commands of one frame come out in the order that they were sent in."""
    frame = '\n'.join(text for text, _ in READ) + end
    assert [command for _, command in READ] == decode_all(frame)


def nested(depth: int) -> str:
    return '{"id":1,"rpc":{"data":%s}}' % ('[' * depth + ']' * depth)


def decode_all(frame: str | bytes) -> list[Command]:
    """Return all commands of a frame."""
    return list(json_codec.decode_commands(frame))


WRONG = {
    'empty frame': '',
    'only a line end': '\n',
    'empty line': '{}\n\n{}',
    'two line ends': '{}\n\n',
    'no JSON': 'hello',
    'not an object': '[]',
    'a number': '1',
    'null': 'null',
    'two objects in a line': '{}{}',
    'truncated': '{"id":1,"connect":{}',
    'byte order mark': '\ufeff{}',
    'no request': '{"id":1}',
    'null request': '{"id":1,"connect":null}',
    'unknown request': '{"id":1,"explode":{}}',
    'unknown request without id': '{"explode":{}}',
    'push from a client': '{"push":{}}',
    'two requests': '{"id":1,"connect":{},"ping":{}}',
    'no id': '{"ping":{}}',
    'id 0': '{"id":0,"ping":{}}',
    'only id 0': '{"id":0}',
    'negative id': '{"id":-1,"ping":{}}',
    'id over 32 bits': '{"id":4294967296,"ping":{}}',
    'id of text': '{"id":"1","ping":{}}',
    'fractional id': '{"id":1.0,"ping":{}}',
    'true as id': '{"id":true,"ping":{}}',
    'request of text': '{"id":1,"ping":"x"}',
    'request of a list': '{"id":1,"rpc":[]}',
    'channel of a number': '{"id":1,"subscribe":{"channel":1}}',
    'negative offset': '{"id":1,"subscribe":{"channel":"a","offset":-1}}',
    'offset over 63 bits': '{"id":1,"subscribe":{"offset":9223372036854775808}}',
    'offset of text': '{"id":1,"subscribe":{"offset":"3"}}',
    'limit over 32 bits': '{"id":1,"history":{"limit":2147483648}}',
    '5000 digits as id': '{"id":%s,"ping":{}}' % ('9' * 5000),
    '5000 digits as data': '{"id":1,"rpc":{"data":%s}}' % ('9' * 5000),
    'a number no double holds': '{"id":1,"rpc":{"data":1e400}}',
    'NaN': '{"id":1,"rpc":{"data":NaN}}',
    'Infinity': '{"id":1,"rpc":{"data":[-Infinity]}}',
    'lone high surrogate': '{"id":1,"rpc":{"data":"\\ud800"}}',
    'lone low surrogate': '{"id":1,"rpc":{"data":"\\udc00 "}}',
    'lone surrogate in a key': '{"id":1,"rpc":{"data":{"\\ud800 ":1}}}',
    'lone surrogate in a name': '{"id":1,"unsubscribe":{"channel":"\\ud800x"}}',
    'lone surrogate unescaped': '{"id":1,"rpc":{"data":"\ud800"}}',
    'control character': '{"id":1,"rpc":{"data":"\x00"}}',
    'leading zero': '{"id":1,"rpc":{"data":01}}',
    'comment': '{"id":1,"ping":{}} // hi',
    'trailing comma': '{"id":1,"ping":{},}',
    'nested too deep': nested(33),
    'nested very deep': nested(100_000),
    'only opening': '[' * 60_000,
    'id twice': '{"id":1,"id":2,"ping":{}}',
    'request twice': '{"id":1,"ping":{},"ping":{}}',
    'request twice, once null': '{"id":1,"rpc":{},"publish":{},"publish":null}',
    'send with a hidden publish': '{"send":{},"publish":{"data":1},"publish":null}',
    'channel twice': '{"id":1,"publish":{"channel":"a","channel":"b","data":1}}',
    'data twice': '{"id":1,"publish":{"channel":"a","data":1,"data":2}}',
    'data twice around objects': '{"id":1,"rpc":{"data":{},"method":"","data":{}}}',
    'channel twice by escape': '{"id":1,"publish":{"channel":"a","\\u0063hannel":"b"}}',
    'data twice by escapes': '{"id":1,"rpc":{"data":1,"\\u0064\\u0061\\u0074a":2}}',
    'publish hidden by escape': '{"send":{},"publis\\u0068":{},"publish":null}',
    'token twice in subs': '{"id":1,"connect":{"subs":{"a":{"token":"","token":""}}}}',
    'channel twice in subs': '{"id":1,"connect":{"subs":{"a":{},"a":{}}}}',
    'header twice': '{"id":1,"connect":{"headers":{"a":"","a":""}}}',
    'since twice': '{"id":1,"history":{"since":{},"since":{"offset":1}}}',
    'offset twice in since': '{"id":1,"history":{"since":{"offset":1,"offset":2}}}',
    'unknown key twice': '{"id":1,"connect":{"x":1,"x":2}}',
}


@pytest.mark.parametrize('text', WRONG.values(), ids=WRONG.keys())
def test_malformed_frame_raises_protocol_error_3501(text: str) -> None:
    """Anything wrong is a ProtocolError with code 3501, alone or in a batch."""
    for frame in (text, f'{{}}\n{text}\n{{}}'):
        with pytest.raises(ProtocolError) as caught:
            decode_all(frame)
        assert (3501, 'bad request') == (caught.value.code, caught.value.reason)


@pytest.mark.parametrize(
    'data',
    [b'\xff', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'{"\xff":1}'],
)
def test_json_frame_that_is_not_utf8_is_refused(data: bytes) -> None:
    """Bytes that are not UTF-8 are refused, in a payload too."""
    with pytest.raises(ProtocolError):
        decode_all(b'{"id":1,"rpc":{"data":%s}}' % data)


def test_payload_of_maximum_depth_is_accepted() -> None:
    """A payload of exactly the documented depth passes."""
    [command] = decode_all(nested(json_codec.MAX_DEPTH))
    assert command.request == RpcRequest(b'[' * 32 + b']' * 32)


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    """Text that is full of brackets does not count as nesting."""
    text = json.dumps({'id': 1, 'rpc': {'data': ['[{"\\' * 100, {'{': '}'}]}})
    assert 1 == len(decode_all(text))


def test_key_names_in_text_do_not_count_as_duplicates() -> None:
    """Text that looks like keys of the envelope does not make keys double."""
    text = json.dumps(
        {'id': 1, 'publish': {'channel': 'id', 'data': '"data":1,"channel":2'}}
    )
    data = json.dumps('"data":1,"channel":2').encode()
    assert [Command(1, PublishRequest('id', data))] == list(
        json_codec.decode_commands(text)
    )
    text = '{"id":1,"publish":{"channel":"channel","data":"data"}}'
    assert [Command(1, PublishRequest('channel', b'"data"'))] == (decode_all(text))


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(['', '-']),
    st.sampled_from(['0', '1', '17976931348623157', '9' * 199, '9' * 309, '9' * 5000]),
    st.sampled_from(['', '.0', '.' + '0' * 400 + '1']),
    st.sampled_from(['', 'e0', 'e99', 'E+110', 'e292', 'e308', 'e00309']),
)
def test_number_is_accepted_only_if_a_double_can_hold_it(
    sign: str, digits: str, fraction: str, exponent: str
) -> None:
    """A number outside the range of a double is refused, however it is written."""
    number = sign + digits + fraction + exponent
    try:
        decode_all(f'{{"id":1,"rpc":{{"data":[{number}]}}}}')
    except ProtocolError:
        accepted = False
    else:
        accepted = True
    assert math.isfinite(float(number)) == accepted


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(['[', '{"a":', '[0,', '"]}"', '0']), max_size=60))
def test_depth_is_the_number_of_open_brackets(pieces: list[str]) -> None:
    """A payload is refused only if more than 32 objects and lists are open."""
    closing = {'[': ']', '{': '}'}
    payload, depth, deepest = '[', 1, 1
    for _ in range(3):
        opened = ''
        for piece in pieces:
            if piece[0] in closing:
                payload += piece
                opened = closing[piece[0]] + opened
        deepest = max(deepest, depth + len(opened))
        payload += '"[{\\\\\\"{"' + opened + ','
    payload += '0]'
    try:
        decode_all(f'{{"id":1,"rpc":{{"data":{payload}}}}}')
    except ProtocolError:
        accepted = False
    else:
        accepted = True
    assert (deepest <= json_codec.MAX_DEPTH) == accepted


def test_large_hostile_frame_is_decoded_in_one_pass() -> None:
    """Frames of 64 KiB built to be slow are read in one pass."""
    size = 65_000
    for data in (
        '"' + '\\"' * (size // 2) + '"',
        '[' + '[],' * (size // 3) + '0]',
        '[' + '{"a":{}},' * (size // 9) + '0]',
        '{"\\u0061":[' + '"",' * (size // 3) + '0]}',
        '[' + '1e300,' * (size // 6) + '0]',
        '[' + ('[' * 30 + ']' * 30 + ',') * (size // 61) + '0]',
    ):
        frame = f'{{"id":1,"rpc":{{"data":{data}}}}}'
        assert 1 == len(decode_all(frame))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=['Cs'])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=['Cs'])), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_payloads_pass_unchanged(value: Any, ascii_only: bool, indent: Any) -> None:
    """Whatever JSON a client publishes reaches the subscriber as the same value."""
    payload = json.dumps(value, ensure_ascii=ascii_only)
    frame = f'{{"id":1,"publish":{{"channel":"a","data":{payload}}}}}'
    [command] = decode_all(frame)
    assert isinstance(command.request, PublishRequest)
    data = command.request.data
    assert data == payload.encode()
    pretty = json.dumps(value, indent=indent).encode()
    for publication in (Publication(data=data), Publication(data=pretty)):
        push = json_codec.encode_publication('a', publication)
        assert b'\n' not in push
        assert {'push': {'channel': 'a', 'pub': {'data': value}}} == json.loads(push)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200))
def test_any_bytes_end_in_a_protocol_error(frame: bytes | str) -> None:
    """Whatever arrives is read or refused; nothing else comes out."""
    for decode in (
        decode_all,
        json_codec.decode_connect,
        json_codec.decode_emulation,
    ):
        try:
            decode(frame if isinstance(frame, bytes) else frame.encode('utf-16'))
            decode(frame)  # type: ignore[arg-type]
        except ProtocolError:
            pass


PIECES = st.lists(
    st.sampled_from(
        [
            '{',
            '}',
            '[',
            ']',
            ':',
            ',',
            '"',
            '\\',
            '\\u0061',
            '\\ud800',
            '\n',
            'null',
            'true',
            '1',
            '-1',
            '1e999',
            'NaN',
            '"id"',
            '"data"',
            '"channel"',
            '"connect"',
            '"publish"',
            '"subs"',
            '"send"',
            '"x"',
            '99999999999999999999',
        ]
    ),
    max_size=40,
).map(''.join)


@settings(max_examples=1000, deadline=None)
@given(PIECES)
def test_any_pieces_of_json_end_in_a_protocol_error(frame: str) -> None:
    """Pieces of JSON in any order are read or refused; nothing else comes out."""
    with contextlib.suppress(ProtocolError):
        decode_all(frame)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *('channel', '\\u0063hannel', 'data', 'type', 'x', 'id'),
                    *(':', '\\u003a', '\\u003A\\\\u003a', '\\\\', '\\t'),
                ]
            ),
            st.sampled_from(
                [
                    *('"a"', '{"a":1,"a":2}', '[{"data":1}]', '0', '"\\n"'),
                    *('":"', '"\\u003a"', '"\\\\u003a"', '{"\\u003a":[":"]}', 'null'),
                ]
            ),
        ),
        max_size=5,
    )
)
def test_request_is_refused_only_if_it_has_a_duplicate_key(
    pairs: list[tuple[str, str]],
) -> None:
    """A request is refused for a double key if and only if it has one."""
    keys = [json.loads(f'"{key}"') for key, _ in pairs]
    body = ','.join(f'"{key}":{value}' for key, value in pairs)
    frame = f'{{"id":1,"publish":{{{body}}}}}'
    try:
        decode_all(frame)
    except ProtocolError as ex:
        double = 'duplicate key' in str(ex)
    else:
        double = False
    wrong_type = any(
        (name, value[0]) not in {('channel', '"'), ('type', '0')}
        and value != 'null'
        and name in {'channel', 'type'}
        for name, (_, value) in zip(keys, pairs, strict=True)
    )
    expected = len(set(keys)) != len(keys) and not wrong_type
    assert expected == double


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from(['"a"', '"a:b"', '"\\u003a"', '"a\\u003Ab"', 'null', '0', '""']),
    st.sampled_from(['"d"', '{"a":1,"b":[":"]}', '1e400', '[' * 33 + ']' * 33, 'null']),
    st.sampled_from(
        [
            *('', '', ',"type":0', ',"type":1', ',"x":1', ',"data":2'),
            *(',"channel":"c"', ',"\\u0063hannel":"c"', ',"x\\u003a":1'),
        ]
    ),
    st.sampled_from(
        [
            *('', '', ',"id":2', ',"x":null', ',"publish":null', ',"send":{}'),
            ',"publish":{"channel":"c","data":1}',
        ]
    ),
    st.sampled_from(['1', '0', 'null', '-1', '4294967296', '"1"']),
)
def test_command_that_publishes_means_the_same_with_white_space(
    channel: str, data: str, more: str, after: str, command_id: str
) -> None:
    """White space changes neither the decoded command nor the refusal.

    A command without white space is decoded in one step, and others field by field.
    """
    outcomes = []
    for space in ('', ' '):
        frame = (
            f'{{"id":{command_id},"publish":{space}{{"channel":{channel},'
            f'"data":{data}{more}}}{after}}}'
        )
        try:
            outcomes.append((decode_all(frame), 0, ''))
        except ProtocolError as ex:
            outcomes.append(([], ex.code, str(ex).partition('(byte')[0]))
    assert outcomes[0] == outcomes[1]


def test_unidirectional_connect_request_is_decoded() -> None:
    """A unidirectional client sends the request without an envelope."""
    assert ConnectRequest(token='t', data=b'[1]') == json_codec.decode_connect(
        '{"token":"t","data":[1]}'
    )
    assert ConnectRequest() == json_codec.decode_connect(b'{}')
    for wrong in ('', '[]', '{"token":1}', '{"token":"a","token":"b"}', '{"data":NaN}'):
        with pytest.raises(ProtocolError):
            json_codec.decode_connect(wrong)


def test_emulation_request_is_decoded() -> None:
    """The client's half of an emulated transport carries a frame as one string."""
    frame = '{"id":2,"ping":{}}\n{}'
    body = json.dumps({'session': 's', 'node': 'n', 'data': frame}).encode()
    request = json_codec.decode_emulation(body)
    assert ('s', 'n', frame.encode()) == (request.session, request.node, request.data)
    for wrong in (b'', b'[]', b'{"data":{}}', b'{"data":"a","data":"b"}', b'\xff'):
        with pytest.raises(ProtocolError):
            json_codec.decode_emulation(wrong)


def test_is_json_is_true_only_for_json_that_clients_can_read() -> None:
    """Only what every client can read counts as JSON."""
    for good in (b'null', b' {"a": [1, 2]} ', b'"x"', b'[' * 32 + b']' * 32):
        assert json_codec.is_json(good)
    for bad in (b'', b'NaN', b'\xff', b'"\\ud800"', b'[' * 33 + b']' * 33, b'1e999'):
        assert not json_codec.is_json(bad)
        with pytest.raises(ProtocolError):
            json_codec.check_payload(bad)


def test_secrets_are_not_in_a_repr() -> None:
    """Tokens and payloads do not show when a request is logged."""
    frame = '{"id":1,"connect":{"token":"s3cret","data":"s3cret","name":"js"}}'
    [command] = decode_all(frame)
    assert "Command(id=1, request=ConnectRequest(token=..., data=..., name='js'))" == (
        repr(command)
    )
