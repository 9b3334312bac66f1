"""Upload and download of images."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.chat import Person
from support.chat import Result

from falcon_channels_chat.settings import Settings

PNG = b'\x89PNG\r\n\x1a\n' + bytes(100)
WEBP = b'RIFF\x00\x00\x00\x00WEBPVP8 '
IMAGES = '/api/images'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database=str(tmp_path / 'chat.db'),
        broker='memory://',
        max_image_bytes=1000,
        max_images_bytes=1500,
    )


async def upload(person: Person, data: bytes, media_type: str) -> Result:
    return await person.request(
        'POST', IMAGES, body=data, headers={'Content-Type': media_type}
    )


async def test_uploaded_image_can_be_sent_once_by_its_owner(
    ada: Person, bob: Person
) -> None:
    """Only the owner can send an image, once; it is deleted with its message."""
    image = (await upload(ada, PNG, 'image/png')).json['id']
    assert 422 == (await bob.say('', image=image)).status_code
    sent = await ada.say('', image=image)
    assert image == sent.json['image']
    assert 422 == (await ada.say('again', image=image)).status_code
    served = await bob.request('GET', f'{IMAGES}/{image}')
    assert (PNG, 'image/png') == (served.content, served.headers['Content-Type'])
    assert 'nosniff' == served.headers['X-Content-Type-Options']
    assert 'sandbox' in served.headers['Content-Security-Policy']
    await ada.request('DELETE', f'/api/rooms/lobby/messages/{sent.json["id"]}')
    assert 404 == (await bob.request('GET', f'{IMAGES}/{image}')).status_code


@pytest.mark.parametrize(
    ('data', 'media_type'),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'image/svg+xml'),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'image/png'),
        (b'<script>alert(1)</script>', 'image/gif'),
        (b'', 'image/png'),
        (b'\x89PN', 'image/png'),
        (PNG, 'image/jpeg'),
        (PNG, 'text/html'),
        (PNG, ''),
    ],
)
async def test_upload_with_wrong_media_type_is_refused(
    ada: Person, data: bytes, media_type: str
) -> None:
    """Data that is not an image of the declared media type is refused."""
    assert 415 == (await upload(ada, data, media_type)).status_code


@pytest.mark.parametrize(
    ('data', 'media_type'),
    [
        (b'\xff\xd8\xff\xe0 JFIF', 'image/jpeg'),
        (b'GIF89a...', 'image/gif'),
        (WEBP, 'image/webp'),
    ],
)
async def test_upload_of_other_image_types_is_accepted(
    ada: Person, data: bytes, media_type: str
) -> None:
    """JPEG, GIF and WebP images are accepted, too."""
    assert 201 == (await upload(ada, data, media_type)).status_code


async def test_image_over_a_size_limit_is_refused(ada: Person) -> None:
    """There is a limit for one image (413) and for all images together (507)."""
    assert 413 == (await upload(ada, PNG + bytes(900), 'image/png')).status_code
    assert 201 == (await upload(ada, PNG + bytes(890), 'image/png')).status_code
    assert 507 == (await upload(ada, PNG + bytes(500), 'image/png')).status_code


async def test_body_larger_than_its_content_length_is_refused(ada: Person) -> None:
    """The limit holds even if Content-Length is smaller than the body."""
    result = await ada.request(
        'POST',
        IMAGES,
        body=PNG + bytes(5000),
        headers={'Content-Type': 'image/png', 'Content-Length': '10'},
    )
    assert result.status_code in (413, 415)


async def test_images_without_a_session_are_refused(ada: Person) -> None:
    """Without a session nobody can upload or download an image."""
    image = (await upload(ada, PNG, 'image/png')).json['id']
    ada.cookie = None
    assert 401 == (await upload(ada, PNG, 'image/png')).status_code
    assert 401 == (await ada.request('GET', f'{IMAGES}/{image}')).status_code
