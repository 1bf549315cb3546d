"""The files of a model that fastembed runs: those of a folder, or what it downloads to its cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog

from app.errors import EmbeddingFailed, EmbeddingRefused

_ONNX_FILES = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx")

log = structlog.get_logger(__name__)


class ModelFolder:
    """A model in the files of sentence-transformers: model.onnx, tokenizer.json, tokenizer_config.json.

    `config.json` and `1_Pooling/config.json` tell the vectors' size and how a text's is made of its tokens'
    (by their mean, where nothing is said), `config_sentence_transformers.json` the prefixes. Raises
    EmbeddingRefused when there is no model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.name = self.folder.name
        found = [self.folder / name for name in _ONNX_FILES] + sorted(self.folder.rglob("*.onnx"))
        onnx = next((path for path in found if path.is_file()), None)
        if onnx is None:
            raise EmbeddingRefused(f"There is no model.onnx in the folder of the model {self.name}.")
        self.onnx = str(onnx.relative_to(self.folder))
        self._config = self._json("config.json")
        self._pooling = self._json("1_Pooling/config.json")

    @property
    def dimensions(self) -> int:
        sizes = [self._pooling.get("word_embedding_dimension")]
        sizes += [self._config.get(name) for name in ("hidden_size", "dim", "d_model")]
        size = next((size for size in sizes if isinstance(size, int)), None)
        if size is None:
            raise EmbeddingRefused(f"config.json of the model {self.name} does not tell its hidden_size.")
        return size

    @property
    def pooling(self) -> Literal["CLS", "LAST_TOKEN", "MEAN"]:
        mode = self._pooling.get("pooling_mode")
        if self._pooling.get("pooling_mode_cls_token") or mode == "cls":
            return "CLS"
        if self._pooling.get("pooling_mode_lasttoken") or mode == "lasttoken":
            return "LAST_TOKEN"
        return "MEAN"

    @property
    def prompts(self) -> tuple[str, str]:
        """What goes before a query and before a passage."""
        prompts = self._json("config_sentence_transformers.json").get("prompts") or {}
        return prompts.get("query") or "", prompts.get("passage") or prompts.get("document") or ""

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            content = orjson.loads(path.read_bytes()) if path.is_file() else {}
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise EmbeddingRefused(f"{name} of the model {self.name} is no JSON object.")
        return content


def require_fastembed() -> None:
    """Raises EmbeddingRefused when the extra is not installed."""
    if find_spec("fastembed") is None:
        raise EmbeddingRefused(
            "The extra fastembed is not installed: pip install '.[fastembed]' in the folder of this program,"
            " or EXTRAS=fastembed when the image is built."
        )


def load_model(kind: Literal["text", "reranker"], name: str, files: ModelFolder | None, threads: int) -> Any:
    """fastembed's object for a model, whose files are at hand then; it loads the model when first used."""
    require_fastembed()
    from fastembed import TextEmbedding  # an extra, and a second to import
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    maker = TextEmbedding if kind == "text" else TextCrossEncoder
    label = name
    known = {model["model"].lower() for model in maker.list_supported_models()}
    if files is not None and name.lower() not in known:
        name = str(files.folder)  # unlike the folder's own name no other model has it
        if name.lower() not in known:
            _register(maker, kind, name, files)
    elif name.lower() not in known:
        raise EmbeddingRefused(
            f"fastembed has no model {name}. Choose one of its list, or name the folder of any other."
        )
    place = {"specific_model_path": str(files.folder)} if files else {}
    with loading(label):
        return maker(model_name=name, threads=threads, cuda=False, lazy_load=True, **place)


def _register(maker: Any, kind: str, name: str, files: ModelFolder) -> None:
    from fastembed.common.model_description import ModelSource, PoolingType

    described = {"model": name, "model_file": files.onnx, "sources": ModelSource(hf=name)}
    if kind == "text":
        described |= {
            "dim": files.dimensions,
            "pooling": PoolingType[files.pooling],
            "normalization": True,
        }
    maker.add_custom_model(**described)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turns what fastembed, its downloads and onnxruntime raise while they load into our errors."""
    try:
        yield
    except Exception as error:  # onnxruntime's errors have nothing narrower in common
        log.error("model_not_loaded", model=name, reason=repr(error))
        if isinstance(error, ValueError) and "from any source" in str(error):
            raise EmbeddingFailed(
                f"The model {name} could not be downloaded. Without a way to the hub of models put its files"
                " into a folder and set EMBEDDING_MODEL_PATH."
            ) from error
        raise EmbeddingRefused(f"The model {name} could not be loaded; the log has the reason.") from error
