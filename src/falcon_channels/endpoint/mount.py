"""Add the routes of an endpoint to an application."""

from __future__ import annotations

from typing import Any

import falcon.asgi

from falcon_channels.app_routes import add_routes
from falcon_channels.app_routes import check_path
from falcon_channels.endpoint.emulation import Emulation
from falcon_channels.endpoint.emulation import EmulationResource
from falcon_channels.endpoint.emulation import HttpStreamResource
from falcon_channels.endpoint.emulation import SseResource
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.unidirectional import UnidirectionalHttpStreamResource
from falcon_channels.endpoint.unidirectional import UnidirectionalSseResource
from falcon_channels.endpoint.unidirectional import UnidirectionalWebSocketResource
from falcon_channels.endpoint.websocket import WebSocketResource


def mount_endpoint(
    app: falcon.asgi.App[Any, Any],
    endpoint: Endpoint,
    emulation: Emulation,
    *,
    prefix: str,
    emulation_path: str,
) -> None:
    """Add the routes of an endpoint to an application.

    Args:
        app: Application that gets the routes.
        endpoint: State and options of the connections.
        emulation: Connections whose commands arrive in separate requests.
        prefix: Path before the names of the resources.
        emulation_path: Path of the requests with commands.

    Raises:
        OptionsError: A path is wrong or taken.
    """
    prefix = check_path('prefix', prefix, '/connection', root=True)
    emulation_path = check_path('emulation_path', emulation_path, '/emulation')
    routes: dict[str, object] = {
        f'{prefix}/websocket': WebSocketResource(endpoint),
        f'{prefix}/http_stream': HttpStreamResource(endpoint, emulation),
        f'{prefix}/sse': SseResource(endpoint, emulation),
        f'{prefix}/uni_websocket': UnidirectionalWebSocketResource(endpoint),
        f'{prefix}/uni_http_stream': UnidirectionalHttpStreamResource(endpoint),
        f'{prefix}/uni_sse': UnidirectionalSseResource(endpoint),
    }
    # NOTE: several endpoints of one Channels share the path for commands.
    if not emulation.is_mounted(app, emulation_path):
        routes[emulation_path] = EmulationResource(endpoint.node, emulation)
    add_routes(
        app,
        routes,
        method='add_endpoints',
        argument='prefix and another emulation_path',
    )
    emulation.on_mounted(app, emulation_path)
