from datetime import UTC, datetime

import pytest

from calls_mcp.guard.local_time import local_times


def at(iso: str) -> datetime:
    return datetime.fromisoformat(iso).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("number", "now", "text"),
    [
        pytest.param(
            "+12025550171", "2026-01-06T12:14", "Tuesday 07:14 (New York time, US)", id="winter"
        ),
        pytest.param(
            "+12025550171", "2026-07-07T11:14", "Tuesday 07:14 (New York time, US)", id="summer"
        ),
        pytest.param(
            "+12025550171", "2026-03-08T06:59", "Sunday 01:59 (New York time, US)", id="before"
        ),
        pytest.param(
            "+12025550171", "2026-03-08T07:00", "Sunday 03:00 (New York time, US)", id="after"
        ),
        pytest.param(
            "+919876543210", "2026-01-06T12:14", "Tuesday 17:44 (Calcutta time, IN)", id="half"
        ),
        pytest.param(
            "+79161234567",
            "2026-01-06T12:14",
            "between Tuesday 14:14 and Wednesday 00:14 (RU)",
            id="several zones",
        ),
        pytest.param("+18005551234", "2026-01-06T12:14", "", id="toll-free"),
        pytest.param("+15005550006", "2026-01-06T12:14", "", id="personal"),
        pytest.param("sip:bob@example.com", "2026-01-06T12:14", "", id="no number"),
        pytest.param("+999", "2026-01-06T12:14", "", id="no country"),
    ],
)
def test_the_local_time_is_that_of_the_numbers_prefix(number: str, now: str, text: str) -> None:
    assert str(local_times(number, at(now))) == text


def test_zones_with_the_same_time_count_once_and_the_earliest_comes_first() -> None:
    assert len(local_times("+447911123456", at("2026-01-06T12:14")).times) == 1
    hours = [each.hour for each in local_times("+61412345678", at("2026-01-06T12:14")).times]
    assert hours == sorted(hours)
