"""Ranges: a set of numbers, however they come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.ranges import Ranges


@given(st.lists(st.integers(min_value=1, max_value=40)))
def test_ranges_are_a_set_of_numbers(numbers: list[int]) -> None:
    ranges, expected = Ranges(), set()
    for number in numbers:
        assert ranges.add(number) is (number not in expected)
        expected.add(number)
        assert ranges.count == len(expected)
    assert all((number in ranges) is (number in expected) for number in range(42))
    assert [n for first, last in ranges for n in range(first, last + 1)] == sorted(
        expected
    )


@given(
    st.lists(st.integers(1, 40)),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5))),
)
def test_whole_ranges_are_added_as_their_numbers_would_be(
    numbers: list[int], more: list[tuple[int, int]]
) -> None:
    ranges, one_by_one = Ranges(), Ranges()
    for number in numbers:
        ranges.add(number)
        one_by_one.add(number)
    ranges.update((first, first + size) for first, size in more)
    for first, size in more:
        for number in range(first, first + size + 1):
            one_by_one.add(number)
    assert (list(ranges), ranges.count) == (list(one_by_one), one_by_one.count)


@given(st.permutations(range(1, 30)))
def test_ranges_of_all_numbers_in_any_order_become_one(order: list[int]) -> None:
    ranges = Ranges()
    for number in order:
        ranges.add(number)
    assert ranges._found == [[1, 29]]
