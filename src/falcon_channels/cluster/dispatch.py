"""Decode control messages, and apply them to connections or to this node."""

from __future__ import annotations

from collections.abc import Callable
import logging

import msgspec

from falcon_channels.cluster.messages import decode_control
from falcon_channels.cluster.messages import DisconnectUser
from falcon_channels.cluster.messages import NodeMessage
from falcon_channels.cluster.messages import RefreshUser
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.cluster.messages import UserCommand
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Hub

_logger = logging.getLogger('falcon_channels')


class ControlDispatcher:
    """Decodes control messages and applies them to the connections of this process.

    Args:
        hub: The hub of this process.
        on_node_message: Called with each message between nodes.
        on_subscribe_user: Called with each connection to subscribe, and the message.
    """

    def __init__(
        self,
        hub: Hub,
        on_node_message: Callable[[NodeMessage], None],
        on_subscribe_user: Callable[[Connection, SubscribeUser], None],
    ) -> None:
        self._hub = hub
        self._on_node_message = on_node_message
        self._on_subscribe_user = on_subscribe_user

    def receive(self, message: bytes) -> None:
        """Decode a control message and apply it.

        A message that cannot be decoded is counted and logged.
        """
        try:
            control = decode_control(message)
        except msgspec.DecodeError as ex:
            self._hub.counters.control_errors += 1
            _logger.error('control message cannot be decoded: %s', ex)
            return
        if isinstance(control, NodeMessage):
            self._on_node_message(control)
            return
        for connection in self._hub.connections_of_user(control.user):
            if control.client and control.client != connection.id:
                continue
            if control.session and control.session != connection.session:
                continue
            self._apply(connection, control)

    def _apply(self, connection: Connection, control: UserCommand) -> None:
        if isinstance(control, DisconnectUser):
            if connection.id not in control.exclude:
                connection.disconnect(control.code, control.reason)
        elif isinstance(control, RefreshUser):
            connection.on_refresh(control.expired, control.expires_at, control.info)
        elif isinstance(control, SubscribeUser):
            self._on_subscribe_user(connection, control)
        else:
            for subscription in list(connection.subscriptions.values()):
                if control.channel in ('', subscription.channel):
                    self._hub.unsubscribe(subscription, control.code, control.reason)
