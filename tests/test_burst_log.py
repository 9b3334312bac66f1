"""One failure is logged once, even if many calls fail."""

from __future__ import annotations

import asyncio
import logging

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels.burst_log import BurstLog


@on_fake_clock
async def test_warning_of_a_burst_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first warning of a burst is logged; a burst ends after a quiet time."""
    caplog.set_level(logging.DEBUG)
    log = BurstLog(quiet_s=30.0)
    for pause_s in (0.0, 20.0, 20.0, 31.0, 1.0):
        await asyncio.sleep(pause_s)
        log.warning('failed after %s s', pause_s)
    levels = [
        record.levelname
        for record in caplog.records
        if record.name == 'falcon_channels'
    ]
    assert ['WARNING', 'DEBUG', 'DEBUG', 'WARNING', 'DEBUG'] == levels
