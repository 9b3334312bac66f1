"""Access to the inspector: keys, cookies, origins and rights."""

from __future__ import annotations

import logging
import time

from falcon import testing
import falcon.asgi
import pytest

from falcon_channels import Channels
from falcon_channels.inspector import sessions
from falcon_channels.inspector.methods import READ_METHODS
from falcon_channels.inspector.methods import WRITE_METHODS
from falcon_channels.inspector.sessions import InspectorSessions
from falcon_channels.inspector.sessions import LoginLimit
from inspector.pages import KEY
from inspector.pages import two_inspected
from inspector.pages import WRITE_KEY

METHODS = sorted([*READ_METHODS, *WRITE_METHODS, 'tail', 'logout'])


async def test_request_without_a_session_is_refused_by_each_method() -> None:
    """Without a login, no method answers; the page itself contains no data."""
    async with two_inspected() as (one, _):
        one.token = ''
        for method in METHODS:
            result = await one.post(method)
            assert 401 == result.status_code, method
            assert 'no-store' == result.headers['Cache-Control']
        assert await one.ask('session') is None


async def test_wrong_key_gets_no_cookie_and_the_log_does_not_show_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong key is refused with 401, and neither log nor answer contains it."""
    async with two_inspected() as (one, _):
        one.token = ''
        result = await one.login('a-wrong-key-of-somebody')
        assert 401 == result.status_code
        assert {} == result.cookies
        assert 'a-wrong-key-of-somebody' not in result.text + caplog.text
        assert 'refused a wrong key' in caplog.text
        for body in (b'', b'[]', b'{"key": 1}', b'{"key": "' + b'x' * 2000 + b'"}'):
            result = await one.post('login', body)
            assert result.status_code in (400, 401)


async def test_failed_logins_are_limited_and_sessions_go_on() -> None:
    """After five wrong keys in a minute, an address waits, even with a valid key."""
    async with two_inspected() as (one, _):
        for _ in range(5):
            assert 401 == (await one.login('a-wrong-key-of-somebody')).status_code
        result = await one.login(KEY)
        assert 429 == result.status_code
        assert 0 < int(result.headers['Retry-After']) <= 61
        await one.ask('session')


def test_failures_of_many_addresses_are_limited_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attacker with many addresses also has to wait, until the minute is over."""
    limit = LoginLimit(per_address=5, in_total=20)
    for number in range(20):
        assert 0 == limit.wait_s(f'10.0.0.{number}')
        limit.note_failure(f'10.0.0.{number}')
    assert limit.wait_s('10.0.1.1') > 0
    now_s = time.monotonic()
    monkeypatch.setattr(sessions.time, 'monotonic', lambda: now_s + 61)
    assert 0 == limit.wait_s('10.0.1.1')


async def test_cookie_is_valid_in_each_process_and_only_for_the_page() -> None:
    """Workers share no store: the cookie is signed, and each of them can check it."""
    async with two_inspected() as (one, two):
        cookie = (await one.login(KEY)).cookies['falcon_channels_inspector']
        # The path is that of the request, without its last part.
        assert (None, True, 'Strict', False, 43200) == (
            cookie.path,
            cookie.http_only,
            cookie.same_site,
            cookie.secure,
            cookie.max_age,
        )
        two.token = one.token
        assert not (await two.ask('session'))['can_write']
        result = await one.post('logout')
        assert '' == result.cookies['falcon_channels_inspector'].value


def test_cookie_is_secure_behind_tls() -> None:
    """A browser does not send the cookie over plain HTTP if the login was over TLS."""
    app = falcon.asgi.App()
    Channels().add_inspector(app, keys=KEY)
    client = testing.TestClient(app)
    result = client.simulate_post(
        '/_channels/api/login', json={'key': KEY}, protocol='https'
    )
    assert result.cookies['falcon_channels_inspector'].secure


