"""The schedule of fine-tuning, and how amounts are written."""

import pytest

from nanochat.schedules import Moment, ScheduleError
from nanochat.sft_schedule import SFTSchedule
from nanochat.sft_tasks import split_amount


def test_the_schedule_is_that_of_nanochats_chat_sft() -> None:
    def theirs(progress: float, warmup: float, warmdown: float, final: float) -> float:
        if progress < warmup:
            return (progress + 1e-8) / warmup
        if progress <= 1 - warmdown:
            return 1.0
        decay = (progress - (1 - warmdown)) / warmdown
        return 1 - decay + decay * final

    for warmup, warmdown, final in ((0.0, 0.5, 0.0), (0.1, 0.5, 0.2), (0.25, 0.75, 0.0)):
        ours = SFTSchedule(warmdown_ratio=warmdown, final_fraction=final, warmup_ratio=warmup)
        for hundredth in range(101):
            at = Moment(3, None, hundredth / 100)
            assert ours.multiplier(at) == pytest.approx(theirs(hundredth / 100, warmup, warmdown, final), abs=1e-9)
    assert SFTSchedule(warmup_ratio=0.1).phase(Moment(0, None, 0.05)) == "warmup"
    assert SFTSchedule().phase(Moment(0, 10)) == "stable"
    with pytest.raises(ScheduleError):
        SFTSchedule(warmup_ratio=-0.1)


def test_amounts_stand_behind_the_last_equals_sign() -> None:
    assert split_amount("persona", 5) == ("persona", 5)
    assert split_amount("a=b/c.jsonl=2", 1) == ("a=b/c.jsonl", 2)
    assert split_amount("a=b/c.jsonl", 1) == ("a=b/c.jsonl", 1)
