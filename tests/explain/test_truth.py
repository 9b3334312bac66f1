"""Answers of `explain` are compared with what clients have really received.

Each run is random: clients come and go, recover, read slowly, lose announcements, and
have filters. After each run, every publication is explained for every connection.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Explanation
from falcon_channels import filters
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels import Subscription
from falcon_channels import UnsubscribedError
from falcon_channels import Verdict
from falcon_channels.testing import Received
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import Subscribed

ROOM = 'room'

#: Verdicts that say that the client has got the publication.
RECEIVED = {Verdict.DELIVERED, Verdict.RECOVERED}
#: Verdicts that say that it has not.
MISSED = set(Verdict) - RECEIVED - {Verdict.UNKNOWN, Verdict.PENDING}

#: Options of the channels; each one has other reasons for a missing publication.
KINDS: dict[str, dict[str, Any]] = {
    'stream': {'history_size': 6, 'max_backlog_bytes': 3000},
    'latest': {'history_size': 6, 'recovery': 'latest', 'slow_reader': 'latest'},
    'send latest': {
        'history_size': 6,
        'recovery': 'latest',
        'send_latest': True,
        'slow_reader': 'drop_oldest',
        'max_backlog_bytes': 2000,
    },
    'off': {
        'history_size': 6,
        'recovery': 'off',
        'slow_reader': 'drop_oldest',
        'max_backlog_bytes': 2000,
    },
}


class Room:
    async def on_subscribe(self, req: Any, subscription: Subscription) -> None:
        if subscription.data == 'news':
            subscription.filter = filters.eq('kind', 'news')


class Run:
    """One random run.

    Args:
        channels: The channels.
        seed: Seed of all choices.
    """

    def __init__(self, channels: Channels, seed: int) -> None:
        self._channels = channels
        self._random = random.Random(seed)
        self._offset = 0
        self._epoch = ''
        self.clients: list[SimulatedClient] = []

    async def step(self) -> None:
        """Do one random thing."""
        alive = [client for client in self.clients if client.end is None]
        steps: list[Any] = [self._publish] * 8 + [self._connect, self._lose]
        if self._random.random() < 0.02:
            await self._begin_anew()
        if alive:
            client = self._random.choice(alive)
            for step in (self._subscribe, self._subscribe, self._leave):
                steps.append(lambda step=step: step(client))
            steps += [
                lambda: self._stop_reading(client),
                lambda: self._read_again(client),
                lambda: self._read_again(client),
                lambda: self._disconnect(client),
            ]
        await self._random.choice(steps)()
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)

    async def _publish(self) -> None:
        kind = self._random.choice(['news', 'sport'])
        data = 'x' * self._random.choice([10, 400])
        result = await self._channels.publish(ROOM, data, tags={'kind': kind})
        self._offset, self._epoch = result.position

    async def _lose(self) -> None:
        """Publish without an announcement, so that the next one shows a gap."""
        broker: Any = self._channels.node.broker
        receiver, broker._receiver = broker._receiver, None
        for _ in range(self._random.choice([1, 1, 2, 8])):
            await self._publish()
        broker._receiver = receiver

    async def _begin_anew(self) -> None:
        """Lose the log, like a server that restarts without its disk."""
        broker: Any = self._channels.node.broker
        broker._logs.clear()
        broker._generation += 1
        await self._publish()

    async def _connect(self) -> None:
        client = SimulatedClient(self._channels, user='ann')
        await client.__aenter__()
        self.clients.append(client)

    async def _subscribe(self, client: SimulatedClient) -> None:
        if ROOM in client.connection.subscriptions:
            return
        since = None
        if self._random.random() < 0.6:
            offset = max(0, self._offset - self._random.randrange(10))
            since = Position(offset, self._epoch)
        data = self._random.choice(['news', None])
        try:
            await client.subscribe(ROOM, since, data)
        except UnsubscribedError:
            return

    async def _leave(self, client: SimulatedClient) -> None:
        client.unsubscribe(ROOM)

    async def _stop_reading(self, client: SimulatedClient) -> None:
        client.stop_reading()

    async def _read_again(self, client: SimulatedClient) -> None:
        client.read_again()

    async def _disconnect(self, client: SimulatedClient) -> None:
        client.disconnect()


def received_by(client: SimulatedClient, epoch: str) -> set[int]:
    """Return the offsets of one log that a client has received."""
    offsets = set()
    for event in client.events:
        if isinstance(event, Received) and event.epoch == epoch:
            offsets.add(event.item.offset)  # type: ignore[union-attr]  # no joins here
        elif isinstance(event, Subscribed) and event.joined.position.epoch == epoch:
            offsets |= {item.offset for item in event.joined.publications}
    return offsets


def is_true(answer: Explanation, received: bool) -> bool:
    """Return whether an answer says what the client knows."""
    if answer.verdict in RECEIVED:
        return received
    if answer.verdict in MISSED:
        # NOTE: a client that is closed may have read a part of the buffer. The answer
        #   then says that the publication may not have left the process.
        return not received or 'may not have left' in answer.text
    # NOTE: an answer may say that it does not know. A publication in the backlog is
    #   pending, although the client may have read it.
    return answer.verdict is Verdict.UNKNOWN or 'backlog' in answer.text


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('kind', KINDS)
@on_fake_clock
async def test_answers_agree_with_what_clients_have_received(
    kind: str, seed: int
) -> None:
    """No answer says delivered for a lost publication, or the other way round."""
    channels = Channels(options=NodeOptions(position_check_s=None))
    route = ChannelOptions(
        record_deliveries=True, **{'max_publication_bytes': 500, **KINDS[kind]}
    )
    channels.add_route(ROOM, Room(), route)
    wrong = []
    verdicts = set()
    async with channels:
        run = Run(channels, seed)
        await run._publish()
        await run._connect()
        for _ in range(150):
            await run.step()
        for client in run.clients:
            if client.end is None:
                client.read_again()
        await run._publish()
        await asyncio.sleep(1)
        received = {
            client.connection.id: received_by(client, run._epoch)
            for client in run.clients
        }
        for offset in range(1, run._offset + 1):
            for answer in await channels.explain(ROOM, offset, user='ann'):
                if answer.connection:
                    verdicts.add(answer.verdict)
                    if not is_true(answer, offset in received[answer.connection]):
                        wrong.append((offset, answer))
    assert [] == wrong
    assert verdicts, 'nothing was explained'
