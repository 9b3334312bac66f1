"""The ASGI example on our server classes, with short timeouts for bad clients."""

import sys

from falcon_channels.server.config import ChannelsConfig
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.processes import ChannelsServer

ChannelsServer(
    ChannelsConfig(
        'examples.hello_asgi:app',
        port=int(sys.argv[1]),
        server_options=ServerOptions(write_timeout_s=1.0, close_timeout_s=1.0),
    )
).run()
