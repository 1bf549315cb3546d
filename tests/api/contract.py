"""Answers held against the API's own description: its statuses, its media types, its schemas."""

import json
import re
from typing import Any

import httpx
import jsonschema_rs

JSON = ("application/json", "application/problem+json")


class Contract:
    """`check` is an event hook of httpx: every answer of a client can be made to keep to the description."""

    def __init__(self, openapi: dict[str, Any]) -> None:
        self._components = openapi["components"]
        self._validators: dict[str, Any] = {}
        self._paths = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))), operations)
            for path, operations in sorted(openapi["paths"].items(), key=lambda entry: "{" in entry[0])
        ]

    async def check(self, answer: httpx.Response) -> None:
        """Raises AssertionError. What is not in the description, as HEAD and unknown paths, is left alone."""
        operation = self._operation(answer.request.method.lower(), answer.request.url.path)
        if operation is None:
            return
        where = f"{answer.request.method} {answer.request.url}"
        described = operation["responses"].get(str(answer.status_code))
        assert described is not None, f"{where} answered {answer.status_code}, which is not documented"
        assert answer.status_code != 500, where
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        assert media_type in described.get("content", {"": {}}), f"{where} answered with {media_type!r}"
        if media_type in JSON:
            await answer.aread()
            validator = self._validator(described["content"][media_type]["schema"])
            faults = [fault.message for fault in validator.iter_errors(answer.json())]
            assert not faults, f"{where} answered off its schema: {faults}"
        for header, description in described.get("headers", {}).items():
            assert not description.get("required") or header in answer.headers, f"{where} has no {header}"

    def _validator(self, schema: dict[str, Any]) -> Any:
        name = json.dumps(schema)
        if name not in self._validators:
            self._validators[name] = jsonschema_rs.validator_for(schema | {"components": self._components})
        return self._validators[name]

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for pattern, operations in self._paths:
            if pattern.fullmatch(path):
                return operations.get(method)
        return None
