"""Call responders whose result no client waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import logging
from typing import Any

from falcon_channels.hub.hub import Hub

_logger = logging.getLogger('falcon_channels')


def notify(
    hub: Hub,
    responder: Callable[..., Awaitable[None]],
    name: str,
    about: object,
    /,
    *args: Any,
    **params: Any,
) -> None:
    """Call a responder after the event that it is told about, in a task of its own.

    An error is logged once and counted. Nobody else is concerned, because the client
    has left.

    Args:
        hub: Hub of this process. It lets the responder finish when it closes.
        responder: The responder.
        name: Name of the responder, for logs.
        about: Connection or subscription, for logs.
        args: Positional arguments of the responder.
        params: Keyword arguments of the responder.
    """

    async def call() -> None:
        try:
            await responder(*args, **params)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            hub.counters.responder_errors += 1
            _logger.exception('%s awaited a cancelled task, for %r', name, about)
        except Exception:
            hub.counters.responder_errors += 1
            _logger.exception('%s failed for %r', name, about)

    hub.spawn(call(), name, graceful=True)


def is_cancelled() -> bool:
    """Return whether the current task is being cancelled.

    If it is not, a `CancelledError` comes from another task, which a responder awaited.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
