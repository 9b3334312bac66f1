"""Decides when to ping a peer, and when it is gone.

Pure: the keep-alive wheel has the clock, and the connection counts its pings.
"""

from __future__ import annotations

from enum import auto
from enum import Enum
from typing import NamedTuple


class Step(Enum):
    """A decision about a peer."""

    WAIT = auto()
    PING = auto()
    END = auto()


class Beat(NamedTuple):
    """The result of a check.

    Attributes:
        step: The decision.
        unanswered: Number of pings since bytes arrived, with the one of this step.
        delay_s: Time until the next check, in seconds.
    """

    step: Step
    unanswered: int
    delay_s: float


def next_beat(
    unanswered: int, interval_s: float, timeout_s: float | None, *, heard: bool
) -> Beat:
    """Decide about a peer whose check is due.

    Any bytes show that a peer is alive, not only a pong. If the timeout is longer than
    the interval, several pings are sent before the peer counts as gone.

    Args:
        unanswered: Number of pings since bytes arrived.
        interval_s: Time between two pings, in seconds.
        timeout_s: Time after a ping without bytes that means that the peer is gone, in
            seconds; ``None`` for no limit.
        heard: Whether bytes have arrived since the last ping.
    """
    if timeout_s is None:
        return Beat(Step.PING, 0, interval_s)
    step_s = min(interval_s, timeout_s)
    if unanswered:
        if heard:
            unanswered = 0
            if interval_s > timeout_s:
                return Beat(Step.WAIT, 0, interval_s - timeout_s)
        elif unanswered * step_s >= timeout_s:
            return Beat(Step.END, unanswered, 0)
    return Beat(Step.PING, unanswered + 1, step_s)
