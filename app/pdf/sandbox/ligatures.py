"""Ligatures for which pdfium knows no character, or a wrong one: without them `difficult` is `dicult`.

Of TeX's fonts it knows their place only, where they are pictures (Type 3) or have names of their own, like
`f_f_i`. Where macOS has written such fonts anew `ff` is an arrow, longer ones are nothing: `di↵erent`.
"""

import re

# By their places in fonts of 1979, and in those of Cork (1990).
OF_CORK = {"\x1b": "ff", "\x1c": "fi", "\x1d": "fl", "\x1e": "ffi", "\x1f": "ffl"}
OF_TEX = {"\x0b": "ff", "\x0c": "fi", "\r": "fl", "\x0e": "ffi", "\x0f": "ffl"} | OF_CORK
_PLACE = "(?:[\x0b\x0c\x0e\x0f\x1b-\x1f]|\r(?!\n))"
_LATIN = "[A-Za-z\u00c0-\u00ff]"
# Beside a letter; pdfium ends lines with \r and \n.
_PLACES = re.compile(f"(?<={_LATIN}){_PLACE}|{_PLACE}(?={_LATIN})")


_MISNAMED = re.compile("(?<=[A-Za-z])(?:(?P<ff>\u21b5)|\x00(?P<ffl>(?=[aeiouy]))?)(?=[a-z])")


def misnamed_in(text: str) -> dict[int, str]:
    """Those of macOS in the text of a page, by place. `ffl` stands before a vowel, `ffi` before none."""
    if "\u21b5" not in text and "\x00" not in text:
        return {}
    return {found.start(): found.lastgroup or "ffi" for found in _MISNAMED.finditer(text)}


def places_in(text: str) -> list[int]:
    """Where in the text of a page a ligature may be."""
    if text.count("\r") == text.count("\n") and not any(place in text for place in OF_TEX if place != "\r"):
        return []
    return [found.start() for found in _PLACES.finditer(text)]