def test_token_that_was_changed_or_is_old_or_has_another_key_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token cannot be forged, and ends with its time or with its key."""
    known = InspectorSessions(KEY, WRITE_KEY)
    token = known.login(KEY)
    assert token is not None
    session = known.find(token)
    assert session is not None
    assert not session.can_write
    rights, expiry, nonce, signature = token.split('.')
    for forged in (
        '',
        'x',
        '...',
        f'w.{expiry}.{nonce}.{signature}',
        f'{rights}.{int(expiry) + 1}.{nonce}.{signature}',
        f'{rights}.{expiry}.{nonce}.{"0" * 64}',
        token + 'é',
        token * 10,
    ):
        assert known.find(forged) is None, forged
    # A person with a key for reading can sign anything with its secret.
    head = f'w.{expiry}.{nonce}'
    signed = sessions._sign(sessions._derive(KEY), head)
    assert known.find(f'{head}.{signed}') is None
    assert InspectorSessions('another-key-for-reading').find(token) is None
    assert InspectorSessions(['another-key-for-reading', KEY]).find(token) is not None
    now_s = time.time()
    monkeypatch.setattr(sessions.time, 'time', lambda: now_s + sessions.SESSION_S + 1)
    assert known.find(token) is None


@pytest.mark.parametrize(
    'expiry',
    ['', 'abc', '1e9', '-5', ' 9999999999', '9_999_999_999', '9999999999', '9' * 99],
)
def test_token_that_a_person_with_a_key_signed_lasts_no_longer_than_a_login(
    expiry: str,
) -> None:
    """A person who knows a key can sign any token, but only a usual one is valid."""
    head = f'r.{expiry}.x'
    token = f'{head}.{sessions._sign(sessions._derive(KEY), head)}'
    assert InspectorSessions(KEY).find(token) is None


async def test_session_for_reading_cannot_change_anything() -> None:
    """Each method that changes something needs a key of `write_keys`."""
    async with two_inspected() as (one, _):
        for method in WRITE_METHODS:
            result = await one.post(method, {'user': 'ann', 'channel': 'rooms:a'})
            assert 403 == result.status_code, method
            assert 'may only read' in result.json['description']


async def test_request_of_another_site_is_refused_with_a_valid_cookie() -> None:
    """A page of an attacker cannot use the session, whatever it sends (CSRF)."""
    async with two_inspected(WRITE_KEY) as (one, _):

        async def status(**headers: str) -> int:
            names = {name.replace('_', '-'): value for name, value in headers.items()}
            return (await one.post('overview', headers=names)).status_code

        assert 200 == await status()
        assert 200 == await status(Origin='http://falconframework.org')
        assert 200 == await status(Sec_Fetch_Site='same-origin')
        assert 403 == await status(Origin='https://evil.example')
        assert 403 == await status(Origin='null')
        assert 403 == await status(Sec_Fetch_Site='cross-site')
        assert 403 == await status(Sec_Fetch_Site='same-site')
        # A form can send only these types without a preflight request.
        for content_type in (
            'application/x-www-form-urlencoded',
            'multipart/form-data',
            'text/plain',
        ):
            assert 415 == await status(Content_Type=content_type)
        result = await one.conductor.simulate_get('/_channels/api/disconnect')
        assert 405 == result.status_code


async def test_login_of_another_site_is_refused() -> None:
    """A page of an attacker cannot log a person in, or try keys through a browser."""
    async with two_inspected() as (one, _):
        result = await one.post('login', {'key': KEY}, {'Origin': 'https://evil.test'})
        assert 403 == result.status_code
        assert {} == result.cookies


async def test_key_in_the_url_is_refused() -> None:
    """A key in a URL would be in logs. It is not accepted, and the answer says so."""
    async with two_inspected() as (one, _):
        for name in ('key', 'api_key'):
            result = await one.conductor.simulate_post(
                f'/_channels/api/login?{name}={KEY}',
                json={'key': KEY},
            )
            assert 400 == result.status_code
            assert 'no longer secret' in result.json['description']


async def test_changes_are_logged_without_payload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says what a person changed, and contains no payload and no key."""
    caplog.set_level(logging.INFO, 'falcon_channels')
    async with two_inspected(WRITE_KEY) as (one, _):
        await one.ask('publish', channel='rooms:a', data='a secret text')
    assert "inspector: publish, user '', client '', channel 'rooms:a'" in caplog.text
    assert 'a secret text' not in caplog.text
    assert WRITE_KEY not in caplog.text


async def test_command_about_a_user_is_logged_once_in_all_processes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A command of a person is one record: the event of the node that gave it."""
    caplog.set_level(logging.INFO, 'falcon_channels')
    async with two_inspected(WRITE_KEY) as (one, _):
        await one.ask('revoke', user='ann', channel='rooms:a')
    lines = [line for line in caplog.messages if "'ann'" in line]
    assert 1 == len(lines), lines
    assert lines[0].startswith(
        "application_command user='ann' channel='rooms:a' code=2000"
    )
    assert "command='revoke'" in lines[0]


async def test_each_answer_has_headers_that_forbid_frames_and_caches() -> None:
    """The page cannot be framed, and no answer is stored, also if it is an error."""
    async with two_inspected() as (one, _):
        results = [
            await one.post('overview'),
            await one.post('nothing'),
            await one.post('login', {'key': 'a-wrong-key-of-somebody'}),
            await one.conductor.simulate_get('/_channels'),
        ]
    for result in results:
        policy = result.headers['Content-Security-Policy']
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert 'nosniff' == result.headers['X-Content-Type-Options']
        assert 'no-store' == result.headers['Cache-Control']
        assert 'no-referrer' == result.headers['Referrer-Policy']


async def test_large_request_is_refused() -> None:
    """A request of more than a megabyte is refused before it is read."""
    async with two_inspected(WRITE_KEY) as (one, _):
        result = await one.post('publish', {'channel': 'rooms:a', 'data': 'x' * 2**20})
        assert 413 == result.status_code


async def test_malformed_request_is_refused_by_each_method() -> None:
    """JSON that is nested too deep, or has text that is not UTF-8, is a bad request."""
    async with two_inspected() as (one, _):
        assert 200 == (await one.login(WRITE_KEY)).status_code
        deep = b'[' * 100_000
        bodies = [deep, b'{"data":' + deep, b'{"user":"\xff"}']
        for method in (*sorted(READ_METHODS | WRITE_METHODS), 'tail', 'login'):
            for body in bodies:
                result = await one.post(method, body)
                code = result.json.get('error', {}).get('code', result.status_code)
                assert code in (107, 400), (method, body[:20], result.text)


async def test_page_with_a_slash_at_its_end_is_redirected() -> None:
    """A person who types the path with a slash gets the page, too."""
    async with two_inspected() as (one, _):
        result = await one.conductor.simulate_get('/_channels/')
        assert (307, '../_channels') == (
            result.status_code,
            result.headers['Location'],
        )


async def test_file_outside_the_page_is_not_found() -> None:
    """Only files of the built page are served."""
    async with two_inspected() as (one, _):
        for name in ('..%2fresource.py', 'resource.py', 'index.html'):
            result = await one.conductor.simulate_get(f'/_channels/assets/{name}')
            assert 404 == result.status_code
