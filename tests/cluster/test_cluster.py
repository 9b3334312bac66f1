"""`Cluster`: messages between the nodes that share a broker, and surveys."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
import time
from typing import Any

import pytest
from support.linked_broker import LinkedBroker
from support.linked_broker import start_node

from falcon_channels import Channels
from falcon_channels import InvalidValueError
from falcon_channels.cluster.connections import ConnectionQuery
from falcon_channels.cluster.messages import DisconnectUser
from falcon_channels.cluster.messages import encode_control
from falcon_channels.cluster.messages import NodeMessage
from falcon_channels.cluster.messages import RefreshUser


async def test_survey_with_an_unshared_broker_is_answered_locally() -> None:
    """A node whose broker is not shared answers its own survey without a message."""
    channels = Channels()
    channels.add_route('rooms:{room}', None)
    async with channels.subscribe('rooms:a'):
        assert {'rooms:a': 1} == await channels.node.info.channels()
        (node,) = await channels.node.info.nodes()
    assert (channels.node.cluster.id, 1, 1) == (
        node.uid,
        node.num_subs,
        node.num_channels,
    )
    await channels.close()


async def test_survey_collects_the_answers_of_all_nodes() -> None:
    """Subscribers of a channel are counted on all nodes, and each node is listed."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    async with one.subscribe('rooms:a'), two.subscribe('rooms:a'):
        async with two.subscribe('rooms:b'):
            assert {'rooms:a': 2, 'rooms:b': 1} == await one.node.info.channels()
    nodes = await two.node.info.nodes()
    assert sorted([one.node.cluster.id, two.node.cluster.id]) == [
        node.uid for node in nodes
    ]
    await one.close()
    await two.close()


