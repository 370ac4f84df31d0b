"""A marker vouches for content: whatever is changed later is found, and named."""

import random
import shutil
from pathlib import Path

import pytest

from kd_lab.runs.marker import Damaged, check_whole, mark_whole, vouched_files

FILES = {
    "model.safetensors": 3000, "config.json": 300, "tokenizer.json": 900, "trainer_state.json": 60,
    "optimizer.pt": 500, "global_step2/rank_0.pt": 400,
}  # fmt: skip


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("checkpoint-2"), random.Random(0)
    for name, size in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(draw.randbytes(size))
    mark_whole(folder)
    return folder


def test_a_whole_folder_passes_and_all_files_are_vouched_for(marked):
    assert set(vouched_files(marked)) == set(FILES)
    check_whole(marked)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_is_found_and_the_file_named(marked, tmp_path, seed):
    folder = tmp_path / "checkpoint-2"
    shutil.copytree(marked, folder)
    draw = random.Random(seed)
    name = draw.choice([*FILES])
    path = folder / name
    content = bytearray(path.read_bytes())
    match draw.choice(["flip", "cut", "empty", "remove", "grow"]):
        case "flip":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        case "cut":
            del content[draw.randrange(len(content)) :]
        case "empty":
            content.clear()
        case "grow":
            content += b"x"
        case "remove":
            path.unlink()
    if path.exists():
        path.write_bytes(content)
    with pytest.raises(Damaged, match=path.name):
        check_whole(folder)


def test_two_files_that_changed_places_are_found(marked, tmp_path):
    for step in (2, 4):
        shutil.copytree(marked, tmp_path / f"checkpoint-{step}")
    other = tmp_path / "checkpoint-4"
    (other / "model.safetensors").write_bytes(random.Random(1).randbytes(3000))
    mark_whole(other)
    (other / "model.safetensors").replace(tmp_path / "checkpoint-2" / "model.safetensors")
    with pytest.raises(Damaged, match=r"checkpoint-2/model.safetensors is damaged"):
        check_whole(tmp_path / "checkpoint-2")


def test_a_changed_marker_vouches_for_nothing(marked, tmp_path):
    shutil.copytree(marked, tmp_path / "a")
    marker = tmp_path / "a" / "complete"
    marker.write_text(marker.read_text().replace('"bytes": 3000', '"bytes": 3001'))
    with pytest.raises(Damaged, match="complete is damaged"):
        check_whole(tmp_path / "a")
    marker.write_text(marker.read_text()[:-20])
    with pytest.raises(Damaged, match="complete is damaged"):
        check_whole(tmp_path / "a")


def test_a_marker_of_the_first_edition_passes_and_is_told(marked, tmp_path, capsys):
    shutil.copytree(marked, tmp_path / "a")
    (tmp_path / "a" / "complete").write_text("")
    check_whole(tmp_path / "a")
    assert "complete is empty: the files are not checked" in capsys.readouterr().err


def test_of_a_runs_folder_the_card_the_evaluation_and_the_checkpoints_are_left_out(tmp_path):
    for name in ("model.safetensors", "README.md", "evaluation.json", "checkpoint-2/a.pt", ".lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    mark_whole(tmp_path)
    assert set(vouched_files(tmp_path)) == {"model.safetensors"}
