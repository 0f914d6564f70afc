"""Records on their way: how many there may be, and which are sent again."""

from experiment_hooks import window
from experiment_hooks.window import Window


def test_there_is_room_for_so_many_records_and_no_more() -> None:
    full = Window()
    full.add(((seq, b"") for seq in range(1, window.WINDOW_RECORDS)), 1.0)
    assert full.room
    full.add([(window.WINDOW_RECORDS, b"")], 1.0)
    assert not full.room
    assert full.acknowledge([(1, 1)]) == 0
    assert full.room


def test_there_is_room_for_so_many_bytes_and_no_more() -> None:
    full = Window()
    full.add([(1, b"x"), (2, b"x" * (window.WINDOW_BYTES - 1))], 1.0)
    assert not full.room
    assert full.acknowledge([(1, 1), (1, 1), (7, 9)]) == 1, "each once, if it is there"
    assert full.room


def test_what_was_not_sent_for_long_is_sent_again_in_its_order() -> None:
    sent = Window()
    sent.add([(2, b"b"), (1, b"a")], 1.0)
    sent.add([(3, b"c")], 5.0)
    assert sent.again(0.5, 9.0) == []
    assert sent.again(1.0, 9.0) == [(2, b"b"), (1, b"a")]
    assert sent.again(5.0, 9.0) == [(3, b"c")]
    assert sent.again(9.0, 9.0) == [(2, b"b"), (1, b"a"), (3, b"c")]


def test_an_acknowledgement_of_half_the_world_is_not_believed() -> None:
    sent = Window()
    sent.add([(1, b"a")], 1.0)
    assert sent.acknowledge([(0, 2**62)]) == 0
    assert sent.in_order() == [(1, b"a")]


def test_what_goes_to_disk_is_in_order_and_makes_room() -> None:
    sent = Window()
    sent.add([(2, b"b"), (1, b"x" * window.WINDOW_BYTES)], 1.0)
    assert [seq for seq, _ in sent.in_order()] == [1, 2]
    sent.clear()
    assert sent.room
    assert sent.in_order() == []
