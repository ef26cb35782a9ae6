"""Scale geometry."""
import pytest

from alignvar_arch.archs.scales import ScaleSchedule


def test_phi_table_is_the_public_checkpoints():
    assert ScaleSchedule((1, 2, 3, 4, 6, 9, 13, 18, 24, 32)).phi_index(4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)


def test_spans_cover_the_sequence_in_order():
    schedule = ScaleSchedule((1, 2, 4))
    assert schedule.tokens == 21 and schedule.latent_side == 4 and schedule.last == 2
    assert schedule.spans == (slice(0, 1), slice(1, 5), slice(5, 21))


@pytest.mark.parametrize("sides", [(2, 3), (1,), (1, 3, 3), (1, 4, 2)])
def test_impossible_schedules_are_refused(sides):
    with pytest.raises(ValueError, match="scale schedule"):
        ScaleSchedule(sides)
