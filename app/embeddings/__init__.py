"""From texts to vectors."""

from app.embeddings.opening import open_embedder

__all__ = ["open_embedder"]
