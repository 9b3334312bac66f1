"""Add routes of the library to the app of an application.

Falcon silently replaces a route if another one with the same path is added. All
functions that add routes to an app therefore use this module.
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
from typing import Any
from typing import NamedTuple

import falcon.asgi
from falcon.inspect import inspect_routes

from falcon_channels.errors import OptionsError

#: Characters that a path cannot have: those of templates, of queries and of fragments.
_FORBIDDEN = '{}?#\\'


class Responders(NamedTuple):
    """A resource, and the suffix of its responders; ``None`` for no suffix."""

    resource: object
    suffix: str | None = None


def check_path(name: str, path: object, example: str, *, root: bool = False) -> str:
    """Return a path of an app, without a slash at its end.

    Args:
        name: Name of the argument, for the error.
        path: Value of the argument.
        example: A right value, for the error.
        root: Whether the root is allowed, as ``/`` or as an empty text. The result is
            then an empty text.

    Raises:
        OptionsError: The path is not text that begins with a slash, or it has empty
            parts, fields or characters that a path cannot have.
    """
    if not isinstance(path, str):
        raise OptionsError(
            f'{name} is {type(path).__name__}(...), but must be text such as '
            f'"{example}": pass other arguments by name'
        )
    stripped = path.removesuffix('/')
    if (
        not (stripped.startswith('/') if stripped else root)
        or not stripped.isprintable()
        or stripped.endswith('/')
        or any(mark in stripped for mark in ('//', ' ', *_FORBIDDEN))
    ):
        raise OptionsError(
            f'{name} {path!r:.80} must be like "{example}": it begins with a slash, '
            f'and has no spaces, empty parts or any of {_FORBIDDEN}'
        )
    return stripped


def add_routes(
    app: falcon.asgi.App[Any, Any],
    routes: Mapping[str, object],
    *,
    method: str,
    argument: str,
) -> None:
    """Add routes to an app; add none of them if a path is taken.

    Args:
        app: Application that gets the routes.
        routes: Resource, or `Responders`, of each path.
        method: Name of the method of `Channels`, for the error.
        argument: Names of the arguments with the paths, for the error.

    Raises:
        OptionsError: The app has a route with one of the paths.
    """
    # NOTE: Falcon cannot list the routes of an application's own router.
    with contextlib.suppress(TypeError):
        known = {route.path for route in inspect_routes(app)}
        taken = sorted(known.intersection(routes))
        if taken:
            raise OptionsError(
                f'{taken[0]} is routed already: give {method} another {argument}'
            )
    for path, target in routes.items():
        if isinstance(target, Responders):
            app.add_route(path, target.resource, suffix=target.suffix)
        else:
            app.add_route(path, target)
