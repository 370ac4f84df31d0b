"""The engine of written answers: what does not go together is refused before anything loads."""

import pytest

from kd_lab.rollout.engine_arguments import EngineArguments, check_engine
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import saved_toy_model

SERVER = ["--rollout_engine", "vllm", "--vllm_mode", "server"]
URL = ["--vllm_server_base_url", "http://127.0.0.1:9"]
ON_POLICY = ["--prefixes", "student", "--alpha", "1"]


def test_the_defaults_and_both_modes_pass():
    for given in (
        {},
        {"rollout_engine": "vllm", "vllm_gpu_memory_utilization": 0.5},
        {"rollout_engine": "vllm", "vllm_mode": "server", "vllm_server_base_url": "https://x"},
    ):
        check_engine(EngineArguments(**given))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rollout_engine", "vlm"], "rollout_engine must be one of ('transformers', 'vllm')"),
        (["--rollout_engine", "vllm", "--vllm_mode", "far"], "vllm_mode must be one of ('col"),
        (["--vllm_mode", "server"], "vllm_mode would have no effect with rollout_engine transf"),
        (SERVER, "vllm_mode server needs the server's address: vllm_server_base_url"),
        ([*SERVER, "--vllm_server_base_url", "here:1"], "must begin with http:// or https://"),
        (["--rollout_engine", "vllm", *URL], "would have no effect: say --vllm_mode server too"),
        (
            ["--rollout_engine", "vllm", "--vllm_gpu_memory_utilization", "1.5"],
            "vllm_gpu_memory_utilization must lie in (0, 1), not 1.5",
        ),
        (
            [*SERVER, *URL, "--prefixes", "dataset", "--alpha", "0.5"],
            "rollout_engine vllm would have no effect: no answer is written during training",
        ),
        (
            [*SERVER, *URL, "--policy_gradient", "true", "--divergence", "reverse_kl"],
            "teacher_mix is 0.2, and vLLM writes with one model: say --teacher_mix 0",
        ),
        (
            [*SERVER, *URL, "--prefixes", "teacher", "--student_share", "0.5"],
            "a server has one model, and here teacher and student write: say --vllm_mode colocate",
        ),
        (
            [*SERVER, *URL, "--prefixes", "teacher", "--alpha", "0", "--answers", "ANSWERS"],
            "rollout_engine vllm would have no effect: the answers are stored ones",
        ),
    ],
)  # fmt: skip
def test_a_line_says_what_does_not_go_together(words, said, tmp_path, capsys):
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers/manifest.json").write_text("{}")
    words = [str(tmp_path / "answers") if word == "ANSWERS" else word for word in words]
    common = ["--model_shape", SHAPE, "--use_cpu", "true", "--output_dir", str(tmp_path / "run")]
    line = refusal(
        capsys, "train", *common, *ON_POLICY, *words, "--teacher_model_name_or_path", "no/such"
    )
    assert said in line
    assert not (tmp_path / "run").exists()


def test_without_vllm_a_line_names_the_command(tmp_path, capsys):
    """The environment of these tests has no vLLM."""
    teacher = tmp_path / "teacher"
    saved_toy_model(teacher, 32, 1, 0)
    line = refusal(
        capsys, "train", "--model_shape", SHAPE, "--use_cpu", "true", *ON_POLICY,
        "--output_dir", str(tmp_path / "run"), "--rollout_engine", "vllm",
        "--teacher_model_name_or_path", str(teacher),
    )  # fmt: skip
    assert line.startswith("rollout_engine vllm: vLLM is not installed here: ")
    assert "pip install -e '.[vllm]' (on a CPU make .venv-vllm/.ready)" in line
    assert not (tmp_path / "run").exists()


def test_dora_is_refused_by_name(tmp_path, capsys):
    student = saved_toy_model(tmp_path / "student", 32, 1, 0)
    line = refusal(
        capsys, "train", "--model_name_or_path", student, "--use_cpu", "true", *ON_POLICY,
        *SERVER, *URL, "--use_peft", "true", "--use_dora", "true",
        "--output_dir", str(tmp_path / "run"), "--teacher_model_name_or_path", student,
    )  # fmt: skip
    assert line.startswith("rollout_engine vllm takes plain LoRA weights: say --use_dora false")


def test_generate_says_what_a_served_teacher_needs(tmp_path, capsys):
    given = ["--teacher_model_name_or_path", saved_toy_model(tmp_path / "teacher", 32, 1, 0)]
    given += ["--output_dir", str(tmp_path / "answers")]
    line = refusal(capsys, "generate", *given, "--engine", "server")
    assert line == "engine server and base_url go together: give both, or neither"
    line = refusal(capsys, "generate", *given, "--base_url", "http://127.0.0.1:9")
    assert line == "engine server and base_url go together: give both, or neither"
    line = refusal(capsys, "generate", *given, "--engine", "vllm")
    assert line.startswith("engine vllm: vLLM is not installed here: ")
