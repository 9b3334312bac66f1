"""Channel names and routes."""

from __future__ import annotations

from typing import Any
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
import pytest

from falcon_channels import ChannelNameError
from falcon_channels import ChannelOptions
from falcon_channels import OptionsError
from falcon_channels.routing import ChannelRouter
from falcon_channels.routing import check_channel_name


def router(*templates: str) -> ChannelRouter:
    made = ChannelRouter()
    for template in templates:
        made.add(template, None, ChannelOptions())
    return made


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('', 'may not be empty'),
        (7, 'is text, not int'),
        (None, 'is text, not NoneType'),
        (b'room', 'is text, not bytes'),
        ('a' * 256, '256 bytes exceeds max_channel_bytes of 255'),
        ('é' * 128, '256 bytes exceeds max_channel_bytes of 255'),
        ('a\nb', r'U\+000A'),
        ('a\x00', r'U\+0000'),
        ('room\u202e', r'U\+202E'),
        ('ro\u200bom', r'U\+200B'),
        ('e\u0301', 'normal form C'),
        ('\ud800', r'U\+D800'),
        (' room', 'white space'),
        ('room ', 'white space'),
        ('/room', 'slash'),
        ('room\u00a0', r'U\+00A0'),
        ('my\u2003room', r'U\+2003'),
        ('room\u034f', r'U\+034F'),
        ('room\ufe0f', r'U\+FE0F'),
        ('ro\u200dom', r'U\+200D'),
    ],
)
def test_invalid_channel_name_is_refused(name: Any, words: str) -> None:
    """A name that could stand for another, or break something, is refused."""
    with pytest.raises(ChannelNameError, match=words):
        check_channel_name(name, 255)


@pytest.mark.parametrize(
    'name', ['a', 'rooms:löbby', '房間:1', 'a b', 'a/b', '🌍', 'a' * 255, '👩\u200d🚒']
)
def test_valid_channel_name_is_returned_unchanged(name: str) -> None:
    """A name is not changed."""
    assert name == check_channel_name(name, 255)


@given(st.text(max_size=80))
def test_random_text_is_a_channel_name_or_is_refused(name: str) -> None:
    """No text breaks the check; what passes is whole, visible and short enough."""
    try:
        assert name == check_channel_name(name, 64)
    except ChannelNameError:
        return
    assert 0 < len(name.encode()) <= 64
    assert name == unicodedata.normalize('NFC', name)
    assert name == name.strip()


ROUTER = router('rooms:{room}', 'users:{user_id:int}', 'a/{b}/c', 'news', '{x}:{y}:z')


@given(st.text(min_size=1, max_size=40).filter(lambda text: '/' not in text))
def test_field_value_is_returned_whole(value: str) -> None:
    """The value of a field is the whole text in its place."""
    name = f'rooms:{value}'
    try:
        check_channel_name(name, 255)
    except ChannelNameError:
        return
    match = ROUTER.match(name)
    assert match is not None
    assert {'room': value} == match.params


@given(st.text(max_size=60))
def test_random_channel_name_raises_no_error_in_the_router(name: str) -> None:
    """No name breaks the router."""
    try:
        check_channel_name(name, 255)
    except ChannelNameError:
        return
    ROUTER.match(name)


@given(st.text(alphabet='0123456789+-_.e\u0661', max_size=8))
def test_number_in_a_name_matches_in_one_spelling_only(text: str) -> None:
    """Two names never mean the same number, so that nobody has two channels of it."""
    match = ROUTER.match(f'users:{text}')
    is_number = text.isascii() and text.removeprefix('-').isdigit()
    if is_number and str(int(text)) == text:
        assert match is not None
        assert {'user_id': int(text)} == match.params
    else:
        assert match is None


def test_route_matches_by_converter_and_case() -> None:
    """Fields are converted, a failed conversion is no match, and case matters."""
    match = ROUTER.match('users:42')
    assert match is not None
    assert {'user_id': 42} == match.params
    assert None is ROUTER.match('users:me')
    assert None is ROUTER.match('News')
    assert None is ROUTER.match('news/')
    assert None is ROUTER.match('unknown')


def test_invalid_template_is_refused_when_it_is_added() -> None:
    """A template that cannot be matched, or is there already, is refused."""
    for template in ('', '/rooms', None, 'news'):
        with pytest.raises(OptionsError):
            ROUTER.add(template, None, ChannelOptions())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='conflict'):
        ROUTER.add('rooms:{other}', None, ChannelOptions())


def test_responder_that_is_not_async_is_refused() -> None:
    """A responder that is not async is refused when the route is added."""

    class Sync:
        def on_subscribe(self, req: Any, subscription: Any) -> None:
            """Is never called."""

    with pytest.raises(TypeError, match='async def'):
        ChannelRouter().add('a', Sync(), ChannelOptions())


def test_route_with_a_suffix_uses_the_responders_with_it() -> None:
    """A suffix chooses other responders, and one without any is refused."""

    class Two:
        async def on_publish(self, req: Any, publication: Any) -> None:
            """The first."""

        async def on_publish_other(self, req: Any, publication: Any) -> None:
            """The second."""

    two = Two()
    made = ChannelRouter()
    route = made.add('a', two, ChannelOptions(), 'other')
    assert two.on_publish_other == route.on_publish
    assert None is route.on_subscribe
    with pytest.raises(OptionsError, match='suffix'):
        made.add('b', two, ChannelOptions(), 'third')


def test_known_name_matches_a_route_that_was_added_later() -> None:
    """A route with a literal has precedence, also for a name that was matched."""
    router = ChannelRouter()
    general = router.add('rooms:{room}', None, ChannelOptions())
    match = router.find('rooms:a', 255)
    assert match is not None
    assert general is match.route
    special = router.add('rooms:a', None, ChannelOptions())
    match = router.find('rooms:a', 255)
    assert match is not None
    assert special is match.route


def test_converter_of_the_application_is_called_for_each_match() -> None:
    """Its value may change, so a match is not remembered."""
    calls = []

    class Tenant:
        def convert(self, value: str) -> str:
            calls.append(value)
            return value

    router = ChannelRouter()
    router.converters['tenant'] = Tenant
    router.add('tenants:{name:tenant}', None, ChannelOptions())
    for _ in range(2):
        assert router.find('tenants:acme', 255) is not None
    assert ['acme', 'acme'] == calls
