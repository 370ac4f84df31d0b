"""Which of the options inherited from TRL and transformers have an effect here.

Rows, loss and evaluation are this project's own, so some inherited options do nothing. We refuse
such an option unless it is at its default. The lists name every field of SFTConfig and ModelConfig;
a test fails when a new version adds another.
"""

import dataclasses
from typing import Any

# They do what their own documentation says.
_HONOURED = """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate
    lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args weight_decay
    adam_beta1 adam_beta2 adam_epsilon optim_target_modules gradient_accumulation_steps
    average_tokens_across_devices max_grad_norm bf16 fp16 tf32 activation_checkpointing
    activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    neftune_noise_alpha torch_empty_cache_steps logging_strategy logging_steps
    logging_first_step log_on_each_node include_num_input_tokens_seen log_level
    log_level_replica disable_tqdm report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay
    per_device_eval_batch_size eval_on_start do_eval save_only_model save_strategy save_steps
    save_on_each_node save_total_limit push_to_hub hub_token hub_private_repo hub_model_id
    hub_strategy hub_always_push hub_revision load_best_model_at_end metric_for_best_model
    greater_is_better restore_callback_states_from_checkpoint full_determinism seed data_seed
    use_cpu accelerator_config dataloader_drop_last dataloader_num_workers
    dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
    ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics
    resume_from_checkpoint local_rank eos_token pad_token max_length packing packing_strategy
    padding_free pad_to_multiple_of eval_packing activation_offloading model_name_or_path
    model_revision dtype attn_implementation use_peft lora_r lora_alpha lora_dropout
    lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type use_rslora
    use_dora
"""
HONOURED = frozenset(_HONOURED.split())

LOSS = "the loss here is fused, and has no such part"
ROWS = "rows are made by this project, which does not read it"
KEPT = "evaluation keeps figures, and no predictions"
QUANTISED = "a quantised student is not supported"
# Why an option reaches nothing. At its default it is accepted.
PASSED_OVER = {
    "label_smoothing_factor": LOSS,
    "loss_type": f"{LOSS}; the loss is chosen by divergence and alpha",
    "router_aux_loss_coef": LOSS,
    "use_liger_kernel": "the loss here is fused already, and takes the place of Liger's",
    "liger_kernel_config": "the loss here is fused already, and takes the place of Liger's",
    "completion_only_loss": "all answers of a conversation are trained, and nothing else",
    "assistant_only_loss": "all answers of a conversation are trained, and nothing else",
    "chat_template_path": f"{ROWS}; save the template with the model's tokenizer instead",
    "dataset_text_field": ROWS,
    "dataset_kwargs": ROWS,
    "dataset_num_proc": ROWS,
    "truncation_mode": f"{ROWS}; a long row is cut at its end",
    "shuffle_dataset": "the order of rows is that of train_sampling_strategy",
    "length_column_name": "lengths are counted from the rows",
    "label_names": ROWS,
    "remove_unused_columns": ROWS,
    "model_init_kwargs": "the student is loaded by dtype, attn_implementation and model_revision",
    "trust_remote_code": "models that bring code of their own are not loaded",
    "use_cache": "training keeps no keys and values",
    "torch_compile": "the loss goes around the compiled forward pass",
    "torch_compile_backend": "the loss goes around the compiled forward pass",
    "torch_compile_mode": "the loss goes around the compiled forward pass",
    "auto_find_batch_size": "another batch on the way would be another run",
    "ignore_data_skip": "a resumed run would see other rows than the one that was stopped",
    "enable_jit_checkpoint": "checkpoints are written by save_steps alone",
    "parallelism_config": "rows are not split across devices",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "prediction_loss_only": KEPT,
    "eval_do_concat_batches": KEPT,
    "eval_use_gather_object": KEPT,
    "eval_accumulation_steps": KEPT,
    "include_for_metrics": KEPT,
    "batch_eval_metrics": KEPT,
    "bf16_full_eval": "evaluation runs in the precision of training",
    "fp16_full_eval": "evaluation runs in the precision of training",
    "do_train": "kd-lab train always trains",
    "do_predict": KEPT,
    "load_in_8bit": QUANTISED,
    "load_in_4bit": QUANTISED,
    "bnb_4bit_quant_type": QUANTISED,
    "use_bnb_nested_quant": QUANTISED,
    "bnb_4bit_quant_storage": QUANTISED,
}
# What transformers writes in place of a default, so that a saved config.yaml can be used again.
FILLED_IN: dict[str, tuple[Any, ...]] = {"include_for_metrics": ([],), "label_names": ([],)}


def check_honoured(arguments: Any) -> None:
    """Refuse options that have no effect here.

    Args:
        arguments: an instance of a dataclass that inherits SFTConfig or ModelConfig.
    Raises:
        ValueError: an option of PASSED_OVER is not at its default; the message says why.
    """
    for field in dataclasses.fields(arguments):
        if field.name not in PASSED_OVER:
            continue
        value, default = getattr(arguments, field.name), field.default
        if default is dataclasses.MISSING:
            assert field.default_factory is not dataclasses.MISSING
            default = field.default_factory()
        if value != default and value not in FILLED_IN.get(field.name, ()):
            raise ValueError(
                f"{field.name} is {value!r} and would have no effect: {PASSED_OVER[field.name]}; "
                f"leave it out (its default is {default!r})"
            )


ROWS_DEALT = "each process takes its own batches, and each row counts once, as they are"
STEPS = "gradient_accumulation_steps says it, and is what the run's folder records"
# Keys of accelerator_config that are refused unless they are at their default.
ACCELERATOR = {
    "even_batches": f"{ROWS_DEALT}; a process without rows would be waited for",
    "split_batches": f"{ROWS_DEALT}; per_device_train_batch_size is that of one process",
    "dispatch_batches": ROWS_DEALT,
    "use_seedable_sampler": "a resumed run would see its rows in another order",
    "use_configured_state": "kd-lab starts accelerate itself",
}
ACCUMULATION = ("sync_each_batch",)  # keys of gradient_accumulation_kwargs that are honoured


def check_accelerator_keys(config: Any) -> None:
    """Refuse an unknown key of accelerator_config, before transformers reads it.

    Raises:
        ValueError: names the key and the known ones.
    """
    from transformers.trainer_pt_utils import AcceleratorConfig

    known = [field.name for field in dataclasses.fields(AcceleratorConfig)]
    for key in config if isinstance(config, dict) else ():
        if key not in known:
            raise ValueError(f"accelerator_config has no key {key!r} (known: {', '.join(known)})")


def check_accelerator_config(config: Any) -> None:
    """Refuse what would deal rows or count steps in another way than the loss and the records do.

    Args:
        config: transformers' AcceleratorConfig.
    Raises:
        ValueError: a key is not at its default; the message says why.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name, field.default)  # transformers takes one away
        same = (field.default, False) if field.default is None else (field.default,)
        if field.name in ACCELERATOR and value not in same:
            raise ValueError(
                f"accelerator_config: {field.name} is {value!r}, but {ACCELERATOR[field.name]}; "
                f"leave it out (its default is {field.default!r})"
            )
    for key in config.gradient_accumulation_kwargs or ():
        if key not in ACCUMULATION:
            raise ValueError(
                f"accelerator_config: gradient_accumulation_kwargs has {key}, but {STEPS}; "
                "leave it out"
            )
