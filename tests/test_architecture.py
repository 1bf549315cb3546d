"""The rules of the import graph: arrows point one way, and foreign libraries stay behind their border."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).parent.parent / "app"

# Which of our packages and modules each one may import. `services` is the product: it knows no HTTP, no
# queue and no SQL. What starts processes and what talks HTTP as a client is `local`, which may import all and
# which nothing imports.
MAY_IMPORT = {
    "errors": set(),
    "config": set(),
    "bridge": set(),
    "logs": set(),
    "loopback": set(),
    "metrics": {"temporary"},
    "temporary": set(),
    "task_queue": {"bridge"},
    "pdf": {"pdf", "errors", "temporary"},
    "embeddings": {"embeddings", "errors", "loopback", "metrics"},
    "reranking": {"reranking", "embeddings", "errors", "loopback"},
    "storage": {"storage", "pdf", "embeddings", "errors", "temporary"},
    "services": {"services", "pdf", "embeddings", "reranking", "storage", "errors", "metrics"},
    "api": {"api", "services", "storage", "pdf", "errors", "logs", "metrics"},
    "resources": {
        *("services", "pdf", "embeddings", "reranking", "storage", "errors", "config", "task_queue"),
        "temporary",
    },
    "main": {"api", "services", "resources", "config", "errors", "logs"},
    "serve": {"main", "config", "logs", "metrics"},
    "worker": {
        *("bridge", "logs", "metrics", "redis_broker", "resources", "services", "task_queue", "config"),
        *("errors", "prefork_pool"),
    },
}

# Which parts may import a library that others must not know.
BORDERS = {
    "sqlalchemy": {"storage", "resources"},
    "asyncpg": {"storage", "local"},  # of local: chaos looks at the rows from outside
    "alembic": {"local"},
    "celery": {"worker", "task_queue", "prefork_pool"},
    "kombu": {"task_queue", "redis_broker"},
    "fastapi": {"api", "main", "serve"},
    "starlette": {"api", "main", "local"},  # of local: the embedder that chaos breaks
    "pypdf": {"pdf"},
    "pypdfium2": {"pdf"},
    "pgvector": {"storage"},
    "obstore": {"storage"},
    "wordllama": {"embeddings"},
    "py3langid": {"services"},
    "fastembed": {"embeddings"},
    "prometheus_client": {"metrics"},
    "pydantic_settings": {"config"},
}
# Services whose transactions see all there is, and of those that serve callers the functions that do. All
# others say whose reach a transaction has, or Postgres would show them everything.
SEE_EVERYTHING = {
    # work, whoever asked for it
    *("backfill", "embedding_budget", "embedding_cache", "outages", "pipeline", "rag_service", "roster"),
    *("admission", "incoming", "readiness", "sweeper", "verdicts", "webhook_delivery"),
    # for administrators
    *("figures", "keys", "webhook_service"),
    # of an account's own
    "idempotency",
    # of collections and documents that are going
    *("collection_service.delete_doomed", "collection_service._delete_leaving"),
    # of a document that was found for the caller
    "pictures._password",
}
# Functions of storage that fetch, which no reach bounds: tasks once for all who ask, and kept apart in the
# code (`progress.VisibleTasks`); what is out, for everybody; what the sweeper asks, for nobody.
FETCH_EVERYTHING = {
    *("tasks.list_task_statuses", "tasks.list_changes", "tasks.list_queue"),
    "outages.services_out",
    *("__init__.holders", "sweep.find_leader", "sweep.count_due"),
}
MAY_READ_SETTINGS = {"main", "serve", "worker", "resources", "local", "config"}


def modules() -> list[Path]:
    return sorted(APP.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(APP).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> set[str]:
    """Full names of what a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(APP)))
def test_imports_point_one_way(path: Path) -> None:
    allowed = MAY_IMPORT.get(part_of(path))
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("app.")}
    if allowed is not None:
        assert ours <= allowed, f"{path.name} may not import {ours - allowed}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(APP)))
def test_libraries_stay_behind_their_border(path: Path) -> None:
    used = {name.split(".")[0] for name in imports_of(path)}
    crossed = {
        library for library, parts in BORDERS.items() if library in used and part_of(path) not in parts
    }
    assert not crossed, f"{path.name} may not import {crossed}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(APP)))
def test_settings_are_read_at_the_edge_only(path: Path) -> None:
    if any(name.startswith("app.config") for name in imports_of(path)):
        assert part_of(path) in MAY_READ_SETTINGS


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(APP)))
def test_what_parses_pdfs_is_imported_in_their_own_processes_only(path: Path) -> None:
    if "sandbox" not in path.relative_to(APP).parts:
        assert not [name for name in imports_of(path) if name.startswith("app.pdf.sandbox")]


def test_engines_do_not_import_each_other() -> None:
    for engine, other in (("pdfium", "pypdf_engine"), ("pypdf_engine", "pdfium")):
        imported = imports_of(APP / f"pdf/sandbox/{engine}.py")
        assert not [name for name in imported if name.startswith(f"app.pdf.sandbox.{other}.")]
    assert not [name for name in imports_of(APP / "pdf/sandbox/engine.py") if ".engines" in name]


def calls(path: Path) -> Iterator[tuple[str, str, bool]]:
    """(`module.function` that calls, the method that is called, whether it is given anything)."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                    yield f"{path.stem}.{function.name}", call.func.attr, bool(call.args + call.keywords)


def unbound(path: Path) -> set[str]:
    """The functions of a module that open a transaction without a reach."""
    opening = {"transaction", "transaction_in_turn", "snapshot", "autocommit"}
    return {function for function, method, is_given in calls(path) if method in opening and not is_given}


def fetching(path: Path) -> set[str]:
    return {function for function, method, _ in calls(path) if method == "fetch"}


def test_who_serves_callers_says_whose_reach_a_transaction_has() -> None:
    opened = set[str]().union(*(unbound(path) for path in modules() if part_of(path) in {"services", "api"}))
    assert "rag_service.marks" not in opened, "its other functions do work"
    refused = {one for one in opened if not {one, one.split(".")[0]} & SEE_EVERYTHING}
    assert refused == set()
    assert opened | {one.split(".")[0] for one in opened} >= SEE_EVERYTHING, "who does so no more"


def test_what_is_fetched_without_a_reach_is_known() -> None:
    of_services = [path for path in modules() if part_of(path) in {"services", "api", "storage"}]
    found = set[str]().union(*(fetching(path) for path in of_services if path.stem != "database"))
    assert found == FETCH_EVERYTHING


def test_the_rules_catch_an_arrow_that_points_the_wrong_way(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "def f():\n    from app.services import rag_service\n    import celery.app\n"
        "    d.snapshot()\n    d.fetch(q)\n"
    )
    assert imports_of(wrong) == {"app.services.rag_service", "celery.app"}
    assert "services" not in MAY_IMPORT["storage"]
    assert unbound(wrong) == fetching(wrong) == {"wrong.f"}
