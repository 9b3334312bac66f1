"""`Channels`: arguments that every method refuses."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelNameError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import OptionsError


@pytest.mark.parametrize('name', ['', 'a\nb', 'x' * 300, 7, None, ' rooms:a'])
def test_every_method_with_an_invalid_channel_name_raises(name: Any) -> None:
    """Each method refuses a value that is not a channel name."""

    @on_fake_clock
    async def scenario() -> None:
        channels = Channels()
        channels.add_route(
            'rooms:{room}', None, ChannelOptions(history_size=100, presence=True)
        )
        for call in (
            channels.publish(name, 1),
            channels.history(name),
            channels.presence(name),
            channels.remove_history(name),
            channels.revoke_user('ann', name),
            channels.subscribe(name).__aenter__(),
        ):
            with pytest.raises(ChannelNameError):
                await call
        await channels.close()

    scenario()


def test_channels_with_a_url_of_an_unknown_broker_are_refused() -> None:
    """A URL whose scheme has no broker is refused, and the message has the scheme."""
    with pytest.raises(OptionsError, match='no broker for a URL with scheme'):
        Channels('carrier-pigeon://user:secret@host')
