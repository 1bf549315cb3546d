"""The client commands, against a whole running service."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from typer.testing import CliRunner

from app.local.cli import cli
from app.local.embedded import EmbeddedPostgres
from tests.stacks import PROJECT, SAMPLES, Up, pdf_ingest, pdf_ingest_alone


def test_files_are_ingested_and_their_verdicts_shown(up: Up) -> None:
    finished = pdf_ingest_alone(
        *("ingest", SAMPLES / "annual-report.pdf", SAMPLES / "wildbienen.pdf", "--collection", "cli"),
        url=up.url,
    )
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"annual-report\.pdf +success +6 +\d+", finished.stdout)
    assert re.search(r"wildbienen\.pdf +success +2 +\d+", finished.stdout)


def test_the_command_line_does_without_chaos_which_is_not_in_the_container_image() -> None:
    program = (
        "import sys; sys.modules['app.local.chaos'] = None; from app.local.cli import cli; cli(['chaos'])"
    )
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "no chaos in the container image" in refused.stderr


def test_a_question_to_a_service_waits_for_no_server_to_be_imported() -> None:
    """Each takes a tenth of a second or more of every command."""
    heavy = "{'alembic', 'fastapi', 'numpy', 'pydantic', 'redis', 'sqlalchemy'}"
    program = f"import sys, app.local.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_the_exit_code_tells_that_a_file_of_a_folder_failed(up: Up, tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for sample, name in (
        ("salt-marsh-article.pdf", "a.pdf"),
        ("damaged.pdf", "b.PDF"),
        ("board-minutes-locked.pdf", "c.pdf"),
    ):
        (tmp_path / "deeper" / name).write_bytes((SAMPLES / sample).read_bytes())
    (tmp_path / "d.pdf").write_text("no PDF at all")
    (tmp_path / "e.txt").write_text("not even called a PDF")
    finished = pdf_ingest("ingest", tmp_path, "--collection", "folder", url=up.url)
    assert finished.returncode == 1
    verdicts = dict(re.findall(r"^ (\S+\.\w+) +([a-z_]+)  ", finished.stdout, re.MULTILINE))
    assert verdicts == {"a.pdf": "success", "b.PDF": "corrupted", "c.pdf": "encrypted", "d.pdf": "not_a_pdf"}
    assert "Retry with the right password" in finished.stdout


def test_a_password_opens_a_locked_file(up: Up) -> None:
    finished = pdf_ingest(
        *(
            "ingest",
            SAMPLES / "board-minutes-locked.pdf",
            "--password",
            "lighthouse",
            "--collection",
            "locked",
        ),
        url=up.url,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_password_is_taken_from_a_variable(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDF_INGEST_PASSWORD", "lighthouse")
    finished = pdf_ingest(
        "ingest", SAMPLES / "board-minutes-locked.pdf", "--collection", "variable", url=up.url
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_password_is_asked_for_and_not_shown(up: Up) -> None:
    arguments = [
        "ingest",
        str(SAMPLES / "board-minutes-locked.pdf"),
        "--collection",
        "asked",
        "--ask-password",
    ]
    finished = CliRunner().invoke(cli, [*arguments, "--url", up.url], input="lighthouse\n")
    assert finished.exit_code == 0, finished.output
    assert "lighthouse" not in finished.output


def test_a_search_shows_file_page_heading_score_and_text_in_a_terminal(up: Up) -> None:
    up.ingest("annual-report.pdf", collection="searched")
    shown = in_a_terminal(
        "search", "camera stops turbines for eagles", "--collection", "searched", url=up.url
    )
    first = shown.split("\n")[:2]
    assert re.fullmatch(r"annual-report\.pdf, pages? (4-)?5, Birds on Gannet Ridge  score 0\.\d{4}", first[0])
    assert "not a single dead eagle" in first[1]


def in_a_terminal(*arguments: str, url: str, columns: int = 200) -> str:
    """What a command shows in a terminal of this width, without its colours."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    command = subprocess.Popen(
        [sys.executable, "-m", "app.local.cli", *arguments],
        cwd=PROJECT,
        env=environment | {"PDF_INGEST_URL": url, "TERM": "xterm"},
        stdout=child,
        stderr=subprocess.PIPE,
    )
    os.close(child)
    shown = b""
    with suppress(OSError):  # how the end of a terminal is told
        while part := os.read(parent, 65_536):
            shown += part
    os.close(parent)
    assert command.communicate(timeout=60)[1] == b""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")


