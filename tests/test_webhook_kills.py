"""Everything that can deliver is killed between a verdict and its delivery."""

import os
import signal
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook as Verifier

from app.local.chaos.embedding_stub import serving
from app.local.chaos.webhook_receiver import WebhookReceiver
from tests.stacks import Up, until


@pytest.mark.heavy
def test_what_was_being_told_when_workers_and_api_were_killed_is_told_later(tmp_path: Path) -> None:
    receiver = WebhookReceiver(delay_seconds=60)
    with serving(receiver.app) as url, Up(tmp_path, WEBHOOK_ALLOW_PRIVATE="true") as up:
        events = ["document.ready"]
        made = httpx.post(f"{up.url}/webhooks", json={"url": url, "events": events}).json()
        document_id = up.ingest("annual-report.pdf")
        until(lambda: receiver.in_flight == 1)
        for part in ("worker", "api"):
            os.killpg(up.pid_of(part), signal.SIGKILL)
        receiver.delay_seconds = 0
        until(lambda: bool(receiver.messages), seconds=60)
        until(up.is_ready)
        (delivery,) = httpx.get(f"{up.url}/webhooks/{made['id']}/deliveries").json()["data"]
    (message,) = receiver.messages
    content = Verifier(made["secret"]).verify(message.body, message.headers)
    assert content["data"]["document_id"] == document_id
    assert message.id == delivery["id"]
