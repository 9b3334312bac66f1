"""Scenarios of the official Python SDK, one for each feature.

The program prints a line for each feature: ``ok`` and its name if it works, or
``absent`` and its name if the SDK does not have it. ENCODING is ``json`` or
``protobuf``. controlled_server.py explains the other variables of the environment.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from collections.abc import Callable
import inspect
import json
import os
import secrets
import sys
from typing import Any

from centrifuge import Client
from centrifuge import DeltaType
from centrifuge import ReplyError
from centrifuge import StreamPosition
from centrifuge import Subscription
from centrifuge.filter import Filter
import httpx

_TIMEOUT_S = 20


class Events:
    """Records the events of a client or of a subscription, in queues by name."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

    def __getattr__(self, name: str) -> Callable[[Any], Awaitable[None]]:
        """Return the handler ``on_<name>`` that the SDK looks up."""
        if not name.startswith('on_'):
            raise AttributeError(name)
        queue = self._queues[name.removeprefix('on_')]
        return queue.put

    async def next(self, name: str) -> Any:
        """Return the next event with this name."""
        return await asyncio.wait_for(self._queues[name].get(), _TIMEOUT_S)

    def count(self, name: str) -> int:
        """Return the number of events with this name that nobody has taken."""
        return self._queues[name].qsize()


class Sdk:
    """Creates clients of the SDK, and sends requests to the server."""

    def __init__(self) -> None:
        self._use_protobuf = os.environ['ENCODING'] == 'protobuf'
        self._clients: list[Client] = []
        # NOTE: no kept connection, because a restart of the server would end it.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            timeout=_TIMEOUT_S, trust_env=False, limits=limits
        )

    def encode(self, value: object) -> Any:
        """Return a value as the SDK sends it."""
        return json.dumps(value).encode() if self._use_protobuf else value

    def decode(self, data: Any) -> Any:
        """Return the value that the SDK has received as `data`."""
        return json.loads(data) if self._use_protobuf else data

    def client(self, **options: Any) -> tuple[Client, Events]:
        """Return a client and its events."""
        events = Events()
        client = Client(
            f'ws://{os.environ["ADDRESS"]}/connection/websocket',
            events=events,
            use_protobuf=self._use_protobuf,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            **options,
        )
        self._clients.append(client)
        return client, events

    async def connect(self, user: str = '') -> tuple[Client, Events, str]:
        """Return a connected client, its events and its id."""
        client, events = self.client(data=self.encode({'user': user}))
        await client.connect()
        connected = await events.next('connected')
        await events.next('connecting')
        return client, events, connected.client

    async def subscribe(
        self, client: Client, channel: str, **options: Any
    ) -> tuple[Subscription, Events]:
        """Return a subscription that the server has confirmed, and its events."""
        events = Events()
        subscription = client.new_subscription(channel, events=events, **options)
        await subscription.subscribe()
        await events.next('subscribed')
        return subscription, events

    async def receive(self, events: Events, value: object) -> Any:
        """Return the next publication, and check its value."""
        publication = (await events.next('publication')).pub
        assert value == self.decode(publication.data)
        return publication

    async def request(self, method: str, path: str, value: object = None) -> str:
        """Send a request to the server, without the proxy."""
        url = os.environ['SERVER'] + path
        response = await self._http.request(method, url, json=value)
        return response.raise_for_status().text

    async def publish(self, room: str, value: object, query: str = '') -> None:
        """Publish from the server."""
        await self.request('POST', f'/rooms/{room}?{query}', value)

    async def control(self, command: str) -> None:
        """Cut, mend or restart the server."""
        response = await self._http.post(f'{os.environ["CONTROL"]}/{command}')
        response.raise_for_status()

    async def sent_bytes(self) -> int:
        """Return the number of bytes that the server has sent to clients."""
        response = await self._http.get(f'{os.environ["CONTROL"]}/sent_bytes')
        return int(response.raise_for_status().text)

    async def close(self) -> None:
        """Disconnect all clients."""
        for client in self._clients:
            await client.disconnect()
        await self._http.aclose()


async def _refused(code: int, call: Awaitable[object]) -> None:
    """Check that a call fails with a code of the protocol."""
    actual = None
    try:
        await call
    except ReplyError as error:
        actual = error.code
    assert code == actual


async def connect(sdk: Sdk) -> None:
    """A client gets an id, and disconnects."""
    client, events, client_id = await sdk.connect('ann')
    assert len(client_id) >= 20
    await client.disconnect()
    await events.next('disconnected')


