"""Commands of the application about a user's connections on all nodes.

Each command is sent to all nodes as a control message. When a method returns, the
broker has taken the message. Each node acts when the message arrives.
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from falcon_channels.brokers.base import Broker
from falcon_channels.checks import check_time
from falcon_channels.checks import check_user
from falcon_channels.cluster.messages import Control
from falcon_channels.cluster.messages import DisconnectUser
from falcon_channels.cluster.messages import encode_control
from falcon_channels.cluster.messages import RefreshUser
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.cluster.messages import UnsubscribeUser
from falcon_channels.errors import OptionsError
from falcon_channels.filters import check_filter
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import check_json
from falcon_channels.options import NodeOptions
from falcon_channels.protocol.codes import DISCONNECT_FORCE
from falcon_channels.protocol.codes import MAX_REASON_BYTES
from falcon_channels.protocol.codes import UNSUBSCRIBE_SERVER
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import Position
from falcon_channels.routing import ChannelMatch


class UserCommands:
    """Sends commands about users to all nodes.

    Args:
        broker: Broker that carries the commands.
        options: Limits; `NodeOptions.revoke_ttl_s` is used here.
        match: Starts the node and finds the route of a channel.
        start: Starts the node.
    """

    def __init__(
        self,
        broker: Broker,
        options: NodeOptions,
        match: Callable[[str], Awaitable[ChannelMatch]],
        start: Callable[[], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._options = options
        self._match = match
        self._start = start

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
        filter: TagFilter | None = None,
    ) -> None:
        """Implement `Channels.subscribe_user`."""
        check_user(user)
        check_position(since)
        check_json('info', info)
        check_json('data', data)
        expires_at = check_time('expires_at', expires_at)
        check_filter('filter', filter)
        await self._match(channel)
        await self._send(
            SubscribeUser(
                user=user,
                channel=channel,
                client=client,
                session=session,
                info=info,
                data=data,
                since=since,
                expires_at=expires_at,
                filter=filter,
            )
        )

    async def unsubscribe_user(
        self,
        user: str,
        channel: str,
        *,
        client: str = '',
        session: str = '',
        code: int = UNSUBSCRIBE_SERVER.code,
    ) -> None:
        """Implement `Channels.unsubscribe_user`."""
        check_user(user)
        if not 2000 <= code <= 2999:
            raise OptionsError(
                f'code is {code}, but unsubscribe codes are 2000 to 2999'
            )
        await self._send(
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
        """Implement `Channels.refresh_user`."""
        check_user(user)
        check_json('info', info)
        expires_at = check_time('expires_at', expires_at)
        await self._send(
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
        code: int = DISCONNECT_FORCE.code,
        reason: str = DISCONNECT_FORCE.reason,
        exclude: Sequence[str] = (),
    ) -> None:
        """Implement `Channels.disconnect_user`."""
        check_user(user)
        if not 3000 <= code <= 4999:
            raise OptionsError(f'code is {code}, but close codes are 3000 to 4999')
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise OptionsError(
                f'reason of {len(reason.encode())} bytes exceeds {MAX_REASON_BYTES}: '
                'shorten it'
            )
        await self._send(
            DisconnectUser(user, code, reason, client, tuple(exclude), session)
        )

    async def revoke_user(
        self, user: str, channel: str, *, ttl_s: float | None = None
    ) -> None:
        """Implement `Channels.revoke_user`."""
        check_user(user)
        await self._match(channel)
        await self._broker.revoke(
            channel, user, self._options.revoke_ttl_s if ttl_s is None else ttl_s
        )
        await self.unsubscribe_user(user, channel)

    async def restore_user(self, user: str, channel: str) -> None:
        """Implement `Channels.restore_user`."""
        check_user(user)
        await self._match(channel)
        await self._broker.revoke(channel, user, 0.0)

    async def _send(self, control: Control) -> None:
        await self._start()
        await self._broker.control(encode_control(control))
