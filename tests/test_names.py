"""Invisible characters in names."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
import pytest

from falcon_channels.names import find_invisible_character

ZWNJ = '\u200c'
ZWJ = '\u200d'
EMOJI_STYLE = '\ufe0f'


@pytest.mark.parametrize(
    'character',
    [
        '\x00',
        '\n',
        '\x7f',
        '\u00a0',  # no-break space
        '\u00ad',  # soft hyphen
        '\u034f',  # combining grapheme joiner
        '\u061c',  # Arabic letter mark
        '\u115f',  # Hangul fillers
        '\u1160',
        '\u3164',
        '\uffa0',
        '\u17b4',  # Khmer inherent vowel
        '\u180b',  # Mongolian variation selector
        '\u180e',
        '\u2003',  # em space
        '\u200b',  # zero width space
        '\u200e',
        '\u202e',
        '\u2060',  # word joiner
        '\u2064',
        '\u2028',
        '\u2800',  # blank Braille pattern
        '\u3000',
        '\ufe00',  # variation selectors
        '\ufe0e',
        '\ufeff',
        '\ufffc',
        '\U0001d159',
        '\U000e0001',  # tags
        '\U000e0061',
        '\U000e0100',  # variation selectors
        '\U000e01ef',
        '\ud800',
        ZWNJ,
        ZWJ,
        EMOJI_STYLE,
    ],
)
@pytest.mark.parametrize('name', ['{}', 'ann{}', '{}ann', 'a{}nn', 'می{}', 'ж{}ж'])
def test_invisible_character_is_found(character: str, name: str) -> None:
    """An invisible character is found at each place of a name."""
    assert character == find_invisible_character(name.format(character))


@pytest.mark.parametrize(
    'name',
    [
        'ann',
        'ann lee',
        'Zoë',
        '山田',
        '한국',
        'می' + ZWNJ + 'خواهم',  # Persian: the joined letters are separated
        'خانه' + ZWNJ + 'ای',
        'علی' + ZWNJ + 'رضا',
        'क्' + ZWNJ + 'ष',  # Hindi: the sign that removes a vowel is visible
        'क्' + ZWJ + 'ष',
        'ශ්' + ZWJ + 'රී',  # Sinhala: two letters become one
        '❤',
        '❤' + EMOJI_STYLE,
        '1' + EMOJI_STYLE + '\u20e3',
        '👍🏽',
        '👩🏽' + ZWJ + '🚒',
        '👩' + ZWJ + '❤' + EMOJI_STYLE + ZWJ + '👨',
        '👨' + ZWJ + '👩' + ZWJ + '👧',
        '🏳' + EMOJI_STYLE + ZWJ + '🌈',
        '🧑' + ZWJ + '⚕' + EMOJI_STYLE,
        '🇮🇷',
    ],
)
def test_visible_name_has_no_invisible_character(name: str) -> None:
    """Joiners and U+FE0F are allowed where the writing of a language needs them."""
    assert find_invisible_character(name) is None


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('در' + ZWNJ + 'خ', ZWNJ),  # the letter before never joins the next one
        ('می' + ZWNJ, ZWNJ),
        (ZWNJ + 'می', ZWNJ),
        ('می' + ZWNJ * 2 + 'خ', ZWNJ),
        ('ی' + ZWNJ + 'ܒ', ZWNJ),  # Arabic and Syriac letters never join
        ('می' + ZWJ + 'خ', ZWJ),
        ('क' + ZWJ + 'ष', ZWJ),  # no sign that removes a vowel
        ('क्' + ZWJ + 'ा', ZWJ),
        ('क्' + ZWNJ, ZWNJ),
        ('क्' + ZWJ + ZWJ + 'ष', ZWJ),
        ('😀' + EMOJI_STYLE, EMOJI_STYLE),  # has emoji style already
        ('❤' + EMOJI_STYLE * 2, EMOJI_STYLE),
        ('1' + EMOJI_STYLE, EMOJI_STYLE),
        ('👩' + ZWJ, ZWJ),
        (ZWJ + '👩', ZWJ),
        ('👩' + ZWJ + ZWJ + '🚒', ZWJ),
        ('👩' + ZWJ + 'a', ZWJ),
        ('🏳' + ZWJ + '🌈', ZWJ),  # a second spelling: U+FE0F is missing
    ],
)
def test_joiner_outside_its_context_is_found(name: str, found: str) -> None:
    """A joiner that does not change how a name looks is found."""
    assert found == find_invisible_character(name)


def test_every_character_without_a_glyph_is_found() -> None:
    """Each control, format or separator character is found, except the space."""
    passed = {
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in {'Cc', 'Cf', 'Cs', 'Zl', 'Zp', 'Zs'}
        and find_invisible_character(chr(code)) is None
    }
    assert {' '} == passed


@given(st.text(max_size=30))
def test_removing_the_found_characters_ends(name: str) -> None:
    """A found character is in the name; without found characters the name is valid."""
    for _ in range(len(name)):
        found = find_invisible_character(name)
        if found is None:
            break
        assert found in name
        name = name.replace(found, '')
    assert find_invisible_character(name) is None
