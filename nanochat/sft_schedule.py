"""How the learning rate changes in fine-tuning: full from the start, falling to nothing over the last half.

Fine-tuning begins where pretraining has cooled down, at a part of its rates, so it needs no warmup; and it ends at
zero, because what is shown last would else weigh most. As nanochat's chat_sft, which counts the warmup as a share of
the run and not in steps: how many steps the conversations take is known only when they are packed.

    python -c "from nanochat.schedules import Moment; from nanochat.sft_schedule import SFTSchedule; \
               print(SFTSchedule().multiplier(Moment(0, None, 0.75)))"
"""

from dataclasses import dataclass

from nanochat.schedules import Moment, Momentum, Schedule, ScheduleError

INIT_LR_FRAC = 0.8  # of pretraining's rates: nanochat's
# Muon's momentum: nanochat's chat_sft lets it grow over 300 updates and keeps it there.
SFT_MOMENTUM = Momentum(start=0.85, peak=0.95, end=0.95, warmup_steps=300)


@dataclass(frozen=True)
class SFTSchedule(Schedule):
    """Warm up over a share of the run, hold, and cool down in a straight line."""

    warmup_steps: int = 0
    warmdown_ratio: float = 0.5
    final_fraction: float = 0.0
    warmup_ratio: float = 0.0  # share of the run until the full rate

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup_ratio <= 1:
            raise ScheduleError(f"warmup_ratio is {self.warmup_ratio}; it is a share, so give a number from 0 to 1")

    def _warmth(self, at: Moment) -> float:
        """The factor of the warmup, 1 once it is over. The addend keeps the first update from being none at all."""
        return min((at.progress + 1e-8) / self.warmup_ratio, 1.0) if self.warmup_ratio else 1.0
