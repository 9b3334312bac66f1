"""Warn about middleware that Falcon does not call for WebSockets."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
import logging
from typing import Any
from weakref import WeakSet

import falcon
from falcon.inspect import inspect_routes

_logger = logging.getLogger('falcon_channels')

#: Methods for HTTP requests, with the method that Falcon calls for WebSockets instead.
#: `process_response` is missing, because a WebSocket has no response. Middleware that
#: has only this method, such as Falcon's for CORS, needs no other.
_TWINS = {
    'process_request': 'process_request_ws(self, req, ws)',
    'process_request_async': 'process_request_ws(self, req, ws)',
    'process_resource': 'process_resource_ws(self, req, ws, resource, params)',
    'process_resource_async': 'process_resource_ws(self, req, ws, resource, params)',
}
_WEBSOCKET_METHODS = ('process_request_ws', 'process_resource_ws')

#: Maximum number of paths in a warning.
_MAX_PATHS = 3

_warned: WeakSet[type] = WeakSet()


def warn_of_http_middleware(app: falcon.App[Any, Any]) -> None:
    """Log a warning for each middleware class that WebSockets of an app bypass.

    SECURITY: if middleware authenticates only in `process_request`, every WebSocket
    passes. Nothing else shows this mistake.

    A class causes one warning per process. There is no warning for a class that has any
    method for WebSockets, or for an app without ``on_websocket``.

    Args:
        app: The application, with its middleware and routes.
    """
    # NOTE: Falcon has no public way to list the middleware objects. Its
    #   `inspect_middleware` does not list the methods for WebSockets.
    components = getattr(app, '_unprepared_middleware', ())
    bypassed = [item for item in components if _is_for_http_only(item)]
    if bypassed:
        paths = _websocket_paths(app)
        if paths:
            _warn(bypassed, paths)


def _is_for_http_only(component: object) -> bool:
    return _http_method(component) is not None and not any(
        callable(getattr(component, name, None)) for name in _WEBSOCKET_METHODS
    )


def _http_method(component: object) -> str | None:
    """Return the first method of a component that runs before HTTP responders."""
    for name in _TWINS:
        if callable(getattr(component, name, None)):
            return name
    return None


def _websocket_paths(app: falcon.App[Any, Any]) -> list[str]:
    """Return the templates of all routes with ``on_websocket``."""
    try:
        routes = inspect_routes(app)
    except TypeError:
        # NOTE: Falcon cannot list the routes of a router that the application wrote.
        return []
    return [
        route.path
        for route in routes
        if any(m.method == 'WEBSOCKET' and not m.internal for m in route.methods)
    ]


def _warn(components: Iterable[object], paths: Sequence[str]) -> None:
    where = ', '.join(paths[:_MAX_PATHS])
    if len(paths) > _MAX_PATHS:
        where += f' and {len(paths) - _MAX_PATHS} more'
    for component in components:
        kind, name = type(component), _http_method(component)
        assert name is not None
        if kind in _warned:
            continue
        _warned.add(kind)
        _logger.warning(
            '%s.%s is called for HTTP requests only: WebSockets at %s pass without it. '
            'Add %s to the class; leave it empty if WebSockets do not need it',
            kind.__name__,
            name,
            where,
            _TWINS[name],
        )
