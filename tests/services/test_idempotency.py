import asyncio
from typing import Any
from uuid import uuid4

import pytest

from app.errors import IdempotencyKeyInWork, IdempotencyKeyReused, QueueFull
from app.services.idempotency import Answer
from app.storage.idempotency import CLAIM_SECONDS
from tests.services.workshop import Workshop, in_parts, outcomes_as_answer, pdf


@pytest.fixture
def key() -> str:
    return f"key-{uuid4()}"


async def send(workshop: Workshop, key: str, content: bytes, **options: Any) -> None:
    async with workshop.service.claiming(key) as claim:
        await workshop.add_all([content], claim, **options)


async def age(workshop: Workshop, key: str, seconds: float) -> None:
    await workshop.scalars(
        "UPDATE idempotency_keys SET created_at = created_at - make_interval(secs => :seconds)"
        " WHERE key = :key RETURNING 1",
        key=key,
        seconds=float(seconds),
    )


async def test_a_repeated_request_gets_the_first_answer_and_begins_nothing(workshop: Workshop, key: str):
    content = pdf()
    answers = []
    for _ in range(2):
        async with workshop.service.claiming(key) as claim, workshop.service.uploading() as upload:
            file = await upload.receive("a.pdf", in_parts(content))
            answers.append(
                await workshop.service.add(
                    upload, [file], workshop.options(on_duplicate="keep"), outcomes_as_answer, claim
                )
            )
    assert answers[0] == answers[1]
    assert await workshop.count_documents() == 1
    assert len(workshop.stored()) == 1


@pytest.mark.parametrize("options", [{"metadata": {"a": 1}}, {"on_duplicate": "keep"}, {"password": "x"}])
async def test_the_key_of_another_request_is_refused(workshop: Workshop, key: str, options: dict[str, Any]):
    content = pdf()
    await send(workshop, key, content)
    await send(workshop, key, content)
    with pytest.raises(IdempotencyKeyReused):
        await send(workshop, key, pdf())
    with pytest.raises(IdempotencyKeyReused):
        await send(workshop, key, content, **options)
    assert await workshop.count_documents() == 1
    assert len(workshop.stored()) == 1


async def test_a_second_request_is_refused_while_the_first_is_in_work(workshop: Workshop, key: str):
    async with workshop.service.claiming(key):
        with pytest.raises(IdempotencyKeyInWork):
            await send(workshop, key, pdf())
    await send(workshop, key, pdf())


async def test_of_many_requests_at_the_same_moment_one_begins(workshop: Workshop, key: str):
    content = pdf()
    ends = await asyncio.gather(
        *(send(workshop, key, content, on_duplicate="keep") for _ in range(12)), return_exceptions=True
    )
    assert all(end is None or isinstance(end, IdempotencyKeyInWork) for end in ends)
    assert await workshop.count_documents() == 1


async def test_a_key_is_free_again_after_a_refusal(workshop: Workshop, key: str):
    def refuse(outcomes: object) -> Answer:
        raise QueueFull

    async with workshop.service.uploading() as upload:
        file = await upload.receive("a.pdf", in_parts(pdf()))
        with pytest.raises(QueueFull):
            async with workshop.service.claiming(key) as claim:
                await workshop.service.add(upload, [file], workshop.options(), refuse, claim)
    assert await workshop.count_documents() == 0
    assert await workshop.scalars("SELECT key FROM idempotency_keys WHERE key = :key", key=key) == []
    await send(workshop, key, pdf())


async def test_an_answer_is_forgotten_after_24_hours(workshop: Workshop, key: str):
    content = pdf()
    await send(workshop, key, content)
    await age(workshop, key, 24 * 3600 - 60)
    with pytest.raises(IdempotencyKeyReused):
        await send(workshop, key, pdf())
    await age(workshop, key, 120)
    await send(workshop, key, pdf())
    assert await workshop.count_documents() == 2


async def test_a_request_that_died_gives_way_and_cannot_answer_any_more(workshop: Workshop, key: str):
    content = pdf()
    async with workshop.service.uploading() as upload:
        file = await upload.receive("a.pdf", in_parts(content))
        async with workshop.service.claiming(key) as stopped:
            await age(workshop, key, CLAIM_SECONDS + 1)
            await send(workshop, key, content)
            with pytest.raises(IdempotencyKeyInWork):
                await workshop.service.add(upload, [file], workshop.options(), outcomes_as_answer, stopped)
    (status,) = await workshop.scalars("SELECT status FROM idempotency_keys WHERE key = :key", key=key)
    assert status == 202, "the one that gave way must not remove the other's answer"
    assert await workshop.count_documents() == 1
