"""Responders: each is asked and may refuse; options decide where there is none."""

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
from falcon_channels import UnknownChannelError
from falcon_channels.access import authorization
from falcon_channels.testing import SimulatedClient


async def forbid_mallory(req: Any, who: Any, resource: Any, params: Any) -> None:
    if who.user == 'mallory':
        raise falcon.HTTPForbidden(description='banned')


class Guarded:
    """Refuses `eve` everywhere, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def _ask(self, what: str, user: str) -> None:
        self.asked.append((what, user))
        if user == 'eve':
            raise falcon.HTTPForbidden(description=f'no {what} for you')

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        assert room == subscription.params['room']
        self._ask(f'subscribe {room} {subscription.data}', subscription.user)
        subscription.reply = {'welcome': subscription.user}

    @falcon.before(forbid_mallory)
    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        self._ask(f'publish {room}', publication.user)
        publication.data['by'] = publication.user

    async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
        self._ask(f'unsubscribe {room}', subscription.user)

    async def on_presence(self, req: Any, connection: Any, room: str) -> None:
        self._ask(f'presence {room}', connection.user)

    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        self._ask(f'history {room}', connection.user)


class Note(msgspec.Struct):
    """What clients may publish to a typed channel."""

    text: str
    tags: list[str] = []


def made(resource: object | None = None, **options: Any) -> Channels:
    channels = Channels()
    channels.add_route('rooms:{room}', resource, ChannelOptions(**options))
    return channels


@on_fake_clock
async def test_responders_accept() -> None:
    """Who may is asked for, once each, with the fields of the name, and gets in."""
    guarded = Guarded()
    channels = made(guarded)
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
        await authorization.authorize_presence(
            channels.node.broker, match, ann.connection, 'rooms:a'
        )
        await authorization.authorize_history(
            channels.node.broker, match, ann.connection, 'rooms:a'
        )
        assert {'welcome': 'ann'} == ann.connection.subscriptions['rooms:a'].reply
    await asyncio.sleep(1)
    assert [
        ('subscribe a please', 'ann'),
        ('publish a', 'ann'),
        ('presence a', 'ann'),
        ('history a', 'ann'),
        ('unsubscribe a', 'ann'),
    ] == guarded.asked
    await channels.close()


@on_fake_clock
async def test_responders_refuse() -> None:
    """Who may not is told so, and nothing has happened."""
    guarded = Guarded()
    channels = made(guarded, publishers='anybody')
    async with SimulatedClient(channels, user='eve') as eve:
        with pytest.raises(falcon.HTTPForbidden) as refused:
            await eve.subscribe('rooms:a')
        assert 'no subscribe a None for you' == refused.value.description
        assert {} == eve.connection.subscriptions
        with pytest.raises(falcon.HTTPForbidden):
            await eve.publish('rooms:a', {})
        match = await channels.node.match('rooms:a')
        with pytest.raises(falcon.HTTPForbidden):
            await authorization.authorize_presence(
                channels.node.broker, match, eve.connection, 'rooms:a'
            )
        with pytest.raises(falcon.HTTPForbidden):
            await authorization.authorize_history(
                channels.node.broker, match, eve.connection, 'rooms:a'
            )
        assert 0 == channels.node.hub.counters.publications
    await asyncio.sleep(1)
    assert 'unsubscribe a' not in [what for what, _ in guarded.asked]
    await channels.close()


@on_fake_clock
async def test_hooks_of_falcon_work() -> None:
    """`falcon.before` goes before a channel's responder as before any other."""
    channels = made(Guarded())
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
def test_options_decide_without_responder(
    publishers: Any, subscribed: bool, allowed: bool
) -> None:
    """Without a responder the options decide who may publish."""

    @on_fake_clock
    async def scenario() -> None:
        channels = made(publishers=publishers)
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
async def test_who_does_not_listen_may_not_ask() -> None:
    """Without a responder, presence and history are for subscribers."""
    channels = made(presence=True, history_size=5)
    async with SimulatedClient(channels) as client:
        match = await channels.node.match('rooms:a')
        for authorize in (
            authorization.authorize_presence,
            authorization.authorize_history,
        ):
            with pytest.raises(falcon.HTTPForbidden):
                await authorize(
                    channels.node.broker, match, client.connection, 'rooms:a'
                )
        await client.subscribe('rooms:a')
        for authorize in (
            authorization.authorize_presence,
            authorization.authorize_history,
        ):
            await authorize(channels.node.broker, match, client.connection, 'rooms:a')
    await channels.close()


@pytest.mark.parametrize(
    ('data', 'path'),
    [
        ({'text': 7}, '$.text'),
        ({'text': 'a', 'tags': ['b', 3]}, '$.tags[1]'),
        ({}, 'text'),
        ([], 'object'),
        (b'\x00', 'binary'),
    ],
)
def test_typed_data_is_refused_with_its_path(data: Any, path: str) -> None:
    """What does not fit the route's type is refused, and says where."""

    @on_fake_clock
    async def scenario() -> None:
        channels = made(publishers='anybody', data_type=Note)
        async with SimulatedClient(channels) as client:
            with pytest.raises(falcon.HTTPUnprocessableEntity) as refused:
                await client.publish('rooms:a', data)
            assert path in (refused.value.description or '')
            await client.publish('rooms:a', {'text': 'fits'})
        assert 0 == channels.node.hub.counters.refused
        await channels.close()

    scenario()


@on_fake_clock
async def test_too_large_is_refused_with_both_numbers() -> None:
    """A publication over the limit is refused from anybody, also after a responder."""

    class Doubles:
        async def on_publish(self, req: Any, publication: Any, room: str) -> None:
            publication.data = publication.data * 2

    channels = made(Doubles(), publishers='anybody', max_publication_bytes=100)
    words = 'publication of 102 bytes exceeds max_publication_bytes of 100'
    with pytest.raises(PublicationTooLargeError, match=words):
        await channels.publish('rooms:a', 'x' * 100)
    async with SimulatedClient(channels) as client:
        with pytest.raises(PublicationTooLargeError, match='102'):
            await client.publish('rooms:a', 'x' * 100)
        with pytest.raises(PublicationTooLargeError, match='122'):
            await client.publish('rooms:a', 'x' * 60)
        await client.publish('rooms:a', 'x' * 40)
    await channels.close()


@on_fake_clock
async def test_channels_without_route_do_not_exist() -> None:
    """A client cannot make a channel by naming it."""
    channels = made()
    async with SimulatedClient(channels) as client:
        for name in ('Rooms:a', 'rooms:a/b', 'other'):
            with pytest.raises(UnknownChannelError):
                await client.subscribe(name)
    assert {} == channels.node.hub.channel_counts()
    await channels.close()


@on_fake_clock
async def test_responders_that_fail_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An `on_unsubscribe` that fails is counted and logged, and harms nobody."""

    class Fails:
        async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
            raise RuntimeError('a defect of the application')

    channels = made(Fails())
    async with SimulatedClient(channels) as client:
        await client.subscribe('rooms:a')
    await asyncio.sleep(1)
    assert 1 == channels.node.hub.counters.responder_errors
    assert 'on_unsubscribe failed' in caplog.text
    await channels.close()
