import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels

# In memory of this process. Channels('sqlite:///rooms.db') is durable and works with
# several processes of one host.
channels = Channels()


class Room:
    async def on_get(self, req, resp, room):
        page = await channels.history(f'rooms:{room}', limit=None)
        resp.media = page.to_media()

    async def on_post(self, req, resp, room):
        await channels.publish(f'rooms:{room}', await req.get_media())

    async def on_subscribe(self, req, subscription, room):
        if room == 'secret':
            raise falcon.HTTPForbidden()

    async def on_publish(self, req, publication, room):
        pass  # subscribers may publish anything

    async def on_websocket(self, req, ws, room):
        await channels.serve(req, ws, f'rooms:{room}')


room = Room()
channels.add_route('rooms:{room}', room, ChannelOptions(history_size=100))

app = falcon.asgi.App(middleware=[channels])
app.add_route('/rooms/{room}', room)
