"""What is mistyped in an address is refused, before anything is done."""

import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.config import Settings
from app.main import create_app

PROBES = {"/livez", "/readyz", "/metrics"}  # an address of theirs may be made to differ, against caches

OPERATIONS = [
    (method.upper(), path)
    for path, operations in create_app(Settings(_env_file=None)).openapi()["paths"].items()
    for method in operations
    if path not in PROBES
]


async def test_a_mistyped_dry_run_deletes_nothing(client: httpx.AsyncClient) -> None:
    name = uuid4().hex
    await client.post("/collections", json={"name": name})
    refused = await client.delete(f"/collections/{name}?dryrun=true")
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"where": "query.dryrun", "detail": "is not known here; known: dry_run"}
    ]
    assert (await client.get(f"/collections/{name}")).status_code == 200


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_every_operation_refuses_a_parameter_that_it_does_not_know(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    address = re.sub(r"\{\w*id\}", str(uuid4()), path).replace("{page}", "1").replace("{name}", "none")
    sent: dict[str, Any] = {"json": {}} if method in {"POST", "PUT", "PATCH"} else {}
    answer = await client.request(method, f"{address}?unheard-of=1&limitt=2", **sent)
    assert answer.status_code == 422
    wheres = {fault["where"] for fault in answer.json()["errors"]}
    assert wheres == {"query.unheard-of", "query.limitt"}


async def test_parameters_of_a_model_and_those_given_twice_are_known(client: httpx.AsyncClient) -> None:
    ids = f"document_ids={uuid4()}&document_ids={uuid4()}"
    assert (await client.get(f"/metadata/values?key=year&limit=3&{ids}")).status_code == 200
