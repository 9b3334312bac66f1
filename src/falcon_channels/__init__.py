"""Real-time for the Falcon web framework."""

import importlib.metadata

from falcon_channels.access.authorization import PublicationDraft
from falcon_channels.brokers.base import PublishResult
from falcon_channels.channels import Channels
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.commands import ClientMessage
from falcon_channels.endpoint.commands import RpcCall
from falcon_channels.errors import BrokerError
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import EventLoopError
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import OptionsError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PositionError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import StreamAbortedError
from falcon_channels.errors import StreamConflictError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.events import Event
from falcon_channels.explain.verdicts import Explanation
from falcon_channels.explain.verdicts import Verdict
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.local_subscription import LocalSubscription
from falcon_channels.options import ChannelOptions
from falcon_channels.options import EndpointOptions
from falcon_channels.options import EventStreamOptions
from falcon_channels.options import NodeOptions
from falcon_channels.options import StreamWriterOptions
from falcon_channels.origin import OriginCheck
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Publication
from falcon_channels.publication import Snapshot
from falcon_channels.server_api.methods import ApiCall
from falcon_channels.streams.writer import StreamWriter

__all__ = [
    'ApiCall',
    'BrokerError',
    'BrokerUnavailableError',
    'CapabilityError',
    'ChannelEnd',
    'ChannelFinishedError',
    'ChannelNameError',
    'ChannelOptions',
    'Channels',
    'ChannelsError',
    'ClientConnection',
    'ClientInfo',
    'ClientMessage',
    'ClosedError',
    'Connection',
    'EndpointOptions',
    'Event',
    'EventLoopError',
    'EventStreamOptions',
    'Explanation',
    'HistoryPage',
    'InvalidValueError',
    'LocalSubscription',
    'NodeOptions',
    'OptionsError',
    'OriginCheck',
    'PayloadError',
    'Position',
    'PositionError',
    'PresenceStats',
    'Publication',
    'PublicationDraft',
    'PublicationTooLargeError',
    'PublishResult',
    'RpcCall',
    'Snapshot',
    'StreamAbortedError',
    'StreamConflictError',
    'StreamWriter',
    'StreamWriterOptions',
    'Subscription',
    'UnknownChannelError',
    'UnsubscribedError',
    'Verdict',
    '__version__',
]

__version__ = importlib.metadata.version('falcon-channels')