def test_a_search_that_is_piped_is_a_line_a_hit_with_whole_ids(up: Up) -> None:
    document_id = up.ingest("annual-report.pdf", collection="piped")
    finished = pdf_ingest("search", "camera stops turbines for eagles", "--collection", "piped", url=up.url)
    rows = [line.split("\t") for line in finished.stdout.splitlines()]
    assert {len(row) for row in rows} == {8}
    assert {row[0] for row in rows} == {document_id}
    assert all(UUID(row[1]) for row in rows)
    assert rows[0][5:7] == ["annual-report.pdf", "Birds on Gannet Ridge"]
    assert "not a single dead eagle" in rows[0][7]
    answer = json.loads(pdf_ingest("search", "eagles", "--collection", "piped", "--json", url=up.url).stdout)
    assert answer["data"][0]["document_id"] == document_id


def test_ids_are_whole_in_the_narrowest_terminal(up: Up) -> None:
    document_id = up.ingest("annual-report.pdf", collection="narrow")
    assert document_id in in_a_terminal("status", "--collection", "narrow", url=up.url, columns=40)


def test_every_client_command_prints_json_if_asked(up: Up, tmp_path: Path) -> None:
    def printed(*arguments: str | Path) -> Any:
        return json.loads(pdf_ingest(*arguments, "--json", url=up.url).stdout)

    sample = SAMPLES / "wildbienen.pdf"
    ((verdict),) = printed("ingest", sample, "--collection", "json")
    assert (verdict["code"], verdict["path"], verdict["pages"]) == ("success", str(sample), 2)
    listed = printed("status", "--collection", "json")
    assert [one["document_id"] for one in listed["data"]] == [verdict["document_id"]]
    assert listed["sandbox"] == "full"
    assert printed("status", verdict["document_id"])["filename"] == "wildbienen.pdf"
    assert printed("retry", "--collection", "json") == {"count": 0}
    question = {"id": "1", "question": "Hummeln", "pages": {"wildbienen.pdf": [2]}}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question))
    assert "scores" in printed("evaluate", tmp_path / "questions.jsonl", "--collection", "json")


def test_a_search_is_kept_to_the_documents_that_a_filter_fits(up: Up) -> None:
    up.ingest("annual-report.pdf", collection="filtered")
    found = httpx.get(f"{up.url}/documents", params={"collection": "filtered"}).json()["data"][0]
    search = ("search", "eagles", "--collection", "filtered")
    pages = '{"type": "%s", "key": "pages", "value": 6}'
    for choice, is_found in [
        (("--filter", pages % "eq", "--document", found["document_id"]), True),
        (("--filter", pages % "ne"), False),
        (("--document", "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a01"), False),
    ]:
        finished = pdf_ingest(*search, *choice, url=up.url)
        assert finished.returncode == 0, finished.stderr
        assert ("annual-report.pdf" in finished.stdout) is is_found


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ('{"type": "like", "key": "year", "value": 1}', "body.filter.comparison.type: Input should be 'eq'"),
        ('{"year": ', "Invalid value for '--filter'"),
    ],
)
def test_a_filter_that_is_not_valid_is_told(up: Up, choice: str, said: str) -> None:
    finished = pdf_ingest("search", "eagles", "--filter", choice, url=up.url)
    assert finished.returncode in {1, 2}
    assert said in finished.stderr


def test_what_failed_is_ingested_again(up: Up) -> None:
    pdf_ingest("ingest", SAMPLES / "damaged.pdf", "--collection", "retried", url=up.url)
    said = [
        pdf_ingest("retry", "--collection", "retried", *options, url=up.url).stdout
        for options in (("--code", "no_text"), ("--code", "corrupted", "--code", "no_text"))
    ]
    assert said == [f"{count} documents are ingested again.\n" for count in (0, 1)]


def test_a_search_without_hits_says_so(up: Up) -> None:
    nothing = ("search", "anything", "--collection", "never used")
    assert in_a_terminal(*nothing, url=up.url) == "Nothing was found.\n"
    finished = pdf_ingest(*nothing, url=up.url)
    assert (finished.returncode, finished.stdout) == (0, "")


