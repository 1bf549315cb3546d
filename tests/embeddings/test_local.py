import asyncio
import logging
import subprocess
import sys
import time

import numpy as np
import pytest

from app.embeddings import EmbedderOptions, open_embedder
from app.embeddings.local import LocalEmbedder
from app.errors import EmbeddingFailed, EmbeddingRefused

EMBEDDER = LocalEmbedder()


async def test_vectors_are_float32_rows_of_length_1() -> None:
    vectors = await EMBEDDER.embed(["The sale of books.", "wine", "ein deutscher Satz"])
    assert vectors.shape == (3, 256)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


async def test_a_text_has_the_same_vector_alone_and_among_others() -> None:
    texts = [f"Text number {number} about {'finance ' * (number % 7)}" for number in range(300)]
    together = await EMBEDDER.embed(texts)
    for index in (0, 127, 128, 299):
        assert np.array_equal((await EMBEDDER.embed([texts[index]]))[0], together[index])


async def test_known_tokens_give_the_vectors_of_their_texts() -> None:
    embedder = LocalEmbedder()
    texts = ["The heron returned.", "Eels in the creek, № 7"]
    ids = [embedder.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert np.array_equal(await embedder.embed(texts, ids), await embedder.embed(texts))


async def test_similar_texts_have_similar_vectors() -> None:
    question, answer, other = await EMBEDDER.embed(
        [
            "How many people work for the company?",
            "As of December 31 the company had 341,400 full-time employees.",
            "The bridge was painted red and green by the city.",
        ]
    )
    assert question @ answer > question @ other + 0.1


@pytest.mark.parametrize(
    "text",
    ["☃☃☃", ".", "\u200b", " ", "\n", "\x00", "\ue000", "﷽", "😀", "\U0010ffff", "\u0301", "x" * 100_000],
)
async def test_a_text_of_odd_symbols_has_a_vector_too(text: str) -> None:
    vector = (await EMBEDDER.embed([text, "a word"]))[0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


async def test_no_token_has_a_vector_of_zeros() -> None:
    assert np.linalg.norm(EMBEDDER._token_vectors[:, :64], axis=1).min() > 0


async def test_an_empty_text_has_no_vector() -> None:
    with pytest.raises(EmbeddingFailed):
        await EMBEDDER.embed(["words", ""])


async def test_no_texts_give_no_vectors() -> None:
    assert (await EMBEDDER.embed([])).shape == (0, 256)


@pytest.mark.parametrize("dimensions", [64, 128])
async def test_shorter_vectors_are_the_beginning_of_the_long_ones(dimensions: int) -> None:
    async with open_embedder(EmbedderOptions(provider="local", dimensions=dimensions)) as embedder:
        assert embedder.identity.dimensions == dimensions
        short = (await embedder.embed(["The sale of books."]))[0]
    long = (await EMBEDDER.embed(["The sale of books."]))[0, :dimensions]
    np.testing.assert_allclose(short, long / np.linalg.norm(long), atol=1e-6)


@pytest.mark.parametrize("options", [{"dimensions": 100}, {"dimensions": 512}, {"model": "l3_supercat"}])
async def test_what_the_wheel_does_not_hold_is_refused(options: dict[str, int | str]) -> None:
    with pytest.raises(EmbeddingRefused, match="built-in embedder"):
        async with open_embedder(EmbedderOptions(provider="local", **options)):  # type: ignore[arg-type]
            pass


async def test_the_event_loop_goes_on_while_texts_are_embedded() -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    await EMBEDDER.embed(["a sentence of several words, " * 60] * 2_000)
    seconds = time.perf_counter() - start
    watching.cancel()
    assert longest < seconds / 3


def test_nothing_happens_on_import_and_opening_leaves_the_logging_alone() -> None:
    script = (
        "import logging, sys, app.embeddings.local as local\n"
        "assert 'wordllama' not in sys.modules\n"
        "local.LocalEmbedder()\n"
        "assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING\n"
        "assert 'requests' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert logging.getLogger("wordllama").handlers == []
