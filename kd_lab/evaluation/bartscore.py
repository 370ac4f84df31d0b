"""BARTScore: how easily a BART model writes one text from another (Yuan et al., arXiv 2106.11520).

    score(source -> target) = mean over the target's tokens of log p(token | tokens before, source)

There are three scores: reference to hypothesis, hypothesis to reference, and their mean (the
paper's F-score). They are in nats a token and never above 0. As in the paper's code, the target's
tokens include <s> and </s>, and both texts are cut at 1,024 tokens. The post's column is
facebook/bart-large-cnn.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from numpy.typing import NDArray
from torch import Tensor

from kd_lab.readable import readable
from kd_lab.states import LOGIT_ENTRIES

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import BartForConditionalGeneration, PreTrainedTokenizerBase

Floats = NDArray[np.float64]

BART = "facebook/bart-large-cnn"
MAX_TOKENS = 1024  # of a text; cut further where the model has fewer positions


def check_bart(name_or_path: str | None) -> None:
    """Look at BART's folder before any model loads.

    The default model may be missing: the evaluation then says why it has no BARTScore. Any other
    name was asked for.

    Raises:
        ValueError: the path leads nowhere, the folder holds no BART model, or a model of the hub is
            not in this machine's cache.
    """
    if name_or_path is None:
        return
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        is_name = name_or_path.count("/") <= 1 and name_or_path[:1] not in (".", "/", "~")
        if folder.exists() or not is_name:
            raise ValueError(f"bart_model: there is no folder {name_or_path}")
        cached = try_to_load_from_cache(name_or_path, "config.json")
        if name_or_path != BART and not isinstance(cached, str):
            raise ValueError(
                f"bart_model: no folder {name_or_path}, and no model of that name on this machine; "
                f"fetch it once with `hf download {name_or_path}`, or give the folder of one"
            )
        return
    try:
        with readable(folder / "config.json"):
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        if kind != "bart":
            raise ValueError(f"its config.json is of a {kind} model")
    except ValueError as error:
        raise ValueError(f"bart_model: {name_or_path} holds no BART model: {error}") from error


class BartScorer:
    """A BART model that scores texts against each other."""

    def __init__(
        self,
        model: "BartForConditionalGeneration",
        tokenizer: "PreTrainedTokenizerBase",
        batch_size: int = 8,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @classmethod
    def load(
        cls, name_or_path: str = BART, device: str | torch.device = "cpu", batch_size: int = 8
    ) -> "BartScorer | str":
        """The scorer; or, if the model is not on this machine, the reason in words.

        A hub name is looked up in the cache and never fetched: it is 1.6 GB, for which an
        evaluation should not stop.

        Args:
            name_or_path: a folder, or a name on the hub.
        Raises:
            ValueError: the folder holds no BART model, or not all of its weights.
        """
        from transformers import AutoConfig, AutoTokenizer, BartForConditionalGeneration

        try:
            with readable(name_or_path):
                config = AutoConfig.from_pretrained(name_or_path, local_files_only=True)
                if config.model_type != "bart":
                    raise ValueError(f"its config.json is of a {config.model_type} model")
                tokenizer = AutoTokenizer.from_pretrained(name_or_path, local_files_only=True)
                loaded: Any = BartForConditionalGeneration.from_pretrained(
                    name_or_path, local_files_only=True, output_loading_info=True
                )
            model, found = loaded
            if found["missing_keys"]:
                raise ValueError(f"it has no {sorted(found['missing_keys'])[0]}")
        except ValueError as error:
            if Path(name_or_path).is_dir():
                raise ValueError(
                    f"bart_model: {name_or_path} holds no BART model: {error}"
                ) from error
            return (
                f"no BART model {name_or_path} on this machine; fetch it once with "
                f"`hf download {name_or_path}`, or give the folder of one"
            )
        model.to(torch.device(device))  # type: ignore[arg-type]  # its wrapper hides its own type
        return cls(model, tokenizer, batch_size)

    def score(
        self,
        answers: Sequence[str],
        references: Sequence[str],
        advance: Callable[[int], object] = lambda done: None,
    ) -> dict[str, Floats]:
        """BARTScore of each answer against its reference, in both directions.

        Args:
            answers, references: n texts each.
            advance: called with the number of texts scored since the last call; 2n in all.
        Returns:
            "bartscore_ref_hyp", "bartscore_hyp_ref" and their mean "bartscore", each [n].
        Raises:
            ValueError: the numbers of answers and references differ.
        """
        if len(answers) != len(references):
            raise ValueError(f"{len(answers)} answers, but {len(references)} references")
        to_answer = self.log_likelihood(references, answers, advance)
        to_reference = self.log_likelihood(answers, references, advance)
        return {
            "bartscore": (to_answer + to_reference) / 2,
            "bartscore_ref_hyp": to_answer,
            "bartscore_hyp_ref": to_reference,
        }

    @torch.inference_mode()
    def log_likelihood(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        advance: Callable[[int], object] = lambda done: None,
    ) -> Floats:
        """Mean over each target's tokens of log p(token | tokens before, source), nats, [n]."""
        scores = np.zeros(len(targets))
        # Texts of one length share a batch, or half of it would be padding.
        longest_first = sorted(
            range(len(targets)), key=lambda i: len(sources[i]) + len(targets[i]), reverse=True
        )
        for start in range(0, len(targets), self.batch_size):
            batch = longest_first[start : start + self.batch_size]
            source = self._tokens([sources[i] for i in batch])
            target = self._tokens([targets[i] for i in batch])
            mean = self._batch(*source, *target)
            scores[batch] = mean.double().cpu().numpy()
            advance(len(batch))
        return scores

    def _batch(
        self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor
    ) -> Tensor:
        config = self.model.config
        # The decoder starts with its start token and is one behind: it predicts <s> as well.
        start = torch.full_like(target[:, :1], config.decoder_start_token_id)
        hidden = self.model.model(
            input_ids=source,
            attention_mask=source_mask,
            decoder_input_ids=torch.cat([start, target[:, :-1]], dim=1),
        ).last_hidden_state  # [B, T, H]
        written = target_mask.bool()  # padding follows what is written, which cannot look ahead
        tokens, states = target[written], hidden[written]  # [N], [N, H]
        head = self.model.lm_head.weight
        rows = max(1, LOGIT_ENTRIES // len(head))
        nll = torch.cat(
            [
                F.cross_entropy(
                    (self.model.lm_head(state) + self.model.final_logits_bias).float(),
                    token,
                    reduction="none",
                )
                for state, token in zip(states.split(rows), tokens.split(rows), strict=True)
            ]
        )
        lengths = target_mask.sum(1)  # [B]
        return -torch.stack([part.mean() for part in nll.split(lengths.tolist())])

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        limit = min(MAX_TOKENS, self.model.config.max_position_embeddings)
        batch = self.tokenizer(
            texts,
            max_length=limit,
            truncation=True,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        ).to(self.model.device)
        return batch["input_ids"], batch["attention_mask"]
