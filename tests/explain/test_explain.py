"""`Channels.explain`: each verdict, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import gc
import time
import tracemalloc
from typing import Any

import falcon
import msgspec
import pytest
from support.fake_clock import on_fake_clock
from support.linked_broker import LinkedBroker
from support.linked_broker import start_node

from falcon_channels import CapabilityError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import Event
from falcon_channels import Explanation
from falcon_channels import filters
from falcon_channels import InvalidValueError
from falcon_channels import NodeOptions
from falcon_channels import OptionsError
from falcon_channels import Position
from falcon_channels import Subscription
from falcon_channels import UnknownChannelError
from falcon_channels import Verdict
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.errors import TooManyUsersError
from falcon_channels.explain.connection_findings import explain_missing_records
from falcon_channels.explain.facts import ExplainQuestion
from falcon_channels.explain.facts import NodeRecords
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.facts import RecordedSubscription
from falcon_channels.explain.findings import Asked
from falcon_channels.explain.subscription_findings import find_in_subscription
from falcon_channels.testing import CommandError
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk

ROOM = 'room'


class Room:
    """Refuses mallory; dan receives only publications with the tag kind=news."""

    async def on_subscribe(self, req: Any, subscription: Subscription) -> None:
        if subscription.user == 'mallory':
            raise falcon.HTTPForbidden(description='members only')
        if subscription.user == 'dan':
            subscription.filter = filters.eq('kind', 'news')


class Clients:
    """Identifies the user of an SDK by its data."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = connection.data


def make_channels(
    *,
    node: NodeOptions | None = None,
    record_deliveries: bool = True,
    history_size: int = 10,
    **options: Any,
) -> Channels:
    channels = Channels(options=node)
    route = ChannelOptions(
        history_size=history_size, record_deliveries=record_deliveries, **options
    )
    channels.add_route(ROOM, Room(), route)
    return channels


async def explain(
    channels: Channels, offset: int, user: str = 'ann', **asked: Any
) -> Explanation:
    """Return the only answer."""
    [answer] = await channels.explain(ROOM, offset, user=user, **asked)
    return answer


async def publish(channels: Channels, *values: Any, **options: Any) -> None:
    for value in values:
        await channels.publish(ROOM, value, **options)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@on_fake_clock
async def test_publication_to_a_subscriber_is_delivered() -> None:
    """The answer has the time of the write, and says what is not known."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        before = time.time()
        await publish(channels, 1)
        answer = await explain(channels, 1)
        assert Verdict.DELIVERED == answer.verdict
        assert ann.connection.id == answer.connection
        assert channels.node.cluster.id == answer.node
        assert answer.at is not None
        assert before <= answer.at <= time.time()
        assert 'whether the client has read it is not known' in answer.text


@on_fake_clock
async def test_each_connection_of_the_user_has_its_own_answer() -> None:
    """Two connections of a user get two answers; others are not shown."""
    channels = make_channels()
    async with channels:
        async with (
            SimulatedClient(channels, user='ann') as one,
            SimulatedClient(channels, user='ann') as two,
            SimulatedClient(channels, user='bob') as bob,
        ):
            await one.subscribe(ROOM)
            await bob.subscribe(ROOM)
            await publish(channels, 1)
            answers = await channels.explain(ROOM, 1, user='ann')
            assert {
                one.connection.id: Verdict.DELIVERED,
                two.connection.id: Verdict.NOT_SUBSCRIBED,
            } == {answer.connection: answer.verdict for answer in answers}
            only = await explain(channels, 1, client=two.connection.id)
            assert two.connection.id == only.connection


@on_fake_clock
async def test_publication_during_an_absence_is_recovered_by_the_next_connection() -> (
    None
):
    """The first connection was closed before; the second one recovered it."""
    channels = make_channels()
    async with channels:
        async with SimulatedClient(channels, user='ann') as first:
            start = await first.subscribe(ROOM)
        await publish(channels, 1)
        async with SimulatedClient(channels, user='ann') as second:
            await second.subscribe(ROOM, since=start.position)
            answers = await channels.explain(ROOM, 1, user='ann')
    verdicts = {answer.connection: answer for answer in answers}
    closed = verdicts[first.connection.id]
    assert Verdict.DISCONNECTED == closed.verdict
    recovered = verdicts[second.connection.id]
    assert Verdict.RECOVERED == recovered.verdict
    assert 0 == recovered.facts['since']


@on_fake_clock
async def test_subscriber_that_comes_later_without_recovery_was_not_subscribed() -> (
    None
):
    """The answer names the position from which the client subscribed."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await publish(channels, 1, 2)
        await ann.subscribe(ROOM)
        answer = await explain(channels, 1)
        assert Verdict.NOT_SUBSCRIBED == answer.verdict
        assert 2 == answer.facts['start_offset']
        assert 'from offset 2, without recovery' in answer.text


