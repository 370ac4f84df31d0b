"""The bytes of one GPU that a training run needs, counted from its recipe.

Some are held always: weights, gradients and AdamW's state, as ZeRO splits them (Rajbhandari et al.
2019, arXiv 1910.02054), and the teacher. Others come and go, and the largest of them decides:

    teacher   its forward pass, which keeps nothing but hidden states
    loss      the student's activations, both models' tiles of logits, the head's gradient
    backward  the same activations, one layer as it is computed again, its gradients
    embedding the end of the backward pass: the embedding's gradient, and the head's beside it
    writing   whole weights, keys and values of a model that writes

``tests/kd_lab/planning/test_planned_memory.py`` holds the count against the tensors that a training
step really makes.
"""

from typing import NamedTuple

from kd_lab.model_shapes import ModelShape
from kd_lab.planning.planned_run import GB, LINEAR_LAYERS, Job, lora_targets

# The driver's context, cuBLAS's and NCCL's workspaces. An assumption.
RUNTIME = 2 * GB
# DeepSpeed's own defaults, in numbers: reduce_bucket_size, allgather_bucket_size,
# stage3_max_live_parameters.
BUCKET, LIVE = 500_000_000, 1_000_000_000
# A checkpoint under ZeRO-2 was found to take 16.06 bytes a parameter, one under ZeRO-3 14.01: both
# have AdamW's state and a float32 copy, and the first the weights twice.
ZERO_CHECKPOINT = {1: 16.06, 2: 16.06, 3: 14.01}
GPUS_A_MACHINE = 8
SHARD = 5 * GB  # the largest file of weights that transformers writes
# Of kd_lab.loss and kd_lab.rollout, which take seconds to import; a test compares them.
KERNEL_CHUNKS, ALIGNMENT, CAPACITY = 2, 64, 1024
COLUMNS, SLACK = 128, 64
POSITION = 192  # bytes of a position's few numbers: labels, masks, values, weights


class Memory(NamedTuple):
    """Bytes of one GPU; the ``turns`` follow one another on top of ``always``."""

    always: dict[str, float]
    turns: dict[str, dict[str, float]]

    @property
    def largest(self) -> str:
        """The turn that needs most."""
        return max(self.turns, key=self.of_turn)

    def of_turn(self, name: str) -> float:
        """Bytes of a turn alone."""
        return sum(self.turns[name].values())

    @property
    def peak(self) -> float:
        return sum(self.always.values()) + self.of_turn(self.largest)


def plan_memory(job: Job) -> Memory:
    """The bytes that one GPU holds, by name."""
    turns = {"loss": _loss(job), "backward": _backward(job), "embedding": _embedding(job)}
    if job.teacher is not None:
        turns["teacher"] = {"teacher's layer": _pass_of(job, job.teacher, job.teacher_width)}
    if job.writers:
        turns["writing"] = _writing(job)
    return Memory(_always(job), turns)


def host_bytes(job: Job) -> float:
    """Memory of the machine while its processes load the models; their libraries come on top.

    Each process reads whole models, except under ZeRO-3, where it keeps its shards of one file.
    """
    loaded = job.student.parameters * float(job.loaded)
    if job.teacher is not None:
        loaded += job.teacher.parameters * job.teacher_width
    if job.plan.zero_stage == 3:
        return min(loaded, SHARD) * min(job.plan.gpus, GPUS_A_MACHINE)
    return loaded * min(job.plan.gpus, GPUS_A_MACHINE)


def checkpoint_bytes(job: Job) -> float:
    """One checkpoint on disk: weights, and the state that AdamW and DeepSpeed need to resume."""
    if job.plan.zero_stage and job.config.bf16:
        return job.trained_parameters * ZERO_CHECKPOINT[job.plan.zero_stage]
    return job.trained_parameters * (job.trained_width + 8.0)


# ---- always


