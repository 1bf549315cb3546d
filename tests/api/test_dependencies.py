"""What handlers ask for."""

import inspect
from typing import Annotated, get_args, get_origin

from app.api import dependencies


def test_all_are_coroutines_since_others_are_called_in_a_thread_for_each_request() -> None:
    asked = [one for one in vars(dependencies).values() if get_origin(one) is Annotated]
    functions = [get_args(one)[1].dependency for one in asked]
    assert functions
    assert [one.__name__ for one in functions if not inspect.iscoroutinefunction(one)] == []
