"""Any stream, cut anywhere, gives the same messages as with the core alone."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from falcon_channels.server.protocol import WebSocketProtocol
from server.running import frame
from server.running import KEY

MAX_SIZE = 1000
REQUEST = (
    'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
    f'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n'
).encode()


class RecordingTransport(asyncio.Transport):
    """A transport that records what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b''

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class RecordingReceiver:
    """A receiver that records its events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_message(self, message: str | bytes) -> None:
        self.events.append(message)

    def on_writable(self) -> None:
        pass

    def on_closed(self, code: int, reason: str) -> None:
        self.events.append(code)


async def read_by_our_class(chunks: list[bytes]) -> list[Any]:
    """Return the messages that our class delivers, and the code of the end."""
    heard = RecordingReceiver()
    attached = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({'type': 'websocket.accept'})
        scope['extensions']['falcon_channels.websocket']['websocket'].attach(heard)
        attached.set()

    config = Config(
        app,
        log_config=None,
        ws_max_size=MAX_SIZE,
        ws_ping_interval=None,
        interface='asgi3',
    )
    config.load()
    protocol = WebSocketProtocol(config, ServerState(), {})
    protocol.connection_made(RecordingTransport())
    protocol.data_received(REQUEST)
    await attached.wait()
    for chunk in chunks:
        protocol.data_received(chunk)
    protocol.connection_lost(None)
    return heard.events


def read_by_the_core(stream: bytes) -> list[Any]:
    """Return the messages that the core reads from the whole stream."""
    core = ServerProtocol(state=OPEN, max_size=MAX_SIZE)
    core.receive_data(stream)
    events: list[Any] = []
    parts: list[bytes] = []
    text = False
    for event in core.events_received():
        if event.opcode in (Opcode.TEXT, Opcode.BINARY):
            text = event.opcode is Opcode.TEXT
            parts = [event.data]
        elif event.opcode is Opcode.CONT:
            parts.append(event.data)
        else:
            continue
        whole = b''.join(parts)
        if not event.fin:
            # NOTE: The core does not check UTF-8.
            if text and not is_utf8(whole, cut=True):
                return [*events, 1007]
        elif text and not is_utf8(whole, cut=False):
            return [*events, 1007]
        else:
            events.append(whole.decode() if text else whole)
    if str(core.parser_exc) == 'incomplete fragmented message':
        # The one difference: ours accepts a close frame within a message.
        assert core.close_rcvd is not None
        return [*events, int(core.close_rcvd.code)]
    if core.parser_exc is not None:
        assert core.close_sent is not None
        return [*events, int(core.close_sent.code)]
    if core.close_rcvd is not None:
        return [*events, int(core.close_rcvd.code)]
    return [*events, 1006]


def is_utf8(data: bytes, *, cut: bool) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as ex:
        return cut and ex.reason == 'unexpected end of data'
    return True


PAYLOADS = st.one_of(
    st.text(max_size=200).map(str.encode),
    st.binary(max_size=20),
    st.sampled_from([b'', b'x' * 125, b'x' * 126, b'x' * 600, 'é'.encode()[:1]]),
)
FRAMES = st.one_of(
    st.builds(frame, st.sampled_from([1, 1, 1, 2]), PAYLOADS),
    st.builds(frame, st.sampled_from([0, 1, 2]), PAYLOADS, fin=st.booleans()),
    st.builds(frame, st.sampled_from([9, 10]), st.binary(max_size=125)),
    st.builds(
        frame,
        st.sampled_from([0, 1, 2, 3, 8, 9, 11]),
        PAYLOADS,
        rsv=st.sampled_from([0, 0, 0, 1, 4]),
        masked=st.sampled_from([True, True, False]),
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 60), max_size=30))
def test_stream_cut_anywhere_is_read_as_by_the_core(
    frames: list[bytes], cuts: list[int]
) -> None:
    """Messages, their order and the code of the end are those of the core alone."""
    stream = b''.join(frames)
    chunks = []
    rest = stream
    for cut in cuts:
        chunks.append(rest[:cut])
        rest = rest[cut:]
    chunks = [chunk for chunk in [*chunks, rest] if chunk]

    assert read_by_the_core(stream) == asyncio.run(read_by_our_class(chunks))
