"""Add the routes of an endpoint to an application."""

from __future__ import annotations

from collections.abc import Collection
import contextlib
from typing import Any

import falcon.asgi
from falcon.inspect import inspect_routes

from falcon_channels.endpoint.emulation import Emulation
from falcon_channels.endpoint.emulation import EmulationResource
from falcon_channels.endpoint.emulation import HttpStreamResource
from falcon_channels.endpoint.emulation import SseResource
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.unidirectional import UnidirectionalHttpStreamResource
from falcon_channels.endpoint.unidirectional import UnidirectionalSseResource
from falcon_channels.endpoint.unidirectional import UnidirectionalWebSocketResource
from falcon_channels.endpoint.websocket import WebSocketResource
from falcon_channels.errors import OptionsError


def mount_endpoint(
    app: falcon.asgi.App[Any, Any],
    endpoint: Endpoint,
    emulation: Emulation,
    *,
    prefix: str,
    emulation_path: str,
    emulation_is_shared: bool,
) -> None:
    """Add the routes of an endpoint to an application.

    Args:
        app: Application that gets the routes.
        endpoint: State and options of the connections.
        emulation: Connections whose commands arrive in separate requests.
        prefix: Path before the names of the resources.
        emulation_path: Path of the requests with commands.
        emulation_is_shared: Whether an earlier endpoint of the same node has
            the route for commands already.

    Raises:
        OptionsError: A path does not begin with a slash, or is taken.
    """
    prefix = _check_path('prefix', prefix)
    emulation_path = _check_path('emulation_path', emulation_path)
    resources = {
        f'{prefix}/websocket': WebSocketResource(endpoint),
        f'{prefix}/http_stream': HttpStreamResource(endpoint, emulation),
        f'{prefix}/sse': SseResource(endpoint, emulation),
        f'{prefix}/uni_websocket': UnidirectionalWebSocketResource(endpoint),
        f'{prefix}/uni_http_stream': UnidirectionalHttpStreamResource(endpoint),
        f'{prefix}/uni_sse': UnidirectionalSseResource(endpoint),
        emulation_path: EmulationResource(endpoint.node, emulation),
    }
    shared = (emulation_path,) if emulation_is_shared else ()
    _refuse_taken(app, resources.keys() - shared)
    for path, resource in resources.items():
        app.add_route(path, resource)


def _check_path(name: str, path: object) -> str:
    """Return a path without a slash at its end.

    Raises:
        OptionsError: The path does not begin with a slash.
    """
    if not isinstance(path, str):
        raise OptionsError(
            f'{name} is {type(path).__name__}(...), but must be text such as '
            '"/connection": pass other arguments by name'
        )
    if not path.startswith('/'):
        raise OptionsError(f'{name} {path!r} must begin with a slash')
    return path.rstrip('/')


def _refuse_taken(app: falcon.asgi.App[Any, Any], paths: Collection[str]) -> None:
    """Refuse paths that have a route: Falcon would replace it silently.

    Raises:
        OptionsError: One of the paths is taken.
    """
    # NOTE: Falcon cannot list the routes of an application's own router.
    with contextlib.suppress(TypeError):
        taken = sorted(
            {route.path for route in inspect_routes(app)}.intersection(paths)
        )
        if taken:
            raise OptionsError(
                f'{taken[0]} is routed already: give add_endpoints another prefix and '
                'another emulation_path'
            )
