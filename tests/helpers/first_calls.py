"""What a process does at its first calls, for the server of forked_processes, which imports it.

Each forked command would do it again, a tenth of a second for one that loads a model.
"""

import gc
import importlib

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from kd_lab.data.toy_language import conversations
from kd_lab.evaluation import speed

for module in (
    "kd_lab.rollout.generate", "kd_lab.rollout.transformers_engine", "trl.scripts.utils",
    "transformers.models.bart.modeling_bart", "matplotlib.backends.backend_svg",
    "PIL.JpegImagePlugin", "PIL.PpmImagePlugin", "rich._emoji_codes", "encodings.idna",
    "torch.utils.serialization.config",
):  # fmt: skip
    importlib.import_module(module)
get_checkpoint_conversion_mapping("qwen2")  # compiles 900 patterns, whatever the model
conversations(1, seed=0)
speed.SPEED_ROUNDS = 1  # half of a small evaluation's time is three
gc.set_threshold(50_000, 20, 20)  # as tests/conftest.py does
gc.collect()
gc.freeze()  # each trainer collects garbage: half a second, if it walks all that is imported
