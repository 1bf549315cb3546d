import pytest

from app.errors import DiskFull, EmbeddingFailed, EmbeddingRefused, StorageFailed, StoreFull, Temporary
from app.services.retries import MAX_PAUSE_SECONDS, most_retries, pause_seconds


@pytest.mark.parametrize(
    ("error", "most"),
    [(EmbeddingRefused(), 3), (EmbeddingFailed(), 12), (StorageFailed(), 12)],
)
def test_what_others_do_not_meet_is_tried_so_often(error: Temporary, most: int) -> None:
    assert most_retries(error) == most


@pytest.mark.parametrize("error", [DiskFull(), StoreFull()])
def test_room_is_waited_for_however_long_it_takes(error: Temporary) -> None:
    assert most_retries(error) > 10**9
    assert all(
        MAX_PAUSE_SECONDS / 2 <= pause_seconds(retries) <= MAX_PAUSE_SECONDS for retries in (20, 10**6)
    )
