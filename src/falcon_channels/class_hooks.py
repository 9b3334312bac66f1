"""Find hooks of a class that do not run before its responders for channels.

Falcon applies ``@falcon.before(hook)`` on a class to its HTTP responders and to
``on_websocket``. Falcon does not know the responders for channels and connections. The
class looks guarded, but ``on_subscribe`` runs without the hook.

If the class has no HTTP responders, Falcon leaves no trace of the hook. The decorators
are therefore read from the source of the class.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection
import functools
import inspect
import logging
import re
import sys
from typing import Any

import falcon

from falcon_channels.errors import OptionsError

_logger = logging.getLogger('falcon_channels')

_HOOKS = (falcon.before, falcon.after)
#: Responders that only report an event. They need no guard.
_EVENTS = frozenset({'on_unsubscribe', 'on_disconnect'})
#: Responders that Falcon decorates with the hooks of their class.
_HTTP_RESPONDER = re.compile(
    rf'on_({"|".join(method.lower() for method in falcon.COMBINED_METHODS)})(_\w+)?'
)


def check_class_hooks(resource: object, responders: Collection[str]) -> None:
    """Refuse a class with a hook that does not run before its responders.

    SECURITY: otherwise, anybody could subscribe to a channel whose resource seems to be
    guarded.

    Args:
        resource: The application's resource, or ``None``.
        responders: Names of the responders that this package calls.

    Raises:
        OptionsError: The class has a hook, and one of its responders has none.
    """
    cls = type(resource)
    for owner in cls.__mro__[:-1]:
        unguarded = [
            name
            for name in responders
            if not name.startswith(tuple(_EVENTS))
            and hasattr(owner, name)
            and getattr(owner, name) is getattr(cls, name)
            and not _has_hook(getattr(owner, name))
        ]
        hooked = _is_hooked(owner) if unguarded else False
        if hooked is False:
            continue
        message = (
            f'the hook of the class {owner.__name__} runs before HTTP responders and '
            f'on_websocket only, not before {", ".join(unguarded)}: decorate these '
            'responders with the hook, or decorate single responders and not the class'
        )
        if hooked:
            raise OptionsError(message)
        _logger.warning('possibly, %s', message)


def _has_hook(responder: Any) -> bool:
    """Return whether a responder is decorated."""
    return hasattr(responder, '__wrapped__')


def _is_hooked(cls: type) -> bool | None:
    """Return whether a class is decorated with a hook; ``None`` if it is unknown."""
    decorators = _read_classes(cls.__module__).get(cls.__qualname__)
    if decorators is not None:
        names = vars(sys.modules[cls.__module__])
        found = [_is_hook(decorator, names) for decorator in decorators]
        if True in found:
            return True
        if None not in found:
            return False
    # NOTE: the source cannot be read, or the application has a decorator of its own.
    #   If Falcon has decorated all HTTP responders, the class may have a hook.
    http = [name for name in dir(cls) if _HTTP_RESPONDER.fullmatch(name)]
    if http and all(_has_hook(getattr(cls, name)) for name in http):
        return None
    return False


@functools.lru_cache(maxsize=32)
def _read_classes(module: str) -> dict[str, list[ast.expr]]:
    """Return the decorators of the classes of a module by qualified name.

    Returns:
        An empty dict if the source cannot be read.
    """
    # NOTE: CPython 3.11 raises SystemError if two threads parse at the same time.
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, SyntaxError, SystemError, TypeError):
        return {}
    classes: dict[str, list[ast.expr]] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.ClassDef):
                classes[prefix + child.name] = child.decorator_list
                inner = f'{prefix}{child.name}.'
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f'{prefix}{child.name}.<locals>.'
            visit(child, inner)

    visit(tree, '')
    return classes


def _is_hook(decorator: ast.expr, names: dict[str, Any]) -> bool | None:
    """Return whether a decorator is a hook of Falcon; ``None`` if it is unknown."""
    if isinstance(decorator, ast.Call):
        return True if _find(decorator.func, names) in _HOOKS else None
    # NOTE: it can be a name that was assigned ``falcon.before(hook)``. This is a
    #   function from Falcon's module.
    value = _find(decorator, names)
    return True if getattr(value, '__module__', '') == _HOOKS[0].__module__ else None


def _find(expression: ast.expr, names: dict[str, Any]) -> Any:
    """Return the value of a dotted name in a module, or ``None``."""
    if isinstance(expression, ast.Name):
        return names.get(expression.id, getattr(builtins, expression.id, None))
    if isinstance(expression, ast.Attribute):
        return getattr(_find(expression.value, names), expression.attr, None)
    return None
