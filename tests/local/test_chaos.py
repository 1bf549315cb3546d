"""The proof in its short form, and the proof that it would find what it looks for."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pypdf
import pytest
from rich.console import Console

from app.local.chaos.audit import count_doubled, embeddings_table, percentile
from app.local.chaos.pdfs import pdf_of, write_specimens
from app.local.chaos.run import run_chaos
from app.local.chaos.scenarios import SCENARIOS, Scenario, choose
from app.local.chaos.world import World
from tests.stacks import PROJECT

SHORT = ["child-kill", "worker-kill", "stop-and-wake"]


async def sabotage(world: World) -> None:
    """What the service never does: a chunk gone, one twice, a foreign vector, a stray file and document."""
    world.upload_all(world.specimens[:5])
    await world.settle(60)
    del world.accepted["d004"]
    robbed, doubled, orphaned = (world.accepted[mark] for mark in ("d000", "d001", "d002"))
    await world.watcher.query("DELETE FROM chunks WHERE ingestion_id = $1 AND ordinal = 0", robbed.task_id)
    await world.watcher.query(
        "INSERT INTO chunks (id, ingestion_id, ordinal, page_start, page_end, text, tokens, tsv)"
        " SELECT gen_random_uuid(), ingestion_id, 1000, 1, 1, text, tokens, tsv FROM chunks"
        " WHERE ingestion_id = $1 AND ordinal = 0",
        doubled.task_id,
    )
    await world.watcher.query(
        f"UPDATE {await embeddings_table(world.watcher)} SET ingestion_id = gen_random_uuid()"
        " WHERE chunk_id = (SELECT id FROM chunks WHERE ingestion_id = $1 AND ordinal = 0)",
        orphaned.task_id,
    )
    (world.stack.data_dir / "files" / "stray.pdf").write_bytes(b"%PDF")


async def summary_of(scenarios: Sequence[Scenario], folder: Path) -> dict:
    """One stack serves all."""
    file = folder / "chaos.json"
    is_good = await run_chaos(Console(quiet=True), scenarios=scenarios, is_short=True, json_file=file)
    summary = json.loads(file.read_text())
    assert is_good is summary["is_good"]
    return summary


@pytest.fixture(scope="module")
async def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    summary = await summary_of(choose([], is_short=True), tmp_path_factory.mktemp("chaos"))
    return {outcome["scenario"]: outcome for outcome in summary["scenarios"]}


@pytest.mark.heavy
@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_doubled_wrong_or_stuck(outcomes: dict[str, dict], name: str) -> None:
    outcome = outcomes[name]
    counts = {
        key: outcome[key] for key in ("lost", "doubled_chunks", "wrong_counts", "orphans", "files_left")
    }
    assert counts == {"lost": [], "doubled_chunks": 0, "wrong_counts": 0, "orphans": 0, "files_left": 0}
    assert (outcome["mistakes"], outcome["stuck"], outcome["unrecovered"]) == ([], 0, 0)
    assert outcome["documents"] == outcome["verdicts"] == 14
    assert outcome["faults"] >= 1


@pytest.mark.heavy
@pytest.mark.parametrize("name", SHORT)
def test_what_was_hit_is_seen_to_go_on(outcomes: dict[str, dict], name: str) -> None:
    assert outcomes[name]["moving_seconds"]
    assert 0 < outcomes[name]["moving"]["p100"] < 30


@pytest.mark.heavy
async def test_sabotage_is_found(tmp_path: Path) -> None:
    summary = await summary_of([Scenario("sabotage", sabotage)], tmp_path)
    assert not summary["is_good"]
    (outcome,) = summary["scenarios"]
    assert sorted(mark.split()[0] for mark in outcome["lost"]) == ["d000", "d001"]
    assert outcome["doubled_chunks"] == 1
    assert outcome["wrong_counts"] == 2
    assert outcome["orphans"] == 2
    assert outcome["files_left"] == 1
    assert outcome["mistakes"] == ["1 documents are there that no answer has named"]


def test_an_unknown_scenario_is_refused_with_the_list() -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "app.local.cli", "chaos", "--scenario", "earthquake"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert all(scenario.name in refused.stderr.replace("\n", " ") for scenario in SCENARIOS)


def test_scenarios_are_chosen_by_name_or_by_the_short_form() -> None:
    assert [scenario.name for scenario in choose([], is_short=True)] == SHORT
    assert choose([], is_short=False) == list(SCENARIOS)
    assert [scenario.name for scenario in choose(["poison"], is_short=True)] == ["poison"]
    assert choose(["poison", "earthquake"], is_short=False) == []


def test_the_same_seed_writes_the_same_documents_and_another_seed_others(tmp_path: Path) -> None:
    written = []
    for number, seed in enumerate((7, 7, 8)):
        folder = tmp_path / str(number)
        folder.mkdir()
        written.append([one.path.read_bytes() for one in write_specimens(folder, seed, 3)])
    assert written[0] == written[1] != written[2]


def test_the_documents_are_sound_pdfs(tmp_path: Path) -> None:
    file = tmp_path / "sound.pdf"
    file.write_bytes(pdf_of([["One (in brackets) and a \\."], ["Two."]]))
    pages = [page.extract_text() for page in pypdf.PdfReader(file, strict=True).pages]
    assert pages == ["One (in brackets) and a \\.", "Two."]


def test_a_text_that_is_there_too_often_is_doubled_and_a_foreign_one_is_not() -> None:
    truth = ((0, "a", "v"), (1, "b", "v"))
    assert count_doubled(truth, truth) == 0
    assert count_doubled((*truth, (2, "a", "v"), (3, "a", "v")), truth) == 2
    assert count_doubled((*truth, (2, "foreign", "v")), truth) == 0


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1)] == [50, 99, 100]
    assert percentile([3.0], 0.5) == 3
    assert percentile([], 0.5) is None
