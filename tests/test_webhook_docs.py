"""What docs/webhooks.md shows works as written."""

import re
from typing import Any

from app.services.webhook_sender import signed
from tests.stacks import PROJECT

DOCS = (PROJECT / "docs" / "webhooks.md").read_text()


def test_the_example_takes_our_messages_once_and_refuses_others() -> None:
    example = re.search(r"run by tests/test_webhook_docs\.py -->\n```python\n(.*?)```", DOCS, re.DOTALL)[1]
    known: set[str] = set()
    scope: dict[str, Any] = {"is_known": lambda message_id: message_id in known or known.add(message_id)}
    exec(example, scope)
    secret, body = "whsec_c2VjcmV0IHNlY3JldA==", b'{"type":"ping","data":{}}'
    headers = signed("one", body, [secret])
    assert scope["receive"](headers, body, secret) == 204
    assert scope["receive"](headers, body, secret) == 204
    assert known == {"one"}
    assert scope["receive"](headers, body + b" ", secret) == 401
