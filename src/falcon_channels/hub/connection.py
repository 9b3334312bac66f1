"""One client of this process, whatever it speaks."""

from __future__ import annotations

import abc
import secrets
from typing import Any
from typing import TYPE_CHECKING

import msgspec

from falcon_channels.publication import ClientInfo

if TYPE_CHECKING:
    from falcon_channels.hub.hub import Hub
    from falcon_channels.hub.hub import Joined
    from falcon_channels.hub.subscription import Subscription
    from falcon_channels.transports.base import Transport
    from falcon_channels.transports.encoders import Encoder


#: Disconnect code: the server goes away, reconnect.
SHUTDOWN = 3001
#: Disconnect code: the connection's time is over, reconnect with a new token.
EXPIRED = 3005


class Connection(abc.ABC):
    """One client of this process.

    Every way in (the raw door, the client protocol, server-side code) has a subclass
    that tells its client, in its own language, what the hub decides.

    Attributes:
        id: Given out here, 128 random bits.
        info: Public facts about the connection, any JSON value, or ``None``.
        req: The request of the handshake, or ``None``.
        subscriptions: By channel name.
        closed: Whether it is over.
        takes_subscriptions: Whether it can be subscribed from here (`on_subscribed`).
    """

    takes_subscriptions = False

    __slots__ = (
        '_user',
        'closed',
        'encoder',
        'granted_bytes',
        'hub',
        'id',
        'info',
        'out',
        'req',
        'subscriptions',
        'transport',
        'write',
    )

    def __init__(
        self, hub: Hub, transport: Transport, encoder: Encoder, req: Any = None
    ) -> None:
        self.hub = hub
        self.transport = transport
        self.encoder = encoder
        self.req = req
        self.id = secrets.token_urlsafe(16)
        self._user = ''
        self.info: Any = None
        self.subscriptions: dict[str, Subscription] = {}
        self.closed = False
        #: Blobs of this turn of the event loop, which leave in one write; never empty.
        self.out: list[Any] | None = None
        #: Bytes of what the client asked for that may wait beyond the limit of the
        #: backlog, until it has read everything once.
        self.granted_bytes = 0
        # PERF: a stored bound method saves two look-ups for each delivery.
        self.write = transport.write

    @property
    def session(self) -> str:
        """What an emulated transport calls this connection, or ``''``."""
        return ''

    @property
    def user(self) -> str:
        """Id of the user, ``''`` for somebody anonymous."""
        return self._user

    @user.setter
    def user(self, user: str) -> None:
        before, self._user = self._user, user
        self.hub.on_user(self, before)

    @property
    def backlog_bytes(self) -> int:
        """How many bytes wait for the client."""
        return self.transport.backlog_bytes

    # --- what a subclass says to its client ------------------------------------------

    @abc.abstractmethod
    def on_unsubscribed(
        self, subscription: Subscription, code: int, reason: str
    ) -> None:
        """Tell the client that a subscription was ended from here.

        Args:
            subscription: Which; it is over already.
            code: An unsubscribe code: from 2500 on the client may subscribe again.
            reason: The same in words.
        """

    def on_subscribed(self, subscription: Subscription, joined: Joined) -> None:
        """Tell the client that it was subscribed from here.

        Args:
            subscription: Which; `reply` has data for the client.
            joined: Where it begins, and what to send the client at once.
        """
        raise NotImplementedError(f'{type(self).__name__} has no such subscriptions')

    def on_refresh(self, expired: bool, expires_at: float | None, info: Any) -> None:
        """Do what `UserCommands.refresh_user` asks.

        Args:
            expired: The connection is good no longer.
            expires_at: Until when it is good, in Unix seconds; ``None``: as before.
                A subclass whose connections expire keeps it.
            info: New public facts; ``None``: as before.
        """
        if info is not None:
            self.info = info
        if expired:
            self.disconnect(EXPIRED, 'connection expired')

    def on_end(self) -> None:
        """Clean up what the subclass keeps; the connection is over."""
        return

    # --- what the hub and the subclass use -------------------------------------------

    def send(self, payload: bytes) -> None:
        """Queue one message; it leaves at the end of this turn of the event loop."""
        encoder = self.encoder
        self.send_blob(encoder.framing.frame([payload], binary=encoder.codec.binary))

    def send_blob(self, blob: Any) -> None:
        """Queue a blob of this connection's framing."""
        if self.closed:
            return
        if self.out is None:
            self.out = [blob]
            self.hub.on_output(self)
        else:
            self.out.append(blob)

    def flush(self) -> int:
        """Write what is queued; return the transport's backlog in bytes."""
        out = self.out
        if out is None:
            return 0
        self.out = None
        return self.write(out[0] if len(out) == 1 else self.encoder.framing.join(out))

    def disconnect(self, code: int, reason: str) -> None:
        """Close with a code, after what is queued.

        Args:
            code: A close code: 3000 to 4999.
            reason: In words, at most 123 bytes of UTF-8.
        """
        if self.closed:
            return
        self.flush()
        self.transport.close(code, reason)
        self.hub.remove(self)

    def shutdown(self) -> None:
        """Close because this process is about to end; the client comes back."""
        self.disconnect(SHUTDOWN, 'shutdown')

    def client_info(self, subscription: Subscription | None = None) -> ClientInfo:
        """Return what others may know of this connection."""
        conn_info = None if self.info is None else msgspec.json.encode(self.info)
        chan_info = None
        if subscription is not None and subscription.info is not None:
            chan_info = msgspec.json.encode(subscription.info)
        return ClientInfo(
            user=self.user, client=self.id, conn_info=conn_info, chan_info=chan_info
        )

    def on_all_read(self) -> None:
        """Learn that nothing waits for the client any more."""
        self.granted_bytes = 0

    # --- Receiver: what the transport tells ------------------------------------------

    def on_writable(self) -> None:
        """Give slow subscriptions what waits for them."""
        self.hub.on_writable(self)

    def on_closed(self, code: int, reason: str) -> None:
        """The link is gone."""
        self.hub.remove(self)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.id} user={self.user!r}>'
