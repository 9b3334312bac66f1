"""The parser of answers in Python returns the same as that of hiredis."""

from __future__ import annotations

import itertools
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest
from redis.exceptions import BusyLoadingError
from redis.exceptions import InvalidResponse
from redis.exceptions import MovedError
from redis.exceptions import NoScriptError
from redis.exceptions import ReadOnlyError
from redis.exceptions import ResponseError

from falcon_channels.brokers.redis.replies import INCOMPLETE
from falcon_channels.brokers.redis.replies import new_parser
from falcon_channels.brokers.redis.replies import pack
from falcon_channels.brokers.redis.replies import pack_in_python
from falcon_channels.brokers.redis.replies import PythonParser
from falcon_channels.brokers.redis.replies import ReplyParser
from falcon_channels.brokers.redis.replies import server_error

_answers = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda items: st.lists(items, max_size=5),
    max_leaves=12,
)


def encode(answer: Any) -> bytes:
    """Return an answer as the server sends it."""
    if answer is None:
        return b'$-1\r\n'
    if isinstance(answer, int):
        return b':%d\r\n' % answer
    if isinstance(answer, bytes):
        return b'$%d\r\n%b\r\n' % (len(answer), answer)
    return b'*%d\r\n' % len(answer) + b''.join(map(encode, answer))


def parse(parser: ReplyParser, parts: list[bytes]) -> list[Any]:
    """Feed the parts one after the other; return all answers."""
    found = []
    for part in parts:
        parser.feed(part)
        while (answer := parser.gets()) is not INCOMPLETE:
            found.append(answer)
    return found


@given(st.lists(_answers, max_size=5), st.lists(st.integers(0, 400), max_size=6))
def test_answers_in_any_parts_are_the_same_for_both_parsers(
    answers: list[Any], cuts: list[int]
) -> None:
    """Answers that arrive in any parts are parsed completely, by both parsers."""
    data = b''.join(map(encode, answers))
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(bounds)]
    assert answers == parse(PythonParser(), parts)
    assert answers == parse(new_parser(), parts)


def test_installed_hiredis_is_used() -> None:
    """The parser in Python is used only if hiredis is missing."""
    missing = sys.modules.get('hiredis') is None
    assert missing == isinstance(new_parser(), PythonParser)


@given(
    st.lists(
        st.text(max_size=9) | st.binary(max_size=9) | st.integers(-(2**63), 2**63),
        min_size=1,
    )
)
def test_commands_are_packed_in_the_same_way_with_and_without_hiredis(
    words: list[str | bytes | int],
) -> None:
    """A command is encoded as an array of texts."""
    expected = pack_in_python(tuple(words))
    assert expected == pack(tuple(words))
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    assert [texts] == parse(PythonParser(), [expected])


@pytest.mark.parametrize(
    ('message', 'kind'),
    [
        ('MOVED 3999 127.0.0.1:6381', MovedError),
        ('NOSCRIPT No matching script.', NoScriptError),
        ('READONLY You can not write.', ReadOnlyError),
        ('ERR Error running script: @user: 1: -READONLY No writes.', ReadOnlyError),
        ('LOADING Redis is loading the dataset.', BusyLoadingError),
        ('OOM command not allowed', ResponseError),
    ],
)
def test_error_of_the_server_is_returned_as_its_class(
    message: str, kind: type[Exception]
) -> None:
    """Both parsers return an error, also within an array, and do not raise it."""
    data = f'-{message}\r\n*2\r\n:1\r\n-{message}\r\n'.encode()
    for parser in (PythonParser(), new_parser()):
        first, (number, second) = parse(parser, [data])
        assert (1, kind, kind) == (number, type(first), type(second))
        assert str(server_error(message)) == str(first)


@pytest.mark.parametrize('data', [b'!1\r\n', b'*x\r\n'])
def test_bytes_that_are_no_answer_are_refused(data: bytes) -> None:
    """Bytes that are not RESP2 raise an error, and do not wait for more bytes."""
    for parser in (PythonParser(), new_parser()):
        with pytest.raises(InvalidResponse):
            parse(parser, [data])
