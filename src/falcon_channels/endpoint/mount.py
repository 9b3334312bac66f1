"""Where the doors of the client protocol are in an application."""

from __future__ import annotations

from collections.abc import Collection
import contextlib
from typing import Any

import falcon.asgi
from falcon.inspect import inspect_routes

from falcon_channels.endpoint.endpoint import check_prefix
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.endpoint import WebSocketResource
from falcon_channels.endpoint.http import EmulationResource
from falcon_channels.endpoint.http import HttpStreamResource
from falcon_channels.endpoint.http import SseResource
from falcon_channels.endpoint.unidirectional import UnidirectionalHttpStreamResource
from falcon_channels.endpoint.unidirectional import UnidirectionalSseResource
from falcon_channels.endpoint.unidirectional import UnidirectionalWebSocketResource
from falcon_channels.errors import OptionsError

_DOORS = {
    'websocket': WebSocketResource,
    'http_stream': HttpStreamResource,
    'sse': SseResource,
    'uni_websocket': UnidirectionalWebSocketResource,
    'uni_http_stream': UnidirectionalHttpStreamResource,
    'uni_sse': UnidirectionalSseResource,
}


def mount_endpoint(
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
    emulation_path = check_prefix(emulation_path)
    # NOTE: several endpoints of one Channels share the path for commands.
    shared = () if endpoint.is_first else (emulation_path,)
    paths = {*(f'{prefix}/{name}' for name in _DOORS), emulation_path}
    _refuse_taken(app, paths.difference(shared))
    for name, door in _DOORS.items():
        app.add_route(f'{prefix}/{name}', door(endpoint))
    app.add_route(
        emulation_path, EmulationResource(endpoint.channels, endpoint.emulation)
    )


def _refuse_taken(app: falcon.asgi.App[Any, Any], paths: Collection[str]) -> None:
    """Refuse to put doors where others are: Falcon would forget those in silence.

    Raises:
        OptionsError: One of the paths is taken.
    """
    # NOTE: a router of the application's own cannot be asked.
    with contextlib.suppress(TypeError):
        taken = sorted(
            {route.path for route in inspect_routes(app)}.intersection(paths)
        )
        if taken:
            raise OptionsError(
                f'{taken[0]} is routed already: give add_endpoints another prefix and '
                'another emulation_path'
            )
