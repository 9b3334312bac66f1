"""Finds the app of ``falcon-channels serve``, and says why it cannot be used."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

import falcon
import falcon.asgi

from falcon_channels.errors import OptionsError


def load_object(name: Any) -> Any:
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


def is_factory(found: Any) -> bool:
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


def call_factory(factory: Any, name: str) -> Any:
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


def check_app(app: Any, name: str) -> None:
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
