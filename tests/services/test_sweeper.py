"""The sweepers of several processes, each an object of its own here, in a database of their own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.embeddings.base import EmbeddingIdentity
from app.services.backfill import DocumentWords
from app.services.collection_service import CollectionService
from app.services.holder import Processes
from app.services.outages import Outages
from app.services.sweeper import Sweeper, lost_leases
from app.services.webhook_delivery import WebhookDispatcher
from app.services.webhook_sender import WebhookSender
from app.storage import embedding_cache, runs, sweep
from app.storage.collections import CollectionFields
from app.storage.database import Database
from app.storage.files import FileStore
from app.storage.spaces import open_space


class Bells:
    """A queue of messages that nobody hears."""

    def __init__(self) -> None:
        self.announced: list[UUID] = []

    async def enqueue(self, ingestion_id: UUID, *, is_begun: bool = False) -> bool:
        self.announced.append(ingestion_id)
        return True

    async def length(self) -> int | None:
        return 0


@dataclass(frozen=True)
class FakeProcess(Processes):
    """This host, seen by another process of it."""

    name: str = ""

    def name_of_this(self) -> str:
        return self.name


@pytest.fixture
async def sweepers(own_database: Database, tmp_path: Path) -> list[Sweeper]:
    space_id = await open_space(own_database, EmbeddingIdentity("test", "model", 8))
    (tmp_path / "files").mkdir()
    here = Processes.of_this_host()
    return [
        Sweeper(
            database=own_database,
            files=FileStore((tmp_path / "files").as_uri()),
            queue=Bells(),
            outages=Outages(own_database, {}),
            processes=FakeProcess(here.host, here.proc, name),
            webhooks=WebhookDispatcher(own_database, WebhookSender(allow_private=False), cipher=None),
            space_id=space_id,
            retention_days=30,
            embedding_cache_rows=0,
            duties=(DocumentWords(own_database),),
        )
        for name in ("elsewhere/1", "elsewhere/2")
    ]


async def scalar(database: Database, statement: str) -> object:
    async with database.transaction() as connection:
        return await connection.scalar(text(statement))


async def leader_of(database: Database) -> object:
    return await scalar(database, "SELECT holder FROM leaders")


async def test_the_leader_keeps_the_embedding_cache_within_its_bound(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    leader, other = sweepers
    leader.embedding_cache_rows = 3
    async with own_database.autocommit() as connection:
        await connection.execute(
            text(
                "INSERT INTO embedding_cache (key, embedding)"
                " SELECT CAST(n AS text)::bytea, '[1, 0]' FROM generate_series(1, :rows) AS n"
            ),
            {"rows": embedding_cache.ROWS_AT_ONCE + 10},
        )
    await leader.sweep()
    await other.trim_embedding_cache()
    assert (
        await scalar(own_database, "SELECT count(*) FROM embedding_cache")
        == embedding_cache.ROWS_AT_ONCE + 10
    )
    await leader.trim_embedding_cache()
    assert await scalar(own_database, "SELECT count(*) FROM embedding_cache") == 3


async def test_a_sweeper_that_is_stopped_loses_its_place(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    first, second = sweepers
    for _ in range(2):
        await first.sweep()
        await second.sweep()
    assert await leader_of(own_database) == "elsewhere/1"
    await asyncio.sleep(sweep.LEADER_SECONDS + 0.1)  # the first one is stopped
    await second.sweep()
    assert await leader_of(own_database) == "elsewhere/2"
    await first.sweep()
    assert await leader_of(own_database) == "elsewhere/2"


async def test_a_session_cut_off_in_the_middle_of_a_sweep_holds_up_nobody(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    """As a process under SIGSTOP: its last statement is over, its connection open."""
    async with own_database.autocommit() as connection:
        await sweep.lead(connection, "elsewhere/1")
        await runs.requeue_lost(connection, space_id=1)
        await asyncio.sleep(sweep.LEADER_SECONDS + 0.1)
        async with asyncio.timeout(5):
            await sweepers[1].sweep()
        assert await leader_of(own_database) == "elsewhere/2"


async def test_the_place_of_a_dead_leader_is_taken_at_once(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    holder = Processes.of_this_host().name_of_this().replace(f"/{os.getpid()}/", f"/{2**22 + 1}/")
    async with own_database.autocommit() as connection:
        await sweep.lead(connection, holder)
    await sweepers[0].sweep()
    assert await leader_of(own_database) == "elsewhere/1"


async def test_leases_that_ran_out_while_nobody_could_sweep_get_a_chance_to_be_renewed(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    ingestion_id = await in_work(own_database, "elsewhere/9")
    await scalar(
        own_database,
        "UPDATE ingestions SET lease_expires_at = now() - interval '1 hour' RETURNING 1",
    )
    await asyncio.sleep(3.2)  # Postgres itself has only just started
    await sweepers[0].sweep()
    assert await scalar(own_database, "SELECT status FROM ingestions") == "processing"
    for _ in range(4):
        await asyncio.sleep(1)
        await sweepers[0].sweep()
    assert await scalar(own_database, "SELECT status FROM ingestions") == "queued"
    assert ingestion_id in rung(sweepers[0])


async def test_nothing_is_rung_for_in_an_outage_and_all_of_it_afterwards(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    ids = {await queued(own_database) for _ in range(3)}
    await scalar(own_database, "UPDATE ingestions SET created_at = now() - interval '1 hour' RETURNING 1")
    await scalar(own_database, "UPDATE ingestions SET rings = 9, rung_at = now() RETURNING 1")
    await scalar(own_database, "INSERT INTO outages (service, reason) VALUES ('gone', '') RETURNING 1")
    sweeper = sweepers[0]
    await sweeper.sweep()
    assert rung(sweeper) == []
    await Outages(own_database, {}).probe()  # of a service that is asked for no more
    await sweeper.sweep()
    assert set(rung(sweeper)) == ids


async def test_one_file_that_cannot_be_deleted_stops_nothing(
    own_database: Database, sweepers: list[Sweeper], tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    (folder / "stuck.pdf").mkdir()  # unlink refuses it
    (folder / "b.pdf").touch()
    await scalar(
        own_database,
        "INSERT INTO files_to_delete (storage_key) VALUES ('stuck.pdf'), ('..'), ('b.pdf') RETURNING 1",
    )
    await sweepers[0].sweep()
    await sweepers[0].delete_files()
    assert not (folder / "b.pdf").exists()
    async with own_database.transaction() as connection:
        assert await sweep.count_undeletable(connection) == 2
        assert await sweep.files_to_delete(connection, 10) == [], "they come again later"
    (folder / "stuck.pdf").rmdir()
    await scalar(own_database, "UPDATE files_to_delete SET next_attempt_at = now() RETURNING 1")
    await sweepers[0].delete_files()
    assert await scalar(own_database, "SELECT array_agg(storage_key) FROM files_to_delete") == [".."]


async def test_old_runs_are_forgotten_but_for_what_a_document_needs(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    newest, served, young, deleted = [await queued(own_database) for _ in range(4)]
    replaced, with_file = await queued(own_database), await queued(own_database)
    async with own_database.transaction() as connection:
        for statement, ids in (
            ("UPDATE ingestions SET status = 'success', finished_at = now() - interval '31 days'", []),
            ("UPDATE ingestions SET finished_at = now() - interval '29 days' WHERE id = ANY(:ids)", [young]),
            ("UPDATE ingestions SET storage_key = 'left.pdf' WHERE id = ANY(:ids)", [with_file]),
            ("DELETE FROM documents WHERE id = ANY(:ids)", [young, deleted, replaced, with_file]),
            ("UPDATE documents SET live_ingestion_id = id WHERE id = ANY(:ids)", [served]),
        ):
            await connection.execute(text(statement), {"ids": ids} if ids else {})
    for sweeper in sweepers:
        await sweeper.sweep()
        await sweeper.tidy()
    assert set(await column(own_database, "SELECT id FROM ingestions")) == {newest, served, young}
    assert await column(own_database, "SELECT storage_key FROM files_to_delete") == ["left.pdf"]


@pytest.mark.parametrize(("documents", "left"), [(2, 2), (1, 3), (0, 2)])
async def test_files_of_no_document_are_deleted_unless_they_are_most(
    own_database: Database, sweepers: list[Sweeper], tmp_path: Path, documents: int, left: int
) -> None:
    """Two such files. If they are most, the database is another one, or empty, and they are somebody's."""
    known = [f"{await queued(own_database)}.pdf" for _ in range(documents)]
    async with own_database.transaction() as connection:
        await connection.execute(text("UPDATE ingestions SET storage_key = id || '.pdf'"))
    for name in (*known, f"{uuid4()}.pdf", f"{uuid4()}.pdf"):
        path = tmp_path / "files" / name
        path.write_bytes(b"%PDF")
        os.utime(path, (0, 0))
    await sweepers[0].sweep()
    await sweepers[0].tidy()
    await sweepers[0].tidy()
    names = {path.name for path in (tmp_path / "files").iterdir()}
    assert names >= set(known)
    assert len(names) == left


