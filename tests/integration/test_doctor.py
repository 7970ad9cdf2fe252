"""The doctor: nothing to say of a healthy stack; of a broken one exactly what was broken."""

import pytest

from tests.breaks import PRIMARY, TARGET, Break
from tests.fix_doctor import Clinic


def test_a_healthy_stack_has_no_finding(clinic: Clinic) -> None:
    """Rows, triggers and guards, mirrored; every part has been seen."""
    assert clinic.diagnose().findings == []


def exactly(clinic: Clinic, broken: Break) -> None:
    """Assert that the doctor finds this and nothing else, names the thing, and has a remedy."""
    found = clinic.diagnose().findings
    assert [one.code for one in found] == [broken.code], found
    assert broken.named in found[0].what, found
    assert found[0].remedy


@pytest.mark.parametrize("broken", PRIMARY, ids=str)
def test_what_is_broken_in_the_primary_is_found_alone(clinic: Clinic, broken: Break) -> None:
    """One thing wrong, one finding."""
    clinic.break_primary(broken.script)
    exactly(clinic, broken)


@pytest.mark.parametrize("broken", TARGET, ids=str)
def test_what_is_broken_in_the_target_is_found_alone(clinic: Clinic, broken: Break) -> None:
    """One thing wrong, one finding."""
    clinic.break_target(broken.script)
    exactly(clinic, broken)
