"""An echo without any framework: what the server alone costs."""

from __future__ import annotations


async def app(scope, receive, send):
    """Send each message back."""
    if scope['type'] != 'websocket':
        return
    await receive()
    await send({'type': 'websocket.accept'})
    while True:
        event = await receive()
        if event['type'] == 'websocket.disconnect':
            return
        await send({'type': 'websocket.send', 'text': event['text']})
