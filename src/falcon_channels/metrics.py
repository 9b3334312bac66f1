"""What a process counts; plain numbers, readable at any time.

NOTE: docs/metrics.md lists each counter, and a test compares.
"""

from __future__ import annotations


class Counters:
    """Counters of one hub; they only grow.

    Attributes:
        publications: Publications taken from the broker.
        deliveries: Publications handed to a subscriber's transport.
        dropped: Publications that a slow reader's policy left out.
        slow_disconnects: Connections closed because they read too slowly.
        gaps: Gaps found in a channel's publications.
        repairs: Gaps that were closed from the log.
        insufficient_state: Subscriptions ended because a gap could not be closed.
        recovered: Subscriptions that recovered everything.
        not_recovered: Subscriptions that asked to recover and could not.
        refused: Requests of clients that a responder or an option refused.
        too_fast: Commands refused for coming too fast.
        encodings: Encodings made, one per encoder and turn however many subscribers.
        links_lost: How often the link to the broker was lost.
        control_errors: Control messages that could not be read.
        task_errors: Tasks of this library that failed.
        responder_errors: Responders of the application that failed with nobody waiting.
        presence_errors: Presence changes that the broker could not take.
    """

    __slots__ = (
        'control_errors',
        'deliveries',
        'dropped',
        'encodings',
        'gaps',
        'insufficient_state',
        'links_lost',
        'not_recovered',
        'presence_errors',
        'publications',
        'recovered',
        'refused',
        'repairs',
        'responder_errors',
        'slow_disconnects',
        'task_errors',
        'too_fast',
    )

    def __init__(self) -> None:
        self.publications = 0
        self.deliveries = 0
        self.dropped = 0
        self.slow_disconnects = 0
        self.gaps = 0
        self.repairs = 0
        self.insufficient_state = 0
        self.recovered = 0
        self.not_recovered = 0
        self.refused = 0
        self.too_fast = 0
        self.encodings = 0
        self.links_lost = 0
        self.control_errors = 0
        self.responder_errors = 0
        self.task_errors = 0
        self.presence_errors = 0

    def to_media(self) -> dict[str, int]:
        """Return names and numbers."""
        return {name: getattr(self, name) for name in self.__slots__}
