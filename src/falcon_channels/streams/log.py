"""Reads and appends the publications of a stream, for its writer.

Each publication of a writer has the tag ``stream_length``. Its value is the length of
the stream after this publication. A writer that continues a stream reads the tag of the
newest publication.

The version of a publication is one more than the newest offset that its writer knows.
If several publications have the same version, the broker stores only the first one. A
publication that is sent twice is therefore stored once. Two writers of one stream
cannot both append after the same publication.
"""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

from falcon_channels.brokers.base import PublishResult
from falcon_channels.brokers.base import Version
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import PositionError
from falcon_channels.errors import StreamAbortedError
from falcon_channels.errors import StreamConflictError
from falcon_channels.node import Node
from falcon_channels.publication import ABORTED
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import new_named_tuple
from falcon_channels.publication import Position
from falcon_channels.publication import Publication

#: Tag with the length of the stream, in units.
_LENGTH_TAG = 'stream_length'
#: Number of publications that are read at once.
_PAGE = 100
#: Number of times that an abort tries to append the end, while the writer is appending
#: too.
_ABORT_ATTEMPTS = 5

_NUMBER = re.compile('[0-9]{1,18}')


class StoredPayload(NamedTuple):
    """The payload of a publication that is in the log.

    Attributes:
        payload: JSON text, or any bytes if `binary`.
        binary: Whether the payload is not JSON.
        units: Length in units.
    """

    payload: bytes
    binary: bool
    units: int


