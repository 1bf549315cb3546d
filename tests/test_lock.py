"""The lock names all we depend on, by hash, and nowhere to get it from."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.stacks import PROJECT

LOCK = (PROJECT / "requirements.lock").read_text()
ENTRIES = re.findall(
    r"^([a-z0-9.-]+)==(\S+)(?: ;.*?)? \\\n((?:    --hash=\S+(?: \\)?\n)+)", LOCK, re.MULTILINE
)


def test_every_dependency_is_locked_in_a_version_that_fits() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    declared = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    locked = {name: version for name, version, _ in ENTRIES}
    for requirement in map(Requirement, declared):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lock_holds_names_versions_and_hashes_only() -> None:
    assert len(ENTRIES) > 80
    written_again = sum(len(hashes.splitlines()) + 1 for _, _, hashes in ENTRIES)
    assert written_again == len(LOCK.splitlines())
    assert "://" not in LOCK
