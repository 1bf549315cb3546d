"""A real server that speaks S3, in a process of its own: its memory is not ours."""

import re
import socket
import sys
import time
from pathlib import Path
from typing import Self
from uuid import uuid4

import httpx

from app.local.embedded import free_port
from tests.processes import started


class Bucket:
    """A bucket, seen from outside the file store."""

    def __init__(self, server_url: str, name: str) -> None:
        self._url = f"{server_url}/{name}"
        self.url = f"s3://{name}/pdfs"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": server_url,
            "AWS_ALLOW_HTTP": "true",
        }
        httpx.put(self._url).raise_for_status()

    def objects(self) -> list[str]:
        return re.findall("<Key>(.*?)</Key>", self._listing("list-type=2"))

    def unfinished_uploads(self) -> list[str]:
        """Keys of uploads whose parts are kept, and paid for, until somebody ends them."""
        return re.findall("<Key>(.*?)</Key>", self._listing("uploads"))

    def _listing(self, query: str) -> str:
        return httpx.get(f"{self._url}?{query}").raise_for_status().text


class S3Server:
    def __init__(self, log: Path) -> None:
        self._log = log
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            moto = ("-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port))
            self.process = started(sys.executable, *moto, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._is_listening():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start:\n{self._log.read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def bucket(self) -> Bucket:
        """A new one."""
        return Bucket(self.url, f"bucket-{uuid4()}")

    def _is_listening(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True