@on_fake_clock
async def test_recovery_that_fails_is_explained_as_not_kept() -> None:
    """A client that asks for more than the log has is told, and so is the reader."""
    channels = make_channels(history_size=2)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await publish(channels, 1)
        epoch = (await channels.position(ROOM)).epoch
        await publish(channels, 2, 3, 4, 5)
        joined = await ann.subscribe(ROOM, since=Position(1, epoch))
        assert joined.recovered is False
        assert Verdict.NOT_KEPT == (await explain(channels, 2)).verdict
        assert Verdict.NOT_SUBSCRIBED == (await explain(channels, 1)).verdict


@on_fake_clock
async def test_recovery_from_a_position_of_another_log_is_not_kept() -> None:
    """The answer says that the position belongs to another log."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await publish(channels, 1)
        await ann.subscribe(ROOM, since=Position(5, 'other'))
        answer = await explain(channels, 1)
        assert Verdict.NOT_KEPT == answer.verdict
        assert 'another log' in answer.text


@on_fake_clock
async def test_filter_of_the_application_excludes_a_publication() -> None:
    """The filter is evaluated on the publication of the log, whose tags it reads."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='dan') as dan:
        await dan.subscribe(ROOM)
        await publish(channels, 1, tags={'kind': 'sport'})
        await publish(channels, 2, tags={'kind': 'news'})
        excluded = await explain(channels, 1, 'dan')
        assert Verdict.FILTERED == excluded.verdict
        assert 'application' == excluded.facts['filtered_by']
        assert Verdict.DELIVERED == (await explain(channels, 2, 'dan')).verdict


@on_fake_clock
async def test_filter_cannot_be_evaluated_after_the_publication_left_the_log() -> None:
    """Without the tags of the publication, the answer is that this is unknown."""
    channels = make_channels(history_size=1)
    async with channels, SimulatedClient(channels, user='dan') as dan:
        await dan.subscribe(ROOM)
        await publish(channels, 1, tags={'kind': 'sport'})
        await publish(channels, 2)
        answer = await explain(channels, 1, 'dan')
        assert Verdict.UNKNOWN == answer.verdict
        assert 'filter' in answer.text


