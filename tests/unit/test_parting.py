"""Which side differs, and which command helps, by steps and tokens alone."""

import pytest

from mirror.sync.pairing import Pair


@pytest.mark.parametrize(
    ("acked", "token", "belongs"),
    [
        (False, "new", True),
        (False, "old", True),
        (True, "new", True),
        (True, "old", False),
        (False, "other", False),
        (False, None, False),
    ],
)
def test_a_target_may_be_one_step_behind_until_it_is_known_to_have_taken_it(
    *, acked: bool, token: str | None, belongs: bool
) -> None:
    """Before that, a worker may still be on its way with the step."""
    pair = Pair(7, "new", "old", acked)
    assert (pair.parting(7, token) is None) is belongs


@pytest.mark.parametrize(
    ("pair", "step", "says", "command"),
    [
        (Pair(7, "a", "b", acked=True), None, "this target has taken none", "retarget"),
        (Pair(7, "a", "b", acked=True), 6, "the target is another one, or", "retarget"),
        (Pair(7, "a", "b", acked=True), 7, "these are two different steps", "rebase"),
        (Pair(7, "a", "b", acked=True), 8, "the primary was restored", "rebase"),
        (Pair(0, "a", None, acked=False), 7, "this primary has taken none", "rebase"),
        # After `mirror retarget` to an emptied project, seen from the URL of the old one.
        (Pair(8, "a", None, acked=False), 6, "the target is another one, or", "retarget"),
    ],
)
def test_the_side_that_differs_is_named_with_its_command(
    pair: Pair, step: int | None, says: str, command: str
) -> None:
    """The side that is behind is the one that was restored, or is another one."""
    parting = pair.parting(step, None if step is None else "x")
    assert parting is not None
    assert says in parting.says
    assert f"run `mirror {command}`" in parting.remedy


def test_a_primary_that_never_stepped_takes_any_target_that_did_not() -> None:
    """The first step pairs them."""
    assert Pair(0, "a", None, acked=False).parting(None, None) is None
