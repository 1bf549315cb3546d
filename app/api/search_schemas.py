"""What goes over the wire when something is looked for: the question and the answer."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

from app.api.filter_schemas import DESCRIPTION, Filter, condition_of
from app.api.schemas import CollectionName, Shown
from app.pdf.text import clean
from app.services.searching import Found, LeftOut, Search
from app.storage.filters import SearchFilter
from app.storage.marks import Span
from app.storage.reach import Reach
from app.storage.search import Hit

MAX_QUERY_CHARACTERS = 2_000
MAX_DOCUMENT_IDS = 1_000
MAX_HITS = 100
MAX_GROUP_SIZE = 10
MAX_NEIGHBOURS = 3

_HIT_EXAMPLE: dict[str, JsonValue] = {
    "chunk_id": "01998c6e-8a52-7d41-8c11-0d8f4b6a7c55",
    "document_id": "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a00",
    "filename": "report-2025.pdf",
    "title": "Annual report 2025",
    "page_start": 57,
    "page_end": 57,
    "text": "Revenue grew by 12 % to 4.2 million.",
    "score": 0.0328,
    "boxes": [[57, 72.0, 90.5, 523.2, 102.1]],
    "heading": "Results of the year",
    "ordinal": 212,
    "matched": ["revenue", "grew"],
}
_NEIGHBOUR_EXAMPLE: dict[str, JsonValue] = {
    "ordinal": 213,
    "page_start": 57,
    "page_end": 58,
    "heading": "Results of the year",
    "text": "Costs stayed where they were.",
}


def _searchable(value: str) -> str:
    if not (cleaned := clean(value).strip()):
        raise ValueError("must not be empty")
    return cleaned


Query = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS), AfterValidator(_searchable)]
SearchMode = Literal["hybrid", "vector", "text"]


class SearchRequest(BaseModel):
    """What to look for, and where."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"query": "How did revenue develop?", "limit": 5},
                {
                    "query": "net sales by region",
                    "collection": "reports",
                    "filter": {"year": 2025},
                    "mode": "vector",
                    "min_score": 0.3,
                },
                {
                    "query": "who pays for repairs?",
                    "filter": {
                        "type": "and",
                        "filters": [
                            {"type": "gte", "key": "year", "value": 2024},
                            {"type": "in", "key": "department", "value": ["housing", "law"]},
                        ],
                    },
                    "group_by": "document",
                    "neighbours": 1,
                },
            ]
        },
    )

    query: Query = Field(
        description='A question or some words. In quotes (`"net asset value"`) words must follow one another.'
    )
    collection: CollectionName | None = Field(None, description="Search this collection only.")
    document_ids: list[UUID] | None = Field(
        None, max_length=MAX_DOCUMENT_IDS, description="Search these documents only."
    )
    filter: Filter | None = Field(None, description=DESCRIPTION)
    limit: int = Field(
        10, ge=1, le=MAX_HITS, description="The most hits to return; with `group_by` the most documents."
    )
    mode: SearchMode = Field(
        "hybrid", description="By meaning (`vector`), by words (`text`), or by both (`hybrid`)."
    )
    min_score: FiniteFloat | None = Field(
        None, description="Leave out hits with a lower score, before they are reranked."
    )
    group_by: Literal["document"] | None = Field(
        None,
        description="Return documents, each with its best hits, instead of hits. The "
        f"{MAX_HITS} best hits are grouped, so that there may be fewer documents than `limit`.",
    )
    group_size: int = Field(
        3, ge=1, le=MAX_GROUP_SIZE, description="The most hits of a document, with `group_by`."
    )
    neighbours: int = Field(
        0,
        ge=0,
        le=MAX_NEIGHBOURS,
        description="Chunks before and after each hit to return with it, for those who feed a model.",
    )
    explain: bool = Field(False, description="Return the parts of each hit's score, and its places.")
    highlight: bool = Field(
        False, description="Return where in each hit's text the words of the query stand, in all their forms."
    )

    def search(self, reach: Reach) -> Search:
        """What the service is asked, for a caller to whom nothing else is there."""
        return Search(
            query=self.query,
            mode=self.mode,
            filter=SearchFilter(
                collection=self.collection,
                document_ids=None if self.document_ids is None else tuple(self.document_ids),
                condition=None if self.filter is None else condition_of(self.filter),
                reach=reach,
            ),
            limit=self.limit,
            min_score=self.min_score,
            group_size=None if self.group_by is None else self.group_size,
            neighbours=self.neighbours,
        )


class SearchNeighbour(Shown):
    """A chunk before or after a hit, in the same version of the document."""

    ordinal: int = Field(description="Its place in the document, from 0.")
    page_start: int = Field(description="First page of the chunk, counted from 1.")
    page_end: int = Field(description="Last page of the chunk, counted from 1.")
    heading: str | None = Field(description="The heading of the section it is from.")
    text: str = Field(description="The chunk's text.")


def _is_unasked(value: object) -> bool:
    return value is None


