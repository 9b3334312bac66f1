"""Counters and gauges of one process: names, help texts, and the counters' values.

NOTE: docs/metrics.md lists each counter and gauge; a test compares both lists.
"""

from __future__ import annotations

from typing import Final

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
    'recovered': 'Subscriptions that recovered everything',
    'refused': 'Requests of clients that a responder or an option refused',
    'repairs': 'Gaps that were closed from the log',
    'responder_errors': 'Responders of the application that raised an unexpected '
    'exception',
    'slow_disconnects': 'Connections closed because they read too slowly',
    'task_errors': 'Errors in tasks of this library, which ended at most one '
    'connection or channel; the log has the traceback',
    'too_fast': 'Commands refused because they exceeded the rate limit',
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
