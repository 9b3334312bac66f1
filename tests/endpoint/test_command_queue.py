"""The queue of commands: its order, and when it pauses reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from falcon_channels.endpoint.command_queue import BATCH
from falcon_channels.endpoint.command_queue import CommandQueue
from falcon_channels.endpoint.command_queue import MAX_COMMANDS
from falcon_channels.protocol.messages import Command


class Reading:
    """A transport that knows whether it reads."""

    paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def make_queue() -> tuple[CommandQueue, Reading]:
    transport: Any = Reading()
    return CommandQueue(transport), transport


def commands(count: int) -> Iterator[Command]:
    return (Command(number, None) for number in range(count))


def test_queue_of_32_commands_pauses_reading_until_one_is_taken() -> None:
    """Commands are taken in their order, and the client waits if too many wait."""
    queue, transport = make_queue()
    for command in commands(MAX_COMMANDS):
        assert not transport.paused
        queue.add(command)
    assert transport.paused
    taken = [queue.take() for _ in range(MAX_COMMANDS + 1)]
    assert [*commands(MAX_COMMANDS), None] == taken
    assert not transport.paused


def test_frame_that_is_not_decoded_pauses_reading_until_it_is_removed() -> None:
    """Each frame counts as a batch, also while no command waits."""
    queue, transport = make_queue()
    frames = [commands(1), commands(2)]
    for frame in frames:
        queue.add_frame(frame)
    assert 2 * BATCH == len(queue)
    assert queue.take() is None
    for frame in frames:
        assert transport.paused
        assert queue.first_frame is frame
        queue.remove_frame()
    assert queue.first_frame is None
    assert not transport.paused


def test_frame_that_is_removed_does_not_resume_a_full_queue() -> None:
    """Both reasons to pause must have ended."""
    queue, transport = make_queue()
    queue.add_frame(commands(1))
    for command in commands(MAX_COMMANDS):
        queue.add(command)
    queue.remove_frame()
    assert transport.paused
    queue.take()
    assert not transport.paused
