"""How the protocol class processes legal and illegal frames of a client."""

from __future__ import annotations

from collections.abc import Iterator
import struct
import zlib

import pytest
from support.processes import wait_until

from falcon_channels.server.options import ServerOptions
from server.running import BINARY
from server.running import CLOSE
from server.running import CONT
from server.running import frame
from server.running import Peer
from server.running import PING
from server.running import PONG
from server.running import running
from server.running import RunningServer
from server.running import TEXT

MAX_SIZE = 100_000


async def echo(scope, receive, send) -> None:
    assert (await receive())['type'] == 'websocket.connect'
    await send({'type': 'websocket.accept'})
    while (event := await receive())['type'] == 'websocket.receive':
        await send({**event, 'type': 'websocket.send'})


@pytest.fixture(scope='module')
def server() -> Iterator[RunningServer]:
    with running(
        echo,
        ws_max_size=MAX_SIZE,
        options=ServerOptions(max_fragments=8, deflate=True, close_timeout_s=2),
    ) as up:
        yield up


@pytest.fixture
def peer(server: RunningServer) -> Iterator[Peer]:
    with Peer(server.port) as connected:
        yield connected.open()


MESSAGES = [
    (TEXT, b''),
    (TEXT, b'hello'),
    (TEXT, 'zażółć 🦅'.encode()),
    (BINARY, b'\x00\xff' * 62),
    (BINARY, b'x' * 126),
    (TEXT, b'y' * 65535),
    (TEXT, b'z' * 65536),
    (BINARY, b'm' * MAX_SIZE),
]


@pytest.mark.parametrize(('opcode', 'payload'), MESSAGES)
def test_message_of_any_length_is_received_whole(
    peer: Peer, opcode: int, payload: bytes
) -> None:
    """Messages of both kinds and of any length up to the limit are received whole."""
    peer.send(frame(opcode, payload))

    assert (0x80 | opcode, payload) == peer.frame()


def test_frames_sent_byte_by_byte_are_received_whole(peer: Peer) -> None:
    """All kinds of frames are parsed alike, wherever the stream is cut."""
    stream = (
        frame(TEXT, 'é1'.encode())
        + frame(TEXT, 'a\u00e9'.encode()[:2], fin=False)
        + frame(PING, b'p')
        + frame(CONT, 'a\u00e9'.encode()[2:])
        + frame(BINARY, b'b' * 200)
        + frame(TEXT, b'last')
    )
    for i in range(len(stream)):
        peer.send(stream[i : i + 1])

    frames = [peer.frame() for _ in range(5)]
    data = [one for one in frames if one[0] != 0x80 | PONG]

    assert [(0x80 | PONG, b'p')] == [one for one in frames if one[0] == 0x80 | PONG]
    assert [
        (0x81, 'é1'.encode()),
        (0x81, 'a\u00e9'.encode()),
        (0x82, b'b' * 200),
        (0x81, b'last'),
    ] == data


def test_many_frames_in_one_read_keep_their_order(peer: Peer) -> None:
    """All messages are delivered, even if one iteration does not process them all."""
    sent = [b'%d' % i for i in range(1000)]
    peer.send(b''.join(frame(TEXT, payload) for payload in sent))

    assert sent == [peer.message() for _ in sent]


