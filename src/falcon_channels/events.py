"""Events of one process: what happened to its connections, subscriptions and links.

`Hub.events` tells each event to all listeners. Metrics and the inspector are listeners.
An event has no payload, no token and no address of a client.

Each event also becomes a log record, whose attribute `event` is the `Event`. `tell`
logs the events of ordinary operation. The code that reports a problem logs it with
`log_event`, as a sentence. It limits the number of lines, so that a client cannot fill
the disk. A command of the application is logged with `log_event`, too, so that it is
never missing.

NOTE: docs/events.md lists each event; a test compares both lists.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import logging
from typing import Final

import msgspec

_logger = logging.getLogger('falcon_channels')

#: Logger of the events of ordinary operation.
_event_logger = logging.getLogger('falcon_channels.events')

#: Meaning of each event, by name.
EVENTS: Final[dict[str, str]] = {
    'connection_refused': 'A request for a connection was refused',
    'connection_opened': 'A connection was added to this process',
    'connection_identified': 'The user of an open connection became known or changed',
    'connection_closed': 'A connection has ended',
    'command_refused': 'A command or a message of a client was refused',
    'application_command': 'The application gave a command about a user, on this '
    'process',
    'subscription_started': 'A connection has joined a channel',
    'subscription_ended': 'A subscription that had joined has ended',
    'reader_slow': "A client reads too slowly, and the channel's policy applies",
    'reader_caught_up': 'A client that read too slowly has read everything',
    'publications_dropped': 'Pending publications for a slow client were dropped',
    'publications_lost': 'A gap could not be closed, and all subscriptions of a '
    'channel ended',
    'responder_failed': 'A responder raised an unexpected exception',
    'link_lost': 'The link to the broker was lost',
    'link_restored': 'The link to the broker works again',
    'node_started': 'The channels of this process have started',
    'node_draining': 'The process refuses new connections and closes the others',
    'node_closed': 'The channels of this process are closed',
}

#: Levels of the events of ordinary operation.
#: SECURITY: a client can subscribe again and again, to fill the disk. Events that one
#: connection can cause many times are therefore at DEBUG.
LEVELS: Final[dict[str, int]] = {
    'connection_opened': logging.INFO,
    'connection_identified': logging.INFO,
    'connection_closed': logging.INFO,
    'subscription_started': logging.DEBUG,
    'subscription_ended': logging.DEBUG,
    'reader_caught_up': logging.DEBUG,
    'publications_dropped': logging.DEBUG,
    'node_started': logging.INFO,
    'node_draining': logging.INFO,
    'node_closed': logging.INFO,
}

#: Maximum number of characters of a value in the text log.
_MAX_CHARACTERS = 500

#: A fact about an event.
Fact = str | int | float | bool | None


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event.

    Attributes:
        name: A name of `EVENTS`.
        connection: Id of the connection, or ``''``.
        user: Id of the user, ``''`` for an anonymous user or none.
        channel: Name of the channel, or ``''``.
        route: Template of the route of the channel, or ``''``.
        code: Close code, unsubscribe code, error code or HTTP status; 0 for none.
        reason: Why it happened, for people, or ``''``. It can contain text of a client.
        facts: Other facts by name; docs/events.md lists them.
    """

    name: str
    connection: str = ''
    user: str = ''
    channel: str = ''
    route: str = ''
    code: int = 0
    reason: str = ''
    facts: Mapping[str, Fact] = {}

    def fields(self) -> dict[str, Fact]:
        """Return the fields that have a value, and then the facts."""
        fields: dict[str, Fact] = {
            name: value
            for name in ('connection', 'user', 'channel', 'route', 'code', 'reason')
            if (value := getattr(self, name))
        }
        return {**fields, **self.facts}

    def __str__(self) -> str:
        """Return one line for the text log; text of clients is quoted."""
        return ' '.join(
            [
                self.name,
                *(
                    f'{name}={value!r:.{_MAX_CHARACTERS}}'
                    for name, value in self.fields().items()
                ),
            ]
        )


def log_event(
    event: Event,
    level: int,
    message: str,
    *args: object,
    error: BaseException | None = None,
) -> None:
    """Log an event in words. The record's attribute `event` is the event.

    Args:
        event: The event. Pass it to `Events.tell`, too.
        level: Level of the record.
        message: The message, with a placeholder for each argument.
        args: The arguments of the message.
        error: Error whose traceback is logged.
    """
    _logger.log(
        level,
        message,
        *args,
        exc_info=error,
        extra={'event': event},
        stacklevel=2,
    )


def is_logged(level: int) -> bool:
    """Return whether `log_event` logs at a level."""
    return _logger.isEnabledFor(level)


#: Called with each event, in the event loop. It must not block.
Listener = Callable[[Event], None]


class Events:
    """Tells the events of one process to listeners.

    A `Node` has one object for its whole life, also across `close` and a new start.

    PERF: an event of ordinary operation is built only if somebody wants it::

        if events.wants('connection_opened'):
            events.tell(Event('connection_opened', connection=connection.id))

    Attributes:
        wanted: Whether there is a listener.
    """

    __slots__ = ('_listeners', 'wanted')

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self.wanted = False

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a listener with each event from now on.

        Returns:
            A function that ends this. It may be called more than once.
        """
        self._set([*self._listeners, listener])

        def stop() -> None:
            self._set([other for other in self._listeners if other is not listener])

        return stop

    def _set(self, listeners: list[Listener]) -> None:
        self._listeners = tuple(listeners)
        self.wanted = bool(listeners)

    def wants(self, name: str) -> bool:
        """Return whether there is a listener, or an event of `LEVELS` is logged."""
        return self.wanted or _event_logger.isEnabledFor(LEVELS[name])

    def tell(self, event: Event) -> None:
        """Call all listeners, and log an event of `LEVELS`.

        An error of a listener is logged, and the others are called.
        """
        level = LEVELS.get(event.name)
        if level is not None:
            _event_logger.log(level, '%s', event, extra={'event': event}, stacklevel=2)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                _logger.exception('listener %r failed for %r', listener, event.name)
