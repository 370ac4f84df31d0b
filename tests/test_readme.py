"""Every measured number of README and its pages is what a command wrote into assets/results/."""

import csv
import json
import re

import pytest

from kd_lab.methods import METHODS, Point
from tests.helpers.page_texts import PAGES, RESULTS, ROOT, TEXT, load


def percent(share: dict) -> str:
    low, high = share["interval"]
    return f"{share['share']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def rank_difference(rank: int, numerics: str) -> str:
    """Forward minus reverse, weight distance, teachers as in the post, last step, lr 0.1."""
    audit = load("rank_audit")
    axes, cells = audit["axes"], audit["forward_against_reverse"][numerics]
    numbers = (
        cells[key][axes["distance"].index("weight_distance")][axes["step"].index(10_000)][
            axes["sharpness"].index("post")
        ][axes["rank"].index(rank)][axes["learning_rate"].index(0.1)]
        for key in ("mean_difference", "low", "high")
    )
    mean, low, high = (f"{number:+.1f}" for number in numbers)
    return f"{mean} [{low}, {high}]"


def verdicts(learning_rate: float) -> list[str]:
    audit = load("rank_audit")
    axes, cells = audit["axes"], audit["forward_against_reverse"]["exact"]["verdict"]
    by_rank = cells[axes["distance"].index("weight_distance")][axes["step"].index(10_000)][
        axes["sharpness"].index("post")
    ]
    return [row[axes["learning_rate"].index(learning_rate)] for row in by_rank]


def test_one_gaussian():
    portraits = load("one_gaussian")["portraits"]
    (forward,) = portraits["forward_kl"]["fixed_points"]
    assert f"σ = {forward['sigma']:.4f}" in TEXT
    stable = [
        point for point in portraits["reverse_kl"]["fixed_points"] if point["kind"] == "stable"
    ]
    assert len(stable) == 3
    highest = max(stable, key=lambda point: point["divergence"])
    assert f"σ = {highest['sigma']:.2f}, at {highest['divergence']:.3f} nats" in TEXT


def test_two_gaussians():
    races = load("two_gaussians")["races"]
    assert f"({load('two_gaussians')['settings']['starts']:,} of them)" in TEXT
    exact = [races[name]["named_starts"]["-1 1"]["steps"] for name in ("forward_kl", "reverse_kl")]
    epsilon = [
        races[f"{name}_epsilon"]["named_starts"]["-1 1"]["steps"]
        for name in ("forward_kl", "reverse_kl")
    ]
    assert f"takes {exact[0]} steps against {exact[1]} with exact sums" in TEXT
    assert f"and {epsilon[0]} against {epsilon[1]} with the post's 1e-10" in TEXT
    medians = []
    for name in "forward_kl", "reverse_kl":
        half = races[name]["quantiles"]["50%"]
        medians.append(
            f"{half['steps']:.0f} [{half['interval'][0]:.0f}, {half['interval'][1]:.0f}]"
        )
    assert f"a median of {medians[0]} steps against {medians[1]}" in TEXT
    for name in "forward_kl", "reverse_kl", "adaptive_kl":
        assert percent(races[name]["never"]) in TEXT


