"""Ingestion as people write it, to compare with: pypdf, a recursive splitter, one INSERT a chunk.

    python -m benchmarks.plain_script DATABASE_URL EMBEDDING_URL DIMENSIONS report.pdf …

It promises nothing: what is interrupted stays half done. Its table has the vectors' index, and none of words.
"""

import asyncio
import sys
import time
from pathlib import Path

import asyncpg
import httpx
from pypdf import PdfReader

CHARACTERS, OVERLAP = 1_000, 200
SEPARATORS = ("\n\n", "\n", " ", "")
BATCH = 32


def split(text: str, separators: tuple[str, ...] = SEPARATORS) -> list[str]:
    """At the first separator that makes pieces small enough, packed up to the size, with an overlap."""
    if len(text) <= CHARACTERS:
        return [text] if text.strip() else []
    separator, *finer = separators
    parts = text.split(separator) if separator else list(text)
    chunks, chunk = [], ""
    for part in parts:
        if len(part) > CHARACTERS:
            chunks += [chunk] if chunk.strip() else []
            chunks += split(part, tuple(finer))
            chunk = ""
        elif len(chunk) + len(separator) + len(part) > CHARACTERS:
            chunks.append(chunk)
            chunk = chunk[-OVERLAP:] + separator + part
        else:
            chunk += separator + part if chunk else part
    return [*chunks, chunk] if chunk.strip() else chunks


async def ingest(database_url: str, embedding_url: str, dimensions: int, paths: list[Path]) -> None:
    began = time.perf_counter()
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "CREATE EXTENSION IF NOT EXISTS vector;"
        f"CREATE TABLE plain (id bigserial PRIMARY KEY, file text, page int, text text,"
        f" embedding vector({dimensions}));"
        f"CREATE INDEX ON plain USING hnsw (embedding vector_cosine_ops)"
    )
    async with httpx.AsyncClient(base_url=embedding_url, trust_env=False, timeout=60) as client:
        for path in paths:
            pages = PdfReader(path).pages
            texts = [page.extract_text() for page in pages]
            chunks = [(number, chunk) for number, text in enumerate(texts, 1) for chunk in split(text)]
            for start in range(0, len(chunks), BATCH):
                batch = chunks[start : start + BATCH]
                asked = {"model": "any", "input": [chunk for _, chunk in batch], "dimensions": dimensions}
                answer = (await client.post("/embeddings", json=asked)).raise_for_status().json()
                for (page, chunk), entry in zip(batch, answer["data"], strict=True):
                    await connection.execute(
                        "INSERT INTO plain (file, page, text, embedding) VALUES ($1, $2, $3, $4::text::vector)",  # noqa: E501
                        *(path.name, page, chunk.replace("\0", ""), str(entry["embedding"])),
                    )
    print(await connection.fetchval("SELECT count(*) FROM plain"), time.perf_counter() - began)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(ingest(sys.argv[1], sys.argv[2], int(sys.argv[3]), [Path(name) for name in sys.argv[4:]]))