class StreamLog:
    """Reads and appends the publications of a stream.

    Args:
        node: Node of this process.
        channel: Name of the channel.

    Attributes:
        first: Offset of the oldest publication of the stream.
        newest: Position of the newest publication that this writer knows.
        length: Length of the stream up to `newest`, in units.
    """

    __slots__ = ('_channel', '_node', 'first', 'length', 'newest')

    def __init__(self, node: Node, channel: str) -> None:
        self._node = node
        self._channel = channel
        self.first = 0
        self.newest = Position(0, '')
        self.length = 0

    async def open(self) -> None:
        """Read the position and the length of the stored stream.

        Raises:
            StreamAbortedError: The stream was aborted.
            ChannelFinishedError: The stream has ended.
            BrokerUnavailableError: Try again.
        """
        page = await self._node.reader.history(self._channel, limit=1, reverse=True)
        self._check_end(page.end)
        self.newest = page.position
        self.first = self.newest.offset + 1
        units = await self._newest_length(page.publications)
        if units is not None:
            self.length = units
            oldest = await self._node.reader.history(self._channel, limit=1)
            if oldest.publications:
                self.first = oldest.publications[0].offset

    async def append(self, payload: bytes, binary: bool, units: int) -> bool:
        """Append a publication after `newest`.

        Args:
            payload: JSON text, or any bytes if `binary`.
            binary: Whether the payload is not JSON.
            units: Its length in units.

        Returns:
            Whether it was stored. If not, the log already has another publication
            after `newest`, or an earlier attempt has stored it; call `read_newer`.

        Raises:
            StreamAbortedError: The stream was aborted.
            ChannelFinishedError: The stream has ended.
            PositionError: The log was lost.
            BrokerUnavailableError: Append the same payload again.
        """
        publication, version = self.next_publication(payload, binary, units)
        try:
            result = await self._node.publisher.append(
                self._channel, publication, version
            )
        except ChannelFinishedError:
            await self._raise_end()
            raise
        return self.accept(result, units)

    def next_publication(
        self, payload: bytes, binary: bool, units: int
    ) -> tuple[Publication, Version]:
        """Return a publication after `newest`, and its version; see `append`."""
        tags = _tags(self.length + units)
        return Publication(data=payload, binary=binary, tags=tags), self._next_version()

    def accept(self, result: PublishResult, units: int) -> bool:
        """Move `newest` to a publication; see `append` for result and error."""
        if result.skipped:
            return False
        total = self.length + units
        # NOTE: the position moves before the error, because `finish` must append after
        #   this publication.
        is_lost = self.newest.offset and result.position.epoch != self.newest.epoch
        self.newest, self.length = result.position, total
        if is_lost:
            raise PositionError(
                f'the log of the stream {self._channel!r} was lost, with everything '
                f'before the length {total - units}'
            )
        return True

    async def read_newer(self) -> list[StoredPayload]:
        """Read the publications of the stream after `newest`.

        Raises:
            StreamConflictError: There are none. The history was removed, or other code
                publishes to the channel with versions.
            PositionError: The log was lost.
            BrokerUnavailableError: Try again.
        """
        page = await self._node.reader.history(
            self._channel, since=self.newest, limit=_PAGE
        )
        found = []
        for publication in page.publications:
            units = _length_until(publication)
            if units is not None and publication.end is None:
                found.append(
                    StoredPayload(
                        publication.data, publication.binary, units - self.length
                    )
                )
                self.length = units
                self.newest = Position(publication.offset, page.position.epoch)
        if not found:
            self._check_end(page.end)
            raise StreamConflictError(self._channel)
        return found

    async def finish(self, end: ChannelEnd, key: str) -> None:
        """Append the end of the stream.

        Args:
            end: Success, or the error for readers.
            key: Idempotency key of the writer.

        Raises:
            StreamAbortedError: The stream was aborted.
            ChannelFinishedError: The stream has another end.
            StreamConflictError: Another writer has continued the stream.
            BrokerUnavailableError: Finish it again.
        """
        try:
            result = await self._node.publisher.append(
                self._channel,
                Publication(data=b'', tags=_tags(self.length), end=end),
                self._next_version(),
                idempotency_key=key,
            )
        except ChannelFinishedError:
            await self._raise_end()
            raise
        if result.skipped:
            raise StreamConflictError(self._channel)

    def _next_version(self) -> Version:
        # NOTE: versions of different epochs are not compared. The versions of a lost
        #   log therefore cannot block a new log.
        newest = self.newest
        return new_named_tuple(Version, (newest.offset + 1, newest.epoch))

    async def abort(self) -> tuple[Position, bool]:
        """Append the end with the error ``'aborted'``, unless the stream has ended.

        Returns:
            The position of the end, and whether the stream had not ended before.

        Raises:
            BrokerUnavailableError: The stream may be aborted or not. Call again.
        """
        end = ChannelEnd(ABORTED)
        for _ in range(_ABORT_ATTEMPTS):
            page = await self._node.reader.history(self._channel, limit=0)
            if page.end is not None:
                return page.position, False
            self.newest = page.position
            try:
                # NOTE: the version stops a writer that does not know about the end. If
                #   `remove_history` opens the channel again, that writer cannot append.
                result = await self._node.publisher.append(
                    self._channel, Publication(data=b'', end=end), self._next_version()
                )
            except ChannelFinishedError:
                continue
            if not result.skipped:
                return result.position, True
        try:
            result = await self._node.publisher.finish(self._channel, error=ABORTED)
        except ChannelFinishedError:
            # NOTE: its writer, or another abort, was faster.
            page = await self._node.reader.history(self._channel, limit=0)
            return page.position, False
        return result.position, True

    async def _raise_end(self) -> None:
        page = await self._node.reader.history(self._channel, limit=0)
        self._check_end(page.end)

    def _check_end(self, end: ChannelEnd | None) -> None:
        if end is not None:
            if end.error == ABORTED:
                raise StreamAbortedError(self._channel)
            raise ChannelFinishedError(self._channel)

    async def _newest_length(self, publications: list[Publication]) -> int | None:
        """Return the length of the stream; ``None`` without a publication of a writer.

        Args:
            publications: The newest publications of the log, newest first.
        """
        while publications:
            for publication in publications:
                units = _length_until(publication)
                if units is not None:
                    return units
            # NOTE: a log in memory is read without waiting. Other tasks of the event
            #   loop run between two pages.
            await asyncio.sleep(0)
            page = await self._node.reader.history(
                self._channel,
                since=Position(publications[-1].offset, self.newest.epoch),
                limit=_PAGE,
                reverse=True,
            )
            publications = page.publications
        return None


def _tags(units: int) -> dict[str, str]:
    return {_LENGTH_TAG: str(units)}


def _length_until(publication: Publication) -> int | None:
    """Return the length of the stream after a publication, in units.

    Returns:
        ``None`` if no writer has published it.
    """
    text = (publication.tags or {}).get(_LENGTH_TAG, '')
    return int(text) if _NUMBER.fullmatch(text) else None
