"""A frame of many commands is decoded and carried out in parts."""

from __future__ import annotations

import asyncio
from typing import Any

from endpoint.peer import Peer
from endpoint.peer import serving
from falcon_channels import Channels
from falcon_channels import EndpointOptions

#: Commands that the connection may carry out between two turns of other clients.
BATCH = 32


class Counting:
    """Counts the messages that are handled in each iteration of the event loop."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.most = 0
        self._before = 0

    async def on_connect(self, req: Any, connection: Any) -> None:
        """Begin to count."""
        asyncio.get_running_loop().call_soon(self._tick)

    async def on_message(self, req: Any, message: Any) -> None:
        """Store a message."""
        self.received.append(message.data)

    async def on_rpc(self, req: Any, call: Any) -> None:
        """Answer the number of messages so far."""
        call.reply = len(self.received)

    def _tick(self) -> None:
        self.most = max(self.most, len(self.received) - self._before)
        self._before = len(self.received)
        if len(self.received) < 1000:
            asyncio.get_running_loop().call_soon(self._tick)


def test_frame_of_many_commands_is_carried_out_in_parts_and_in_order() -> None:
    """Other clients are served after a few commands of a long frame."""
    resource = Counting()
    options = EndpointOptions(commands_per_s=None)
    with serving(Channels(), resource, options=options) as server:
        with Peer.to(server) as peer:
            peer.connect()
            frame = [f'{{"send":{{"data":{number}}}}}' for number in range(999)]
            peer.say(*frame)
            peer.say('{"id":99,"rpc":{"method":"count"}}\n{"send":{"data":999}}')
            peer.answer(99)
            peer.ask('rpc', method='count')
            assert list(range(1000)) == resource.received
    assert 1 <= resource.most <= BATCH


def test_invalid_command_in_a_long_frame_ends_the_connection() -> None:
    """The connection ends at the invalid command; later commands are not executed."""
    resource = Counting()
    options = EndpointOptions(commands_per_s=None)
    with serving(Channels(), resource, options=options) as server:
        with Peer.to(server) as peer:
            peer.connect()
            good = ['{"send":{"data":1}}'] * 100
            peer.say(*good, '{"send":{"data":1e999}}', *good)
            assert (3501, 'bad request') == peer.end()
    assert len(resource.received) <= 100
