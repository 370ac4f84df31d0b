"""A teacher in memory: frozen, in eval mode, in its own dtype, sharded where the student is."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd_lab.loss.chunks import LiveDistribution
from kd_lab.loss.plain_logits import check_plain_logits
from kd_lab.loss.sharded_head import gathered_head

if TYPE_CHECKING:  # these take seconds to import
    from accelerate import Accelerator
    from transformers import PreTrainedModel


class LiveTeacher:
    """A teacher as a model: hidden states, an LM head, and answers for the trainers."""

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
        # Once: accelerate reads the metadata of installed packages each time, for milliseconds.
        self.model: PreTrainedModel = accelerator.unwrap_model(self.wrapped)

    def check_plain_logits(self, input_ids: Tensor) -> None:
        """Refuse a teacher whose logits are no hidden states times a head; every process calls it.

        Args and errors: as of ``kd_lab.loss.plain_logits.check_plain_logits``.
        """
        model = self.model

        def check() -> Tensor:
            with torch.autocast(input_ids.device.type, enabled=False):
                check_plain_logits(model, input_ids)
            return input_ids

        with processes_apart(self.wrapped):  # or ZeRO-3 would fetch the head at every later pass
            self._redirect(self.wrapped, model, check)

    @torch.no_grad()
    def hidden(
        self, inputs: dict[str, Tensor], trained: Tensor, layers: Sequence[int] = ()
    ) -> tuple[Tensor, ...]:
        """The last hidden states [n, H] that predict the trained tokens, and those of layers.

        Args:
            inputs: the model's inputs: input_ids [B, T] and others.
            trained: the positions whose next token is trained, integers [n] of B·T.
            layers: of which the states are asked besides; 0 is the embeddings.
        """
        model = self.model

        def backbone() -> tuple[Tensor, ...]:
            # its own dtype: the student's mixed precision is not the teacher's
            with torch.autocast(trained.device.type, enabled=False):
                return states_at(model, inputs, trained, layers)

        # Through the wrapper's own forward, where ZeRO-3 and FSDP put the weights together.
        return self._redirect(self.wrapped, model, backbone)

    @contextlib.contextmanager
    def distribution(
        self, inputs: dict[str, Tensor], trained: Tensor, layers: Sequence[int] = ()
    ) -> Iterator[tuple[LiveDistribution, tuple[Tensor, ...]]]:
        """Its distributions at n positions, with the whole LM head, while the block lasts.

        Beside them the hidden states of layers. Args: as in ``hidden``.
        """
        hidden, *of_layers = self.hidden(inputs, trained, layers)
        with gathered_head(self.model.get_output_embeddings()) as (weight, bias):
            yield LiveDistribution(hidden, weight, bias), tuple(of_layers)

    @contextlib.contextmanager
    def for_writing(self) -> Iterator["PreTrainedModel"]:
        """The plain model with whole weights, to write answers with."""
        from trl.models.utils import unwrap_model_for_generation

        writing = unwrap_model_for_generation(self.wrapped, self.accelerator)
        with processes_apart(self.wrapped), writing as model:
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


def states_at(
    model: Any, inputs: dict[str, Tensor], trained: Tensor, layers: Sequence[int] = ()
) -> tuple[Tensor, ...]:
    """A model's last hidden states at positions [n] of B·T, and those of layers, each [n, H]."""
    asked = {"output_hidden_states": True} if layers else {}
    found = model.get_decoder()(**inputs, use_cache=False, **asked)
    states = (found.last_hidden_state, *(found.hidden_states[layer] for layer in layers))
    return tuple(state.flatten(0, 1).index_select(0, trained) for state in states)


@contextlib.contextmanager
def processes_apart(wrapped: Any) -> Iterator[None]:
    """Run a model under ZeRO-3 without a trace: as often as each process wants to, in any order.

    Until DeepSpeed knows the order of the modules, it compares it across all processes at the start
    of each forward pass. TRL takes its other hooks away while answers are written, and leaves this
    one: a process whose answers are shorter, or that has none to write, would be waited for.
    DeepSpeed also learns from its first passes which module comes next, and fetches it ahead.
    """
    optimizer = getattr(wrapped, "optimizer", None)
    offload = getattr(optimizer, "parameter_offload", optimizer)
    hook = getattr(offload, "fwd_pre_hook", None)
    if offload is None or hook is None:
        yield
        return
    hooks = offload.module._forward_pre_hooks
    compare = hooks[hook.id]
    hooks[hook.id] = lambda *_: None  # in its place, since it must stay the first one
    try:
        yield
    finally:
        hooks[hook.id] = compare
