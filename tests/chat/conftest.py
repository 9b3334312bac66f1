"""Fixtures: the chat in this process, and two members."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import falcon.testing
import pytest
from support.chat import Chat
from support.chat import Person

from falcon_channels_chat.app import create_app
from falcon_channels_chat.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of the chat. A test module can override this fixture."""
    return Settings(
        database=str(tmp_path / 'chat.db'), broker='memory://', message_burst=200
    )


@pytest.fixture
async def chat(settings: Settings) -> AsyncIterator[Chat]:
    async with falcon.testing.ASGIConductor(create_app(settings)) as conductor:
        yield Chat(conductor, settings)


@pytest.fixture
async def ada(chat: Chat) -> Person:
    return await chat.person('Ada')


@pytest.fixture
async def bob(chat: Chat) -> Person:
    return await chat.person('Bob')
