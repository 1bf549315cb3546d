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
    asked = wanted.search(caller.reach)
    found = await rag.search(asked)
    marks = await rag.marks(found, asked) if wanted.highlight else None
    return SearchResults.of(found, wanted, marks, perf_counter() - began)
