"""Finds and prepares the app of ``falcon-channels serve``.

If it cannot be used, the error says why.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

import falcon
import falcon.asgi

from falcon_channels.errors import OptionsError
from falcon_channels.server.loggers import server_logger
from falcon_channels.websocket.middleware import warn_of_http_middleware

#: Falcon's default; another value was chosen by the application.
_FALCON_RECEIVE_QUEUE = 4


def load_app(given: Any, root_path: str, *, factory: bool) -> Any:
    """Import an app, check it, and prepare it for the server.

    Args:
        given: ``module:attribute``, or the object itself.
        root_path: Path below which the server serves the app, or ``''``.
        factory: Whether the object is a function that returns the app.

    Raises:
        OptionsError: There is no such object, or it cannot be used.
    """
    app, name = _load_object(given), str(given)
    if factory or _is_factory(app):
        if not factory:
            server_logger.warning(
                '%s is a function that returns an app: start it with --factory', name
            )
        app, name = _call_factory(app, name), f'the result of {name}'
    _check_app(app, name)
    _prepare_app(app)
    return _without_root_path(app, root_path)


def _load_object(name: Any) -> Any:
    """Import an object.

    Args:
        name: ``module:attribute``. Other objects than text are returned as they are.

    Raises:
        OptionsError: The name is malformed, or there is no such module or attribute.
    """
    if not isinstance(name, str):
        return name
    module_name, _, path = name.partition(':')
    if not module_name or not path:
        raise OptionsError(
            f'{name!r} is not the name of an app: write module:attribute, such as '
            'main:app'
        )
    if module_name.endswith('.py') or os.sep in module_name:
        stem, _ = os.path.splitext(os.path.basename(module_name))
        raise OptionsError(
            f'{module_name!r} is a file: write the name of the module, {stem}:{path}, '
            'and give its folder with --app-dir'
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as ex:
        # NOTE: the module itself may import one that is missing.
        if not f'{module_name}.'.startswith(f'{ex.name}.'):
            raise
        raise OptionsError(
            f'Could not import module {module_name!r}: it is not in the folder '
            f'{os.path.abspath(sys.path[0])}; give its folder with --app-dir'
        ) from None
    found: Any = module
    for attribute in path.split('.'):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise OptionsError(
                f'the module {module_name!r} has no {path!r}{_apps_of(module)}'
            ) from None
    return found


def _apps_of(module: Any) -> str:
    """Return a hint with the names of the apps in a module."""
    names = [name for name, value in vars(module).items() if _is_asgi(value)]
    if names:
        return f'; did you mean {module.__name__}:{names[0]}?'
    return ', and no falcon.asgi.App with another name'


def _is_asgi(value: object) -> bool:
    return isinstance(value, falcon.asgi.App)


def _is_factory(found: Any) -> bool:
    """Return whether an object can be called without arguments, as no app can."""
    try:
        signature = inspect.signature(found)
        signature.bind()
    except (TypeError, ValueError):
        return False
    return not any(
        parameter.kind is parameter.VAR_POSITIONAL
        for parameter in signature.parameters.values()
    )


def _call_factory(factory: Any, name: str) -> Any:
    """Return the app that a factory returns.

    Raises:
        OptionsError: It is no factory, or needs arguments.
    """
    if _is_asgi(factory):
        raise OptionsError(f'{name} is an app, and no function: leave out --factory')
    if not callable(factory):
        raise OptionsError(
            f'{name} is not a function, but an object of the class '
            f'{type(factory).__name__}: name a function that returns the app'
        )
    try:
        inspect.signature(factory).bind()
    except TypeError as ex:
        raise OptionsError(
            f'{name} cannot be called without arguments ({ex}): name a function that '
            'returns the app'
        ) from None
    return factory()


def _check_app(app: Any, name: str) -> None:
    """Check that an object can be an ASGI app.

    Raises:
        OptionsError: It cannot.
    """
    if isinstance(app, falcon.App) and not _is_asgi(app):
        raise OptionsError(
            f'{name} is a WSGI app ({type(app).__name__}), but this is an ASGI '
            'server: use a falcon.asgi.App, or serve it with gunicorn or another '
            'WSGI server (docs/wsgi.md)'
        )
    if not callable(app):
        raise OptionsError(
            f'{name} is not an ASGI app, but an object of the class '
            f'{type(app).__name__}: name the falcon.asgi.App, such as main:app'
        )


def _without_root_path(app: Any, root_path: str) -> Any:
    """Remove the root path from the path of each request of an application.

    NOTE: in ASGI, a path begins with the root path. Falcon compares the whole path with
    its routes. Without this function, no route would match.
    """
    if not root_path:
        return app
    raw_root_path = root_path.encode()

    # PERF: this is not a coroutine function, because its coroutine would stay in memory
    #   as long as the connection (benchmarks/idle_memory.py).
    def call(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        if 'path' in scope:
            scope['path'] = scope['path'].removeprefix(root_path)
            scope['raw_path'] = scope['raw_path'].removeprefix(raw_root_path)
        return app(scope, receive, send)

    return call


def _prepare_app(app: object) -> None:
    """Turn off the receive queue of a Falcon app, and warn about its middleware."""
    drop_receive_queue(app)
    if isinstance(app, falcon.asgi.App):
        warn_of_http_middleware(app)


def drop_receive_queue(app: object) -> None:
    """Make a Falcon app receive from the server without a task in between.

    Falcon moves messages through a queue, so that a handler that only sends can detect
    that the client has left. Its documentation advises ``max_receive_queue = 0`` for
    servers that raise if an application sends to such a client. This server does. A
    value that the application has chosen stays.

    PERF: Saves half of the cost of an echo (benchmarks/echo.py).
    """
    if (
        isinstance(app, falcon.asgi.App)
        and app.ws_options.max_receive_queue == _FALCON_RECEIVE_QUEUE
    ):
        app.ws_options.max_receive_queue = 0
