"""Routes that the library adds to an app: no path is wrong, and none is replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest

from falcon_channels import Channels
from falcon_channels import OptionsError

App = falcon.asgi.App[Any, Any]

KEY = 'k' * 40


def add_endpoints(channels: Channels, app: App, path: Any) -> None:
    channels.add_endpoints(app, path)


def add_commands(channels: Channels, app: App, path: Any) -> None:
    channels.add_endpoints(app, emulation_path=path)


def add_api(channels: Channels, app: App, path: Any) -> None:
    channels.add_api(app, keys=KEY, prefix=path)


def add_metrics(channels: Channels, app: App, path: Any) -> None:
    channels.add_metrics(app, path)


def add_inspector(channels: Channels, app: App, path: Any) -> None:
    channels.add_inspector(app, path, keys=KEY)


Add = Callable[[Channels, App, Any], None]

#: Each way to add routes, and the route that it adds below ``/here``.
WAYS: dict[Add, str] = {
    add_endpoints: '/here/sse',
    add_commands: '/here',
    add_api: '/here/{method}',
    add_metrics: '/here',
    add_inspector: '/here/api/{method}',
}

each_way = pytest.mark.parametrize('add', WAYS, ids=lambda add: add.__name__)


class Home:
    """A resource of the application."""

    async def on_get(self, req: Any, resp: Any, **params: Any) -> None:
        resp.text = 'home'

    async def on_post(self, req: Any, resp: Any, **params: Any) -> None:
        resp.text = 'home'


@each_way
def test_path_with_a_route_of_the_application_is_refused(add: Add) -> None:
    """Falcon replaces a route silently. The page of the application would be gone."""
    app = falcon.asgi.App()
    app.add_route(WAYS[add], Home())
    with pytest.raises(OptionsError, match='is routed already: give add_'):
        add(Channels(), app, '/here')
    path = WAYS[add].format(method='publish')
    assert 'home' == testing.simulate_post(app, path).text


@pytest.mark.parametrize('add', [add_api, add_metrics, add_inspector])
def test_second_call_with_the_same_path_is_refused(add: Add) -> None:
    """The second server API replaced the first: its keys were no longer valid."""
    app = falcon.asgi.App()
    add(Channels(), app, '/here')
    for channels in (Channels(), Channels()):
        with pytest.raises(OptionsError, match='is routed already: give add_'):
            add(channels, app, '/here')
        add(channels, falcon.asgi.App(), '/here')


def test_first_endpoint_that_was_refused_does_not_share_the_path_for_commands() -> None:
    """A call that fails adds nothing, so the next one must not replace routes."""
    channels, app = Channels(), falcon.asgi.App()
    app.add_route('/emulation', Home())
    for prefix in ('/one', '/two'):
        with pytest.raises(OptionsError, match='/emulation is routed already'):
            channels.add_endpoints(app, prefix)
    assert 'home' == testing.simulate_post(app, '/emulation').text


def test_path_for_commands_is_shared_on_each_app_only() -> None:
    """Another app, and another path, have no route for commands yet."""
    channels = Channels()
    apps = [falcon.asgi.App(), falcon.asgi.App()]
    for app in apps:
        channels.add_endpoints(app, '/one')
        channels.add_endpoints(app, '/two')
        assert 400 == testing.simulate_post(app, '/emulation').status_code
    apps[0].add_route('/other', Home())
    with pytest.raises(OptionsError, match='/other is routed already'):
        channels.add_endpoints(apps[0], '/three', emulation_path='/other')


@each_way
@pytest.mark.parametrize(
    'path',
    [
        *(7, None, True, b'/a', ['/a'], 'a', 'a/', ' /a', '/a b', '/a\n', '//'),
        *(
            '/a//b',
            '/a//',
            '/{a}',
            '/a}',
            '/a?b=1',
            '/a#b',
            '/a\\b',
            'http://example.com/a',
        ),
    ],
    ids=repr,
)
def test_wrong_path_is_refused(add: Add, path: Any) -> None:
    """All methods give the same error, and none leaves it to Falcon."""
    with pytest.raises(OptionsError, match=r'must be (like|text such as) "/') as raised:
        add(Channels(), falcon.asgi.App(), path)
    assert len(str(raised.value)) < 300


@each_way
def test_slash_at_the_end_of_a_path_is_ignored(add: Add) -> None:
    """``/here/`` means the same as ``/here``, for all methods."""
    app = falcon.asgi.App()
    add(Channels(), app, '/here/')
    with pytest.raises(OptionsError, match='is routed already'):
        add(Channels(), app, '/here')


@pytest.mark.parametrize('root', ['', '/'])
def test_routes_may_be_at_the_root(root: str) -> None:
    """An app may serve nothing else. The inspector needs a name for its cookies."""
    for add, path in (
        (add_endpoints, '/sse'),
        (add_api, '/publish'),
        (add_metrics, '/'),
    ):
        app = falcon.asgi.App()
        add(Channels(), app, root)
        assert 404 != testing.simulate_get(app, path).status_code
    for add in (add_inspector, add_commands):
        with pytest.raises(OptionsError, match='must be like'):
            add(Channels(), falcon.asgi.App(), root)