async def subscribe(sdk: Sdk) -> None:
    """A subscriber gets the publications of the server."""
    client, _, _ = await sdk.connect()
    subscription, events = await sdk.subscribe(client, 'rooms:subscribe')
    await sdk.publish('subscribe', 'é "x" ✓', 'level=info')
    publication = await sdk.receive(events, 'é "x" ✓')
    assert (1, {'level': 'info'}) == (publication.offset, publication.tags)
    await subscription.unsubscribe()
    await events.next('unsubscribed')


async def publish(sdk: Sdk) -> None:
    """A subscriber publishes, if the resource allows it."""
    client, _, client_id = await sdk.connect('ann')
    subscription, events = await sdk.subscribe(client, 'rooms:publish')
    await subscription.publish(sdk.encode({'text': 'hello'}))
    info = (await sdk.receive(events, {'text': 'hello'})).info
    assert (client_id, 'ann') == (info.client, info.user)
    assert {'name': 'ann'} == sdk.decode(info.conn_info)
    await _refused(103, subscription.publish(sdk.encode('refuse')))
    await _refused(103, client.publish('rooms:other', sdk.encode(1)))


async def presence(sdk: Sdk) -> None:
    """A subscriber reads who is present."""
    ann, _, _ = await sdk.connect('ann')
    subscription, _ = await sdk.subscribe(ann, 'rooms:presence')
    bob, _, bob_id = await sdk.connect('bob')
    await sdk.subscribe(bob, 'rooms:presence')
    present = (await subscription.presence()).clients
    assert 2 == len(present)
    assert 'bob' == present[bob_id].user
    stats = await subscription.presence_stats()
    assert (2, 2) == (stats.num_clients, stats.num_users)
    await _refused(103, ann.presence('rooms:other'))


async def joins(sdk: Sdk) -> None:
    """A subscriber that asks for them gets joins and leaves."""
    ann, _, ann_id = await sdk.connect('ann')
    _, events = await sdk.subscribe(ann, 'rooms:joins', join_leave=True)
    assert ann_id == (await events.next('join')).info.client
    bob, _, bob_id = await sdk.connect('bob')
    await sdk.subscribe(bob, 'rooms:joins')
    assert bob_id == (await events.next('join')).info.client
    await bob.disconnect()
    assert bob_id == (await events.next('leave')).info.client


async def history(sdk: Sdk) -> None:
    """A subscriber reads history forwards, backwards and from a position."""
    client, _, _ = await sdk.connect()
    subscription, _ = await sdk.subscribe(client, 'rooms:history')
    for n in range(1, 6):
        await sdk.publish('history', n)
    everything = await subscription.history(limit=-1)
    assert [1, 2, 3, 4, 5] == [sdk.decode(p.data) for p in everything.publications]
    newest = await subscription.history(limit=2, reverse=True)
    assert [5, 4] == [p.offset for p in newest.publications]
    top = await subscription.history()
    assert ([], 5) == (top.publications, top.offset)
    since = StreamPosition(3, top.epoch)
    later = await subscription.history(limit=10, since=since)
    assert [4, 5] == [p.offset for p in later.publications]
    await _refused(112, subscription.history(since=StreamPosition(3, 'other')))


async def rpc(sdk: Sdk) -> None:
    """A call returns a result or an error."""
    client, _, _ = await sdk.connect()
    result = await client.rpc('sum', sdk.encode([1, 2, 3]))
    assert {'sum': 6} == sdk.decode(result.data)
    await _refused(100, client.rpc('fail', sdk.encode(None)))
    await _refused(104, client.rpc('unknown', sdk.encode(None)))


async def server_subscriptions(sdk: Sdk) -> None:
    """The server subscribes a client, which gets the publications."""
    _, events, _ = await sdk.connect('cat')
    subscribed = await events.next('subscribed')
    assert ('#cat', True) == (subscribed.channel, subscribed.recoverable)
    await sdk.request('POST', '/users/cat/publish')
    publication = await events.next('publication')
    assert '#cat' == publication.channel
    assert 'to cat' == sdk.decode(publication.pub.data)


