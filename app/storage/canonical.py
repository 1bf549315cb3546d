"""The one form in which words are looked up: of chunks, headings, titles, file names and questions alike.

It replaces and never adds, and what it does to one side it does to the other, so that a shape it does not
know is only as hard to find as it was before. Stemming, and folding of accents after it, follow in the
database (see languages.py): stemmers need accents, since `informação` and `informações` share a stem and
`informacao` and `informacoes` do not.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import Final

# Ends the recipe of chunks whose words are in this form, and counts up when it changes: what is half stored
# in another one is begun again, what is published in one is brought along.
RECIPE: Final = " words 2"

_YEAR = r"(?:19|20)\d\d"


def canonical(text: str, *, is_name: bool = False) -> str:
    """The text in its canonical form; plain words come back as they are.

    - `FY18`, `FY2018` → `FY 2018`; `2023Q2`, `Q22023`, `2Q23` → `2023 Q2`; `H2O`, `1st` stay.
    - A number and a single letter are one word: `10-K` → `10K`, `F-16` → `F16` (Postgres reads -16 there).
    - A number and more letters are two: `RFC2616` → `RFC 2616`, `10GB` → `10 GB`, `401k` → `401 k`.
    - Thousands stand together, decimals behind a point: `1,234,567` → `1234567`, `1.234,5` → `1234.5`,
      `.05` → `0.05`. A sign before a number goes, and so does the v of a version: `-40` → `40`.
    - `U.K.` → `UK`, `AT&T` → `ATT`, `R & D` → `RD`. `U.S.` and `US` → `USA`, since `us` is a stop word.
    - Any other hyphen before a digit, a slash or dot beside a letter, an underscore, an ampersand and the
      brackets of tags separate: `COVID 19`, `Art 5`, `example com`. The parts of a date do: `12 31 2016`.
    - Compatibility forms (NFKC), ligatures, `ß` and curly apostrophes are spelled out, invisible characters
      go. Dashes, quotes and other signs beyond ASCII separate: with the C locale Postgres takes them for
      letters, and `“risk”` for another word than `risk`.
    - Scripts without spaces, and Korean, which glues particles to its words, are cut into overlapping pairs.

    In the name of a file, camel case, dots and hyphens separate words too, and `.pdf` is left out.
    """
    if not text.isascii():
        text = _ODD.sub(_instead, unicodedata.normalize("NFKC", text))
        text = UNSPACED.sub(_pairs, text)
    if is_name:
        text = _in_name(text)
    if "&" in text:
        text = _AMPERSAND.sub(r"\1\2", text)
    runs = text.split()
    shaped = {
        run: form for run in runs if (run == "US" or not run.isalpha()) and (form := _shaped(run)) != run
    }
    return " ".join([shaped.get(run, run) for run in runs]) if shaped else text


_SPELLED: Final = {
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE",
    "\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2010": "-", "\u2212": "-",
}  # fmt: skip
_ODD: Final = re.compile(r"[^\w\s\x00-\x7f]|[ßẞæÆœŒ\u02bc]")


def _instead(odd: re.Match[str]) -> str:
    character = odd[0]
    if (spelled := _SPELLED.get(character)) is not None:
        return spelled
    category = unicodedata.category(character)
    if category[0] == "M":  # a vowel or accent that belongs to the letter before it
        return character
    return "" if category == "Cf" else " "


UNSPACED: Final = re.compile(
    "["
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf"  # Thai, Lao
    "\u1000-\u103f\u1050-\u109d\u1780-\u17d3"  # Burmese, Khmer
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f"  # Kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul
    "]+"
)


def _pairs(run: re.Match[str]) -> str:
    """`東京都` → ` 東京 京都 `; a single character stays one."""
    letters = letters_of(run[0])
    pairs = [first + second for first, second in pairwise(letters)]
    return f" {' '.join(pairs or letters)} "


def letters_of(run: str) -> list[str]:
    """Its characters; marks stay with the letter they belong to."""
    letters: list[str] = []
    for character in run:
        if letters and unicodedata.category(character)[0] == "M":
            letters[-1] += character
        else:
            letters.append(character)
    return letters


_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_YEAR_IN_NAME: Final = re.compile(rf"(?<=[a-zA-Z])(?={_YEAR}(?!\d))|(?<=(?<!\d){_YEAR})(?=[a-zA-Z]{{2}})")
_SEPARATOR_IN_NAME: Final = re.compile(r"(?<!\d)\.|\.(?!\d)|-(?![a-zA-Z0-9]\b)(?<!\b[a-zA-Z]-)")


def _in_name(name: str) -> str:
    """`AppleReport2018_10-K.pdf` → `Apple Report 2018_10-K`: what is left is a matter of the shapes."""
    if name.lower().endswith(".pdf"):
        name = name[:-4]
    name = _ACRONYM.sub(_without_dots, name)
    name = _SEPARATOR_IN_NAME.sub(" ", _CAMEL.sub(" ", name))
    return _YEAR_IN_NAME.sub(" ", name)


@lru_cache(maxsize=10_000)
def _shaped(run: str) -> str:
    """What stands between two spaces; the same numbers and names come again and again."""
    if not _MAY_HAVE_SHAPES.search(run):
        return run
    run = _ACRONYM.sub(_without_dots, run).translate(_SEPARATORS)
    run = _SEPARATING_DOT.sub(" ", _SLASH.sub(" ", run))
    run = _GROUPED.sub(_joined, run)
    for shape, replacement in _SHAPES:
        run = shape.sub(replacement, run)
    return run


def _without_dots(acronym: re.Match[str]) -> str:
    """`us` is a stop word, so the country has another name."""
    letters = acronym[0].replace(".", "")
    return "USA" if letters.upper() == "US" else letters


def _joined(number: re.Match[str]) -> str:
    """`1,234,567` → `1234567`; `1.234,5` → `1234.5`."""
    whole, comma, rest = number[0].replace("'", "").rpartition(",")
    if comma and ("." in whole or len(rest) < 3):
        return f"{whole.replace('.', '')}.{rest}"
    return (whole + rest).replace(",", "").replace(".", "")


_MAY_HAVE_SHAPES: Final = re.compile(r"[0-9&<>_/]|\.\w|\bUS\b|\b[eE]-")
# Single letters, each with a dot but perhaps the last: no beginning of a host's name.
_ACRONYM: Final = re.compile(r"(?<![\w.])(?:[A-Za-z]\.)+[A-Za-z]\b(?!\.?\w)\.?|\bUS\b", re.ASCII)
_AMPERSAND: Final = re.compile(r"\b([A-Za-z]{1,2}) ?& ?([A-Za-z]{1,2})\b", re.ASCII)
_SEPARATORS: Final = str.maketrans("_&<>", "    ")
_SEPARATING_DOT: Final = re.compile(r"(?<=[^\W\d])\.(?=\w)|(?<=\d)\.(?=[^\W\d])")
_SLASH: Final = re.compile(r"(?<!\d)/|/(?!\d)")
_GROUPED: Final = re.compile(
    r"(?<![\w.,'])(?:"
    r"\d{1,3}(?:,\d{3})+(?![,']?\d)|\d{1,3}(?:'\d{3})+(?![,']?\d)"  # 1,234,567.8 and 1'234'567.8
    r"|\d{1,3}(?:\.\d{3}){2,}(?![.']?\d)(?:,\d+)?"  # 1.234.567,8
    r"|(?:\d{1,3}(?:\.\d{3})+|\d+),\d\d?(?![,.']?\d)"  # 1.234,5
    r")",
    re.ASCII,
)
_SHAPES: Final = [
    (re.compile(shape, re.ASCII | re.IGNORECASE), replacement)
    for shape, replacement in (
        (rf"\b(\d\d?)([./])(\d\d?)\2({_YEAR})\b", r"\1 \3 \4"),
        (r"\bv(?=\d+\.\d)|(?<![\w)])[-+](?=\.?\d)|(?<=\be)-(?=[a-z]{3})", ""),
        (r"(?<![\w.])\.(?=\d)", "0."),
        (r"\b([A-Z]Y)[-']?([0-6]\d)\b", r"\1 20\2"),
        (r"\b([A-Z]Y)[-']?([7-9]\d)\b", r"\1 19\2"),
        (r"\b(\d)([QH])'?(\d\d)\b", r"20\3 \2\1"),
        (rf"\b(\d)([A-Z])({_YEAR})\b", r"\3 \2\1"),
        (rf"\b([A-Z]\d)({_YEAR})\b", r"\2 \1"),
        (rf"\b([A-Z]{{2,}})({_YEAR})(?=\b|[A-Z]\d\b)", r"\1 \2"),
        (rf"\b({_YEAR})([A-Z]\d)\b", r"\1 \2"),
        (r"\b(\d{1,3})-([A-Z])\b", r"\1\2"),
        (r"\b([A-Z])-(\d{1,3})\b", r"\1\2"),
        (r"(?<=[A-Z0-9])-(?=\d)", " "),
        (r"\b([A-Z]{3,}(?=\d)|[A-Z]{2}(?=\d\d))(\d+)\b", r"\1 \2"),
        (r"(?<=\d)(?!(?:st|nd|rd|th)\b)(?=[A-Z]{2,}\b)|(?<=\d{3})(?=[A-Z]\b)", " "),
    )
]
