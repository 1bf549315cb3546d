"""Settings, and the file that lists them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr, ValidationError

from app.config import Settings, get_settings, settings_or_exit
from tests.processes import PROJECT

EXAMPLE = Path(__file__).parent.parent / ".env.example"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def listed() -> list[tuple[str, str]]:
    """Each setting of the example, with the comment above it."""
    found = []
    for block in EXAMPLE.read_text().strip().split("\n\n")[1:]:
        *comment, assignment = block.split("\n")
        found.append((" ".join(line.removeprefix("# ") for line in comment), assignment.split("=", 1)[0]))
    return found


def test_the_example_lists_every_setting_in_the_order_of_the_class_with_its_description() -> None:
    expected = [(field.description, name.upper()) for name, field in Settings.model_fields.items()]
    assert listed() == expected


def test_the_example_changes_nothing_when_it_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(EXAMPLE.read_text())
    assert Settings() == Settings(_env_file=None)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MAX_PAGES=7\nMAX_QUEUED=8\n")
    monkeypatch.setenv("MAX_PAGES", "9")
    assert (Settings().max_pages, Settings().max_queued) == (9, 8)


def test_folders_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_FOLDERS", "/data, /mnt/with space ,")
    assert Settings().ingest_folders == (Path("/data"), Path("/mnt/with space"))


def test_languages_are_codes_of_two_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT_SEARCH_LANGUAGES", "de, en")
    assert Settings().text_search_languages == ("de", "en")
    monkeypatch.setenv("TEXT_SEARCH_LANGUAGES", "de,english")
    with pytest.raises(ValidationError, match="ISO 639-1 codes such as en,de; not english"):
        Settings()


def test_a_database_url_without_our_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://postgres@postgres/pdf_ingest")
    with pytest.raises(ValidationError, match=r"must begin with postgresql\+asyncpg://"):
        Settings()


@pytest.mark.parametrize("options", ["sslmode=require", "ssl=require&application_name=pdfs", "pool"])
def test_an_option_that_the_driver_does_not_know_is_refused(options: str) -> None:
    with pytest.raises(ValidationError, match=r"asyncpg does not know: (sslmode|application_name|pool)\."):
        Settings(_env_file=None, database_url=f"postgresql+asyncpg://me:a?b=c@host/db?{options}")
    several = "postgresql+asyncpg://me:a?b=c@/db?host=one:5432&host=two:5432&target_session_attrs=read-write"
    assert Settings(_env_file=None, database_url=several).database_url == several


@pytest.mark.parametrize(
    "url", ["redis-cluster://host:6379/0", "redis+cluster://host", "sentinel://one;sentinel://two"]
)
def test_a_broker_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="neither a cluster of Redis nor its sentinels"):
        Settings(_env_file=None, celery_broker_url=url)


def test_more_dimensions_than_the_index_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_DIMENSIONS", "4001")
    with pytest.raises(ValidationError, match="less than or equal to 4000"):
        Settings()


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_beyond_what_the_parts_can_count(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert len(NUMBERS) > 20
    for huge in (10**18, "inf", "1e30"):
        monkeypatch.setenv(name.upper(), str(huge))
        with pytest.raises(ValidationError, match=name):
            Settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("SECRET_KEY", key)
    monkeypatch.setenv("EMBEDDING_API_KEY", "very-secret")
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://me:very-secret@host:5432/db")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:very-secret@host:6379/0")
    shown = f"{Settings()!r} {Settings()}"
    assert "very-secret" not in shown
    assert key not in shown
    assert "postgresql+asyncpg://me:***@host:5432/db" in repr(Settings())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://host/db?user=me&password=very-secret",
        "postgresql+asyncpg://me:very/secret?very@secret@one,two/db?ssl=require",
        "redis://host/0?password=very-secret",
        "sentinel://:very-secret@one;sentinel://:very-secret@two?sentinel_kwargs={'password':'very-secret'}",
        "amqp://me:very-secret@one//;amqp://me:very-secret@two//",
        "https://me:very-secret@embedder/v1?api-key=very-secret",
        "s3://bucket/pdfs?secret_access_key=very-secret",
    ],
)
def test_no_way_to_write_a_password_into_a_url_shows_it(url: str) -> None:
    shown = ""
    only = {"database_url": "postgresql", "celery_broker_url": ("redis", "amqp")}
    for name in ("database_url", "celery_broker_url", "celery_result_backend", "storage_url"):
        if url.startswith(only.get(name, "")):
            shown += repr(Settings(_env_file=None, **{name: url}))
    for name in ("embedding_base_url", "rerank_base_url"):
        shown += repr(Settings(_env_file=None, **{name: url}))
    assert "secret@" not in shown.replace("secret_key", "")
    assert "very" not in shown
    assert url.partition("://")[0] in shown


def test_the_key_is_read_from_its_file_unless_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file, in_environment = (Fernet.generate_key().decode() for _ in range(2))
    file = tmp_path / "secret-key"
    monkeypatch.setenv("SECRET_KEY_FILE", str(file))
    assert Settings().secret_key is None
    file.write_text(f"{in_file}\n")
    assert Settings().secret_key == SecretStr(in_file)
    monkeypatch.setenv("SECRET_KEY", in_environment)
    assert Settings().secret_key == SecretStr(in_environment)


@pytest.mark.parametrize("setting", ["", "SECRET_KEY_FILE"])
def test_a_file_that_is_no_text_is_told_by_the_setting_that_names_it(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / (setting or ".env")
    file.write_bytes("SECRET_KEY=hunter2 # schlüssel".encode("latin-1"))
    if setting:
        monkeypatch.setenv(setting, str(file))
    get_settings.cache_clear()
    with pytest.raises(SystemExit):
        settings_or_exit()
    said = said_in_one_line(capsys.readouterr().err)
    assert f"{file.name}: cannot be read: it is not text in UTF-8." in said
    assert "hunter2" not in said


def test_a_folder_in_the_place_of_the_key_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path))
    get_settings.cache_clear()
    with pytest.raises(SystemExit):
        settings_or_exit()
    assert "SECRET_KEY_FILE: cannot be read: Is a directory." in said_in_one_line(capsys.readouterr().err)


def test_a_file_of_settings_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_PAGES=7\n", encoding="utf-8-sig")
    assert Settings().max_pages == 7


@pytest.mark.parametrize("key", ["correct horse battery staple", "0", "é" * 44, "A" * 42 + "=="])
def test_a_key_that_encrypts_nothing_is_refused_and_not_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    monkeypatch.setenv("SECRET_KEY", key)
    with pytest.raises(ValidationError, match="must be a Fernet key: 32 bytes") as refusal:
        Settings()
    assert key == "0" or key not in str(refusal.value)
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "empty"))
    (tmp_path / "empty").touch()
    with pytest.raises(ValidationError, match="SECRET_KEY_FILE"):
        Settings()


@pytest.mark.parametrize(
    "keys",
    ["hunter2", "alice:", ":hunter2", "al ice:hunter2", "alice:sha256=hunter2", "alice:x,,bob:hunter2", ","],
)
def test_keys_that_cannot_be_understood_are_refused_without_being_told(keys: str) -> None:
    with pytest.raises(ValidationError, match=r"entry [12] must be name:key") as refusal:
        Settings(_env_file=None, api_keys=SecretStr(keys))
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"RERANK_PROVIDER": "http"}, "RERANK_BASE_URL: must be the server's address for provider http"),
        ({"RERANK_PROVIDER": "http", "RERANK_BASE_URL": "reranker:80"}, "RERANK_BASE_URL: must be"),
        ({"EMBEDDING_PROVIDER": "openai", "EMBEDDING_BASE_URL": "http:///v1"}, "EMBEDDING_BASE_URL: must be"),
        ({"EMBEDDING_PROVIDER": "openai", "EMBEDDING_BASE_URL": "ftp://host"}, "EMBEDDING_BASE_URL: must be"),
        ({"RERANK_API_KEY": "schlüssel"}, "RERANK_API_KEY: has characters that no key has"),
        ({"EMBEDDING_API_KEY": "schlüssel"}, "EMBEDDING_API_KEY: has characters that no key has"),
        ({"STORAGE_URL": "/data/files"}, "STORAGE_URL: must be a URL, as file:///data/files"),
        ({"STORAGE_URL": "file://data/files"}, "STORAGE_URL: must be file:///absolute/path, with three"),
        ({"CELERY_BROKER_URL": "redis"}, "CELERY_BROKER_URL: must be a URL, as redis://redis:6379/0"),
        ({"CELERY_RESULT_BACKEND": "redis:6379"}, "CELERY_RESULT_BACKEND: must be a URL"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    wrong: dict[str, str], remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()  # in a process that has some already
    with pytest.raises(SystemExit) as ending:
        settings_or_exit()
    assert ending.value.code == 2
    assert remedy in said_in_one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "program",
    [
        ["app.serve", "--port", "9"],
        ["celery", "-A", "app.worker.celery_app", "worker"],
        ["uvicorn", "--factory", "app.main:create_app", "--port", "9"],
        ["app.local.cli", "up"],
        ["app.local.cli", "migrate"],
        ["alembic", "upgrade", "head"],
    ],
    ids=lambda program: " ".join(program[:2]),
)
def test_every_program_says_all_that_is_wrong_and_ends_with_2(program: list[str]) -> None:
    wrong = {"API_KEYS": "hunter2", "RERANK_PROVIDER": "http", "MAX_PAGES": "many", "API_PROCESSES": "2"}
    said = refusal_of(program, wrong)
    for name in ("API_KEYS: entry 1 must be", "RERANK_BASE_URL: must be", "MAX_PAGES: "):
        assert name in said
    assert "hunter2" not in said


def refusal_of(program: list[str], settings: dict[str, str]) -> str:
    """What a program says of settings that it refuses, which is all: one line, and no trace."""
    ended = subprocess.run(
        [sys.executable, "-m", *program],
        cwd=PROJECT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    return said_in_one_line(ended.stderr)


def said_in_one_line(refusal: str) -> str:
    assert refusal.startswith("The settings are not valid. ")
    assert refusal.count("\n") == 1, refusal
    return refusal
