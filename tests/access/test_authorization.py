"""Authorization: responders are called and may refuse; else the options decide."""

from __future__ import annotations

import asyncio
from typing import Any

import falcon
import msgspec
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import PublicationTooLargeError
from falcon_channels.access.authorization import Authorizer
from falcon_channels.testing import SimulatedClient


async def forbid_mallory(req: Any, draft: Any, resource: Any, params: Any) -> None:
    if draft.user == 'mallory':
        raise falcon.HTTPForbidden(description='banned')


class Guarded:
    """A resource that refuses `eve` and records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def _record(self, call: str, user: str) -> None:
        self.calls.append((call, user))
        if user == 'eve':
            raise falcon.HTTPForbidden(description=f'no {call} for you')

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        assert room == subscription.params['room']
        self._record(f'subscribe {room} {subscription.data}', subscription.user)
        subscription.reply = {'welcome': subscription.user}

    @falcon.before(forbid_mallory)
    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        self._record(f'publish {room}', publication.user)
        publication.data['by'] = publication.user

    async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
        self._record(f'unsubscribe {room}', subscription.user)

    async def on_presence(self, req: Any, connection: Any, room: str) -> None:
        self._record(f'presence {room}', connection.user)

    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        self._record(f'history {room}', connection.user)


class Note(msgspec.Struct):
    """The type of publications in a typed channel."""

    text: str
    tags: list[str] = []


def make_channels(resource: object | None = None, **options: Any) -> Channels:
    channels = Channels()
    options = {'subscribers': 'anybody', **options}
    channels.add_route('rooms:{room}', resource, ChannelOptions(**options))
    return channels


def authorizer(channels: Channels) -> Authorizer:
    return Authorizer(channels.node.broker, channels.node.operations)


@on_fake_clock
async def test_accepting_responders_are_called_once_with_the_fields() -> None:
    """Each responder is called once, with the fields of the channel name."""
    guarded = Guarded()
    channels = make_channels(guarded)
    async with SimulatedClient(channels, user='ann') as ann:
        await ann.subscribe('rooms:a', data='please')
        await ann.publish('rooms:a', {'text': 'hi'})
        publication = await ann.receive()
        assert {'text': 'hi', 'by': 'ann'} == publication.value()
        assert publication.info is not None
        assert ('ann', ann.connection.id) == (
            publication.info.user,
            publication.info.client,
        )
        match = await channels.node.match('rooms:a')
        await authorizer(channels).authorize_presence(match, ann.connection, 'rooms:a')
        await authorizer(channels).authorize_history(match, ann.connection, 'rooms:a')
        assert {'welcome': 'ann'} == ann.connection.subscriptions['rooms:a'].reply
    await asyncio.sleep(1)
    assert [
        ('subscribe a please', 'ann'),
        ('publish a', 'ann'),
        ('presence a', 'ann'),
        ('history a', 'ann'),
        ('unsubscribe a', 'ann'),
    ] == guarded.calls
    await channels.close()


@on_fake_clock
async def test_refusing_responders_raise_and_change_nothing() -> None:
    """The error of a responder reaches the client, and nothing has changed."""
    guarded = Guarded()
    channels = make_channels(guarded, publishers='anybody')
    async with SimulatedClient(channels, user='eve') as eve:
        with pytest.raises(falcon.HTTPForbidden) as refused:
            await eve.subscribe('rooms:a')
        assert 'no subscribe a None for you' == refused.value.description
        assert {} == eve.connection.subscriptions
        with pytest.raises(falcon.HTTPForbidden):
            await eve.publish('rooms:a', {})
        match = await channels.node.match('rooms:a')
        with pytest.raises(falcon.HTTPForbidden):
            await authorizer(channels).authorize_presence(
                match, eve.connection, 'rooms:a'
            )
        with pytest.raises(falcon.HTTPForbidden):
            await authorizer(channels).authorize_history(
                match, eve.connection, 'rooms:a'
            )
        assert 0 == channels.node.hub.counters.publications
    await asyncio.sleep(1)
    assert 'unsubscribe a' not in [call for call, _ in guarded.calls]
    await channels.close()


@on_fake_clock
async def test_falcon_hook_of_a_responder_runs_before_it() -> None:
    """`falcon.before` works on the responders of channels."""
    channels = make_channels(Guarded())
    async with SimulatedClient(channels, user='mallory') as mallory:
        await mallory.subscribe('rooms:a')
        with pytest.raises(falcon.HTTPForbidden) as refused:
            await mallory.publish('rooms:a', {})
        assert 'banned' == refused.value.description
    await channels.close()


@pytest.mark.parametrize(
    ('publishers', 'subscribed', 'allowed'),
    [
        ('auto', True, False),
        ('nobody', True, False),
        ('subscribers', True, True),
        ('subscribers', False, False),
        ('anybody', False, True),
    ],
)
def test_publishers_option_without_responder_decides(
    publishers: Any, subscribed: bool, allowed: bool
) -> None:
    """Without `on_publish`, the option `publishers` decides who may publish."""

    @on_fake_clock
    async def scenario() -> None:
        channels = make_channels(publishers=publishers)
        async with SimulatedClient(channels) as client:
            if subscribed:
                await client.subscribe('rooms:a')
            if allowed:
                await client.publish('rooms:a', 1)
                return
            with pytest.raises(falcon.HTTPForbidden):
                await client.publish('rooms:a', 1)
        await channels.close()

    scenario()


@on_fake_clock
async def test_presence_and_history_without_a_subscription_are_forbidden() -> None:
    """Without a responder, only subscribers may read presence and history."""
    channels = make_channels(presence=True, history_size=5)
    async with SimulatedClient(channels) as client:
        match = await channels.node.match('rooms:a')
        for authorize in (
            authorizer(channels).authorize_presence,
            authorizer(channels).authorize_history,
        ):
            with pytest.raises(falcon.HTTPForbidden):
                await authorize(match, client.connection, 'rooms:a')
        await client.subscribe('rooms:a')
        for authorize in (
            authorizer(channels).authorize_presence,
            authorizer(channels).authorize_history,
        ):
            await authorize(match, client.connection, 'rooms:a')
    await channels.close()


@pytest.mark.parametrize(
    ('data', 'path'),
    [
        ({'text': 7}, '$.text'),
        ({'text': 'a', 'tags': ['b', 3]}, '$.tags[1]'),
        ({}, 'text'),
        ([], 'object'),
    ],
)
def test_publication_of_the_wrong_type_is_refused_with_its_path(
    data: Any, path: str
) -> None:
    """Data of another type than `data_type` is refused with the path of the field."""

    @on_fake_clock
    async def scenario() -> None:
        channels = make_channels(publishers='anybody', data_type=Note)
        async with SimulatedClient(channels) as client:
            with pytest.raises(falcon.HTTPUnprocessableEntity) as refused:
                await client.publish('rooms:a', data)
            assert path in (refused.value.description or '')
            await client.publish('rooms:a', {'text': 'fits'})
        assert 0 == channels.node.hub.counters.refused
        await channels.close()

    scenario()


@on_fake_clock
async def test_too_large_publication_is_refused_with_both_sizes() -> None:
    """A publication above the limit is refused before and after the responder."""

    class Doubles:
        async def on_publish(self, req: Any, publication: Any, room: str) -> None:
            publication.data = publication.data * 2

    channels = make_channels(Doubles(), publishers='anybody', max_publication_bytes=100)
    message = 'publication of 102 bytes exceeds max_publication_bytes of 100'
    with pytest.raises(PublicationTooLargeError, match=message):
        await channels.publish('rooms:a', 'x' * 100)
    async with SimulatedClient(channels) as client:
        with pytest.raises(PublicationTooLargeError, match='102'):
            await client.publish('rooms:a', 'x' * 100)
        with pytest.raises(PublicationTooLargeError, match='122'):
            await client.publish('rooms:a', 'x' * 60)
        await client.publish('rooms:a', 'x' * 40)
    await channels.close()
