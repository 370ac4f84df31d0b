"""A micro-batch of a training run at the true widths of its models, on tensors without numbers.

The trainer's own ``compute_loss`` and its backward pass run on fake tensors, whose storages have a
size and no memory. A ``MemoryTrace`` follows them. Models have a few layers, since each layer takes
as much as any other.

The tensors say that they are a CPU's: a build of torch without CUDA has no others. So what a GPU
does otherwise is put in place here. The loss goes through its code for a GPU (gpu_tiles.py), which
allocates as it would there, while Triton's kernels, which allocate nothing, do not run. Products
deliver into memory that the loss gives them. Dropout keeps a mask of one byte. What a host asks of
a GPU is answered: how many tokens are trained, and that all numbers are finite. Attention is the
CPU's flash kernel, which keeps as much as the GPU's: its output and a float32 for each head.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Qwen2Config

from book.memory_trace import MemoryTrace
from kd_lab.loss import by_device, chunks, gpu_tiles, products
from kd_lab.model_shapes import QWEN25, qwen25
from kd_lab.planning.planned_run import Job
from kd_lab.teacher.live import LiveTeacher
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.given import causal_lm
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

VOCABULARY = 151_665  # tokens of Qwen2.5
LAYERS = 3
KERNELS = ("log_sums", "row_losses", "gradients", "head_weights", "scale_unless_one")


class Micro(NamedTuple):
    """The bytes of a micro-batch beside weights and their .grad."""

    forward: int  # the peak of the forward pass, loss included
    backward: int
    layer: int  # what each further layer leaves behind in the forward pass


def peak_of_all_layers(job: Job, folder: Path) -> int:
    """The peak at the student's own depth, from a student of three layers.

    Each layer after the first leaves the same bytes behind, and what follows comes on top of them.
    Two students of 28 layers were traced once: their peaks were these, to the byte.
    """
    micro = _micro_batch(job, _trainer(job, folder))
    return max(micro.forward, micro.backward) + (job.student.layers - LAYERS) * micro.layer


def _trainer(job: Job, folder: Path) -> TokenDistilTrainer:
    """The run's trainer, with toy models for the time being."""
    config = job.config
    return TokenDistilTrainer(
        toy_model(),
        toy_model() if job.has_divergence else None,
        DistilConfig(
            output_dir=str(folder), use_cpu=True, disable_tqdm=True, bf16=config.bf16,
            alpha=config.alpha, divergence=config.divergence,
            divergence_settings=config.divergence_settings, chunk_size=config.chunk_size,
        ),
        train_dataset=toy_rows(8),
        processing_class=TOKENIZER,
        vocab_size=VOCABULARY,
    )  # fmt: skip


def _micro_batch(job: Job, trainer: TokenDistilTrainer) -> Micro:
    """Every row is as long as the longest, and every token is trained."""
    student = _student(job, LAYERS)
    left: list[int] = []  # alive after each layer
    with FakeTensorMode(), as_on_a_gpu():
        _fill(student)
        if job.config.gradient_checkpointing:
            student.activation_checkpointing_enable({"use_reentrant": False})
            if job.lora:
                student.enable_input_require_grads()
        for weight in student.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        trainer.model = student.train()
        if isinstance(trainer.teacher, LiveTeacher):
            assert job.teacher is not None
            teacher = _fill(_model(job.teacher, 1, torch.bfloat16)).eval()
            trainer.teacher.wrapped = trainer.teacher.model = teacher.requires_grad_(False)
        trainer._are_checked = True
        rows, length = job.config.per_device_train_batch_size, job.longest
        tokens = torch.zeros(rows, length, dtype=torch.int64)
        batch = {"input_ids": tokens, "attention_mask": tokens.clone(), "labels": tokens.clone()}
        trained = rows * (length - 1)
        with MemoryTrace() as trace, HostReads(trained):
            for layer in causal_lm(student).get_decoder().layers:
                layer.register_forward_hook(lambda *_: left.append(trace.moments[-1].total))
            loss = trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(trained))
            forward = trace.peak().total
            trace.moments.clear()
            loss.backward()
        return Micro(forward, trace.peak().total, left[2] - left[1])


class HostReads(TorchDispatchMode):
    """What a host asks of a GPU, since fake tensors have no numbers."""

    def __init__(self, trained: int) -> None:
        super().__init__()
        self.trained = trained

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "nonzero":
            return torch.zeros(self.trained, args[0].dim(), dtype=torch.int64)
        if name in ("_local_scalar_dense", "is_nonzero"):
            return args[0].dtype == torch.bool or self.trained
        return func(*args, **(kwargs or {}))


class Silent:
    """A kernel that is launched and does not run."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **settings: None


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Fake tensors of a CPU are taken for those of a GPU."""

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return torch.native_dropout(input, p, training)[0] if training else input

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_device, "KERNEL_DEVICES", ("cpu",))
        for kernel in KERNELS:
            patch.setattr(gpu_tiles, kernel, Silent())
        patch.setattr(gpu_tiles, "part_size", lambda width, models, _: gpu_tiles.KEPT // models)
        for module in (chunks, products):
            patch.setattr(module, "vocabulary_parts", lambda size, *_: [slice(0, size)])
        patch.setattr(chunks, "product", lambda a, b, out, add=False: out)
        for name in ("check_tokens", "check_divisor", "scale"):  # a GPU is not waited for
            patch.setattr(chunks, name, lambda *_: None)
        patch.setattr(nn.functional, "dropout", dropout)
        yield


def _student(job: Job, layers: int) -> Any:
    arguments = job.student_arguments
    model = _model(job.student, layers, getattr(torch, arguments.dtype or "float32"))
    if not job.lora:
        return model
    lora = LoraConfig(
        r=arguments.lora_r, lora_dropout=arguments.lora_dropout, task_type="CAUSAL_LM",
        target_modules=arguments.lora_target_modules,
    )  # fmt: skip
    with torch.device("meta"):
        return get_peft_model(model, lora)


def _model(shape: Any, layers: int, dtype: torch.dtype) -> Any:
    """A Qwen2.5 of this width, of a few layers, on the meta device."""
    size = next(size for size in QWEN25 if QWEN25[size][0] == shape.hidden)
    settings = {**qwen25(size), "num_hidden_layers": layers, "dtype": dtype}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(Qwen2Config(**settings))


def _fill(model: nn.Module) -> Any:
    """Fake tensors in place of those of the meta device, shared where they were."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    empty = torch.empty(weight.shape, dtype=weight.dtype)
                    made[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return model
