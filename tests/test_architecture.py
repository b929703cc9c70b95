"""The import directions that the README promises, read from the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEB_AND_DATABASE = {"gradio", "fastapi", "starlette", "sqlalchemy", "alembic", "sqlite3", "playwright"}
# Who may import whom among our own rooms.
ALLOWED = {
    "moderation": {"moderation"},
    "data": {"data", "moderation"},
    "training": {"training", "data", "moderation"},
    "desk": {"desk", "training", "data", "moderation"},
    "app": {"app", "desk"},
}
# A reader may keep an on-disk index of parents; that is a temporary file, not a database that the core knows.
EXEMPT = {("moderation/readers/threads.py", "sqlite3"), ("moderation/readers/isso.py", "sqlite3")}  # isso exports are SQLite
# The store is the one room of `moderation` that knows a database. The desk's commands open it; the core does not know of it.
STORE, STORE_USERS = "moderation/store/", {"moderation/desk_cli.py"}
SOURCES = sorted(path for room in ALLOWED for path in ([ROOT / "app.py"] if room == "app" else (ROOT / room).rglob("*.py")))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parts[: -node.level])
            yield from (f"{package}.{node.module + '.' if node.module else ''}{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    name = str(path.relative_to(ROOT))
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module in imported(path):
        top = module.split(".")[0]
        if top in ALLOWED:
            assert top in ALLOWED[room], f"{name} imports {module}"
        if room == "moderation" and top in WEB_AND_DATABASE:
            database_of_the_store = name.startswith(STORE) and top in {"sqlalchemy", "alembic"}
            assert database_of_the_store or (name, top) in EXEMPT, f"the core imports {module} in {name}"
        if room == "moderation" and (module + ".").startswith("moderation.store."):
            assert name.startswith(STORE) or name in STORE_USERS, f"the core imports {module} in {name}"


def test_the_command_line_is_quick_to_answer_because_it_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import moderation.cli, moderation.desk_cli, training.cli, sys; print([m for m in ('torch','transformers','pyarrow','lxml','pandas','sklearn','sqlalchemy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