def _always(job: Job) -> dict[str, float]:
    gpus, stage, student = job.plan.gpus, job.plan.zero_stage, job.student
    trained, held, teacher = job.trained_parameters, job.held, job.teacher
    always = {
        "student's weights": student.parameters * held / (gpus if stage == 3 else 1),
        "gradients": trained * job.trained_width / (gpus if stage >= 2 else 1),
        "AdamW": trained * 8 / (gpus if stage else 1),
    }
    if job.lora:
        always["LoRA's weights"] = trained * job.trained_width / (gpus if stage == 3 else 1)
    if stage and held == 2:
        always["float32 copy of the weights"] = trained * 4 / gpus
    if not stage and gpus > 1:
        always["DDP's buckets"] = float(trained * job.trained_width)
    if teacher is not None:
        split = gpus if stage == 3 else 1
        always["teacher's weights"] = teacher.parameters * job.teacher_width / split
    if stage in (1, 2):
        always["DeepSpeed's buckets"] = min(2 * BUCKET, 2 * trained) * float(held)
    if stage == 3:
        always["DeepSpeed's bucket"] = min(BUCKET, trained) * float(held)
        gathered = (min(LIVE, student.parameters) + student.head) * float(held)
        if teacher is not None:
            gathered += (min(LIVE, teacher.parameters) + teacher.head) * job.teacher_width
        always["weights gathered for a layer"] = gathered
    is_here = getattr(job.config, "vllm_mode", "colocate") == "colocate"
    if job.writers and job.engine == "vllm" and is_here:  # it gives nothing back between steps
        share = getattr(job.config, "vllm_gpu_memory_utilization", 0.3)
        always["vLLM"] = share * job.plan.gpu_memory_gb * GB
    if job.writers and job.config.compile_decode:  # kept for the next answers
        columns = -(-(job.longest + SLACK) // COLUMNS) * COLUMNS
        for name in job.writers:
            always[f"{name}'s keys and values"] = _keys_and_values(job, name, columns)
    if not job.config.on_cpu:
        always["CUDA, cuBLAS, NCCL"] = RUNTIME
    return always


# ---- turns


def _loss(job: Job) -> dict[str, float]:
    """When all layers are through, and the first chunk of logits was multiplied out."""
    student, tokens, held = job.student, _tokens(job), job.held
    parts = {"activations": _kept(job) + _ends(job)}
    copies = _copies(job)
    if copies:
        parts["bfloat16 copy of the weights"] = float(copies)
    chunk = job.config.chunk_size * (1 if job.config.on_cpu else KERNEL_CHUNKS)
    width = -(-student.vocabulary // ALIGNMENT) * ALIGNMENT * 4.0
    logits = min(chunk, tokens) * width
    if job.has_divergence:  # of the teacher half a chunk
        logits += min(-(-chunk // 2), tokens) * width
        if job.config.divergence == "adaptive_kl":
            logits += min(-(-chunk // 2), tokens) * 2 * CAPACITY * 4
    parts["chunks of logits"] = logits
    gradient = student.head * 4.0
    if not job.lora:
        if held < 4 and tokens > chunk:  # and rounded at the end
            gradient += student.head * held
        parts["gradient of the head"] = gradient
    if job.product < held:
        parts["bfloat16 copy of the head"] = student.head * float(job.product)
    return parts


def _backward(job: Job) -> dict[str, float]:
    """The uppermost layer's backward pass, with its second forward pass before it."""
    student, tokens, held, product = job.student, _tokens(job), job.held, job.product
    parts = {"activations": float(_kept(job))}
    of_layer = student.layer_parameters / student.layers
    if job.config.gradient_checkpointing:
        parts["a layer computed again"] = float(tokens * _layer(job))
        if held > product:
            parts["bfloat16 copy of a layer"] = of_layer * product
    elif _copies(job):
        parts["bfloat16 copy of the weights"] = float(_copies(job))
    # Of the two halves of a SwiGLU, of a norm and of what is added to it.
    halves = 3 if job.lora else 2
    gradients = halves * student.intermediate * product + student.hidden * (4 + held)
    if job.lora and "down_proj" in lora_targets(job.student_arguments):
        gradients += student.intermediate * 8  # of the adapter's input, in float32
    parts["gradients of a layer"] = float(tokens * gradients + of_layer * held * (not job.lora))
    if not job.lora and student.is_tied:  # to be added to the embedding's
        parts["gradient of the head"] = student.head * float(held)
    if job.teacher is not None:
        parts["teacher's hidden states"] = tokens * float(job.teacher.hidden * job.teacher_width)
    return parts


def _embedding(job: Job) -> dict[str, float]:
    """The end: where it is tied, the embedding's gradient, the head's, and their sum."""
    if job.lora:
        return {}
    student, tokens = job.student, _tokens(job)
    parts = {
        "gradients of the embedding": (3.0 if student.is_tied else 1.0) * student.head * job.held
    }
    parts["its tokens"] = float(tokens * (student.hidden * job.held + POSITION))
    if job.teacher is not None:
        parts["teacher's hidden states"] = tokens * float(job.teacher.hidden * job.teacher_width)
    return parts


def _writing(job: Job) -> dict[str, float]:
    """The gathered weights of the writing models, and their rows' keys and values."""
    parts = {}
    for name in job.writers:
        model, held, product = _writer(job, name)
        if job.plan.zero_stage == 3:
            parts[f"{name}'s whole weights"] = float(model.parameters * held)
        if job.engine == "vllm":
            continue
        if product < held:
            copied = model.layer_parameters + model.head
            parts["bfloat16 copy of the weights"] = float(copied * product)
        parts[f"{name}'s keys and values"] = _keys_and_values(job, name, job.longest)
    return parts


def _keys_and_values(job: Job, name: str, columns: int) -> float:
    """Of a writing model's rows, so many columns each."""
    model, held, product = _writer(job, name)
    rows = min(job.rows_per_step, job.config.rollout_batch_size)
    # Keys are turned by float32 numbers, and keep their residual's width; values do not.
    return float(rows * columns * model.layers * model.keys * (held + product))


def _writer(job: Job, name: str) -> tuple[ModelShape, int, int]:
    """A writing model, the bytes of its weights, and of the operands of its products."""
    if name == "teacher":
        assert job.teacher is not None
        return job.teacher, job.teacher_width, job.teacher_width
    return job.student, job.held, job.product


# ---- parts of turns


def _tokens(job: Job) -> int:
    """Of a micro-batch, all rows padded to the longest."""
    return job.config.per_device_train_batch_size * job.longest


def _layer(job: Job) -> float:
    """Bytes a token that autograd keeps of one of the student's layers."""
    saved = job.student.saved_bytes(job.product, job.held, _masked(job), is_frozen=job.lora)
    if not job.lora:
        return saved
    # An adapter keeps its input in the products' width, and which of its numbers dropout left.
    arguments = job.student_arguments
    targets = lora_targets(arguments)
    dropped = 1 if arguments.lora_dropout else 0
    rank = len(targets & LINEAR_LAYERS) * arguments.lora_r
    return saved + job.student.lora_inputs(targets) * (job.product + dropped) + rank * 4


def _masked(job: Job) -> int:
    """The length of a mask's rows: 0 where attention needs none, without padding or by itself."""
    attention = job.student_arguments.attn_implementation or "sdpa"
    one_row = job.config.per_device_train_batch_size == 1
    return 0 if one_row or "flash" in attention else job.longest


def _kept(job: Job) -> float:
    """What all layers keep for the backward pass: inputs alone where they are computed again."""
    student, tokens = job.student, _tokens(job)
    if job.config.gradient_checkpointing:
        mask = tokens * _masked(job)  # one byte each, shared by all layers
        return tokens * student.layers * student.hidden * job.held + mask
    return tokens * student.layers * _layer(job)


def _ends(job: Job) -> float:
    """The last norm, the hidden states of both models and their gradient, while losses are made."""
    student, held = job.student, job.held
    copied = job.product if job.product < held else 0
    hidden = 4 + 4 * held + copied  # the norm, its result twice, its gradient
    teacher = job.teacher.hidden * job.teacher_width if job.teacher is not None else 0
    ends = _tokens(job) * float(student.hidden * hidden + teacher + POSITION)
    if held < 4:  # a chunk's gradient, before it is rounded
        chunk = job.config.chunk_size * (1 if job.config.on_cpu else KERNEL_CHUNKS)
        ends += min(chunk, _tokens(job)) * student.hidden * 4
    return ends


def _copies(job: Job) -> int:
    """Autocast's copies of trained weights, kept until the forward pass is through."""
    if job.product == job.held and not (job.lora and job.config.bf16):
        return 0
    if job.lora:
        frozen = job.product < job.held and not job.config.gradient_checkpointing
        return job.trained_parameters * 2 + job.student.layer_parameters * 2 * frozen
    return job.student.layer_parameters * job.product


def _pass_of(job: Job, model: ModelShape, width: int) -> float:
    """The largest moment of a forward pass that keeps nothing: a SwiGLU's three parts."""
    tokens, config = _tokens(job), job.config
    if config.eval_strategy != "no":
        tokens = max(tokens, config.per_device_eval_batch_size * (config.max_length or 0))
    layer = 3 * model.intermediate * width + 3 * model.hidden * width
    return tokens * float(layer + model.hidden * 4 + POSITION)
