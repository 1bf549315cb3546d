"""Ligatures of TeX's fonts that are pictures (Type 3): pdfium knows no character for them, only their place.

Without them `difficult` is `dicult`, which no question finds.
"""

import re

# By their places in fonts of 1979, and in those of Cork (1990).
OF_TEX = {
    "\x0b": "ff", "\x0c": "fi", "\r": "fl", "\x0e": "ffi", "\x0f": "ffl",
    "\x1b": "ff", "\x1c": "fi", "\x1d": "fl", "\x1e": "ffi", "\x1f": "ffl",
}  # fmt: skip
_PLACE = "(?:[\x0b\x0c\x0e\x0f\x1b-\x1f]|\r(?!\n))"
_LATIN = "[A-Za-z\u00c0-\u00ff]"
# Beside a letter; pdfium ends lines with \r and \n.
_PLACES = re.compile(f"(?<={_LATIN}){_PLACE}|{_PLACE}(?={_LATIN})")


def places_in(text: str) -> list[int]:
    """Where in the text of a page a ligature may be."""
    if text.count("\r") == text.count("\n") and not any(place in text for place in OF_TEX if place != "\r"):
        return []
    return [found.start() for found in _PLACES.finditer(text)]
