"""Six points of the map by the page's own code: who writes the prefixes × forward or reverse KL.

    python toy/one_page_map.py               # assets/one_page.png, assets/results/one_page.json
    python toy/one_page_map.py --seeds 1 --quick    # a few steps, into build/one_page/

For each seed, ``distil_on_one_page.py`` trains one teacher and one student from answers alone. From
that student it distils six times: only the divergence and the writer of the prefixes differ. The
control continues plain SFT for as many steps. The picture has a dot for each seed.
"""

import contextlib
import copy
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_lab.divergences import get_divergence
from kd_lab.evaluation.intervals import t_interval
from kd_lab.files import damaged, read_mapping, write_bytes, write_text
from kd_lab.house_style import Figure, house_style, line_style
from kd_lab.methods import Point
from toy import distil_on_one_page as page
from toy.script import Parser, run_script, whole, writable_folder

SOURCES = {"dataset": "the\ndataset", "teacher": "the\nteacher", "student": "the\nstudent"}
DIVERGENCES = {"forward_kl": "forward KL", "reverse_kl": "reverse KL"}
POINTS = {
    f"{source} {name}": Point(source, divergence=name) for source in SOURCES for name in DIVERGENCES
}
MEASURES = ("precision", "coverage")


def measure(seed: int, *, quick: bool = False) -> dict[str, list[float]]:
    """Precision and coverage of one seed's models: teacher, start, SFT and the six points."""
    most = 4 if quick else 10**9
    asked = page.questions("test")[: min(100, most)]
    teacher, start = page.small_model(64, 2, 10 * seed + 1), page.small_model(32, 1, 10 * seed + 2)
    forward_kl = get_divergence("forward_kl")
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        page.train(teacher, teacher, min(600, most), 5e-3, forward_kl, 0, seed=10 * seed + 3)
        page.train(start, teacher, min(450, most), 1e-2, forward_kl, 0, seed=10 * seed + 4)
        models = {"teacher": teacher, "start": start}
        for name, point in {"SFT": Point(alpha=0), **POINTS}.items():
            divergence = get_divergence(point.divergence) if point.alpha else forward_kl
            models[name] = student = copy.deepcopy(start)
            page.train(
                student, teacher, min(150, most), 3e-3, divergence, point.alpha, point.prefixes,
                seed=10 * seed + 5,
            )  # fmt: skip
        for name, model in models.items():
            found[name] = list(page.precision_and_coverage(model, asked))
    return found


def summarise(seeds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Each model's precision and coverage: its values by seed, their mean and its interval."""
    return {
        "seeds": len(seeds),
        "models": {
            name: {
                measure: _over_seeds([seed[name][i] for seed in seeds])
                for i, measure in enumerate(MEASURES)
            }
            for name in seeds[0]
        },
    }


def _keep(
    file: Path, seeds: Sequence[Mapping[str, Sequence[float]]], *, quick: bool
) -> dict[str, Any]:
    """Write the results of the seeds that are done, and return them."""
    results = {"quick": quick, **summarise(seeds)}
    write_text(file, json.dumps(results, indent=1) + "\n")
    return results


def _finished(file: Path, *, quick: bool) -> list[dict[str, list[float]]]:
    """The seeds that an earlier call has measured.

    Raises:
        ValueError: the file is damaged, or has full results where quick ones would replace them.
    """
    if not file.exists():
        return []
    mend = "bring it back by `git checkout`, or remove it to measure all seeds anew"
    results = read_mapping(file, mend)
    if results.get("quick") not in (True, False):
        raise damaged(file, "it does not say whether it is quick", mend)
    if quick and not results["quick"]:
        raise ValueError(f"--quick would replace full results in {file}: give another --out")
    if results["quick"] != quick:
        return []
    try:
        by_model = {
            name: [results["models"][name][measure]["values"] for measure in MEASURES]
            for name in ("teacher", "start", "SFT", *POINTS)
        }
        seeds = [
            {name: [float(values[seed]) for values in both] for name, both in by_model.items()}
            for seed in range(results["seeds"])
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}", mend) from error
    shares = [value for seed in seeds for both in seed.values() for value in both]
    if not shares or not all(0 <= value <= 1 for value in shares):
        raise damaged(file, "its values are no shares", mend)
    return seeds


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    low, high = t_interval(values) if len(values) > 1 else (None, None)
    return {"values": list(values), "mean": float(np.mean(values)), "low": low, "high": high}


def draw(results: Mapping[str, Any]) -> bytes:
    """The six points as PNG: precision and coverage by who writes the prefixes, lines by loss."""
    with house_style():
        figure = Figure(figsize=(8, 3.8), layout="constrained")
        for axes, name in zip(figure.subplots(1, 2), MEASURES, strict=True):
            for offset, (divergence, label) in enumerate(DIVERGENCES.items()):
                cells = [results["models"][f"{source} {divergence}"][name] for source in SOURCES]
                x = np.arange(len(SOURCES)) + (offset - 0.5) * 0.12
                look = line_style(POINTS[f"dataset {divergence}"].look.line)
                axes.plot(x, [cell["mean"] for cell in cells], label=label, marker="o", **look)
                seeds = [cell["values"] for cell in cells]  # a dot for each
                axes.plot(
                    x, seeds, color=look["color"], linestyle="", marker=".", markersize=5,
                    alpha=0.5,
                )  # fmt: skip
            for control, style in (("SFT", "-"), ("teacher", ":")):
                level = results["models"][control][name]["mean"]
                colour = line_style(None)["color"]
                label = "more SFT" if control == "SFT" else control
                axes.axhline(level, color=colour, linestyle=style, linewidth=1.2, label=label)
            axes.set_title(name)
            axes.set_xticks(
                range(len(SOURCES)), [words.replace(" ", "\n") for words in SOURCES.values()]
            )
            axes.set_xlabel("who writes the prefixes")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure.png(dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seeds", type=whole(1, 1000), default=3,
        help="how many at the least (default: 3); those measured before stay",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument(
        "--out", help="the picture's folder (default: assets, with --quick build/one_page)"
    )
    options = parser.parse_args(argv)
    out = writable_folder(Path(options.out or ("build/one_page" if options.quick else "assets")))
    file = writable_folder(out / "results") / "one_page.json"
    seeds = _finished(file, quick=options.quick)
    for seed in range(len(seeds) + 1, options.seeds + 1):
        seeds.append(measure(seed, quick=options.quick))
        _keep(file, seeds, quick=options.quick)
        print(f"seed {seed} of {options.seeds}", flush=True)
    write_bytes(out / "one_page.png", draw(_keep(file, seeds, quick=options.quick)))
    print(f"wrote {file} and {out / 'one_page.png'}")


if __name__ == "__main__":
    run_script(main)
