"""Which of two readings is the older one, as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.staleness import (
    CLOCK_SKEW_MS,
    THROTTLED_TOUCH_MS,
    Version,
    is_observed_later,
    is_settled,
    is_stale,
)

NOW = 2_000_000
# Few values, so that equal ones are usual; some of them in the future.
times = st.sampled_from([0, 1_000_000, 1_000_001, 1_999_999, NOW, NOW + 1, NOW + 60_000]) | st.integers(0, 3_000_000)
versions = st.builds(Version, times, times)
# A time without milliseconds stands for its whole second, which makes no order of three.
past = st.builds(Version, times.filter(lambda at: at % 1000), st.integers(0, NOW))


@pytest.mark.invariant("I3")
@given(versions)
def test_nothing_is_stale_beside_nothing(payload: Version) -> None:
    assert not is_stale(payload, None, now=NOW)


@pytest.mark.invariant("I3")
@given(versions)
def test_nothing_is_older_than_itself(version: Version) -> None:
    assert not is_stale(version, version, now=NOW)


@pytest.mark.invariant("I3")
@given(versions, versions)
def test_of_two_readings_never_both_are_stale(one: Version, other: Version) -> None:
    assert not (is_stale(one, other, now=NOW) and is_stale(other, one, now=NOW))


@pytest.mark.invariant("I3")
@given(past, past)
def test_of_two_different_readings_of_the_past_exactly_one_is_stale(one: Version, other: Version) -> None:
    assert is_stale(one, other, now=NOW) + is_stale(other, one, now=NOW) == (one != other)


@pytest.mark.invariant("I3")
@given(past, past, past)
def test_what_is_older_than_an_older_one_is_older(one: Version, two: Version, three: Version) -> None:
    if is_stale(one, two, now=NOW) and is_stale(two, three, now=NOW):
        assert is_stale(one, three, now=NOW)


@pytest.mark.invariant("I3")
@given(times, times, times)
def test_a_local_observation_in_the_future_proves_nothing(updated_at: int, observed_at: int, ahead: int) -> None:
    local = Version(updated_at, NOW + 1 + ahead)

    assert not is_stale(Version(updated_at, observed_at), local, now=NOW)
    assert not is_observed_later(local.observed_at, observed_at, now=NOW)


@pytest.mark.invariant("I3")
@given(st.integers(0, 2_000), times, times)
def test_what_gitlab_updated_in_a_later_second_is_newer_whenever_it_was_observed(
    seconds: int, one_observed: int, other_observed: int
) -> None:
    older = Version(seconds * 1000, one_observed)
    newer = Version(seconds * 1000 + 1000, other_observed)

    assert is_stale(older, newer, now=NOW)
    assert not is_stale(newer, older, now=NOW)


@pytest.mark.invariant("I3")
def test_a_time_without_milliseconds_is_not_told_from_its_own_second() -> None:
    whole, precise = Version(1_000_000, 5), Version(1_000_937, 4)

    assert not is_stale(whole, precise, now=NOW)
    assert is_stale(precise, whole, now=NOW)
    assert is_stale(Version(1_000_000, 9), Version(1_001_000, 1), now=NOW)


@given(times)
def test_what_was_never_observed_was_not_observed_later(observed_at: int) -> None:
    assert not is_observed_later(None, observed_at, now=NOW)


@given(st.integers(0, NOW), st.integers(0, NOW))
def test_observed_later_is_later_and_not_equal(local: int, observed_at: int) -> None:
    assert is_observed_later(local, observed_at, now=NOW) == (local > observed_at)


def test_an_observation_of_this_very_moment_is_not_in_the_future() -> None:
    assert is_observed_later(NOW, NOW - 1, now=NOW)
    assert not is_observed_later(NOW + 1, NOW - 1, now=NOW)


@pytest.mark.parametrize(("after_ms", "settled"), [(0, False), (89_999, False), (90_000, False), (90_001, True)])
def test_an_entity_is_settled_once_a_throttled_touch_and_the_clocks_difference_are_over(
    after_ms: int, settled: bool
) -> None:
    assert (THROTTLED_TOUCH_MS, CLOCK_SKEW_MS) == (60_000, 30_000)
    assert is_settled(1_000_000, 1_000_000 + after_ms) is settled


@given(times, times, st.integers(0, 1_000_000))
def test_a_later_observation_of_a_settled_entity_is_settled_too(updated_at: int, observed_at: int, more: int) -> None:
    assert not is_settled(updated_at, observed_at) or is_settled(updated_at, observed_at + more)


@given(st.integers(0, 3_000_000))
def test_what_was_observed_before_it_was_updated_is_not_settled(updated_at: int) -> None:
    assert not is_settled(updated_at, updated_at - 1)
