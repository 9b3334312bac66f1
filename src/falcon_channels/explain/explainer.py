"""Collects facts about a publication from all nodes, and explains its deliveries."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable

import msgspec

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.base import LogSettings
from falcon_channels.checks import check_duration
from falcon_channels.checks import check_id
from falcon_channels.checks import check_integer
from falcon_channels.checks import check_user
from falcon_channels.cluster.cluster import Cluster
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import TooManyUsersError
from falcon_channels.explain.explanations import explain
from falcon_channels.explain.facts import ExplainQuestion
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.findings import Asked
from falcon_channels.explain.recorder import DeliveryRecorder
from falcon_channels.explain.verdicts import Explanation
from falcon_channels.explain.verdicts import Verdict
from falcon_channels.options import NodeOptions
from falcon_channels.routing import ChannelMatch

_EXPLAIN, _RECORD, _RECORDED = 'explain', 'record_user', 'recorded users'

#: Seconds to wait for the facts of other nodes.
_TIMEOUT_S = 0.8
#: Largest number of seconds for which a user is recorded.
MAX_RECORD_S = 86400.0
#: Largest offset.
_MAX_OFFSET = 2**53


class _RecordUser(msgspec.Struct):
    """The command to all nodes to record a user.

    Attributes:
        user: Id of the user.
        for_s: Duration in seconds; 0 ends the recording.
    """

    user: str
    for_s: float


class Explainer:
    """Explains deliveries over all nodes.

    Args:
        recorder: Recorder of this node.
        cluster: Cluster that carries questions and answers.
        broker: Broker that stores the publications.
        options: Options of the node. Only `max_recorded_users` is used here.
        match: Function that starts the node and returns the route of a channel.
        start: Function that starts the node.
    """

    def __init__(
        self,
        recorder: DeliveryRecorder,
        cluster: Cluster,
        broker: Broker,
        options: NodeOptions,
        match: Callable[[str], Awaitable[ChannelMatch]],
        start: Callable[[], Awaitable[None]],
    ) -> None:
        self._recorder = recorder
        self._cluster = cluster
        self._broker = broker
        self._options = options
        self._match = match
        self._start = start
        cluster.add_answerer(_EXPLAIN, self._answer)
        cluster.add_answerer(_RECORD, self._record)
        cluster.welcome(_RECORDED, self._recorded_users)
        cluster.add_handler(_RECORDED, self._adopt_users)

    async def explain(
        self, channel: str, offset: int, user: str, *, client: str = '', epoch: str = ''
    ) -> list[Explanation]:
        """Implement `Channels.explain`."""
        check_user(user)
        check_integer('offset', offset, 1, _MAX_OFFSET)
        check_id('client', client)
        check_id('epoch', epoch)
        options = (await self._match(channel)).route.options
        if not options.history_size:
            raise CapabilityError(
                f'deliveries in channel {channel!r} cannot be explained, because its '
                'publications have no offsets: its route needs for example '
                'ChannelOptions(history_size=100)'
            )
        page = await self._broker.history(
            channel, LogSettings.of(options), since=offset - 1, limit=1
        )
        position = page.position
        if epoch and epoch != position.epoch:
            return [
                Explanation(
                    verdict=Verdict.OTHER_EPOCH,
                    text=f'the channel has another log now: its epoch is '
                    f'{position.epoch!r}, not {epoch!r}',
                    facts={'epoch': position.epoch},
                )
            ]
        if offset > position.offset:
            return [
                Explanation(
                    verdict=Verdict.NOT_PUBLISHED,
                    text=f'the newest publication of the channel has offset '
                    f'{position.offset}',
                    facts={'newest_offset': position.offset, 'epoch': position.epoch},
                )
            ]
        found = [item for item in page.publications if item.offset == offset]
        publication = found[0] if found else None
        question = ExplainQuestion(
            channel=channel,
            offset=offset,
            epoch=position.epoch,
            user=user,
            client=client,
            tags=None if publication is None else publication.tags or {},
        )
        answers = await self._cluster.ask(
            _EXPLAIN,
            msgspec.msgpack.encode(question),
            NodeRecords,
            timeout_s=_TIMEOUT_S,
        )
        nodes = list(answers)
        times = [node.written_at for node in nodes if node.written_at is not None]
        published_at = min(times) if times else None
        if publication is not None and publication.time_ms:
            published_at = publication.time_ms / 1000
        for facts in nodes:
            for node in answers.silent:
                facts.gone.pop(node, None)
        asked = Asked(offset, position.epoch, publication, published_at)
        return [
            *explain(asked, nodes, user, client),
            *(
                Explanation(
                    verdict=Verdict.UNKNOWN,
                    text=f'this node did not answer within {_TIMEOUT_S} seconds, or '
                    'its answer cannot be read, so its connections are missing here',
                    node=node,
                )
                for node in sorted(answers.silent)
            ),
        ]

    async def record_user(self, user: str, for_s: float) -> int:
        """Implement `Channels.record_user`."""
        check_user(user)
        for_s = check_duration('for_s', for_s, highest=MAX_RECORD_S, zero=True)
        await self._start()
        answers = await self._cluster.ask(
            _RECORD, msgspec.msgpack.encode(_RecordUser(user, for_s)), bool
        )
        if not all(answers):
            raise TooManyUsersError(self._options.max_recorded_users)
        return len(answers)

    # --- for the cluster -------------------------------------------------------------

    async def _answer(self, body: bytes) -> bytes:
        question = msgspec.msgpack.decode(body, type=ExplainQuestion)
        facts = await self._recorder.facts(question, self._cluster.id)
        facts.gone = self._cluster.gone
        return msgspec.msgpack.encode(facts)

    async def _record(self, body: bytes) -> bytes:
        command = msgspec.msgpack.decode(body, type=_RecordUser)
        done = await self._recorder.record_user(command.user, command.for_s)
        return msgspec.msgpack.encode(done)

    def _recorded_users(self) -> bytes:
        users = self._recorder.recorded_users()
        return msgspec.msgpack.encode(users) if users else b''

    def _adopt_users(self, body: bytes) -> None:
        self._recorder.adopt_users(msgspec.msgpack.decode(body, type=dict[str, float]))
