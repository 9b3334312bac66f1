"""The methods of the server API about users and their connections, on all nodes."""

from __future__ import annotations

from typing import Annotated
from typing import Any

import msgspec

from falcon_channels.checks import MAX_DURATION_S
from falcon_channels.checks import MAX_ID_CHARACTERS
from falcon_channels.cluster.connections import ConnectionQuery
from falcon_channels.cluster.connections import MAX_CONNECTIONS
from falcon_channels.filters import check_depth
from falcon_channels.filters import TagFilter
from falcon_channels.protocol import codes
from falcon_channels.server_api.requests import ApiRequest
from falcon_channels.server_api.requests import IdText
from falcon_channels.server_api.requests import MethodGroup
from falcon_channels.server_api.requests import MethodTable
from falcon_channels.server_api.requests import read_position
from falcon_channels.server_api.requests import read_value
from falcon_channels.server_api.requests import Seconds
from falcon_channels.server_api.requests import StreamPosition

#: Id of a user who is not anonymous.
NamedUser = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]


class _UserRequest(ApiRequest):
    refused = {
        'label_filter': 'connections have no labels',
        'all_users': 'name a user',
        'override': 'the options belong to the route',
    }

    user: IdText
    client: IdText = ''
    session: IdText = ''
    label_filter: Any = None
    all_users: bool = False


class _Subscribe(_UserRequest, kw_only=True):
    channel: str
    info: Any = None
    b64info: str = ''
    data: Any = None
    b64data: str = ''
    expire_at: Seconds = 0
    recover_since: StreamPosition | None = None
    server_tags_filter: TagFilter | None = None
    override: dict[str, Any] | None = None


class _Unsubscribe(_UserRequest, kw_only=True):
    channel: Annotated[str, msgspec.Meta(min_length=1)]


class _DisconnectWith(ApiRequest):
    code: int = 0
    reason: IdText = ''


class _Disconnect(_UserRequest):
    whitelist: list[IdText] = []
    disconnect: _DisconnectWith | None = None


class _Refresh(_UserRequest):
    expired: bool = False
    expire_at: Seconds = 0
    info: Any = None


class _Revoke(ApiRequest):
    user: NamedUser
    channel: str
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_DURATION_S)] | None = None


class _Restore(ApiRequest):
    user: NamedUser
    channel: str


class _Connections(ApiRequest):
    refused = {'expression': 'give a user, a channel or a client'}

    user: IdText | None = None
    channel: str = ''
    client: IdText = ''
    limit: Annotated[int, msgspec.Meta(ge=0, le=MAX_CONNECTIONS)] = 100
    expression: str = ''


class UserMethods(MethodGroup):
    """Methods about users and their connections."""

    def table(self) -> MethodTable:
        return {
            'subscribe': (_Subscribe, self._subscribe),
            'unsubscribe': (_Unsubscribe, self._unsubscribe),
            'disconnect': (_Disconnect, self._disconnect),
            'refresh': (_Refresh, self._refresh),
            'revoke': (_Revoke, self._revoke),
            'restore': (_Restore, self._restore),
            'connections': (_Connections, self._list_connections),
        }

    async def _subscribe(self, request: _Subscribe) -> dict[str, Any]:
        if request.server_tags_filter is not None:
            check_depth(request.server_tags_filter)
        await self._node.users.subscribe_user(
            request.user,
            request.channel,
            client=request.client,
            session=request.session,
            info=read_value('info', request.info, request.b64info),
            data=read_value('data', request.data, request.b64data),
            since=read_position(request.recover_since),
            expires_at=float(request.expire_at) or None,
            filter=request.server_tags_filter,
        )
        return {}

    async def _unsubscribe(self, request: _Unsubscribe) -> dict[str, Any]:
        await self._node.users.unsubscribe_user(
            request.user,
            request.channel,
            client=request.client,
            session=request.session,
        )
        return {}

    async def _disconnect(self, request: _Disconnect) -> dict[str, Any]:
        close = request.disconnect or _DisconnectWith()
        await self._node.users.disconnect_user(
            request.user,
            client=request.client,
            session=request.session,
            code=close.code or codes.DISCONNECT_FORCE.code,
            reason=close.reason or codes.DISCONNECT_FORCE.reason,
            exclude=request.whitelist,
        )
        return {}

    async def _refresh(self, request: _Refresh) -> dict[str, Any]:
        await self._node.users.refresh_user(
            request.user,
            client=request.client,
            session=request.session,
            expired=request.expired,
            expires_at=float(request.expire_at) or None,
            info=request.info,
        )
        return {}

    async def _revoke(self, request: _Revoke) -> dict[str, Any]:
        await self._node.users.revoke_user(
            request.user, request.channel, ttl_s=request.ttl_s
        )
        return {}

    async def _restore(self, request: _Restore) -> dict[str, Any]:
        await self._node.users.restore_user(request.user, request.channel)
        return {}

    async def _list_connections(self, request: _Connections) -> dict[str, Any]:
        await self._node.start()
        found = await self._node.connections.find(
            ConnectionQuery(
                user=request.user,
                client=request.client,
                channel=request.channel,
                limit=request.limit,
            )
        )
        return {
            'connections': {facts.client: facts for facts in found.connections},
            'total': found.total,
            'num_nodes': found.num_nodes,
        }
