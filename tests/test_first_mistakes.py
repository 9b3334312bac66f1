"""Usual mistakes of new users, and the errors that explain them."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from pathlib import Path
import subprocess
import sys
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest

from falcon_channels import ChannelNameError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import EventStreamOptions
from falcon_channels import InvalidValueError
from falcon_channels import NodeOptions
from falcon_channels import OptionsError
from falcon_channels import OriginCheck
from falcon_channels import PayloadError
from falcon_channels import PositionError
from falcon_channels import StreamWriterOptions
from falcon_channels.brokers.postgres.broker import PostgresBroker
from falcon_channels.brokers.sqlite.broker import SqliteBroker
from falcon_channels.portal import Portal
from falcon_channels.server.options import ServerOptions
from falcon_channels.testing import fresh_channels
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import RemoteKeySet
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier
from falcon_channels.websocket.middleware import warn_of_http_middleware
import falcon_channels.wsgi
from falcon_channels.wsgi.testing import simulate_ws

SECRET = 's' * 32


class Nothing:
    """A resource without responders."""


class NoParams:
    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        """Everybody may."""


class OtherParams:
    async def on_history(self, req: Any, connection: Any, name: str) -> None:
        """Everybody may."""


class AnyParams:
    async def on_subscribe(self, req: Any, subscription: Any, **params: Any) -> None:
        """Everybody may."""


async def take_room(req: Any, resp: Any, resource: Any, params: Any) -> None:
    params['number'] = params.pop('room')


class Hooked:
    @falcon.before(take_room)
    async def on_publish(self, req: Any, publication: Any, number: str) -> None:
        """Everybody may."""


def route(template: str, resource: Any = None, options: Any = None) -> None:
    Channels().add_route(template, resource, options)


KEY = TokenKey('k' * 40)

MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    'a text as the resource of a route': (
        lambda: route('rooms', 'rooms'),
        "resource is 'rooms', but must be an object",
    ),
    'a secret as the verifier': (
        lambda: TokenVerifier('k' * 40),  # type: ignore[arg-type]
        'TokenKey or a RemoteKeySet, not str',
    ),
    'secrets as the keys': (
        lambda: TokenVerifier(['k' * 40]),  # type: ignore[list-item]
        'TokenKey or a RemoteKeySet, not str',
    ),
    'no keys at all': (
        lambda: TokenVerifier(None),  # type: ignore[arg-type]
        'TokenKey or a RemoteKeySet, not NoneType',
    ),
    'a number as the issuer': (
        lambda: TokenVerifier(KEY, issuer=7),  # type: ignore[arg-type]
        'issuer is 7, but must be str or None',
    ),
    'a list as the audience': (
        lambda: TokenVerifier(KEY, audience=['chat']),  # type: ignore[arg-type]
        "audience is ['chat'], but must be str or None",
    ),
    'a variable that is not set, as the key of tokens': (
        lambda: TokenKey(None),  # type: ignore[arg-type]
        'a key is text or bytes, not NoneType',
    ),
    'a text as the size of a body': (
        lambda: Channels().add_api(
            falcon.asgi.App(),
            keys='k' * 40,
            max_body_bytes='1',  # type: ignore[arg-type]
        ),
        "max_body_bytes is '1'",
    ),
    'a number as the prefix of the API': (
        lambda: Channels().add_api(falcon.asgi.App(), keys='k' * 40, prefix=7),  # type: ignore[arg-type]
        'prefix is int(...), but must be text such as "/api"',
    ),
    'a text as the resource of the API': (
        lambda: Channels().add_api(falcon.asgi.App(), keys='k' * 40, resource='x'),
        "resource is 'x', but must be an object",
    ),
    'a number as the path of the metrics': (
        lambda: Channels().add_metrics(falcon.asgi.App(), 7),  # type: ignore[arg-type]
        'path is int(...), but must be text such as "/metrics"',
    ),
    'a number as the path of the inspector': (
        lambda: Channels().add_inspector(falcon.asgi.App(), 7, keys='k' * 40),  # type: ignore[arg-type]
        'path is int(...), but must be text such as "/_channels"',
    ),
    'a text as the listener': (
        lambda: Channels().listen('events'),  # type: ignore[arg-type]
        "listener is 'events', but must be a function",
    ),
    'a text as the provider of tracing': (
        lambda: Channels().add_tracing('otel'),
        "tracer_provider is 'otel'",
    ),
    'a text for an option that is on or off': (
        lambda: ChannelOptions(presence='no'),  # type: ignore[arg-type]
        "presence is 'no', but must be bool",
    ),
    'a text for a right that is on or off': (
        lambda: EndpointOptions(allow_anonymous='no'),  # type: ignore[arg-type]
        "allow_anonymous is 'no', but must be bool",
    ),
    'None for an option that needs a value': (
        lambda: NodeOptions(revoke_ttl_s=None),  # type: ignore[arg-type]
        'revoke_ttl_s is None, but must be float',
    ),
    'a number as the origins': (
        lambda: Channels(options=NodeOptions(allowed_origins=7)),  # type: ignore[arg-type]
        'a list of strings, not 7',
    ),
    'one origin as a text': (
        lambda: Channels(options=NodeOptions(allowed_origins='https://a.example')),  # type: ignore[arg-type]
        'a list of strings',
    ),
    'a brace is missing': (lambda: route('rooms:{room'), 'unmatched brace'),
    'a brace too many': (lambda: route('rooms:{room}}'), 'unmatched brace'),
    'an empty field': (lambda: route('rooms:{}'), 'empty braces'),
    'a class': (lambda: route('rooms:{room}', Nothing), 'instance'),
    'a dict of options': (
        lambda: route('rooms:{room}', None, {'history_size': 5}),
        'ChannelOptions(...), not dict',
    ),
    'options of all channels for a route': (
        lambda: route('rooms:{room}', None, NodeOptions()),
        'ChannelOptions(...), not NodeOptions',
    ),
    'options of a route for all channels': (
        lambda: Channels(None, ChannelOptions()),  # type: ignore[arg-type]
        'NodeOptions(...), not ChannelOptions',
    ),
    'options in place of the resource': (
        lambda: Channels().add_route('news', ChannelOptions(history_size=5)),
        'the resource is ChannelOptions(...): pass None or a resource there',
    ),
    'options in place of the connection resource': (
        lambda: Channels().add_endpoints(falcon.asgi.App(), resource=EndpointOptions()),
        'the resource is EndpointOptions(...)',
    ),
    'a secret in place of a verifier': (
        lambda: Channels().add_endpoints(falcon.asgi.App(), tokens=SECRET),  # type: ignore[arg-type]
        'tokens must be a TokenVerifier, not str',
    ),
    'a key in place of a verifier': (
        lambda: Channels().add_endpoints(
            falcon.asgi.App(),
            tokens=TokenKey(SECRET),  # type: ignore[arg-type]
        ),
        'tokens must be a TokenVerifier, not TokenKey',
    ),
    'a secret in place of a key': (
        lambda: TokenVerifier(SECRET),  # type: ignore[arg-type]
        'a TokenKey or a RemoteKeySet, not str',
    ),
    'secrets in place of keys': (
        lambda: TokenVerifier([SECRET]),  # type: ignore[list-item]
        'a TokenKey or a RemoteKeySet, not str',
    ),
    'a variable that is not set, as the secret': (
        lambda: TokenKey(None),  # type: ignore[arg-type]
        'if it comes from the environment, set its variable',
    ),
    'no list of origins': (
        lambda: Channels(None, NodeOptions(allowed_origins=None)),  # type: ignore[arg-type]
        'allowed_origins is None, but must be',
    ),
    'the name of a type': (
        lambda: ChannelOptions(data_type='Place'),
        "data_type is 'Place'",
    ),
    'a plain class as the type': (
        lambda: ChannelOptions(data_type=Nothing),
        'use a msgspec.Struct',
    ),
    'no parameters': (
        lambda: route('rooms:{room}', NoParams()),
        "NoParams.on_subscribe(req: 'Any', subscription: 'Any')",
    ),
    'other parameters': (
        lambda: route('rooms:{room:int}', OtherParams()),
        'it is called with (req, subscription, publication or connection, room)',
    ),
    'options in place of the broker': (
        lambda: Channels(NodeOptions()),  # type: ignore[arg-type]
        "a URL such as 'sqlite:///chat.db', a Broker, or None, not NodeOptions",
    ),
    'a path in place of the URL': (
        lambda: Channels(Path('chat.db')),  # type: ignore[arg-type]
        'or None, not PosixPath',
    ),
    'a URL in place of the channels': (
        lambda: Portal('sqlite:///chat.db'),  # type: ignore[arg-type]
        'a portal needs a Channels object, not str',
    ),
    'a variable that is not set, as the key': (
        lambda: Channels().add_api(falcon.asgi.App(), keys=None),  # type: ignore[arg-type]
        'a key is text, not NoneType',
    ),
    'a variable that is not set, in the keys': (
        lambda: Channels().add_api(falcon.asgi.App(), keys=['k' * 40, None]),  # type: ignore[list-item]
        'set its variable',
    ),
    'a variable that is not set, as the key of the inspector': (
        lambda: Channels().add_inspector(falcon.asgi.App(), keys=[None]),  # type: ignore[list-item]
        'a key is text, not NoneType',
    ),
    'a key of bytes': (
        lambda: Channels().add_api(falcon.asgi.App(), keys=b'k' * 40),  # type: ignore[arg-type]
        'a key is text, not bytes',
    ),
    'a variable that is not set, as the origin': (
        lambda: OriginCheck(allowed=[None]),  # type: ignore[list-item]
        'None is not an origin',
    ),
    'endpoints for a WSGI app': (
        lambda: Channels().add_endpoints(falcon.App()),  # type: ignore[arg-type]
        'add_endpoints needs a falcon.asgi.App, not App',
    ),
    'an API for a WSGI app': (
        lambda: Channels().add_api(falcon.App(), keys='k' * 40),  # type: ignore[arg-type]
        'add_api needs a falcon.asgi.App',
    ),
    'metrics for a WSGI app': (
        lambda: Channels().add_metrics(falcon.App()),  # type: ignore[arg-type]
        'add_metrics needs a falcon.asgi.App',
    ),
    'an inspector for a WSGI app': (
        lambda: Channels().add_inspector(falcon.App(), keys='k' * 40),  # type: ignore[arg-type]
        'add_inspector needs a falcon.asgi.App',
    ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake_in_a_route_is_refused_when_the_route_is_added(name: str) -> None:
    """A mistake is refused when the route is added, with the remedy."""
    mistake, words = MISTAKES[name]
    with pytest.raises(OptionsError) as caught:
        mistake()
    assert words in str(caught.value)


class Clients:
    async def on_connected(self, req: Any, connection: Any) -> None:
        """Was to be on_connect."""


ENDPOINT_MISTAKES: dict[str, tuple[Callable[[Any], object], str]] = {
    'the resource in place of the prefix': (
        lambda app: Channels().add_endpoints(app, Clients()),  # type: ignore[arg-type]
        'prefix is Clients(...), but must be text such as "/connection"',
    ),
    'a class': (
        lambda app: Channels().add_endpoints(app, resource=Clients),
        'Clients is a class',
    ),
    'a secret as the tokens': (
        lambda app: Channels().add_endpoints(app, tokens='k' * 40),  # type: ignore[arg-type]
        'tokens must be a TokenVerifier, not str',
    ),
    'a key as the tokens': (
        lambda app: Channels().add_endpoints(app, tokens=KEY),  # type: ignore[arg-type]
        'tokens must be a TokenVerifier, not TokenKey',
    ),
    'a text as the resource': (
        lambda app: Channels().add_endpoints(app, resource='x'),
        "resource is 'x', but must be an object",
    ),
    'options of another kind': (
        lambda app: Channels().add_endpoints(app, options=NodeOptions()),  # type: ignore[arg-type]
        'EndpointOptions(...), not NodeOptions',
    ),
    'two of them at one place': (
        lambda app: [Channels().add_endpoints(app) for _ in range(2)],
        'is routed already',
    ),
    'two that share the path for commands': (
        lambda app: [
            Channels().add_endpoints(app, prefix) for prefix in ('/one', '/two')
        ],
        '/emulation is routed already',
    ),
}


@pytest.mark.parametrize('name', ENDPOINT_MISTAKES)
def test_mistake_in_an_endpoint_is_refused_when_it_is_added(name: str) -> None:
    """Doors that would replace others, or never ask the application, are refused."""
    mistake, words = ENDPOINT_MISTAKES[name]
    with pytest.raises(OptionsError) as caught:
        mistake(falcon.asgi.App())
    assert words in str(caught.value)


def test_handshake_without_its_headers_gets_426() -> None:
    """A request without the headers that some proxies remove is answered with 426."""
    channels = Channels()
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app)
    for door in ('websocket', 'uni_websocket'):
        result = testing.simulate_get(app, f'/connection/{door}')
        assert (426, 'websocket') == (result.status_code, result.headers['Upgrade'])
        assert 'a proxy has removed' in result.json['description']


def test_endpoints_of_one_channels_share_the_path_for_commands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two prefixes of one object are taken; a misspelt on_connect is warned of."""
    channels, app = Channels(), falcon.asgi.App()
    app.add_route('/{anything}/{else_}', Nothing())
    channels.add_endpoints(app, '/one')
    channels.add_endpoints(app, '/two', resource=Clients())
    assert ['Clients.on_connected is never called: the responder is on_connect'] == [
        record.getMessage() for record in caplog.records
    ]


