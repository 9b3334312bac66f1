"""Metrics of one process: names, help texts, labels and buckets, and plain counters.

NOTE: docs/metrics.md lists each metric; a test compares both lists.
"""

from __future__ import annotations

from typing import Final
from typing import NamedTuple

#: Help text of each counter, by name. `Counters` has an attribute for each.
COUNTERS: Final[dict[str, str]] = {
    'control_errors': 'Control messages that could not be read',
    'deliveries': "Publications handed to a subscriber's transport",
    'dropped': "Publications that a slow reader's policy left out",
    'encodings': 'Encodings made: one per encoder and event-loop iteration, however '
    'many subscribers there are',
    'gaps': "Gaps found in a channel's publications",
    'insufficient_state': 'Subscriptions ended because a gap could not be closed',
    'links_lost': 'How often the link to the broker was lost',
    'not_recovered': 'Subscriptions that requested recovery and could not recover',
    'presence_errors': 'Presence changes that the broker could not store',
    'publications': 'Publications received from the broker',
    'received_bytes': 'Bytes of the messages of clients; a character of a text message '
    'counts as 1',
    'recovered': 'Subscriptions that recovered everything',
    'refused': 'Commands and messages of clients that were refused, for any reason',
    'repairs': 'Gaps that were closed from the log',
    'responder_errors': 'Responders of the application that raised an unexpected '
    'exception',
    'slow_disconnects': 'Connections closed because they read too slowly',
    'task_errors': 'Errors in tasks of this library, which ended at most one '
    'connection or channel; the log has the traceback',
    'too_fast': 'Commands refused because they exceeded the rate limit; `refused` '
    'contains them',
}

#: Help text of each gauge, by name.
GAUGES: Final[dict[str, str]] = {
    'connections': 'Open connections',
    'users': 'Users with connections; all anonymous users count as one',
    'channels': 'Channels with subscribers',
    'subscriptions': 'Subscriptions of connections to channels',
    'backlog_bytes': 'Bytes that are buffered for clients',
    'link_up': '1 while announcements of the broker arrive, 0 while the link is lost',
    'uptime_seconds': 'Seconds since the process started',
}


class LabelledCounter(NamedTuple):
    """A counter with labels; counted from the first call of `Node.measure` on.

    Attributes:
        text: Help text.
        labels: Names of the labels.
    """

    text: str
    labels: tuple[str, ...]


class Histogram(NamedTuple):
    """A histogram; measured from the first call of `Node.measure` on.

    Attributes:
        text: Help text.
        labels: Names of the labels.
        buckets: Upper bounds, ascending. Values above the last one are counted, too.
    """

    text: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]


#: Bounds in seconds, from what a process in the same room needs to what clients notice.
SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

#: Counters with labels, by name.
LABELLED_COUNTERS: Final[dict[str, LabelledCounter]] = {
    'closes': LabelledCounter(
        'Connections that have ended, by close code; 0 for none', ('code', 'by')
    ),
    'refused_commands': LabelledCounter(
        'Commands and messages of clients that were refused, by the code that the '
        'client got',
        ('command', 'code'),
    ),
    'refused_connections': LabelledCounter(
        'Requests for a connection that were refused, by HTTP status', ('status',)
    ),
    'route_publications': LabelledCounter(
        'Publications that this process delivered, by route', ('route',)
    ),
    'route_deliveries': LabelledCounter(
        "Publications handed to a subscriber's transport, by route", ('route',)
    ),
    'route_bytes': LabelledCounter(
        "Bytes of publications handed to subscribers' transports, by route",
        ('route',),
    ),
}

#: Histograms, by name.
HISTOGRAMS: Final[dict[str, Histogram]] = {
    'publish_to_write_seconds': Histogram(
        'Time from the moment when the broker stored a publication until it was '
        'written to the subscribers of this process',
        ('route',),
        SECONDS,
    ),
    'responder_seconds': Histogram(
        'Time that a responder of the application took',
        ('responder', 'outcome'),
        SECONDS,
    ),
    'broker_call_seconds': Histogram(
        'Time that a call of the broker took', ('method', 'outcome'), SECONDS
    ),
    'handshake_seconds': Histogram(
        'Time from the request for a connection until the connection was added or '
        'refused',
        ('outcome',),
        SECONDS,
    ),
    'recovery_publications': Histogram(
        'Publications that a client got when it recovered',
        (),
        (0, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 10000),
    ),
    'recovery_bytes': Histogram(
        'Approximate bytes that a client got when it recovered',
        (),
        (0, 100, 1000, 5000, 10000, 50000, 100000, 500000, 1000000, 10000000),
    ),
}


class Counters:
    """The counters of one hub. They start at 0 and only grow.

    `COUNTERS` describes each attribute. Read them at any time.

    PERF: plain attributes, because ``counters.deliveries += n`` is on the path of every
    delivery.
    """

    __slots__ = tuple(COUNTERS)

    control_errors: int
    deliveries: int
    dropped: int
    encodings: int
    gaps: int
    insufficient_state: int
    links_lost: int
    not_recovered: int
    presence_errors: int
    publications: int
    received_bytes: int
    recovered: int
    refused: int
    repairs: int
    responder_errors: int
    slow_disconnects: int
    task_errors: int
    too_fast: int

    def __init__(self) -> None:
        for name in COUNTERS:
            setattr(self, name, 0)

    def to_media(self) -> dict[str, int]:
        """Return the values by name."""
        return {name: getattr(self, name) for name in COUNTERS}
