"""The Origin check: who may open a WebSocket from a page."""

from __future__ import annotations

from typing import Any

import falcon
from falcon import testing
import falcon.asgi
from hypothesis import given
from hypothesis import strategies as st
import pytest

from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels import OriginCheck
from falcon_channels.errors import OptionsError
from falcon_channels.origin import check_allowed_origins
from falcon_channels.origin import origin_error
from falcon_channels.origin import request_origin_error
from falcon_channels.wsgi import App

LABEL = st.from_regex(r'[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?', fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map('.'.join)
PORT = st.integers(1, 65535)


def error(
    origin: str, host: str, scheme: str = 'ws', allowed: tuple[str, ...] = ()
) -> str | None:
    return origin_error([origin], [host], scheme, check_allowed_origins(allowed))


@pytest.mark.parametrize(
    ('origin', 'host', 'scheme'),
    [
        ('http://example.com', 'example.com', 'ws'),
        ('http://example.com', 'example.com', 'http'),
        ('https://example.com', 'example.com', 'wss'),
        ('https://example.com', 'example.com:443', 'https'),
        ('http://example.com:80', 'example.com', 'ws'),
        ('http://EXAMPLE.com', 'Example.COM', 'ws'),
        ('http://localhost:8000', 'localhost:8000', 'ws'),
        ('http://127.0.0.1:8000', '127.0.0.1:8000', 'ws'),
        ('http://[::1]:8000', '[::1]:8000', 'ws'),
        ('http://[::1]', '[0:0:0:0:0:0:0:1]:80', 'ws'),
        ('http://my_app:8000', 'my_app:8000', 'ws'),
    ],
)
def test_own_origin_passes(origin: str, host: str, scheme: str) -> None:
    """A page of the same scheme, host and port as the handshake may connect."""
    assert None is error(origin, host, scheme)


@pytest.mark.parametrize(
    ('origin', 'host', 'scheme'),
    [
        ('https://evil.example', 'good.example', 'wss'),
        ('null', 'good.example', 'wss'),
        ('', 'good.example', 'wss'),
        ('https://good.example.evil.com', 'good.example', 'wss'),
        ('https://evilgood.example', 'good.example', 'wss'),
        ('https://good.example:444', 'good.example', 'wss'),
        ('https://good.example:0', 'good.example', 'wss'),
        ('https://good.example:65979', 'good.example', 'wss'),
        ('http://good.example', 'good.example', 'wss'),
        ('https://good.example', 'good.example', 'ws'),
        ('https://good.example:443', 'good.example:80', 'ws'),
        ('https://good.example/', 'good.example', 'wss'),
        ('https://good.example/path', 'good.example', 'wss'),
        ('https://good.example@evil.example', 'good.example', 'wss'),
        ('https://evil.example#good.example', 'good.example', 'wss'),
        ('https://good.example, https://evil.example', 'good.example', 'wss'),
        ('https://good.example\n', 'good.example', 'wss'),
        ('https://good.example.', 'good.example', 'wss'),
        ('//good.example', 'good.example', 'wss'),
        ('good.example', 'good.example', 'wss'),
        ('https://[::1', '[::1]', 'wss'),
        ('https://[:::1]', '[::1]', 'wss'),
        ('file://', 'good.example', 'wss'),
        ('https://good.example:\u0664\u0664\u0663', 'good.example', 'wss'),
    ],
)
def test_other_origins_are_refused(origin: str, host: str, scheme: str) -> None:
    """Anything but the exact own origin is refused, with a reason about the Origin."""
    reason = error(origin, host, scheme)
    assert reason is not None
    assert reason.startswith('Origin')


@pytest.mark.parametrize(
    'hosts',
    [[], ['a.example', 'a.example'], [''], ['a, b'], ['a/b'], ['u@a'], ['a:x'], ['é']],
)
@pytest.mark.parametrize('origins', [[], ['http://a.example']])
@pytest.mark.parametrize('allowed', [(), ('*',)])
def test_malformed_host_is_refused(
    hosts: list[str], origins: list[str], allowed: tuple[str, ...]
) -> None:
    """Not exactly one good Host header is refused, whatever else is allowed."""
    reason = origin_error(origins, hosts, 'ws', allowed)
    assert reason is not None
    assert reason.startswith('Host')


def test_request_without_an_origin_passes() -> None:
    """A client that is no browser sends no Origin and may connect."""
    assert None is origin_error([], ['good.example'], 'ws', ())


@pytest.mark.parametrize('allowed', [(), ('*',), ('https://a.example',)])
def test_request_with_two_origins_is_refused(allowed: tuple[str, ...]) -> None:
    """Two Origin headers are refused even if each alone would pass."""
    origins = ['https://a.example', 'https://a.example']
    assert 'Origin header is repeated' == origin_error(
        origins, ['a.example'], 'wss', allowed
    )


@pytest.mark.parametrize(
    ('origin', 'allowed', 'passes'),
    [
        ('https://app.example', 'https://app.example', True),
        ('https://APP.example:443', 'https://app.example', True),
        ('https://app.example', 'HTTPS://APP.EXAMPLE:443', True),
        ('http://app.example', 'https://app.example', False),
        ('https://app.example:8443', 'https://app.example', False),
        ('https://app.example:8443', 'https://app.example:8443', True),
        ('https://a.app.example', 'https://app.example', False),
        ('https://a.app.example', 'https://*.app.example', True),
        ('https://b.a.app.example', 'https://*.app.example', True),
        ('https://app.example', 'https://*.app.example', False),
        ('https://evilapp.example', 'https://*.app.example', False),
        ('https://.app.example', 'https://*.app.example', False),
        ('https://a..app.example', 'https://*.app.example', False),
        ('https://a.app.example:444', 'https://*.app.example', False),
        ('http://a.app.example', 'https://*.app.example', False),
        ('https://a.app.example.evil', 'https://*.app.example', False),
        ('capacitor://localhost', 'capacitor://localhost', True),
        ('https://anything.example', '*', True),
        ('null', '*', True),
    ],
)
def test_origin_passes_only_if_it_is_listed(
    origin: str, allowed: str, passes: bool
) -> None:
    """A listed origin passes: exactly, by whole labels, or with '*' any."""
    assert passes is (error(origin, 'good.example', 'wss', (allowed,)) is None)


@pytest.mark.parametrize(
    'pattern',
    [
        '',
        'null',
        'example.com',
        'https://example.com/',
        'https://',
        'https://*',
        'https://a.*.example.com',
        'https://*example.com',
        'https://*.*.example.com',
        'https://example.com:99999',
        'https://b\u00fccher.example',
    ],
)
def test_invalid_allowed_origin_is_refused_at_start(pattern: str) -> None:
    """An entry that can never match is refused when the middleware is made."""
    with pytest.raises(OptionsError, match='is not an origin') as caught:
        OriginCheck(allowed=['https://good.example', pattern])
    assert repr(pattern) in str(caught.value)


def test_string_instead_of_a_list_of_origins_is_refused() -> None:
    """One string in place of a list is refused, not read letter by letter."""
    with pytest.raises(OptionsError, match='list of strings'):
        OriginCheck(allowed='https://good.example')


@given(NAME, st.one_of(st.none(), PORT), st.sampled_from(['http', 'https']))
def test_origin_of_a_page_passes_on_its_own_site(
    name: str, port: int | None, scheme: str
) -> None:
    """Whatever the name and port of a site, its own pages may connect."""
    authority = name if port is None else f'{name}:{port}'
    assert None is error(f'{scheme}://{authority}', authority, scheme)


@given(NAME, NAME, PORT, PORT)
def test_only_equal_origins_pass(
    name: str, other: str, port: int, other_port: int
) -> None:
    """Two origins agree only if names and ports do, however alike they look."""
    same = (name, port) == (other, other_port)
    result = error(f'http://{other}:{other_port}', f'{name}:{port}', 'ws')
    assert same is (result is None)


@given(st.text(max_size=300), st.text(max_size=300), st.sampled_from(['ws', 'wss']))
def test_reason_of_a_refused_origin_is_short_and_printable(
    origin: str, host: str, scheme: str
) -> None:
    """No input raises, and a reason is short printable ASCII: it can be logged."""
    for reason in (error(origin, 'a.example', scheme), error('null', host, scheme)):
        if reason is not None:
            assert reason.isascii()
            assert reason.isprintable()
            assert len(reason) < 2600


class Greeter:
    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        resp.text = 'hello'

    async def on_websocket(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        await ws.accept()
        await ws.send_text('hello')
        await ws.receive_text()


def app(**options: Any) -> falcon.asgi.App:
    app = falcon.asgi.App(middleware=[OriginCheck(**options)])
    app.add_route('/', Greeter())
    return app


@pytest.mark.parametrize(
    ('headers', 'options'),
    [
        ({}, {}),
        ({'Origin': 'http://falconframework.org'}, {}),
        ({'Origin': 'https://app.example'}, {'allowed': ['https://app.example']}),
    ],
)
async def test_middleware_accepts_the_own_origin(
    headers: dict[str, str], options: dict[str, Any]
) -> None:
    """A handshake of an allowed origin reaches the responder."""
    async with testing.ASGIConductor(app(**options)) as conductor:
        async with conductor.simulate_ws('/', headers=headers) as ws:
            assert 'hello' == await ws.receive_text()


async def test_middleware_refuses_other_origins() -> None:
    """A handshake of another origin ends before accept, with Falcon's 3403."""
    async with testing.ASGIConductor(app()) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected) as caught:
            async with conductor.simulate_ws(
                '/', headers={'Origin': 'https://evil.example'}
            ):
                pass
    assert 3403 == caught.value.code


async def test_refused_origin_is_logged_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line of the log has both origins and the remedy, for each refusing class."""
    channels = Channels()
    channels.add_route('rooms:{room}', None)
    with_channels = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(with_channels, '/')
    for path, refusing in (('/', app()), ('/websocket', with_channels)):
        caplog.clear()
        async with testing.ASGIConductor(refusing) as conductor:
            with pytest.raises(falcon.WebSocketDisconnected):
                async with conductor.simulate_ws(
                    path, headers={'Origin': 'http://localhost:5173'}
                ):
                    pass
        (line,) = [
            record.getMessage()
            for record in caplog.records
            if record.name == 'falcon_channels' and record.levelname == 'WARNING'
        ]
        assert f'refused a handshake at {path!r}' in line
        for words in ("'http://localhost:5173'", 'falconframework', 'allowed_origins'):
            assert words in line


async def test_middleware_ignores_http_requests() -> None:
    """An ordinary request from another origin is none of this middleware's business."""
    async with testing.ASGIConductor(app()) as conductor:
        result = await conductor.simulate_get(
            '/', headers={'Origin': 'https://evil.example'}
        )
    assert 'hello' == result.text


@pytest.mark.parametrize(
    ('headers', 'reason'),
    [
        ({'Host': 'a.example'}, None),
        ({'Host': 'a.example', 'Origin': 'http://a.example'}, None),
        ({'Host': 'a.example', 'Origin': 'https://ok.example'}, None),
        ({'Host': 'a.example', 'Origin': 'https://evil.example'}, 'Origin'),
        ({'Host': 'a.example', 'Origin': 'http://a.example, null'}, 'Origin header is'),
        ({'Host': 'a.example,b.example'}, 'Host header is repeated'),
        ({'Host': ''}, 'Host header is not a host'),
    ],
)
def test_request_of_a_wsgi_app_is_checked_like_one_of_an_asgi_app(
    headers: dict[str, str], reason: str | None
) -> None:
    """A WSGI request has the same rules; servers join repeated headers by commas."""
    environ = testing.create_environ(headers=headers)
    environ['HTTP_HOST'] = headers['Host']
    found = request_origin_error(falcon.Request(environ), ('https://ok.example',))
    assert (found or '').startswith(reason or '')
    assert (found is None) == (reason is None)


@pytest.mark.parametrize('make', [list, iter])
@pytest.mark.parametrize(
    'place',
    [
        OriginCheck,
        lambda allowed: Channels(options=NodeOptions(allowed_origins=allowed)),
        lambda allowed: setattr(App().ws_options, 'allowed_origins', allowed),
    ],
    ids=['origin check', 'channels', 'wsgi'],
)
def test_allowed_origins_that_can_be_read_only_once_are_refused(
    place: Any, make: Any
) -> None:
    """A generator would be empty after its check, and so would allow no origin."""
    allowed = make(['https://a.example'])
    if make is list:
        place(allowed)
    else:
        with pytest.raises(OptionsError, match='are a list of strings'):
            place(allowed)
