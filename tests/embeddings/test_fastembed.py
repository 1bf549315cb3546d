"""Embedding with a real transformer in this process."""

import asyncio
import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fpdf import FPDF
from sqlalchemy import text as sql

from app.config import Settings
from app.embeddings import EmbedderOptions, open_embedder
from app.embeddings.base import EmbeddingIdentity
from app.embeddings.fastembed import FastEmbedEmbedder
from app.errors import EmbeddingFailed, EmbeddingRefused
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.resources import open_services
from app.services.searching import Search
from app.storage.chunks import embeddings_table
from tests.databases import migrated
from tests.embeddings.minilm import needs_models, write_minilm

SALES = "Net sales grew by twelve percent to four million dollars."
SALMON = "Salmon swim up the river to spawn in the autumn."
BREAD = "Bake the bread in a hot oven with flour, water and salt."
PASSAGES = [SALES, SALMON, BREAD]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_minilm(tmp_path_factory.mktemp("models") / "minilm")


@pytest.fixture(scope="module")
def embedder(folder: Path) -> FastEmbedEmbedder:
    return FastEmbedEmbedder(folder=folder)


def copy_of(folder: Path, to: Path, **files: dict[str, Any]) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).symlink_to(path)
    for name, content in files.items():
        path = to / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))
    return to


@needs_models
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How did revenue develop during the year?", SALES),
        ("Which fish returns from the sea?", SALMON),
        ("How is a loaf made?", BREAD),
    ],
)
async def test_a_question_is_nearest_to_the_passage_that_answers_it(
    embedder: FastEmbedEmbedder, question: str, answer: str
) -> None:
    vectors = await embedder.embed(PASSAGES)
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    query = await embedder.embed_query(question)
    assert query.shape == (384,)
    similar = vectors @ query
    assert PASSAGES[int(similar.argmax())] == answer
    assert np.sort(similar)[-1] > np.sort(similar)[-2] + 0.1


@needs_models
async def test_a_vector_does_not_depend_on_the_texts_beside_it(embedder: FastEmbedEmbedder) -> None:
    together = await embedder.embed([*PASSAGES, "word " * 300])
    for place, text in enumerate(PASSAGES):
        assert np.array_equal((await embedder.embed([text]))[0], together[place])
    assert (await embedder.embed([])).shape == (0, 384)


@needs_models
def test_a_folder_tells_what_its_model_is(embedder: FastEmbedEmbedder) -> None:
    assert embedder.identity == EmbeddingIdentity("fastembed", "minilm", 384)
    assert (embedder.max_tokens, embedder.passage_prefix, embedder.is_contextual) == (512, "", True)
    assert len(embedder.tokenizer.encode("word " * 2_000)) == 2_002


@needs_models
async def test_a_name_and_a_folder_are_the_named_model_without_a_download(
    embedder: FastEmbedEmbedder, folder: Path
) -> None:
    named = FastEmbedEmbedder(model="sentence-transformers/all-MiniLM-L6-v2", folder=folder)
    assert named.identity == EmbeddingIdentity("fastembed", "sentence-transformers/all-MiniLM-L6-v2", 384)
    np.testing.assert_allclose(await named.embed(PASSAGES), await embedder.embed(PASSAGES), atol=1e-6)


@needs_models
async def test_the_folder_says_how_tokens_become_a_vector(
    embedder: FastEmbedEmbedder, folder: Path, tmp_path: Path
) -> None:
    first_token = copy_of(folder, tmp_path / "cls", **{"1_Pooling__config": {"pooling_mode_cls_token": True}})
    mean = copy_of(folder, tmp_path / "mean", **{"1_Pooling__config": {"pooling_mode": "mean"}})
    expected = await embedder.embed([SALES])
    assert not np.allclose(await FastEmbedEmbedder(folder=first_token).embed([SALES]), expected, atol=0.01)
    assert np.array_equal(await FastEmbedEmbedder(folder=mean).embed([SALES]), expected)


@needs_models
async def test_prefixes_are_the_settings_or_those_the_model_asks_for(
    embedder: FastEmbedEmbedder, folder: Path, tmp_path: Path
) -> None:
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    asking = copy_of(folder, tmp_path / "asking", config_sentence_transformers=prompts)
    for prefixed in (
        FastEmbedEmbedder(folder=asking),
        FastEmbedEmbedder(folder=folder, query_prefix="query: ", passage_prefix="passage: "),
    ):
        assert prefixed.passage_prefix == "passage: "
        assert np.array_equal(await prefixed.embed([SALES]), await embedder.embed([f"passage: {SALES}"]))
        assert np.array_equal(
            await prefixed.embed_query(SALES), await embedder.embed_query(f"query: {SALES}")
        )
    known = FastEmbedEmbedder(model="nomic-ai/nomic-embed-text-v1.5", folder=folder)
    assert known.passage_prefix == "search_document: "


