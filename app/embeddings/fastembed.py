"""Embedding in this process with a transformer, by fastembed (the extra of that name): ONNX on the CPU.

The library takes a second to import and its models 100 MB and more of memory, so both wait for a thread: the
files until the embedder is opened, the model until the first text.
"""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.embeddings.base import EmbeddingIdentity, TokenIds, unit_rows
from app.embeddings.model_files import ModelFolder, load_model, loading
from app.errors import EmbeddingRefused
from app.metrics import counters

MODEL = "BAAI/bge-small-en-v1.5"

_SEARCH = "Represent this sentence for searching relevant passages: "
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
# How a name begins → what goes before a query and a passage by the model's card; fastembed adds none.
_PREFIXES = {
    "baai/bge-small-zh": ("为这个句子生成表示以用于检索相关文章：", ""),  # noqa: RUF001 - the model's own
    "baai/bge-": (_SEARCH, ""),
    "google/embeddinggemma": ("task: search result | query: ", "title: none | text: "),
    "intfloat/multilingual-e5": ("query: ", "passage: "),
    "mixedbread-ai/mxbai-embed-large": (_SEARCH, ""),
    "nomic-ai/nomic-embed-text": ("search_query: ", "search_document: "),
    "qdrant/stella-en": (f"{_INSTRUCT}.\nQuery: ", ""),
    "qwen/qwen3-embedding": (f"{_INSTRUCT}\nQuery:", ""),
    "snowflake/snowflake-arctic-embed": (_SEARCH, ""),
}


class FastEmbedEmbedder:
    """One of fastembed's models by its name, or the one of a folder, which is not looked for anywhere else.

    One text at a time: measured with all-MiniLM-L6-v2 (int8) that is 23 chunks/s a core in 380 MB, batches
    of 64 are half as fast in 1,300 MB; and a vector does not depend on the texts beside it.
    """

    is_contextual = True

    def __init__(
        self,
        *,
        model: str | None = None,
        folder: Path | None = None,
        dimensions: int | None = None,
        threads: int = 1,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
    ) -> None:
        """Finds the files, or downloads them: seconds to minutes, and a folder is read at once.

        Raises EmbeddingRefused for settings that cannot work, EmbeddingFailed for a download that failed.
        """
        files = ModelFolder(folder) if folder else None
        name = model or (files.name if files else MODEL)
        self._model = load_model("text", name, files, threads)
        made = self._model.embedding_size
        if dimensions not in (None, made):
            raise EmbeddingRefused(f"{name} makes vectors of {made} values: set EMBEDDING_DIMENSIONS={made}.")
        self.identity = EmbeddingIdentity("fastembed", name, made)
        query, passage = _prefixes(name, files)
        self._query_prefix = query if query_prefix is None else query_prefix
        self.passage_prefix = passage if passage_prefix is None else passage_prefix
        self.tokenizer, self.max_tokens = _tokenizer(name, self._model)
        self._is_loaded = False
        self._one_loads = threading.Lock()

    async def embed(self, texts: Sequence[str], token_ids: TokenIds | None = None) -> NDArray[np.float32]:
        """`(len(texts), dimensions)` float32, each row of length 1, of passages.

        The library makes its own `token_ids`. Raises EmbeddingRefused when the model's files are no model
        that fastembed runs.
        """
        vectors = np.empty((len(texts), self.identity.dimensions), dtype=np.float32)
        for place, text in enumerate(texts):  # what a cancelled call still finishes is one text
            vectors[place] = await asyncio.to_thread(self._passage, self.passage_prefix + text)
        return vectors

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The vector of a query, `(dimensions,)`, of length 1. Raises EmbeddingRefused as `embed` does."""
        return await asyncio.to_thread(self._query, self._query_prefix + text)

    def _passage(self, text: str) -> NDArray[np.float32]:
        self._load()
        return self._counted(text, next(iter(self._model.passage_embed([text]))))

    def _query(self, text: str) -> NDArray[np.float32]:
        self._load()
        return self._counted(text, next(iter(self._model.query_embed([text]))))

    def _load(self) -> None:
        """Reads the model, once. fastembed does it at the first text, and twice when two come together."""
        with self._one_loads:
            if self._is_loaded:
                return
            with loading(self.identity.model):
                made = len(next(iter(self._model.embed(["text"]))))
            if made != self.identity.dimensions:
                raise EmbeddingRefused(
                    f"{self.identity.model} makes vectors of {made} values, not the"
                    f" {self.identity.dimensions} that its files tell."
                )
            self._is_loaded = True

    def _counted(self, text: str, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        counters().embedding_requests.labels("ok").inc()
        counters().embedding_tokens.inc(len(self.tokenizer.encode(text)))
        unit: NDArray[np.float32] = unit_rows(vector[None])[0]
        return unit


def _prefixes(name: str, files: ModelFolder | None) -> tuple[str, str]:
    known = next((found for start, found in _PREFIXES.items() if name.lower().startswith(start)), None)
    return known or (files.prompts if files else ("", ""))


def _tokenizer(name: str, model: Any) -> tuple[Tokenizer, int | None]:
    """The model's tokenizer, but whole texts and no padding; and the tokens it takes, None if any number."""
    with loading(name):
        model.token_count([""])  # loads it
    own: Tokenizer = model.model.tokenizer
    longest = own.truncation["max_length"] if own.truncation else None
    tokenizer = Tokenizer.from_str(own.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, longest
