import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from app.errors import FileNotFound, StorageFailed, UploadTooLarge
from app.storage.files import FileStore
from tests.storage.file_parts import MEGABYTE, cancel_upload, parts


async def whole(store: FileStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.read(key, start, end)])


async def keys(store: FileStore, seconds: float) -> list[str]:
    return sorted([key async for key in store.keys_older_than(seconds)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files of the store"


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, folder: Path) -> FileStore:
    return FileStore(folder.as_uri() if request.param == "folder" else request.getfixturevalue("bucket").url)


async def test_a_written_file_is_read_back_whole_and_by_range(store: FileStore) -> None:
    await store.write("a.pdf", parts(12))
    stored = await whole(store, "a.pdf")
    assert len(stored) == await store.size("a.pdf") == 12 * MEGABYTE
    assert stored == b"".join([part async for part in parts(12)])
    border = 3 * MEGABYTE
    assert await whole(store, "a.pdf", border - 2, border + 2) == b"\x02\x02\x03\x03"
    assert await whole(store, "a.pdf", 12 * MEGABYTE - 1) == b"\x0b"
    assert await whole(store, "a.pdf", 5, 5) == b""


async def test_a_small_and_an_empty_file_are_stored_too(store: FileStore) -> None:
    await store.write("small.pdf", parts(1, 10))
    await store.write("empty.pdf", parts(0))
    assert await whole(store, "small.pdf") == b"\0" * 10
    assert await store.size("empty.pdf") == 0
    assert await whole(store, "empty.pdf") == b""


async def test_a_local_file_has_the_bytes_and_a_copy_ends_with_the_block(store: FileStore) -> None:
    await store.write("a.pdf", parts(2))
    async with store.local_file("a.pdf") as path:
        assert path.read_bytes() == await whole(store, "a.pdf")
    assert await store.size("a.pdf") == 2 * MEGABYTE
    assert path.exists() == store_is_a_folder(store)


def store_is_a_folder(store: FileStore) -> bool:
    return store._folder is not None


async def test_a_file_that_is_gone_is_said_to_be_gone(store: FileStore) -> None:
    await store.write("other.pdf", parts(1))
    with pytest.raises(FileNotFound):
        await store.size("gone.pdf")
    with pytest.raises(FileNotFound):
        await whole(store, "gone.pdf")
    with pytest.raises(FileNotFound):
        async with store.local_file("gone.pdf"):
            pass


async def test_a_moved_file_has_its_new_key_only(store: FileStore) -> None:
    await store.write("a.pdf", parts(1))
    await store.move("a.pdf", "b.pdf")
    assert await keys(store, -60) == ["b.pdf"]
    assert await whole(store, "b.pdf") == b"\0" * MEGABYTE
    with pytest.raises(FileNotFound):
        await store.move("a.pdf", "b.pdf")


async def test_deleting_twice_is_fine(store: FileStore) -> None:
    await store.write("a.pdf", parts(1))
    await store.delete("a.pdf")
    await store.delete("a.pdf")
    with pytest.raises(FileNotFound):
        await store.size("a.pdf")


async def test_a_refused_upload_leaves_nothing_and_keeps_its_own_error(
    store: FileStore, folder: Path
) -> None:
    with pytest.raises(UploadTooLarge):
        await store.write("a.pdf", parts(12, error=UploadTooLarge()))
    assert names(folder) == []
    assert await keys(store, -60) == []


async def test_an_older_version_survives_a_failed_rewrite(store: FileStore) -> None:
    await store.write("a.pdf", parts(1, 3))
    with pytest.raises(ConnectionAbortedError):
        await store.write("a.pdf", parts_then_lost_client())
    assert await whole(store, "a.pdf") == b"\0\0\0"


async def parts_then_lost_client() -> AsyncIterator[bytes]:
    async for part in parts(12):
        yield part
    raise ConnectionAbortedError


@pytest.mark.parametrize("megabytes_before", [0, 1, 7, 12])
async def test_a_cancelled_upload_leaves_nothing(folder: Path, megabytes_before: int) -> None:
    await cancel_upload(FileStore(folder.as_uri()), megabytes_before)
    assert names(folder) == []


async def test_a_file_is_not_visible_before_it_is_complete(folder: Path) -> None:
    store = FileStore(folder.as_uri())
    seen: list[list[str]] = []

    async def watched_parts() -> AsyncIterator[bytes]:
        async for part in parts(20):
            yield part
            seen.append(names(folder))

    await store.write("a.pdf", watched_parts())
    assert names(folder) == ["a.pdf"]
    assert not any("a.pdf" in listing for listing in seen)
    assert ["a.pdf#1"] in seen


async def test_an_upload_of_200_megabytes_needs_little_memory(folder: Path) -> None:
    store = FileStore(folder.as_uri())
    process = psutil.Process()
    before = process.memory_info().rss
    peak = before

    async def measured_parts() -> AsyncIterator[bytes]:
        nonlocal peak
        async for part in parts(3_200, 65_536):
            yield part
            peak = max(peak, process.memory_info().rss)

    await store.write("a.pdf", measured_parts())
    assert await store.size("a.pdf") == 200 * MEGABYTE
    await store.delete("a.pdf")
    assert peak - before < 30 * MEGABYTE


async def test_the_folder_is_made_by_the_first_write_only(folder: Path) -> None:
    store = FileStore(folder.as_uri())
    with pytest.raises(StorageFailed):  # a volume that is not mounted says nothing about its files
        await store.size("a.pdf")
    assert await keys(store, -60) == []
    assert names(folder.parent) == []
    await store.write("a.pdf", parts(1))
    assert names(folder) == ["a.pdf"]


async def test_only_old_keys_are_listed_and_leftovers_of_a_killed_upload_with_them(folder: Path) -> None:
    store = FileStore(folder.as_uri())
    for key in ("old.pdf", "new.pdf"):
        await store.write(key, parts(1))
    (folder / "cut-off.pdf#1").write_bytes(b"%PDF")
    for name in ("old.pdf", "cut-off.pdf#1"):
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))
    found = await keys(store, 3600)
    assert found == ["cut-off.pdf#1", "old.pdf"]
    for key in found:
        await store.delete(key)
    assert names(folder) == ["new.pdf"]


