"""Limits of the commands that a client sends in one frame."""

from __future__ import annotations

from typing import NamedTuple

from falcon_channels.errors import ProtocolError

#: Close code for a message that is too big (RFC 6455 section 7.4.1).
_MESSAGE_TOO_BIG = 1009


class FrameLimits(NamedTuple):
    """Limits of the commands of one frame.

    Attributes:
        max_command_bytes: Maximum size of one command, in bytes.
        max_commands: Maximum number of commands.
    """

    max_command_bytes: int
    max_commands: int

    def check(self, num_commands: int, longest_bytes: int) -> None:
        """Check the commands of a frame before they are decoded.

        Args:
            num_commands: Number of commands in the part of the frame that was read.
            longest_bytes: Size of the longest of these commands, in bytes.

        Raises:
            ProtocolError: A limit is exceeded: close with 1009.
        """
        if num_commands > self.max_commands:
            raise ProtocolError(
                f'{num_commands} commands in one frame exceed the limit of '
                f'{self.max_commands}',
                _MESSAGE_TOO_BIG,
                f'over {self.max_commands} commands',
            )
        if longest_bytes > self.max_command_bytes:
            raise ProtocolError(
                f'a command of {longest_bytes} bytes exceeds max_message_bytes of '
                f'{self.max_command_bytes}',
                _MESSAGE_TOO_BIG,
                f'over {self.max_command_bytes} bytes',
            )