async def codes(sdk: Sdk) -> None:
    """The client gets the codes of errors, of a revocation and of disconnects."""
    client, events, _ = await sdk.connect('fay')
    for channel, code in (('rooms:secret', 103), ('nowhere', 102)):
        refused = Events()
        subscription = client.new_subscription(channel, events=refused)
        await subscription.subscribe()
        assert code == (await refused.next('unsubscribed')).code
    subscription, ended = await sdk.subscribe(client, 'rooms:codes')
    await sdk.request('POST', '/users/fay/revoke?channel=rooms:codes')
    assert 2000 == (await ended.next('unsubscribed')).code
    await subscription.subscribe()
    assert 103 == (await ended.next('unsubscribed')).code
    await sdk.request('POST', '/users/fay/disconnect?code=4000')
    assert 4000 == (await events.next('connecting')).code
    await events.next('connected')
    await sdk.request('POST', '/users/fay/disconnect?code=4500')
    assert 4500 == (await events.next('disconnected')).code


async def tokens(sdk: Sdk) -> None:
    """An expired token is replaced, and a valid one is refreshed in time."""
    requests: asyncio.Queue[int] = asyncio.Queue()

    async def get_token() -> str:
        requests.put_nowait(requests.qsize() + 1)
        ttl = -5 if requests.qsize() == 1 else 2
        return await sdk.request('GET', f'/users/dan/token?ttl={ttl}')

    client, events = sdk.client(get_token=get_token)
    await client.connect()
    await events.next('connected')
    assert '#dan' == (await events.next('subscribed')).channel
    await _until(lambda: requests.qsize() >= 3)
    await client.rpc('sum', sdk.encode([4]))
    assert 0 == events.count('connected')
    forged, events = sdk.client(token='x.y.z')
    await forged.connect()
    assert 3500 == (await events.next('disconnected')).code


async def subscription_tokens(sdk: Sdk) -> None:
    """A channel needs a token, which is refreshed in time."""
    client, _ = sdk.client(token=await sdk.request('GET', '/users/dan/token'))
    await client.connect()
    events = Events()
    without = client.new_subscription('rooms:token', events=events)
    await without.subscribe()
    assert 103 == (await events.next('unsubscribed')).code
    client.remove_subscription(without)
    requests: list[str] = []

    async def get_token(channel: str) -> str:
        requests.append(channel)
        return await sdk.request('GET', f'/users/dan/token?ttl=2&channel={channel}')

    subscription, events = await sdk.subscribe(
        client, 'rooms:token', get_token=get_token
    )
    await _until(lambda: len(requests) >= 2)
    await subscription.publish(sdk.encode('still there'))
    await sdk.receive(events, 'still there')
    assert 0 == events.count('subscribed')


async def _until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(_TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.02)


async def recovery(sdk: Sdk) -> None:
    """A client that was cut off receives every publication once and in order."""
    client, client_events, _ = await sdk.connect()
    _, events = await sdk.subscribe(client, 'rooms:recovery')
    await sdk.publish('recovery', 0)
    await sdk.receive(events, 0)
    await _cut(sdk, client_events)
    for n in range(1, 21):
        await sdk.publish('recovery', n)
    await _mend(sdk, events)
    await sdk.publish('recovery', 21)
    for n in range(1, 22):
        await sdk.receive(events, n)


async def _cut(sdk: Sdk, client_events: Events) -> None:
    """Cut all connections, and wait until the client has noticed."""
    await sdk.control('cut')
    await client_events.next('connecting')


async def _mend(sdk: Sdk, events: Events) -> None:
    """Mend the connection, and check that the client has recovered."""
    await sdk.control('mend')
    subscribed = await events.next('subscribed')
    assert (True, True) == (subscribed.was_recovering, subscribed.recovered)


async def restart(sdk: Sdk) -> None:
    """A client connects again after a restart, and learns that it has missed some."""
    client, _, _ = await sdk.connect()
    _, events = await sdk.subscribe(client, 'rooms:restart')
    await sdk.publish('restart', 'before')
    await sdk.receive(events, 'before')
    await sdk.control('restart')
    subscribed = await events.next('subscribed')
    assert (True, False) == (subscribed.was_recovering, subscribed.recovered)
    await sdk.publish('restart', 'after')
    assert 1 == (await sdk.receive(events, 'after')).offset


async def filter(sdk: Sdk) -> None:
    """A filter selects live and recovered publications."""
    client, client_events, _ = await sdk.connect()
    _, events = await sdk.subscribe(
        client,
        'rooms:filter',
        tags_filter=Filter.any(Filter.eq('region', 'north'), Filter.gte('price', '9')),
    )
    queries = ['region=north', 'region=south', 'price=10', 'price=8', '', 'price=9']
    for n, query in enumerate(queries[:3]):
        await sdk.publish('filter', n, query)
    await sdk.receive(events, 0)
    await sdk.receive(events, 2)
    await _cut(sdk, client_events)
    for n, query in enumerate(queries[3:], 3):
        await sdk.publish('filter', n, query)
    await _mend(sdk, events)
    await sdk.receive(events, 5)
    assert 0 == events.count('publication')