def test_ranks():
    assert f"is {rank_difference(64, 'epsilon')} with the 1e-10" in TEXT
    assert f"and {rank_difference(64, 'exact')} without" in TEXT
    assert f"the gap is real, {rank_difference(2, 'exact')}" in TEXT
    assert verdicts(0.001) == ["reverse"] * 6
    assert verdicts(0.1) == ["forward"] * 5 + ["not separated"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_linked_file_exists(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_is_one_screen_and_a_half():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(re.sub(r"```.*?```", "", text, flags=re.S).split()) <= 1000


def test_every_picture_has_alt_text():
    pictures = re.findall(r"!\[([^]]*)\]", TEXT)
    assert pictures
    assert all(len(alt) > 20 for alt in pictures)


def test_every_method_once():
    matrix = load("tiny_matrix")
    assert f"eleven students in {matrix['wall_seconds']:.0f} s" in TEXT
    for method, name in (("token_fkl", "forward KL"), ("token_rkl", "reverse KL")):
        learnt = matrix["methods"][method]
        assert f"{name} falls from {learnt['first']:.3f} to {learnt['last']:.3f}" in TEXT.replace(
            "KL from", "KL falls from"
        )


def test_a_real_teacher():
    lines = [
        json.loads(line) for line in (RESULTS / "smol_token_fkl.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    summary = lines[-1]
    assert summary["step"] == 50
    minutes, gib = summary["seconds"] / 60, summary["peak_memory_gib"]
    assert f"smol/token_fkl` | {minutes:.1f} minutes | {gib:.1f} GiB |" in TEXT
    assert f"the loss falls from {losses[0]:.2f} to {losses[-1]:.2f}" in TEXT


OF_THE_DEMO = (
    "sft", "token_fkl", "token_rkl", "token_akl", "token_jsd", "seq_fkl", "seq_rkl", "minillm"
)  # fmt: skip


@pytest.mark.parametrize("method", OF_THE_DEMO)
def test_the_study(method):
    with (RESULTS / "toy_study" / "table.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["method"] == method)
    cells = [
        "{:.3f} [{:.3f}, {:.3f}]".format(*(float(row[m + e]) for e in ("", "_low", "_high")))
        for m in ("precision", "coverage", "hallucination")
    ]
    words = "more SFT" if method == "sft" else METHODS[method].words
    assert f"| {words} | {' | '.join(cells)} |" in TEXT
    assert row["seeds"] == "3"


def test_the_additions():
    for pair in load("additions")["pairs"].values():
        cells = [interval(pair["differences"][name], "+.3f") for name in ("precision", "coverage")]
        assert f"| {pair['changes']} | {' | '.join(cells)} |" in TEXT


def interval(figure: dict, form: str) -> str:
    return "{} [{}, {}]".format(*(format(figure[key], form) for key in ("mean", "low", "high")))


RATES_OF = {
    "more SFT": "sft", "token-level forward KL": "token_fkl", "token-level reverse KL": "token_rkl",
    "token-level adaptive KL": "token_akl", "token-level JSD": "token_jsd",
    "sequence-level forward KL": "seq_fkl", "on-policy reverse KL": "seq_rkl", "MiniLLM": "minillm",
}  # fmt: skip


def test_the_learning_rates():
    study = load("study_learning_rate")
    methods, rates, common = study["methods"], study["rates"], study["common"]
    assert (len(rates), study["seeds"], common) == (4, 4, 0.003)
    assert methods.keys() == set(RATES_OF.values())
    for shown, method in RATES_OF.items():
        best, by_rate = methods[method]["at_best"], methods[method]["by_rate"]
        at_best = " | ".join(
            "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**best[metric])
            for metric in ("precision", "coverage")
        )
        at_most = " | ".join(f"{by_rate[-1][m]['mean']:.3f}" for m in ("precision", "coverage"))
        rate = methods[method]["best"]
        assert f"| {shown} | {rate:g} | {at_best} | {at_most} |" in TEXT, shown
    others = [method for method, found in methods.items() if found["best"] != common]
    assert others == ["seq_fkl"]
    at_common = methods["seq_fkl"]["at_common"]
    assert (
        f"has precision {at_common['precision']['mean']:.3f} and coverage "
        f"{at_common['coverage']['mean']:.3f}" in TEXT
    )
    on_policy, dataset = (
        [at["precision"]["mean"] for at in methods[name]["by_rate"]]
        for name in ("seq_rkl", "token_rkl")
    )
    assert all(a < b for a, b in zip(on_policy, dataset, strict=True))
    for more, less, metric in (
        ("token_rkl", "token_fkl", "precision"),
        ("token_fkl", "token_rkl", "coverage"),
    ):
        by_rate = (methods[name]["by_rate"] for name in (more, less))
        assert all(a[metric]["mean"] > b[metric]["mean"] for a, b in zip(*by_rate, strict=True))
    places = {
        tuple(
            methods["minillm"]["by_rate"][at]["precision"]["mean"]
            > methods[other]["by_rate"][at]["precision"]["mean"]
            for other in ("token_akl", "token_jsd")
        )
        for at in range(4)
    }
    assert len(places) > 1  # "MiniLLM's place among AKL and JSD does not"
    lost = {
        name: methods[name]["at_common"]["coverage"]["mean"]
        - found["by_rate"][-1]["coverage"]["mean"]
        for name, found in methods.items()
    }
    assert min(lost[name] for name in ("token_rkl", "seq_rkl", "minillm")) > 0.08
    assert max(lost[name] for name in ("token_fkl", "seq_fkl")) < 0.005


def test_the_capacity_sweep():
    study = load("study_capacity")
    for size in study["sizes"][1:4]:
        assert size["gaps"]["coverage"]["low"] < 0 < size["gaps"]["coverage"]["high"]
        assert size["gaps"]["precision"]["low"] > 0
    second, largest = (study["sizes"][at]["gaps"]["precision"]["mean"] for at in (1, -1))
    assert f"from {second:.3f} at the second size to {largest:.3f} at the largest" in TEXT
    assert largest == min(abs(size["gaps"]["precision"]["mean"]) for size in study["sizes"])
    assert len(study["sizes"]) == 5
    assert study["seeds"] == 6
    gaps, random = study["sizes"][-1]["gaps"], study["random"]["methods"]
    for metric in "coverage", "precision":
        assert f"{interval(gaps[metric], '+.3f')} in {metric}" in TEXT
    gains = study["sizes"][-1]["gains"]
    for method, name in (("token_fkl", "forward"), ("token_rkl", "reverse")):
        assert f"{interval(random[method]['coverage'], '.3f')} under {name} KL" in TEXT
        assert f"{interval(gains[method]['precision'], '+.3f')} under {name} KL" in TEXT
    assert f"of a student of {study['random']['parameters']:,} parameters" in TEXT


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        (METHODS["seqkd"].words, METHODS["seqkd"].point.short),
        ("half of it, half forward KL", Point("teacher", alpha=0.5).short),
        ("half of it, half reverse KL", Point("teacher", divergence="reverse_kl", alpha=0.5).short),
    ],
)
def test_the_study_on_a_real_model(method, recipe):
    with (RESULTS / "smol_study" / "table.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["name"] == recipe)
    cells = [
        "{:.3f} [{:.3f}, {:.3f}]".format(*(float(row[m + e]) for e in ("", "_low", "_high")))
        for m in ("rouge1", "forward_kl", "reverse_kl")
    ]
    assert f"| {method} | {' | '.join(cells)} |" in TEXT
    assert row["seeds"] == "2"


def test_a_temperature_on_a_real_model():
    cold, warm = (point["gaps"] for point in load("study_smol_temperature")["temperatures"])
    for name in "forward_kl", "reverse_kl":
        assert abs(warm[name]["mean"]) < abs(cold[name]["mean"]) / 10
    assert f"now has {warm['student_entropy']['mean']:.2f} nats more entropy" in TEXT
    assert warm["student_entropy"]["low"] > 0


def test_what_a_stored_top_64_keeps():
    by_k = load("topk_tail")["students"]["far"]["by_k"]
    (bucket,) = (cut["bucket"] for cut in by_k if cut["k"] == 64)
    kept = [f"{bucket[name]['kept']['mean']:.0%}" for name in ("forward_kl", "reverse_kl")]
    assert f"they keep {kept[0]} and {kept[1]} of the divergence" in TEXT


def test_the_audit_in_one_line():
    claims = (ROOT / "CLAIMS.md").read_text(encoding="utf-8")
    verdicts = re.findall(r"^\*\*([A-Z][a-z ]+)\.\*\*", claims, flags=re.M)
    counts = [
        verdicts.count(verdict)
        for verdict in ("Holds", "Holds under conditions", "Does not hold", "Not tested here")
    ]
    assert sum(counts) == len(verdicts)
    assert (
        "{} claims: {} hold, {} hold under conditions, {} do not hold, {} were not tested".format(
            len(verdicts), *counts
        )
        in TEXT
    )
    assert counts[2] == 10
    assert "**Ten of the post's claims do not hold." in TEXT


@pytest.mark.parametrize(
    ("recipe", "options", "hours", "memory"),
    [
        ("token_fkl", ["--gradient_accumulation_steps", "32"], "1.5 hours", "63 GB"),
        ("token_fkl", ["--gpus", "8", "--zero_stage", "2"], "0.2 hours", "41 GB each"),
        ("token_fkl_24gb", ["--gpu", "rtx4090"], "0.7 hours", "14 GB"),
    ],
)
def test_what_is_planned_for_gpus(recipe, options, hours, memory, capsys):
    from kd_lab.cli import main

    assert main(["plan", "--config", f"qwen2.5/{recipe}", *options]) == 0
    told = capsys.readouterr().out
    (most,) = re.findall(r"at the most +([\d.]+)", told)
    (together,) = re.findall(r"together +([\d.]+) hours", told)
    assert (f"{float(together):.1f} hours", f"{float(most):.0f}") == (hours, memory.split()[0])
    assert f"| {hours} | {memory} |" in TEXT


def test_minutes_and_memory_of_the_demo():
    took = json.loads((RESULTS / "toy_study" / "took.json").read_text())
    assert took["workers"] == 2
    assert (
        f"| {took['wall_seconds'] / 60:.0f} minutes | 2 processes of "
        f"{took['largest_process_gib']:.1f} GiB |" in TEXT
    )


def test_what_the_demo_installs():
    demo = load("bench_install")["make demo"]
    assert demo["torch"].endswith("+cpu")
    assert f"`make demo` installs {demo['megabytes'] / 1000:.1f} GB with PyTorch's CPU" in TEXT
    assert f"build, in {demo['seconds'] / 60:.1f} minutes on two cores" in TEXT


def test_the_page():
    results = load("one_page")
    assert not results["quick"]
    words = {1: "one seed", 2: "two seeds", 3: "three seeds", 6: "six seeds"}[results["seeds"]]
    assert f"means of {words}" in TEXT
    forward, reverse = (
        results["models"][f"dataset {name}"] for name in ("forward_kl", "reverse_kl")
    )
    for first, second, measure in (
        (reverse, forward, "precision"),
        (forward, reverse, "coverage"),
    ):
        by_seed = zip(first[measure]["values"], second[measure]["values"], strict=True)
        assert all(a > b for a, b in by_seed)  # "the order is the same in each"
        numbers = "{:.3f} against {:.3f}".format(*(m[measure]["mean"] for m in (first, second)))
        assert numbers in TEXT
    control = (results["models"]["SFT"][name]["mean"] for name in ("precision", "coverage"))
    assert "SFT alone, has {:.3f} and {:.3f}".format(*control) in TEXT
