"""Alignment of hidden states: their distance, beside the divergence of what is predicted from them.

    loss + alignment_weight · mean over trained tokens of 1 - cos(P·h_student, h_teacher)

A cosine has no scale: some units of a large model are a thousand times as large as the others. P is
a projection to the teacher's width, where the widths differ. It trains with the student and is kept
in checkpoints, to go on from; the student itself is saved without it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lab.trainers.ranges import NOT_NEGATIVE

if TYPE_CHECKING:  # it takes seconds to import
    from transformers import PreTrainedModel

NAME = "alignment"  # of the module in the student while it trains
FILE = f"{NAME}.safetensors"  # of a checkpoint


@dataclass
class AlignmentArguments:
    """The weight of the hidden states' distance, and whose they are."""

    alignment_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of 1 - cosine of both models' hidden states; 0: they are free."},
    )
    alignment_layers: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "The layers, student's to teacher's: '{\"2\": 4}'; 0 is the embeddings. "
            "Default: the last of both."
        },
    )


def check_alignment(args: AlignmentArguments, alpha: float) -> None:
    """Refuse a weight out of its range, and layers without a weight.

    Raises:
        ValueError: names the setting, and the change to make.
    """
    weight, layers = args.alignment_weight, args.alignment_layers
    if not NOT_NEGATIVE.holds(weight):
        raise ValueError(f"alignment_weight {NOT_NEGATIVE.words}, not {weight}")
    if layers is not None and not weight:
        raise ValueError("alignment_layers have no effect at alignment_weight 0: give it a weight")
    if weight and alpha == 0:
        raise ValueError(
            "alignment_weight goes beside a divergence, and alpha is 0: say --alpha 1, or "
            "--alignment_weight 0"
        )
    assert not isinstance(layers, str)
    for numbers in (layers or {}).items():
        if not all(str(number).isdecimal() for number in numbers):
            raise ValueError(
                f"alignment_layers must map numbers of layers, such as {{2: 4}}, not {layers}"
            )


def check_aligned_models(
    args: AlignmentArguments, student: Any, teacher: Any, keep_every: int
) -> None:
    """Refuse layers that a model does not have, by both configurations, before any loads.

    Args:
        student, teacher: their configurations.
        keep_every: of the student's layers, each k-th is kept.
    Raises:
        ValueError: as ``aligned_layers``.
    """
    if args.alignment_weight:
        ours, theirs = (side.get_text_config().num_hidden_layers for side in (student, teacher))
        aligned_layers(args, len(range(0, ours, keep_every)), theirs)


def aligned_layers(args: AlignmentArguments, *depths: int) -> dict[int, int]:
    """The layers to align, student's to teacher's; by default the last of both.

    Args:
        depths: how many layers the student and the teacher have.
    Raises:
        ValueError: a model does not have such a layer.
    """
    given: Any = args.alignment_layers or {str(depths[0]): depths[1]}
    layers = {int(ours): int(theirs) for ours, theirs in given.items()}
    whose = ("student", "teacher")
    for name, depth, asked in zip(whose, depths, (list(layers), [*layers.values()]), strict=True):
        if max(asked) > depth:
            raise ValueError(
                f"alignment_layers names layer {max(asked)} of the {name}, which has {depth}"
            )
    return layers


class HiddenAlignment(nn.Module):
    """The distance of both models' hidden states at chosen layers, and its projections.

    Args:
        layers: of the student -> of the teacher; 0 is the embeddings.
        widths: of the student and the teacher.
        seed: of the projections.
    """

    def __init__(self, layers: Mapping[int, int], widths: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.layers = dict(layers)
        self.projections = nn.ModuleDict()
        if widths[0] != widths[1]:
            draw = torch.Generator().manual_seed(seed)  # the run's own draws stay as they are
            for layer in layers:
                projection = nn.utils.skip_init(nn.Linear, *widths, bias=False)
                start = torch.randn(widths[1], widths[0], generator=draw) / widths[0] ** 0.5
                projection.weight.data.copy_(start)
                self.projections[str(layer)] = projection

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The mean over layers of 1 - cosine, [n].

        Args:
            student: hidden states of the chosen layers in order, each [n, H_s].
            teacher: those of their counterparts, [n, H_t].
        """
        distances = []
        for layer, ours, theirs in zip(self.layers, student, teacher, strict=True):
            if str(layer) in self.projections:
                ours = self.projections[str(layer)](ours)
            dtype = torch.float64 if ours.dtype == torch.float64 else torch.float32
            distances.append(1 - F.cosine_similarity(ours.to(dtype), theirs.to(dtype), dim=-1))
        return torch.stack(distances).mean(0)


def attach_alignment(
    args: AlignmentArguments, student: "PreTrainedModel", teacher: Any, sharded: bool, seed: int
) -> HiddenAlignment | None:
    """The alignment as a part of the student, so that whatever wraps it trains it too.

    Args:
        teacher: a model, if there is to be a distance.
        sharded: whether FSDP holds the student.
        seed: of the projections.
    Returns:
        None at weight 0.
    Raises:
        ValueError: no live teacher, a layer that a model does not have, LoRA or FSDP.
    """
    if not args.alignment_weight:
        return None
    if not isinstance(teacher, nn.Module):
        raise ValueError(
            "alignment_weight needs a live teacher's hidden states: give "
            "teacher_model_name_or_path, without teacher_cache"
        )
    for what, is_on in (("use_peft", hasattr(student, "peft_config")), ("fsdp", sharded)):
        if is_on:
            raise ValueError(f"alignment_weight does not work with {what}: leave one of them out")
    models: tuple[Any, Any] = (student, teacher)
    sides = [model.config.get_text_config() for model in models]
    layers = aligned_layers(args, *(side.num_hidden_layers for side in sides))
    alignment = HiddenAlignment(layers, (sides[0].hidden_size, sides[1].hidden_size), seed)
    student.add_module(NAME, alignment.to(student.device, student.dtype))
    return alignment


def without_alignment(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """A student's weights alone, by their names."""
    return ((name, weight) for name, weight in weights if not name.startswith(f"{NAME}."))


def save_alignment(alignment: HiddenAlignment, checkpoint: Path) -> None:
    """Its projections, where it has any, beside a checkpoint's weights."""
    from safetensors.torch import save_file

    if alignment.projections:
        save_file(alignment.state_dict(), checkpoint / FILE)


def load_alignment(alignment: HiddenAlignment, checkpoint: Path) -> None:
    """Its projections as they were saved.

    Raises:
        OSError: the checkpoint has none.
    """
    from safetensors.torch import load_file

    if alignment.projections:
        alignment.load_state_dict(load_file(checkpoint / FILE))