async def finish(sdk: Sdk) -> None:
    """A client gets the last publication and the end, live and recovered."""
    client, client_events, _ = await sdk.connect()
    _, events = await sdk.subscribe(client, 'rooms:finish')
    await sdk.request('DELETE', '/rooms/finish?data=end')
    await sdk.receive(events, 'end')
    assert 2400 == (await events.next('unsubscribed')).code
    _, events = await sdk.subscribe(client, 'rooms:fail')
    await sdk.publish('fail', 0)
    await sdk.receive(events, 0)
    await _cut(sdk, client_events)
    await sdk.publish('fail', 1)
    await sdk.request('DELETE', '/rooms/fail?data=2&error=overloaded')
    await _mend(sdk, events)
    await sdk.receive(events, 1)
    await sdk.receive(events, '2')
    unsubscribed = await events.next('unsubscribed')
    assert (2401, 'overloaded') == (unsubscribed.code, unsubscribed.reason)


async def state(sdk: Sdk) -> None:
    """A client loads a state, and loads it again after a long absence."""
    loaded: list[str] = []

    async def get_state(channel: str) -> StreamPosition:
        snapshot = json.loads(await sdk.request('GET', '/states/python'))
        loaded.append(snapshot['state'])
        return StreamPosition(snapshot['offset'], snapshot['epoch'])

    async def put(value: str) -> None:
        await sdk.request('PUT', '/states/python', value)

    await put('a')
    client, client_events, _ = await sdk.connect()
    _, events = await sdk.subscribe(
        client, 'states:python', get_state=get_state, min_resubscribe_delay=0.02
    )
    await put('b')
    await sdk.receive(events, 'b')
    await _cut(sdk, client_events)
    await put('c')
    await _mend(sdk, events)
    await sdk.receive(events, 'c')
    assert ['a'] == loaded
    await _cut(sdk, client_events)
    for value in 'defgh':
        await put(value)
    await _mend(sdk, events)
    assert ['a', 'h'] == loaded
    await put('i')
    await sdk.receive(events, 'i')


async def delta(sdk: Sdk) -> None:
    """A client that asks for deltas restores each state, live and recovered."""
    client, client_events, _ = await sdk.connect()
    _, events = await sdk.subscribe(client, 'rooms:delta', delta=DeltaType.FOSSIL)
    state = {f'item {n}': secrets.token_hex(8) for n in range(1000)}
    whole_bytes = len(json.dumps(state))
    before = await sdk.sent_bytes()
    for n in range(10):
        state[f'item {n * 100}'] = f'é ✓ {n}'
        await sdk.publish('delta', state)
        await sdk.receive(events, state)
    await _cut(sdk, client_events)
    for n in range(5):
        state[f'item {n * 200}'] = f'recovered {n}'
        await sdk.publish('delta', state)
    await _mend(sdk, events)
    for _ in range(4):
        await events.next('publication')
    await sdk.receive(events, state)
    state['item 500'] = 'last'
    await sdk.publish('delta', state)
    await sdk.receive(events, state)
    # The first one after each subscribe is whole.
    assert (await sdk.sent_bytes()) - before < 3 * whole_bytes


#: The scenarios by the name of their feature.
SCENARIOS: dict[str, Callable[[Sdk], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        connect,
        subscribe,
        publish,
        presence,
        joins,
        history,
        rpc,
        server_subscriptions,
        codes,
        tokens,
        subscription_tokens,
        recovery,
        restart,
        finish,
        state,
        filter,
        delta,
    )
}

#: What this version of the SDK does not have, by feature.
ABSENT = {
    'messages': hasattr(Client, 'send'),
    'since': 'since' in inspect.signature(Client.new_subscription).parameters,
}


async def main() -> None:
    """Run all scenarios."""
    for name, scenario in SCENARIOS.items():
        sdk = Sdk()
        try:
            await scenario(sdk)
            print('ok', name)
        finally:
            await sdk.close()
    for name, found in ABSENT.items():
        if found:
            sys.exit(f'write a scenario for {name}')
        print('absent', name)


if __name__ == '__main__':
    asyncio.run(main())
