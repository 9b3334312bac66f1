"""A room with Litestar's channels plugin, in the memory of one process."""

from litestar import Litestar
from litestar import WebSocket
from litestar import websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.exceptions import WebSocketDisconnect


@websocket('/sub')
async def subscribe(socket: WebSocket, channels: ChannelsPlugin) -> None:
    """Get what is published."""
    await socket.accept()
    async with (
        channels.start_subscription(['room']) as subscriber,
        subscriber.run_in_background(socket.send_text),
    ):
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            pass


@websocket('/pub')
async def publish(socket: WebSocket, channels: ChannelsPlugin) -> None:
    """Publish what comes in."""
    await socket.accept()
    try:
        while True:
            channels.publish(await socket.receive_text(), ['room'])
    except WebSocketDisconnect:
        pass


app = Litestar(
    [subscribe, publish],
    plugins=[ChannelsPlugin(MemoryChannelsBackend(), channels=['room'])],
)
