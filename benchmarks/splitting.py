"""How fast text is split, and how many chunks are over the limit, beside other splitters if installed."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pypdfium2
from tokenizers import Tokenizer

from app.embeddings.local import built_in_tokenizer
from app.pdf.pages import DocumentFacts, Line, Page
from app.services.splitter import Splitter
from benchmarks.pdfs import specimens
from benchmarks.report import Curves, Row, Table
from benchmarks.run import Run

CHUNK_TOKENS = 256
TIMES = 3
Document = list[str]  # the text of each page


def measure(run: Run) -> list[Table | Curves]:
    documents = [read(one.path) for one in specimens(run)]
    tokenizer = built_in_tokenizer()
    rows = [_row(name, split, documents, tokenizer) for name, split in splitters(tokenizer, CHUNK_TOKENS)]
    pages = sum(map(len, documents))
    note = f"{pages:,} pages, {CHUNK_TOKENS} tokens a chunk at most, one process, the best of {TIMES} runs."
    return [Table("Splitting text into chunks", rows, note)]


def _row(
    name: str, split: Callable[[Document], list[str]], documents: list[Document], tokenizer: Tokenizer
) -> Row:
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        chunks = [chunk for document in documents for chunk in split(document)]
        seconds.append(time.perf_counter() - began)
    tokens = [len(tokenizer.encode(chunk)) for chunk in chunks]
    size = sum(len(text.encode()) for document in documents for text in document)
    return {
        "splitter": name,
        "MB/s": size / min(seconds) / 1e6,
        "chunks": len(chunks),
        "tokens a chunk": sum(tokens) / len(tokens),
        "over the limit": sum(count > CHUNK_TOKENS for count in tokens),
    }


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
    with suppress(ImportError):
        from langchain_text_splitters import RecursiveCharacterTextSplitter

        counted = RecursiveCharacterTextSplitter(
            chunk_size=chunk_tokens,
            chunk_overlap=0,
            length_function=lambda text: len(tokenizer.encode(text)),
        )
        yield "langchain, token length", by_pages(counted.split_text)
        by_characters = RecursiveCharacterTextSplitter(chunk_size=chunk_tokens * 4, chunk_overlap=0)
        yield "langchain, 4 characters a token", by_pages(by_characters.split_text)
    with suppress(ImportError):
        from semantic_text_splitter import TextSplitter

        plain = TextSplitter.from_huggingface_tokenizer(tokenizer, chunk_tokens)
        yield "semantic-text-splitter", by_pages(lambda text: list(plain.chunks(text)))
