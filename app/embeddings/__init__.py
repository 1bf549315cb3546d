"""From texts to vectors."""

from app.embeddings.opening import EmbedderOptions, open_embedder

__all__ = ["EmbedderOptions", "open_embedder"]