def test_status_lists_documents_and_shows_one_by_its_id_or_its_task(up: Up) -> None:
    with (SAMPLES / "wildbienen.pdf").open("rb") as file:
        accepted = httpx.post(
            f"{up.url}/documents",
            files={"file": file},
            data={"collection": "status", "metadata": '{"year": 2025}'},
        ).json()
    listed = pdf_ingest("status", "--collection", "status", url=up.url)
    assert re.fullmatch(
        rf"{accepted['document_id']}\t\w+\t\tstatus\t\d*\t\d+\twildbienen\.pdf\n", listed.stdout
    )
    shown = in_a_terminal("status", "--collection", "status", url=up.url)
    assert re.search(rf"{accepted['document_id']} +wildbienen\.pdf +status", shown)
    assert re.search(r"sandbox +full", shown)
    assert "year: 2025" in pdf_ingest("status", accepted["document_id"], url=up.url).stdout
    assert re.search(r"progress\tstage:", pdf_ingest("status", accepted["task_id"], url=up.url).stdout)


def test_an_unknown_id_is_told_in_one_sentence(up: Up) -> None:
    finished = pdf_ingest("status", "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a01", url=up.url)
    assert (finished.returncode, finished.stderr) == (1, "There is no task with this id.\n")


@pytest.mark.parametrize("command", [("status",), ("search", "x"), ("ingest", SAMPLES / "wildbienen.pdf")])
def test_a_service_that_is_not_there_is_told_in_one_sentence(command: tuple[str, ...]) -> None:
    finished = pdf_ingest(*command, url="http://127.0.0.1:9")
    assert finished.returncode == 1
    assert finished.stderr == (
        "The service at http://127.0.0.1:9 is not reachable. Start it with `pdf-ingest up`, "
        "or set PDF_INGEST_URL to where it runs.\n"
    )


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_this_machine_is_asked_without_the_proxy(up: Up, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    finished = pdf_ingest("status", "--json", url=up.url)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_proxy_that_cannot_be_used_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:hunter2@127.0.0.1:9")
    finished = pdf_ingest("status", url="http://pdfs.invalid:8000")
    assert finished.returncode == 1
    assert finished.stderr.startswith(
        "A proxy of the environment (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY) cannot"
    )
    assert finished.stderr.count("\n") == 1
    assert "hunter2" not in finished.stderr


def test_settings_that_are_not_valid_are_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_PAGES", "many")
    finished = pdf_ingest_alone("up")
    assert finished.returncode == 2
    assert finished.stderr.startswith("The settings are not valid. MAX_PAGES: ")
    assert "Traceback" not in finished.stderr
    monkeypatch.delenv("MAX_PAGES")
    monkeypatch.setenv("SECRET_KEY", "correct horse battery staple")
    finished = pdf_ingest_alone("up")
    assert finished.stderr.startswith("The settings are not valid. SECRET_KEY, or ")
    assert "correct horse" not in finished.stderr


def test_a_database_that_cannot_be_reached_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://postgres:secret@127.0.0.1:9/pdf_ingest")
    finished = pdf_ingest_alone("migrate")
    assert finished.returncode == 1
    assert finished.stderr.startswith("The database of DATABASE_URL cannot be migrated: ")
    assert finished.stderr.count("\n") == 1
    assert "secret" not in finished.stderr


def test_a_wrong_password_is_told_in_one_sentence(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql+asyncpg://postgres:secret@127.0.0.1:{postgres.port}/pdf_ingest"
    monkeypatch.setenv("DATABASE_URL", url)
    finished = pdf_ingest_alone("migrate")
    assert (finished.returncode, finished.stderr) == (
        1,
        "The database of DATABASE_URL cannot be migrated: "
        'password authentication failed for user "postgres".\n',
    )


def test_a_folder_without_pdfs_is_refused(up: Up, tmp_path: Path) -> None:
    finished = pdf_ingest("ingest", tmp_path, url=up.url)
    assert (finished.returncode, finished.stderr) == (1, "There is no PDF in the folders named.\n")


def test_the_samples_are_what_the_script_beside_them_builds(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SAMPLES / "make_samples.py", tmp_path], check=True)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_bytes() for path in SAMPLES.glob("*.pdf")}
