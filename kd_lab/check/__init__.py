"""Any distillation loss in, its name out: what does its gradient minimise?"""

from kd_lab.check.check import assert_optimises, check_loss
from kd_lab.check.verdict import Verdict

__all__ = ["Verdict", "assert_optimises", "check_loss"]