@needs_models
async def test_the_event_loop_goes_on_while_a_model_is_loaded_and_embeds(folder: Path) -> None:
    async with open_embedder(EmbedderOptions(provider="fastembed", model_path=folder)) as embedder:
        work = asyncio.gather(*(embedder.embed([text] * 5) for text in PASSAGES))
        longest = 0.0
        while not work.done():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)
        first, second, third = await work
    assert longest < 0.5
    assert np.array_equal(first[0], first[4])
    assert not np.allclose(second[0], third[0], atol=0.1)


@needs_models
@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"model": "nobody/knows-this"}, "fastembed has no model nobody/knows-this"),
        ({"dimensions": 256}, "set EMBEDDING_DIMENSIONS=384"),
        ({"folder": Path("/nowhere/at-all")}, "There is no model.onnx in the folder of the model at-all"),
    ],
)
def test_options_that_cannot_be_met_are_refused(folder: Path, wanted: dict[str, Any], sentence: str) -> None:
    options = wanted if "model" in wanted else {"folder": folder} | wanted
    with pytest.raises(EmbeddingRefused, match=sentence):
        FastEmbedEmbedder(**options)


@needs_models
@pytest.mark.parametrize("broken", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_folder_with_a_broken_file_is_refused(folder: Path, tmp_path: Path, broken: str) -> None:
    copied = copy_of(folder, tmp_path / "broken")
    (copied / broken).unlink()
    (copied / broken).write_text("{")
    with pytest.raises(EmbeddingRefused, match="model broken"):
        FastEmbedEmbedder(folder=copied)


@needs_models
async def test_weights_that_are_none_are_refused_at_the_first_text(folder: Path, tmp_path: Path) -> None:
    copied = copy_of(folder, tmp_path / "broken")
    (copied / "model.onnx").unlink()
    (copied / "model.onnx").write_bytes(b"no weights")
    embedder = FastEmbedEmbedder(folder=copied)
    with pytest.raises(EmbeddingRefused, match="broken could not be loaded"):
        await embedder.embed(["text"])


@needs_models
async def test_a_folder_whose_size_is_told_wrongly_is_refused(folder: Path, tmp_path: Path) -> None:
    lying = copy_of(folder, tmp_path / "lying", **{"1_Pooling__config": {"word_embedding_dimension": 512}})
    with pytest.raises(EmbeddingRefused, match="makes vectors of 384 values, not the 512"):
        await FastEmbedEmbedder(folder=lying).embed_query("text")


@needs_models
def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path))
    with pytest.raises(EmbeddingFailed, match=r"could not be downloaded.*EMBEDDING_MODEL_PATH") as caught:
        FastEmbedEmbedder()
    assert caught.value.retryable


@pytest.mark.skipif(find_spec("fastembed") is not None, reason="fastembed is installed here")
async def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(EmbeddingRefused, match=r"pip install '\.\[fastembed\]'"):
        async with open_embedder(EmbedderOptions(provider="fastembed", model_path=tmp_path)):
            pass


@pytest.fixture
async def settings(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path: Path) -> Settings:
    """Of a service whose model reads 32 tokens, many fewer than a chunk may have."""
    return Settings(
        _env_file=None,
        database_url=await migrated(postgres, "fastembed"),
        celery_broker_url=valkey.url,
        celery_result_backend=valkey.url,
        storage_url=(tmp_path / "files").as_uri(),
        ingest_folders=(tmp_path,),
        embedding_provider="fastembed",
        embedding_model_path=write_minilm(tmp_path / "narrow", max_tokens=32),
        embedding_passage_prefix="passage: ",
    )


@needs_models
async def test_a_document_is_found_by_what_only_its_name_and_its_headings_say(
    settings: Settings, tmp_path: Path
) -> None:
    names = ("salmon.pdf", "bread.pdf")
    for name in names:
        pdf = FPDF()
        pdf.set_font("helvetica", size=12)
        pdf.add_page()
        pdf.set_author(name)  # the same bytes would be the same document
        pdf.start_section("The first year")
        pdf.multi_cell(0, text=f"The first year\n{'It was a long year with many words. ' * 12}")
        pdf.output(str(tmp_path / name))
    async with open_services(settings) as services:
        for name in names:
            assert await services.rag.ingest_pdf(str(tmp_path / name)) > 1
        for name, query in zip(names, ("fish in a river", "flour, water and an oven"), strict=True):
            found = await services.rag.search(Search(query=query, mode="vector", limit=1))
            assert found.hits[0].filename == name
        async with services.database.transaction() as connection:
            stored = (
                await connection.execute(
                    sql(
                        "SELECT text, tokens, e.embedding::text AS vector FROM chunks c JOIN"
                        f" {embeddings_table(services.space_id)} e ON e.chunk_id = c.id JOIN ingestions i"
                        " ON i.id = c.ingestion_id WHERE i.filename = 'bread.pdf' ORDER BY ordinal"
                    )
                )
            ).all()
        texts = [f"bread · The first year\n{chunk.text}" for chunk in stored]
        embedder = services.rag.pipeline.embedder
        vectors = await embedder.embed(texts)
        for chunk, text, vector in zip(stored, texts, vectors, strict=True):
            np.testing.assert_allclose(json.loads(chunk.vector), vector, atol=1e-3)
            assert chunk.tokens == len(embedder.tokenizer.encode(f"passage: {text}")) <= 32
