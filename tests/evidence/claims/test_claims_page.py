"""CLAIMS.md is what its generator makes of the results, and its verdicts follow from them."""

import csv
import json
import re
from pathlib import Path

import pytest

from evidence.claims.page import untraced_numbers, write_page
from evidence.claims.results import Results

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "assets" / "results"
PAGE = (ROOT / "CLAIMS.md").read_text(encoding="utf-8")
VERDICTS = dict(re.findall(r"^\| \[(.+?)\]\(#.+?\) \| (.+?) \|", PAGE, re.M))


@pytest.fixture(scope="module")
def written():
    return write_page(Results(RESULTS))


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_page_is_what_the_generator_makes(written):
    assert written.text == PAGE, "run `make claims` and commit CLAIMS.md"


def test_every_number_of_the_page_stands_in_the_results(written):
    assert sum(map(len, written.spoken.values())) > 150
    assert untraced_numbers(PAGE, written.spoken) == []


@pytest.mark.parametrize(
    ("true", "doctored"),
    [("27.1%", "17.1%"), ("+0.0113", "+0.0213"), ("1,024 random starts", "1,204 random starts")],
)
def test_a_doctored_page_fails(written, true, doctored):
    assert true in PAGE
    assert untraced_numbers(PAGE.replace(true, doctored), written.spoken)


