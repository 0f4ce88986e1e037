"""Every default names its source, and what is said to be peft's is what the installed peft has."""

from collections.abc import Callable

import peft
import pytest
import torch
from peft.utils import constants
from torch import Tensor

from tests import bases
from tunewise.cli.methods import registry
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import attach

# fields that say nothing until they are set
SAYS_NOTHING = {"layers": None, "text": "", "source": "", "task": 0, "add": False, "projection_seed": 0}

FIELDS = {(row["name"], name): field for row in registry() for name, field in row["fields"].items()}
LORA, PROMPT, PREFIX = peft.LoraConfig, peft.PromptTuningConfig, peft.PrefixTuningConfig
CONFIGS: dict[str, Callable[..., peft.PeftConfig]] = {
    "lora": LORA, "dora": LORA, "adalora": lambda: peft.AdaLoraConfig(total_step=1), "vera": peft.VeraConfig,
    "lokr": peft.LoKrConfig, "oft": peft.OFTConfig, "p_tuning": peft.PromptEncoderConfig,
    "multitask_prompt": peft.MultitaskPromptTuningConfig, "prefix_tuning": PREFIX, "prompt_tuning": PROMPT,
}  # fmt: skip
# peft's names of fields that are not in a method's `peft`, because its files tell them in another way
NAMES = {"rank": "r", "d_initial": "d_initial", "neumann_terms": "num_cayley_neumann_terms"}
# where peft writes our default in a way of its own: our default, its field, and its value
MEANING = {
    ("lora", "init"): ("kaiming", "init_lora_weights", True),
    ("dora", "init"): ("kaiming", "init_lora_weights", True),
    ("p_tuning", "encoder"): ("mlp", "encoder_reparameterization_type", "MLP"),
    ("p_tuning", "hidden"): (None, "encoder_hidden_size", None),  # becomes the base's width there too, tested below
    ("prefix_tuning", "hidden"): (0, "prefix_projection", False),
}
# peft's default modules for a llama, as our roles
TARGETS = {
    "lora": constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "dora": constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "adalora": constants.TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING,
    "vera": constants.TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING,
    "ia3": constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    "lokr": constants.TRANSFORMERS_MODELS_TO_LOKR_TARGET_MODULES_MAPPING,
    "oft": constants.TRANSFORMERS_MODELS_TO_OFT_TARGET_MODULES_MAPPING,
}
LAST_NORMS = {"llama": "norm", "gpt2": "ln_f"}
UNLIKE = {  # what peft has instead
    ("prompt_tuning", "init"): ("prompt_tuning_init", "RANDOM"),
    ("multitask_prompt", "init"): ("prompt_tuning_init", "RANDOM"),
    ("prefix_tuning", "init"): ("init_weights", None),
}
CLAIMS = [key for key, field in FIELDS.items() if "peft's" in field["source"]]


def in_peft(method: str, name: str) -> object:
    return vars(CONFIGS[method]())[name]


def test_every_default_has_a_source_and_every_method_a_start():
    assert len(FIELDS) >= 90
    for (method, name), field in FIELDS.items():
        assert field["meaning"].endswith("."), (method, name)
        if not field["source"]:
            assert (name, field["default"]) in SAYS_NOTHING.items(), f"{method}.{name} names no source"
        else:
            assert len(field["source"]) >= len("peft's"), (method, name)
            assert "Default:" not in field["source"] + field["meaning"], (method, name)
    assert all(method.start for method in METHODS.values())
    used = {name for (_, name), field in FIELDS.items() if not field["source"]}
    assert used == set(SAYS_NOTHING), "an exemption that nothing needs"


@pytest.mark.parametrize(("method", "name"), CLAIMS)
def test_what_is_said_to_be_pefts_is_its_default(method: str, name: str):
    ours = FIELDS[method, name]["default"]
    if name == "roles":
        assert "peft's for llama" in FIELDS[method, name]["source"]
        assert {f"{role}_proj" for role in ours} == set(TARGETS[method]["llama"])
        return
    if (method, name) == ("norms", "final"):
        modules = constants.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING
        assert ours
        assert all(norm in modules[family] for family, norm in LAST_NORMS.items())
        return
    if (method, name) in MEANING:
        value, theirs, their_value = MEANING[method, name]
        assert (ours, in_peft(method, theirs)) == (value, their_value)
        return
    names = METHODS[method].peft
    assert names is not None
    assert in_peft(method, {**NAMES, **names.fields}[name]) == ours


