"""Events of one process: what happened to its connections, subscriptions and links.

`Hub.events` tells each event to all listeners. Logs, metrics and the inspector are
listeners. An event has no payload, no token and no address of a client.

NOTE: docs/events.md lists each event; a test compares both lists.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import logging
from typing import Final

import msgspec

from falcon_channels.operations import Operations

_logger = logging.getLogger('falcon_channels')

#: Meaning of each event, by name.
EVENTS: Final[dict[str, str]] = {
    'connection_refused': 'A request for a connection was refused',
    'connection_opened': 'A connection was added to this process',
    'connection_identified': 'The user of an open connection became known or changed',
    'connection_closed': 'A connection has ended',
    'command_refused': 'A command or a message of a client was refused',
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


#: Called with each event, in the event loop. It must not block.
Listener = Callable[[Event], None]


class Events:
    """Tells the events of one process to listeners.

    A `Node` has one object for its whole life, also across `close` and a new start.

    PERF: an event is built only if somebody listens::

        if events.wanted:
            events.tell(Event('link_lost'))

    Attributes:
        wanted: Whether there is a listener.
        operations: The timed operations of the same process, which have observers of
            their own.
    """

    __slots__ = ('_listeners', 'operations', 'wanted')

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self.wanted = False
        self.operations = Operations()

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

    def tell(self, event: Event) -> None:
        """Call all listeners. An error of one is logged, and the others are called."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                _logger.exception('listener %r failed for %r', listener, event.name)
