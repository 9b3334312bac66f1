"""One channel with history, and a way to publish numbers into it."""

from __future__ import annotations

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels


class Publish:
    """``POST /publish`` with ``{"first": 0, "count": 100}``."""

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Publish numbers, one after the other."""
        asked = await req.get_media()
        for number in range(asked['first'], asked['first'] + asked['count']):
            await channels.publish('rooms:all', number)


channels = Channels()
channels.add_route(
    'rooms:{room}', None, ChannelOptions(subscribers='anybody', history_size=1000)
)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/publish', Publish())
channels.add_endpoints(app)
