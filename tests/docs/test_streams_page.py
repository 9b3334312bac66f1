"""Test the page about streams: its app and its functions do what it says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import re
import textwrap
from typing import Any

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.event_reader import EventReader
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until

from falcon_channels import ChannelEnd
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.portal import Portal

TEXT = (ROOT / 'docs/streams.md').read_text()
BLOCKS = {
    name: textwrap.dedent(code)
    for name, code in re.findall(
        r'<!-- (\w+\.py) -->\n *```python\n(.*?)^ *```$', TEXT, re.DOTALL | re.M
    )
}
ANSWER = 'You said: hi. That is all. '


@pytest.fixture
def portal() -> Iterator[Portal]:
    channels = Channels()
    channels.add_route('answers:{n}', None, ChannelOptions(history_size=100))
    with Portal(channels, timeout_s=30.0) as portal:
        yield portal


def names_of(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(BLOCKS[block], names)
    return names


def read(portal: Portal, channel: str) -> tuple[str, ChannelEnd | None]:
    page = portal.history(channel, limit=None)
    return ''.join(item.value() or '' for item in page.publications), page.end


@pytest.mark.server
def test_app_of_the_page_streams_an_answer_to_early_and_late_readers(
    asgi_server: AsgiServer, tmp_path: Path
) -> None:
    """Readers receive the answer from its beginning, whenever they come."""
    (tmp_path / 'answers.py').write_text(BLOCKS['answers.py'])
    command = asgi_server.command('answers:app')
    with (
        ServerProcess(command, cwd=tmp_path) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
        EventReader.open(client, '/answers/7') as early,
    ):
        assert 200 == client.post('/answers/7', json='hi').status_code
        text = ''
        while len(text) < len(ANSWER):
            text += early.event().data
        assert ANSWER == text
        with EventReader.open(client, '/answers/7') as late:
            text = ''
            while len(text) < len(ANSWER):
                text += late.event().data
        assert ANSWER == text
        assert 200 == client.delete('/answers/8').status_code
        assert 200 == client.post('/answers/8', json='too late').status_code
        wait_until(
            lambda: 'StreamAbortedError' in server.log(), 'the writer does not begin'
        )


def test_functions_of_the_page_continue_a_stream(portal: Portal) -> None:
    """A producer continues at the position, or repeats everything."""
    text = ''.join(f'{number} ' for number in range(200))
    write_file = names_of('file.py')['write_file']
    write_again = names_of('replay.py')['write_again']
    for number, function, argument in (
        (1, write_file, text),
        (2, write_again, [text[i : i + 7] for i in range(0, len(text), 7)]),
    ):
        with pytest.raises(KeyboardInterrupt):
            write_and_stop(portal, f'answers:{number}', text[:100])
        stored_text = names_of('stored.py')['stored_text']
        assert text[:100] == portal.call(stored_text, portal.channels, number)
        portal.call(function, portal.channels, number, argument)
        assert (text, ChannelEnd()) == read(portal, f'answers:{number}')


def write_and_stop(portal: Portal, channel: str, text: str) -> None:
    with portal.stream(channel) as stream:
        stream.write(text)
        stream.flush()
        raise KeyboardInterrupt


def test_thread_of_the_page_writes_a_stream(portal: Portal) -> None:
    """A thread writes with the portal and learns whether it was aborted."""
    write_answer = names_of('threads.py')['write_answer']

    def chunks() -> Iterator[str]:
        yield 'first'
        portal.abort_stream('answers:2')
        while True:
            yield 'next'

    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(write_answer, portal, 1, ['a', 'b']).result(30)
        assert pool.submit(write_answer, portal, 2, chunks()).result(30)
    assert ('ab', ChannelEnd()) == read(portal, 'answers:1')
    assert ChannelEnd('aborted') == read(portal, 'answers:2')[1]


def test_every_code_block_has_a_name_and_is_run() -> None:
    """The page has no code block that is not run by a test."""
    assert ['answers.py', 'file.py', 'replay.py', 'stored.py', 'threads.py'] == sorted(
        BLOCKS
    )
    assert TEXT.count('```') == 2 * len(BLOCKS)
