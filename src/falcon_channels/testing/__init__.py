"""Helpers for tests of applications, and contract test suites for brokers.

This package works without pytest. The contract suites need pytest and pytest-asyncio
and are therefore imported from their own modules:
`falcon_channels.testing.contract`, `falcon_channels.testing.presence_contract` and
`falcon_channels.testing.shared_contract`.
"""

from falcon_channels.hub.connection import Joined
from falcon_channels.publication import Signal
from falcon_channels.testing.client import Received
from falcon_channels.testing.client import SimulatedClient
from falcon_channels.testing.client import Subscribed
from falcon_channels.testing.client import Unsubscribed
from falcon_channels.testing.clock import FakeClockLoop
from falcon_channels.testing.clock import FakeClockStuckError
from falcon_channels.testing.clock import run_with_fake_clock
from falcon_channels.testing.fresh import channels_fixture
from falcon_channels.testing.fresh import fresh_channels
from falcon_channels.testing.recorder import Recorder
from falcon_channels.testing.sdk import CommandError
from falcon_channels.testing.sdk import DisconnectedError
from falcon_channels.testing.sdk import SimulatedSdk

__all__ = [
    'CommandError',
    'DisconnectedError',
    'FakeClockLoop',
    'FakeClockStuckError',
    'Joined',
    'Received',
    'Recorder',
    'Signal',
    'SimulatedClient',
    'SimulatedSdk',
    'Subscribed',
    'Unsubscribed',
    'channels_fixture',
    'fresh_channels',
    'run_with_fake_clock',
]
