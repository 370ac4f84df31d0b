"""What later additions to the map change on the toy language, each against the point next to it.

    python -m evidence additions runs/additions     # after `kd-lab demo --study additions`

The pairs and their figures are those of ``kd_lab.study.additions``: differences within each seed,
with 95% t-intervals over seeds.
"""

from pathlib import Path
from typing import Any

from evidence.method_pairs import finished_runs
from kd_lab.demo import STUDIES
from kd_lab.study.additions import additions_results


def measure(runs: Path) -> dict[str, Any]:
    """The study's results.

    Raises:
        ValueError: a run has no evaluation.
    """
    finished_runs("additions", runs)
    return additions_results(runs, STUDIES["additions"].seeds)