@on_fake_clock
async def test_filtered_publication_is_not_recovered() -> None:
    """A recovered publication that the filter excludes is explained as filtered."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='dan') as dan:
        epoch = (await channels.position(ROOM)).epoch
        await publish(channels, 1, tags={'kind': 'sport'})
        await publish(channels, 2, tags={'kind': 'news'})
        await publish(channels, 3, tags={'kind': 'sport'})
        await dan.subscribe(ROOM, since=Position(0, epoch))
        verdicts = [
            (await explain(channels, offset, 'dan')).verdict for offset in (1, 2, 3)
        ]
        assert [Verdict.FILTERED, Verdict.RECOVERED, Verdict.FILTERED] == verdicts


@on_fake_clock
async def test_policy_latest_drops_older_publications_of_a_slow_client() -> None:
    """While the client does not read, one publication waits and the others are lost."""
    channels = make_channels(recovery='latest', slow_reader='latest')
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        ann.stop_reading()
        for number in (1, 2, 3):
            await publish(channels, number)
        in_buffer = await explain(channels, 1)
        assert Verdict.PENDING == in_buffer.verdict
        assert 'added to the backlog' in in_buffer.text
        assert 'backlog' == in_buffer.facts['waits_in']
        dropped = await explain(channels, 2)
        assert Verdict.DROPPED == dropped.verdict
        assert 'latest' == dropped.facts['policy']
        waiting = await explain(channels, 3)
        assert Verdict.PENDING == waiting.verdict
        assert 'waits for it' in waiting.text
        assert 'subscription' == waiting.facts['waits_in']
        ann.read_again()
        await publish(channels, 4)
        verdicts = [(await explain(channels, n)).verdict for n in (1, 2, 3, 4)]
        assert [
            Verdict.DELIVERED,
            Verdict.DROPPED,
            Verdict.DELIVERED,
            Verdict.DELIVERED,
        ] == verdicts
        assert 'waited for the slow client' in (await explain(channels, 3)).text


@on_fake_clock
async def test_policy_drop_oldest_drops_what_does_not_fit() -> None:
    """The newest publications within the limit arrive later, and older ones never."""
    channels = make_channels(
        recovery='off',
        slow_reader='drop_oldest',
        max_backlog_bytes=1000,
        max_publication_bytes=1000,
    )
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        ann.stop_reading()
        for _ in range(8):
            await publish(channels, 'x' * 198)
        ann.read_again()
        await publish(channels, 'last')
        received = {p.offset async for p in _all_publications(ann)}
        for offset in range(1, 10):
            answer = await explain(channels, offset)
            wanted = Verdict.DELIVERED if offset in received else Verdict.DROPPED
            assert wanted == answer.verdict, (offset, answer.text)
        assert len(received) < 9


async def _all_publications(client: SimulatedClient) -> Any:
    while True:
        try:
            yield await client.receive(timeout_s=1)
        except TimeoutError:
            return


def stop_reading(channels: Channels, user: str) -> Any:
    """Stop the only client of a user from reading; return the transport."""
    [connection] = channels.node.hub.connections.of_user(user)
    transport: Any = connection.transport
    transport.stop_reading()
    return transport


@pytest.mark.parametrize('slow_reader', ['latest', 'drop_oldest'])
@on_fake_clock
async def test_publications_that_wait_do_not_prove_that_an_earlier_one_has_left(
    slow_reader: str,
) -> None:
    """A publication in the backlog is pending, however many wait behind it.

    The bytes of later publications prove that an earlier one has left the process, if
    they are more than the backlog. The publications of a slow client were counted,
    although they are not in the backlog. The answer was then "written to the socket".
    """
    channels = make_channels(
        recovery='latest' if slow_reader == 'latest' else 'off',
        slow_reader=slow_reader,
        history_size=100,
        max_backlog_bytes=2000,
        max_publication_bytes=500,
    )
    async with channels, SimulatedSdk(channels, Clients(), data='ann') as ann:
        await ann.subscribe(ROOM)
        transport = stop_reading(channels, 'ann')
        for _ in range(30):
            await publish(channels, 'x' * 400)
        num_written = transport.writes - 2
        assert 0 < num_written < 20
        for offset in range(1, num_written + 1):
            answer = await explain(channels, offset)
            assert Verdict.PENDING == answer.verdict, (offset, answer.text)
            assert 'backlog' == answer.facts['waits_in']


@on_fake_clock
async def test_later_publications_to_an_sdk_prove_that_an_earlier_one_has_left() -> (
    None
):
    """The bytes that an SDK received later are compared with its backlog, for JSON.

    They were not counted for clients that speak JSON. Each publication since the
    backlog was last empty was then said to be possibly among the bytes that wait.
    """
    channels = make_channels(history_size=100)
    async with channels, SimulatedSdk(channels, Clients(), data='ann') as ann:
        await ann.subscribe(ROOM)
        transport = stop_reading(channels, 'ann')
        for _ in range(30):
            await publish(channels, 'x' * 400)
        # NOTE: the system has taken some bytes, but not all of them.
        transport.backlog_bytes = 4000
        answers = [await explain(channels, offset) for offset in range(1, 31)]
        assert [Verdict.DELIVERED] * 20 + [Verdict.PENDING] * 10 == [
            answer.verdict for answer in answers
        ]


@on_fake_clock
async def test_line_breaks_of_a_payload_are_not_counted_as_sent() -> None:
    """JSON for an SDK has no line breaks, so that it can be shorter than the payload.

    If they were counted, a payload with many line breaks would prove too much.
    """
    channels = make_channels(history_size=100)
    async with channels, SimulatedSdk(channels, Clients(), data='ann') as ann:
        await ann.subscribe(ROOM)
        transport = stop_reading(channels, 'ann')
        await publish(channels, 'first')
        for _ in range(3):
            await publish(channels, b'[1,' + b'\n' * 1000 + b'2]')
        assert transport.backlog_bytes < 1000
        assert Verdict.PENDING == (await explain(channels, 1)).verdict


@on_fake_clock
async def test_client_that_is_closed_as_slow_may_not_have_received_the_buffer() -> None:
    """Publications in the backlog at the close may not have left this process."""
    channels = make_channels(max_backlog_bytes=500, max_publication_bytes=500)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await publish(channels, 'read')
        ann.stop_reading()
        for _ in range(4):
            await publish(channels, 'x' * 198)
        assert (3008, 'slow') == ann.end
        answer = await explain(channels, 5)
        assert Verdict.DISCONNECTED == answer.verdict
        assert 3008 == answer.facts['code']
        assert 'slow' == answer.facts['reason']


@on_fake_clock
async def test_publication_after_the_client_unsubscribed_is_not_delivered() -> None:
    """The answer has the time of the end, and says who ended the subscription."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        ann.unsubscribe(ROOM)
        await publish(channels, 1)
        answer = await explain(channels, 1)
        assert Verdict.UNSUBSCRIBED == answer.verdict
        assert 0 == answer.facts['code']
        assert 'by the client' in answer.text


@on_fake_clock
async def test_publication_after_a_revocation_is_not_delivered() -> None:
    """The answer has the unsubscribe code, and the refusal of the next request."""
    channels = make_channels(subscribers='users')
    async with (
        channels,
        SimulatedSdk(channels, Clients(), data='ann') as ann,
    ):
        await ann.subscribe(ROOM)
        await channels.revoke_user('ann', ROOM)
        await asyncio.sleep(1)
        with pytest.raises(CommandError):
            await ann.subscribe(ROOM)
        await publish(channels, 1)
        answer = await explain(channels, 1)
        assert Verdict.UNSUBSCRIBED == answer.verdict
        assert 2000 == answer.facts['code']
        assert 103 == answer.facts['refused_code']


@on_fake_clock
async def test_refused_client_is_explained_with_the_reason() -> None:
    """The reason is the text for the client, and repeated requests are counted."""
    channels = make_channels()
    async with channels, SimulatedSdk(channels, Clients(), data='mallory') as mallory:
        for _ in range(3):
            with pytest.raises(CommandError, match='members only'):
                await mallory.subscribe(ROOM)
        await publish(channels, 1)
        answer = await explain(channels, 1, 'mallory')
        assert Verdict.REFUSED == answer.verdict
        assert 'members only' in str(answer.facts['reason'])
        assert 3 == answer.facts['count']


