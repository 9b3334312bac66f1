"""A room with presence and history, over plain WebSockets without a client library.

    uvicorn examples.room:app
    websocat 'ws://localhost:8000/rooms/lobby?user=ann'

Every message goes to all clients in the room, as JSON with its position. A client that
reconnects with `?since=OFFSET:EPOCH` gets exactly the messages that it has missed.
"""

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels()


class Room:
    async def on_get(self, req, resp, room):
        """Return the history, the position to subscribe from, and the users."""
        page = await channels.history(f'rooms:{room}', limit=None)
        present = await channels.presence(f'rooms:{room}')
        users = sorted({info.user for info in present.values()})
        resp.media = {**page.to_media(), 'users': users}

    async def on_post(self, req, resp, room):
        result = await channels.publish(f'rooms:{room}', await req.get_media())
        resp.media = {'offset': result.position.offset}

    async def on_websocket(self, req, ws, room):
        # NOTE: a real application gets the user from a session or a token, because
        #   clients can put any name into the address.
        user = req.get_param('user', required=True)
        await channels.serve(req, ws, f'rooms:{room}', user=user, media=True)

    async def on_subscribe(self, req, subscription, room):
        if room == 'staff' and subscription.user != 'ann':
            raise falcon.HTTPForbidden(description='This room is for staff only')

    async def on_publish(self, req, publication, room):
        if not isinstance(publication.data, dict) or 'text' not in publication.data:
            raise falcon.HTTPUnprocessableEntity(description='send {"text": "..."}')
        publication.data['from'] = publication.user


room = Room()
channels.add_route(
    'rooms:{room}',
    room,
    ChannelOptions(history_size=100, presence=True, join_leave='user'),
)

app = falcon.asgi.App(middleware=[channels])
app.add_route('/rooms/{room}', room)