async def test_survey_ends_when_all_known_nodes_have_answered() -> None:
    """A survey does not wait for its timeout if all known nodes have answered."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    first = await one.node.cluster.ask_encoded('node')
    assert {one.node.cluster.id, two.node.cluster.id} == first.by_node.keys()
    three, _ = await start_node(link)
    async with asyncio.timeout(30):
        again = await one.node.cluster.ask_encoded('node', timeout_s=3600)
    assert {
        one.node.cluster.id,
        two.node.cluster.id,
        three.node.cluster.id,
    } == again.by_node.keys()
    await three.close()
    async with asyncio.timeout(30):
        last = await one.node.cluster.ask_encoded('node', timeout_s=3600)
    assert first.by_node.keys() == last.by_node.keys()
    await one.close()
    await two.close()


async def test_node_that_died_delays_only_one_survey() -> None:
    """A node that ended without a goodbye is awaited in one survey only."""
    link: list[LinkedBroker] = []
    (one, _), (two, dead) = await start_node(link), await start_node(link)
    assert 2 == len(await one.node.cluster.ask_encoded('node'))
    link.remove(dead)
    delayed = await one.node.cluster.ask_encoded('node', timeout_s=0.2)
    assert [one.node.cluster.id] == list(delayed.by_node)
    assert {two.node.cluster.id} == delayed.silent
    async with asyncio.timeout(30):
        last = await one.node.cluster.ask_encoded('node', timeout_s=3600)
    assert [one.node.cluster.id] == list(last.by_node)
    assert frozenset() == last.silent
    await one.close()
    await two.close()


async def test_node_that_has_left_is_gone_until_it_answers_again() -> None:
    """A node that closed or does not answer is listed with the time."""
    link: list[LinkedBroker] = []
    (one, _), (two, dead) = await start_node(link), await start_node(link)
    three, _ = await start_node(link)
    cluster = one.node.cluster
    await cluster.ask_encoded('node')
    ids = [node.node.cluster.id for node in (one, two, three)]
    assert set(ids) == cluster.nodes
    assert {} == cluster.gone
    await three.close()
    link.remove(dead)
    before = time.time()
    await cluster.ask_encoded('node', timeout_s=0.2)
    assert set(ids[1:]) == cluster.gone.keys()
    assert before <= cluster.gone[ids[1]] <= time.time()
    link.append(dead)
    await two.node.cluster.hello()
    async with asyncio.timeout(30):
        while ids[1] in cluster.gone:
            await asyncio.sleep(0)
    assert [ids[2]] == list(cluster.gone)
    assert set(ids[:2]) == cluster.nodes
    await one.close()
    await two.close()


async def test_new_node_knows_the_earlier_nodes_and_waits_for_their_answers() -> None:
    """A known node is awaited until it answers or leaves.

    The wait for nodes that are not known yet is shorter.
    """
    link: list[LinkedBroker] = []
    (one, slow), (two, _) = await start_node(link), await start_node(link)
    received = asyncio.Event()
    one.node.cluster.add_handler('done', lambda body: received.set())
    await two.node.cluster.send('', 'done', b'')
    await asyncio.wait_for(received.wait(), 30)
    link.remove(slow)
    survey = asyncio.create_task(two.node.cluster.ask_encoded('note', timeout_s=3600))
    done, _ = await asyncio.wait([survey], timeout=1.5)
    assert set() == done
    await two.node.cluster.send('', 'goodbye', one.node.cluster.id.encode())
    assert {} == (await asyncio.wait_for(survey, 30)).by_node
    await one.close()
    await two.close()


async def test_survey_after_a_lost_link_finds_nodes_that_started_meanwhile() -> None:
    """The first survey after a lost link finds a node that started during the loss."""
    link: list[LinkedBroker] = []
    one, broker = await start_node(link)
    assert 1 == len(await one.node.cluster.ask_encoded('node', timeout_s=0.1))
    broker.cut = True
    one.node.hub.receiver.on_link_lost()
    two, _ = await start_node(link)
    broker.cut = False
    one.node.hub.receiver.on_link_restored()
    assert 2 == len(await one.node.cluster.ask_encoded('node'))
    await one.close()
    await two.close()


async def test_large_answer_is_sent_in_pieces_below_4_kib() -> None:
    """An answer of one megabyte arrives complete, in control messages below 4 KiB.

    The other node has no such answer. It says so, and is not awaited.
    """
    link: list[LinkedBroker] = []
    (one, _), (two, broker) = await start_node(link), await start_node(link)
    answer = bytes(range(256)) * 4096
    two.node.cluster.add_answerer('large', lambda body: body + answer)
    answers = await one.node.cluster.ask_encoded('large', b'x', timeout_s=30)
    assert {two.node.cluster.id: b'x' + answer} == answers.by_node
    assert {one.node.cluster.id} == answers.silent
    assert broker.largest_bytes < 4096
    await one.close()
    await two.close()


async def test_answer_that_is_too_large_fails_the_request_for_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The channels of a node are never left out without a word."""
    monkeypatch.setattr('falcon_channels.cluster.cluster.MAX_MESSAGE_BYTES', 4096)
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(100):
            name = f'rooms:{number}{"x" * 60}'
            await stack.enter_async_context(two.subscribe(name))
        with pytest.raises(InvalidValueError, match=r"'\*' matches too many channels"):
            await one.node.info.channels()
        found = await one.node.info.channels('rooms:1x*')
        assert [f'rooms:1{"x" * 60}'] == list(found)
    assert 2 == len(await one.node.info.nodes())
    await one.close()
    await two.close()


async def test_answer_that_takes_longer_is_a_coroutine() -> None:
    """A node may work on its answer in parts, and handles other messages meanwhile."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    other_was_answered = asyncio.Event()

    async def answer_later(body: bytes) -> bytes:
        await other_was_answered.wait()
        return body + b'later'

    for channels in (one, two):
        channels.node.cluster.add_answerer('later', answer_later)
    waiting = asyncio.ensure_future(one.node.cluster.ask_encoded('later', b'x'))
    assert 2 == len(await one.node.cluster.ask_encoded('node'))
    other_was_answered.set()
    assert [b'xlater', b'xlater'] == list(await waiting)
    await one.close()
    await two.close()


async def test_message_reaches_its_node_only_or_all_nodes() -> None:
    """A message for one node is handled there only, and one for all by all."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    handled: list[tuple[str, bytes]] = []
    all_handled = asyncio.Event()

    def handler(name: str) -> Any:
        def handle(body: bytes) -> None:
            handled.append((name, body))
            if len(handled) == 3:
                all_handled.set()

        return handle

    one.node.cluster.add_handler('note', handler('one'))
    two.node.cluster.add_handler('note', handler('two'))
    await one.node.cluster.send(two.node.cluster.id, 'note', b'1')
    await one.node.cluster.send('', 'note', b'2')
    await asyncio.wait_for(all_handled.wait(), 30)
    assert [('two', b'1'), ('one', b'2'), ('two', b'2')] == handled
    await one.close()
    await two.close()


