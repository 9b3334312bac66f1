"""Arguments of all commands: values that begin with ``-``, and help texts."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from falcon_channels.cli import main
from scripts.site.tables import command_names
from scripts.site.tables import help_text


def claims(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Return the claims of a token that the command makes."""
    assert 0 == main(['token', 'ann', *words])
    payload = capsys.readouterr().out.split('.')[1]
    return json.loads(base64.urlsafe_b64decode(payload + '=='))


def test_value_of_an_option_may_begin_with_a_minus_sign(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id that begins with ``-`` is a value, with and without ``=``."""
    monkeypatch.setenv('FALCON_CHANNELS_TOKEN_SECRET', 's' * 32)
    assert '-LDA' == claims(capsys, '--issuer', '-LDA')['iss']
    assert '-LDA' == claims(capsys, '--issuer=-LDA')['iss']
    assert '--x=y' == claims(capsys, '--issuer', '--x=y', '--ttl-s', '9')['iss']


@pytest.mark.parametrize('after', ['--ttl-s', '--ttl-s=9', '--ttl', '--help', '--'])
def test_option_after_an_option_without_its_value_is_refused(
    capsys: pytest.CaptureFixture[str], after: str
) -> None:
    """The next option is not taken as the value, as with an empty variable."""
    with pytest.raises(SystemExit) as caught:
        main(['token', 'ann', '--issuer', after])
    assert 2 == caught.value.code
    assert '--issuer: expected one argument' in capsys.readouterr().err


@pytest.mark.parametrize('command', command_names())
def test_help_of_an_argument_ends_with_its_default_in_one_form(command: str) -> None:
    """Each default is ``(default: ...)``, once; an empty one is not shown."""
    arguments = re.split(r'^  (?=\S)', help_text(command), flags=re.MULTILINE)[1:]
    assert arguments
    for argument in arguments:
        text = ' '.join(argument.partition('\n\n')[0].split())
        shown = re.findall(r'\(default: (.*?)\)', text)
        assert len(shown) == len(re.findall(r'\bdefault\b', text)), text
        assert len(shown) <= 1, text
        assert not {'', 'None', 'False', '[]'} & set(shown), text
        assert not shown or text.endswith(f'(default: {shown[0]})')


@pytest.mark.parametrize('value', ['nan', 'inf', '-1', '0', '1e300', 'ten'])
@pytest.mark.parametrize(
    'words',
    [
        ['info', '--timeout-s'],
        ['inspect', '--timeout-s'],
        ['token', 'ann', '--ttl-s'],
        ['revoke', 'ann', 'rooms:a', '--ttl-s'],
    ],
    ids=lambda words: ' '.join(words),
)
def test_duration_that_cannot_be_used_is_an_invalid_argument(
    capsys: pytest.CaptureFixture[str], words: list[str], value: str
) -> None:
    """A duration that is not a number above 0 makes no token, and sends no request."""
    with pytest.raises(SystemExit) as caught:
        main([*words, value])
    assert 2 == caught.value.code
    printed = capsys.readouterr()
    assert '' == printed.out
    assert f'{value!r} is not a number of seconds above 0' in printed.err


@pytest.mark.parametrize('command', command_names())
def test_interrupted_command_exits_with_130_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Ctrl-C ends each command, also one that waits for a database."""

    class Interrupted:
        """A module whose command is interrupted."""

        @staticmethod
        def add_arguments(parser: object) -> None:
            """Declare no argument."""

    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    setattr(Interrupted, command, interrupt)
    monkeypatch.setattr('importlib.import_module', lambda name: Interrupted)
    assert 130 == main([command])


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ('tail rooms:a --lines -3', "--lines: '-3' is not a whole number from 0"),
        ('history rooms:a --limit -5', "--limit: '-5' is not a whole number from -1"),
        ('history rooms:a --limit ten', "--limit: 'ten' is not a whole number from -1"),
        (
            'history rooms:a --limit 1' + 30 * '0',
            'is not a whole number from -1 to 922',
        ),
        ('explain --user u --record-s nan', "--record-s: 'nan' is not a number of"),
        ('explain --user u --record-s -1', "--record-s: '-1' is not a number of"),
        ('connections --limit -1', "--limit: '-1' is not a whole number from 0"),
        (
            'publish rooms:a 1 --version 0',
            "--version: '0' is not a whole number from 1",
        ),
        ('explain rooms:a x --user u', "offset: 'x' is not a whole number from 0"),
        ('disconnect ann --code x', "--code: 'x' is not a whole number from 0"),
    ],
)
def test_number_out_of_range_is_refused_before_a_request(
    capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    """A number that has no meaning is neither changed nor ignored."""
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert 2 == caught.value.code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['publish', 'rooms:a', 'hello'], 'or add --text'),
        (
            ['publish', 'rooms:a', '1', '--version-epoch', 'x'],
            '--version-epoch is given without --version',
        ),
        (['token', 'ann', '--channel', ''], 'the channel is empty'),
        (['history', 'rooms:a', '--since', '9' * 5000 + ':x'], 'OFFSET:EPOCH'),
    ],
)
def test_argument_without_a_meaning_says_what_to_write(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    """The error is one line that says how to correct the command."""
    monkeypatch.setenv('FALCON_CHANNELS_API_KEY', 'a key of the tests')
    monkeypatch.setenv('FALCON_CHANNELS_TOKEN_SECRET', 's' * 32)
    assert 1 == main(words)
    error = capsys.readouterr().err
    assert 1 == len(error.splitlines())
    assert said in error