def test_what_is_unlike_peft_is_known_and_is_unlike_it():
    assert len(CLAIMS) >= 30
    assert {key for key, field in FIELDS.items() if "unlike peft" in field["source"]} == set(UNLIKE)
    for (method, name), (theirs, value) in UNLIKE.items():
        assert FIELDS[method, name]["default"] == "vocabulary"
        assert in_peft(method, theirs) == value


def peft_tensors(config: peft.PeftConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = peft.get_peft_model(bases.build("llama", torch.float32), config)
    buffers = {name: buffer for name, buffer in model.named_buffers() if "vera" in name}
    return {name: tensor.detach() for name, tensor in {**dict(model.named_parameters()), **buffers}.items()}


STARTS: dict[str, peft.PeftConfig] = {
    "lora": LORA(r=8, target_modules=["q_proj", "v_proj"]),
    "dora": LORA(r=8, target_modules=["q_proj", "v_proj"], use_dora=True),
    "adalora": peft.AdaLoraConfig(target_modules=["q_proj", "v_proj"], total_step=10),
    "vera": peft.VeraConfig(target_modules=["q_proj", "v_proj"]),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "lokr": peft.LoKrConfig(target_modules=["q_proj", "v_proj"]),
    "oft": peft.OFTConfig(target_modules=["q_proj", "v_proj"]),
    "bitfit": peft.BeftConfig(target_modules=["v_proj"]),
}

OURS: dict[str, dict[str, object]] = {"bitfit": {"roles": ["v"]}}


@pytest.mark.parametrize("name", STARTS)
def test_what_begins_as_pefts_does(name: str):
    """Constants are the same; of what is drawn the deviation and the largest entry are, as near as draws tell."""
    names = METHODS[name].peft
    assert names is not None
    assert "peft's" in METHODS[name].start
    theirs = peft_tensors(STARTS[name])
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": name, **OURS.get(name, {})}))
    states = [delta.state_dict() for delta in tuned.deltas.values()]
    n_compared = 0
    for here, there in names.tensors.items():
        end = f".{there.removeprefix('base_model.').removesuffix('.weight')}"
        own = [state[here].flatten() for state in states if here in state]
        peer = [tensor.flatten() for key, tensor in theirs.items() if end in key]
        assert len(own) == len(peer) or here.startswith("shared."), here
        if not own:
            continue  # a factor that these sizes do not have
        n_compared += 1
        ours, others = torch.cat(own), torch.cat(peer)
        if len(ours.unique()) == 1 or here == "magnitude":
            assert torch.equal(ours.sort().values, others.sort().values), here
        else:
            assert ours.std().item() == pytest.approx(others.std().item(), rel=0.15), here
            assert ours.abs().max().item() == pytest.approx(others.abs().max().item(), rel=0.35), here
    assert n_compared == len(names.tensors) or name == "lokr"


UNLIKE_STARTS = {
    "prompt_tuning": PROMPT(num_virtual_tokens=20, task_type="CAUSAL_LM"),
    "prefix_tuning": PREFIX(num_virtual_tokens=20, task_type="CAUSAL_LM"),
    "multitask_prompt": peft.MultitaskPromptTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"),
}


def test_where_it_begins_unlike_peft():
    """peft draws prompts and prefixes standard normal, and factors whose product is almost nothing."""
    assert {name for name, method in METHODS.items() if "unlike peft" in method.start} == set(UNLIKE_STARTS)
    for name, config in UNLIKE_STARTS.items():
        tensors = peft_tensors(config)
        (drawn,) = (t for key, t in tensors.items() if "prompt_encoder" in key and key.endswith("embedding.weight"))
        assert drawn.std().item() == pytest.approx(1, rel=0.1), name
    cols, rows = (tensors[f"prompt_encoder.default.prefix_task_{part}"] for part in ("cols", "rows"))
    assert (cols @ rows).abs().max() < 0.02


def test_pefts_encoder_is_as_wide_as_the_base_too():
    config = peft.PromptEncoderConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    tensors = peft_tensors(config)
    assert tensors["prompt_encoder.default.mlp_head.0.weight"].shape == (bases.WIDTH, bases.WIDTH)
    assert tensors["prompt_encoder.default.embedding.weight"].std().item() == pytest.approx(1, rel=0.2)
