"""Validate and normalize names of people, names of rooms and texts of messages."""

from __future__ import annotations

import unicodedata

import falcon

from falcon_channels.names import find_invisible_character

MAX_NAME_CHARACTERS = 40
MAX_TEXT_CHARACTERS = 4000


def valid_person_name(text: str) -> str:
    """Return the normalized name of a person.

    Raises:
        falcon.HTTPUnprocessableEntity: The name is empty, too long, or contains
            characters that are not allowed.
    """
    name = ' '.join(unicodedata.normalize('NFC', text).split())
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise falcon.HTTPUnprocessableEntity(
            description=f'A name has 1 to {MAX_NAME_CHARACTERS} characters.'
        )
    # SECURITY: with invisible characters an attacker can make a name look like the name
    #   of another person. A name that contains one is refused.
    if find_invisible_character(name) or any(
        unicodedata.category(character) == 'Cn' for character in name
    ):
        raise falcon.HTTPUnprocessableEntity(
            description='The name contains characters that cannot be shown.'
        )
    return name


def valid_room_name(text: str) -> str:
    """Return the normalized name of a room: ``My Garden`` becomes ``my-garden``.

    The name is also part of the address of the room.

    Raises:
        falcon.HTTPUnprocessableEntity: The name is empty, too long, or contains
            characters that are not allowed.
    """
    folded = unicodedata.normalize('NFKC', text).casefold()
    # NOTE: `casefold` can decompose characters, so the result is normalized again.
    name = '-'.join(unicodedata.normalize('NFKC', folded).split())
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise falcon.HTTPUnprocessableEntity(
            description=f'The name of a room has 1 to {MAX_NAME_CHARACTERS} characters.'
        )
    if find_invisible_character(name) or not all(
        character in '-\u200c\u200d' or unicodedata.category(character)[0] in 'LMN'
        for character in name
    ):
        raise falcon.HTTPUnprocessableEntity(
            description='The name of a room consists of letters, digits and hyphens.'
        )
    return name


def valid_message_text(text: str) -> str:
    """Return the text of a message without leading and trailing white space.

    Raises:
        falcon.HTTPUnprocessableEntity: The text is too long.
    """
    text = text.replace('\r\n', '\n').strip()
    if len(text) > MAX_TEXT_CHARACTERS:
        raise falcon.HTTPUnprocessableEntity(
            description=f'{len(text)} characters are over the limit of '
            f'{MAX_TEXT_CHARACTERS}.'
        )
    return text
