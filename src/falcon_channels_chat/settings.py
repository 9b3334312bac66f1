"""What can be set from outside, as environment variables or by `create_app`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one chat; ``CHAT_DATABASE`` sets `database`, and so on.

    Attributes:
        database: File of rooms, messages and images.
        broker: Where the channels live: ``sqlite:///FILE``, ``redis://...``,
            ``postgresql://...``, or ``memory://`` for this one process.
        secret: Signs session cookies and keys of bots, at least 32 characters; ``''``
            makes one and keeps it in the database.
        api_key: Opens the server API, as ``falcon-channels tail`` does; ``''``: nobody
            can. Also read from ``FALCON_CHANNELS_API_KEY``.
        allowed_origins: Other sites whose pages may use this chat, separated by spaces.
        messages_per_s: How many messages one person may send in the long run.
        message_burst: How many at once.
        max_rooms: How many rooms there can be.
        max_image_bytes: The largest image.
        max_images_bytes: All images together.
        leave_grace_s: For how many seconds somebody who lost the connection still
            counts as here.
    """

    database: str = 'chat.db'
    broker: str = 'sqlite:///chat-channels.db'
    secret: str = ''
    api_key: str = ''
    allowed_origins: str = ''
    messages_per_s: float = 2.0
    message_burst: int = 20
    max_rooms: int = 200
    max_image_bytes: int = 4 * 1024 * 1024
    max_images_bytes: int = 1024 * 1024 * 1024
    leave_grace_s: float = 10.0

    def __post_init__(self) -> None:
        if self.secret and len(self.secret) < 32:
            raise ValueError('CHAT_SECRET needs at least 32 characters')

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``CHAT_...`` variables.

        Raises:
            ValueError: A value is not of its type; the message names the setting.
        """
        given = {'api_key': environ.get('FALCON_CHANNELS_API_KEY', '')}
        given |= {
            field: environ[f'CHAT_{field.upper()}']
            for field in cls.__struct_fields__
            if f'CHAT_{field.upper()}' in environ
        }
        return msgspec.convert(given, cls, strict=False)
