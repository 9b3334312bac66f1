"""Validate and normalize names of people, names of rooms and texts of messages."""

from __future__ import annotations

import unicodedata

import falcon

MAX_NAME_CHARACTERS = 40
MAX_TEXT_CHARACTERS = 4000

#: These characters change the direction of the text next to a name.
_BIDI_CONTROLS = frozenset('\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e') | (
    frozenset('\u2066\u2067\u2068\u2069')
)


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
    # SECURITY: with such characters an attacker can make a name look like the name of
    #   another person. A name that contains one is refused.
    if any(
        character in _BIDI_CONTROLS or unicodedata.category(character) in ('Cc', 'Cn')
        for character in name
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
    if not all(
        character == '-' or unicodedata.category(character)[0] in 'LMN'
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
