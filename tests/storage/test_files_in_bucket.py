"""What is different when the files are in a bucket, seen from outside, on a server that speaks S3."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from app.errors import FileNotFound, StorageFailed, UploadTooLarge
from app.local.embedded import free_port
from app.storage.files import FileStore
from tests.buckets import Bucket
from tests.storage.file_parts import MEGABYTE, cancel_upload, parts


@pytest.fixture
def store(bucket: Bucket) -> FileStore:
    return FileStore(bucket.url)


async def test_files_are_kept_below_the_folder_of_the_url_and_deleting_leaves_nothing(
    store: FileStore, bucket: Bucket
) -> None:
    await store.write("small.pdf", parts(1))
    await store.write("large.pdf", parts(12))
    assert bucket.objects() == ["pdfs/large.pdf", "pdfs/small.pdf"]
    for key in ("small.pdf", "large.pdf"):
        await store.delete(key)
    assert (bucket.objects(), bucket.unfinished_uploads()) == ([], [])


async def test_a_probe_leaves_nothing(store: FileStore, bucket: Bucket) -> None:
    await store.probe()
    assert (bucket.objects(), bucket.unfinished_uploads()) == ([], [])


async def test_files_of_others_in_the_bucket_are_not_seen(store: FileStore, bucket: Bucket) -> None:
    other = FileStore(bucket.url.replace("/pdfs", "/letters"))
    await other.write("a.pdf", parts(1))
    assert [key async for key in store.keys_older_than(-60)] == []
    with pytest.raises(FileNotFound):
        await store.size("a.pdf")


async def test_an_upload_goes_on_its_way_before_its_last_part_is_there(
    store: FileStore, bucket: Bucket
) -> None:
    seen: list[list[str]] = []

    async def watched_parts() -> AsyncIterator[bytes]:
        async for part in parts(20):
            yield part
        seen.append(bucket.unfinished_uploads())

    await store.write("a.pdf", watched_parts())
    assert seen == [["pdfs/a.pdf"]]
    assert (bucket.objects(), bucket.unfinished_uploads()) == (["pdfs/a.pdf"], [])


async def test_a_refused_upload_leaves_no_object_and_no_parts(store: FileStore, bucket: Bucket) -> None:
    with pytest.raises(UploadTooLarge):
        await store.write("a.pdf", parts(12, error=UploadTooLarge()))
    assert (bucket.objects(), bucket.unfinished_uploads()) == ([], [])


@pytest.mark.parametrize("megabytes_before", [0, 1, 7, 12])
async def test_a_cancelled_upload_leaves_no_object_and_no_parts(
    store: FileStore, bucket: Bucket, megabytes_before: int
) -> None:
    await cancel_upload(store, megabytes_before)
    assert (bucket.objects(), bucket.unfinished_uploads()) == ([], [])


@pytest.mark.heavy
async def test_files_of_60_megabytes_go_up_and_down_in_little_memory(store: FileStore) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    peak = before

    def measure() -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    async def measured_parts() -> AsyncIterator[bytes]:
        async for part in parts(60):
            yield part
            measure()

    await store.write("a.pdf", measured_parts())
    async for _ in store.read("a.pdf"):
        measure()
    async with store.local_file("a.pdf") as path:
        measure()
        assert path.stat().st_size == 60 * MEGABYTE
    assert peak - before < 40 * MEGABYTE


async def test_a_bucket_that_is_missing_is_storage_failed(bucket: Bucket) -> None:
    nowhere = FileStore("s3://nowhere")
    with pytest.raises(StorageFailed):
        await nowhere.write("a.pdf", parts(1))
    with pytest.raises(StorageFailed):
        await nowhere.write("a.pdf", parts(12))


async def test_a_server_that_is_gone_is_storage_failed_within_seconds(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    store = FileStore(bucket.url)
    began = time.monotonic()
    with pytest.raises(StorageFailed):
        await store.write("a.pdf", parts(1))
    assert time.monotonic() - began < 15
