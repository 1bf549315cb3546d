"""Settings, from the environment or a `.env` file. Defaults work with `docker compose up`."""

import re
import sys
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_PASSWORD = re.compile("//([^:/@]*):.*@")
_OPTIONS = re.compile(r"(://[^?]*)\?.*")  # `?password=` is one, of Postgres, Redis and its sentinels
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.DOTALL)
# Of asyncpg's `connect`, what a URL can say; anything else would be met at the first query only.
_DRIVER_OPTIONS = frozenset(
    ("host", "port", "user", "password", "passfile", "service", "ssl", "target_session_attrs")
)
_BROKERS = ("redis", "rediss", "redis+socket", "amqp", "amqps", "pyamqp")
_WEB_ADDRESS = re.compile(r"https?://[^/].*", re.DOTALL)
_NAMED_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}:(sha256=[0-9a-fA-F]{64}|(?!sha256=).+)", re.DOTALL)

# "No limit" is often written as a huge number: Postgres, the kernel and timers count no further.
MOST = 2_000_000_000
MOST_BYTES = 10**15
MOST_DAYS = 36_500
FERNET_KEY_BYTES = 32


class Settings(BaseSettings):
    """Every option of the service; only the edge (main, worker, cli, resources, embedded) reads it."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",  # some editors begin a file with a mark, which is no part of a name
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    database_url: str = Field(
        "postgresql+asyncpg://postgres:postgres@postgres:5432/pdf_ingest",
        description="Postgres 15-18 with pgvector.",
    )
    database_pool_size: int = Field(10, ge=1, description="Connections each process may open.")
    database_pgbouncer: bool = Field(
        False, description="Set when the database is reached through PgBouncer in transaction mode."
    )
    celery_broker_url: str = Field("redis://redis:6379/0", description="Redis, or RabbitMQ by amqp:// URL.")
    celery_result_backend: str = Field("redis://redis:6379/0", description="Where Celery keeps results.")
    storage_url: str = Field(
        "file:///data/files", description="Where uploads are kept, a folder of its own: file:///… or s3://…"
    )
    ingest_folders: Annotated[tuple[Path, ...], NoDecode] = Field(
        (Path("/data"),),
        description="Folders (comma-separated) from which a task may name a file by its path.",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Fernet key that encrypts PDF passwords and secrets of webhooks, signs tokens; without "
        "one all are refused.",
    )
    secret_key_file: Path | None = Field(
        None, description="Where the key is kept when SECRET_KEY is not set; `migrate` makes the file."
    )
    embedding_provider: Literal["local", "fastembed", "openai"] = Field(
        "local",
        description="local (built in), fastembed (a transformer, in our processes; an extra), or openai (any "
        "OpenAI-compatible server).",
    )
    embedding_base_url: str = Field("https://api.openai.com/v1", description="Base URL for provider openai.")
    embedding_api_key: SecretStr | None = Field(None, description="Bearer token for provider openai.")
    embedding_model: str | None = Field(
        None,
        description="Default: text-embedding-3-small (openai), BAAI/bge-small-en-v1.5 (fastembed), "
        "l2_supercat (local).",
    )
    embedding_model_path: Path | None = Field(
        None, description="Folder with the model of provider fastembed; default: downloaded, once."
    )
    embedding_threads: int = Field(
        1, ge=1, description="Threads of fastembed's models in each process that reads PDFs or answers."
    )
    embedding_dimensions: int | None = Field(
        None,
        ge=1,
        le=4000,
        description="Default: 1536 (openai), the model's (fastembed), 256 (local). At "
        "most 4,000, HNSW's limit.",
    )
    embedding_query_prefix: str | None = Field(
        None,
        description="Put before what is searched for, as the model's card asks (quote a space at the end). "
        "Default: none (openai), the model's (fastembed).",
    )
    embedding_passage_prefix: str | None = Field(None, description="The same before each text of a document.")
    embedding_tokenizer: Path | None = Field(
        None, description="A tokenizer.json to count tokens with for provider openai; default: the built-in."
    )
    embedding_batch_inputs: int = Field(64, ge=1, description="Texts in one embedding request, at most.")
    embedding_batch_tokens: int = Field(16_384, ge=1, description="Tokens in one embedding request, at most.")
    embedding_timeout_seconds: float = Field(30, gt=0, description="Limit of one embedding request.")
    embedding_requests_per_minute: int = Field(
        0, ge=0, description="Embedding requests of all processes together, at most; 0: no limit."
    )
    embedding_tokens_per_minute: int = Field(
        0, ge=0, description="The same for their tokens, as EMBEDDING_TOKENIZER counts them."
    )
    embedding_cache_rows: int = Field(
        0, ge=0, description="Texts whose vectors are kept, so that provider openai is asked once; 0: none."
    )
    rerank_provider: Literal["off", "http", "fastembed"] = Field(
        "off",
        description="A cross-encoder that reorders the 50 best hits of hybrid search: http (POST /rerank of "
        "Cohere, Jina, vLLM, TEI) or fastembed (in our processes; an extra).",
    )
    rerank_base_url: str | None = Field(
        None, description="Base URL for provider http, without /rerank: https://api.jina.ai/v1"
    )
    rerank_api_key: SecretStr | None = Field(None, description="Bearer token for provider http.")
    rerank_model: str | None = Field(
        None, description="Default: Xenova/ms-marco-MiniLM-L-6-v2 (fastembed), the server's only one (http)."
    )
    rerank_model_path: Path | None = Field(
        None, description="Folder with the model of provider fastembed; default: downloaded, once."
    )
    rerank_timeout_seconds: float = Field(
        5, gt=0, description="A search that waits longer for its reranker is answered without it."
    )
    chunk_tokens: int = Field(
        256, ge=16, description="Tokens in a chunk, at most; fewer if the model reads fewer."
    )
    text_search_languages: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Languages (comma-separated: en,de) whose words are stemmed; default: all that Postgres "
        "knows. A text whose language cannot be told is taken for the first.",
    )
    max_upload_bytes: int = Field(100_000_000, ge=1, description="Larger uploads get 413.")
    max_store_bytes: int = Field(
        0, ge=0, description="With more bytes of files stored, uploads get 507; 0: no limit."
    )
    max_pages: int = Field(5_000, ge=1, description="PDFs with more pages end as too_many_pages.")
    max_characters: int = Field(
        50_000_000, ge=1, description="PDFs with more text end as too_much_text; so does 1,000,000 on a page."
    )
    pdf_engines: Annotated[tuple[Literal["pdfium", "pypdf"], ...], NoDecode] = Field(
        ("pdfium", "pypdf"), min_length=1, description="In the order in which they are tried."
    )
    reading_max_seconds: float = Field(
        90, gt=0, description="PDFs that take more CPU time to read end as timed_out."
    )
    reading_memory_mb: int = Field(1024, ge=128, description="Memory of the process that reads a PDF.")
    sandbox: Literal["auto", "require"] = Field(
        "auto",
        description="require: refuse to start where the processes that read PDFs cannot be confined in full.",
    )
    ocr: Literal["auto", "off"] = Field(
        "auto", description="auto: pages without text of their own are read with tesseract, if it is there."
    )
    ocr_languages: str = Field(
        "eng", pattern=r"^\w+(\+\w+)*$", description="As tesseract names them, joined by +: eng+fra."
    )
    ocr_max_pages: int = Field(200, ge=0, description="Pages of one PDF read with tesseract, at most.")
    retention_days: float = Field(
        90,
        gt=0,
        le=MOST_DAYS,
        description="Runs that ended so long ago are forgotten, but for the newest of a document.",
    )
    max_queued: int = Field(10_000, ge=1, description="With more documents waiting, uploads get 429.")
    task_soft_limit_seconds: float = Field(
        3600, gt=0, description="An ingestion that takes longer is stopped and ends as timed_out."
    )
    task_hard_limit_seconds: float | None = Field(
        None,
        gt=0,
        description="A worker process stuck for longer is killed; prefork only. Default: soft limit + 60.",
    )
    shutdown_grace_seconds: float = Field(
        10, ge=0, description="On SIGTERM a worker finishes what it can in this time and releases the rest."
    )
    shutdown_drain_seconds: float = Field(
        1, ge=0, description="On SIGTERM /readyz says 503 for this time before the API stops listening."
    )
    worker_max_tasks: int = Field(1000, ge=1, description="A worker process is replaced after so many tasks.")
    worker_max_memory_mb: int = Field(
        1024, ge=1, description="A worker process that has grown beyond this is replaced after its task."
    )
    api_processes: int = Field(1, ge=1, description="Processes of the API, behind one port.")
    api_keys: SecretStr | None = Field(
        None,
        description="Comma-separated name:key or name:sha256=<hex>, of administrators; then all need one.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Without API_KEYS: our host names (comma-separated), besides addresses; * is any.",
    )
    webhook_allow_private: bool = Field(
        False, description="Whether webhooks may lead to private and local addresses."
    )
    metrics_enabled: bool = Field(True, description="Whether the API answers GET /metrics; it wants no key.")
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port on which each worker tells Prometheus what it did."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: readable lines in a terminal, JSON elsewhere."
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Passwords stand in URLs too."""
        for name, value in super().__repr_args__():
            yield name, _without_secrets(value) if isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def is_within_reach(cls, value: object, info: ValidationInfo) -> object:
        most = MOST_BYTES if str(info.field_name).endswith("_bytes") else MOST
        if isinstance(value, int | float) and value > most:
            raise ValueError(f"must be at most {most:,}")
        return value

    @field_validator("database_url")
    @classmethod
    def name_our_driver(cls, value: str) -> str:
        """Another driver is not installed, and would be missed at the first query only."""
        if not value.startswith("postgresql+asyncpg://"):
            raise ValueError("must begin with postgresql+asyncpg://")
        options = parse_qsl(value.rpartition("@")[2].partition("?")[2], keep_blank_values=True)
        if unknown := sorted({name for name, _ in options} - _DRIVER_OPTIONS):
            raise ValueError(
                f"has options that asyncpg does not know: {', '.join(unknown)}. What libpq calls sslmode is "
                "ssl here: ?ssl=verify-full, with the authority's certificate in PGSSLROOTCERT"
            )
        return value

    @field_validator("celery_broker_url", "celery_result_backend", "storage_url")
    @classmethod
    def is_url(cls, value: str, info: ValidationInfo) -> str:
        if not _URL.fullmatch(value):
            raise ValueError(f"must be a URL, as {cls.model_fields[str(info.field_name)].default}")
        return value

    @field_validator("celery_broker_url")
    @classmethod
    def is_broker(cls, value: str) -> str:
        """Celery would say so at the first message only, and its workers in a traceback."""
        if value.partition(":")[0] not in _BROKERS:
            raise ValueError(
                f"must be one of {', '.join(f'{name}://' for name in _BROKERS)}; neither a cluster of Redis "
                "nor its sentinels can be used"
            )
        return value

    @field_validator("storage_url")
    @classmethod
    def is_folder_or_bucket(cls, value: str) -> str:
        if value.startswith("file:") and not value.startswith("file:///"):
            raise ValueError("must be file:///absolute/path, with three slashes, for a folder")
        return value

    @field_validator("embedding_base_url", "rerank_base_url")
    @classmethod
    def is_there_for_its_provider(cls, value: str | None, info: ValidationInfo) -> str | None:
        provider = info.data.get(str(info.field_name).replace("base_url", "provider"))
        if provider in {"openai", "http"} and not _WEB_ADDRESS.fullmatch(value or ""):
            raise ValueError(f"must be the server's address for provider {provider}: http://… or https://…")
        return value

    @field_validator("embedding_api_key", "rerank_api_key")
    @classmethod
    def can_stand_in_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip().isascii():
            raise ValueError("has characters that no key has")
        return value

    @field_validator("api_keys")
    @classmethod
    def are_named_keys(cls, value: SecretStr | None) -> SecretStr | None:
        """What is wrong is said of an entry by its number: it may be a key."""
        entries = [] if value is None else value.get_secret_value().rstrip(", ").split(",")
        for number, entry in enumerate(entries, 1):
            if not _NAMED_KEY.fullmatch(entry.strip()):
                raise ValueError(
                    f"entry {number} must be name:key or name:sha256=<64 hex digits>, "
                    "the name made of letters, digits and ._-"
                )
        return value

    @field_validator("ingest_folders", "pdf_engines", "allowed_hosts", "text_search_languages", mode="before")
    @classmethod
    def split_at_commas(cls, value: object) -> object:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("text_search_languages")
    @classmethod
    def are_language_codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [code for code in value if not re.fullmatch("[a-z]{2}", code)]:
            raise ValueError(f"must be ISO 639-1 codes such as en,de; not {', '.join(wrong)}")
        return value

    @model_validator(mode="after")
    def read_secret_key(self) -> Self:
        """Of the file, which may not have been made yet."""
        if self.secret_key is None and self.secret_key_file is not None:
            self.secret_key = _key_in(self.secret_key_file)
        if self.secret_key is not None and not _is_fernet_key(self.secret_key.get_secret_value()):
            raise ValueError(
                "SECRET_KEY, or what is in SECRET_KEY_FILE, must be a Fernet key: 32 bytes as URL-safe base64"
            )
        return self


