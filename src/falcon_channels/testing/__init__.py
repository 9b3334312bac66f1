"""For tests of brokers and of applications."""

from falcon_channels.testing.contract import BrokerContract
from falcon_channels.testing.presence_contract import PresenceContract
from falcon_channels.testing.recorder import Recorder
from falcon_channels.testing.shared_contract import DurableBrokerContract
from falcon_channels.testing.shared_contract import SharedBrokerContract

__all__ = [
    'BrokerContract',
    'DurableBrokerContract',
    'PresenceContract',
    'Recorder',
    'SharedBrokerContract',
]
