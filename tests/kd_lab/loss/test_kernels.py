"""The kernels of a GPU, without one: interpreted, and assembled for sm_80 and sm_90."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kd_lab import divergences
from kd_lab.loss import adaptive_kernel, by_device, gpu_tiles, kernels, read_once, tiles
from kd_lab.loss.closed_forms import RULES
from kd_lab.loss.tiles import Objective, Weights

HERE = Path(__file__).parent
TYPES = {
    "finite": "*i1", "values": "*fp64", "targets": "*i64", "gradient": "*bf16", "arrivals": "*i32",
    **dict.fromkeys(("inverse_temperature", "mu", "share", "average"), "fp32"),
    "cross_entropy": "*fp64", **dict.fromkeys(("divergence_step", "targets_step"), "i32"),
    **dict.fromkeys(("student_stride", "teacher_stride", "gradient_stride", "stride"), "i32"),
    **dict.fromkeys(("width", "vocab", "rows"), "i32"),
}  # fmt: skip
WIDTH = 151_680  # of a row of Qwen2.5's logits
PADDED = ("stride", "width")  # multiples of 16, unlike the vocabulary and the rows


@pytest.mark.slow
def test_the_kernels_under_tritons_interpreter():
    """In a process of its own: Triton reads the variable when it is imported."""
    files = [HERE / f"interpreted_{what}.py" for what in ("kernels", "parts")]
    without = ("-p", "no:cacheprovider", "-p", "no:nbmake")  # which takes a second to import
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *without, *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


def assembled(kernel, constants: dict, warps: int, arch: int, folder: Path) -> tuple[str, str]:
    """A kernel's PTX, and what the assembler says of it."""
    names = kernel.arg_names
    types = {name: TYPES.get(name, "*fp32") for name in names}
    types |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if types[name].startswith("*") or name.endswith(PADDED)
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    ptx = triton.compile(
        ASTSource(kernel, types, values, aligned),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps},
    ).asm["ptx"]
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    name = f"sm_{arch}a" if arch == 90 else f"sm_{arch}"
    words = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={name}", source, "-o", os.devnull]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    return ptx, told.stderr


def in_parts(size: int) -> dict[str, int]:
    """The constants of a row in parts of so many words."""
    parts = triton.cdiv(WIDTH, size)
    return {"PARTS": parts, "SLOTS": triton.next_power_of_2(parts), "BLOCK": size}


