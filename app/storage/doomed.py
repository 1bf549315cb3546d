"""Documents that go with their collection: once that is deleted nobody finds them, whatever is there of them.

The collection has lost its name by then, which may be another's already, and its documents still note it.
"""

from typing import Final

# SQL: of a row of `documents`, for statements about single ones, and for those that look for what is doomed.
IS_DOOMED: Final = "EXISTS (SELECT FROM collections WHERE collections.id = collection_id AND name IS NULL)"


def stays(documents: str) -> str:
    """SQL for statements that find documents, called so there, among many.

    What is doomed is read once a statement. Inside `coalesce` the planner expects half of all to fulfil it;
    outside, where there is one collection, none, and it would choose plans for one row.
    """
    doomed = "ARRAY(SELECT id FROM collections WHERE name IS NULL)"
    return f"coalesce({documents}.collection_id <> ALL ({doomed}), true)"