async def test_an_upload_that_seems_old_is_not_deleted_before_it_has_its_row(
    own_database: Database, sweepers: list[Sweeper], tmp_path: Path
) -> None:
    """As it does to a machine whose clock is a day ahead; one that stays without a row goes."""
    for _ in range(2):
        await queued(own_database)
    async with own_database.transaction() as connection:
        await connection.execute(text("UPDATE ingestions SET storage_key = id || '.pdf'"))
    await sweepers[0].sweep()
    arriving, left = tmp_path / "files" / f"{uuid7()}.pdf", tmp_path / "files" / f"{uuid7()}.pdf"
    for path in (arriving, left):
        path.write_bytes(b"%PDF")
        os.utime(path, (0, 0))
    await sweepers[0].tidy()
    assert arriving.exists()
    await queued(own_database)
    async with own_database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET storage_key = :key WHERE storage_key IS NULL"), {"key": arriving.name}
        )
    await sweepers[0].tidy()
    assert arriving.exists()
    assert not left.exists()


async def test_chunks_that_somebody_was_killed_before_deleting_are_deleted(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    ended, served = await queued(own_database), await queued(own_database)
    async with own_database.transaction() as connection:
        for statement in (
            "INSERT INTO chunks (id, ingestion_id, ordinal, page_start, page_end, text, tokens, tsv)"
            " SELECT gen_random_uuid(), id, 0, 1, 1, '', 1, '' FROM ingestions",
            "UPDATE ingestions SET chunks = 1, status = 'success', finished_at = now()",
            f"UPDATE ingestions SET status = 'cancelled' WHERE id = '{ended}'",
        ):
            await connection.execute(text(statement))
    await sweepers[0].sweep()
    await sweepers[0].tidy()
    assert await column(own_database, "SELECT ingestion_id FROM chunks") == [served]


async def test_the_leader_brings_along_what_older_workers_have_published(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    published = await queued(own_database)
    await queued(own_database)
    async with own_database.transaction() as connection:
        for statement in (
            "INSERT INTO chunks (id, ingestion_id, ordinal, page_start, page_end, text, tokens, tsv)"
            " VALUES (gen_random_uuid(), :id, 0, 1, 1, 'les harengs', 2, 'hareng')",
            "UPDATE ingestions SET chunks = 1, status = 'success', finished_at = now() WHERE id = :id",
            "UPDATE documents SET live_ingestion_id = :id WHERE id = :id",
        ):
            await connection.execute(text(statement), {"id": published})
    leader, other = sweepers
    await leader.sweep()
    await other.sweep()
    words = "SELECT DISTINCT ingestion_id FROM document_words WHERE lexeme = 'hareng'"
    await other.bring_along()
    assert await column(own_database, words) == []
    await leader.bring_along()
    assert await column(own_database, words) == [published]


async def column(database: Database, statement: str) -> list[object]:
    async with database.transaction() as connection:
        return list((await connection.execute(text(statement))).scalars())


async def in_work(database: Database, holder: str) -> UUID:
    ingestion_id = await queued(database)
    async with database.autocommit() as connection:
        assert await runs.claim(connection, ingestion_id, holder) is not None
    return ingestion_id


async def queued(database: Database) -> UUID:
    ingestion_id = uuid7()
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO ingestions (id, document_id, filename, sha256, byte_size)"
                " VALUES (:id, :id, 'a.pdf', '', 1)"
            ),
            {"id": ingestion_id},
        )
        await connection.execute(
            text("INSERT INTO documents (id, collection, latest_ingestion_id) VALUES (:id, 'sweep', :id)"),
            {"id": ingestion_id},
        )
    return ingestion_id


