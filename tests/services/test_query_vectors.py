"""Questions that are asked again."""

import numpy as np
import pytest

from app.embeddings.local import LocalEmbedder
from app.errors import EmbeddingFailed
from app.services.query_vectors import QueryVectors


class CountingEmbedder(LocalEmbedder):
    """The built-in one, which notes what it is asked and can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.is_failing = False

    async def embed_query(self, text: str) -> np.ndarray:
        self.asked.append(text)
        if self.is_failing:
            raise EmbeddingFailed
        return await super().embed_query(text)


@pytest.fixture(scope="module")
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


async def test_a_question_that_was_asked_is_known_with_the_same_vector(embedder: CountingEmbedder) -> None:
    vectors = QueryVectors(embedder)
    assert vectors.known("the tide") is None
    vector = await vectors.embedded("the tide")
    assert vectors.known("the tide") is vector
    assert vectors.known("The tide") is None


async def test_the_one_not_asked_for_longest_is_forgotten(embedder: CountingEmbedder) -> None:
    vectors = QueryVectors(embedder, most=2)
    await vectors.embedded("one")
    await vectors.embedded("two")
    assert vectors.known("one") is not None
    await vectors.embedded("three")
    assert [vectors.known(query) is not None for query in ("one", "two", "three")] == [True, False, True]


async def test_a_failure_is_not_remembered(embedder: CountingEmbedder) -> None:
    vectors = QueryVectors(embedder)
    embedder.is_failing = True
    with pytest.raises(EmbeddingFailed):
        await vectors.embedded("the tide")
    embedder.is_failing = False
    assert vectors.known("the tide") is None
    assert (await vectors.embedded("the tide")).any()