class SearchHit(BaseModel):
    """A chunk that was found."""

    chunk_id: UUID = Field(description="The chunk.")
    document_id: UUID = Field(description="Its document.")
    filename: str = Field(description="The name under which the document was uploaded.")
    title: str | None = Field(description="The title the PDF gives itself.")
    page_start: int = Field(description="First page of the chunk, counted from 1.")
    page_end: int = Field(description="Last page of the chunk, counted from 1.")
    text: str = Field(description="The chunk's text.")
    score: float = Field(
        description="Higher is better, 0 to 1; under 0.3 there is mostly no answer. In `vector`, the cosine "
        "similarity; with a reranker, its score."
    )
    boxes: list[tuple[int, float, float, float, float]] = Field(
        description="Where its lines are: page, left, top, right, bottom, in points from the top left."
    )
    heading: str | None = Field(description="The heading of the section it is from.")
    ordinal: int = Field(description="Its place in the document, from 0.")
    matched: list[str] = Field(description="The words of the query that were found in it.")
    marks: list[tuple[int, int]] | None = Field(
        None,
        exclude_if=_is_unasked,
        description="With `highlight`: from where to where in `text` words of the query stand, in characters "
        "(Unicode code points) from 0, in order and apart.",
    )
    neighbours: list[SearchNeighbour] | None = Field(
        None,
        exclude_if=_is_unasked,
        description="With `neighbours`: the chunks before and after it, in their order, without itself.",
    )
    explain: dict[str, float] | None = Field(
        None, exclude_if=_is_unasked, description="With `explain`: the parts of its score, by their names."
    )
    places: dict[str, int] | None = Field(
        None,
        exclude_if=_is_unasked,
        description="With `explain`: its place, 1 is best, by its `words` alone and by its `vector` alone, "
        "among all chunks that were compared.",
    )

    @classmethod
    def of(cls, hit: Hit, marks: Sequence[Span] | None, *, explain: bool) -> Self:
        shaped = {"boxes", "matched", "marks", "neighbours", "explain", "places"}
        return cls(
            **{name: getattr(hit, name) for name in cls.model_fields.keys() - shaped},
            boxes=[(page, *box) for page, box in hit.boxes],
            matched=list(hit.matched),
            marks=None if marks is None else list(marks),
            neighbours=None
            if hit.neighbours is None
            else [SearchNeighbour.of(one) for one in hit.neighbours],
            explain=hit.explain if explain else None,
            places=hit.places if explain else None,
        )


class DocumentHits(BaseModel):
    """A document in which something was found."""

    document_id: UUID = Field(description="The document.")
    filename: str = Field(description="The name under which it was uploaded.")
    title: str | None = Field(description="The title the PDF gives itself.")
    score: float = Field(description="That of its best hit.")
    hits: list[SearchHit] = Field(description="Its best hits, best first.")

    @classmethod
    def of(cls, hits: list[SearchHit]) -> Self:
        """Of one document's hits, best first."""
        best = hits[0]
        return cls(
            document_id=best.document_id,
            filename=best.filename,
            title=best.title,
            score=best.score,
            hits=hits,
        )


class SearchResults(BaseModel):
    """What was found, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"data": [_HIT_EXAMPLE], "mode": "hybrid", "took_ms": 4.7, "degraded": []},
                {
                    "data": [
                        {
                            **{
                                name: _HIT_EXAMPLE[name]
                                for name in DocumentHits.model_fields
                                if name != "hits"
                            },
                            "hits": [{**_HIT_EXAMPLE, "neighbours": [_NEIGHBOUR_EXAMPLE]}],
                        }
                    ],
                    "mode": "hybrid",
                    "took_ms": 5.1,
                    "degraded": [],
                },
            ]
        }
    )

    data: list[SearchHit] | list[DocumentHits] = Field(
        description="The hits, best first; with `group_by` the documents; empty when nothing was found."
    )
    mode: SearchMode = Field(description="How it was searched.")
    took_ms: float = Field(description="Milliseconds it took, the query's embedding included.")
    degraded: list[LeftOut] = Field(
        description="What failed and was left out: without `embedder`, words alone were searched; without "
        "`reranker`, hits keep the order of the search."
    )

    @classmethod
    def of(
        cls,
        found: Found,
        wanted: SearchRequest,
        marks: Mapping[UUID, Sequence[Span]] | None,
        took_seconds: float,
    ) -> Self:
        hits = [
            SearchHit.of(hit, None if marks is None else marks[hit.chunk_id], explain=wanted.explain)
            for hit in found.hits
        ]
        return cls(
            data=hits if wanted.group_by is None else _by_document(hits),
            mode=wanted.mode,
            took_ms=round(took_seconds * 1000, 1),
            degraded=list(found.degraded),
        )


def _by_document(hits: list[SearchHit]) -> list[DocumentHits]:
    return [DocumentHits.of(list(own)) for _, own in groupby(hits, key=lambda hit: hit.document_id)]
