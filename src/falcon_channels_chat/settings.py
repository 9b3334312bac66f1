"""Settings of the chat, from environment variables or from Python code."""

from __future__ import annotations

from collections.abc import Mapping
import math

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one chat. The variable ``CHAT_DATABASE`` sets `database`, and so on.

    Attributes:
        database: SQLite file of the rooms, messages and images.
        broker: URL of the broker: ``sqlite:///FILE``, ``redis://...``,
            ``postgresql://...``, or ``memory://`` for a single process.
        secret: Secret that signs session cookies and keys of bots, at least 32
            characters. If empty, a secret is created and stored in the database.
        api_key: Key of the server API, which ``falcon-channels tail`` uses. If empty,
            there is no server API. Also read from ``FALCON_CHANNELS_API_KEY``.
        allowed_origins: Other sites whose pages may use this chat, separated by spaces.
        messages_per_s: Average number of messages that a person may send per second.
        message_burst: Number of messages that a person may send at once.
        people_per_address: Factor for the limits of one client address: all its
            sessions together may send this many times as much as one person.
        max_rooms: Maximum number of rooms.
        max_image_bytes: Maximum size of one image in bytes.
        max_images_bytes: Maximum size of all images together in bytes.
        leave_grace_s: Seconds for which a member stays in the member list after the
            connection was lost.
    """

    database: str = 'chat.db'
    broker: str = 'sqlite:///chat-channels.db'
    secret: str = ''
    api_key: str = ''
    allowed_origins: str = ''
    messages_per_s: float = 2.0
    message_burst: int = 20
    people_per_address: int = 4
    max_rooms: int = 200
    max_image_bytes: int = 4 * 1024 * 1024
    max_images_bytes: int = 1024 * 1024 * 1024
    leave_grace_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ('people_per_address', 'message_burst'):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f'{name} of {value} must be at least 1')
        # NOTE: comparisons with NaN are false.
        if not 0 < self.messages_per_s < math.inf:
            raise ValueError(
                f'messages_per_s of {self.messages_per_s} must be a number above 0'
            )
        if self.secret and len(self.secret) < 32:
            raise ValueError(
                f'CHAT_SECRET has {len(self.secret)} characters, '
                'but it needs at least 32 characters'
            )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Return settings from ``CHAT_...`` variables.

        Raises:
            ValueError: A value has the wrong type; the message names the setting.
        """
        values = {'api_key': environ.get('FALCON_CHANNELS_API_KEY', '')}
        values |= {
            field: environ[f'CHAT_{field.upper()}']
            for field in cls.__struct_fields__
            if f'CHAT_{field.upper()}' in environ
        }
        return msgspec.convert(values, cls, strict=False)