def rung(sweeper: Sweeper) -> list[UUID]:
    queue = sweeper.queue
    assert isinstance(queue, Bells)
    return queue.announced


@dataclass(frozen=True)
class Held:
    id: UUID
    worker: str
    lease_epoch: int = 1


@pytest.fixture
def dead_child() -> Iterator[str]:
    """The holder's name of a process that this one has started, and that has ended."""
    here = Processes.of_this_host()
    mine = here.name_of_this().removeprefix(here.host).split("/")
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
        yield f"{here.host}{os.getpid()}.{mine[2]}/{child.pid}/1"


def test_the_death_of_a_document_s_own_process_counts(dead_child: str) -> None:
    (lost,) = lost_leases(Processes.of_this_host(), [Held(uuid7(), dead_child)])
    assert lost.is_own_death


def test_of_several_leases_that_one_process_lost_none_is_to_blame(dead_child: str) -> None:
    held = [Held(uuid7(), dead_child) for _ in range(2)]
    assert [lost.is_own_death for lost in lost_leases(Processes.of_this_host(), held)] == [False, False]


def test_the_death_of_a_whole_worker_counts_for_none(dead_child: str) -> None:
    parent = dead_child.split("/")[-3]
    gone = dead_child.replace(parent, f"{2**22 + 2}.1")
    (lost,) = lost_leases(Processes.of_this_host(), [Held(uuid7(), gone)])
    assert not lost.is_own_death


