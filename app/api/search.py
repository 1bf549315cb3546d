"""Finding chunks by meaning, by words, or by both."""

from time import perf_counter

from fastapi import APIRouter

from app.api.dependencies import CallerDep, RAGDep
from app.api.problems import problem_responses
from app.api.search_schemas import SearchRequest, SearchResults
from app.errors import DatabaseUnavailable, InvalidQuery

router = APIRouter(tags=["search"])


@router.post("/search", responses=problem_responses(InvalidQuery, DatabaseUnavailable))
async def search(wanted: SearchRequest, rag: RAGDep, caller: CallerDep) -> SearchResults:
    """Find the chunks that fit a question or some words, best first, among what is published."""
    began = perf_counter()
    found = await rag.search(wanted.search(caller.reach))
    return SearchResults.of(found, wanted, perf_counter() - began)