def cases() -> list:
    """Kernels, their constants, and the vectors of four that each thread reads."""
    block = {"BLOCK": gpu_tiles.BLOCK}
    write = {"CROSS_ENTROPY": True, "WRITE": True}
    found = [("log_sums", kernels.log_sums, {"TEMPERED": True, **block}, 2)]
    vectors = gpu_tiles.KEPT // (4 * 32 * gpu_tiles.KEEPING_WARPS)
    for divergence, terms in kernels.TERMS.items():
        if divergence is not divergences.adaptive_kl:
            constants = {"TERMS": terms.terms, "AVERAGED": terms.mean is None, "TEMPERED": True}
            constants |= write | in_parts(gpu_tiles.KEPT // 2)
            found.append((divergence.__name__, read_once.row_losses, constants, vectors))
    constants = {"TERMS": None, "AVERAGED": False, "TEMPERED": False}
    constants |= write | in_parts(gpu_tiles.KEPT)
    found.append(("no teacher", read_once.row_losses, constants, vectors))
    adaptive = kernels.TERMS[divergences.adaptive_kl].terms
    for name, terms, vectors in (("adaptive_kl", adaptive, 4), ("alone", None, 2)):
        constants = {"TERMS": terms, **write, **block}
        found.append((f"gradients-{name}", kernels.gradients, constants, vectors))
    sizes = {"CAPACITY": gpu_tiles.CAPACITY, "WAYS": gpu_tiles.WAYS, **block}
    weights = adaptive_kernel.head_weights
    found += [
        (f"head_weights-{tail}", weights, {"TAIL": tail, **sizes}, 2) for tail in (True, False)
    ]
    return [pytest.param(*case[1:], id=case[0]) for case in found]


@pytest.mark.skipif(
    not Path(triton.knobs.nvidia.ptxas.path).exists(), reason="this Triton has no assembler"
)
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("kernel", "constants", "vectors"), cases())
def test_a_kernel_is_assembled_with_vector_loads_and_without_spills(
    kernel, constants, vectors, arch, tmp_path, monkeypatch
):
    """Each block of logits is read 128 bits at a time, although the vocabulary is odd."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    warps = gpu_tiles.HEAD_WARPS if "WAYS" in constants else gpu_tiles.WARPS
    if kernel is read_once.row_losses:
        warps = gpu_tiles.KEEPING_WARPS
    ptx, told = assembled(kernel, constants, warps, arch, tmp_path)
    (stores, loads) = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told).groups()
    assert int(stores) + int(loads) <= 16, told
    assert len(re.findall(r"ld\.global\S*\.v4\.", ptx)) == vectors
    if constants.get("WRITE"):
        assert re.search(r"st\.global\S*\.v4\.", ptx), "eight 16-bit numbers at a time"


# ---- a closed form without a kernel


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule is not divergences.adaptive_kl])
def test_a_closed_form_without_a_kernel_is_compiled_whole(rule, monkeypatch):
    """By torch's own tracer; its code generator, which takes minutes, is left out."""

    def unknown(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
        return rule(teacher_logp, student_logp)

    torch._dynamo.reset()  # or the cases count as one function's recompilations
    compiled = torch.compile(tiles._block_loss, dynamic=True, fullgraph=True, backend="eager")
    calls = []
    monkeypatch.setattr(by_device, "KERNEL_DEVICES", ("cpu",))
    monkeypatch.setattr(tiles, "_compiled_block_loss", lambda: calls.append(1) or compiled)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 101, generator=generator)
    targets = torch.randint(0, 101, (3,), generator=generator)
    objective = Objective(rule, Weights(0.5, 0.5), 2.0, 3.0)
    plain = student.clone()
    expected = tiles.tile_loss(plain, teacher.clone(), targets, objective)
    monkeypatch.setitem(RULES, unknown, RULES[rule])
    objective = Objective(unknown, Weights(0.5, 0.5), 2.0, 3.0)
    found = by_device.tile_loss(student, teacher, targets, objective, True, torch.float32)
    assert calls
    torch.testing.assert_close(student, plain)
    torch.testing.assert_close(found.divergence, expected.divergence)


@pytest.mark.parametrize("name", ["alpha_beta", "entropy_aware_kl"])
def test_a_divergence_of_the_registry_without_a_kernel_is_compiled(name, monkeypatch):
    """Two exponents, and the entropy of whole rows, are more than the one share of the kernels."""
    compiled = []
    monkeypatch.setattr(by_device, "KERNEL_DEVICES", ("cpu",))
    monkeypatch.setattr(
        tiles, "_compiled_block_loss", lambda: compiled.append(name) or tiles._block_loss
    )
    divergence = divergences.get_divergence(name)
    student, teacher = torch.randn(2, 3, 101, generator=torch.Generator().manual_seed(0))
    assert not by_device.has_kernels(student, teacher, divergence)
    objective = Objective(divergence, Weights(1.0, 0.0))
    by_device.tile_loss(student, teacher, torch.zeros(3).long(), objective, True, torch.float32)
    assert compiled == [name]


@pytest.mark.parametrize("name", ["skew_forward_kl", "skew_reverse_kl"])
def test_a_mixture_that_float32_cannot_tell_is_left_to_float64(name):
    has = [gpu_tiles.terms_of(divergences.get_divergence(name, alpha=a)) for a in (0.9, 0.99, 1)]
    assert [one is not None for one in has] == [True, False, True]
