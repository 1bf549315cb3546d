from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers

from app.services import encoding
from app.services.encoding import Encoder
from tests.services.test_splitter import PROSE, TOKENIZERS, built_in_tokenizer, documents, prose, word_piece

BY_WORDS = ("built_in_tokenizer", "word_piece")
ENCODERS = {name: Encoder(tokenizer) for name, tokenizer in TOKENIZERS.items()}
spaces = st.text(" \t\n\r\u00a0\u2003\u200b▁Ġ", min_size=1, max_size=4)
pieces = documents.map(lambda pages: "\n".join(line for lines in pages for line in lines))
texts = pieces | st.lists(pieces | spaces | st.sampled_from(["<s>", "[SEP]", ".\r\n", "Σ\u0301 "])).map(
    "".join
)


def encode_whole(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    found = tokenizer.encode(text, add_special_tokens=False)
    return found.ids, found.offsets


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=texts, share=st.floats(0, 1))
def test_the_tokens_are_those_of_the_tokenizer(name: str, text: str, share: float) -> None:
    ids, offsets = encode_whole(TOKENIZERS[name], text)
    encoded = ENCODERS[name].encode(text)
    assert encoded.ids == ids
    assert len(encoded) == len(ids)
    assert [encoded.start_of(index) for index in range(len(ids))] == [start for start, _ in offsets]
    end = int(share * len(text))
    before = encoded.ids_before(end)
    if before is not None and all(stop <= end for start, stop in offsets if start < end):
        assert before == [one for one, (start, _) in zip(ids, offsets, strict=True) if start < end]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_only_where_words_stand_apart_they_are_looked_up(name: str) -> None:
    encoder = Encoder(TOKENIZERS[name])
    encoder.encode(PROSE)
    assert bool(encoder._known.ids) == (name in BY_WORDS)


def test_a_vocabulary_with_tokens_across_words_is_encoded_whole() -> None:
    vocabulary = {"▁": 0, "a": 1, "▁a": 2, "a▁": 3} | {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "▁"), ("▁", "a")], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    assert Encoder(tokenizer).encode("a a a").ids == encode_whole(tokenizer, "a a a")[0] == [0, 3, 3, 1]


def test_what_was_added_to_a_tokenizer_is_found_in_the_text_as_before() -> None:
    tokenizer = built_in_tokenizer()
    tokenizer.add_tokens([AddedToken("Net sales", normalized=False)])
    assert Encoder(tokenizer).encode(PROSE).ids == encode_whole(tokenizer, PROSE)[0]
    tokenizer.add_tokens([AddedToken("▁books", normalized=True)])
    assert Encoder(tokenizer).encode(PROSE).ids == encode_whole(tokenizer, PROSE)[0]


def test_a_word_piece_that_does_not_cut_at_white_space_is_encoded_whole() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "## a": 2}, unk_token="[UNK]"))
    assert Encoder(tokenizer).encode("a a").ids == encode_whole(tokenizer, "a a")[0] == [1, 2]


def test_no_more_words_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_MOST_TOKENS", 100)
    tokenizer = word_piece()
    encoder = Encoder(tokenizer)
    for number in range(200):
        text = f"{prose(3, number)} number {number}"
        assert encoder.encode(text).ids == encode_whole(tokenizer, text)[0]
        assert encoder._known.tokens <= 100 + len(encode_whole(tokenizer, text)[0])


def test_several_threads_learn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_MOST_TOKENS", 200)
    tokenizer = built_in_tokenizer()
    encoder = Encoder(tokenizer)
    many = [prose(4, seed) + f" {seed}" for seed in range(400)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: encoder.encode(text).ids, many))
    assert found == [encode_whole(tokenizer, text)[0] for text in many]
