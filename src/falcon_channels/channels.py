"""`Channels`: the main interface for applications."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Self

import falcon.asgi

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import PublishResult
from falcon_channels.checks import check_type
from falcon_channels.checks import check_user
from falcon_channels.endpoint.emulation import Emulation
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.mount import mount_endpoint
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import ExtraMissingError
from falcon_channels.errors import OptionsError
from falcon_channels.events import Event
from falcon_channels.explain.verdicts import Explanation
from falcon_channels.filters import TagFilter
from falcon_channels.hub.connection import Connection
from falcon_channels.inspector.resource import mount_inspector
from falcon_channels.local_subscription import LocalSubscription
from falcon_channels.node import Node
from falcon_channels.node import Status
from falcon_channels.options import ChannelOptions
from falcon_channels.options import EndpointOptions
from falcon_channels.options import EventStreamOptions
from falcon_channels.options import NodeOptions
from falcon_channels.options import StreamWriterOptions
from falcon_channels.plain.events import serve_events
from falcon_channels.plain.websocket import serve_websocket
from falcon_channels.protocol.codes import DISCONNECT_FORCE
from falcon_channels.protocol.codes import UNSUBSCRIBE_SERVER
from falcon_channels.protocol.recovery import check_position
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import PresenceStats
from falcon_channels.publication import Snapshot
from falcon_channels.server_api.resource import mount_api
from falcon_channels.streams.writer import abort_stream
from falcon_channels.streams.writer import StreamWriter
from falcon_channels.tokens import TokenVerifier
from falcon_channels.transports.asgi_extensions import DRAIN_HOOKS
from falcon_channels.transports.asgi_extensions import MAX_MESSAGE_BYTES
from falcon_channels.transports.asgi_extensions import START_ERROR
from falcon_channels.websocket.middleware import warn_of_http_middleware


class Channels:
    """Real-time channels for one application.

    ::

        channels = Channels()
        channels.add_route('rooms:{room}', Room(), ChannelOptions(history_size=100))
        app = falcon.asgi.App(middleware=[channels])

    The channels start automatically: with the lifespan of the application, or with the
    first call that needs them. From then on they belong to that event loop. As
    middleware they drain their connections when the application shuts down.

    Args:
        broker: URL of the broker that stores publications, a `Broker`, or ``None`` for
            the memory of this process.
        options: Limits of this process.

    Raises:
        OptionsError: The URL or the options are wrong.

    Attributes:
        node: The parts of this process: hub, broker, cluster and access.
        options: Limits of this process.
    """

    def __init__(
        self,
        broker: str | Broker | None = None,
        options: NodeOptions | None = None,
    ) -> None:
        self.node = Node(broker, options)
        self.options = self.node.options
        self._emulation: Emulation | None = None
        self._traced = False

    # --- routes ----------------------------------------------------------------------

    @property
    def converters(self) -> Any:
        """Converters for channel templates, as an app's `router_options.converters`."""
        return self.node.router.converters

    def add_route(
        self,
        template: str,
        resource: object,
        options: ChannelOptions | None = None,
        *,
        suffix: str | None = None,
    ) -> None:
        """Add a route: channels whose name matches the template exist from now on.

        Args:
            template: Template such as ``'rooms:{room}'`` or ``'users:{user_id:int}'``.
            resource: Object with any of these responders, all ``async``:
                ``on_subscribe(req, subscription, **params)``,
                ``on_publish(req, publication, **params)``,
                ``on_unsubscribe(req, subscription, **params)``,
                ``on_presence(req, connection, **params)``,
                ``on_history(req, connection, **params)``.
                A responder refuses by raising an `HTTPError`.
            options: Abilities and limits of the channels.
            suffix: Suffix of the responders, such as ``on_subscribe_{suffix}``.

        Raises:
            OptionsError: The template, the resource or the options are wrong.
            CapabilityError: The options need something that the broker cannot do.
        """
        self.node.add_route(template, resource, options, suffix=suffix)

    # --- publish and read ------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
        delta: bool = True,
        skip_history: bool = False,
        connection: Any = None,
        version: int | None = None,
        version_epoch: str = '',
    ) -> PublishResult:
        """Publish to a channel.

        Args:
            channel: Name of the channel.
            data: Any JSON value, or `bytes` that are JSON text. With
                ``ChannelOptions(binary=True)``, any `bytes`.
            idempotency_key: 1 to 255 bytes. A second publish with the same key, within
                the channel's `idempotency_ttl_s`, publishes nothing and returns the
                first position.
            tags: Labels beside the payload, a dict from text to text.
            delta: Whether subscribers with delta may get this publication as a delta;
                see `ChannelOptions.delta`. With ``False``, all of them get it whole.
            skip_history: Whether the publication is sent to the current subscribers
                only, and not stored. It has no offset, and a client that is
                disconnected misses it. Use it for example for "ann is typing".
            connection: Database connection of the application, for a broker that can
                publish within its transaction.
            version: Version of the state in `data`, an integer from 0. If the channel
                already has this version or a higher one, nothing is published. A writer
                that is late therefore cannot replace a newer state.
            version_epoch: Name of the sequence of versions. A version of another
                sequence replaces the version of the channel, even if it is lower.

        Returns:
            The position, whether the key had been used, and whether nothing was
            published because of the version.

        Raises:
            UnknownChannelError: No route matches.
            ChannelFinishedError: The channel has ended; see `finish`.
            CapabilityError: There is a version, and the channel has no history.
            PayloadError: The data cannot be written as JSON; NaN and infinity cannot.
                Or the data is `bytes` that are not JSON, and the channel carries JSON.
            PublicationTooLargeError: The payload and the tags exceed
                `max_publication_bytes`.
            BrokerUnavailableError: The publication may or may not be stored. Publish
                again with the same idempotency key.
        """
        return await self.node.publisher.publish(
            channel,
            data,
            idempotency_key=idempotency_key,
            tags=tags,
            delta=delta,
            skip_history=skip_history,
            connection=connection,
            version=version,
            version_epoch=version_epoch,
        )

    async def finish(
        self,
        channel: str,
        data: Any = None,
        *,
        error: str = '',
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
        connection: Any = None,
    ) -> PublishResult:
        """End a channel: nothing can be published to it any more.

        All subscribers receive every publication, and then the end. Clients do not
        subscribe again. A client that subscribes later receives the stored
        publications if it asks for them, and then the end.

        The end is stored as long as the log, until `meta_ttl_s` has passed.
        `remove_history` removes it, and so opens the channel again.

        Args:
            channel: Name of a channel with history.
            data: Data of the last publication, as for `publish`; ``None`` for no data.
                Readers receive it before the end.
            error: Error for readers if the channel has failed: text of at most 123
                bytes of UTF-8. ``''`` means that it ended with success.
            idempotency_key: See `publish`. With the same key, a channel can be finished
                again without an error.
            tags: See `publish`.
            connection: See `publish`.

        Returns:
            The position of the end, and whether the key had been used.

        Raises:
            UnknownChannelError: No route matches.
            ChannelFinishedError: The channel has ended already.
            CapabilityError: The channel has no history.
            PayloadError: The data cannot be published, or `error` is too long.
            PublicationTooLargeError: The payload exceeds `max_publication_bytes`.
            BrokerUnavailableError: The channel may have ended or not. Finish it again
                with the same idempotency key.
        """
        return await self.node.publisher.finish(
            channel,
            data,
            error=error,
            idempotency_key=idempotency_key,
            tags=tags,
            connection=connection,
        )

    def stream(
        self, channel: str, options: StreamWriterOptions | None = None
    ) -> StreamWriter:
        """Write a stream to a channel, chunk by chunk; see `StreamWriter`.

        ::

            async with channels.stream('answers:42') as stream:
                async for text in generate(prompt):
                    await stream.write(text)

        Args:
            channel: Name of a channel with history. Only writers of the stream should
                publish to it.
            options: Times and sizes.

        Raises:
            OptionsError: The options have another class.
            PayloadError: `error_text` is too long.
        """
        return StreamWriter(self.node, channel, options)

    async def abort_stream(self, channel: str) -> bool:
        """Stop a stream: finish it with the error ``'aborted'``, and stop its writer.

        The writer can be in another process. Its task is cancelled, and its block ends
        without an error. What it has not published yet is dropped.

        Warning: any channel with history can be ended in this way. Check that the user
        may stop this stream.

        Args:
            channel: Name of the channel.

        Returns:
            Whether the stream was not finished before.

        Raises:
            UnknownChannelError: No route matches.
            CapabilityError: The channel has no history.
            BrokerUnavailableError: The stream may or may not be aborted. Call again.
        """
        return await abort_stream(self.node, channel)

    async def broadcast(
        self,
        channels: Iterable[str],
        data: Any,
        *,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
        delta: bool = True,
        skip_history: bool = False,
        version: int | None = None,
        version_epoch: str = '',
    ) -> list[PublishResult]:
        """Publish the same data to several channels, in their order; see `publish`.

        All names, sizes and options are checked before the first publication. If the
        broker fails in one channel, it still publishes to the others. The first error
        is then raised.

        A `version` is compared with that of each channel. A result says if nothing was
        published to its channel.
        """
        return await self.node.publisher.broadcast(
            channels,
            data,
            idempotency_key=idempotency_key,
            tags=tags,
            delta=delta,
            skip_history=skip_history,
            version=version,
            version_epoch=version_epoch,
        )

    async def history(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = 100,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read the log of a channel, and its position at the same moment.

        Args:
            channel: Name of the channel.
            since: Position after which to read; with `reverse`, before which to read.
            limit: Largest number of publications, at most 2**31; 0 reads the position
                only, and ``None`` reads all.
            reverse: Whether the newest publication is first.

        Raises:
            UnknownChannelError: No route matches.
            InvalidValueError: `limit` is not an integer in the range.
            PositionError: `since` belongs to another log. Read again without it. Or it
                is not a position.
        """
        return await self.node.reader.history(
            channel, since=since, limit=limit, reverse=reverse
        )

    async def position(self, channel: str) -> Position:
        """Return the current position of a channel, without its publications.

        To send a state together with its position, call `snapshot`.

        Returns:
            ``Position(0, '')`` for a channel that keeps no history.

        Raises:
            UnknownChannelError: No route matches.
            BrokerUnavailableError: Try again.
        """
        return (await self.history(channel, limit=0)).position

    async def snapshot(
        self, channel: str, load: Callable[[], Awaitable[Any] | Any]
    ) -> Snapshot:
        """Load a state, with a position from which a client follows its changes.

        ::

            async def on_get(self, req, resp, order_id):
                snapshot = await channels.snapshot(
                    f'orders:{order_id}', lambda: read_order(order_id)
                )
                resp.media = snapshot.to_media()

        The position is read first. A change between the two reads may then be in the
        state, and the client receives its publication too. With the other order, the
        client might miss the change. Code that changes the state must store it before
        it publishes it.

        Args:
            channel: Name of the channel that carries the changes.
            load: Function or coroutine function that returns the state. It must read
                the state as stored at the time of the call. A database transaction
                that has already read data may return an older state.

        Raises:
            CapabilityError: Clients of the channel cannot recover from a position.
            UnknownChannelError: No route matches.
            BrokerUnavailableError: Try again.
        """
        return await self.node.reader.snapshot(channel, load)

    async def remove_history(self, channel: str) -> None:
        """Remove all publications of a channel's log, and its end.

        Offsets do not start again. A channel that was finished is open again.
        """
        await self.node.reader.remove_history(channel)

    async def presence(self, channel: str) -> Mapping[str, ClientInfo]:
        """Return the public facts about each subscribed connection, by its id.

        Raises:
            CapabilityError: The route does not have ``presence=True``.
        """
        return await self.node.reader.presence(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """Return the number of subscribed connections and of their users."""
        return await self.node.reader.presence_stats(channel)

    def subscribe(
        self, channel: str, since: Position | None = None
    ) -> LocalSubscription:
        """Listen to a channel in code of the application; see `LocalSubscription`.

        Args:
            channel: Name of the channel.
            since: Position from which publications are recovered.

        Raises:
            PositionError: `since` is not a position.
        """
        check_position(since)
        return LocalSubscription(self.node, channel, since)

    # --- connections of users, on all nodes ------------------------------------------

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
        """Subscribe the connections of a user to a channel, on all nodes.

        A connection is skipped if it is subscribed already, if it has too many
        channels, or if it is a plain WebSocket. ``on_subscribe`` is not called,
        because the application has decided. A revocation still applies.

        Args:
            user: Id of the user.
            channel: Name of the channel.
            client: Id of one connection; ``''`` for all of the user.
            session: Emulation session of one connection, or ``''``.
            info: Public information about the subscription, any JSON value.
            data: Data for the client, any JSON value.
            since: Position from which publications are recovered.
            expires_at: Unix time in seconds at which the subscription ends.
            filter: Tag filter that selects the publications for the client; see
                `falcon_channels.filters`. ``None`` means all publications, even if
                ``on_subscribe`` would set a filter.

        Raises:
            UnknownChannelError: No route matches.
            PositionError: `since` is not a position.
            InvalidValueError: `info` or `data` cannot be written as JSON, `expires_at`
                is not a finite number, or `filter` is not a filter. Or an id is not
                text of at most 255 characters.
        """
        await self.node.users.subscribe_user(
            user,
            channel,
            client=client,
            session=session,
            info=info,
            data=data,
            since=since,
            expires_at=expires_at,
            filter=filter,
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
        """End the subscriptions of a user to a channel, on all nodes.

        Args:
            user: Id of the user.
            channel: Name of the channel; ``''`` for all channels.
            client: Id of one connection; ``''`` for all of the user.
            session: Emulation session of one connection, or ``''``.
            code: Unsubscribe code, 2000 to 2999; 2000 by default. With 2500 or
                above, clients subscribe again. With 2502 they also forget their
                position, and an SDK calls ``getState`` again.

        Raises:
            ChannelNameError: The name is not a channel name.
            InvalidValueError: The code is out of range, or an id is not text of at most
                255 characters.
        """
        await self.node.users.unsubscribe_user(
            user, channel, client=client, session=session, code=code
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
        """Change the expiry or the information of a user's connections, on all nodes.

        Args:
            user: Id of the user.
            client: Id of one connection; ``''`` for all of the user.
            session: Emulation session of one connection, or ``''``.
            expired: Whether to close the connections with code 3005. Their clients
                connect again with a new token.
            expires_at: Unix time in seconds of the new expiry; ``None`` for no change.
                Connections without an SDK do not expire, and ignore it.
            info: New public information about the connection; ``None`` for no change.

        Raises:
            InvalidValueError: `info` cannot be written as JSON, or `expires_at` is not
                a finite number. Or an id is not text of at most 255 characters.
        """
        await self.node.users.refresh_user(
            user,
            client=client,
            session=session,
            expired=expired,
            expires_at=expires_at,
            info=info,
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
        """Close the connections of a user, on all nodes.

        Args:
            user: Id of the user.
            client: Id of one connection; ``''`` for all of the user.
            session: Emulation session of one connection, or ``''``.
            code: Close code, 3000 to 4999; 3503 by default. With 3500 to 3999 and 4500
                to 4999 clients do not connect again.
            reason: Text for the clients, at most 123 bytes of UTF-8.
            exclude: Ids of connections that stay open, at most 1000.

        Raises:
            InvalidValueError: The code is out of range, the reason is too long, or an
                id is not text of at most 255 characters.
        """
        await self.node.users.disconnect_user(
            user,
            client=client,
            session=session,
            code=code,
            reason=reason,
            exclude=exclude,
        )

    async def revoke_user(
        self, user: str, channel: str, *, ttl_s: float | None = None
    ) -> None:
        """End a user's subscriptions to a channel, and refuse new ones, on all nodes.

        It holds until `restore_user`, even if ``on_subscribe`` admits the user.

        Args:
            user: Id of the user.
            channel: Name of the channel.
            ttl_s: Seconds for which it holds, above 0 and up to 2**31;
                `NodeOptions.revoke_ttl_s` by default.

        Raises:
            UnknownChannelError: No route matches.
            InvalidValueError: `ttl_s` is out of range, or the user is not text of at
                most 255 characters.
        """
        await self.node.users.revoke_user(user, channel, ttl_s=ttl_s)

    async def restore_user(self, user: str, channel: str) -> None:
        """Undo a revocation of `revoke_user`."""
        await self.node.users.restore_user(user, channel)

    def connections(self, user: str | None = None) -> list[Connection]:
        """Return the connections of this process, or those of one user.

        Raises:
            InvalidValueError: The user is not text.
        """
        hub = self.node.hub
        if user is None:
            return hub.connections.all()
        return hub.connections.of_user(check_user(user))

    # --- explanations ----------------------------------------------------------------

    async def explain(
        self,
        channel: str,
        offset: int,
        *,
        user: str,
        client: str = '',
        epoch: str = '',
    ) -> list[Explanation]:
        """Explain what happened to a publication for a user, over all nodes.

        ::

            for answer in await channels.explain('rooms:lobby', 42, user='ann'):
                print(answer.verdict, answer.text)

        The answer relies on facts that the nodes have recorded: those of routes with
        ``ChannelOptions(record_deliveries=True)``, and of users of `record_user`. It
        arrives within a second, also if a node does not answer.

        Args:
            channel: Name of a channel with history.
            offset: Offset of the publication.
            user: Id of the user, ``''`` for anonymous users.
            client: Id of one connection; ``''`` for all of the user.
            epoch: Epoch of the log in which the publication has this offset; ``''`` for
                the present one.

        Returns:
            One answer for each connection of the user, also for those that have ended.
            If no connection is known, one answer is about the user. There is one more
            answer for each node that does not answer.

        Raises:
            UnknownChannelError: No route matches.
            CapabilityError: The channel has no history.
            InvalidValueError: The user or the offset cannot be used.
            BrokerUnavailableError: Try again.
        """
        return await self.node.explainer.explain(
            channel, offset, user, client=client, epoch=epoch
        )

    async def record_user(self, user: str, for_s: float = 600.0) -> int:
        """Record the deliveries to a user for some time, on all nodes; see `explain`.

        A node that starts later records the user for the rest of this time. It learns
        this from the nodes that run.

        Args:
            user: Id of the user, ``''`` for all anonymous users.
            for_s: Number of seconds, at most 86400 (one day). 0 ends the recording.

        Returns:
            The number of nodes that have answered.

        Raises:
            InvalidValueError: The user or the time cannot be used.
            TooManyUsersError: `max_recorded_users` is reached on a node.
            BrokerUnavailableError: Some nodes may record the user. Call it again.
        """
        return await self.node.explainer.record_user(user, for_s)

    # --- ways in ---------------------------------------------------------------------

    async def serve(
        self,
        req: falcon.asgi.Request,
        ws: falcon.asgi.WebSocket,
        channel: str,
        *,
        user: str | None = '',
        info: Any = None,
        media: bool = False,
        since: Position | None = None,
    ) -> None:
        """Connect a plain WebSocket to a channel; return when the WebSocket has ended.

        Call it from ``on_websocket``, before or after ``ws.accept()``. The origin of
        the page, the route's ``on_subscribe`` and ``on_publish``, and its options
        decide what the client may do.

        Args:
            req: Request of the handshake.
            ws: The WebSocket. Nothing else may use it during this call.
            channel: Name of the channel.
            user: Id of the user, as the application knows it; ``None`` or ``''`` for an
                anonymous client.
            info: Public information about the connection, any JSON value.
            media: Whether to speak JSON with positions instead of plain text. The first
                message is ``{"subscribed": {"offset": 7, "epoch": "x"}}``. The others
                are ``{"data": ..., "offset": 8, "epoch": "x"}``. A channel that ends
                adds ``{"end": {"error": ""}}``.
            since: Position from which publications are recovered. By default a `media`
                client gives it in the URL: ``?since=OFFSET:EPOCH``.

        Raises:
            falcon.HTTPError: The client was refused; Falcon answers it.
            InvalidValueError: `user` is not text, or `info` is not a JSON value.
        """
        await serve_websocket(
            self.node, req, ws, channel, user=user, info=info, media=media, since=since
        )

    async def serve_events(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        channels: str | Iterable[str] | Mapping[str, str],
        *,
        user: str | None = '',
        info: Any = None,
        options: EventStreamOptions | None = None,
    ) -> None:
        """Answer a request with the publications of channels, as an event stream.

        Call it from ``on_get``, as the last step. The route's ``on_subscribe`` decides
        whether the client may listen. The data of an event is the payload, and its id
        is the position. An ``EventSource`` that returns sends the last id, and receives
        everything that it missed. Other clients send ``?since=`` with the id.

        A client that sends ``Accept: application/json`` is answered once. The answer is
        ``{"publications": [...], "since": "8:x1", "lost": [], "ended": []}``. If the
        client sent ``?since=`` and nothing is new, the call waits for at most
        `poll_wait_s`.

        If a channel has ended, the client gets the event ``end`` after its last
        publication. A client that knows the end of every channel is answered with 204,
        after which an ``EventSource`` stops.

        Args:
            req: The request.
            resp: The response. Its body must not be set.
            channels: Name of a channel, or the names of several. A dict also has the
                event name of each channel.
            user: Id of the user, as the application knows it; ``None`` or ``''`` for an
                anonymous client.
            info: Public information about the connection, any JSON value.
            options: Names of the events, history and times.

        Raises:
            falcon.HTTPError: The client was refused; Falcon answers it.
            InvalidValueError: The channels cannot be served in one stream, `user` is
                not text, or `info` is not a JSON value.
        """
        await serve_events(
            self.node, req, resp, channels, user=user, info=info, options=options
        )

    def add_endpoints(
        self,
        app: falcon.asgi.App[Any, Any],
        prefix: str = '/connection',
        resource: object = None,
        *,
        tokens: TokenVerifier | None = None,
        options: EndpointOptions | None = None,
        emulation_path: str = '/emulation',
    ) -> None:
        """Add the endpoints of the client protocol, to which official SDKs connect.

        Args:
            app: Application that gets the routes.
            prefix: Path before ``/websocket``, ``/http_stream``, ``/sse``,
                ``/uni_websocket``, ``/uni_http_stream`` and ``/uni_sse``.
            resource: Connection resource, or ``None``; see `Endpoint`.
            tokens: Verifier of connection tokens and subscription tokens, or ``None``.
            options: Limits and times.
            emulation_path: Path of the commands of ``http_stream`` and ``sse`` clients.

        Raises:
            OptionsError: The app is not an ASGI app, or a path is wrong or taken.
        """
        _require_asgi(app, 'add_endpoints')
        endpoint = Endpoint(self.node, resource, tokens, options)
        if self._emulation is None:
            self._emulation = Emulation(self.node)
        mount_endpoint(
            app,
            endpoint,
            self._emulation,
            prefix=prefix,
            emulation_path=emulation_path,
        )
        warn_of_http_middleware(app)

    def add_api(
        self,
        app: falcon.asgi.App[Any, Any],
        *,
        keys: str | Sequence[str],
        prefix: str = '/api',
        resource: object = None,
        max_body_bytes: int = 1048576,
    ) -> None:
        """Add the server API, with which back ends publish and command over HTTP.

        Args:
            app: Application that gets the route ``{prefix}/{method}``.
            keys: Secret key that callers send. Give several while callers change keys.
            prefix: Path before the names of the methods.
            resource: Resource with ``on_rpc_{method}(req, call)`` or ``on_rpc(req,
                call)``, which answers the method ``rpc``, or ``None``. `call` is an
                `ApiCall`.
            max_body_bytes: Largest request in bytes.

        Raises:
            OptionsError: There is no key, a key is too short, the prefix is wrong or
                taken, or the app is not an ASGI app.
        """
        _require_asgi(app, 'add_api')
        mount_api(self.node, app, keys, prefix, resource, max_body_bytes)

    def add_metrics(
        self,
        app: falcon.asgi.App[Any, Any],
        path: str = '/metrics',
        *,
        all_processes: bool = False,
    ) -> None:
        """Add a page with metrics for Prometheus.

        Args:
            app: Application that gets the route.
            path: Path of the page. Do not expose it to the public.
            all_processes: Whether the page shows all processes that share the broker,
                with a label ``node``. This is for workers behind one port.

        Raises:
            ExtraMissingError: Install falcon-channels[metrics].
            OptionsError: The app is not an ASGI app, or the path is wrong or taken.
        """
        _require_asgi(app, 'add_metrics')
        check_type('all_processes', all_processes, bool)
        # NOTE: prometheus-client is an optional extra and is imported only here.
        try:
            from falcon_channels.monitoring.prometheus import mount_metrics
        except ImportError:
            raise ExtraMissingError('add_metrics', 'metrics') from None
        mount_metrics(self.node, app, path, all_processes)

    def add_inspector(
        self,
        app: falcon.asgi.App[Any, Any],
        path: str = '/_channels',
        *,
        keys: str | Sequence[str],
        write_keys: str | Sequence[str] = (),
    ) -> None:
        """Add a page that shows the connections and channels of all processes.

        A person opens the page and types one of the keys.

        Args:
            app: Application that gets the routes.
            path: Path of the page.
            keys: Secret keys of people who may look. They see the names of users and
                channels, and stored publications.
            write_keys: Secret keys of people who may also publish, disconnect users and
                revoke. By default nobody may.

        Raises:
            OptionsError: There is no key, a key is too short or in both lists, the path
                is wrong or taken, or the app is not an ASGI app.
        """
        _require_asgi(app, 'add_inspector')
        mount_inspector(self.node, app, path, keys, write_keys)

    def add_tracing(
        self, tracer_provider: Any = None, meter_provider: Any = None
    ) -> None:
        """Send spans, and if wanted metrics, to OpenTelemetry; see docs/tracing.md.

        Call it once, before clients connect.

        Args:
            tracer_provider: ``TracerProvider`` of the spans; the global one by default.
            meter_provider: ``MeterProvider`` of the metrics. By default there are no
                metrics. ``opentelemetry.metrics.get_meter_provider()`` is the global
                one.

        Raises:
            ExtraMissingError: Install falcon-channels[otel].
            OptionsError: It was called before, or a provider is not one.
        """
        # NOTE: opentelemetry-api is an optional extra and is imported only here.
        try:
            from falcon_channels.monitoring.opentelemetry import observe_node
        except ImportError:
            raise ExtraMissingError('add_tracing', 'otel') from None
        if self._traced:
            raise OptionsError('add_tracing was called before: call it once')
        for name, provider, method in (
            ('tracer_provider', tracer_provider, 'get_tracer'),
            ('meter_provider', meter_provider, 'get_meter'),
        ):
            if provider is not None and not hasattr(provider, method):
                raise OptionsError(
                    f'{name} is {provider!r:.40}, but must be a provider of '
                    'OpenTelemetry, or None'
                )
        self._traced = True
        observe_node(self.node, tracer_provider, meter_provider)

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call a listener with each event of this process; docs/events.md lists them.

        Args:
            listener: Called in the event loop; it must not block.

        Returns:
            A function that ends this.

        Raises:
            OptionsError: The listener cannot be called.
        """
        if not callable(listener):
            raise OptionsError(f'listener is {listener!r:.40}, but must be a function')
        return self.node.events.listen(listener)

    # --- life ------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """State: new, ok, link lost, draining or closed."""
        return self.node.status

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Event loop to which the channels belong, from the first call to `close`."""
        return self.node.loop

    async def start(self) -> None:
        """Connect to the broker now, and not with the first call.

        Raises:
            BrokerUnavailableError: The broker cannot be reached.
        """
        await self.node.start_by_app()

    async def __aenter__(self) -> Self:
        """Start, even after `close`. The end of the block closes the channels."""
        self.node.reopen()
        await self.node.start_by_app()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def drain(self) -> None:
        """Close all connections in batches, so that clients do not return all at once.

        New connections are refused from now on. If other processes share the broker,
        presence entries stay until they expire. If a user connects to another process
        within that time, no leave is announced.
        """
        await self.node.drain()

    async def close(self) -> None:
        """Drain, close everything and disconnect from the broker; idempotent."""
        await self.node.close()

    async def process_startup(self, scope: Any, event: Any) -> None:
        """Called by Falcon when the application starts: start the node."""
        state = scope.get('state')
        try:
            self.node.reopen()
            await self.node.start_by_app()
        except ChannelsError as ex:
            if state is not None:
                state[START_ERROR] = f'Channels cannot start: {ex}'
            # NOTE: Falcon sends the traceback to the server, which logs it. Without the
            #   frames of this package the reader sees the last line at once.
            raise ex.with_traceback(None) from None
        # NOTE: when `process_shutdown` is called, the server has closed all connections
        #   already. The server of this package calls these hooks before that.
        if state is not None:
            self.options.warn_of_small_server(state.get(MAX_MESSAGE_BYTES))
            state.setdefault(DRAIN_HOOKS, []).append(self.drain)

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        """Called by Falcon when the application shuts down: drain and close.

        A middleware that is listed before the channels stops later. It may still
        publish; each publication then opens the broker for a moment.
        """
        await self.close()
        self.node.allow_late_publications()


def _require_asgi(app: object, method: str) -> None:
    """Refuse an app that is not an ASGI app, with a better error than Falcon's.

    Raises:
        OptionsError: The app is not a `falcon.asgi.App`.
    """
    if not isinstance(app, falcon.asgi.App):
        raise OptionsError(
            f'{method} needs a falcon.asgi.App, not {type(app).__name__}: beside a '
            'WSGI app, run an ASGI app on the same broker'
        )
