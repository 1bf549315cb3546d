"""Each thing that is done to a document is one audit line with who did it, and without content."""

import httpx
import structlog

from tests.api.conftest import ROOT, Served, bearer, made

NAME, WORD = "salary-of-the-director.pdf", "Quinquereme"


async def test_who_did_what_to_which_document(locked: Served) -> None:
    async with httpx.AsyncClient(base_url=locked.url, timeout=30) as client:
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
            client.headers.update(bearer(ROOT))
            key = await made(client, name="clerk")
            client.headers.update(bearer(key["secret"]))
            form = {
                "files": {"file": (NAME, b"%PDF-1.4 " + WORD.encode())},
                "data": {"collection": "letters"},
            }
            document = (await client.post("/documents", **form)).json()  # type: ignore[arg-type]
            path = f"/documents/{document['document_id']}"
            await client.get(f"{path}/file")
            await client.patch(path, json={"title": WORD, "collection": "reports"})
            version = (await client.put(path, files={"file": (NAME, b"%PDF-1.5 " + WORD.encode())})).json()
            await client.post(f"/tasks/{version['task_id']}/cancel")
            await client.post(f"{path}/retry")
            await client.post("/documents/retry", json={"collection": "letters"})
            await client.post("/tasks/cancel", json={"collection": "letters"})
            await client.post("/keys/tokens")
            await client.delete(path)
            await client.delete(path)  # it is there no more: nothing was done
            client.headers.update(bearer(ROOT))
            await client.delete(f"/keys/{key['id']}")
    told = [line for line in lines if line["event"] == "audit"]
    about = {"document_id": document["document_id"]}
    assert [
        {k: v for k, v in line.items() if k in ("action", "document_id", "collection")} for line in told
    ] == [
        {"action": "key.create"},
        {"action": "document.upload", "collection": "letters"} | about,
        {"action": "document.file"} | about,
        {"action": "document.change", "collection": "reports"} | about,
        {"action": "document.replace"} | about,
        {"action": "task.cancel"},
        {"action": "document.retry"} | about,
        {"action": "documents.retry", "collection": "letters"},
        {"action": "tasks.cancel", "collection": "letters"},
        {"action": "token.create"},
        {"action": "document.delete"} | about,
        {"action": "key.revoke"},
    ]
    assert {line["caller"] for line in told[1:-1]} == {"clerk"}
    assert {line["key_id"] for line in told[1:-1]} == {key["id"]}
    assert {told[0]["caller"], told[-1]["caller"]} == {"root"}
    assert all(line["request_id"] for line in told)
    assert not [one for one in (NAME, WORD, key["secret"]) if one in str(lines)]
