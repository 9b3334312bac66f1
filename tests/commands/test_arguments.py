"""Arguments of all commands: values that begin with ``-``, and help texts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from falcon_channels.cli import main


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
