"""The lock names all we depend on, by hash, and nowhere to get it from."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.stacks import PROJECT

ENTRY = re.compile(r"^([a-z0-9.-]+)==(\S+)(?: ;.*?)? \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)
LOCKS = {name: (PROJECT / name).read_text() for name in ("requirements.lock", "requirements-fastembed.lock")}

BROWSER_LOCK = (PROJECT / "requirements-browser.lock").read_text()


@pytest.mark.parametrize(
    ("name", "extras", "groups"),
    [
        ("requirements.lock", ["embedded"], ["dev"]),
        ("requirements-fastembed.lock", ["embedded", "fastembed"], ["dev", "models", "checks"]),
    ],
)
def test_every_dependency_is_locked_in_a_version_that_fits(
    name: str, extras: list[str], groups: list[str]
) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    declared = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    declared += [line for extra in extras for line in project["project"]["optional-dependencies"][extra]]
    declared += [line for group in groups for line in project["dependency-groups"][group]]
    locked = {package: version for package, version, _ in ENTRY.findall(LOCKS[name])}
    for requirement in map(Requirement, declared):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier


def test_what_drives_a_browser_is_locked_and_agrees_with_the_other_lock() -> None:
    browser = {package: (version, hashes) for package, version, hashes in ENTRY.findall(BROWSER_LOCK)}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    for requirement in map(Requirement, project["dependency-groups"]["browser"]):
        assert browser[canonicalize_name(requirement.name)][0] in requirement.specifier
    others = {
        package: (version, hashes) for package, version, hashes in ENTRY.findall(LOCKS["requirements.lock"])
    }
    shared = browser.keys() & others.keys()
    assert {name: browser[name] for name in shared} == {name: others[name] for name in shared}
    assert "playwright" not in others
    assert "://" not in BROWSER_LOCK


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_names_versions_and_hashes_only(name: str) -> None:
    entries = ENTRY.findall(LOCKS[name])
    assert len(entries) > 80
    written_again = sum(len(hashes.splitlines()) + 1 for _, _, hashes in entries)
    assert written_again == len(LOCKS[name].splitlines())
    assert "://" not in LOCKS[name]


def test_what_fastembed_needs_is_added_to_the_other_lock_and_changes_nothing_in_it() -> None:
    smaller, larger = (set(ENTRY.findall(lock)) for lock in LOCKS.values())
    assert smaller < larger
    assert {"fastembed", "onnxruntime"} <= {package for package, _, _ in larger - smaller}
