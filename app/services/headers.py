"""The line above a chunk's text in what is embedded: which document and which section it is of.

A transformer reads the text in its light: a page of figures says neither whose they are nor of which year.
In a sum of words' vectors the same line in every chunk of a document would only blur what tells them apart.
"""

import re

VERSION = 1  # raised by every change of this file that makes other lines

_LONGEST_PART = 120  # characters; titles that PDFs give themselves may be a thousand
_EXTENSION = re.compile(r"\.[A-Za-z]{1,4}$")
# An underscore, or a hyphen between two words of two letters or more: the one of 10-K stays.
_BETWEEN_WORDS = re.compile(r"_+|(?<=\w\w)-(?=\w\w)")
_INSIDE_CAMEL_CASE = re.compile(r"(?<=[a-z]{2})(?=[A-Z])|(?<=[A-Za-z]{3})(?=\d)|(?<=\d{4})(?=[A-Z])")


def header(filename: str, title: str | None, heading: str | None) -> str:
    """`annual_report-2025.pdf`, `Annual report`, `Revenue` → `annual report 2025 · Annual report · Revenue`.

    One line. What says the same as a part before it is left out.
    """
    parts: dict[str, str] = {}
    for part in (readable(filename), title or "", heading or ""):
        words = " ".join(part.split())[:_LONGEST_PART].strip()
        parts.setdefault(words.casefold(), words)
    return " · ".join(part for part in parts.values() if part)


def readable(filename: str) -> str:
    """A file's name as words, without its extension."""
    words = _BETWEEN_WORDS.sub(" ", _EXTENSION.sub("", filename))
    return _INSIDE_CAMEL_CASE.sub(" ", words)