def test_links_lead_somewhere_and_pictures_have_words(written):
    headings = re.findall(r"^### (.+)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) == anchors
    for target in re.findall(r"\]\(([^#)][^)]*)\)", PAGE):
        assert target.startswith("https://") or (ROOT / target.partition("#")[0]).exists(), target
    pictures = re.findall(r"!\[([^]]*)\]\(assets/", PAGE)
    assert len(pictures) >= 10
    assert all(len(alt) > 40 for alt in pictures)


def test_the_claims_that_the_post_makes_are_there():
    asked = [
        "One Gaussian", "change first", "step 100 and near step 350", "powerful student",
        "At token level", "Mixing in SFT", "hallucination", "reverse KL cannot be computed",
        "listing", "Table 1", "at every rank", "DeepSpeed", "vLLM", "Stored outputs",
    ]  # fmt: skip
    for words in asked:
        assert any(words in title for title in VERDICTS), words


def verdict(words: str) -> str:
    (found,) = (verdict for title, verdict in VERDICTS.items() if words in title)
    return found


def test_gaussians():
    portraits = load("one_gaussian")["portraits"]
    (forward,) = portraits["forward_kl"]["fixed_points"]
    stable = [p for p in portraits["reverse_kl"]["fixed_points"] if p["kind"] == "stable"]
    assert abs(forward["mu"]) < 1e-6
    assert forward["basin_share"] == 1
    assert [round(p["mu"]) for p in stable] == [-3, 0, 3]
    assert verdict("seeks the mean and under reverse KL a mode") == "holds"
    assert verdict("stays at the peak") == "holds under conditions"  # the one between the modes

    first = load("one_gaussian")["first_steps"]
    pulls = [first[name][0]["velocity"]["log_sigma"] for name in ("forward_kl", "reverse_kl")]
    assert pulls[0] > 0 > pulls[1]

    races = load("two_gaussians")["races"]
    forward, reverse = races["forward_kl"], races["reverse_kl"]
    assert reverse["against_forward_kl"]["more_steps"]["interval"][0] > 0.5
    assert reverse["stuck"]["elsewhere"] == 0
    assert forward["never"]["interval"][1] < reverse["never"]["interval"][0]
    exact, epsilon = (
        races[f"reverse_kl{name}"]["named_starts"]["-1 1"]["steps"] for name in ("", "_epsilon")
    )
    assert epsilon > 2 * exact
    assert verdict("near step 350") == verdict("match the target") == "holds under conditions"


def test_ranks():
    audit = load("rank_audit")
    axes, cells = audit["axes"], audit["forward_against_reverse"]

    def verdicts(numerics: str, distance: str, step: int, rate: float) -> list[str]:
        place = axes["distance"].index(distance), axes["step"].index(step)
        by_rank = cells[numerics]["verdict"][place[0]][place[1]][axes["sharpness"].index("post")]
        return [row[axes["learning_rate"].index(rate)] for row in by_rank]

    weights = "weight_distance"
    assert verdicts("epsilon", weights, 10_000, 0.1) == ["forward"] * 6  # as in the post
    assert verdicts("exact", weights, 10_000, 0.1) == ["forward"] * 5 + ["not separated"]
    assert verdicts("exact", f"centred_{weights}", 10_000, 0.1) == verdicts(
        "exact", weights, 10_000, 0.1
    )
    assert verdicts("exact", weights, 10_000, 0.001) == ["reverse"] * 6
    for rate in (0.001, 0.01, 0.1):
        assert verdicts("exact", weights, 100, rate) == ["reverse"] * 6
    assert verdicts("exact", "probability_distance", 10_000, 0.1)[-1] == "forward"
    assert verdict("at every rank") == "does not hold"
    assert verdict("converges faster in simple") == "holds under conditions"


def test_the_toy_study():
    differences = load("method_pairs_toy")["differences"]
    reverse = differences["token_rkl less token_fkl"]
    for metric, sign in (("precision", 1), ("coverage", -1), ("hallucination", -1)):
        assert sign * reverse[metric]["mean"] > 0
        assert reverse[metric]["significant"] == "significant"
    assert reverse["rouge1"]["significant"] == "not significant"
    assert verdict("At token level") == "holds under conditions"
    from_sft = differences["token_fkl less sft"]["hallucination"]
    assert from_sft["mean"] < 0
    assert from_sft["significant"] == "not significant"
    assert verdict("hallucination") == "does not hold"
    policy = differences["minillm less seq_rkl"]["sequence_reverse_kl_rao_blackwell"]
    assert policy["significant"] == "not significant"
    assert policy["mean"] < 0  # "comes near"
    forward = load("method_pairs_toy")["equation_4"]["token_fkl"]["forward"]
    assert forward["difference"]["low"] > 0
    assert 1 < forward["ratio"] < 2  # "a part"

    with (RESULTS / "toy_study" / "table.csv").open(encoding="utf-8") as file:
        rows = {row["method"] or row["name"]: row for row in csv.DictReader(file)}
    fkl, akl, rkl = (rows[method] for method in ("token_fkl", "token_akl", "token_rkl"))
    assert float(fkl["coverage"]) > float(akl["coverage"]) > float(rkl["coverage"])
    assert float(akl["precision"]) > float(fkl["precision"])
    assert float(rkl["precision"]) < float(rows["teacher"]["precision"])


def test_the_listings():
    found = load("listing")
    direction = found["direction"]
    assert direction["kl_div"] == pytest.approx(direction["forward_kl"], rel=1e-9)
    assert verdict("token-level listing is forward KL") == "holds"
    assert found["keyword"]["type"] == "TypeError"
    assert found["first_listing"]["different_answers"]["plain"]["high"] == 1
    assert found["loss"]["share"]["answer"]["high"] < 0.5
    assert found["loss"]["divisor"]["longest_row"]["low"] > 1
    assert found["prompts"]["with_answer"]["low"] > 0.5
    correct = found["generation"]["correct"]
    assert correct["right"]["high"] < correct["left"]["low"]
    broken = ["listing runs", "divisor", "loss is of the answers", "with the question", "rightly"]
    assert {verdict(words) for words in broken} == {"does not hold"}


def test_table_1():
    pairs = load("method_pairs_toy")["table_1"]["pairs"]
    gain = pairs["forward KL less SFT"]["rouge1"]["difference"]
    assert pairs["forward KL less reverse KL"]["rouge1"]["difference"] >= gain > 0
    assert pairs["reverse KL less SFT"]["rouge1"]["difference"] < 0
    assert verdict("Table 1 shows not much difference") == "does not hold"


def test_capacity():
    study = load("study_capacity")
    gaps = {size["name"]: size["gaps"] for size in study["sizes"]}
    for name in ("1x24", "1x32", "2x32", "2x64"):
        assert abs(gaps[name]["coverage"]["mean"]) < 0.01  # "less than a hundredth"
        assert (gaps[name]["coverage"]["high"] < 0) == (name == "2x64")  # "only for the largest"
    for name in ("1x24", "1x32", "2x32"):
        assert gaps[name]["precision"]["above_zero"] == study["seeds"]  # "with every seed"
        assert 0.01 < gaps[name]["precision"]["mean"] < 0.02
    assert 0 < gaps["2x64"]["precision"]["low"] < gaps["2x64"]["precision"]["mean"] < 0.01
    # "less precise than SFT, with every seed", and "both divergences" for the largest
    gains = {size["name"]: size["gains"] for size in study["sizes"]}
    for name in ("1x32", "2x32", "2x64"):
        assert gains[name]["token_fkl"]["precision"]["above_zero"] == 0
    assert gains["2x64"]["token_rkl"]["precision"]["high"] < 0
    assert gains["2x64"]["token_rkl"]["coverage"]["high"] < 0
    for name in ("1x32", "2x32"):
        assert gains[name]["token_rkl"]["precision"]["low"] > 0
    random = study["random"]["methods"]
    assert random["token_rkl"]["coverage"]["high"] < random["token_fkl"]["coverage"]["low"]
    assert verdict("powerful student") == "holds under conditions"


def test_mixing():
    starts = load("study_mixing")["starts"]
    mixes = {mix["alpha"]: mix for mix in starts["random"]["mixes"]}
    assert mixes[1.0]["learnt"]["token_rkl"] < mixes[0.5]["learnt"]["token_rkl"]
    alone, half = starts["start"]["mixes"][:3:2]
    assert (alone["alpha"], half["alpha"]) == (1, 0.5)
    assert all(mix["learnt"]["token_rkl"] == 6 for mix in (alone, half))  # "all learn"
    spread = [mix["spread"]["token_rkl"]["coverage"] for mix in (alone, half)]
    assert spread[0] > 1.5 * spread[1]
    changes = half["changes"]["token_rkl"]
    assert changes["coverage"]["low"] > 0
    assert changes["coverage"]["above_zero"] == 6
    assert changes["precision"]["above_zero"] == 1
    (best,) = (n for n, value in enumerate(changes["precision"]["values"]) if value > 0)
    start = starts["random"]["sft"]["precision"]["values"]
    assert start[best] == min(start) < 0.1  # "whose start had learnt little"
    assert verdict("Mixing in SFT") == "holds under conditions"


def test_temperature():
    toy, real = (
        load(f"study_{name}")["temperatures"] for name in ("temperature", "smol_temperature")
    )
    assert [point["temperature"] for point in toy] == [1, 2, 4]
    ahead = [point["gaps"]["precision"]["above_zero"] for point in toy]
    assert ahead[0] > ahead[1] > ahead[2] == 0
    assert not any(point["gaps"]["coverage"]["above_zero"] for point in toy)  # "never ahead"
    for metric in ("forward_kl", "reverse_kl"):  # "turn into one"
        cold, warm = (point["gaps"][metric]["mean"] for point in real)
        assert abs(warm) < 0.1 * abs(cold)
