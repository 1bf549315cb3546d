"""Reranking by a model in this process: a small one made here, which counts the words both texts have."""

import asyncio
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.errors import EmbeddingRefused
from app.reranking import open_reranker
from app.reranking.cross_encoder import CrossEncoder
from app.reranking.reranker import RerankFailed
from tests.embeddings.minilm import needs_models, write_tokenizer


def write_cross_encoder(folder: Path) -> Path:
    """Its logit is the number of pairs of equal tokens, one of the query and one of the passage, less 3."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = ("input_ids", "attention_mask", "token_type_ids")
    nodes = [
        helper.make_node("Unsqueeze", ["input_ids", "two"], ["down"]),
        helper.make_node("Unsqueeze", ["input_ids", "one"], ["across"]),
        helper.make_node("Equal", ["down", "across"], ["equal"]),
        helper.make_node("Cast", ["equal"], ["equals"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["passage"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["seen", "passage"], ["query"]),
        helper.make_node("Unsqueeze", ["query", "two"], ["query_down"]),
        helper.make_node("Unsqueeze", ["passage", "one"], ["passage_across"]),
        helper.make_node("Mul", ["equals", "query_down"], ["half"]),
        helper.make_node("Mul", ["half", "passage_across"], ["both"]),
        helper.make_node("ReduceSum", ["both", "inner"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["sum", "one"], ["count"]),
        helper.make_node("Sub", ["count", "three"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "shared_words",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(array, name)
            for name, array in {
                "one": _array([1]),
                "two": _array([2]),
                "inner": _array([1, 2]),
                "three": _array([3.0]).astype("float32"),
            }.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    write_tokenizer(folder)
    onnx.save(model, str(folder / "model.onnx"))
    return folder


def _array(values: list[int] | list[float]):
    import numpy as np

    return np.array(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("models") / "shared-words")


@needs_models
async def test_passages_are_scored_between_nothing_and_one(folder: Path) -> None:
    async with open_reranker(provider="fastembed", model_path=folder) as reranker:
        assert reranker is not None
        many, none, one = await reranker.score(
            "salmon in the river", ["the salmon swim in the river", "bread", "salmon"]
        )
    # equal pairs: [SEP] counts as the query's and as the passage's
    assert 1 > many > one > none > 0


@needs_models
async def test_the_event_loop_goes_on_while_a_model_is_loaded_and_scores(folder: Path) -> None:
    reranker = CrossEncoder(model=None, folder=folder, threads=1)
    work = asyncio.gather(*(reranker.score("river", ["the river", "bread"]) for _ in range(8)))
    longest = 0.0
    while not work.done():
        began = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - began)
    scores = await work
    assert longest < 0.5
    assert all(found == scores[0] for found in scores)


@needs_models
async def test_a_model_that_is_none_is_a_failure_of_each_search(folder: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "broken")
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no weights")
    reranker = CrossEncoder(model=None, folder=tmp_path / "broken", threads=1)
    for _ in range(2):
        with pytest.raises(RerankFailed, match="broken could not be loaded"):
            await reranker.score("river", ["bread"])


@needs_models
async def test_who_searches_while_a_model_is_downloaded_does_not_wait_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download without a network: fastembed tries for 39 s."""
    monkeypatch.setattr("app.reranking.cross_encoder._PATIENCE_SECONDS", 0.05)
    reranker = CrossEncoder(model=None, folder=folder, threads=1)
    with reranker._one_loads, pytest.raises(RerankFailed, match="still being loaded"):
        await reranker.score("river", ["the river"])
    assert len(await reranker.score("river", ["the river"])) == 1


@needs_models
def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingRefused, match=r"no model\.onnx"):
        CrossEncoder(model=None, folder=tmp_path, threads=1)


@pytest.mark.skipif(find_spec("fastembed") is not None, reason="fastembed is installed here")
def test_without_the_extra_it_is_said_what_to_install() -> None:
    with pytest.raises(EmbeddingRefused, match=r"pip install '\.\[fastembed\]'"):
        CrossEncoder(model=None, folder=None, threads=1)
