"""Done in any order, given back, taken by others: no hole is committed, and no commit goes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from unibus_kafka.lives import Lives
from unibus_kafka.watermark import Watermark

STEP = st.tuples(st.sampled_from(["take", "settle", "give back", "commit", "lose commit", "rebalance", "die"]),
                 st.integers(0, 2**16))  # fmt: skip


class Group:
    """What the broker keeps of a group for one partition, and who reads it."""

    def __init__(self, gaps: set[int]) -> None:
        self.offset: int | None = None
        self.done: set[int] = set()
        self.gaps = gaps
        self.mark: Watermark[int] = Watermark()

    def commit(self, offset: int) -> None:
        assert self.offset is None or offset >= self.offset, "a commit went back"
        holes = set(range(offset)) - self.done - self.gaps
        assert not holes, f"committed {offset} over {sorted(holes)}"
        self.offset = offset


@given(st.lists(STEP, max_size=200), st.sets(st.integers(0, 60)))
@settings(max_examples=300, deadline=None)
def test_no_hole_is_committed_and_no_commit_goes_back(steps: list[tuple[str, int]], gaps: set[int]) -> None:
    group = Group(gaps)
    log = [offset for offset in range(200) if offset not in gaps]
    for what, number in steps:
        mark = group.mark
        held = list(mark.unsettled)
        if what == "take":
            ahead = [offset for offset in log if mark.next is None or offset >= mark.next]
            for offset in ahead[: number % 7]:
                mark.take(offset, offset)
        elif what == "settle" and held:
            offset = held[number % len(held)]
            mark.settle(offset)
            group.done.add(offset)
        elif what == "give back" and held:
            assert mark.give_back(held[number % len(held)], -1)
        elif what in ("commit", "lose commit") and (low := mark.to_commit) is not None:
            group.commit(low)
            if what == "commit":  # else the answer was lost: it is committed again, or more is
                mark.commit(low)
        elif what == "rebalance":
            if (low := mark.to_commit) is not None:
                group.commit(low)
            group.mark = Watermark(group.offset)
        elif what == "die":
            group.mark = Watermark(group.offset)
        assert list(group.mark.unsettled) == sorted(group.mark.unsettled)
    read = {offset for offset in log if group.offset is None or offset >= group.offset}
    assert set(log) <= read | group.done, "what is neither done nor read again is lost"


def test_what_is_settled_is_not_given_back() -> None:
    mark: Watermark[str] = Watermark()
    mark.take(5, "a")
    mark.settle(5)
    assert not mark.give_back(5, "b")
    assert mark.to_commit == 6


def test_the_gap_is_how_far_reading_is_ahead() -> None:
    mark: Watermark[str] = Watermark(10)
    assert mark.gap == 0
    for offset in (10, 11, 15):
        mark.take(offset, "a")
    mark.settle(11)
    assert mark.gap == 6
    mark.settle(10)
    assert mark.gap == 1


@given(st.integers(1, 50), st.integers(1, 20), st.booleans())
def test_each_death_in_the_same_place_counts_for_what_stands_first(kills: int, batch: int, ordered: bool) -> None:
    note, low = "", 100
    for life in range(1, kills + 1):
        lives = Lives(note, low, ordered=ordered)
        assert lives.deliveries(low, suspect=False) == life
        assert lives.deliveries(low, suspect=True) == life
        assert lives.deliveries(low + batch, suspect=False) == 1, "beyond what was in hand"
        for beside in range(low + 1, low + batch):
            if ordered:
                assert lives.deliveries(beside, suspect=False) <= 2, "beside it, nobody is convicted"
            assert lives.deliveries(beside, suspect=True) <= 2
        note = lives.note(low, low + batch)
    moved = Lives(note, low, ordered=ordered)
    assert Lives(moved.note(low + 1, low + 2), low + 1, ordered=ordered).dead == 1, "who is past did not kill"


def test_a_clean_end_takes_back_what_was_written_down() -> None:
    first = Lives("", 0, ordered=False)
    assert Lives(first.note(0, 10), 0, ordered=False).dead == 1
    assert first.farewell(0, 0) == ""
    second = Lives(first.note(0, 10), 0, ordered=False)
    assert Lives(second.farewell(0, 0), 0, ordered=False).dead == 1, "one has died of it, and another not"
    assert second.farewell(3, 0) == ""
    assert Lives(second.farewell(0, 3), 0, ordered=False).deliveries(0, suspect=False) == 4


def test_a_note_of_others_means_nothing() -> None:
    for note in ("", "x", "unibus1:9", "unibus1:99999999:1", "unibus2:3:4", "unibus1:-1:5"):
        assert Lives(note, 0, ordered=False).dead == 0


def test_what_is_passed_over_is_done_and_hides_nothing_before_it() -> None:
    mark: Watermark[str] = Watermark(10)
    mark.take(10, "a")
    mark.skip(11)
    mark.skip(12)
    assert (mark.to_commit, mark.next) == (None, 13)
    mark.settle(10)
    assert mark.to_commit == 13
