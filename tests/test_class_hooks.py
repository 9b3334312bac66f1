"""Hooks of a class guard the responders of channels, or the class is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon
from falcon import before as falcon_before
import falcon.asgi
import pytest

from falcon_channels import Channels
from falcon_channels import OptionsError


async def guard(req: Any, resp: Any, resource: Any, params: Any) -> None:
    """Refuse everybody."""
    raise falcon.HTTPForbidden


async def note(req: Any, resp: Any, resource: Any) -> None:
    """Do nothing after a responder."""


guarded = falcon.before(guard)


def with_role(role: str) -> Callable[[Any], Any]:
    """Return a decorator of the application that uses a hook."""
    return falcon.before(guard)


class Responders:
    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        """Everybody may."""

    async def on_publish(self, req: Any, publication: Any) -> None:
        """Everybody may."""

    async def on_unsubscribe(self, req: Any, subscription: Any) -> None:
        """Nothing to decide."""


@falcon.before(guard)
class OnlyChannel:
    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        """Everybody may."""


@falcon.before(guard)
class AlsoHttp(Responders):
    async def on_get(self, req: Any, resp: Any) -> None:
        """Guarded by Falcon."""


@falcon_before(guard)
class OtherName(Responders):
    """A class with the hook under another name."""


@guarded
class StoredHook(Responders):
    """A class with a hook that has a name."""


@falcon.after(note)
class After(Responders):
    """A class with a hook that runs after responders."""


class Inherits(OnlyChannel):
    """A class whose base class has the hook."""


@guarded
class Half:
    @guarded
    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        """Guarded."""

    async def on_publish(self, req: Any, publication: Any) -> None:
        """Not guarded."""


@falcon.before(guard)
class Suffixed:
    async def on_subscribe_news(self, req: Any, subscription: Any) -> None:
        """Everybody may."""


@falcon.before(guard)
class Decorated:
    @falcon.before(guard)
    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        """Guarded."""

    async def on_unsubscribe(self, req: Any, subscription: Any) -> None:
        """Nothing to decide."""

    async def on_get(self, req: Any, resp: Any) -> None:
        """Guarded by Falcon."""


class SingleHttp(Responders):
    @falcon.before(guard)
    async def on_get(self, req: Any, resp: Any) -> None:
        """The hook is meant for this responder only."""


class Overrides(OnlyChannel):
    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        """As in Falcon, a hook of the base class does not apply here."""


@with_role('admin')
class OwnDecorator(Responders):
    async def on_get(self, req: Any, resp: Any) -> None:
        """Guarded by Falcon."""


class NoSource(Responders):
    """A class whose source cannot be read."""

    __module__ = 'nowhere'

    @guarded
    async def on_get(self, req: Any, resp: Any) -> None:
        """Guarded by Falcon."""


@pytest.mark.parametrize(
    ('cls', 'responders'),
    [
        (OnlyChannel, 'on_subscribe'),
        (AlsoHttp, 'on_subscribe, on_publish'),
        (OtherName, 'on_subscribe, on_publish'),
        (StoredHook, 'on_subscribe, on_publish'),
        (After, 'on_subscribe, on_publish'),
        (Inherits, 'on_subscribe'),
        (Half, 'on_publish'),
    ],
)
def test_class_hook_that_skips_a_channel_responder_is_refused(
    cls: type, responders: str
) -> None:
    """A class with a hook is refused, and the error names the unguarded responders."""
    with pytest.raises(OptionsError) as refused:
        Channels().add_route('news', cls())
    assert f'not before {responders}: decorate these' in str(refused.value)


def test_class_hook_that_skips_a_responder_with_a_suffix_is_refused() -> None:
    """The rule holds for the responders of a suffix, and for those only."""
    with pytest.raises(OptionsError, match='not before on_subscribe_news: decorate'):
        Channels().add_route('news', Suffixed(), suffix='news')


@pytest.mark.parametrize('cls', [Responders, Decorated, SingleHttp, Overrides])
def test_class_whose_hooks_run_as_written_is_accepted(
    cls: type, caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks of single responders are accepted."""
    Channels().add_route('news', cls())
    assert [] == caplog.messages


@pytest.mark.parametrize('cls', [OwnDecorator, NoSource])
def test_class_that_possibly_has_a_hook_logs_a_warning(
    cls: type, caplog: pytest.LogCaptureFixture
) -> None:
    """If all HTTP responders have a hook, a warning says so: the class may have one."""
    Channels().add_route('news', cls())
    warning = (
        f'possibly, the hook of the class {cls.__name__} runs before HTTP responders '
        'and on_websocket only, not before on_subscribe, on_publish: decorate these '
        'responders with the hook, or decorate single responders and not the class'
    )
    assert [warning] == caplog.messages


@falcon.before(guard)
class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        """Guarded by Falcon, because CONNECT is a method of HTTP."""

    async def on_message(self, req: Any, message: Any) -> None:
        """Everybody may."""

    async def on_rpc_time(self, req: Any, call: Any) -> None:
        """Everybody may."""

    async def on_disconnect(self, req: Any, connection: Any) -> None:
        """Nothing to decide."""


def test_class_hook_of_a_connection_resource_is_refused() -> None:
    """The rule also holds for the responders of connections."""
    with pytest.raises(OptionsError, match='not before on_message, on_rpc_time: d'):
        Channels().add_endpoints(falcon.asgi.App(), resource=Clients())
