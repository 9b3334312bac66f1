"""Count, log and tell refusals. Each reason is logged once per connection."""

from __future__ import annotations

import logging

from falcon_channels.events import Event
from falcon_channels.events import is_logged
from falcon_channels.events import log_event
from falcon_channels.hub.connection import Connection


def log_refusal(
    connection: Connection,
    action: str,
    channel: str,
    code: int,
    text: str,
    *,
    method: str = '',
    reason: object = None,
    level: int = logging.INFO,
) -> None:
    """Count, log and tell that a client was refused.

    Each reason is logged at `level` once, and at DEBUG when it is repeated.

    SECURITY: a client can cause any number of refusals, to fill the disk. A connection
    therefore causes at most `Connection.MAX_LOGGED_REFUSALS` lines above DEBUG.
    Text of the client is quoted.

    Args:
        connection: Connection of the client.
        action: Name of the refused command, such as ``'subscribe'``.
        channel: Name of the channel, or ``''``.
        code: Code that the client receives: an error code, a close code or an HTTP
            status.
        text: Why it was refused.
        method: Name of the called method, or ``''``.
        reason: Value that is equal for all refusals with the same reason; `text` by
            default. Pass it if `text` contains text of the client, which can differ
            each time.
        level: Level of the first refusal for a reason.
    """
    hub = connection.hub
    hub.counters.refused += 1
    new = connection.is_new_refusal((action, code, text if reason is None else reason))
    level = level if new else logging.DEBUG
    events = hub.events
    if not (events.wanted or is_logged(level)):
        return
    facts: dict[str, str | bool] = {'command': action, 'repeated': not new}
    if method:
        facts['method'] = method
    event = Event(
        'command_refused',
        connection=connection.id,
        user=connection.user,
        channel=channel,
        code=code,
        reason=text,
        facts=facts,
    )
    log_event(
        event,
        level,
        '%r: %s %.255r refused with %d: %.500r',
        connection,
        action,
        channel or method,
        code,
        text,
    )
    events.tell(event)
