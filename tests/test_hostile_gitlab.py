"""A GitLab, or something between it and us, that answers wrongly: no run believes it, hangs, or grows.

Each fault of the demo server in turn, against a run of five entities over a mirror that GitLab has changed since.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import age, content, open_tasks, settings_for

from lore.core import plan
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from lore.demo.delivery import DELIVERIES
from lore.demo.distortions import DISTORTIONS, MALFORMED
from lore.demo.server import running, spawn
from models.content import ENTITY_TABLES, Discussion, EntityLink, MergeRequestDiff, Note, ResourceEvent
from models.ledger import Project
from models.locks import ProjectLock
from models.queue import StagedPayload
from workers import embedded, resources, runs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
# Three of them have a list of two pages.
ENTITIES = [
    Entity("issue", 4),
    Entity("issue", 5),
    Entity("issue", 7),
    Entity("merge_request", 1),
    Entity("merge_request", 11),
]
TARGET = ("issue", 4)
ITSELF = "/projects/:id/issues/:iid"
THREADS = "*/discussions"
DEADLINE_S = 3.0
# Far more than any run here takes: it says that a run hangs, not that a machine is slow.
PATIENCE_S = 60.0
MOST_MEMORY_MB = 200


@dataclass(frozen=True)
class Case:
    """A fault of one endpoint of one entity, and how the run is to end."""

    name: str
    action: Any
    code: str = ""
    exit: int = 10
    route: str = ITSELF
    run_code: tuple[str, ...] = ("SURGICAL_PREFLIGHT_FAILED",)
    times: int | None = None

    @property
    def fault(self) -> dict[str, Any]:
        action = {"type": self.action} if isinstance(self.action, str) else self.action
        match = {"kind": TARGET[0], "iid": TARGET[1], "route": self.route}
        return {"match": match, "action": action, "times": self.times}


def bad(name: str, action: Any, *, route: str = ITSELF, code: str = "GITLAB_BAD_PAYLOAD") -> Case:
    return Case(name, action, code, route=route)


def dooming(name: str, action: Any, code: str, exit: int) -> Case:
    return Case(name, action, code, exit, run_code=(code,))


def down(name: str, action: Any, code: str, *, exit: int = 7, route: str = ITSELF) -> Case:
    """What can pass and does not: the deadline ends it, or the wait that would go beyond."""
    return Case(name, action, code, exit, route, run_code=("SURGICAL_PREFLIGHT_FAILED", "RUN_DEADLINE"))


def odd(form: str, name: str, *, route: str = ITSELF, **more: Any) -> Case:
    return bad(f"{name} is {form}", {"type": "schema", "form": form, "field": name, **more}, route=route)


def redirect(name: str, location: str) -> Case:
    return bad(f"redirect {name}", {"type": "redirect", "location": location}, code="GITLAB_REDIRECT")


def headers(name: str, **values: str | None) -> Any:
    return {"type": "headers", "set": {key.replace("_", "-"): value for key, value in values.items()}}


REFUSED = [
    bad("404", "not_found", code="GITLAB_NOT_FOUND"),
    bad("404 of a list", "not_found", code="GITLAB_NOT_FOUND", route=THREADS),
    bad("403", "forbidden", code="GITLAB_FORBIDDEN"),
    bad("403 by scope", {"type": "forbidden", "form": "scope"}, code="GITLAB_FORBIDDEN", route=THREADS),
    dooming("404 of the project", {"type": "not_found", "message": "404 Project Not Found"}, "PROJECT_NOT_FOUND", 5),
    *(
        dooming(f"401 {form}", {"type": "unauthorized", "form": form}, "GITLAB_UNAUTHORIZED", 4)
        for form in ("plain", "expired", "revoked")
    ),
    *(
        bad(f"{status}", {"type": "server_error", "status": status}, code="GITLAB_BAD_REQUEST")
        for status in (400, 405, 422)
    ),
    bad("sign-in page", {"type": "html", "form": "sign_in"}),
    bad("sign-in page for a list", {"type": "html", "form": "sign_in"}, route=THREADS),
    bad("captive page called JSON", {"type": "html", "form": "captive"}),
    bad("captive page called JSON for a list", {"type": "html", "form": "captive"}, route=THREADS),
    bad("to the sign-in page", {"type": "html", "form": "redirect"}, code="GITLAB_REDIRECT"),
    # A body that ends too early may be whole the next time.
    *(bad(f"malformed {form}", {"type": "malformed", "form": form}) for form in MALFORMED if form != "cut"),
    *(
        bad(f"malformed list {form}", {"type": "malformed", "form": form}, route=THREADS)
        for form in MALFORMED
        if form != "cut"
    ),
    *(
        bad(f"wrong type {form}", {"type": "wrong_type", "form": form}, route=route)
        for form, route in (("text", ITSELF), ("text", THREADS), ("empty", ITSELF), ("no_content", THREADS))
    ),
    bad("gzip bomb", {"type": "wrong_type", "form": "gzip_bomb"}, code="GITLAB_TOO_LARGE"),
    bad("50 MB", {"type": "big_body", "mb": 50}, code="GITLAB_TOO_LARGE"),
    bad("50 MB list", {"type": "big_body", "mb": 50}, code="GITLAB_TOO_LARGE", route=THREADS),
    *(
        odd(form, name)
        for form in ("null", "retype", "huge_int", "float_id", "nul", "surrogate", "deep", "bool", "drop")
        for name in ("iid", "updated_at")
    ),
    *(odd(form, "title") for form in ("retype", "huge_int", "nul", "surrogate", "deep")),
    *(odd(form, "id", route=THREADS) for form in ("null", "retype", "nul", "deep", "drop")),
    *(odd(form, "notes", route=THREADS) for form in ("null", "text", "surrogate", "deep", "drop")),
    bad("another iid", {"type": "schema", "form": "value", "field": "iid", "value": 6}, code="WRONG_ENTITY"),
    bad("another project", {"type": "schema", "form": "value", "field": "project_id", "value": 6}, code="WRONG_ENTITY"),
    bad("any JSON", {"type": "body", "json": {"hello": "world"}}),
    bad("next page is this one", {"type": "page_drift", "form": "loop"}, route=THREADS),
    bad("page that does not say whether it is the last", {"type": "page_drift", "form": "no_next"}, route=THREADS),
    bad("next page is before", headers("", X_Next_Page="0"), route=THREADS),
    bad("next page is a word", headers("", X_Next_Page="two"), route=THREADS),
    bad("next page is far off", headers("", X_Next_Page="9" * 30), route=THREADS),
    bad("an encoding we did not ask for", headers("", Content_Encoding="br"), route=THREADS),
    bad("no content type", headers("", Content_Type=None)),
    redirect("to another path", "/users/sign_in"),
    redirect("to itself", "/api/v4/projects/71/issues/4"),
    redirect("to nowhere", ""),
    redirect("to no address", "http://["),
    redirect("out of the API", "/api/v4/../../x"),
    redirect("to another scheme", "ftp://127.0.0.1/"),
]

LASTING = [
    *(
        down(f"{status}", {"type": "server_error", "status": status}, "GITLAB_UNAVAILABLE")
        for status in (500, 502, 503, 520, 408)
    ),
    down("503 for an hour", {"type": "server_error", "status": 503, "retry_after": 3600}, "GITLAB_UNAVAILABLE"),
    down("maintenance page", {"type": "html", "form": "maintenance"}, "GITLAB_UNAVAILABLE"),
    *(
        down(f"429 {options}", {"type": "rate_limited", **options}, "GITLAB_RATE_LIMITED", exit=6)
        for options in (
            {"retry_after": 1},
            {"retry_after": 3600},
            {"retry_after": 3600, "as_date": True},
            {"retry_after": None},
            {"retry_after": "soon"},
            {"form": "application"},
            {"form": "haproxy"},
        )
    ),
    down("cut", {"type": "malformed", "form": "cut"}, "GITLAB_BROKEN_ANSWER"),
    down("bad gzip", {"type": "wrong_type", "form": "bad_gzip"}, "GITLAB_BROKEN_ANSWER"),
    down("corrupt gzip", {"type": "wrong_type", "form": "corrupt_gzip"}, "GITLAB_BROKEN_ANSWER"),
    *(down(f"reset at {at}", {"type": "reset", "at": at}, "GITLAB_BROKEN_ANSWER") for at in ("request", "body")),
    down("truncated", "truncated", "GITLAB_BROKEN_ANSWER"),
    down("truncated list", {"type": "truncated", "chunked": True}, "GITLAB_BROKEN_ANSWER", route=THREADS),
    down("closed", "closed", "GITLAB_BROKEN_ANSWER"),
    down("headers without end", headers("", X_Odd="x" * 200_000), "GITLAB_BROKEN_ANSWER"),
    down("slow drip", {"type": "slow_drip", "bytes_per_s": 50}, "GITLAB_UNREACHABLE"),
    down("stall before the headers", {"type": "slow_drip", "stall_s": 60, "at": "headers"}, "GITLAB_UNREACHABLE"),
    down("stall before the body", {"type": "slow_drip", "stall_s": 60}, "GITLAB_UNREACHABLE", route=THREADS),
    down("latency", {"type": "latency", "ms": 60_000}, "GITLAB_UNREACHABLE"),
    # It answers at once and for ever: only the deadline ends it.
    Case("endless list", {"type": "page_drift", "form": "endless"}, "RUN_DEADLINE", 10, THREADS, ("RUN_DEADLINE",)),
]

PASSING = [
    Case("a burst of 5xx", {"type": "server_error", "status": 502}, times=3),
    Case("one 503 with a wait", {"type": "server_error", "status": 503, "retry_after": 1}),
    Case("one 429", {"type": "rate_limited", "retry_after": 1}),
    Case("one 429 with a date", {"type": "rate_limited", "retry_after": 1, "as_date": True}),
    Case("one 429 without a wait", {"type": "rate_limited", "form": "application"}, route=THREADS),
    Case("maintenance once", {"type": "html", "form": "maintenance"}),
    Case("truncated once", "truncated"),
    Case("a list truncated once", {"type": "truncated", "chunked": True}, route=THREADS),
    Case("cut once", {"type": "malformed", "form": "cut"}, route=THREADS),
    Case("corrupt gzip once", {"type": "wrong_type", "form": "corrupt_gzip"}, route=THREADS),
    *(Case(f"reset at {at} once", {"type": "reset", "at": at}) for at in ("request", "headers", "body")),
    Case("closed once", "closed", route=THREADS),
    Case("slow once", {"type": "slow_drip", "stall_s": 60, "at": "headers"}),
    Case("late once", {"type": "latency", "ms": 60_000}, route=THREADS),
    Case("a row missing once", {"type": "page_drift", "form": "drop"}, route=THREADS),
]

HARMLESS = [
    Case("rightly packed", {"type": "wrong_type", "form": "gzip"}, route=THREADS),
    Case("a charset that is not JSON's", {"type": "wrong_type", "form": "charset"}),
    Case("unknown fields", {"type": "schema", "form": "extra"}),
    Case("a wrong total", {"type": "page_drift", "form": "wrong_total"}, route=THREADS),
    Case("no link", {"type": "page_drift", "form": "no_link"}, route=THREADS),
    Case("a row twice", {"type": "page_drift", "form": "duplicate"}, route=THREADS),
    Case("a clock that is none", headers("", Date="never")),
    Case("odd limits", headers("", RateLimit_Remaining="-5", RateLimit_Reset="soon"), route=THREADS),
]


def on_each(cases: list[Case], *, on_postgresql: Callable[[Case], bool]) -> Any:
    """Try every case on SQLite, and on PostgreSQL those that differ in what they do to the database."""
    pairs = [("sqlite", case) for case in cases]
    pairs += [("postgresql", case) for case in cases if on_postgresql(case)]
    ids = [f"{database}-{case.name}" for database, case in pairs]
    return pytest.mark.parametrize(("database_url", "case"), pairs, ids=ids, indirect=["database_url"])


# A body that cannot be decoded never comes near a database: one form of each is enough for the other one.
DECODED = {"malformed", "schema", "redirect", "headers"}
ON_BOTH = {
    *("malformed nan", "title is nul", "another iid"),
    *("500", "429 {'retry_after': 1}", "429 {'retry_after': 3600}", "truncated", "slow drip", "endless list"),
    *("a burst of 5xx", "one 429", "truncated once", "late once", "a row missing once"),
}


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    with running("tiny") as server:
        yield server


@dataclass
class Mirror:
    """A mirror of five entities that GitLab has changed since, and how to refresh it."""

    demo: Any
    database_url: str

    def configure(self, **settings: str) -> None:
        resources.configure(settings_for(self.demo.url, self.demo.token, self.database_url, **settings))

    def refresh(self) -> str:
        """Do one run as an embedded process does it: with its threads, its sweeper and the real client."""
        run_id = runs.submit(
            gitlab_url=self.demo.url, project=self.demo.project, entities=ENTITIES, options=RunOptions()
        ).run_id
        began = time.monotonic()
        embedded.run_to_end(run_id, timeout_s=PATIENCE_S)
        assert time.monotonic() - began < PATIENCE_S, "the run hangs"
        return run_id


@pytest.fixture
def mirror(ledger: Any, database_url: str, demo: Any) -> Mirror:
    mirror = Mirror(demo, database_url)
    demo.reset()
    mirror.configure()
    assert runs.error_of(mirror.refresh()) is None
    demo.advance_clock(7200)
    demo.script(
        [{"step": "comment", "kind": one.entity_type, "iid": one.iid, "body": "said since"} for one in ENTITIES]
    )
    return mirror


def ends_clean(before: dict[str, list[Any]]) -> None:
    assert content() == before
    assert open_tasks() == 0
    assert StagedPayload.select().count() == 0
    assert ProjectLock.select().where(ProjectLock.owner.is_null(False)).count() == 0


@pytest.mark.invariant("I1")
@on_each(REFUSED, on_postgresql=lambda case: case.name in ON_BOTH or case.fault["action"]["type"] not in DECODED)
def test_what_cannot_pass_fails_its_entity_with_its_code_and_changes_nothing(mirror: Mirror, case: Case) -> None:
    before = content()
    mirror.demo.faults([case.fault])

    run_id = mirror.refresh()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code in case.run_code, int(error.exit)) == (True, case.exit), error.message
    assert [(f.entity_type, f.iid, f.code) for f in error.failures] == [(*TARGET, case.code)]
    ends_clean(before)


@pytest.mark.invariant("I1")
@on_each(LASTING, on_postgresql=lambda case: case.name in ON_BOTH)
def test_what_could_pass_and_does_not_ends_with_the_deadline_and_its_cause(mirror: Mirror, case: Case) -> None:
    mirror.configure(LORE_RUN_DEADLINE=f"{DEADLINE_S}s", LORE_GITLAB_TIMEOUT="1s")
    before = content()
    mirror.demo.faults([case.fault])

    run_id = mirror.refresh()

    error = runs.error_of(run_id)
    assert error is not None
    codes = {(f.entity_type, f.iid): f.code for f in error.failures}
    assert codes[TARGET] == case.code, error.failures
    assert set(codes.values()) == {case.code}
    assert (error.code in case.run_code, int(error.exit)) == (True, case.exit), error.message
    ends_clean(before)


@on_each(PASSING, on_postgresql=lambda case: case.name in ON_BOTH)
def test_what_passes_is_tried_again_until_the_mirror_is_the_truth(mirror: Mirror, case: Case) -> None:
    mirror.configure(LORE_GITLAB_TIMEOUT="2s")
    mirror.demo.faults([case.fault | {"times": case.times or 1}])

    run_id = mirror.refresh()

    assert runs.error_of(run_id) is None
    mirror.demo.faults([])
    assert_is_truth(mirror)


@on_each(HARMLESS, on_postgresql=lambda case: True)
def test_what_is_odd_and_does_no_harm_is_read_as_it_is_meant(mirror: Mirror, case: Case) -> None:
    mirror.demo.faults([case.fault])

    run_id = mirror.refresh()

    assert runs.error_of(run_id) is None
    mirror.demo.faults([])
    assert_is_truth(mirror)


def assert_is_truth(mirror: Mirror) -> None:
    for entity in ENTITIES:
        truth = mirror.demo.truth(entity.entity_type, entity.iid)
        table = ENTITY_TABLES[entity.entity_type]
        row = table.get(table.iid == entity.iid)
        raw = json.loads(row.raw)
        assert {name: raw[name] for name in truth["body"]} == truth["body"]
        assert children(entity, row.id) == said(entity, truth), entity


def children(entity: Entity, entity_id: int) -> dict[str, list[Any]]:
    def raws(table: Any, *where: Any) -> list[Any]:
        query = table.select(table.raw).where(
            table.entity_type == entity.entity_type, table.entity_id == entity_id, *where
        )
        return [json.loads(raw) for (raw,) in query.order_by(table.position).tuples()]

    kinds = {f"{kind}_events": raws(ResourceEvent, ResourceEvent.kind == kind) for kind in KINDS}
    return kinds | {
        "discussions": raws(Discussion),
        "notes": raws(Note),
        "diffs": raws(MergeRequestDiff),
        "links": raws(EntityLink),
    }


KINDS = ("state", "label", "milestone")


def said(entity: Entity, truth: dict[str, Any]) -> dict[str, list[Any]]:
    threads = truth["discussions"]
    is_issue = entity.entity_type == plan.ISSUE
    return {f"{kind}_events": truth[f"{kind}_events"] for kind in KINDS} | {
        "discussions": [{name: value for name, value in one.items() if name != "notes"} for one in threads],
        "notes": [note for one in threads for note in one["notes"]],
        "diffs": [] if is_issue else truth["diffs"],
        "links": truth["links"] if is_issue else truth["closes_issues"],
    }


EVERYWHERE = [
    ("sign-in page", {"type": "html", "form": "sign_in"}, "GITLAB_BAD_PAYLOAD", 7),
    ("captive page", {"type": "html", "form": "captive"}, "GITLAB_BAD_PAYLOAD", 7),
    ("404", {"type": "not_found"}, "PROJECT_NOT_FOUND", 5),
    ("403", {"type": "forbidden"}, "GITLAB_FORBIDDEN", 4),
    ("401", {"type": "unauthorized"}, "GITLAB_UNAUTHORIZED", 4),
    ("429", {"type": "rate_limited", "retry_after": 3600}, "GITLAB_RATE_LIMITED", 6),
    ("503", {"type": "server_error", "status": 503, "retry_after": 3600}, "GITLAB_UNAVAILABLE", 7),
    ("resets", {"type": "reset"}, "GITLAB_BROKEN_ANSWER", 7),
    ("50 MB", {"type": "big_body", "mb": 50}, "GITLAB_TOO_LARGE", 7),
]


@pytest.mark.invariant("I1")
@pytest.mark.parametrize(("action", "code", "exit"), [case[1:] for case in EVERYWHERE], ids=[c[0] for c in EVERYWHERE])
def test_what_dooms_all_of_a_run_ends_it_with_its_own_code_and_status(
    mirror: Mirror, action: Any, code: str, exit: int
) -> None:
    mirror.configure(LORE_RUN_DEADLINE=f"{DEADLINE_S}s")
    age(Project, 7_200_000, Project.confirmed_at)
    before = content()
    mirror.demo.faults([{"action": action}])

    run_id = mirror.refresh()

    error = runs.error_of(run_id)
    assert error is not None
    # At the deadline it depends on who is first whether the run is over time or its project is.
    assert (error.code, int(error.exit)) == (code, exit)
    ends_clean(before)


@pytest.fixture
def other() -> Iterator[Any]:
    """A GitLab that nobody configured, with the same content, that must never be asked anything."""
    with running("tiny") as server:
        yield server


@pytest.mark.invariant("I13")
@pytest.mark.parametrize("route", [ITSELF, THREADS])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_not_followed_and_no_token_goes_there(
    mirror: Mirror, other: Any, route: str, status: int
) -> None:
    before = content()
    rest = "" if route == ITSELF else "/discussions"
    location = f"{other.url}/api/v4/projects/71/issues/4{rest}"
    fault = bad("elsewhere", {"type": "redirect", "location": location, "status": status}, route=route).fault
    mirror.demo.faults([fault])

    run_id = mirror.refresh()

    assert [f.code for f in runs.error_of(run_id).failures] == ["GITLAB_REDIRECT"]  # type: ignore[union-attr]
    assert other.log() == []
    ends_clean(before)


@pytest.mark.invariant("I13")
def test_a_sign_in_page_and_a_next_page_on_another_host_are_not_asked_for(mirror: Mirror, other: Any) -> None:
    away = headers("", X_Next_Page=None)
    drift = {"type": "page_drift", "form": "foreign_link", "host": other.url}
    mirror.demo.faults([{"match": {"route": THREADS}, "action": drift}, {"match": {"route": THREADS}, "action": away}])
    run_id = mirror.refresh()
    assert runs.error_of(run_id) is None
    assert_is_truth(mirror)
    before = content()
    mirror.demo.faults([{"action": {"type": "html", "form": "redirect", "host": other.url}}])

    run_id = mirror.refresh()

    assert [f.code for f in runs.error_of(run_id).failures] == ["GITLAB_REDIRECT"] * 5  # type: ignore[union-attr]
    assert other.log() == []
    ends_clean(before)


def test_every_fault_of_the_demo_server_is_tried_here() -> None:
    cases = [*REFUSED, *LASTING, *PASSING, *HARMLESS]
    tried = {case.fault["action"]["type"] for case in cases} | {action["type"] for _, action, _, _ in EVERYWHERE}

    assert tried >= {*DISTORTIONS, *DELIVERIES, "latency"}


MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(process.pid, 0)
print(used.ru_maxrss // (1024 * 1024 if sys.platform == "darwin" else 1024), file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@contextmanager
def measured(environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run the five entities by the command itself; its peak of memory in MB is the last line of standard error.

    By a small process between: a child counts what its parent held when it was made.
    """
    named = [word for one in ENTITIES for word in ("--issue" if one.entity_type == "issue" else "--mr", str(one.iid))]
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "cli", "--robot", "submit", *named]
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