@on_fake_clock
async def test_gap_that_was_repaired_is_explained_as_recovered() -> None:
    """A publication that was not announced here was read from the log and written."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        receiver = channels.node.hub.receiver
        forward: Callable[..., None] = receiver.on_publication
        receiver.on_publication = lambda *arguments: None  # type: ignore[method-assign]
        await publish(channels, 1)
        receiver.on_publication = forward  # type: ignore[method-assign]
        await publish(channels, 2)
        await ann.receive()
        await ann.receive()
        answer = await explain(channels, 1)
        assert Verdict.RECOVERED == answer.verdict
        assert answer.facts['repaired_at'] is not None
        await publish(channels, 3)
        assert Verdict.DELIVERED == (await explain(channels, 3)).verdict


@on_fake_clock
async def test_publication_that_has_not_arrived_at_the_node_is_pending() -> None:
    """A subscribed connection waits for what its node has not received."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        channels.node.hub.receiver.on_publication = (  # type: ignore[method-assign]
            lambda *arguments: None
        )
        await publish(channels, 1)
        answer = await explain(channels, 1)
        assert Verdict.PENDING == answer.verdict
        assert 'this node has not received' in answer.text


@on_fake_clock
async def test_offset_above_the_newest_publication_is_not_published() -> None:
    """The answer names the newest offset."""
    channels = make_channels()
    async with channels:
        await publish(channels, 1)
        answer = await explain(channels, 2)
        assert Verdict.NOT_PUBLISHED == answer.verdict
        assert 1 == answer.facts['newest_offset']


@on_fake_clock
async def test_epoch_of_a_former_log_is_explained_as_other_epoch() -> None:
    """The answer names the present epoch."""
    channels = make_channels()
    async with channels:
        await publish(channels, 1)
        epoch = (await channels.position(ROOM)).epoch
        answer = await explain(channels, 1, epoch='other')
        assert Verdict.OTHER_EPOCH == answer.verdict
        assert epoch == answer.facts['epoch']


@on_fake_clock
async def test_user_without_a_connection_was_not_subscribed() -> None:
    """If the record covers the time, the answer is certain."""
    channels = make_channels()
    async with channels:
        await publish(channels, 1)
        answer = await explain(channels, 1)
        assert Verdict.NOT_SUBSCRIBED == answer.verdict
        assert '' == answer.connection


@on_fake_clock
@pytest.mark.parametrize(
    ('record_deliveries', 'verdict', 'text'),
    [
        (True, Verdict.NOT_SUBSCRIBED, 'was subscribed or has asked to subscribe'),
        (False, Verdict.UNKNOWN, 'is known, but deliveries to this user'),
    ],
)
async def test_answer_about_a_connection_that_is_not_known_names_only_that_connection(
    record_deliveries: bool, verdict: Verdict, text: str
) -> None:
    """Another connection of the user is subscribed, so the user has connections."""
    channels = make_channels(record_deliveries=record_deliveries)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await publish(channels, 1)
        answer = await explain(channels, 1, client='-LDA')
        assert verdict == answer.verdict
        assert '-LDA' == answer.connection
        start = "no connection of user 'ann' with the id '-LDA' "
        assert answer.text.startswith(start + text)


@on_fake_clock
async def test_answer_about_a_connection_that_ended_before_says_when_it_ended() -> None:
    """Such a connection is left out only if the question is about the user."""
    channels = make_channels()
    async with channels:
        await channels.record_user('ann', for_s=60)
        async with SimulatedClient(channels, user='ann') as early:
            client = early.connection.id
        # The time of a publication is a whole number of milliseconds.
        next_time = time.time() + 0.002
        while time.time() < next_time:
            await asyncio.sleep(0)
        await publish(channels, 1)
        assert '' == (await explain(channels, 1)).connection
        answer = await explain(channels, 1, client=client)
        assert client == answer.connection
        assert Verdict.DISCONNECTED == answer.verdict


@on_fake_clock
async def test_delivery_without_a_record_is_unknown() -> None:
    """Without the option and without `record_user`, the answer says that it is off."""
    channels = make_channels(record_deliveries=False)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await publish(channels, 1)
        answer = await explain(channels, 1)
        assert Verdict.UNKNOWN == answer.verdict
        assert 'not recorded' in answer.text


# --- recording of one user -----------------------------------------------------------


@on_fake_clock
async def test_recorded_user_is_explained_from_the_start_of_the_recording() -> None:
    """Existing connections are recorded, too; earlier events are unknown."""
    channels = make_channels(record_deliveries=False)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await publish(channels, 1)
        assert 1 == await channels.record_user('ann', for_s=60)
        await publish(channels, 2)
        before = await explain(channels, 1)
        assert Verdict.UNKNOWN == before.verdict
        assert 'when the record began' in before.text
        assert Verdict.DELIVERED == (await explain(channels, 2)).verdict


