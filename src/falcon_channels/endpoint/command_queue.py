"""The queue of commands of one connection, and the frames that are not decoded yet.

A frame of 64 KiB can hold thousands of commands. It is therefore decoded in parts, so
that it does not block the event loop. The rules:

1. A command waits behind the commands that have arrived before it, and a frame behind
   the frame before it.
2. Reading is paused while `MAX_COMMANDS` commands wait, or a frame is not decoded
   completely. The queue is therefore bounded: a transport that is paused delivers only
   what it has already read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from falcon_channels.protocol.messages import Command
from falcon_channels.transports.base import Transport

#: Reading pauses while this many commands wait.
MAX_COMMANDS = 32
#: Maximum number of commands that are decoded, or executed, in one event-loop iteration
#: (benchmarks/blocking.py).
BATCH = 32


class CommandQueue:
    """Commands that wait, and frames that are not decoded completely.

    Args:
        transport: Transport of the connection, which the queue pauses.
    """

    __slots__ = ('_commands', '_frames', '_transport')

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        # PERF: usually one command waits, and a list is made faster than a deque.
        self._commands: list[Command] = []
        self._frames: deque[Iterator[Command]] | None = None

    def __len__(self) -> int:
        """Return the number of commands; a frame counts as `BATCH` of them."""
        return len(self._commands) + len(self._frames or ()) * BATCH

    @property
    def first_frame(self) -> Iterator[Command] | None:
        """The first frame that is not decoded completely, or ``None``."""
        return self._frames[0] if self._frames else None

    def add(self, command: Command) -> None:
        """Add a decoded command."""
        commands = self._commands
        commands.append(command)
        if len(commands) == MAX_COMMANDS:
            self._transport.pause_reading()

    def add_frame(self, commands: Iterator[Command]) -> None:
        """Add a frame that is not decoded completely.

        Args:
            commands: The iterator that decodes the rest of its commands.
        """
        if self._frames is None:
            self._frames = deque()
        self._frames.append(commands)
        self._transport.pause_reading()

    def take(self) -> Command | None:
        """Remove and return the first command; ``None`` if a frame must be decoded."""
        commands = self._commands
        if not commands:
            return None
        command = commands.pop(0)
        if len(commands) == MAX_COMMANDS - 1 and not self._frames:
            self._transport.resume_reading()
        return command

    def remove_frame(self) -> None:
        """Remove the first frame, of which all commands are decoded."""
        assert self._frames
        self._frames.popleft()
        if not self._frames and len(self._commands) < MAX_COMMANDS:
            self._transport.resume_reading()

    def clear(self) -> None:
        """Forget all commands and frames, because the connection has ended."""
        self._commands.clear()
        self._frames = None