LARGE = [
    ("50 MB", {"type": "big_body", "mb": 50}, {"GITLAB_TOO_LARGE"}),
    ("just below the bound", {"type": "big_body", "mb": 19}, {"GITLAB_BAD_PAYLOAD"}),
    ("gzip bomb", {"type": "wrong_type", "form": "gzip_bomb"}, {"GITLAB_TOO_LARGE"}),
    ("nesting", {"type": "malformed", "form": "deep"}, {"GITLAB_BAD_PAYLOAD"}),
    # A nested field in each of a hundred rows is above the bound too.
    ("nested field", {"type": "schema", "form": "deep", "field": "id"}, {"GITLAB_BAD_PAYLOAD", "GITLAB_TOO_LARGE"}),
    ("headers", headers("", X_Odd="x" * 5_000_000), {"GITLAB_BROKEN_ANSWER"}),
]


@pytest.fixture(scope="module")
def spawned() -> Iterator[Any]:
    with spawn("tiny") as server:
        yield server


@pytest.mark.parametrize(("action", "codes"), [case[1:] for case in LARGE], ids=[case[0] for case in LARGE])
def test_no_body_makes_a_process_hold_200_mb(
    spawned: Any, database_url: str, tmp_path: Path, action: Any, codes: set[str]
) -> None:
    spawned.reset()
    # Every endpoint but the project: all threads of the process meet it at once.
    spawned.faults([{"match": {"kind": ["issue", "merge_request"]}, "action": action}])
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "LORE_GITLAB_URL": spawned.url,
        "LORE_GITLAB_TOKEN": spawned.token,
        "LORE_PROJECT": spawned.project,
        "LORE_DATABASE_URL": database_url,
        "LORE_RUN_DEADLINE": "10s",
    }

    with measured(environ) as process:
        out, err = process.communicate(timeout=PATIENCE_S * 2)

    error = json.loads(out)["error"]
    assert {failure["code"] for failure in error["failures"]} <= codes
    assert len(error["failures"]) == len(ENTITIES)
    assert int(err.splitlines()[-1]) < MOST_MEMORY_MB
