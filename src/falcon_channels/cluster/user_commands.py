"""Commands of the application about a user's connections on all nodes.

Each command is sent to all nodes as a control message. When a method returns, the
broker has taken the message. Each node acts when the message arrives.

The node that gave the command tells and logs it as the event `application_command`,
once.
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import logging
from typing import Any

from falcon_channels.brokers.base import Broker
from falcon_channels.checks import check_duration
from falcon_channels.checks import check_id
from falcon_channels.checks import check_integer
from falcon_channels.checks import check_time
from falcon_channels.checks import check_user
from falcon_channels.cluster.messages import Control
from falcon_channels.cluster.messages import DisconnectUser
from falcon_channels.cluster.messages import encode_control
from falcon_channels.cluster.messages import RefreshUser
from falcon_channels.cluster.messages import SubscribeUser
from falcon_channels.cluster.messages import UnsubscribeUser
from falcon_channels.errors import InvalidValueError
from falcon_channels.events import Event
from falcon_channels.events import Events
from falcon_channels.events import Fact
from falcon_channels.events import is_logged
from falcon_channels.events import log_event
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
from falcon_channels.routing import check_channel_name

#: Reason that a client gets when the application ends its subscription.
_UNSUBSCRIBED = 'unsubscribed'
#: Largest number of connections that `disconnect_user` leaves open.
_MAX_EXCLUDED = 1000


class UserCommands:
    """Sends commands about users to all nodes.

    Args:
        broker: Broker that carries the commands.
        options: Limits; `NodeOptions.revoke_ttl_s` is used here.
        match: Starts the node and finds the route of a channel.
        start: Starts the node.
        events: Events of this process.
    """

    def __init__(
        self,
        broker: Broker,
        options: NodeOptions,
        match: Callable[[str], Awaitable[ChannelMatch]],
        start: Callable[[], Awaitable[None]],
        events: Events,
    ) -> None:
        self._broker = broker
        self._options = options
        self._match = match
        self._start = start
        self._events = events

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
        _check_target(user, client, session)
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
        self._tell('subscribe', user, channel, client=client, session=session)

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
        _check_target(user, client, session)
        if channel != '':
            check_channel_name(channel, self._options.max_channel_bytes)
        check_integer('code', code, 2000, 2999)
        await self._unsubscribe(user, channel, client, session, code)
        self._tell(
            'unsubscribe',
            user,
            channel,
            code=code,
            reason=_UNSUBSCRIBED,
            client=client,
            session=session,
        )

    async def _unsubscribe(
        self, user: str, channel: str, client: str, session: str, code: int
    ) -> None:
        await self._send(
            UnsubscribeUser(user, channel, code, _UNSUBSCRIBED, client, session)
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
        _check_target(user, client, session)
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
        self._tell(
            'refresh',
            user,
            client=client,
            session=session,
            expired=expired,
            expires_at=expires_at,
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
        _check_target(user, client, session)
        check_integer('code', code, 3000, 4999)
        _check_reason(reason)
        exclude = _check_ids('exclude', exclude)
        await self._send(DisconnectUser(user, code, reason, client, exclude, session))
        self._tell(
            'disconnect',
            user,
            code=code,
            reason=reason,
            client=client,
            session=session,
            num_excluded=len(exclude),
        )

    async def revoke_user(
        self, user: str, channel: str, *, ttl_s: float | None = None
    ) -> None:
        """Implement `Channels.revoke_user`."""
        check_user(user)
        if ttl_s is None:
            ttl_s = self._options.revoke_ttl_s
        else:
            # SECURITY: brokers remove the revocation if the time is 0. A computed time
            #   that is not above 0 must not restore the user.
            ttl_s = check_duration('ttl_s', ttl_s)
        await self._match(channel)
        await self._broker.revoke(channel, user, ttl_s)
        # NOTE: the revocation is stored, and is told also if the next step fails.
        self._tell(
            'revoke',
            user,
            channel,
            code=UNSUBSCRIBE_SERVER.code,
            reason=_UNSUBSCRIBED,
            ttl_s=ttl_s,
        )
        await self._unsubscribe(user, channel, '', '', UNSUBSCRIBE_SERVER.code)

    async def restore_user(self, user: str, channel: str) -> None:
        """Implement `Channels.restore_user`."""
        check_user(user)
        await self._match(channel)
        await self._broker.revoke(channel, user, 0.0)
        self._tell('restore', user, channel)

    async def _send(self, control: Control) -> None:
        await self._start()
        try:
            message = encode_control(control)
        except OverflowError:
            # NOTE: JSON has no limit, but the messages between processes have one.
            raise InvalidValueError(
                'info or data has an integer of more than 64 bits, which cannot be '
                'sent to other processes: send it as text'
            ) from None
        await self._broker.control(message)

    def _tell(
        self,
        command: str,
        user: str,
        channel: str = '',
        *,
        code: int = 0,
        reason: str = '',
        client: str = '',
        session: str = '',
        **facts: Fact,
    ) -> None:
        """Report a command to the listeners and the log. The broker has taken it.

        SECURITY: with the session of an HTTP stream, anybody could send commands for
          its client. The event therefore does not contain the session.
        """
        if not (self._events.wanted or is_logged(logging.INFO)):
            return
        event = Event(
            'application_command',
            connection=client,
            user=user,
            channel=channel,
            code=code,
            reason=reason,
            facts={'command': command, 'one_session': bool(session), **facts},
        )
        log_event(event, logging.INFO, '%s', event)
        self._events.tell(event)


def _check_target(user: str, client: str, session: str) -> None:
    """Check the ids that choose the connections of a command."""
    check_user(user)
    check_id('client', client)
    check_id('session', session)


def _check_reason(reason: object) -> None:
    try:
        size_bytes = len(reason.encode()) if isinstance(reason, str) else None
    except UnicodeEncodeError:
        size_bytes = None
    if size_bytes is None:
        raise InvalidValueError(f'reason is text in UTF-8, not {reason!r:.40}')
    if size_bytes > MAX_REASON_BYTES:
        raise InvalidValueError(
            f'reason of {size_bytes} bytes exceeds {MAX_REASON_BYTES}: shorten it'
        )


def _check_ids(name: str, ids: Sequence[str]) -> tuple[str, ...]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InvalidValueError(f'{name} is several ids: give a list of text')
    found = tuple(ids)
    if len(found) > _MAX_EXCLUDED:
        raise InvalidValueError(
            f'{name} has {len(found)} ids, but at most {_MAX_EXCLUDED} are allowed'
        )
    for id in found:
        check_id(name, id)
    return found
