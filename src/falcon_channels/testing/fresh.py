"""Use one `Channels` object of a module in many tests.

An application usually creates its `Channels` object when a module is imported. The
object belongs to the event loop in which it started, but each test has its own loop.
`fresh_channels` gives each test channels without connections, publications or
presence::

    # conftest.py
    from app import channels as app_channels
    from falcon_channels.testing import channels_fixture

    channels = channels_fixture(app_channels)
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any

from falcon_channels.channels import Channels
from falcon_channels.checks import shown
from falcon_channels.errors import ChannelsError
from falcon_channels.errors import OptionsError


@contextlib.contextmanager
def fresh_channels(channels: Channels) -> Iterator[Channels]:
    """Give a test unused channels, and close them after the test.

    The channels start with the first call, in the event loop of the test. The routes
    and the endpoints stay. With the memory broker, each test begins with empty
    channels. Other brokers keep what they have stored.

    Args:
        channels: The channels of the application, created as `Channels()` or with the
            URL of a broker.

    Raises:
        ClosedError: The broker was given as an object. Such an object starts only once.
        ChannelsError: The test has not closed a broker that processes share, or the
            event loop of the test still runs.
    """
    check_channels(channels)
    _close(channels)
    channels.node.reopen()
    try:
        yield channels
    finally:
        _close(channels)


def channels_fixture(channels: Channels, *, autouse: bool = True) -> Any:
    """Return a pytest fixture that wraps each test in `fresh_channels`.

    Assign the fixture to a name in ``conftest.py``. A test with an argument of this
    name gets the channels.

    Args:
        channels: See `fresh_channels`.
        autouse: Whether tests without the argument use the fixture, too.

    Raises:
        ImportError: pytest is not installed.
        OptionsError: It is not a `Channels` object.
    """
    check_channels(channels)
    # NOTE: the other helpers of this package work without pytest.
    import pytest

    @pytest.fixture(autouse=autouse)
    def fixture() -> Iterator[Channels]:
        with fresh_channels(channels):
            yield channels

    return fixture


def check_channels(channels: object) -> None:
    """Refuse anything but a `Channels` object, such as a portal.

    Raises:
        OptionsError: It is something else.
    """
    if not isinstance(channels, Channels):
        raise OptionsError(
            'a test needs the Channels object of the app, not '
            f'{shown(channels)}; for a portal, write "with portal:" in a fixture'
        )


def _close(channels: Channels) -> None:
    """Close channels, in their event loop if it still exists."""
    loop = channels.loop
    broker = channels.node.broker
    if loop is None:
        return
    if not loop.is_closed():
        if loop.is_running():
            raise ChannelsError(
                'the event loop of the channels still runs: leave fresh_channels after '
                'the loop has ended, or write "async with channels:" in the test, or '
                '"with portal:" if a portal runs the channels'
            )
        loop.run_until_complete(channels.close())
    elif broker.capabilities.shared:
        raise ChannelsError(
            'a test has not closed its channels, and its event loop has ended: write '
            '"async with channels:" in the test, so that the broker is closed'
        )
    else:
        channels.node.abandon()
