"""A teacher in memory: frozen, in eval mode, in its own dtype, sharded where the student is."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd_lab.loss.chunks import LiveDistribution
from kd_lab.loss.sharded_head import gathered_head

if TYPE_CHECKING:  # these take seconds to import
    from accelerate import Accelerator
    from transformers import PreTrainedModel


class LiveTeacher:
    """What the trainers ask of a teacher that is a model: hidden states, a head, and answers."""

    def __init__(self, model: "PreTrainedModel", accelerator: "Accelerator") -> None:
        """Freeze ``model`` and place it: sharded under ZeRO-3 and FSDP, else whole."""
        from accelerate.utils import DistributedType
        from trl.models.utils import _ForwardRedirection, prepare_deepspeed, prepare_fsdp

        model.requires_grad_(False).eval()
        self.accelerator = accelerator
        self._redirect = _ForwardRedirection()
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.wrapped: Any = prepare_deepspeed(model, accelerator)
        elif accelerator.distributed_type == DistributedType.FSDP:
            self.wrapped = prepare_fsdp(model, accelerator)
        else:
            self.wrapped = model.to(accelerator.device)  # type: ignore[arg-type]

    @property
    def model(self) -> "PreTrainedModel":
        return self.accelerator.unwrap_model(self.wrapped)

    @torch.no_grad()
    def hidden(self, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
        """The last hidden states [n, H] from which the trained tokens are predicted.

        Args:
            inputs: what the model takes: input_ids [B, T] and what goes with them.
            positions: True at t where token t + 1 is trained, bool [B, T - 1].
        """
        model = self.model

        def backbone() -> Tensor:
            # its own dtype: the student's mixed precision is not the teacher's
            with torch.autocast(positions.device.type, enabled=False):
                hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
            return hidden[:, :-1][positions]  # [n, H]

        # Through the wrapper's own forward, where ZeRO-3 and FSDP put the weights together.
        return self._redirect(self.wrapped, model, backbone)

    @contextlib.contextmanager
    def distribution(
        self, inputs: dict[str, Tensor], positions: Tensor
    ) -> Iterator[LiveDistribution]:
        """Its distributions at n positions, with the whole head, for the block's duration.

        Args: as in ``hidden``.
        """
        hidden = self.hidden(inputs, positions)
        with gathered_head(self.model.get_output_embeddings()) as (weight, bias):
            yield LiveDistribution(hidden, weight, bias)

    @contextlib.contextmanager
    def for_writing(self) -> Iterator["PreTrainedModel"]:
        """The plain model with whole weights, to write answers with, in its own dtype.

        The student's mixed precision does not reach it, though both may write an answer together.
        """
        from trl.models.utils import unwrap_model_for_generation

        with unwrap_model_for_generation(self.wrapped, self.accelerator) as model:
            replaced, forward = model.__dict__.get("forward"), model.forward

            def in_own_dtype(*inputs: Any, **settings: Any) -> Any:
                with torch.autocast(model.device.type, enabled=False):
                    return forward(*inputs, **settings)

            model.forward = in_own_dtype
            try:
                yield model
            finally:
                if replaced is None:
                    del model.forward
                else:
                    model.forward = replaced
