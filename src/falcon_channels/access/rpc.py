"""Find the responders of an application for remote procedure calls."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
import inspect
from typing import Any

from falcon_channels.class_hooks import check_class_hooks


class RpcResponders:
    """The responders ``on_rpc`` and ``on_rpc_{method}`` of a resource.

    Args:
        resource: The application's resource, or ``None``.

    Attributes:
        names: Names of the responders.
    """

    def __init__(self, resource: object) -> None:
        self._resource = resource
        self.names = [name for name in dir(resource) if name.startswith('on_rpc')]

    def find(self, method: str) -> Callable[..., Any] | None:
        """Return ``on_rpc_{method}``, else ``on_rpc``, else ``None``."""
        if method.isidentifier():
            responder = getattr(self._resource, f'on_rpc_{method}', None)
            if responder is not None:
                return responder  # type: ignore[no-any-return] # the application's
        return getattr(self._resource, 'on_rpc', None)


def check_responders(resource: object, names: Collection[str]) -> None:
    """Check that the responders of a resource can be called.

    Raises:
        TypeError: A responder is not a coroutine function.
        OptionsError: The class has a hook that would not run before a responder.
    """
    for name in names:
        responder = getattr(resource, name, None)
        if responder is not None and not inspect.iscoroutinefunction(responder):
            raise TypeError(f'{responder!r} must be a coroutine function: "async def"')
    check_class_hooks(resource, names)
