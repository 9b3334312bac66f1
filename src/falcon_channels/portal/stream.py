"""Synchronous writing of a stream, for threads and greenlets."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any
from typing import Self

from falcon_channels.streams.writer import StreamWriter


class BlockingStream:
    """Writes a stream to a channel, without ``await``: a context manager.

    ::

        with portal.stream('answers:42') as stream:
            for text in generate(prompt):
                stream.write(text)

    It is used like a `StreamWriter`, which runs in the event loop. An abort cannot
    interrupt synchronous code. Instead, the next call of `write` raises
    `StreamAbortedError`, and the block then ends without an error. A producer that
    waits for a long time should check `aborted` regularly.

    Args:
        writer: The asynchronous writer of the stream.
        call: Function that runs a method of the writer in the event loop, and returns
            its result.
    """

    def __init__(
        self,
        writer: StreamWriter,
        call: Callable[..., Any],
    ) -> None:
        self._writer = writer
        self._call = call

    @property
    def length(self) -> int:
        """Length of the stream; see `StreamWriter.length`."""
        return self._writer.length

    @property
    def aborted(self) -> bool:
        """Whether a reader has aborted the stream."""
        return self._writer.aborted

    def write(self, chunk: Any) -> None:
        """Append a chunk to the stream; see `StreamWriter.write`."""
        self._call(self._writer.write, chunk)

    def flush(self) -> None:
        """Wait until the broker has stored all chunks; see `StreamWriter.flush`."""
        self._call(self._writer.flush)

    def fail(self, error: str) -> None:
        """Finish the stream with an error for readers; see `StreamWriter.fail`."""
        self._call(self._writer.fail, error)

    def __enter__(self) -> Self:
        """Open the stream, and read its length.

        Raises:
            ChannelsError: As for `Channels.stream`.
        """
        self._call(self._writer.open)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Finish the stream; an abort ends the block without an error."""
        suppress: bool = self._call(self._writer.close, value)
        return value is not None and suppress
