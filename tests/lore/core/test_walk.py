"""The rules of a walk: what is met again, what needs no fetch, what the cursor may pass, how debts are tried."""

from __future__ import annotations

from lore.core import walk
from lore.core.plan import Entity
from lore.core.walk import Local, Position, Row

LONG_AGO = 1_700_000_000_123
SEEN_AT = LONG_AGO + walk.OVERLAP_MS + 1


def test_an_equal_and_settled_entity_needs_no_fetch() -> None:
    assert walk.is_current(Row(1, LONG_AGO), Local(LONG_AGO, SEEN_AT), ahead_ms=0)


def test_an_equal_entity_is_fetched_again_while_it_may_have_changed_unseen() -> None:
    assert not walk.is_current(Row(1, LONG_AGO), Local(LONG_AGO, SEEN_AT - 1), ahead_ms=0)


def test_a_database_clock_that_is_ahead_settles_nothing_too_early() -> None:
    assert not walk.is_current(Row(1, LONG_AGO), Local(LONG_AGO, SEEN_AT), ahead_ms=600_000)
    assert walk.is_current(Row(1, LONG_AGO), Local(LONG_AGO, SEEN_AT), ahead_ms=-600_000)


def test_what_is_newer_unknown_or_deleted_here_is_fetched() -> None:
    assert not walk.is_current(Row(1, LONG_AGO + 1), Local(LONG_AGO, SEEN_AT), ahead_ms=0)
    assert not walk.is_current(Row(1, LONG_AGO), None, ahead_ms=0)
    assert not walk.is_current(Row(1, LONG_AGO), Local(LONG_AGO, SEEN_AT, is_deleted=True), ahead_ms=0)


def test_a_position_knows_the_rows_of_its_own_moment_only() -> None:
    position = Position().behind(Row(1, 5)).behind(Row(2, 5))

    assert position.has_met(Row(1, 5))
    assert not position.has_met(Row(1, 6))
    assert position.behind(Row(3, 6)) == Position(6, frozenset({3}))


def test_a_page_out_of_order_or_from_before_its_beginning_is_noticed() -> None:
    assert walk.is_in_order(Position(5_000), [Row(1, 5_000), Row(2, 6_000)])
    assert not walk.is_in_order(Position(5_000), [Row(1, 6_000), Row(2, 5_000)])
    assert not walk.is_in_order(Position(5_000), [Row(1, 4_999)])


def test_a_moment_without_milliseconds_stands_for_its_second() -> None:
    assert (walk.moment_span_ms(5_000), walk.moment_span_ms(5_001)) == (1_000, 1)


def test_debts_that_hurt_others_are_tried_alone() -> None:
    debts = [(Entity("issue", 1), "GITLAB_FORBIDDEN"), (Entity("issue", 2), "POISON"), (Entity("issue", 3), "INTERNAL")]

    batches = walk.debt_batches(debts)

    assert batches == [[Entity("issue", 1), Entity("issue", 3)], [Entity("issue", 2)]]


def test_a_debt_waits_a_minute_then_longer_and_never_more_than_six_hours() -> None:
    waits = [walk.debt_wait_ms(tries) for tries in (1, 2, 3, 40)]

    assert waits == [60_000, 120_000, 240_000, 6 * 3_600_000]


def test_a_child_that_failed_for_everybodys_reason_leaves_no_debts() -> None:
    assert walk.is_of_its_entities("SURGICAL_PREFLIGHT_FAILED")
    assert not any(walk.is_of_its_entities(code) for code in ("GITLAB_UNAUTHORIZED", "RUN_CANCELLED", None))
