import subprocess
import sys

import pytest

PROGRAM = """
import logging
from app.logs import configure_logging

configure_logging(log_format="{log_format}")

def open_pdf(password):
    raise ValueError("cannot be opened")

try:
    open_pdf("hunter" + "2")
except ValueError:
    logging.getLogger("app").exception("it failed")
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_in_the_log_shows_no_values_of_variables(log_format: str) -> None:
    program = PROGRAM.format(log_format=log_format)
    log = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stderr
    assert "it failed" in log
    assert "ValueError: cannot be opened" in log
    assert "hunter2" not in log
