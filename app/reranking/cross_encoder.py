"""Reranking in this process with a cross-encoder, by fastembed (the extra of that name): ONNX on the CPU."""

import asyncio
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.embeddings.model_files import ModelFolder, load_model, loading, require_fastembed
from app.errors import EmbeddingFailed
from app.reranking.reranker import RerankFailed

MODEL = "Xenova/ms-marco-MiniLM-L-6-v2"

_PATIENCE_SECONDS = 5.0  # a download takes minutes, in which searches must not hold a thread each


class CrossEncoder:
    """One of fastembed's rerankers by its name, or the one of a folder; read, or downloaded, when first used.

    One passage at a time, so that a search that was left or took too long stops soon.
    """

    def __init__(self, *, model: str | None, folder: Path | None, threads: int) -> None:
        """Raises EmbeddingRefused when fastembed is not installed, or there is no model in the folder."""
        require_fastembed()
        self._files = ModelFolder(folder) if folder else None
        self._name = model or (self._files.name if self._files else MODEL)
        self._threads = threads
        self._loaded: Any = None
        self._one_loads = threading.Lock()

    async def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """The chance that a passage answers the query, by the model, for each. Raises RerankFailed."""
        try:
            return [await asyncio.to_thread(self._score, query, passage) for passage in passages]
        except EmbeddingFailed as error:
            raise RerankFailed(str(error)) from error

    def _score(self, query: str, passage: str) -> float:
        logit = next(iter(self._model().rerank(query, [passage])))
        return 1 / (1 + math.exp(-max(-700.0, logit)))  # of -710 and less exp overflows

    def _model(self) -> Any:
        if self._loaded is None:
            if not self._one_loads.acquire(timeout=_PATIENCE_SECONDS):
                raise RerankFailed(f"The model {self._name} is still being loaded.")
            try:
                self._loaded = self._loaded or self._load()
            finally:
                self._one_loads.release()
        return self._loaded

    def _load(self) -> Any:
        model = load_model("reranker", self._name, self._files, self._threads)
        with loading(self._name):
            next(iter(model.rerank("query", ["passage"])))
        return model