@on_fake_clock
async def test_recording_that_starts_while_a_client_is_slow_knows_its_offset() -> None:
    """Publications in the backlog are pending, and earlier ones are unknown."""
    channels = make_channels(
        record_deliveries=False, recovery='latest', slow_reader='latest'
    )
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        ann.stop_reading()
        await publish(channels, 1)
        await publish(channels, 2)
        await channels.record_user('ann', for_s=60)
        before = await explain(channels, 1)
        assert Verdict.UNKNOWN == before.verdict
        waiting = await explain(channels, 2)
        assert Verdict.PENDING == waiting.verdict
        assert 1 == waiting.facts['delivered_offset']
        ann.read_again()
        assert Verdict.DELIVERED == (await explain(channels, 2)).verdict


@on_fake_clock
async def test_recording_of_a_user_ends_after_its_time() -> None:
    """Nothing is observed any more, and later publications are unknown."""
    channels = make_channels(record_deliveries=False)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await channels.record_user('ann', for_s=60)
        await publish(channels, 1)
        await asyncio.sleep(61)
        await publish(channels, 2)
        assert Verdict.DELIVERED == (await explain(channels, 1)).verdict
        after = await explain(channels, 2)
        assert Verdict.UNKNOWN == after.verdict
        assert 'ended' in after.text
        local_channel = channels.node.hub.local_channel(ROOM)
        assert local_channel is not None
        assert local_channel.observer is None
        assert not channels.node.events.wanted


@pytest.mark.parametrize(
    ('read_before', 'verdict', 'words'),
    [
        (True, Verdict.DELIVERED, 'written to the socket'),
        (False, Verdict.UNKNOWN, 'ended after the recording'),
    ],
)
@on_fake_clock
async def test_backlog_of_a_connection_that_ends_after_the_recording_is_not_known(
    read_before: bool, verdict: Verdict, words: str
) -> None:
    """A publication in the backlog at the end of the recording may have been lost.

    The end of the connection is not recorded then. The answer was "written to the
    socket".
    """
    channels = make_channels(record_deliveries=False)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await channels.record_user('ann', for_s=60)
        await ann.subscribe(ROOM)
        ann.stop_reading()
        await publish(channels, 1)
        if read_before:
            ann.read_again()
        await asyncio.sleep(60)
        running = await explain(channels, 1)
        assert (Verdict.DELIVERED if read_before else Verdict.PENDING) == (
            running.verdict
        )
        ann.disconnect()
        await asyncio.sleep(1)
        answer = await explain(channels, 1)
        assert verdict == answer.verdict, answer.text
        assert words in answer.text


@on_fake_clock
async def test_recording_of_a_user_can_be_extended_and_ended() -> None:
    """A second call sets a new time, and zero seconds end the recording."""
    channels = make_channels(record_deliveries=False)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await channels.record_user('ann', for_s=60)
        await asyncio.sleep(50)
        await channels.record_user('ann', for_s=60)
        await asyncio.sleep(50)
        await publish(channels, 1)
        assert Verdict.DELIVERED == (await explain(channels, 1)).verdict
        await channels.record_user('ann', for_s=0)
        await publish(channels, 2)
        assert Verdict.UNKNOWN == (await explain(channels, 2)).verdict


@on_fake_clock
async def test_too_many_recorded_users_are_refused() -> None:
    """`max_recorded_users` bounds the number of users, not of calls."""
    channels = make_channels(
        node=NodeOptions(max_recorded_users=2), record_deliveries=False
    )
    async with channels:
        await channels.record_user('ann')
        await channels.record_user('bob')
        await channels.record_user('ann')
        with pytest.raises(TooManyUsersError, match='max_recorded_users of 2'):
            await channels.record_user('cat')
        await channels.record_user('bob', for_s=0)
        assert 1 == await channels.record_user('cat')


@pytest.mark.parametrize('for_s', [-1, 86401, float('nan'), float('inf'), True, '9'])
@on_fake_clock
async def test_time_of_a_recording_is_checked(for_s: Any) -> None:
    """A recording lasts at most a day."""
    channels = make_channels()
    async with channels:
        with pytest.raises(InvalidValueError, match='for_s'):
            await channels.record_user('ann', for_s=for_s)


@on_fake_clock
async def test_node_that_starts_later_records_the_users_for_the_rest_of_the_time() -> (
    None
):
    """A new node learns from the others which users are recorded, and how long.

    A recording that was ended is not learnt, and each recording ends everywhere.
    """
    link: list[LinkedBroker] = []
    first, _ = await start_node(link)
    second, _ = await start_node(link)
    await first.record_user('ann', for_s=100)
    await first.record_user('bob', for_s=100)
    await first.record_user('bob', for_s=0)
    await asyncio.sleep(40)
    late, _ = await start_node(link)
    await asyncio.sleep(1)

    def recorded(channels: Channels) -> dict[str, float]:
        recorder = channels.node._delivery_recorder
        return {user: round(s) for user, s in recorder.recorded_users().items()}

    remaining = recorded(first)
    assert ['ann'] == list(remaining)
    assert remaining == recorded(second) == recorded(late)
    async with SimulatedClient(late, user='ann') as client:
        await client.subscribe('rooms:a')
        result = await late.publish('rooms:a', 1)
        await asyncio.sleep(0)
        (answer,) = await late.explain('rooms:a', result.position.offset, user='ann')
        assert Verdict.DELIVERED == answer.verdict
    await asyncio.sleep(60)
    assert {} == recorded(late)
    for channels in (first, second, late):
        await channels.close()


