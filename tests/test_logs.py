import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging
from app.logs import configure_logging

configure_logging("INFO", "{log_format}")

def open_pdf(password):
    raise ValueError("cannot be opened")

try:
    open_pdf("hunter" + "2")
except ValueError:
    logging.getLogger("app").exception("it failed")
"""


QUOTING = """
import logging
import asyncpg, pydantic, sqlalchemy.exc
from app.logs import configure_logging

configure_logging("INFO", "{log_format}")
secret = "hunter" + "2"
try:
    try:
        pydantic.TypeAdapter(int).validate_python(secret)
    except ValueError:
        raise asyncpg.DataError("invalid input for query argument $1: " + secret)
except asyncpg.DataError as error:
    try:
        raise ExceptionGroup("several", [sqlalchemy.exc.DBAPIError("SELECT", secret, error)]) from error
    except ExceptionGroup:
        logging.getLogger("app").exception("it failed")
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_in_the_log_shows_no_values_of_variables(log_format: str) -> None:
    program = PROGRAM.format(log_format=log_format)
    log = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stderr
    assert "it failed" in log
    assert "ValueError: cannot be opened" in log
    assert "hunter2" not in log


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_messages_of_errors_that_quote_values_are_left_out(log_format: str) -> None:
    program = QUOTING.format(log_format=log_format)
    log = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stderr
    for name in ("pydantic_core._pydantic_core.ValidationError", "asyncpg", "sqlalchemy.exc.DBAPIError"):
        assert name in log
    assert "ExceptionGroup: several (1 sub-exception)" in log
    assert "hunter2" not in log


def test_a_line_of_json_is_one_line_with_the_place_of_the_error() -> None:
    program = PROGRAM.format(log_format="json")
    log = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stderr
    (line,) = log.splitlines()
    assert "in open_pdf" in json.loads(line)["exception"]
