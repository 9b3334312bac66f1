"""When a peer is pinged, and when it is gone."""

from __future__ import annotations

import pytest

from falcon_channels.server.heartbeat import Beat
from falcon_channels.server.heartbeat import next_beat
from falcon_channels.server.heartbeat import Step


def steps_of_silent_peer(
    interval_s: float, timeout_s: float
) -> list[tuple[float, Step]]:
    """Return the time and the step of each check, from the first one to the end."""
    now_s, unanswered = interval_s, 0
    steps = []
    while not steps or steps[-1][1] is not Step.END:
        beat = next_beat(unanswered, interval_s, timeout_s, heard=False)
        steps.append((now_s, beat.step))
        unanswered = beat.unanswered
        now_s += beat.delay_s
    return steps


def test_silent_peer_with_a_short_timeout_ends_after_one_ping() -> None:
    """The timeout begins with the ping."""
    expected = [(20, Step.PING), (25, Step.END)]
    assert expected == steps_of_silent_peer(20, 5)


def test_silent_peer_with_a_long_timeout_is_pinged_until_the_timeout() -> None:
    """Pings continue in each interval until the timeout of the first one is over."""
    expected = [(5, Step.PING), (10, Step.PING), (15, Step.PING), (20, Step.END)]
    assert expected == steps_of_silent_peer(5, 15)


def test_peer_that_answered_waits_for_the_rest_of_the_interval() -> None:
    """Two pings are one interval apart, although the check comes at the timeout."""
    assert Beat(Step.WAIT, 0, 15) == next_beat(1, 20, 5, heard=True)
    assert Beat(Step.PING, 1, 5) == next_beat(0, 20, 5, heard=True)


@pytest.mark.parametrize('heard', [False, True])
def test_peer_without_a_timeout_is_only_pinged(heard: bool) -> None:
    """Without a timeout, silence has no consequence."""
    assert Beat(Step.PING, 0, 20) == next_beat(0, 20, None, heard=heard)
