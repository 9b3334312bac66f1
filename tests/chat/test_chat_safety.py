"""Protection against pages of other sites, and the security headers."""

from __future__ import annotations

import gzip
from pathlib import Path
import re

import falcon.asgi
import falcon.testing
import pytest
from support.chat import Chat
from support.chat import MESSAGES
from support.chat import Person
from support.chat import SITE

from falcon_channels_chat import page
from falcon_channels_chat.page import Page

#: Maximum size of the page with its script, style sheet and icon, compressed.
MAX_FIRST_LOAD_BYTES = 60_000


@pytest.mark.parametrize(
    'origin', ['https://evil.example', 'null', f'{SITE}.evil.example', '']
)
@pytest.mark.parametrize(
    ('method', 'path'),
    [
        ('POST', '/api/rooms'),
        ('POST', MESSAGES),
        ('PATCH', f'{MESSAGES}/1'),
        ('DELETE', f'{MESSAGES}/1'),
        ('PUT', '/api/rooms/lobby/read'),
        ('POST', '/api/images'),
        ('DELETE', '/api/session'),
    ],
)
async def test_request_with_cookie_from_another_origin_is_refused(
    ada: Person, method: str, path: str, origin: str
) -> None:
    """A request with a cookie from a page of another site is refused (CSRF)."""
    result = await ada.request(method, path, {}, headers={'Origin': origin})
    assert 403 == result.status_code


async def test_session_request_from_another_origin_is_refused(chat: Chat) -> None:
    """A page of another site cannot create a session."""
    result = await chat.stranger().request(
        'POST',
        '/api/session',
        {'name': 'x'},
        headers={'Origin': 'https://evil.example'},
    )
    assert 403 == result.status_code


@pytest.mark.parametrize(
    'content_type',
    ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', ''],
)
async def test_post_with_content_type_of_a_form_is_refused(
    ada: Person, content_type: str
) -> None:
    """Content types that a form can send without a preflight request are refused."""
    result = await ada.request(
        'POST', MESSAGES, body=b'{"text": "x"}', headers={'Content-Type': content_type}
    )
    assert 415 == result.status_code


async def test_page_has_a_strict_content_security_policy(chat: Chat) -> None:
    """The page can load only files of its own site, and has no inline script."""
    result = await chat.stranger().request('GET', '/rooms/lobby')
    policy = result.headers['Content-Security-Policy']
    assert "default-src 'none'" in policy
    assert 'unsafe' not in policy
    assert "frame-ancestors 'none'" in policy
    assert 'nosniff' == result.headers['X-Content-Type-Options']
    assert not re.search(
        r'<script(?![^>]*\ssrc=)|<style|\son[a-z]+=|style="', result.text
    )


async def test_api_responses_are_not_cached(ada: Person) -> None:
    """Responses of the API are not stored by any cache."""
    result = await ada.request('GET', '/api/rooms/lobby')
    assert 'no-store' == result.headers['Cache-Control']
    refused = await ada.request('GET', '/api/rooms/attic')
    assert 'no-store' == refused.headers['Cache-Control']


async def test_page_and_assets_are_smaller_than_60_kilobytes(chat: Chat) -> None:
    """The page and all its files are smaller than 60 kB when compressed."""
    stranger = chat.stranger()
    accept_gzip = {'Accept-Encoding': 'gzip, br'}
    result = await stranger.request('GET', '/', headers=accept_gzip)
    assert 'gzip' == result.headers['Content-Encoding']
    size_bytes = len(result.content)
    document = gzip.decompress(result.content).decode()
    paths = re.findall(r'(?:src|href)="(/assets/[^"]+)"', document)
    assert 3 == len(paths), 'a script, a style sheet and an icon'
    for path in paths:
        asset = await stranger.request('GET', path, headers=accept_gzip)
        assert 200 == asset.status_code
        assert 'immutable' in asset.headers['Cache-Control']
        size_bytes += len(asset.content)
    assert size_bytes < MAX_FIRST_LOAD_BYTES
    plain = await stranger.request('GET', paths[0])
    assert 'Content-Encoding' not in plain.headers


@pytest.mark.parametrize('name', ['x.js', '..%2fapp.py', '%2e%2e%2fapp.py', 'app.py'])
async def test_asset_outside_the_built_page_is_not_found(chat: Chat, name: str) -> None:
    """A path outside the built page is not found."""
    assert 404 == (await chat.stranger().request('GET', f'/assets/{name}')).status_code


def test_page_source_never_parses_text_as_markup() -> None:
    """No source file of the page parses text as markup."""
    sources = list((Path(page.__file__).parent / 'web' / 'src').glob('*.ts'))
    assert sources
    banned = re.compile(
        r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\('
    )
    assert [] == [path.name for path in sources if banned.search(path.read_text())]


async def test_missing_page_is_reported_with_the_build_command(tmp_path: Path) -> None:
    """Without a built page the answer is 503 and names the command to build it."""
    app = falcon.asgi.App()
    app.add_route('/', Page(tmp_path))
    async with falcon.testing.ASGIConductor(app) as conductor:
        result = await conductor.simulate_get('/')
    assert 503 == result.status_code
    assert 'make web' in result.json['description']