def test_leases_of_the_living_and_of_other_hosts_are_not_lost() -> None:
    here = Processes.of_this_host()
    held = [Held(uuid7(), here.name_of_this()), Held(uuid7(), "other/boot/pid:[1]/1.1/2/3")]
    assert lost_leases(here, held) == []
    assert lost_leases(replace(here, host="unknown/"), held) == []


async def test_a_collection_is_deleted_by_the_leader_and_after_its_end_by_the_next(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    first, second = sweepers
    service = CollectionService(own_database)
    await first.sweep()
    for leader, other in ((first, second), (second, first)):
        await service.create("reports", CollectionFields())
        deletion = await service.delete("reports")
        await other.sweep()
        await other.delete_collections()
        assert (await service.deletion(deletion.id)).finished_at is None
        await leader.sweep()
        await leader.delete_collections()
        assert (await service.deletion(deletion.id)).finished_at is not None
        await asyncio.sleep(sweep.LEADER_SECONDS + 0.1)
        await other.sweep()


async def test_what_deletions_came_to_is_forgotten_with_old_runs(
    own_database: Database, sweepers: list[Sweeper]
) -> None:
    service = CollectionService(own_database)
    for name in ("old", "new"):
        await service.create(name, CollectionFields())
        await service.delete(name)
    await sweepers[0].sweep()
    await sweepers[0].delete_collections()
    async with own_database.transaction() as connection:
        await connection.execute(
            text(
                "UPDATE collection_deletions SET finished_at = now() - interval '31 days'"
                " WHERE collection = 'old'"
            )
        )
    await sweepers[0].tidy()
    assert await scalar(own_database, "SELECT string_agg(collection, ' ') FROM collection_deletions") == "new"