async def test_keys_of_an_object_store_are_listed_by_age(store: FileStore) -> None:
    for number in range(120):
        await store.write(f"{number:03}.pdf", parts(1, 1))
    assert await keys(store, 3600) == []
    assert len(await keys(store, -60)) == 120


@pytest.mark.parametrize("key", ["", "../a.pdf", "/etc/passwd", "x/y.pdf", ".."])
async def test_a_key_cannot_name_a_path(store: FileStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        await store.write(key, parts(1))
    with pytest.raises(ValueError, match="not a key"):
        await store.delete(key)


WRITE_TOO_MUCH = """
    import asyncio, os, pathlib, resource, sys
    from app.errors import StorageFailed
    from app.storage.files import FileStore

    async def parts():
        for _ in range(int(sys.argv[2])):
            yield bytes(1024 * 1024)

    async def main(folder):
        try:
            await FileStore(folder.as_uri()).write("a.pdf", parts())
        except StorageFailed as error:
            print(type(error).__name__, error.message, [path.name for path in folder.iterdir()])

    if len(sys.argv) > 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    asyncio.run(main(pathlib.Path(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # a thread of obstore may still be returning: Python's own end would abort it
"""


def run_python(script: str, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
    command = [*prefix, sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()[-1]


def test_a_file_the_system_refuses_is_storage_failed_and_leaves_nothing(tmp_path: Path) -> None:
    said = run_python(WRITE_TOO_MUCH, str(tmp_path), "30", str(8 * MEGABYTE))
    assert said == "StorageFailed The file store did not do its work. The log has the details. []"


@pytest.mark.parametrize("megabytes", ["5", "30"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, megabytes: str) -> None:
    mount_four_megabytes = f'mount -t tmpfs -o size=4m none "{tmp_path}" && exec "$0" "$@"'
    own_mounts = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount_four_megabytes)
    try:
        subprocess.run([*own_mounts, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount a small disk")
    said = run_python(WRITE_TOO_MUCH, str(tmp_path), megabytes, prefix=own_mounts)
    assert said == "DiskFull The disk of the file store is full. []"


async def test_a_probe_leaves_nothing_and_says_nothing(tmp_path: Path) -> None:
    with capture_logs() as logs:
        await FileStore(tmp_path.as_uri()).probe()
    assert names(tmp_path) == logs == []


async def test_a_probe_fails_where_nothing_can_be_written_and_makes_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "gone"):
        with pytest.raises(StorageFailed):
            await FileStore((tmp_path / name).as_uri()).probe()
    assert names(tmp_path) == ["file"]
