"""For tests of brokers and of applications."""

from falcon_channels.testing.client import Received
from falcon_channels.testing.client import SimulatedClient
from falcon_channels.testing.client import Subscribed
from falcon_channels.testing.client import Unsubscribed
from falcon_channels.testing.clock import FakeClockLoop
from falcon_channels.testing.clock import FakeClockStuckError
from falcon_channels.testing.clock import run_with_fake_clock
from falcon_channels.testing.contract import BrokerContract
from falcon_channels.testing.presence_contract import PresenceContract
from falcon_channels.testing.recorder import Recorder
from falcon_channels.testing.shared_contract import DurableBrokerContract
from falcon_channels.testing.shared_contract import SharedBrokerContract

__all__ = [
    'BrokerContract',
    'DurableBrokerContract',
    'FakeClockLoop',
    'FakeClockStuckError',
    'PresenceContract',
    'Received',
    'Recorder',
    'SharedBrokerContract',
    'SimulatedClient',
    'Subscribed',
    'Unsubscribed',
    'run_with_fake_clock',
]
