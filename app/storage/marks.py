"""Where the words of a question stand in the texts that were found: by their lexemes, as they were found.

Postgres' ts_headline reads a text as it is, while what is looked up is made of its canonical form: in scripts
without spaces it finds no word, and no `10-K`. So words are cut out here, and compared there.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Self
from uuid import UUID

from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.canonical import UNSPACED, canonical, letters_of
from app.storage.languages import CONFIG_OF_OLD, question_words, text_search_vector
from app.storage.search import Hit

Span = tuple[int, int]  # from and to, in characters

_RUN: Final = re.compile(r"\S+")  # as str.split() cuts
# All but spaces and signs: letters, digits, and what belongs to a letter (\w leaves out the vowels of Hindi).
_WORD: Final = re.compile(
    r"[^\s\x00-/:-@\[-`{-\xa9\xab-\xb1\xb4\xb6-\xb8\xbb-\xbf\xd7\xf7\u2000-\u206f\u2190-\u2bff"
    r"\u3000-\u3004\u3008-\u3020\u3030\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)

_FITTING: Final = f"""
    WITH asked AS MATERIALIZED (
        SELECT array_agg(DISTINCT lexeme) AS lexemes FROM ({question_words("CAST(:question AS text)")}) word
    ), config_of AS MATERIALIZED (
        SELECT d.id, CAST(coalesce(i.text_search_config, '{CONFIG_OF_OLD}') AS regconfig) AS config
        FROM documents d JOIN versions i ON i.id = d.live_ingestion_id
        WHERE d.id = ANY(CAST(:document_ids AS uuid[]))
    ), form AS MATERIALIZED (
        SELECT DISTINCT config, form FROM unnest(CAST(:documents AS uuid[]), CAST(:forms AS text[]))
            AS cut(document_id, form) JOIN config_of ON config_of.id = document_id
    ), fitting AS MATERIALIZED (
        SELECT config, form FROM form, asked
        WHERE tsvector_to_array({text_search_vector("config", "form")}) && lexemes
    )
    SELECT config_of.id AS document_id, form FROM fitting JOIN config_of USING (config)
"""


@dataclass(frozen=True, slots=True)
class _Run:
    """What stands between two spaces: the form it is looked up in, and its parts, if several, with theirs."""

    form: str
    whole: Span
    parts: tuple[tuple[Span, str], ...]

    @classmethod
    def of(cls, run: str) -> Self:
        spans = list(_parts(run)) or [(0, len(run))]
        whole = spans[0][0], spans[-1][1]
        parts = [(span, _form(run[slice(*span)])) for span in spans] if len(spans) > 1 else []
        return cls(_form(run[slice(*whole)]), whole, tuple(parts))

    def marks(self, fitting: Collection[str]) -> list[Span]:
        """Those of its parts that fit, or all of it: of `10-K` no part does."""
        if self.form not in fitting:
            return []
        return [span for span, form in self.parts if form in fitting] or [self.whole]


async def find_marks(
    connection: AsyncConnection, hits: Sequence[Hit], question: str
) -> dict[UUID, list[Span]]:
    """Of each chunk the spans to mark, in order, none touching another."""
    if not hits:
        return {}
    runs: dict[str, _Run] = {}
    forms = defaultdict[UUID, set[str]](set)
    for hit in hits:
        for text in set(hit.text.split()):
            if (run := runs.get(text)) is None:
                run = runs[text] = _Run.of(text)
            forms[hit.document_id].update((run.form, *(form for _, form in run.parts)))
    fitting = await _fitting(connection, forms, question)
    return {hit.chunk_id: _marks(hit.text, runs, fitting[hit.document_id]) for hit in hits}


async def _fitting(
    connection: AsyncConnection, forms: Mapping[UUID, Collection[str]], question: str
) -> Mapping[UUID, Collection[str]]:
    """Those of the forms in each document that the question asks for."""
    found = await connection.execute(
        sql(_FITTING),
        {
            "question": canonical(question),
            "document_ids": list(forms),
            "documents": [document_id for document_id, own in forms.items() for _ in own],
            "forms": [form for own in forms.values() for form in own],
        },
    )
    fitting = defaultdict[UUID, set[str]](set)
    for row in found:
        fitting[row.document_id].add(row.form)
    return fitting


def _marks(text: str, runs: Mapping[str, _Run], fitting: Collection[str]) -> list[Span]:
    marks: list[Span] = []
    for run in _RUN.finditer(text):
        for span in runs[run[0]].marks(fitting):
            start, end = (run.start() + place for place in span)
            if marks and start <= marks[-1][1]:
                marks[-1] = (marks[-1][0], end)
            else:
                marks.append((start, end))
    return marks


def _form(text: str) -> str:
    """Its canonical form, which plain words have already: most of a text."""
    return text if text.isascii() and text.isalpha() else canonical(text)


def _parts(run: str) -> Iterator[Span]:
    """Its words, without the signs around them; of a script without spaces, pairs of characters."""
    for word in _WORD.finditer(run):
        at = word.start()
        for unspaced in UNSPACED.finditer(run, *word.span()):
            if at < unspaced.start():
                yield at, unspaced.start()
            yield from _pairs(unspaced)
            at = unspaced.end()
        if at < word.end():
            yield at, word.end()


def _pairs(unspaced: re.Match[str]) -> Iterator[Span]:
    ends = list(accumulate(map(len, letters_of(unspaced[0])), initial=unspaced.start()))
    return zip(ends, ends[2:] or ends[1:], strict=False)
