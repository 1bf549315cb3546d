"""Embedding servers that answer as one test wants, with vectors of four values."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EmbeddingHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.embed(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"])

    def embed(self, texts: list[str]) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def vectors_for(texts: list[str]) -> list[dict[str, Any]]:
    return [{"embedding": [1.0, 2.0, 3.0, 4.0]} for _ in texts]


@contextmanager
def served_by(handler: type[EmbeddingHandler]) -> Iterator[str]:
    """The address to set as EMBEDDING_BASE_URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()