ILLEGAL = {
    'not masked': (frame(TEXT, b'x', masked=False), 1002),
    'RSV2': (frame(TEXT, b'x', rsv=2), 1002),
    'RSV3': (frame(TEXT, b'x', rsv=1), 1002),
    'RSV1 on a ping': (frame(PING, b'x', rsv=4), 1002),
    'opcode 3': (frame(3, b'x'), 1002),
    'opcode 11': (frame(11, b'x'), 1002),
    'continuation of nothing': (frame(CONT, b'x'), 1002),
    'message inside a message': (
        frame(TEXT, b'x', fin=False) + frame(TEXT, b'y'),
        1002,
    ),
    'fragmented ping': (frame(PING, b'x', fin=False), 1002),
    'ping of 126 bytes': (frame(PING, b'x' * 126), 1002),
    'ping that announces 64 MB': (frame(PING, b'xyz', length=64_000_000), 1009),
    'bad UTF-8': (frame(TEXT, b'\xff'), 1007),
    'cut UTF-8': (frame(TEXT, b'\xc3'), 1007),
    'surrogate': (frame(TEXT, b'\xed\xa0\x80'), 1007),
    'bad UTF-8 in a first fragment': (frame(TEXT, b'a\xff', fin=False), 1007),
    'cut UTF-8 over fragments': (
        frame(TEXT, b'\xc3', fin=False) + frame(CONT, b''),
        1007,
    ),
    'too big': (frame(BINARY, b'x' * (MAX_SIZE + 1)), 1009),
    'too big by announcement': (frame(BINARY, b'xyz', length=64_000_000), 1009),
    'too big in fragments': (
        frame(BINARY, b'x' * 60_000, fin=False) + frame(CONT, b'x' * 60_000),
        1009,
    ),
    'length 2^62': (frame(BINARY, b'', length=2**62), 1009),
    'length with the top bit': (frame(BINARY, b'', length=2**63 + 5), 1002),
    'length not minimal, 2 bytes': (frame(TEXT, b'x', long_form=2), 1002),
    'length not minimal, 8 bytes': (frame(TEXT, b'x', long_form=8), 1002),
    'too many fragments': (
        frame(TEXT, b'', fin=False) + frame(CONT, b'', fin=False) * 8,
        1009,
    ),
    'RSV1 without an extension': (frame(TEXT, b'x', rsv=4), 1002),
    'close of 1 byte': (frame(CLOSE, b'\x03'), 1002),
    'close with bad UTF-8': (frame(CLOSE, b'\x03\xe8\xff'), 1007),
    **{
        f'close {code}': (frame(CLOSE, struct.pack('!H', code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize('name', ILLEGAL)
def test_illegal_frame_is_refused_with_its_close_code(
    peer: Peer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An illegal frame is answered at once, with the right close code.

    A close because of the size is logged once, with the limit.
    """
    data, code = ILLEGAL[name]
    peer.send(data)

    assert code == peer.close_code()
    assert peer.at_eof()
    assert (code == 1009) == caplog.text.count(f'ws_max_size is {MAX_SIZE}')


def test_frames_before_an_illegal_frame_are_delivered(peer: Peer) -> None:
    """Messages before the violation are echoed, later ones are not."""
    peer.send(frame(TEXT, b'before'))
    assert b'before' == peer.message()

    peer.send(frame(3, b'') + frame(TEXT, b'after'))

    assert 1002 == peer.close_code()
    assert peer.at_eof()


def test_ten_pings_in_one_read_are_all_answered(peer: Peer) -> None:
    """Ten pings that arrive together get ten pongs, in order."""
    peer.send(b''.join(frame(PING, b'%d' % i) for i in range(10)))

    pongs = [(0x80 | PONG, b'%d' % i) for i in range(10)]
    assert pongs == [peer.frame() for _ in pongs]


@pytest.mark.parametrize('payload', [b'', b'\xff' * 125], ids=['empty', 'longest'])
def test_pong_that_answers_nothing_is_ignored(peer: Peer, payload: bytes) -> None:
    """A client may send pongs at any time, also between fragments."""
    pong = frame(PONG, payload)
    fragments = frame(TEXT, b'a', fin=False) + pong + frame(CONT, b'b')
    peer.send(pong + frame(TEXT, b'first') + fragments)
    assert (0x80 | TEXT, b'first') == peer.frame()
    assert (0x80 | TEXT, b'ab') == peer.frame()


def test_sixty_pings_in_one_read_get_only_the_last_pongs(peer: Peer) -> None:
    """Of many pings that arrive together, only the most recent ones get a pong."""
    peer.send(b''.join(frame(PING, b'%d' % i) for i in range(60)))

    pongs = []
    while b'59' not in pongs:
        pongs.append(peer.frame()[1])

    assert len(pongs) < 60


def test_close_frame_is_answered_and_later_bytes_are_ignored(peer: Peer) -> None:
    """The peer's close frame is sent back and the TCP connection ends."""
    peer.send(
        frame(CLOSE, struct.pack('!H', 4321) + b'bye')
        + frame(TEXT, b'late')
        + b'GET /admin HTTP/1.1\r\nHost: x\r\n\r\n'
    )

    assert (0x88, struct.pack('!H', 4321) + b'bye') == peer.frame()
    assert peer.at_eof()


def test_close_frame_within_a_message_is_answered(peer: Peer) -> None:
    """A control frame may come between fragments, also a close frame."""
    peer.send(frame(TEXT, b'never ', fin=False) + frame(CLOSE, b'\x03\xe8'))

    assert (0x88, b'\x03\xe8') == peer.frame()
    assert peer.at_eof()


def test_close_frame_without_code_is_answered_without_code(peer: Peer) -> None:
    """A close frame without a code gets one without a code."""
    peer.send(frame(CLOSE))

    assert (0x88, b'') == peer.frame()
    assert peer.at_eof()


def test_compressed_messages_are_echoed(server: RunningServer) -> None:
    """With permessage-deflate both directions work, also with fragments."""
    text = b'compress me ' * 200
    encoder = zlib.compressobj(wbits=-15)
    packed = (encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with Peer(server.port) as peer:
        answer = peer.request('Sec-WebSocket-Extensions: permessage-deflate')
        assert '101' in answer
        for name in ('server_no_context_takeover', 'client_no_context_takeover'):
            assert name in answer
        peer.send(frame(TEXT, packed, rsv=4))
        head, payload = peer.frame()
        assert 0xC1 == head
        assert text == zlib.decompressobj(wbits=-12).decompress(
            payload + b'\x00\x00\xff\xff'
        )
        peer.send(
            frame(TEXT, packed[:20], rsv=4, fin=False)
            + frame(PING, b'')
            + frame(CONT, packed[20:])
            + frame(TEXT, b'plain')
        )
        heads = [peer.frame()[0] for _ in range(3)]
        assert [0xC1, 0x81] == [head for head in heads if head != 0x80 | PONG]


def test_client_with_a_small_window_gets_uncompressed_messages(
    server: RunningServer,
) -> None:
    """Its compressed messages are read; the answers are not compressed."""
    text = b'compress me ' * 200
    encoder = zlib.compressobj(wbits=-15)
    packed = (encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with Peer(server.port) as peer:
        answer = peer.request(
            'Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9'
        )
        assert 'server_max_window_bits=9' in answer
        peer.send(frame(TEXT, packed, rsv=4))
        assert (0x81, text) == peer.frame()


def test_message_that_decompresses_beyond_the_limit_is_refused_with_1009(
    server: RunningServer,
) -> None:
    """The limit counts the decompressed size."""
    encoder = zlib.compressobj(9, wbits=-15)
    bomb = (encoder.compress(bytes(60_000_000)) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(bomb) < MAX_SIZE
    with Peer(server.port) as peer:
        assert '101' in peer.request('Sec-WebSocket-Extensions: permessage-deflate')
        peer.send(frame(BINARY, bomb, rsv=4))

        assert 1009 == peer.close_code()


def test_server_stores_no_connection_after_its_peers_have_closed(
    server: RunningServer,
) -> None:
    """When the peers have closed, the server has no connections."""
    wait_until(lambda: not server.connections, 'all connections are gone')