@pytest.mark.parametrize('resource', [None, Nothing(), AnyParams(), Hooked()])
def test_possibly_correct_responder_is_accepted(resource: Any) -> None:
    """Responders that take anything, and those behind hooks, are not judged."""
    route('rooms:{room}', resource)
    route('files/{name:path}', None)


class Misspelt:
    async def on_get(self, req: Any, resp: Any) -> None:
        """No business of ours."""

    async def on_subscribed(self, req: Any, subscription: Any) -> None:
        """Was to be on_subscribe."""

    async def on_publish_rooms(self, req: Any, publication: Any) -> None:
        """For another route, with a suffix."""


def test_misspelt_responder_logs_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A misspelt on_subscribe does not silently open a channel to everybody."""
    route('rooms', Misspelt())
    assert [
        'Misspelt.on_subscribed is never called: the responder is on_subscribe'
    ] == [record.getMessage() for record in caplog.records]


async def test_wrong_argument_is_refused_by_the_called_method() -> None:
    """The caller gets an error, and subscribers do not notice the call."""
    channels = Channels()
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=5))
    calls: list[tuple[Any, type[Exception], str]] = [
        (channels.publish('rooms:a', 1, tags={'n': 1}), PayloadError, 'tags'),  # type: ignore[dict-item]
        (
            channels.publish('rooms:a', 1, idempotency_key=7),  # type: ignore[arg-type]
            PayloadError,
            'idempotency key',
        ),
        (channels.broadcast('rooms:a', 1), ChannelNameError, "['rooms:a']"),
        (channels.history('rooms:a', since='1:x'), PositionError, 'Position('),  # type: ignore[arg-type]
        (
            channels.subscribe_user('ann', 'rooms:a', since=(0, '')),  # type: ignore[arg-type]
            PositionError,
            'Position(',
        ),
        (channels.disconnect_user('ann', code=1), InvalidValueError, '3000 to 4999'),
        (channels.disconnect_user('ann', reason='x' * 124), InvalidValueError, '123'),
        (
            channels.unsubscribe_user('ann', 'rooms:a', code=1),
            InvalidValueError,
            '2000 to 2999',
        ),
    ]
    with pytest.raises(PositionError, match='Position'):
        channels.subscribe('rooms:a', (0, ''))  # type: ignore[arg-type]
    async with channels.subscribe('rooms:a') as subscription:
        for call, kind, words in calls:
            with pytest.raises(kind) as caught:
                await call
            assert words in str(caught.value)
        await channels.publish('rooms:a', 'all is well', tags={'n': '1'})
        assert 'all is well' == (await anext(subscription)).value()
    await channels.close()


async def test_clients_cannot_fill_the_log_with_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All requests for Protobuf, if it is not installed, cause one line in the log."""
    monkeypatch.setitem(sys.modules, 'falcon_channels.protocol.protobuf_codec', None)
    monkeypatch.delattr('falcon_channels.protocol.protobuf_codec', raising=False)
    monkeypatch.setattr('falcon_channels.transports.client_codecs._protobuf', {})
    channels = Channels()
    app = falcon.asgi.App(middleware=[channels])
    channels.add_endpoints(app)
    async with testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected) as caught:
            async with conductor.simulate_ws(
                '/connection/websocket', query_string='format=protobuf'
            ):
                pass
    assert 3415 == caught.value.code
    lines = [record for record in caplog.records if record.name == 'falcon_channels']
    assert "pip install 'falcon-channels[protobuf]'" in lines[0].getMessage()
    assert [] == [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ('library', 'statement', 'extra'),
    [
        ('uvicorn', "sys.exit(main(['serve', 'app:app']))", 'server'),
        ('psycopg', "sys.exit(main(['migrate', 'postgresql://h']))", 'postgres'),
        ('jwt', "sys.exit(main(['chat']))", 'chat'),
        ('prometheus_client', 'Channels().add_metrics(falcon.asgi.App())', 'metrics'),
        ('opentelemetry', 'Channels().add_tracing()', 'otel'),
        ('redis', "Channels('redis://localhost')", 'redis'),
    ],
)
def test_missing_extra_is_named_in_the_error(
    library: str, statement: str, extra: str
) -> None:
    """Without a library the error is the command that installs it."""
    code = (
        'import sys\n'
        f'sys.modules[{library!r}] = None\n'
        'import falcon.asgi\n'
        'from falcon_channels import Channels\n'
        'from falcon_channels.cli import main\n'
        f'{statement}\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert 1 == result.returncode
    assert f"pip install 'falcon-channels[{extra}]'" in result.stderr.splitlines()[-1]


def make_middleware(*names: str) -> Any:
    """Return a component of a new class, which has methods of these names."""

    async def method(self: Any, *args: Any) -> None:
        """Do nothing."""

    return type('Login', (), dict.fromkeys(names, method))()


class Sockets:
    async def on_get(self, req: Any, resp: Any) -> None:
        """Answer with nothing."""

    async def on_websocket_room(self, req: Any, ws: Any) -> None:
        """Serve nothing."""


@pytest.mark.parametrize(
    ('names', 'twin'),
    [
        (['process_request'], 'Add process_request_ws(self, req, ws) to'),
        (['process_request_async'], 'Add process_request_ws(self, req, ws) to'),
        (
            ['process_resource', 'process_response'],
            'Add process_resource_ws(self, req, ws, resource, params) to',
        ),
        (['process_request', 'process_request_ws'], ''),
        (['process_request', 'process_resource_ws'], ''),
        (['process_response'], ''),
        (['process_startup', 'process_shutdown'], ''),
    ],
)
def test_middleware_for_http_only_is_reported_beside_websockets(
    names: list[str], twin: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Middleware that WebSockets bypass causes one warning, with the remedy."""
    app = falcon.asgi.App(middleware=[make_middleware(*names)], cors_enable=True)
    app.add_route('/http', Sockets())
    warn_of_http_middleware(app)
    assert [] == caplog.records
    app.add_route('/rooms', Sockets(), suffix='room')
    for _ in range(2):
        warn_of_http_middleware(app)
    messages = [record.getMessage() for record in caplog.records]
    assert bool(twin) is bool(messages)
    for message in messages:
        assert message.startswith(f'Login.{names[0]} is called for HTTP requests only')
        assert 'WebSockets at /rooms pass without it' in message
        assert twin in message
    assert len(messages) < 2


def test_middleware_for_http_only_is_reported_beside_endpoints(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`add_endpoints` warns about middleware that its WebSockets bypass."""
    channels = Channels()
    login = make_middleware('process_request')
    app = falcon.asgi.App(middleware=[channels, login, OriginCheck()])
    channels.add_endpoints(app)
    [record] = caplog.records
    assert 'WebSockets at /connection/websocket' in record.getMessage()


def test_middleware_for_http_only_is_reported_by_wsgi_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A WSGI app, which is not told when it starts, warns with its first WebSocket."""

    class Login:
        def process_request(self, req: Any, resp: Any) -> None:
            """Do nothing."""

    class Echo:
        def on_websocket(self, req: Any, ws: Any) -> None:
            ws.accept()

    app = falcon_channels.wsgi.App(middleware=[Login()])
    app.add_route('/echo', Echo())
    for _ in range(2):
        with simulate_ws(app, '/echo'):
            pass
    messages = [record.getMessage() for record in caplog.records]
    assert 1 == sum('for HTTP requests only' in message for message in messages)


class Listeners:
    """Serves plain WebSockets and event streams of a channel."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await self.channels.serve(req, ws, 'news')

    async def on_get(self, req: Any, resp: Any) -> None:
        await self.channels.serve_events(req, resp, 'news')


@pytest.mark.parametrize('starts', ['with a middleware', 'in code', 'not'])
@pytest.mark.parametrize('path', ['/news', '/connection/websocket'])
async def test_channels_that_the_app_does_not_start_are_reported_once(
    path: str, starts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first client causes a warning if the channels are not a middleware.

    Nothing showed this mistake: everything works until the process stops.
    """
    channels = Channels()
    channels.add_route('news', None)
    app = falcon.asgi.App(middleware=[channels] if 'middleware' in starts else [])
    app.add_route('/news', Listeners(channels))
    channels.add_endpoints(app)
    async with testing.ASGIConductor(app) as conductor:
        if starts == 'in code':
            await channels.start()
        for _ in range(2):
            async with conductor.simulate_ws(path) as ws:
                await ws.wait_ready()
        await channels.close()
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == 'WARNING' and 'did not start' in record.getMessage()
    ]
    assert (1 if starts == 'not' else 0) == len(warnings)
    assert all('falcon.asgi.App(middleware=[channels])' in text for text in warnings)


WRONG_SECONDS = [-1, -0.5, float('nan'), float('inf'), '3', True, 10**400]
#: Python cannot write this number as text.
LONG_NUMBER = pytest.param(10**5000, id='10**5000')


@pytest.mark.parametrize('value', [*WRONG_SECONDS, LONG_NUMBER])
def test_timeout_that_is_not_a_number_of_seconds_is_refused_where_it_is_set(
    value: Any,
) -> None:
    """A call that waits with it could wait without limit, or fail much later."""
    places: dict[str, Callable[[], object]] = {
        'timeout_s': lambda: Portal(Channels(), timeout_s=value),
        'first_message_timeout_s': lambda: ServerOptions(first_message_timeout_s=value),
        'close_timeout_s': lambda: ServerOptions(close_timeout_s=value),
        'write_timeout_s': lambda: ServerOptions(write_timeout_s=value),
        'poll_s': lambda: SqliteBroker('chat.db', poll_s=value),
        'leeway_s': lambda: TokenVerifier(TokenKey('k' * 40), leeway_s=value),
        'refresh_s': lambda: RemoteKeySet('https://a/', issuer='a', refresh_s=value),
        'drain_timeout_s': lambda: NodeOptions(drain_timeout_s=value),
        'pong_timeout_s': lambda: EndpointOptions(pong_timeout_s=value),
        'retry_timeout_s': lambda: StreamWriterOptions(retry_timeout_s=value),
        'history_ttl_s': lambda: ChannelOptions(history_ttl_s=value),
        'keepalive_s': lambda: EventStreamOptions(keepalive_s=value),
    }
    for name, place in places.items():
        with pytest.raises(OptionsError, match=f'^{name} is '):
            place()


@pytest.mark.parametrize(
    ('name', 'values'),
    [
        ('close_timeout_s', WRONG_SECONDS),
        ('ping_interval_s', [0, *WRONG_SECONDS]),
        ('ping_timeout_s', [0, None, *WRONG_SECONDS]),
        ('send_timeout_s', [0, None, *WRONG_SECONDS]),
        ('max_fragments', [0, -1, 1.5, '3', None, True]),
        ('max_message_bytes', [0, -1, 1.5, '3', None, True]),
        ('compression', ['no', None, 1]),
        ('default_close_reasons', [None, 'x', 7]),
        ('media_handlers', [None, 'x', 7]),
    ],
)
def test_wrong_websocket_option_of_a_wsgi_app_is_refused_where_it_is_set(
    name: str, values: list[Any]
) -> None:
    """The option keeps its value, so that no WebSocket of the app fails later."""
    options = falcon_channels.wsgi.App().ws_options
    before = getattr(options, name)
    for value in values:
        with pytest.raises(OptionsError, match=f'^{name} is '):
            setattr(options, name, value)
    assert before == getattr(options, name)
    setattr(options, name, before)


def test_receive_of_a_wsgi_websocket_refuses_a_wrong_timeout() -> None:
    """A negative timeout waited without limit if another thread received already."""
    told: list[str] = []

    class Receiver:
        def on_websocket(self, req: Any, ws: Any) -> None:
            ws.accept()
            for receive in (ws.receive, ws.receive_text, ws.receive_media):
                for value in WRONG_SECONDS:
                    try:
                        receive(timeout_s=value)
                    except InvalidValueError as ex:
                        told.append(str(ex))
            with contextlib.suppress(TimeoutError):
                ws.receive(timeout_s=0)
            ws.send('done')

    app = falcon_channels.wsgi.App()
    app.add_route('/', Receiver())
    with simulate_ws(app) as client:
        assert 'done' == client.recv(timeout=20)
    assert 3 * len(WRONG_SECONDS) == len(told)
    assert all(text.startswith('timeout_s is ') for text in told)


@pytest.mark.parametrize('value', [-1, 1.5, '3', True, None, 2**64, LONG_NUMBER])
def test_option_that_is_not_a_whole_number_is_refused_where_it_is_set(
    value: Any,
) -> None:
    """A database cannot store larger numbers. Before, the first publish failed."""
    places: dict[str, Callable[[], object]] = {
        'history_size': lambda: ChannelOptions(history_size=value),
        'max_backlog_bytes': lambda: NodeOptions(max_backlog_bytes=value),
        'commands_burst': lambda: EndpointOptions(commands_burst=value),
        'retry_ms': lambda: EventStreamOptions(retry_ms=value),
        'max_batch_bytes': lambda: StreamWriterOptions(max_batch_bytes=value),
        'max_fragments': lambda: ServerOptions(max_fragments=value),
        'pool_size': lambda: PostgresBroker('postgresql://', pool_size=value),
    }
    for name, place in places.items():
        with pytest.raises(OptionsError, match=f'^{name} is '):
            place()


@pytest.mark.parametrize('value', ['no', 'false', 0, 1, None])
def test_flag_that_is_not_true_or_false_is_refused_where_it_is_set(value: Any) -> None:
    """The text ``false`` of a variable in the environment would mean ``True``."""
    places: dict[str, Callable[[], object]] = {
        'allow_http': lambda: RemoteKeySet('https://a/', issuer='a', allow_http=value),
        'allow_short': lambda: TokenKey('k' * 40, allow_short=value),
        'trusted': lambda: PostgresBroker('postgresql://', trusted=value),
        'migrate': lambda: PostgresBroker('postgresql://', migrate=value),
        'presence': lambda: ChannelOptions(presence=value),
    }
    for name, place in places.items():
        with pytest.raises(OptionsError, match=f'^{name} is '):
            place()


@pytest.mark.parametrize('value', [None, 7, b'x', ['x']])
def test_argument_that_is_not_text_is_refused_where_it_is_set(value: Any) -> None:
    """A variable that is not set is ``None``, and the error names the argument."""
    places: dict[str, Callable[[], object]] = {
        'url': lambda: RemoteKeySet(value, issuer='a'),
        'issuer': lambda: RemoteKeySet('https://a/', issuer=value),
        'algorithm': lambda: TokenKey('k' * 40, value),
        'kid': lambda: TokenKey('k' * 40, kid=value),
        'schema': lambda: PostgresBroker('postgresql://', schema=value),
        'path': lambda: SqliteBroker(value),
        'end_event': lambda: EventStreamOptions(end_event=value),
    }
    for name, place in places.items():
        with pytest.raises(OptionsError, match=f'^{name} is '):
            place()


@pytest.mark.parametrize('value', [None, *WRONG_SECONDS, LONG_NUMBER])
async def test_timeout_of_a_test_helper_is_checked(value: Any) -> None:
    """With NaN, a test would wait for a time that nobody can predict."""
    channels = Channels()
    channels.add_route('room', None, ChannelOptions(subscribers='anybody'))
    async with SimulatedClient(channels) as client, SimulatedSdk(channels) as sdk:
        for receive in (client.receive, client.receive_signal, sdk.receive):
            with pytest.raises(InvalidValueError, match=r'^timeout_s is '):
                await receive(timeout_s=value)
        await client.subscribe('room')
        await channels.publish('room', 1)
        await client.receive()
        for helper in (client.receive, client.receive_signal, sdk.receive):
            with pytest.raises(TimeoutError):
                await helper(timeout_s=0)
    await channels.close()
    with pytest.raises(InvalidValueError, match=r'^end_timeout_s is '):
        with simulate_ws(falcon_channels.wsgi.App(), end_timeout_s=value):
            pass


@pytest.mark.parametrize('path', ['', 'rooms', None, 7])
def test_path_of_a_simulated_websocket_begins_with_a_slash(path: Any) -> None:
    """The path ``rooms`` became the name of another host."""
    with pytest.raises(InvalidValueError, match=r'^path is .* begin with a slash'):
        with simulate_ws(falcon_channels.wsgi.App(), path):
            pass


@pytest.mark.parametrize('helper', [SimulatedClient, SimulatedSdk, fresh_channels])
def test_helper_of_a_test_needs_the_channels(helper: Any) -> None:
    """A portal is a usual mistake: it has the channels of a synchronous app."""
    for wrong in (Portal(Channels()), None, 'memory://'):
        with pytest.raises(OptionsError, match='needs the Channels object of the app'):
            with contextlib.ExitStack() as stack:
                stack.enter_context(helper(wrong))


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (
            lambda: make_connection_token(TokenKey(SECRET), 'ann', ttl_s=10**400),
            'but must be a number of seconds up to 9007199254740992',
        ),
        (
            lambda: make_connection_token(TokenKey(SECRET), 'ann', channels='room'),
            "channels is 'room', but must be a list of names",
        ),
        (
            lambda: make_connection_token(TokenKey(SECRET), 'ann', channels=[7]),  # type: ignore[list-item]
            'the channel of a token is 7, but must be the name of a channel',
        ),
        (
            lambda: make_subscription_token(
                TokenKey(SECRET),
                'ann',
                'room',
                filter={'key': 'a'},  # type: ignore[arg-type]
            ),
            'filter must be a filter of falcon_channels.filters or None',
        ),
        (lambda: make_connection_token(SECRET, 'ann'), 'TokenKey(secret), not str'),  # type: ignore[arg-type]
        (
            lambda: make_connection_token(TokenKey(SECRET), 'ann', ttl_s='60'),  # type: ignore[arg-type]
            "ttl_s is '60', but must be a number of seconds",
        ),
        (
            lambda: make_subscription_token(TokenKey(SECRET), 'ann', ''),
            "the channel of a token is '', but must be the name of a channel",
        ),
    ],
)
def test_argument_of_another_type_is_refused_at_the_call(
    make: Callable[[], object], words: str
) -> None:
    """The error is raised where the mistake is, and not where the value is used."""
    with pytest.raises(InvalidValueError) as caught:
        make()
    assert words in str(caught.value)