# --- limits --------------------------------------------------------------------------


@on_fake_clock
async def test_facts_above_the_limit_are_forgotten_and_that_is_known() -> None:
    """The oldest facts go first. The answer then says that they are forgotten."""
    channels = make_channels(node=NodeOptions(max_record_bytes=65536))
    async with channels:
        async with SimulatedClient(channels, user='ann') as ann:
            await ann.subscribe(ROOM)
            await publish(channels, 1)
        assert Verdict.DELIVERED == (await explain(channels, 1)).verdict
        for _ in range(60):
            async with SimulatedClient(channels, user='bob') as bob:
                await bob.subscribe(ROOM)
        answer = await explain(channels, 1)
        assert Verdict.UNKNOWN == answer.verdict
        assert 'forgotten' in answer.text


@on_fake_clock
async def test_running_subscription_whose_start_is_forgotten_is_unknown() -> None:
    """A subscription outlives its record; no answer is made up for it."""
    channels = make_channels(node=NodeOptions(max_record_bytes=65536))
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await publish(channels, 1)
        for _ in range(80):
            async with SimulatedClient(channels, user='bob') as bob:
                await bob.subscribe(ROOM)
        answer = await explain(channels, 1)
        assert Verdict.UNKNOWN == answer.verdict
        assert 'forgotten' in answer.text


@on_fake_clock
async def test_end_of_a_subscription_whose_start_is_forgotten_is_unknown() -> None:
    """After the end of such a subscription, nobody says that there was none."""
    channels = make_channels(node=NodeOptions(max_record_bytes=65536))
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        for _ in range(80):
            async with SimulatedClient(channels, user='bob') as bob:
                await bob.subscribe(ROOM)
        await publish(channels, 1)
        assert 1 == (await ann.receive()).offset
        ann.unsubscribe(ROOM)
        answer = await explain(channels, 1)
        assert Verdict.UNKNOWN == answer.verdict
        assert 'forgotten' in answer.text


@on_fake_clock
async def test_client_that_was_slow_often_is_never_said_to_have_received_too_much() -> (
    None
):
    """Above the limit of lags, the answer about the oldest ones is that it is unknown.

    A publication that was dropped is never explained as delivered.
    """
    channels = make_channels(recovery='latest', slow_reader='latest', history_size=1000)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        for _ in range(20):
            ann.stop_reading()
            for number in (1, 2, 3):
                await publish(channels, number)
            ann.read_again()
            await publish(channels, 4)
        received = {p.offset async for p in _all_publications(ann)}
        answers = {n: await explain(channels, n) for n in range(1, 81)}
    delivered = {n for n, a in answers.items() if a.verdict is Verdict.DELIVERED}
    unknown = {n for n, a in answers.items() if a.verdict is Verdict.UNKNOWN}
    assert delivered <= received < set(range(1, 81))
    assert received - delivered <= unknown
    assert 1 in unknown
    assert 80 in delivered


@on_fake_clock
async def test_request_that_was_refused_later_does_not_explain_an_earlier_time() -> (
    None
):
    """A subscribed client asks again, and is refused. That is not the reason."""
    channels = make_channels(subscribers='users')
    async with channels, SimulatedSdk(channels, Clients(), data='ann') as ann:
        await publish(channels, 1)
        await ann.subscribe(ROOM)
        with pytest.raises(CommandError, match='105'):
            await ann.subscribe(ROOM)
        answer = await explain(channels, 1)
        assert Verdict.NOT_SUBSCRIBED == answer.verdict
        assert 1 == answer.facts['start_offset']


@pytest.mark.parametrize(
    ('repairing', 'place', 'words'),
    [
        (False, 'broker', 'this node has not received the publication yet'),
        (True, 'log', 'this node missed publications, and reads them from the log now'),
    ],
)
def test_publication_that_a_process_has_not_delivered_waits_in_a_place(
    repairing: bool, place: str, words: str
) -> None:
    """The answer says whether the announcement is missing, or the log is read."""
    found = find_in_subscription(
        Asked(2, 'e', None, 2.0),
        NodeRecords(id='n', now=4.0, recorded_since=0.0, repairing=repairing),
        RecordedConnection(id='c'),
        RecordedSubscription(at=1.0, epoch='e', start_offset=0, end_offset=1),
    )
    assert found is not None
    assert (Verdict.PENDING, place) == (found.verdict, found.facts['waits_in'])
    assert words in found.text


