"""All answers of a student to one prompt, as a tree: sequence-level reverse KL without sampling.

D(q‖p) between two distributions of whole answers is a sum over all V^T answers. As a sum over their
prefixes it is

    D(q‖p) = Σ over prefixes c of  q(c) · D(q(· | c)‖p(· | c)),        q(c) = Π q(c_s | c_<s).

Both sums have too many terms to visit. But a trained student keeps most of its mass on few
prefixes. So the tree has a node for each prefix whose probability under the student is at least
``min_mass``. An answer is *cut* at its first word that leads to no node. That word ends the answer,
makes it rare, or is its ``longest``-th word.

The probabilities of the cut answers sum to 1, since every word at every node leads somewhere. The
sum over the nodes is exactly the reverse KL between the two distributions of cut answers. Autograd
gives its exact gradient, through q(c) too. This KL is a lower bound of the KL between whole
answers, since it leaves out all words after a cut. With ``min_mass = 0`` answers are cut only at
``longest``.

Growing the tree fixes its nodes; no gradient flows through that choice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kd_lab.divergences import reverse_kl
from kd_lab.trainers.policy_gradient_weights import mixture_logp

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

NODES = 20_000  # at most: each is a row of a forward pass that is kept for autograd
LEAVES = 2**14  # listed at a time: what is known of so many stays in a core's cache


class Paths(NamedTuple):
    """B cut answers, padded to T words; the padding is never read."""

    nodes: Tensor  # before each word, [B, T]
    words: Tensor  # [B, T]
    mask: Tensor  # bool [B, T]


@dataclass(frozen=True)
class AnswerTree:
    """N nodes, level by level; the root (the empty prefix) comes first."""

    prompt: list[int]
    ancestors: Tensor  # the nodes on the way to each, itself last, [N, T]; 0 behind
    words: Tensor  # the words that lead from each ancestor to the next, [N, T]; 0 behind
    depth: Tensor  # words written before each, [N]
    children: Tensor  # the node to which each word leads, -1 where answers are cut, [N, V]
    student_logp: Tensor  # [N, V]; with a graph, if the student's weights ask for it
    teacher_logp: Tensor  # [N, V]
    log_mass: Tensor  # log q(prefix), [N]; with a graph too

    def kl_by_depth(self) -> Tensor:
        """The t-th word's part of the reverse KL, for t = 1, 2, ...: nats, [T]."""
        here = self.log_mass.exp() * self.node_kl()
        return here.new_zeros(self.ancestors.shape[1]).index_add(0, self.depth, here)

    def node_kl(self) -> Tensor:
        """D(q(· | prefix)‖p(· | prefix)) of each node, nats, [N]."""
        return reverse_kl(self.teacher_logp, self.student_logp)

    def mass_cut(self, end_token: int) -> float:
        """The student's probability of an answer that is cut before its end, in [0, 1]."""
        reached = self.log_mass.detach().double().exp()
        ended = reached * self.student_logp.detach()[:, end_token].double().exp()
        return 1 - float(ended.sum())

    def values(self) -> Tensor:
        """The expected sum, over q, of the rewards log p - log q from each node on: nats, [N]."""
        values = -self.node_kl().detach().double()
        for depth in range(int(self.depth.max()), 0, -1):
            at = (self.depth == depth).nonzero().squeeze(-1)
            before = self.ancestors[at, depth - 1]
            share = self.student_logp.detach()[before, self.words[at, depth - 1]].double().exp()
            values.index_add_(0, before, share * values[at])
        return values

    def written_with(self, teacher_mix: float) -> Tensor:
        """log(a·p + (1-a)·q) at each node, with a = ``teacher_mix``, [N, V]."""
        return mixture_logp(self.student_logp.detach(), self.teacher_logp, teacher_mix)

    def leaves(self) -> Iterator[Paths]:
        """All cut answers, some at a time, each part padded to its own longest."""
        nodes, vocabulary = self.children.shape
        for block in torch.arange(nodes).split(max(1, LEAVES // vocabulary)):
            row, word = (self.children[block] < 0).nonzero(as_tuple=True)
            node = block[row]
            depth = self.depth[node]
            longest = int(self.depth[block].max()) + 1
            words = self.words[node, :longest]
            words[torch.arange(len(node)), depth] = word
            mask = torch.arange(longest) <= depth[:, None]
            yield Paths(self.ancestors[node, :longest], words, mask)

    def sample(self, count: int, teacher_mix: float, seed: int) -> Paths:
        """Cut answers drawn from a·p + (1-a)·q, with a = ``teacher_mix``."""
        distribution = self.written_with(teacher_mix).double().exp()  # [N, V]
        draw = torch.Generator().manual_seed(seed)
        longest = self.ancestors.shape[1]
        nodes, words = (torch.zeros(count, longest, dtype=torch.long) for _ in range(2))
        mask = torch.zeros(count, longest, dtype=torch.bool)
        at, writing = torch.zeros(count, dtype=torch.long), torch.arange(count)
        for t in range(longest):
            word = torch.multinomial(distribution[at], 1, generator=draw).squeeze(-1)
            nodes[writing, t], words[writing, t], mask[writing, t] = at, word, True
            at = self.children[at, word]
            writing, at = writing[at >= 0], at[at >= 0]
            if not len(writing):
                break
        return Paths(nodes, words, mask)


def grow_tree(
    student: "PreTrainedModel",
    teacher: "PreTrainedModel",
    prompt: Sequence[int],
    *,
    longest: int,
    min_mass: float,
    end_token: int,
    vocab_size: int,
) -> AnswerTree:
    """The tree of the student's answers to a prompt.

    Args:
        student: on the CPU, in eval mode; a parameter that requires a gradient gets one.
        teacher: on the CPU, in eval mode; it gets no gradient.
        prompt: token ids, the header of the answer included.
        longest: the number of words (tokens) after which an answer is cut.
        min_mass: the smallest q(prefix) of a node; 0 keeps all V^(longest - 1) prefixes.
        end_token: the token that ends an answer.
        vocab_size: rows of both heads that are real tokens.
    Raises:
        ValueError: no prompt, settings outside their range, or more than ``NODES`` nodes.
    """
    if not len(prompt):
        raise ValueError("the prompt is empty: an answer needs a token to come after")
    if longest < 1 or not 0 <= min_mass <= 1:
        raise ValueError(
            f"longest must be at least 1 and min_mass lie in [0, 1], not {longest} and {min_mass}"
        )
    ancestors, words = (torch.zeros(1, longest, dtype=torch.long) for _ in range(2))  # of the level
    log_mass, found = torch.zeros(1, dtype=student.dtype), 0
    levels = []
    for depth in range(longest):
        rows = torch.cat([torch.tensor(prompt).expand(len(words), -1), words[:, :depth]], 1)
        student_logp = _next_logp(student, rows, vocab_size)
        with torch.no_grad():
            teacher_logp = _next_logp(teacher, rows, vocab_size)
        ancestors[:, depth] = found + torch.arange(len(rows))
        children = torch.full(student_logp.shape, -1)
        reached = log_mass[:, None] + student_logp  # [level, V]
        follows = reached.detach().exp() >= min_mass
        follows[:, end_token] = False
        if depth + 1 == longest:
            follows[:] = False
        found += len(rows)
        children[follows] = found + torch.arange(int(follows.sum()))
        levels.append(
            (ancestors, words, torch.full((len(rows),), depth), children,
             student_logp, teacher_logp, log_mass)
        )  # fmt: skip
        row, word = follows.nonzero(as_tuple=True)
        if found + len(row) > NODES:
            raise ValueError(
                f"more than {NODES:,} prefixes of up to {depth + 1} words have a mass of at least "
                f"{min_mass}: raise min_mass, or lower longest ({longest})"
            )
        if not len(row):
            break
        ancestors, words, log_mass = ancestors[row].clone(), words[row].clone(), reached[row, word]
        words[:, depth] = word
    return AnswerTree([*prompt], *(torch.cat(parts) for parts in zip(*levels, strict=True)))


def _next_logp(model: "PreTrainedModel", rows: Tensor, vocab_size: int) -> Tensor:
    """Log-probabilities [B, V] of the word after rows [B, S] of one length."""
    logits = model(input_ids=rows, use_cache=False, logits_to_keep=1).logits[:, -1, :vocab_size]
    return logits.log_softmax(-1)
