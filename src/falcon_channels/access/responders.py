"""Call responders for which no client waits, and read the errors of responders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
import logging
from typing import Any

import falcon

from falcon_channels.errors import ChannelsError
from falcon_channels.events import Event
from falcon_channels.events import log_event
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Hub
from falcon_channels.operations import Operations

#: Exceptions that are no bugs of the application.
_EXPECTED = (
    ChannelsError,
    falcon.HTTPError,
    falcon.HTTPStatus,
    falcon.WebSocketDisconnected,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
)


def notify(
    hub: Hub,
    operations: Operations,
    responder: Callable[..., Awaitable[None]],
    name: str,
    connection: Connection,
    about: object,
    /,
    *args: Any,
    **params: Any,
) -> None:
    """Call a responder after an event, in a task of its own.

    An error is only logged and counted, because no client waits for the result.

    Args:
        hub: Hub of this process. It lets the responder finish when it closes.
        operations: Operations of this process.
        responder: The responder.
        name: Name of the responder, for logs.
        connection: Connection whose context variables the responder sees.
        about: Connection or subscription, for logs.
        args: Positional arguments of the responder.
        params: Keyword arguments of the responder.
    """

    async def call() -> None:
        try:
            await operations.responder(name, responder(*args, **params))
        except asyncio.CancelledError as ex:
            if is_cancelled():
                raise
            message = '%s awaited a cancelled task, for %r'
            note_error(connection, name, ex, message, name, about)
        except Exception as ex:
            message = '%s failed for %r'
            note_error(connection, name, ex, message, name, about)

    hub.tasks.spawn(call(), name, graceful=True, context=connection.context)


def note_error(
    connection: Connection,
    name: str,
    error: BaseException | None,
    message: str,
    *args: object,
) -> None:
    """Count, log and tell an unexpected exception of a responder.

    Args:
        connection: Connection that the responder was called for.
        name: Name of the responder or of the command that called it.
        error: The exception, or ``None`` if another line of the log has its
            traceback.
        message: Message for the log, with a placeholder for each argument.
        args: The arguments of the message.
    """
    hub = connection.hub
    hub.counters.responder_errors += 1
    event = Event(
        'responder_failed',
        connection=connection.id,
        user=connection.user,
        facts={'responder': name},
    )
    log_event(event, logging.ERROR, message, *args, error=error)
    hub.events.tell(event)


def note_failure(connection: Connection, action: str, error: BaseException) -> None:
    """Count, log and tell an unexpected exception that Falcon will log.

    The log line has no traceback, because Falcon's line has it. An error that refuses
    the client, or that says that the client has left, is not unexpected.

    Args:
        connection: Connection of the client.
        action: Name of what failed, such as ``'subscribe'``.
        error: The exception.
    """
    if not isinstance(error, _EXPECTED):
        note_error(
            connection,
            action,
            None,
            '%r: %s failed with %s',
            connection,
            action,
            type(error).__name__,
        )


def is_cancelled() -> bool:
    """Return whether the current task is being cancelled.

    If it is not, a `CancelledError` comes from another task, which a responder awaited.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def description_for_client(ex: falcon.HTTPError) -> str | None:
    """Return the description of an error, or ``None`` for a server error (5xx).

    The application can give any object as a description. One that is not text is
    converted, and text that UTF-8 cannot encode is escaped.
    """
    if ex.description is None or not 400 <= ex.status_code <= 499:
        return None
    return _text(ex.description)


def title_for_client(ex: falcon.HTTPError) -> str:
    """Return the title of an error, or its status line for a server error (5xx)."""
    title = _text(ex.title) if ex.title and 400 <= ex.status_code <= 499 else None
    return title or falcon.code_to_http_status(ex.status_code)


def text_for_client(ex: falcon.HTTPError) -> str:
    """Return the description of an error, or its title if it has none for clients."""
    return description_for_client(ex) or title_for_client(ex)


def _text(value: object) -> str | None:
    try:
        text = str(value)
    except Exception:
        return None
    return text.encode(errors='backslashreplace').decode()