def _key_in(file: Path) -> SecretStr | None:
    """None before `migrate` has made the file."""
    try:
        return SecretStr(file.read_text().strip())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise ValueError(f"SECRET_KEY_FILE: cannot be read: {_reason(error)}") from None


def _is_fernet_key(key: str) -> bool:
    try:
        return len(urlsafe_b64decode(key)) == FERNET_KEY_BYTES
    except ValueError:
        return False


def _without_secrets(url: str) -> str:
    return _OPTIONS.sub(r"\1?***", _PASSWORD.sub(r"//\1:***@", url))


@lru_cache
def get_settings() -> Settings:
    return Settings()


def settings_or_exit(**given: Any) -> Settings:
    """Those of this process; what is wrong with them is said on stderr, and the exit code is 2.

    What is `given` counts, whatever the environment and `.env` say of it.
    """
    try:
        return Settings(**given) if given else get_settings()
    except ValidationError as error:
        faults = ". ".join(map(_in_words, error.errors()))
    except (OSError, UnicodeError) as error:
        faults = f".env: cannot be read: {_reason(error)}"
    print(f"The settings are not valid. {faults}.", file=sys.stderr)  # noqa: T201 - no log is set up yet
    raise SystemExit(2)


def _reason(error: OSError | UnicodeError) -> str:
    return f"{error.strerror}" if isinstance(error, OSError) else "it is not text in UTF-8"


def _in_words(fault: ErrorDetails) -> str:
    """A fault of several settings together has no place; its message names them."""
    place = ".".join(map(str, fault["loc"])).upper()
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
