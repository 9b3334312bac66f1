"""The app of tests that cut connections, on our server classes with short timeouts.

``python -m server.impatient PORT pings`` detects lost clients by pings;
``... acknowledgements`` detects them by TCP only.
"""

import sys

from falcon_channels.server.config import ChannelsConfig
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.processes import ChannelsServer

PINGS = sys.argv[2] == 'pings'

ChannelsServer(
    ChannelsConfig(
        'support.stop_app:app',
        host='0.0.0.0',
        port=int(sys.argv[1]),
        log_level='warning',
        ws_ping_interval=1.0 if PINGS else None,
        ws_ping_timeout=1.0 if PINGS else None,
        server_options=ServerOptions(
            close_timeout_s=1.0, unacknowledged_timeout_s=None if PINGS else 2.0
        ),
    )
).run()