@pytest.mark.parametrize(
    ('by_client', 'backlog_bytes', 'verdict', 'words'),
    [
        (True, 1, Verdict.DISCONNECTED, 'with a backlog of 1 bytes'),
        (True, None, Verdict.DISCONNECTED, 'a backlog of an unknown number of bytes'),
        (False, None, Verdict.DISCONNECTED, 'a backlog of an unknown number of bytes'),
        (False, 1, Verdict.DELIVERED, 'it was written to the socket'),
    ],
)
def test_backlog_of_a_lost_client_may_have_any_size(
    by_client: bool, backlog_bytes: int | None, verdict: Verdict, words: str
) -> None:
    """If a client was lost, its backlog may have had any size.

    If the server closed the connection, all bytes of the backlog were counted. The last
    500 bytes that were written are then more than the backlog had.
    """
    connection = RecordedConnection(
        id='c', closed_at=3.0, by_client=by_client, backlog_bytes=backlog_bytes
    )
    subscription = RecordedSubscription(
        at=1.0, epoch='e', start_offset=0, end_offset=9, ended_at=3.0, bytes_after=500
    )
    found = find_in_subscription(
        Asked(1, 'e', None, 2.0),
        NodeRecords(id='n', now=4.0, recorded_since=0.0, written_at=2.0),
        connection,
        subscription,
    )
    assert found is not None
    assert verdict == found.verdict
    assert words in found.text


@pytest.mark.parametrize(
    ('offset', 'words'), [(0, '1 to'), (-1, '1 to'), (2**60, '1 to'), (1.5, 'integer')]
)
@on_fake_clock
async def test_offset_that_cannot_exist_is_refused(offset: Any, words: str) -> None:
    """An offset is an integer from 1."""
    channels = make_channels()
    async with channels:
        with pytest.raises(InvalidValueError, match=words):
            await channels.explain(ROOM, offset, user='ann')


@on_fake_clock
async def test_channel_without_history_cannot_be_explained() -> None:
    """Its publications have no offsets. The route with the option is refused."""
    channels = make_channels(record_deliveries=False, history_size=0)
    async with channels:
        with pytest.raises(CapabilityError, match='history_size'):
            await channels.explain(ROOM, 1, user='ann')
        with pytest.raises(UnknownChannelError):
            await channels.explain('elsewhere', 1, user='ann')
    with pytest.raises(OptionsError, match='record_deliveries'):
        make_channels(history_size=0)


@on_fake_clock
async def test_records_need_no_more_memory_than_the_limit() -> None:
    """Python's own count of the memory agrees with `max_record_bytes`."""
    limit_bytes = 2_000_000
    channels = make_channels(node=NodeOptions(max_record_bytes=limit_bytes))
    async with channels:
        await _come_and_go(channels, 20)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await _come_and_go(channels, 1000)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # NOTE: the memory that the publications of the log need is in the number, too.
    assert 0.4 * limit_bytes < after - before < 1.25 * limit_bytes


@on_fake_clock
async def test_text_of_a_client_does_not_exceed_the_limit_of_the_records() -> None:
    """A client cannot fill the memory with the text of its requests.

    Before, the record of a subscription had the epoch of the request, of up to 64 KiB,
    and its size was not counted.
    """
    limit_bytes = 100_000
    channels = make_channels(node=NodeOptions(max_record_bytes=limit_bytes))
    unlimited = EndpointOptions(commands_per_s=None)
    async with channels, SimulatedSdk(channels, options=unlimited) as sdk:
        tracemalloc.start()
        try:
            for number in range(200):
                epoch = f'{number}' + 'x' * 20_000
                await sdk.subscribe(ROOM, recover=True, offset=1, epoch=epoch)
                await sdk.command('unsubscribe', channel=ROOM)
            gc.collect()
            size_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size_bytes < 3 * limit_bytes


async def _come_and_go(channels: Channels, times: int) -> None:
    for number in range(times):
        async with SimulatedClient(channels, user=f'user-{number}') as client:
            await client.subscribe(ROOM)
            await publish(channels, number)


@on_fake_clock
async def test_unobserved_channel_has_no_observer() -> None:
    """A channel without recorded subscriptions is not observed."""
    channels = make_channels()
    channels.add_route('dark', Room(), ChannelOptions(history_size=5))
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await ann.subscribe('dark')
        dark = channels.node.hub.local_channel('dark')
        room = channels.node.hub.local_channel(ROOM)
        assert dark is not None
        assert room is not None
        assert dark.observer is None
        assert room.observer is not None
        ann.unsubscribe(ROOM)
        assert room.observer is None


@on_fake_clock
async def test_latest_channel_that_moves_to_another_log_is_explained() -> None:
    """A subscription that goes on in a new log has records of both logs."""
    broker = MemoryBroker()
    channels = Channels(broker)
    channels.add_route(
        ROOM,
        Room(),
        ChannelOptions(history_size=5, recovery='latest', record_deliveries=True),
    )
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await publish(channels, 1)
        await ann.receive()
        broker._logs.clear()
        broker._generation += 1
        await publish(channels, 'a', 'b', 'c')
        received = {publication.offset async for publication in _all_publications(ann)}
        assert received
        for offset in (1, 2, 3):
            answer = await explain(channels, offset)
            assert (offset in received) == (
                answer.verdict in (Verdict.DELIVERED, Verdict.RECOVERED)
            ), answer


# --- several nodes -------------------------------------------------------------------


