"""Where the doors of the client protocol are in an application."""

from __future__ import annotations

from typing import Any

import falcon.asgi

from falcon_channels.endpoint import check_prefix
from falcon_channels.endpoint import Endpoint
from falcon_channels.endpoint import WebSocketDoor
from falcon_channels.http_doors import EmulationDoor
from falcon_channels.http_doors import HttpStreamDoor
from falcon_channels.http_doors import SseDoor
from falcon_channels.unidirectional import OneWayHttpStreamDoor
from falcon_channels.unidirectional import OneWaySseDoor
from falcon_channels.unidirectional import OneWayWebSocketDoor

_DOORS = {
    'websocket': WebSocketDoor,
    'http_stream': HttpStreamDoor,
    'sse': SseDoor,
    'uni_websocket': OneWayWebSocketDoor,
    'uni_http_stream': OneWayHttpStreamDoor,
    'uni_sse': OneWaySseDoor,
}


def add_doors(
    app: falcon.asgi.App[Any, Any],
    endpoint: Endpoint,
    prefix: str,
    emulation_path: str,
) -> None:
    """Add all doors of an endpoint to an application.

    Args:
        app: The application.
        endpoint: What the connections share.
        prefix: Path under which the doors are.
        emulation_path: Path of the requests with commands.

    Raises:
        OptionsError: A path does not begin with a slash.
    """
    prefix = check_prefix(prefix)
    for name, door in _DOORS.items():
        app.add_route(f'{prefix}/{name}', door(endpoint))
    app.add_route(
        check_prefix(emulation_path),
        EmulationDoor(endpoint.channels, endpoint.emulation),
    )
