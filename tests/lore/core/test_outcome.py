"""What a command answers to a robot."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.errors import CODES, EXIT_MEANINGS, Exit, Failure, LoreError, RunError, UsageError
from lore.core.outcome import (
    WARNINGS,
    Meta,
    Outcome,
    Warned,
    exit_status,
    failure,
    internal_error,
    meaning_of,
    success,
    to_json,
)

META = Meta(command="lore-submit", version="0.1.0", elapsed_ms=12)


def test_a_success_has_data_warnings_and_meta() -> None:
    answer = success(Outcome({"run": {}}, warnings=[Warned("NO_LIVE_WORKER", "start one")]), meta=META)

    assert answer == {
        "ok": True,
        "data": {"run": {}},
        "warnings": [{"code": "NO_LIVE_WORKER", "message": "start one"}],
        "meta": {"command": "lore-submit", "version": "0.1.0", "elapsed_ms": 12},
    }


def test_a_failure_has_code_message_actions_and_meta() -> None:
    answer = failure(UsageError("BAD_IID", "'abc' is no iid", command="lore-submit"), meta=META)

    assert answer == {
        "ok": False,
        "error": {"code": "BAD_IID", "message": "'abc' is no iid", "actions": ["lore-submit --help"]},
        "meta": {"command": "lore-submit", "version": "0.1.0", "elapsed_ms": 12},
    }


@pytest.mark.invariant("I10")
def test_a_failed_preflight_carries_its_run_total_and_failures() -> None:
    failures = [Failure("merge_request", 12, "preflight", "GITLAB_NOT_FOUND", "404 for !12")]
    error = RunError("SURGICAL_PREFLIGHT_FAILED", "1 of 20 failed", run_id="r1", total=20, failures=failures)

    said = failure(error, meta=META)["error"]

    assert (said["run_id"], said["total"]) == ("r1", 20)
    assert said["failures"] == [
        {
            "entity_type": "merge_request",
            "iid": 12,
            "stage": "preflight",
            "code": "GITLAB_NOT_FOUND",
            "message": "404 for !12",
        }
    ]
    assert said["actions"][0] == "lore sync-runs --run-id r1"


def test_a_detached_run_has_no_total() -> None:
    said = failure(RunError("DETACHED", "goes on", run_id="r1"), meta=META)["error"]

    assert "total" not in said
    assert said["run_id"] == "r1"


def test_what_ended_a_run_can_give_its_own_exit_status() -> None:
    error = RunError("SURGICAL_PREFLIGHT_FAILED", "m", run_id="r1", exit=Exit.RATE_LIMITED)

    assert exit_status(error) == 6


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_has_a_meaning_and_a_status(code: str) -> None:
    assert meaning_of(code)
    assert exit_status(LoreError(code, "m")) in EXIT_MEANINGS


@pytest.mark.parametrize("code", sorted(WARNINGS))
def test_a_warning_has_a_meaning(code: str) -> None:
    assert meaning_of(code)


def test_an_unknown_code_has_no_meaning() -> None:
    assert meaning_of("NOT_A_CODE") == ""


@pytest.mark.invariant("I13")
def test_a_bug_is_named_by_its_kind_and_never_by_its_text() -> None:
    error = internal_error(RuntimeError("postgresql://lore:s3cr3t@host"))

    assert error.exit == Exit.BUG
    assert "RuntimeError" in error.message
    assert "s3cr3t" not in json.dumps(failure(error, meta=META))


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_any_text_comes_out_as_one_line_of_ascii_that_reads_back(text: str) -> None:
    line = to_json(success(Outcome({"title": text}), meta=META))

    assert line.isascii()
    assert line.isprintable()
    assert line.isprintable()
    assert json.loads(line)["data"]["title"] == text
