"""What an application asks of its users' connections, wherever they are.

Each call becomes a control message to all processes. Where it has returned, the message
is on its way; each process acts when it arrives.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from falcon_channels.brokers.base import Broker
from falcon_channels.cluster.messages import Control
from falcon_channels.cluster.messages import DisconnectUser
from falcon_channels.cluster.messages import encode_control
from falcon_channels.cluster.messages import RefreshUser
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.cluster.messages import UnsubscribeUser
from falcon_channels.errors import OptionsError
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.hub import Hub
from falcon_channels.options import NodeOptions
from falcon_channels.protocol.codes import MAX_REASON_BYTES
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import Position

#: Unsubscribe code: ended by the server, for good.
UNSUBSCRIBED = 2000
#: Disconnect code: ended by the server, for good.
FORCE_DISCONNECT = 3503


class UserCommands(abc.ABC):
    """The part of `Channels` that speaks to users' connections."""

    options: NodeOptions
    hub: Hub
    _broker: Broker

    @abc.abstractmethod
    async def match(self, channel: str) -> Any:
        """Check a channel, and be ready."""

    @abc.abstractmethod
    async def _ready(self) -> None:
        """Be started."""

    async def subscribe_user(
        self,
        user: str,
        channel: str,
        *,
        client: str = '',
        session: str = '',
        info: Any = None,
        data: Any = None,
        since: Position | None = None,
        expires_at: float | None = None,
    ) -> None:
        """Subscribe a user's connections to a channel, in every process.

        Connections that cannot have such subscriptions (the raw door), that are
        subscribed already, or whose channels are too many are passed over. The route's
        ``on_subscribe`` is not asked: the application has decided. A revocation holds.

        Args:
            user: Whose.
            channel: Which.
            client: Only this connection.
            session: Only the connection of this session.
            info: Public facts about the subscription, any JSON value.
            data: For the client, any JSON value.
            since: Send what was published after this position, too.
            expires_at: Unix time in seconds at which the subscription ends.

        Raises:
            UnknownChannelError: No route matches.
            PositionError: `since` is none.
        """
        check_position(since)
        await self.match(channel)
        await self._control(
            SubscribeUser(
                user=user,
                channel=channel,
                client=client,
                session=session,
                info=info,
                data=data,
                since=since,
                expires_at=expires_at,
            )
        )

    async def unsubscribe_user(
        self,
        user: str,
        channel: str,
        *,
        client: str = '',
        session: str = '',
        code: int = UNSUBSCRIBED,
    ) -> None:
        """End a user's subscriptions to a channel, in every process.

        Args:
            user: Whose.
            channel: Which; ``''`` for all.
            client: Only this connection's.
            session: Only those of the connection of this session.
            code: What clients are told; from 2500 on they subscribe again.

        Raises:
            OptionsError: It is no such code.
        """
        if not 2000 <= code <= 2999:
            raise OptionsError(
                f'code is {code}; those of subscriptions are 2000 to 2999'
            )
        await self._control(
            UnsubscribeUser(user, channel, code, 'unsubscribed', client, session)
        )

    async def refresh_user(
        self,
        user: str,
        *,
        client: str = '',
        session: str = '',
        expired: bool = False,
        expires_at: float | None = None,
        info: Any = None,
    ) -> None:
        """Say until when a user's connections are good, in every process.

        Args:
            user: Whose.
            client: Only this connection.
            session: Only the connection of this session.
            expired: They are good no longer: close them (3005), to come back with a
                new token.
            expires_at: Unix time in seconds; ``None`` changes nothing.
            info: New public facts about the connection; ``None`` changes nothing.
        """
        await self._control(
            RefreshUser(
                user=user,
                client=client,
                session=session,
                expired=expired,
                expires_at=expires_at,
                info=info,
            )
        )

    async def disconnect_user(
        self,
        user: str,
        *,
        client: str = '',
        session: str = '',
        code: int = FORCE_DISCONNECT,
        reason: str = 'force disconnect',
        spare: Sequence[str] = (),
    ) -> None:
        """Close a user's connections, in every process.

        Args:
            user: Whose.
            client: Only this connection.
            session: Only the connection of this session.
            code: Close code; 3500 to 3999 and 4500 to 4999 tell clients to stay away.
            reason: In words, at most 123 bytes of UTF-8.
            spare: Ids of connections that stay.

        Raises:
            OptionsError: No such code, or too long a reason.
        """
        if not 3000 <= code <= 4999:
            raise OptionsError(f'code is {code}; those of connections are 3000 to 4999')
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise OptionsError(
                f'reason of {len(reason.encode())} bytes exceeds {MAX_REASON_BYTES}'
            )
        await self._control(
            DisconnectUser(user, code, reason, client, tuple(spare), session)
        )

    async def revoke_user(
        self, user: str, channel: str, *, ttl_s: float | None = None
    ) -> None:
        """End a user's subscriptions to a channel, and refuse new ones.

        It holds in every process, whatever ``on_subscribe`` says, for `ttl_s` seconds
        (`NodeOptions.revoke_ttl_s` by default), or until `restore`.
        """
        await self.match(channel)
        await self._broker.revoke(
            channel, user, self.options.revoke_ttl_s if ttl_s is None else ttl_s
        )
        await self.unsubscribe_user(user, channel)

    async def restore_user(self, user: str, channel: str) -> None:
        """Take a revocation back."""
        await self.match(channel)
        await self._broker.revoke(channel, user, 0.0)

    def connections(self, user: str | None = None) -> list[Connection]:
        """Return the connections of this process, or those of one user."""
        connections = self.hub.connections.values()
        return [c for c in connections if user is None or c.user == user]

    async def _control(self, control: Control) -> None:
        await self._ready()
        await self._broker.control(encode_control(control))
