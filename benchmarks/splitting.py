"""How fast PDFs' text is split, and how many chunks are over the limit, beside other splitters if installed.

    python benchmarks/splitting.py report.pdf … [--chunk-tokens 256]

Takes the best of three runs in one process; for a figure per core start it with `taskset -c 0`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pypdfium2
from tokenizers import Tokenizer

from app.embeddings.local import built_in_tokenizer
from app.pdf.pages import DocumentFacts, Line, Page
from app.services.splitter import Splitter

Document = list[str]
"""The text of each page."""


def read(path: Path) -> Document:
    with pypdfium2.PdfDocument(path) as pdf:
        texts = [page.get_textpage().get_text_bounded() for page in pdf]
    return [text.replace("\r\n", "\n").encode("utf-8", "ignore").decode() for text in texts]


def ours(tokenizer: Tokenizer, chunk_tokens: int) -> Callable[[Document], list[str]]:
    splitter = Splitter(tokenizer, chunk_tokens)

    def split(document: Document) -> list[str]:
        splitting = splitter.begin("a.pdf", DocumentFacts("benchmark", len(document)))
        chunks = []
        for number, text in enumerate(document, 1):
            chunks += splitting.add(Page(number, tuple(Line(line) for line in text.split("\n"))))
        return [chunk.text for chunk in chunks + splitting.finish()]

    return split


def by_pages(split_text: Callable[[str], list[str]]) -> Callable[[Document], list[str]]:
    return lambda document: [chunk for text in document for chunk in split_text(text)]


def splitters(
    tokenizer: Tokenizer, chunk_tokens: int
) -> Iterator[tuple[str, Callable[[Document], list[str]]]]:
    yield "ours", ours(tokenizer, chunk_tokens)
    try:
        from langchain_text_splitters import RecursiveCharacterTextSplitter

        counted = RecursiveCharacterTextSplitter(
            chunk_size=chunk_tokens,
            chunk_overlap=0,
            length_function=lambda text: len(tokenizer.encode(text)),
        )
        yield "langchain, token length", by_pages(counted.split_text)
        by_characters = RecursiveCharacterTextSplitter(chunk_size=chunk_tokens * 4, chunk_overlap=0)
        yield "langchain, 4 characters a token", by_pages(by_characters.split_text)
    except ImportError:
        print("langchain-text-splitters is not installed: left out")
    try:
        from semantic_text_splitter import TextSplitter

        plain = TextSplitter.from_huggingface_tokenizer(tokenizer, chunk_tokens)
        yield "semantic-text-splitter", by_pages(lambda text: list(plain.chunks(text)))
    except ImportError:
        print("semantic-text-splitter is not installed: left out")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--chunk-tokens", type=int, default=256)
    arguments = parser.parse_args()
    documents = [read(path) for path in arguments.files]
    size = sum(len(text.encode()) for document in documents for text in document)
    tokenizer = built_in_tokenizer()
    print(
        f"{sum(map(len, documents))} pages, {size / 1e6:.2f} MB of text,"
        f" {arguments.chunk_tokens} tokens a chunk at most"
    )
    for name, split in splitters(tokenizer, arguments.chunk_tokens):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            chunks = [chunk for document in documents for chunk in split(document)]
            seconds.append(time.perf_counter() - start)
        tokens = [len(tokenizer.encode(chunk)) for chunk in chunks]
        over = sum(count > arguments.chunk_tokens for count in tokens)
        print(
            f"{name:32} {size / min(seconds) / 1e6:5.2f} MB/s  {len(chunks):6} chunks"
            f"  {sum(tokens) / len(tokens):4.0f} tokens a chunk  {over} over the limit"
        )


if __name__ == "__main__":
    main()