async def test_node_that_has_ended_is_named() -> None:
    """The answer names the node whose records are lost."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    for node in (one, two):
        node.add_route(
            ROOM, Room(), ChannelOptions(history_size=5, record_deliveries=True)
        )
    await one.publish(ROOM, 1)
    before = await explain(one, 1)
    assert Verdict.NOT_SUBSCRIBED == before.verdict
    gone = two.node.cluster.id
    await two.close()
    answers = await one.explain(ROOM, 1, user='ann')
    assert [Verdict.UNKNOWN] == [answer.verdict for answer in answers]
    assert gone == answers[0].facts['ended_nodes']
    await one.close()


async def test_node_that_does_not_answer_is_named() -> None:
    """The answers of the other nodes arrive within a second, with a note."""
    link: list[LinkedBroker] = []
    (one, _), (two, dead) = await start_node(link), await start_node(link)
    one.add_route(ROOM, Room(), ChannelOptions(history_size=5, record_deliveries=True))
    async with SimulatedClient(one, user='ann') as ann:
        await ann.subscribe(ROOM)
        await one.publish(ROOM, 1)
        await one.node.cluster.ask_encoded('node')
        link.remove(dead)
        delivered, silent = await one.explain(ROOM, 1, user='ann')
        assert Verdict.DELIVERED == delivered.verdict
        assert (Verdict.UNKNOWN, two.node.cluster.id) == (silent.verdict, silent.node)
        # The next answer knows that the node is gone, and does not wait.
        _, again = await one.explain(ROOM, 1, user='ann')
        assert two.node.cluster.id == again.facts['ended_nodes']
    await one.close()
    await two.close()


# --- what nodes tell each other ------------------------------------------------------


@on_fake_clock
async def test_client_that_subscribes_often_does_not_hide_its_first_time() -> None:
    """Of many subscriptions, those that concern the publication are sent."""
    channels = make_channels()
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe(ROOM)
        await publish(channels, 1)
        for _ in range(200):
            ann.unsubscribe(ROOM)
            await ann.subscribe(ROOM)
        assert Verdict.DELIVERED == (await explain(channels, 1)).verdict


@on_fake_clock
async def test_answer_about_too_many_recoveries_is_unknown() -> None:
    """A client that recovers too often from an old position gets a careful answer."""
    channels = make_channels(history_size=2)
    async with channels, SimulatedClient(channels, user='ann') as ann:
        await publish(channels, 1, 2, 3, 4)
        since = Position(0, (await channels.position(ROOM)).epoch)
        for _ in range(60):
            await ann.subscribe(ROOM, since=since)
            ann.unsubscribe(ROOM)
        answer = await explain(channels, 1)
        assert Verdict.UNKNOWN == answer.verdict
        assert 10 == answer.facts['num_left_out']


@on_fake_clock
async def test_payloads_tags_and_filters_are_not_sent_to_other_nodes() -> None:
    """The facts of a node have the effect of a filter, and not the filter."""
    channels = make_channels(client_filters=True)
    async with channels, SimulatedClient(channels, user='dan') as dan:
        await dan.subscribe(ROOM)
        await publish(channels, 'secret payload', tags={'kind': 'secret tag'})
        question = ExplainQuestion(
            channel=ROOM,
            offset=1,
            epoch=(await channels.position(ROOM)).epoch,
            user='dan',
            tags={'kind': 'secret tag'},
        )
        body = msgspec.msgpack.encode(question)
        answers = await channels.node.cluster.ask_encoded('explain', body)
        [facts] = answers
        assert b'application' in facts
        for secret in (b'secret', b'news'):
            assert secret not in facts


@on_fake_clock
async def test_refused_subscribe_user_is_told_and_explained() -> None:
    """A connection with too many channels is refused, also for the application."""
    channels = Channels(options=NodeOptions(max_channels_per_connection=1))
    for name in ('one', 'two'):
        channels.add_route(
            name,
            None,
            ChannelOptions(
                history_size=10, subscribers='anybody', record_deliveries=True
            ),
        )
    told: list[Event] = []
    channels.listen(told.append)
    async with channels, SimulatedSdk(channels) as sdk:
        sdk.connection.user = 'ann'
        await sdk.subscribe('one')
        await channels.subscribe_user('ann', 'two')
        while not [event for event in told if event.name == 'command_refused']:
            await asyncio.sleep(0)
        result = await channels.publish('two', 1)
        [answer] = await channels.explain('two', result.position.offset, user='ann')
    [refused] = [event for event in told if event.name == 'command_refused']
    assert ('ann', 'two', 106) == (refused.user, refused.channel, refused.code)
    assert 'subscribe_user' == refused.facts['command']
    assert (Verdict.REFUSED, 106) == (answer.verdict, answer.facts['code'])


def test_publication_before_the_recording_is_said_to_be_lost_with_its_process() -> None:
    """After a restart, the answer does not deny that an earlier process recorded."""
    asked = Asked(1, 'e', None, 100.0)
    missing = explain_missing_records(
        asked, NodeRecords(id='n', now=300.0, recorded_since=200.0)
    )
    assert 'recording in this process began at 1970-01-01 00:03:20' in missing
    assert missing.endswith('records of an earlier process are lost when it ends')
    assert '' == explain_missing_records(
        asked, NodeRecords(id='n', now=300.0, recorded_since=50.0)
    )