async def test_invalid_control_message_is_counted_and_dropped() -> None:
    """Messages that cannot be decoded or have no handler have no other effect."""
    link: list[LinkedBroker] = []
    one, _ = await start_node(link)
    for kind in ('hello', 'ask', 'answer', 'unheard of'):
        await one.node.cluster.send('', kind, b'\xff')
    done = asyncio.Event()
    one.node.cluster.add_handler('done', lambda body: done.set())
    await one.node.cluster.send('', 'done', b'')
    await asyncio.wait_for(done.wait(), 30)
    assert 3 == one.node.hub.counters.control_errors
    await one.close()


@pytest.mark.parametrize(
    'kind', ['control', 'deeply nested control', 'handler of a control', 'signal']
)
async def test_message_that_cannot_be_decoded_does_not_stop_the_broker(
    kind: str, tmp_path: Path
) -> None:
    """After such a message in its store, a process still receives publications."""
    url = f'sqlite:///{tmp_path}/channels.db'
    async with Channels(url) as one, Channels(url) as two:
        for channels in (one, two):
            channels.add_route('rooms:{room}', None)
        # The text of a message is not UTF-8.
        command = encode_control(DisconnectUser('ann', 3000, 'x'))
        command = command.replace(b'ann', b'\xff\xfe\xfd')
        if kind == 'deeply nested control':
            command = encode_control(RefreshUser(user='ann', info=['x']))
            command = command.replace(b'\x91\xa1x', b'\x91' * 100_000 + b'\xa1x')
        elif kind == 'handler of a control':
            two.node.cluster.add_handler('broken', lambda body: next(iter(())))
            command = encode_control(NodeMessage('', 'broken', b''))
        signal = b'\x82\xa4kind\xa4join\xa4info\x81\xa4user\xa3\xff\xff\xff'
        async with two.subscribe('rooms:a') as subscription:
            if kind == 'signal':
                await one.node.broker.signal('rooms:a', signal)
            else:
                await one.node.broker.control(command)
            await one.publish('rooms:a', 1)
            async with asyncio.timeout(30):
                assert 1 == (await anext(subscription)).value()
        assert 1 == two.node.hub.counters.control_errors


@pytest.mark.parametrize('error', [RuntimeError('a bug'), ValueError('malformed')])
@pytest.mark.parametrize('waits', [False, True])
async def test_node_whose_answer_fails_is_silent_and_still_known(
    error: Exception, waits: bool
) -> None:
    """The survey does not wait for such a node, and later messages reach it."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    await one.node.cluster.ask_encoded('node')

    def fail(body: bytes) -> bytes:
        raise error

    async def fail_later(body: bytes) -> bytes:
        await asyncio.sleep(0)
        raise error

    one.node.cluster.add_answerer('test', lambda body: b'1')
    two.node.cluster.add_answerer('test', fail_later if waits else fail)
    async with asyncio.timeout(30):
        answers = await one.node.cluster.ask_encoded('test', timeout_s=3600)
    assert {one.node.cluster.id: b'1'} == answers.by_node
    assert {two.node.cluster.id} == answers.silent
    assert one.node.cluster.knows(two.node.cluster.id)
    counters = two.node.hub.counters
    assert 1 == counters.control_errors + counters.task_errors
    await one.close()
    await two.close()


async def test_answer_that_cannot_be_decoded_hides_no_other_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A node whose answers this version cannot decode is left out, counted and logged.

    The answers of the other nodes are used, in each method that asks all nodes.
    """
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    await one.publish('rooms:a', 1)
    for name in ('channels', 'node', 'connections', 'explain', 'record_user'):
        two.node.cluster.add_answerer(name, lambda body: b'\xc1')
    async with one.subscribe('rooms:a'), two.subscribe('rooms:a'):
        assert {'rooms:a': 1} == await one.node.info.channels()
        (node,) = await one.node.info.nodes()
        assert one.node.cluster.id == node.uid
        found = await one.node.connections.find(ConnectionQuery())
        assert (1, 1, 1) == (found.total, len(found.connections), found.num_silent)
        assert 1 == await one.record_user('ann', for_s=1)
        explanations = await one.explain('rooms:a', 1, user='ann')
    assert two.node.cluster.id in [answer.node for answer in explanations]
    assert 5 == one.node.hub.counters.control_errors
    assert 1 == caplog.text.count('left out the answer of node')
    await one.close()
    await two.close()
