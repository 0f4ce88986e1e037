"""The shapes that come with the package, against the published parameter counts of the bases they are named after."""

import json

import pytest

from tests.cli.command import tunewise
from tunewise.errors import UserError
from tunewise.models.anatomy import read_anatomy
from tunewise.models.shapes import FILE, is_shape, nearest_shape, shape_named, shape_names
from tunewise.planning.shell import shell_of

ON_THE_HUB = {  # parameters of the checkpoint's tensors, tied ones once, as the hub counts them
    "llama-1-7b": 6_738_415_616,
    "llama-1-13b": 13_015_864_320,
    "llama-1-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "flan-t5-small": 76_961_152,
    "flan-t5-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
    "bert-base": 109_482_240 + 2 * 768 + 2,  # of BertModel, and a classifier of two classes
    "bert-large": 335_141_888 + 2 * 1024 + 2,
    "minilm-l6": 22_713_216 + 2 * 384 + 2,
    "minilm-l12": 33_360_000 + 2 * 384 + 2,
    "distilbert-base": 66_362_880 + 768 * 768 + 768 + 2 * 768 + 2,  # its classifier has a layer more
    "roberta-large": 355_361_794,
    "deberta-v3-base": 184_423_682,
    "vit-base": 86_567_656 - 1000 * 769 + 2 * 769,  # of the checkpoint with ImageNet's 1000 classes
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen3-30b-a3b": 30_532_122_624,
    "olmoe-1b-7b": 6_919_161_856,
}
IN_THE_PAPER = {  # (millions of parameters, the share by which the round number may be off)
    "llama-1-30b": (32_500, 0.002),  # Touvron et al. 2023, table 2
    "qwen3-0.6b": (600, 0.01),
    "qwen3-1.7b": (1_700, 0.015),
    "gemma-3-4b": (675 + 3_209, 0.002),  # Gemma 3 report, table 1: embedding and the rest, without the vision encoder
    "gemma-3-12b": (1_012 + 10_759, 0.002),
    "gemma-3-27b": (1_416 + 25_600, 0.002),
    "opt-2.7b": (2_700, 0.02),  # Zhang et al. 2022, table 1
    "opt-6.7b": (6_700, 0.01),
    "opt-13b": (13_000, 0.02),
    "opt-30b": (30_000, 0.01),
    "opt-66b": (66_000, 0.01),
    "opt-175b": (175_000, 0.01),
    "gpt-3-175b": (174_600, 0.001),  # Brown et al. 2020, table D.1
    "t5-11b": (11_300, 0.01),
    "roberta-base": (125, 0.01),
    "deberta-v3-large": (304 + 131, 0.005),  # He et al. 2021: backbone, and the vocabulary's embedding
    "vit-large": (304, 0.005),
    "gpt-oss-20b": (20_910, 0.001),  # OpenAI 2025, model card, table 1
    "gpt-oss-120b": (116_830, 0.001),
}
ACTIVE = {  # (millions of parameters that one token meets, and by how much the round number may be off)
    "mixtral-8x7b": (12_900, 0.005),  # Jiang et al. 2024, arXiv:2401.04088: 13B; Mistral's announcement: 12.9B
    "mixtral-8x22b": (39_000, 0.005),
    "qwen3-30b-a3b": (3_300, 0.02),
    "olmoe-1b-7b": (1_300, 0.02),  # Muennighoff et al. 2024, arXiv:2409.02060
    "gpt-oss-20b": (3_610 + 579, 0.001),  # model card, table 1, which leaves out the embedding
    "gpt-oss-120b": (5_130 + 579, 0.001),
}


def test_every_shape_has_a_published_count():
    assert sorted([*ON_THE_HUB, *IN_THE_PAPER]) == sorted(shape_names())
    assert len(shape_names()) >= 75


@pytest.mark.parametrize("name", shape_names())
def test_a_shape_has_the_published_count_and_an_anatomy(name):
    shell = shell_of(name)
    if name in ON_THE_HUB:
        assert shell.n_parameters == ON_THE_HUB[name]
    else:
        millions, tolerance = IN_THE_PAPER[name]
        assert shell.n_parameters == pytest.approx(millions * 1e6, rel=tolerance)
    assert read_anatomy(shell.model).layers


@pytest.mark.parametrize("name", ACTIVE)
def test_a_token_meets_the_published_number_of_parameters(name):
    millions, tolerance = ACTIVE[name]
    assert shell_of(name).n_active == pytest.approx(millions * 1e6, rel=tolerance)


def test_a_shape_is_known_in_any_case_and_a_folder_of_its_name_goes_first(tmp_path, monkeypatch):
    assert is_shape("Llama-3.1-8B")
    assert shape_named("Llama-3.1-8B").num_hidden_layers == 32
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    own = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(own))
    assert shell_of("gpt2").config.n_layer == 1


def test_a_name_that_is_none_tells_the_nearest_shape():
    assert nearest_shape("meta-llama/Llama-3.1-8B-Instruct") == "llama-3.1-8b"
    with pytest.raises(UserError, match=r"did you mean smollm2-135m, a shape"):
        shell_of("HuggingFaceTB/SmolLM2-135M")
    with pytest.raises(UserError, match="check the name"):
        shell_of("nobody/zzz")


def test_a_shape_has_no_weights_to_train(tmp_path):
    found = tunewise("train", "--model", "llama-3.1-8b", "--data", "tiny:sentiment", "--out", tmp_path / "run")
    assert found.code == 2
    assert "'llama-3.1-8b' is a shape without weights" in found.err.replace("\n", " ")
    assert "ORGANISATION/NAME" in found.err


def test_every_field_of_the_file_is_one_of_its_configuration():
    """transformers would keep an unknown field, and nothing would read it; some are read that are unlisted."""
    unlisted = {"position_buckets", "norm_rel_ebd", "share_att_key", "pooler_hidden_size", "decoder_start_token_id"}
    unlisted |= {"head_dim"}
    n_fields = 0
    for content in json.loads(FILE.read_text("utf-8")).values():
        for name, own in content["sizes"].items():
            config = shape_named(name)
            fields = {"model_type", *content["every"], *own} - unlisted
            assert fields <= type(config)().to_dict().keys() | type(config).attribute_map.keys(), name
            n_fields += len(fields)
    assert n_fields > 400
