"""Finding chunks by meaning, by words, or by both."""

from time import perf_counter

from fastapi import APIRouter

from app.api.dependencies import RAGDep
from app.api.problems import problem_responses
from app.api.schemas import SearchRequest, SearchResults
from app.errors import DatabaseUnavailable, InvalidQuery
from app.storage.search import SearchFilter

router = APIRouter(tags=["search"])


@router.post("/search", responses=problem_responses(InvalidQuery, DatabaseUnavailable))
async def search(wanted: SearchRequest, rag: RAGDep) -> SearchResults:
    """Find the chunks that fit a question or some words, best first, among what is published."""
    began = perf_counter()
    document_ids = None if wanted.document_ids is None else tuple(wanted.document_ids)
    found = await rag.search(
        query=wanted.query,
        mode=wanted.mode,
        filter=SearchFilter(collection=wanted.collection, document_ids=document_ids, metadata=wanted.filter),
        limit=wanted.limit,
        min_score=wanted.min_score,
    )
    return SearchResults.of(found, wanted.mode, perf_counter() - began)
