"""An echo and a room without any framework: what the server alone costs."""

from __future__ import annotations

members = set()


async def app(scope, receive, send):
    """Answer each message, keep a subscriber, or send to all subscribers."""
    if scope['type'] != 'websocket':
        return
    await receive()
    await send({'type': 'websocket.accept'})
    if scope['path'] == '/sub':
        members.add(send)
    while True:
        event = await receive()
        if event['type'] == 'websocket.disconnect':
            members.discard(send)
            return
        message = {'type': 'websocket.send', 'text': event['text']}
        if scope['path'] == '/pub':
            for send_to_member in list(members):
                await send_to_member(message)
        else:
            await send(message)
