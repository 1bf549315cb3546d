import importlib.util
import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from app.pdf.pages import DocumentFacts, Line, OutlineEntry, Page
from app.services.splitter import Splitter
from app.storage.chunks import Chunk

LIMIT = 40

PROSE = (
    "The company sells books. It was founded in Seattle in 1994. Net sales grew by 20% to $135,987 million. "
    "We compete with many others, and e.g. prices matter. Who buys? Everybody does! Umsätze stiegen."
)


def built_in_tokenizer() -> Tokenizer:
    package = importlib.util.find_spec("wordllama")
    assert package is not None
    assert package.origin is not None
    return Tokenizer.from_file(
        str(Path(package.origin).parent / "tokenizers" / "l2_supercat_tokenizer_config.json")
    )


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator([PROSE], trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([PROSE], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return tokenizer


def across_words() -> Tokenizer:
    """Tokens of this one hold several words: white space is no border to it."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.train_from_iterator([PROSE], trainers.BpeTrainer(vocab_size=300, special_tokens=["?"]))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator([PROSE], trainer)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    return tokenizer


TOKENIZERS = {
    maker.__name__: maker() for maker in (built_in_tokenizer, word_piece, byte_level, across_words, unigram)
}
SPLITTERS = {name: Splitter(tokenizer, LIMIT) for name, tokenizer in TOKENIZERS.items()}
SPLITTER = SPLITTERS["built_in_tokenizer"]


def page(number: int, *lines: str | Line) -> Page:
    return Page(number, tuple(line if isinstance(line, Line) else Line(line) for line in lines))


def split(
    pages: Iterable[Page],
    splitter: Splitter = SPLITTER,
    outline: tuple[OutlineEntry, ...] = (),
    title: str | None = None,
) -> list[Chunk]:
    splitting = splitter.begin("net_sales.pdf", DocumentFacts("test", 1, title=title, outline=outline))
    return [chunk for page in pages for chunk in splitting.add(page)] + splitting.finish()


def prefixed(splitter: Splitter, chunk: Chunk) -> str:
    return splitter.passage_prefix + chunk.embedded_text


def squeezed(texts: Iterable[str]) -> str:
    return "".join("".join(texts).split())


def prose(sentences: int, seed: int = 1) -> str:
    chosen = random.Random(seed).choices(PROSE.split(". "), k=sentences)
    return " ".join(sentence.rstrip(".") + "." for sentence in chosen)


scripts = st.characters(codec="utf-8", exclude_categories=("Cs",))
words = st.one_of(
    st.sampled_from(
        [*PROSE.split(), "汉字。", "漢字かな。", "................", "الكتاب", "👩‍👩‍👧‍👧", "\u200b"]
    ),
    st.text(scripts, min_size=1, max_size=12),
    st.text("abcXYZ019./-", min_size=1, max_size=300),
    st.text("汉字漢かな。", min_size=1, max_size=120),
)
lines_of_text = st.lists(words, max_size=40).map(" ".join) | st.lists(words, max_size=12).map("\t".join)
documents = st.lists(st.lists(lines_of_text, max_size=12), max_size=5)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(document=documents)
def test_no_chunk_is_over_the_limit_and_no_text_is_lost(name: str, document: list[list[str]]) -> None:
    pages = [page(number, *lines) for number, lines in enumerate(document, 1)]
    chunks = split(pages, SPLITTERS[name])
    counting = SPLITTERS[name].tokenizer
    for chunk in chunks:
        assert chunk.tokens == len(counting.encode(chunk.text)) <= LIMIT
        assert list(chunk.token_ids) == counting.encode(chunk.text, add_special_tokens=False).ids
        assert chunk.text == chunk.text.strip() != ""
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    assert squeezed(chunk.text for chunk in chunks) == squeezed(text for lines in document for text in lines)
    assert split(pages, SPLITTERS[name]) == chunks


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=10, deadline=None)
@given(document=documents, title=words, headings=st.lists(words, max_size=5))
def test_with_header_and_prefix_no_chunk_is_over_the_limit_either(
    name: str, document: list[list[str]], title: str, headings: list[str]
) -> None:
    splitter = Splitter(TOKENIZERS[name], LIMIT, passage_prefix="passage: ", has_headers=True)
    pages = [page(number, *lines) for number, lines in enumerate(document, 1)]
    outline = tuple(OutlineEntry(heading, number) for number, heading in enumerate(headings, 1))
    chunks = split(pages, splitter, outline, title)
    for chunk in chunks:
        assert chunk.tokens == len(splitter.tokenizer.encode(prefixed(splitter, chunk))) <= LIMIT
        assert "\n" not in chunk.header
    assert squeezed(chunk.text for chunk in chunks) == squeezed(text for lines in document for text in lines)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["x7Q" * 4_000, "漢字" * 3_000, "." * 20_000, "é" * 9_000, "1" * 5_000])
def test_a_run_without_white_space_is_cut_into_chunks_within_the_limit(name: str, text: str) -> None:
    chunks = split([page(1, text)], SPLITTERS[name])
    assert "".join(chunk.text for chunk in chunks) == text
    counting = SPLITTERS[name].tokenizer
    assert max(len(counting.encode(chunk.text)) for chunk in chunks) <= LIMIT
    assert max(len(chunk.text) for chunk in chunks) <= 16 * LIMIT


def test_a_word_of_two_megabytes_takes_time_in_proportion() -> None:
    splitter = Splitter(TOKENIZERS["built_in_tokenizer"], 256)
    word = "".join(random.Random(7).choices("abcdefghijklmnop", k=200_000))
    seconds = []
    for text in (word, word * 10):
        start = time.process_time()
        chunks = split([page(1, text)], splitter)
        seconds.append(time.process_time() - start)
        assert sum(len(chunk.text) for chunk in chunks) == len(text)
    assert seconds[1] < 25 * seconds[0]


def test_chunks_end_with_a_sentence_where_there_is_one() -> None:
    splitter = Splitter(TOKENIZERS["built_in_tokenizer"], 100)
    chunks = split([page(1, *(prose(4, seed) for seed in range(40)))], splitter)
    assert len(chunks) > 20
    assert all(chunk.text.endswith((".", "?", "!")) for chunk in chunks)


def test_an_abbreviation_and_an_initial_end_no_sentence() -> None:
    sentence = "This sentence has eight words and then ends here. "
    treasury = "Later on Mr. J. F. Smith of the U.S. Treasury e.g. said so again and again in vain"
    first = split([page(1, sentence * 2 + treasury)])[0]
    assert first.text == (sentence * 2).strip()


def test_rows_of_a_table_stay_whole() -> None:
    rows = [f"Item no. {number}. Total U.S.\t{number * 7}\t{number * 13}\t1.5 %" for number in range(60)]
    chunks = split([page(1, *rows)])
    assert [row for chunk in chunks for row in chunk.text.split("\n")] == rows


@pytest.mark.parametrize(
    "head",
    [
        ["Operating activities:"],
        ["In millions\t2024\t2023"],
        ["Three months ended", "June 30, 2024\tJune 30, 2023"],
    ],
    ids=["colon", "years", "two lines"],
)
def test_a_chunk_does_not_end_with_the_head_of_what_follows(head: list[str]) -> None:
    splitter = Splitter(TOKENIZERS["built_in_tokenizer"], 100)
    rows = [f"Net sales of books {number}\t{number}\t{number + 7}" for number in range(10, 40)]
    for place in range(2, 22):
        chunks = [chunk.text for chunk in split([page(1, *rows[:place], *head, *rows[place:])], splitter)]
        (holding,) = [text for text in chunks if head[-1] in text]
        assert not holding.endswith(head[-1])
        assert "\n".join(head) in holding


def test_lines_are_joined_by_newlines_and_blank_ones_left_out() -> None:
    (chunk,) = split([page(1, "First line", "", "  \t", "second line")])
    assert chunk.text == "First line\nsecond line"


def test_a_long_rest_ends_with_its_page_and_a_short_one_joins_the_next() -> None:
    long, short = "One two three four five six seven eight nine ten.", "Tiny."
    chunks = split([page(1, long), page(2, short), page(3, long)])
    assert [(chunk.page_start, chunk.page_end, chunk.text) for chunk in chunks] == [
        (1, 1, long),
        (2, 3, f"{short}\n{long}"),
    ]


def test_an_empty_and_an_unreadable_page_give_nothing() -> None:
    assert split([page(1), Page(2, error="damaged"), page(3, " ")]) == []


def test_nothing_of_one_document_gets_into_another() -> None:
    first, second = (SPLITTER.begin("a.pdf", DocumentFacts("test", 1)) for _ in range(2))
    assert first.add(page(1, "One.")) == second.add(page(1, "Two.")) == []
    assert [chunk.text for chunk in first.finish()] == ["One."]
    assert [chunk.text for chunk in second.finish()] == ["Two."]
    assert first.finish() == []


def test_chunks_carry_the_boxes_of_their_lines_and_whether_any_was_hidden() -> None:
    lines = [
        Line(f"Line number {n} has some words in it.", (10, 20 * n, 300, 20 * n + 12), n == 25)
        for n in range(30)
    ]
    chunks = split([Page(1, tuple(lines))])
    assert len(chunks) > 5
    for chunk in chunks:
        shown = [line for line in lines if line.text in chunk.text]
        assert chunk.boxes == tuple((1, line.box) for line in shown)
        assert chunk.hidden_text == any(line.is_hidden for line in shown)
    assert [chunk.hidden_text for chunk in chunks].count(True) == 1


def test_a_line_cut_in_two_lends_its_box_to_both_chunks() -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    chunks = split([Page(4, (Line(prose(6), box),))])
    assert len(chunks) > 1
    assert {chunk.boxes for chunk in chunks} == {((4, box),)}


def test_the_heading_is_that_of_the_section_from_the_line_that_shows_it() -> None:
    outline = (
        OutlineEntry("Business", 1),
        OutlineEntry("Risk  Factors", 2),
        OutlineEntry("Properties", 2),
        OutlineEntry("Never printed", 4),
    )
    chunks = split(
        [
            page(1, "Item 1. Business", prose(3)),
            page(2, prose(3, 2), "Item 1A.\tRisk Factors", prose(3, 3), "PROPERTIES", prose(3, 4)),
            page(3, prose(3, 5)),
            page(4, prose(3, 6)),
        ],
        outline=outline,
    )
    headings = [(chunk.heading, chunk.page_start) for chunk in chunks]
    assert list(dict.fromkeys(headings)) == [
        ("Business", 1),
        ("Business", 2),
        ("Risk Factors", 2),
        ("Properties", 2),
        ("Properties", 3),
        ("Never printed", 4),
    ]
    assert any(chunk.text.startswith("PROPERTIES\n") for chunk in chunks)


def test_a_document_without_outline_has_no_headings_and_text_before_the_first_entry_neither() -> None:
    assert split([page(1, "Some words.")])[0].heading is None
    chunks = split([page(1, prose(3)), page(2, prose(3))], outline=(OutlineEntry("Two", 2),))
    assert {(chunk.page_start, chunk.heading) for chunk in chunks} == {(1, None), (2, "Two")}


def test_a_wild_outline_does_no_harm() -> None:
    outline = tuple(OutlineEntry(f"{'x' * 999} {number}", number % 3 - 1) for number in range(50_000))
    outline += (OutlineEntry("", 1), OutlineEntry(" \t", 1), OutlineEntry("Far away", 10**9))
    chunks = split([page(1, *["Some words."] * 200)], outline=outline)
    assert all(chunk.heading is not None and len(chunk.heading) <= 300 for chunk in chunks)


def test_a_header_names_document_and_section_and_is_counted() -> None:
    splitter = Splitter(TOKENIZERS["built_in_tokenizer"], 100, has_headers=True)
    outline = (OutlineEntry("Business", 1), OutlineEntry("Risk factors", 2))
    chunks = split([page(1, prose(9)), page(2, prose(9, 2))], splitter, outline, "Annual report")
    assert {chunk.header for chunk in chunks} == {
        "net sales · Annual report · Business",
        "net sales · Annual report · Risk factors",
    }
    assert chunks[0].embedded_text == f"net sales · Annual report · Business\n{chunks[0].text}"
    assert all(chunk.header.endswith(f" · {chunk.heading}") for chunk in chunks)
    assert all(chunk.tokens == len(splitter.tokenizer.encode(chunk.embedded_text)) for chunk in chunks)


def test_a_long_header_leaves_three_quarters_of_a_chunk_to_the_text() -> None:
    splitter = Splitter(TOKENIZERS["built_in_tokenizer"], 100, has_headers=True)
    chunks = split([page(1, prose(40))], splitter, title="words that are never at an end " * 30)
    assert len(chunks) > 5
    for chunk in chunks:
        assert chunk.header.startswith("net sales · words that are never")
        assert len(splitter.tokenizer.encode(f"{chunk.header}\n", add_special_tokens=False)) <= 25


def test_without_headers_what_is_embedded_is_the_text() -> None:
    (chunk,) = split([page(1, "Some words.")], title="A title")
    assert (chunk.header, chunk.embedded_text) == ("", "Some words.")


def test_the_fingerprint_tells_what_is_embedded_before_the_text() -> None:
    tokenizer = TOKENIZERS["word_piece"]
    with_headers = Splitter(tokenizer, LIMIT, has_headers=True)
    with_prefix = Splitter(tokenizer, LIMIT, passage_prefix="passage: ")
    plain = Splitter(tokenizer, LIMIT)
    assert len({with_headers.fingerprint, with_prefix.fingerprint, plain.fingerprint}) == 3


def test_the_fingerprint_names_the_tokenizer_and_the_limit() -> None:
    fingerprints = {splitter.fingerprint for splitter in SPLITTERS.values()}
    assert len(fingerprints) == len(SPLITTERS)
    tokenizer = TOKENIZERS["word_piece"]
    assert Splitter(tokenizer, LIMIT).fingerprint == SPLITTERS["word_piece"].fingerprint
    assert Splitter(tokenizer, LIMIT + 1).fingerprint != SPLITTERS["word_piece"].fingerprint


def test_a_limit_without_room_for_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        Splitter(TOKENIZERS["word_piece"], 2)
    with pytest.raises(ValueError, match="no room"):
        Splitter(TOKENIZERS["word_piece"], 16, passage_prefix="Given a question, find passages. " * 4)
