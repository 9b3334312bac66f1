"""A room with python-socketio on ASGI."""

import socketio

server = socketio.AsyncServer(
    async_mode='asgi', cors_allowed_origins='*', ping_interval=300
)
app = socketio.ASGIApp(server)


@server.event
async def message(sid, data):
    """Send to everybody."""
    await server.emit('message', data)
