"""The settings of a run that is planned and not run: bf16 is no question of this machine."""

from dataclasses import dataclass, field

from kd_lab.trainers.distil_config import DistilConfig


@dataclass
class PlannedConfig(DistilConfig):
    """DistilConfig, which here needs no GPU."""

    on_cpu: bool = field(default=False, init=False)  # whether the recipe asks for it

    def __post_init__(self) -> None:
        self.on_cpu, self.use_cpu = self.use_cpu, True
        super().__post_init__()
