"""What keeps the project honest as a whole: floors, invariants, and documents that say what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dramatiq
import pytest

from lore.core.errors import CODES, EXIT_MEANINGS
from workers import messages

ROOT = Path(__file__).resolve().parents[1]
INVARIANTS = [f"I{number}" for number in range(1, 15)]


@pytest.mark.parametrize("invariant", INVARIANTS)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_invariant_has_a_test_on_each_database(
    request: pytest.FixtureRequest, invariant: str, database: str
) -> None:
    proven = request.getfixturevalue("proven_invariants")

    assert database in proven.get(invariant, set()), f"no test on {database} is marked invariant({invariant!r})"


def test_the_readme_has_the_exit_statuses_of_the_code() -> None:
    table = [f"| {int(status)} | {meaning} |" for status, meaning in EXIT_MEANINGS.items()]

    assert "\n".join(table) in (ROOT / "README.md").read_text()


def test_the_procfile_is_what_the_readme_shows() -> None:
    lines = [line for line in (ROOT / "Procfile").read_text().splitlines() if line and not line.startswith("#")]

    assert "\n".join(lines) in (ROOT / "README.md").read_text()


def test_help_costs_no_import_but_click() -> None:
    code = "import sys, cli; print(sorted({m.split('.')[0] for m in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    heavy = {"httpx", "peewee", "dramatiq", "redis", "rich", "structlog", "msgspec", "models", "workers"}
    assert heavy.isdisjoint(set(re.findall(r"'(\w+)'", said)))


def test_a_search_loads_neither_logs_nor_queue_nor_terminal(tmp_path: Path) -> None:
    code = (
        "import sys, cli; from lore.door import run; status = run(cli.commands, 'lore', sys.argv[1:]);"
        "print(status, sorted(sys.modules), file=sys.stderr)"
    )
    database = {"LORE_DATABASE_URL": f"sqlite://{tmp_path}/lore.db", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, "search", "--mode", "text", "--robot", "tide"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | database)

    assert said.stderr.startswith("5 "), "an empty mirror"
    unneeded = {
        "structlog",
        "rich",
        "dramatiq",
        "msgspec",
        "numpy",
        "httpx",
        "lore.terminal",
        "workers.runs",
        "cli.submitting",
    }
    assert unneeded & set(re.findall(r"'([\w.]+)'", said.stderr)) == set()


def test_a_command_on_sqlite_into_a_pipe_loads_no_other_driver_and_nothing_to_paint_with(tmp_path: Path) -> None:
    code = (
        "import sys, cli; from lore.door import run; status = run(cli.commands, 'lore', sys.argv[1:]);"
        "print(status, sorted(sys.modules), file=sys.stderr)"
    )
    database = {"LORE_DATABASE_URL": f"sqlite://{tmp_path}/lore.db", "HOME": str(tmp_path), "LORE_ROBOT": "0"}
    command = [sys.executable, "-c", code, "sync-runs"]
    for _ in ("makes the tables", "finds them"):
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | database)

    assert (said.stdout, said.stderr[:2]) == ("no runs\n", "0 ")
    assert {"psycopg", "rich"} & set(re.findall(r"'([\w.]+)'", said.stderr)) == set()


def test_an_http_client_is_loaded_without_its_command_line() -> None:
    code = "import sys, lore.gitlab; print({'click', 'rich', 'pygments', 'httpx._main'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert said.strip() == "set()"


def test_who_only_sends_imports_no_actor() -> None:
    code = (
        "import sys, workers; from lore.settings import read_settings;"
        "workers.open_ledger = lambda settings: None;"
        "workers.open_sender(read_settings({'LORE_REDIS_URL': 'redis://localhost:1/0'}));"
        "import workers.runs, workers.messages; print({'httpx', 'numpy', 'workers.commit'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert said.strip() == "set()"


def test_every_actor_is_heard_where_messages_to_it_are_sent() -> None:
    sent_to = {name: messages._QUEUES.get(name, name) for name in dramatiq.get_broker().get_declared_actors()}

    assert sent_to == {name: dramatiq.get_broker().get_actor(name).queue_name for name in sent_to}
    assert set(messages.ACTORS.values()) <= set(sent_to)


def test_an_embedded_run_imports_no_redis(tmp_path: Path) -> None:
    code = (
        "import sys, workers; from lore.settings import read_settings;"
        "workers.open_workers(read_settings({'LORE_DATABASE_URL': sys.argv[1]}));"
        "import workers.upkeep, workers.runs, workers.preflight; print('redis' in sys.modules)"
    )
    command = [sys.executable, "-c", code, f"sqlite://{tmp_path}/lore.db"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert said.strip() == "False"


def test_every_code_has_a_meaning_and_a_status() -> None:
    assert all(code.meaning and code.exit for code in CODES.values())


def test_the_lock_file_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()

    assert "://" not in text
    assert "index-url" not in text
    assert text.count("--hash=sha256:") > 100
