"""The tables of codes, row by row."""

from __future__ import annotations

import json

import pytest

from falcon_channels.protocol import codes

ERRORS = {
    100: ('internal server error', True),
    101: ('unauthorized', False),
    102: ('unknown channel', False),
    103: ('permission denied', False),
    104: ('method not found', False),
    105: ('already subscribed', False),
    106: ('limit exceeded', False),
    107: ('bad request', False),
    108: ('not available', False),
    109: ('token expired', False),
    110: ('expired', False),
    111: ('too many requests', True),
    112: ('unrecoverable position', False),
    113: ('concurrent pagination', True),
}
UNSUBSCRIBES = {
    2000: ('server unsubscribe', False),
    2400: ('channel finished', False),
    2401: ('channel failed', False),
    2500: ('insufficient state', True),
    2501: ('subscription expired', True),
    2502: ('state invalidated', True),
}
DISCONNECTS = {
    3000: ('connection closed', True),
    3001: ('shutdown', True),
    3004: ('internal server error', True),
    3005: ('connection expired', True),
    3006: ('subscription expired', True),
    3008: ('slow', True),
    3009: ('write error', True),
    3010: ('insufficient state', True),
    3011: ('force reconnect', True),
    3012: ('no pong', True),
    3013: ('too many requests', True),
    3014: ('state invalidated', True),
    3500: ('invalid token', False),
    3501: ('bad request', False),
    3502: ('stale', False),
    3503: ('force disconnect', False),
    3504: ('connection limit', False),
    3505: ('channel limit', False),
    3506: ('inappropriate protocol', False),
    3507: ('permission denied', False),
    3508: ('not available', False),
    3509: ('too many errors', False),
}


def test_code_tables_contain_only_codes_of_the_protocol() -> None:
    """The tables hold exactly the codes of the protocol."""
    assert ERRORS.keys() == codes.REPLY_ERRORS.keys()
    assert UNSUBSCRIBES.keys() == codes.UNSUBSCRIBES.keys()
    assert DISCONNECTS.keys() == codes.DISCONNECTS.keys()


@pytest.mark.parametrize('code', ERRORS)
def test_reply_error_has_its_message_and_temporary_flag(code: int) -> None:
    """An error has its message, and is temporary where the protocol says so."""
    row = codes.REPLY_ERRORS[code]
    assert (code, *ERRORS[code]) == (row.code, row.message, row.temporary)


@pytest.mark.parametrize('code', UNSUBSCRIBES)
def test_unsubscribe_code_from_2500_makes_the_client_subscribe_again(code: int) -> None:
    """From 2500 up clients subscribe again."""
    row = codes.UNSUBSCRIBES[code]
    assert (code, *UNSUBSCRIBES[code]) == (row.code, row.reason, row.resubscribes)


@pytest.mark.parametrize('code', DISCONNECTS)
def test_disconnect_code_range_decides_if_the_client_reconnects(code: int) -> None:
    """The range of a disconnect code says whether clients reconnect."""
    row = codes.DISCONNECTS[code]
    assert (code, *DISCONNECTS[code]) == (row.code, row.reason, row.reconnects)


@pytest.mark.parametrize('row', codes.DISCONNECTS.values(), ids=str)
def test_reasons_fit_a_close_frame_and_are_not_json(row: codes.Disconnect) -> None:
    """A reason is short, and no client can mistake it for JSON."""
    assert len(row.reason.encode()) < 124
    with pytest.raises(ValueError):
        json.loads(row.reason)


@pytest.mark.parametrize(
    ('code', 'expected'),
    [
        (1000, True),
        (1006, True),
        (1012, True),
        (2999, True),
        (3000, True),
        (3499, True),
        (3500, False),
        (3999, False),
        (4000, True),
        (4499, True),
        (4500, False),
        (4999, False),
        (5000, True),
    ],
)
def test_application_disconnect_code_follows_the_ranges(
    code: int, expected: bool
) -> None:
    """Codes of applications follow the ranges too."""
    assert expected == codes.reconnects(code)


@pytest.mark.parametrize(
    ('status', 'code'),
    [
        (400, 3501),
        (401, 3500),
        (403, 3507),
        (415, 3506),
        (404, 3501),
        (409, 3501),
        (422, 3501),
        (429, 3013),
        (499, 3501),
        (500, 3004),
        (501, 3004),
        (503, 3001),
        (504, 3004),
        (200, 3004),
        (302, 3004),
        (792, 3004),
    ],
)
def test_http_status_maps_to_a_disconnect_code(status: int, code: int) -> None:
    """An HTTP error of the application ends a connection as an SDK understands it."""
    row = codes.disconnect_for_status(status)
    assert code == row.code
    assert row is codes.DISCONNECTS[code]


@pytest.mark.parametrize(
    ('status', 'code'),
    [
        (400, 107),
        (401, 101),
        (403, 103),
        (404, 102),
        (405, 108),
        (409, 107),
        (413, 106),
        (422, 107),
        (429, 111),
        (500, 100),
        (501, 108),
        (503, 100),
        (200, 100),
        (302, 100),
        (792, 100),
    ],
)
def test_http_status_maps_to_an_error_code(status: int, code: int) -> None:
    """An HTTP error of the application answers a command as an SDK understands it."""
    row = codes.error_for_status(status)
    assert code == row.code
    assert row is codes.REPLY_ERRORS[code]


def test_falcon_close_codes_would_mislead_clients() -> None:
    """SDKs would read Falcon's close codes as the opposite of the intention."""
    assert codes.reconnects(3000 + 403)
    assert not codes.disconnect_for_status(403).reconnects
    assert not codes.reconnects(3000 + 500)
    assert codes.disconnect_for_status(500).reconnects


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        (None, 'permission denied'),
        ('', 'permission denied'),
        ('log in first', 'log in first'),
        ('{"reconnect": true}', 'permission denied'),
        ('é' * 100, 'é' * 61),
    ],
)
def test_disconnect_with_application_reason_is_truncated_and_not_json(
    words: str | None, reason: str
) -> None:
    """A reason fits into a close frame, and nobody could take it for JSON."""
    disconnect = codes.DISCONNECT_PERMISSION_DENIED
    assert (3507, reason) == codes.disconnect_with_reason(disconnect, words)


def test_error_with_application_message_is_truncated() -> None:
    """A message of an application's own is bounded; the code stays."""
    error = codes.PERMISSION_DENIED
    assert error == codes.error_with_message(error, None)
    assert (103, 'x' * 500, False) == codes.error_with_message(error, 'x' * 1000)
