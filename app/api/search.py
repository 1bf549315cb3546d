"""Finding chunks by meaning, by words, or by both."""

from time import perf_counter

from fastapi import APIRouter

from app.api.dependencies import RAGDep
from app.api.problems import problem_responses
from app.api.schemas import SearchRequest, SearchResults
from app.errors import DatabaseUnavailable, EmbeddingFailed, InvalidQuery
from app.storage.filters import Containment, SearchFilter

router = APIRouter(tags=["search"])


@router.post("/search", responses=problem_responses(InvalidQuery, EmbeddingFailed, DatabaseUnavailable))
async def search(wanted: SearchRequest, rag: RAGDep) -> SearchResults:
    """Find the chunks that fit a question or some words, best first, among what is published."""
    began = perf_counter()
    document_ids = None if wanted.document_ids is None else tuple(wanted.document_ids)
    condition = None if wanted.filter is None else Containment(wanted.filter)
    hits = await rag.search(
        query=wanted.query,
        mode=wanted.mode,
        filter=SearchFilter(wanted.collection, document_ids, condition),
        limit=wanted.limit,
        min_score=wanted.min_score,
    )
    return SearchResults.of(hits, wanted.mode, perf_counter() - began)
