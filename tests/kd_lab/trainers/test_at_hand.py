"""What a training asks of packages, devices and the hub is tried before a model loads."""

import pytest

from kd_lab.trainers.at_hand import check_at_hand, least_bytes
from kd_lab.trainers.distil_config import DistilConfig


def config(tmp_path, **settings) -> DistilConfig:
    return DistilConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"report_to": "no_such_logger"}, "report_to .*no_such_logger is not supported"),
        ({"optim": "adamw_torch", "optim_args": "foo=1"}, "optim_args foo=1 would have no effect"),
        ({"optim": "lomo"}, "optim lomo: "),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type cosine_with_min_lr: "),
        ({"lr_scheduler_kwargs": {"no_such": 1}}, "lr_scheduler_type linear: .*no_such"),
        (
            {"dataloader_persistent_workers": True},
            "dataloader_persistent_workers option needs dataloader_num_workers",
        ),
        ({"fsdp": "full_shard"}, "fsdp: one process"),
        ({"save_strategy": "best"}, "save_strategy best: .*metric_for_best_model"),
    ],
)
def test_what_is_not_at_hand_is_refused_by_its_setting(tmp_path, settings, told):
    with pytest.raises(ValueError, match=told):
        check_at_hand(config(tmp_path, **settings))


def test_the_hub_is_asked_before_a_run_that_would_go_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="push_to_hub: this process is offline"):
        check_at_hand(config(tmp_path, push_to_hub=True))


def test_what_is_at_hand_passes(tmp_path):
    check_at_hand(config(tmp_path, report_to="tensorboard", optim="adafactor"))


def test_the_least_room_is_the_model_and_a_checkpoint_with_adam(tmp_path):
    assert least_bytes(config(tmp_path), 10, "float32") == 10 * (4 + 4 + 8)
    assert least_bytes(config(tmp_path, save_only_model=True), 10, "bfloat16") == 10 * (2 + 2)
    assert least_bytes(config(tmp_path, save_strategy="no"), 10, None) == 40
