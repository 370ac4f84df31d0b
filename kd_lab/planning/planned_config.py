"""The settings of a run that is only planned: this machine need not support bf16."""

from dataclasses import dataclass, field

from kd_lab.trainers.distil_config import DistilConfig


@dataclass
class PlannedConfig(DistilConfig):
    """DistilConfig without the need for a GPU."""

    on_cpu: bool = field(default=False, init=False)  # whether the recipe asks for it

    def __post_init__(self) -> None:
        self.on_cpu, self.use_cpu = self.use_cpu, True
        super().__post_init__()
