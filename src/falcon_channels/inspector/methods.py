"""The methods of the inspector's API: requests and answers, without HTTP.

Requests and answers have the same form as in the server API. The methods that change
data are methods of the server API.
"""

from __future__ import annotations

from typing import Annotated
from typing import Any
from typing import Final
from typing import Literal

import falcon.asgi
import msgspec

from falcon_channels.cluster.connections import ConnectionQuery
from falcon_channels.inspector.surveys import InspectorSurveys
from falcon_channels.inspector.surveys import MAX_ROWS
from falcon_channels.node import Node
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.routing import ChannelRoute
from falcon_channels.routing import RESPONDERS
from falcon_channels.server_api.media import info_media
from falcon_channels.server_api.methods import ApiMethods
from falcon_channels.server_api.requests import ApiRequest

#: Methods that only read. `explain` is the method of the server API.
READ_METHODS: Final = frozenset(
    {
        'overview',
        'largest_channels',
        'channel',
        'log',
        'user',
        'events',
        'slow_readers',
        'explain',
    }
)
#: Methods of the server API that need a key for writing.
WRITE_METHODS: Final = frozenset(
    {'publish', 'disconnect', 'unsubscribe', 'revoke', 'restore', 'record_user'}
)
#: Methods of the server API that log the event `application_command`. The inspector
#: does not log them again.
METHODS_WITH_EVENT: Final = WRITE_METHODS - {'publish', 'record_user'}
#: Longest search term and user id in characters.
MAX_TEXT_CHARACTERS = 255
#: Longest payload in an answer, in bytes. Longer payloads are cut.
MAX_PAYLOAD_BYTES = 2048
#: Largest number of clients for which the presence of a channel is listed.
_MAX_PRESENT = 200
#: Largest number of connections in an answer.
_MAX_CONNECTIONS = 100

_Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARACTERS)]


class _Overview(ApiRequest):
    pass


class _LargestChannels(ApiRequest):
    search: _Text = ''
    limit: _Limit = 100


class _Channel(ApiRequest):
    channel: str


class _Before(ApiRequest):
    offset: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    epoch: _Text


class _Log(ApiRequest):
    channel: str
    before: _Before | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 20


class _User(ApiRequest):
    user: _Text


class _Events(ApiRequest):
    kind: Literal['refusals', 'closes', ''] = ''
    limit: _Limit = 100


class _SlowReaders(ApiRequest):
    limit: _Limit = 100


class InspectorMethods:
    """Calls the methods of the inspector's API by name.

    Args:
        node: Node of this process.
        surveys: Surveys of all processes.
    """

    def __init__(self, node: Node, surveys: InspectorSurveys) -> None:
        self._node = node
        self._surveys = surveys
        self._api = ApiMethods(node)
        self._api.add(
            {
                'overview': (_Overview, self._overview),
                'largest_channels': (_LargestChannels, self._largest_channels),
                'channel': (_Channel, self._channel),
                'log': (_Log, self._log),
                'user': (_User, self._user),
                'events': (_Events, self._events),
                'slow_readers': (_SlowReaders, self._slow_readers),
            }
        )

    async def call(
        self, name: str, body: bytes, req: falcon.asgi.Request
    ) -> dict[str, Any]:
        """Call a method of `READ_METHODS` or `WRITE_METHODS`.

        The caller has checked the rights. See `ApiMethods.call`.
        """
        return await self._api.call(name, body, req)

    async def _overview(self, request: _Overview) -> dict[str, Any]:
        return await self._surveys.overview()

    async def _largest_channels(self, request: _LargestChannels) -> dict[str, Any]:
        await self._node.start()
        return await self._surveys.largest_channels(request.search, request.limit)

    async def _channel(self, request: _Channel) -> dict[str, Any]:
        channel = request.channel
        route = (await self._node.match(channel)).route
        page = await self._node.reader.history(channel, limit=0)
        found = await self._node.connections.find(
            ConnectionQuery(channel=channel, limit=_MAX_CONNECTIONS)
        )
        answer: dict[str, Any] = {
            'channel': channel,
            'route': _describe_route(route),
            'position': page.position._asdict(),
            'end': None if page.end is None else page.end._asdict(),
            'num_subscribers': found.total,
            'subscribers': found.connections,
            'num_missing': found.num_silent,
        }
        if route.options.presence:
            stats = await self._node.reader.presence_stats(channel)
            answer['presence_stats'] = stats._asdict()
            # NOTE: a broker returns all entries at once, so they cannot be limited.
            answer['presence'] = (
                []
                if stats.num_clients > _MAX_PRESENT
                else [
                    info_media(info)
                    for info in (await self._node.reader.presence(channel)).values()
                ]
            )
        return answer

    async def _log(self, request: _Log) -> dict[str, Any]:
        before = request.before
        page = await self._node.reader.history(
            request.channel,
            since=None if before is None else Position(before.offset, before.epoch),
            limit=request.limit,
            reverse=True,
        )
        return {
            'publications': [describe_publication(item) for item in page.publications],
            'position': page.position._asdict(),
        }

    async def _user(self, request: _User) -> dict[str, Any]:
        await self._node.start()
        found = await self._node.connections.find(
            ConnectionQuery(user=request.user, limit=_MAX_CONNECTIONS)
        )
        events = await self._surveys.events('', request.user, 50)
        return {
            'user': request.user,
            'num_connections': found.total,
            'connections': found.connections,
            'events': events['events'],
            # NOTE: the second survey does not wait for a process that did not answer
            #   the first one, so it may not count this process as missing.
            'num_missing': max(found.num_silent, events['num_missing']),
        }

    async def _events(self, request: _Events) -> dict[str, Any]:
        await self._node.start()
        return await self._surveys.events(request.kind, None, request.limit)

    async def _slow_readers(self, request: _SlowReaders) -> dict[str, Any]:
        await self._node.start()
        return await self._surveys.slow_readers(request.limit)


def _describe_route(route: ChannelRoute) -> dict[str, Any]:
    options = msgspec.structs.asdict(route.options)
    if options['data_type'] is not None:
        options['data_type'] = repr(options['data_type'])
    resource = route.resource
    return {
        'template': route.template,
        'resource': '' if resource is None else type(resource).__name__,
        'responders': [name for name in RESPONDERS if getattr(route, name) is not None],
        'options': {
            **options,
            'recovery': route.options.recovery_mode,
            'subscribers': route.subscribers,
            'publishers': route.publishers,
        },
    }


def describe_publication(publication: Publication) -> dict[str, Any]:
    """Return a publication with the start of its payload as text."""
    data = b'' if publication.only_ends else publication.data
    info = publication.info
    return {
        'offset': publication.offset,
        'time_ms': publication.time_ms,
        'size_bytes': len(data),
        'text': data[:MAX_PAYLOAD_BYTES].decode('utf-8', 'replace'),
        'is_cut': len(data) > MAX_PAYLOAD_BYTES,
        'tags': publication.tags or {},
        'user': '' if info is None else info.user,
        'end': None if publication.end is None else publication.end._asdict(),
    }
