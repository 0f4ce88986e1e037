"""Each method's equation, against a plain float64 reference, and what it refuses."""

import math

import pytest
import torch
from scipy.linalg import hadamard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import attach
from tunewise.methods.base import CannotFold, Delta, Method
from tunewise.methods.reparam import eva
from tunewise.methods.reparam.hadamard import walsh_hadamard
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.anatomy import read_anatomy
from tunewise.models.weights import dense_weight

IDS = torch.tensor([[5, 9, 33, 20, 7]])


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def delta_of(method: Method, role: str = "") -> Delta:
    tuned = attach(bases.build("llama"), method)
    return next(delta for name, delta in tuned.deltas.items() if name.endswith(role))


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_equation(rslora):
    delta = delta_of(parse_method({"name": "lora", "rank": 4, "alpha": 6, "rslora": rslora}), ".q")
    delta.lora_B.data.normal_()
    x, y = double(3, 32), double(3, 32)
    scaling = 6 / math.sqrt(4) if rslora else 6 / 4
    expected = y + scaling * (delta.lora_B @ (delta.lora_A @ x.T)).T
    torch.testing.assert_close(delta.after(x, y), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rnak": 4}, "LoRA: no field named rnak (given 4)\ndid you mean rank?"),
        ({"rank": 0}, "LoRA: rank = 0: should be greater than or equal to 1\ncorrect rank"),
        ({"lora_rank": 4}, "LoRA: no field named lora_rank (given 4)\nwrite method.rank=N"),
    ],
)
def test_a_method_made_in_python_is_told_what_is_wrong_as_any_other_input(fields, told):
    with pytest.raises(UserError) as caught:
        LoRA(**fields)
    assert str(caught.value) == told


def test_a_single_role_or_group_needs_no_list():
    assert parse_method({"name": "lora", "roles": "all"}) == parse_method({"name": "lora", "roles": ["all"]})
    assert parse_method({"name": "lora", "roles": "all"}).configuration()["roles"] == ["all"]


def test_lora_dropout_acts_in_training_only_and_keeps_the_mean():
    delta = delta_of(parse_method({"name": "lora", "rank": 4, "dropout": 0.5}), ".q")
    delta.lora_B.data.normal_()
    x, y = double(1, 32), torch.zeros(1, 32, dtype=torch.float64)
    delta.eval()
    still = delta.after(x, y)
    assert torch.equal(still, delta.after(x, y))
    delta.train()
    samples = torch.stack([delta.after(x, y) for _ in range(4000)])
    assert samples.std(0).min() > 0
    spread = float(samples.std(0).max().detach())
    torch.testing.assert_close(samples.mean(0), still, rtol=0, atol=5 * spread / 4000**0.5)


def test_lora_starts():
    kaiming = delta_of(parse_method({"name": "lora", "rank": 16}), ".q").lora_A
    assert kaiming.abs().max() <= 1 / math.sqrt(32)  # Kaiming-uniform with a = √5 is uniform in ±1/√d_in
    gaussian = delta_of(parse_method({"name": "lora", "rank": 16, "init": "gaussian"}), ".q").lora_A
    assert gaussian.std().item() == pytest.approx(1 / 16, rel=0.15)
    assert gaussian.abs().max() > 2 / 16


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert_classes", "t5"])
def test_lora_starts_where_its_inputs_vary_most(family, one_pass, monkeypatch):
    """A is the leading right singular vectors of the centred inputs, by a plain SVD of them all in float64."""
    if not one_pass:
        monkeypatch.setattr(eva, "MOMENT_BYTES", 1)
    monkeypatch.setattr(eva, "EXAMPLES", 4)
    rows = torch.randint(3, 60, (6, 1, 9), generator=torch.Generator().manual_seed(1))
    model, plain = bases.build(family), bases.build(family)
    fields = {"name": "lora", "rank": {"*": 3, "down": 5}, "init": "eva", "roles": ["v", "down"]}
    tuned = attach(model, parse_method(fields), losses=lambda: (bases.logits(model, row).sum() for row in rows))
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in tuned.deltas}
    for name, inputs in seen.items():
        module = plain.get_submodule(tuned.site(name).module)
        module.register_forward_hook(lambda _, args, __, inputs=inputs: inputs.append(args[0].detach().flatten(0, -2)))
    for row in rows[:4]:
        bases.logits(plain, row)
    for name, delta in tuned.deltas.items():
        x = torch.cat(seen[name])
        assert len(x) in (4 * 9, 4 * 4)  # the decoder of an encoder-decoder reads four tokens a row
        expected = torch.linalg.svd(x - x.mean(0)).Vh[: len(delta.lora_A)]
        signs = (expected * delta.lora_A.detach()).sum(1, keepdim=True).sign()
        torch.testing.assert_close(delta.lora_A.detach(), signs * expected, rtol=0, atol=1e-9)
        assert len(delta.lora_A) == (5 if name.endswith("down") else 3)
        assert not delta.lora_B.any()
    assert not any(module._forward_pre_hooks for module in model.modules()), "nothing goes on looking"
    with torch.no_grad():
        assert torch.equal(bases.logits(model, IDS), bases.logits(plain, IDS))


def test_lora_cannot_start_from_inputs_it_has_not_seen():
    method = parse_method({"name": "lora", "rank": 8, "init": "eva"})
    with pytest.raises(UserError, match="looks at training examples before it starts") as caught:
        attach(bases.build("llama"), method)
    assert "method.init=kaiming" in caught.value.hint
    model = bases.build("llama")
    with pytest.raises(UserError, match=r"vary in 4 directions at most \(5 tokens of width 32\), method\.rank=8"):
        attach(model, method, losses=lambda: (model(IDS).logits.sum() for _ in range(1)))
    with pytest.raises(UserError, match="vary in 0 directions at most"):
        attach(model, method, losses=lambda: ())


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_a_start_from_inputs_is_saved_and_loaded_without_them(name, tmp_path):
    model = bases.build("llama", torch.float32)
    tuned = attach(
        model,
        parse_method({"name": name, "rank": 3, "init": "eva"}),
        losses=lambda: (model(IDS).logits.sum() for _ in range(2)),
    )
    trained(tuned)
    save_adapter(tuned, tmp_path / "adapter")
    fresh = load_adapter(bases.build("llama", torch.float32), tmp_path / "adapter")
    assert fresh.method == tuned.method
    assert torch.equal(fresh.model(IDS).logits, tuned.model(IDS).logits)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_bottleneck_equation(activation):
    delta = delta_of(parse_method({"name": "bottleneck", "bottleneck": 4, "activation": activation}))
    for parameter in delta.parameters():
        parameter.data.normal_()
    y = double(3, 32)
    f = {"relu": torch.relu, "gelu": torch.nn.GELU(), "silu": torch.nn.SiLU()}[activation]
    expected = y + f(y @ delta.down.T + delta.down_bias) @ delta.up.T + delta.up_bias
    torch.testing.assert_close(delta.after(double(3, 48), y), expected, rtol=0, atol=1e-12)


def test_compacter_equation():
    """The sum of Kronecker products, and one rule for all adapters."""
    fields = {"name": "compacter", "bottleneck": 8, "n": 4, "placement": "houlsby"}
    tuned = trained(attach(bases.build("llama"), parse_method(fields)))
    delta = tuned.deltas["layers.0.o"]
    rule = tuned.trainable["shared.rule"]
    assert all(other.shared.rule is rule for other in tuned.deltas.values())
    down = sum(torch.kron(rule[i], delta.down_s[i] @ delta.down_t[i]) for i in range(4))
    up = sum(torch.kron(rule[i], delta.up_s[i] @ delta.up_t[i]) for i in range(4))
    y = double(3, 32)
    inner = torch.nn.functional.gelu(y @ down + delta.down_bias)
    torch.testing.assert_close(delta.after(y, y), y + inner @ up + delta.up_bias, rtol=0, atol=1e-10)
    adapters = 2 * tuned.anatomy.n_layers
    assert tuned.n_trainable == 4**3 + adapters * (2 * (32 + 8) + 32 + 8)  # n³, and s, t, b of two layers
    with pytest.raises(UserError, match=r"n=3 does not divide method\.bottleneck, 8"):
        attach(bases.build("llama"), parse_method({**fields, "n": 3}))


def test_bottleneck_placements():
    houlsby = attach(bases.build("gpt2"), parse_method({"name": "bottleneck", "placement": "houlsby"}))
    assert sorted(houlsby.deltas) == ["layers.0.down", "layers.0.o", "layers.1.down", "layers.1.o"]
    pfeiffer = attach(bases.build("gpt2"), parse_method({"name": "bottleneck", "layers": [-1]}))
    assert list(pfeiffer.deltas) == ["layers.1.down"]


def test_bitfit_adds_only_where_there_is_none():
    tuned = attach(bases.build("qwen2"), parse_method({"name": "bitfit", "add": True}))
    assert all(name.endswith((".q_proj.bias", ".k_proj.bias", ".v_proj.bias")) for name in tuned.selected)
    assert {name.rsplit(".", 1)[1] for name in tuned.deltas} == {"o", "gate", "up", "down"}


def test_top_layers_are_the_top_and_the_final_norm():
    tuned = attach(bases.build("llama"), parse_method({"name": "top_layers", "layers": 1}))
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in tuned.selected)
    assert "model.norm.weight" in tuned.selected
    norms = {"t5": {"decoder.final_layer_norm.weight"}, "bert_classes": set(),
             "deit_images": {"deit.layernorm.weight", "deit.layernorm.bias"}}  # fmt: skip
    for family, behind in norms.items():  # no norm of embeddings, none of the encoder
        tuned = attach(bases.build(family), parse_method({"name": "top_layers", "layers": 1}))
        outside = {name for name in tuned.selected if not name.startswith(tuned.anatomy.layers[-1])}
        assert outside == behind | set(tuned.anatomy.task_head)
    with pytest.raises(UserError, match="this base has 2 layers"):
        attach(bases.build("llama"), parse_method({"name": "top_layers", "layers": 3}))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "opt"])
def test_a_soft_prompt_is_inputs_embeds(family):
    """Virtual tokens equal learned vectors put before the embedded input, gradients included."""
    tuned = attach(bases.build(family), parse_method({"name": "prompt_tuning", "virtual_tokens": 3, "init": "random"}))
    (delta,) = tuned.deltas.values()
    logits = tuned.model(torch.cat([torch.tensor([tuned.prefix_ids]), IDS], 1), use_cache=False).logits
    logits.square().sum().backward()
    plain = bases.build(family)
    prompt = delta.prompt.detach().clone().requires_grad_(True)
    embedded = torch.cat([prompt[None], plain.get_input_embeddings()(IDS)], 1)
    expected = plain(inputs_embeds=embedded, use_cache=False).logits
    expected.square().sum().backward()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(delta.prompt.grad, prompt.grad, rtol=1e-10, atol=1e-12)


def test_a_soft_prompt_starts_where_it_is_told():
    words = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "good", "or", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="or"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    fields = {"name": "prompt_tuning", "virtual_tokens": 4, "init": "text", "text": "good or bad"}
    model = bases.build("llama")
    rows = model.get_input_embeddings().weight
    prompt = next(iter(attach(model, parse_method(fields), tokenizer=tokenizer).deltas.values())).prompt
    assert torch.equal(prompt, rows[[3, 4, 5, 3]])
    with pytest.raises(UserError, match="needs a tokenizer"):
        attach(bases.build("llama"), parse_method(fields))
    model = bases.build("llama")
    drawn = next(iter(attach(model, parse_method("prompt_tuning"), seed=4).deltas.values())).prompt
    rows = model.get_input_embeddings().weight
    assert all(any(torch.equal(vector, row) for row in rows) for vector in drawn)


def test_multitask_prompts_are_the_shared_one_times_the_factors_of_their_task():
    """P_k = P ∘ (U_k V_k), each task behind its own virtual ids, and all equal at birth."""
    method = parse_method({"name": "multitask_prompt", "virtual_tokens": 3, "tasks": 2, "rank": 2})
    tuned = attach(bases.build("llama"), method)
    (delta,) = tuned.deltas.values()
    ids = [method.ids_of(task, tuned.anatomy) for task in (0, 1)]
    assert ids == [(64, 65, 66), (67, 68, 69)]
    embed = tuned.model.get_input_embeddings()
    born = [embed(torch.tensor(of_task)) for of_task in ids]
    for at_birth in born:
        torch.testing.assert_close(at_birth, delta.prompt.detach(), rtol=1e-6, atol=1e-6)
    trained(tuned)
    for task in (0, 1):
        factors = delta.cols[task] @ delta.rows_by_task[task]
        torch.testing.assert_close(embed(torch.tensor(ids[task])), delta.prompt * factors)


def test_multitask_prompts_go_on_from_their_source_tasks(tmp_path):
    """One batch of two tasks trains both; a target starts from the shared prompt and the mean of the factors."""
    method = parse_method({"name": "multitask_prompt", "virtual_tokens": 3, "tasks": 2})
    source = attach(bases.build("llama"), method)
    (delta,) = source.deltas.values()
    rows = torch.tensor([[*method.ids_of(task, source.anatomy), 5, 9, 33] for task in (0, 1)])
    optimiser = torch.optim.AdamW(source.trainable.values(), lr=0.1)
    wanted = torch.tensor([7, 8])  # the same text, another answer in each task
    for _ in range(80):
        loss = torch.nn.functional.cross_entropy(source.model(rows, use_cache=False).logits[:, -1], wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(source.model(rows, use_cache=False).logits[:, -1].argmax(-1), wanted)
    save_adapter(source, tmp_path / "source")
    fields = {"name": "multitask_prompt", "virtual_tokens": 3, "source": str(tmp_path / "source")}
    target = attach(bases.build("llama"), parse_method(fields))
    (begun,) = target.deltas.values()
    assert torch.equal(begun.prompt, delta.prompt)
    torch.testing.assert_close(begun.cols[0], delta.cols.mean(0))
    torch.testing.assert_close(begun.rows_by_task[0], delta.rows_by_task.mean(0))
    with pytest.raises(UserError, match="of shape"):
        attach(bases.build("llama"), parse_method({**fields, "virtual_tokens": 4}))
    with pytest.raises(UserError, match="is no adapter folder"):
        attach(bases.build("llama"), parse_method({**fields, "source": str(tmp_path)}))
    with pytest.raises(UserError, match="is none of the 2 tasks"):
        parse_method({"name": "multitask_prompt", "tasks": 2, "task": 2})


@pytest.mark.parametrize("family", ["gpt2", "bert_classes", "gpt_neox"])
def test_llama_adapter_is_a_gated_attention_of_its_own_beside_the_layers(family):
    """What enters the output projection is the layer's attention plus tanh(g) softmax(q (W_k P)ᵀ / √d) W_v P."""
    tuned = attach(bases.build(family), parse_method({"name": "llama_adapter", "virtual_tokens": 3, "layers": 1}))
    seen = {}
    (site,) = (tuned.site(name) for name in tuned.deltas if name.endswith(".o"))
    weights = {role: dense_weight(tuned.model, tuned.site(f"layers.1.{role}")) for role in ("q", "k", "v")}
    module = tuned.model.get_submodule(site.module)
    module.register_forward_pre_hook(lambda module, args: seen.__setitem__("o", args[0]))
    q_site = tuned.site("layers.1.q")
    q_module = tuned.model.get_submodule(q_site.module)
    q_module.register_forward_hook(lambda module, args, output: seen.__setitem__("q", q_site.read(output)))
    bases.logits(tuned.model, IDS)
    without = seen.pop("o")
    trained(tuned, 1.0)
    seen.clear()
    bases.logits(tuned.model, IDS)
    delta = tuned.deltas["layers.1.o"]
    heads, width = bases.HEADS, bases.WIDTH // bases.HEADS
    (w_k, b_k), (w_v, b_v) = weights["k"], weights["v"]
    for row in range(len(IDS)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            keys, values = ((delta.prompt @ w.T + b)[:, part] for w, b in ((w_k, b_k), (w_v, b_v)))
            scores = (seen["q"][row][:, part] @ keys.T / width**0.5).softmax(-1)
            expected = without[row][:, part] + delta.gate[head].tanh() * scores @ values
            torch.testing.assert_close(seen["o"][row][:, part], expected, rtol=1e-10, atol=1e-10)


def trained(tuned, scale=0.2):
    """Every trained tensor moved, by the same numbers each time."""
    generator = torch.Generator().manual_seed(2)
    for parameter in tuned.trainable.values():
        moved = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data.add_(scale * moved)
    return tuned


def test_dora_equation():
    """Every row of the weight has the direction of W + sBA and the learned length, eq. 5."""
    tuned = trained(attach(bases.build("qwen2"), parse_method({"name": "dora", "rank": 4, "alpha": 6})))
    delta, module = tuned.deltas["layers.0.q"], tuned.model.get_submodule("model.layers.0.self_attn.q_proj")
    x = double(3, 32)
    frozen = x @ module.weight.T + module.bias
    moved = module.weight + 6 / 4 * delta.lora_B @ delta.lora_A
    weight = delta.magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(delta.after(x, frozen), x @ weight.T + module.bias, rtol=0, atol=1e-10)
    torch.testing.assert_close(weight.norm(dim=1), delta.magnitude.abs(), rtol=0, atol=1e-10)


def test_vera_equation_and_one_pair_of_matrices():
    tuned = trained(attach(bases.build("llama"), parse_method({"name": "vera", "rank": 6, "roles": ["q", "down"]})))
    query, down = tuned.deltas["layers.0.q"], tuned.deltas["layers.1.down"]
    assert query.shared is down.shared
    a, b = query.shared.vera_A, query.shared.vera_B
    assert a.shape == (6, 48)
    assert a.abs().max() <= math.sqrt(6 / 48), "Kaiming-uniform with gain √2"
    x, y = double(3, 32), double(3, 32)
    expected = y + query.lambda_b * (b[:32] @ torch.diag(query.lambda_d) @ a[:, :32] @ x.T).T
    torch.testing.assert_close(query.after(x, y), expected, rtol=0, atol=1e-10)
    assert sum(name.startswith("shared.") for name in tuned.state()) == 2
    again = attach(bases.build("llama"), parse_method({"name": "vera", "rank": 6, "roles": ["q", "down"]}), seed=9)
    assert torch.equal(again.deltas["layers.0.q"].shared.vera_A, a), "drawn from a seed of their own"


def test_ia3_rescales_keys_values_and_what_enters_down():
    tuned = trained(attach(bases.build("llama"), parse_method("ia3")))
    assert {name.rsplit(".", 1)[1] for name in tuned.deltas} == {"k", "v", "down"}
    plain = bases.build("llama")
    for site in tuned.anatomy.sites:
        if site.name in tuned.deltas:
            factor = tuned.deltas[site.name].ia3_l.data
            plain.get_submodule(site.module).weight.data.mul_(factor)
    torch.testing.assert_close(tuned.model(IDS).logits, plain(IDS).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("rank", "factor", "sizes"), [(2, -1, (4, 4, 8, 8)), (2, 2, (2, 2, 16, 16)), (8, 4, (4, 4, 8, 8))]
)
def test_lokr_equation(rank, factor, sizes):
    tuned = trained(attach(bases.build("llama"), parse_method({"name": "lokr", "rank": rank, "factor": factor})))
    delta = tuned.deltas["layers.0.q"]
    a, b, c, d = sizes
    assert delta.lokr_w1.shape == (a, b)
    tensors = dict(delta.named_parameters())
    w2 = tensors.get("lokr_w2")
    w2 = delta.lokr_w2_a @ delta.lokr_w2_b if w2 is None else w2
    assert w2.shape == (c, d)
    change = torch.zeros(32, 32, dtype=torch.float64)
    for i in range(a):
        for j in range(b):
            change[i * c : (i + 1) * c, j * d : (j + 1) * d] = 8 / rank * delta.lokr_w1[i, j] * w2
    x, y = double(3, 32), double(3, 32)
    torch.testing.assert_close(delta.after(x, y), y + x @ change.T, rtol=0, atol=1e-10)


def test_the_walsh_hadamard_transform_is_the_matrix():
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < 16:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    x = double(16)
    torch.testing.assert_close(walsh_hadamard(x), h @ x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("projection", ["fastfood", "dense"])
def test_an_intrinsic_change_is_one_projection_of_few_numbers(projection):
    fields = {"name": "intrinsic", "dimension": 12, "projection": projection}
    tuned = attach(bases.build("llama"), parse_method(fields))
    theta, scale = tuned.trainable["shared.theta"], tuned.trainable["shared.scale"]
    assert tuned.n_trainable == len(theta) + len(scale) == 12
    assert len(scale) == tuned.anatomy.n_layers
    columns = []
    for index in range(len(theta)):
        theta.data.zero_()
        theta.data[index] = 1.0
        columns.append(torch.cat([delta.weight_change().flatten() for delta in tuned.deltas.values()]).detach())
    lengths = torch.stack(columns).norm(dim=1) / len(tuned.deltas) ** 0.5
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0.1, atol=0)
    theta.data.copy_(torch.arange(len(theta)))
    together = torch.cat([delta.weight_change().flatten() for delta in tuned.deltas.values()])
    torch.testing.assert_close(together, theta @ torch.stack(columns), rtol=0, atol=1e-6)
    scale.data[1] = 3.0
    delta = tuned.deltas["layers.1.q"]
    before = delta.weight_change().detach() / 3
    scale.data[1] = 1.0
    torch.testing.assert_close(delta.weight_change().detach(), before)
    again = attach(bases.build("llama"), parse_method(fields), seed=7)
    again.load_state(tuned.state())
    assert torch.equal(again.deltas["layers.1.q"].weight_change(), delta.weight_change()), (
        "P is drawn from a seed of its own"
    )


@pytest.mark.parametrize("dimension", [3, 12, 2000])
def test_fastfood_is_its_five_matrices(dimension):
    torch.manual_seed(0)  # rounding is near the tolerance, and θ is drawn
    anatomy = read_anatomy(bases.build("llama"))
    deltas = parse_method({"name": "intrinsic", "dimension": dimension, "projection_seed": 1}).deltas(anatomy)
    index, delta = 9, list(deltas.values())[9].double()  # the tenth site
    theta = delta.shared.theta
    theta.data.copy_(double(len(theta)))
    delta.shared.scale.data.copy_(double(anatomy.n_layers))
    d_out, d_in = delta.shape
    n = 2 ** math.ceil(math.log2(max(d_out * d_in, len(theta))))
    generator = torch.Generator().manual_seed(1_000_003 + index)
    b = torch.empty(n).uniform_(-1, 1, generator=generator).sign().double()
    g = torch.empty(n).normal_(generator=generator).double()
    permutation = torch.empty(n).uniform_(generator=generator).argsort()
    h = torch.from_numpy(hadamard(n, dtype=float))
    padded = torch.zeros(n, dtype=torch.float64)
    padded[: len(theta)] = theta.detach()
    flat = (h @ (g * (h @ (b * padded))[permutation]))[: d_out * d_in] / (g.norm() * math.sqrt(d_out * d_in))
    change = delta.shared.scale.detach()[delta.layer] * flat.view(d_out, d_in)
    torch.testing.assert_close(delta.weight_change().detach(), change, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("projection", ["fastfood", "dense"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_intrinsic_change_is_kept_until_its_coordinates_change(projection, mode):
    tuned = attach(bases.build("llama"), parse_method({"name": "intrinsic", "dimension": 12, "projection": projection}))
    delta = tuned.deltas["layers.1.q"]
    seen = []
    for tensor, value in (("theta", 0.5), ("theta", 0.25), ("scale", 3.0)):
        getattr(delta.shared, tensor).data.fill_(value)  # the hardest to notice: it leaves no trace in torch
        with mode():
            kept = delta.weight_change()
            assert delta.weight_change() is kept, "nothing is computed twice"
        torch.testing.assert_close(kept, delta.weight_change().detach(), rtol=0, atol=0)
        seen.append(kept.clone())
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[2], 3 * seen[1])
    assert delta.weight_change().requires_grad


def test_oft_rotates():
    tuned = trained(attach(bases.build("llama"), parse_method({"name": "oft", "block_size": 8, "neumann_terms": 0})))
    delta = tuned.deltas["layers.0.q"]
    x = double(3, 32)
    torch.testing.assert_close(delta.before(x).norm(dim=1), x.norm(dim=1), rtol=0, atol=1e-10)
    assert (delta.before(x) - x).abs().max() > 0.1
    rotation = delta._blocks()[0]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-10)


def test_ofts_series_comes_near_a_rotation():
    tuned = trained(attach(bases.build("llama"), parse_method({"name": "oft", "block_size": 8})), scale=0.01)
    rotation = tuned.deltas["layers.0.q"]._blocks()[0]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="does not divide the input width 32"):
        attach(bases.build("llama"), parse_method({"name": "oft", "block_size": 7}))


def test_a_parallel_adapter_reads_what_enters_the_feed_forward_part():
    tuned = trained(attach(bases.build("llama"), parse_method({"name": "parallel", "bottleneck": 4, "layers": [1]})))
    seen = {}
    part = tuned.model.model.layers[1].mlp
    hook = part.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
    tuned.model(IDS)
    hook.remove()
    delta = tuned.deltas["layers.1.down"]
    frozen = bases.build("llama").model.layers[1].mlp(seen["x"])
    inner = torch.relu(seen["x"] @ delta.down.T + delta.down_bias)
    torch.testing.assert_close(seen["y"], frozen + 4 * (inner @ delta.up.T + delta.up_bias), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "opt", "phi3"])
def test_a_prefix_is_keys_and_values_before_all_others(family):
    """Started from the text [4, 9, 2], it does what these tokens do in front of the input; changed, it is a cache."""
    fields = {"name": "prefix_tuning", "virtual_tokens": 3}
    tuned = attach(bases.build(family), parse_method(fields))
    plain = bases.build(family)
    words = torch.tensor([[4, 9, 2]])
    with torch.no_grad():
        for name in tuned.deltas:
            if name != "embedding":
                site = tuned.site(name)
                seen = []
                hook = plain.get_submodule(site.module).register_forward_hook(
                    lambda module, args, output, site=site, seen=seen: seen.append(site.read(output))
                )
                plain(words, use_cache=False)
                hook.remove()
                tuned.deltas[name].values.copy_(seen[0][0].flatten(1))
    found = tuned.model(torch.cat([torch.tensor([tuned.prefix_ids]), IDS], 1), use_cache=False).logits[:, 3:]
    expected = plain(torch.cat([words, IDS], 1), use_cache=False).logits[:, 3:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_mam_is_its_two_parts():
    """Trained alike, both act: with the adapters' second layer at zero it is the prefix alone, and the other way."""
    tuned = trained(attach(bases.build("llama"), parse_method({"name": "mam", "virtual_tokens": 2, "bottleneck": 4})))
    ids = torch.cat([torch.tensor([tuned.prefix_ids]), IDS], 1)
    state = tuned.state()
    prefix = attach(bases.build("llama"), parse_method({"name": "prefix_tuning", "virtual_tokens": 2}))
    prefix.load_state({name: state[name] for name in prefix.state()})
    both = tuned.model(ids, use_cache=False).logits
    for name, parameter in tuned.trainable.items():
        if name.endswith((".up", ".up_bias")):
            parameter.data.zero_()
    alone = tuned.model(ids, use_cache=False).logits
    torch.testing.assert_close(alone, prefix.model(ids, use_cache=False).logits, rtol=0, atol=1e-12)
    assert (both - alone).abs().max() > 1e-3


def test_a_prefix_starts_from_words_of_the_vocabulary():
    tuned = attach(bases.build("llama"), parse_method({"name": "prefix_tuning", "virtual_tokens": 2}), seed=3)
    values = tuned.deltas["layers.0.v"].values
    table = bases.build("llama")
    with torch.no_grad():
        every = table.model.layers[0].self_attn.v_proj(
            table.model.layers[0].input_layernorm(table.get_input_embeddings().weight)
        )
    for row in values:
        assert (every - row).abs().amax(dim=1).min() < 1e-10


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_p_tuning_settles_to_what_its_encoder_writes(encoder):
    method = parse_method({"name": "p_tuning", "virtual_tokens": 3, "encoder": encoder, "hidden": 8})
    tuned = trained(attach(bases.build("llama"), method))
    ids = torch.cat([torch.tensor([tuned.prefix_ids]), IDS], 1)
    before, settled = tuned.model(ids, use_cache=False).logits, tuned.settled_state()
    assert list(settled) == ["delta.embedding.prompt"]
    assert torch.equal(tuned.model(ids, use_cache=False).logits, before), "asking for it changes nothing"
    n_before = tuned.n_trainable
    tuned.settle()
    assert torch.equal(tuned.model(ids, use_cache=False).logits, before)
    assert tuned.n_trainable == 3 * 32 < n_before


@pytest.mark.parametrize("name", ["dora", "vera", "intrinsic", "prefix_tuning"])
def test_what_is_settled_is_told_without_a_copy_of_the_base(name, monkeypatch):
    tuned = trained(attach(bases.build("llama"), parse_method(name)))

    def refuse(tensor, _):
        raise AssertionError(f"a tensor of {list(tensor.shape)} was copied")

    monkeypatch.setattr(torch.Tensor, "__deepcopy__", refuse)
    settled = tuned.settled_state()
    assert settled.keys() == tuned.state().keys()
    assert all(torch.equal(settled[name], tensor) for name, tensor in tuned.state().items())


def test_a_tied_head_is_changed_apart_from_the_embedding():
    tuned = trained(attach(bases.build("llama_tied"), parse_method("head")))
    assert list(tuned.trainable) == ["delta.head.change"]
    plain = bases.build("llama_tied")
    hidden = plain.model(IDS).last_hidden_state
    weight = plain.get_input_embeddings().weight + tuned.deltas["head"].change
    torch.testing.assert_close(tuned.model(IDS).logits, hidden @ weight.T, rtol=0, atol=1e-10)
    untied = attach(bases.build("llama"), parse_method("head"))
    assert list(untied.trainable) == ["base.lm_head.weight"]


def test_of_a_soft_prompt_no_tied_embedding_is_blamed():
    tuned = attach(bases.build("llama_tied"), parse_method({"name": "prompt_tuning", "virtual_tokens": 3}))
    with pytest.raises(CannotFold, match="no equivalent dense weight"):
        tuned.fold()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_scale_that_is_no_number_is_refused(value):
    tuned = attach(bases.build("llama"), parse_method("lora"))
    with pytest.raises(UserError, match="the scale of a method cannot be"):
        tuned.scale = value
    assert tuned.scale == 1.0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("by", ["fisher", "gradient", "magnitude"])
def test_sparse_keeps_the_entries_that_matter_most(family, by):
    """The chosen entries are the top of a plain score over all weights, wherever and however they are stored."""
    model, rows = bases.build(family), torch.randint(3, 60, (5, 1, 7), generator=torch.Generator().manual_seed(1))

    def losses(on=model):
        return (on(row, labels=row, use_cache=False).loss for row in rows)

    fields = {
        "name": "sparse",
        "by": by,
        "density": 0.03,
        "examples": 4,
        "roles": ["qkv" if family == "gpt2" else "q", "down"],
    }
    plain = bases.build(family)
    tuned = attach(model, parse_method(fields), losses=losses)
    scores = []
    for name in tuned.deltas:
        weight = plain.get_submodule(tuned.site(name).module).weight
        grads = [torch.autograd.grad(loss, weight)[0] for loss in list(losses(plain))[:4]]
        score = {
            "fisher": sum(g.square() for g in grads),
            "gradient": sum(grads).square(),
            "magnitude": weight.detach().abs(),
        }[by]
        scores.append((score.T if family == "gpt2" else score).flatten())
    flat = torch.cat(scores)
    expected = set(flat.topk(tuned.n_trainable).indices.tolist())
    assert tuned.n_trainable == round(0.03 * len(flat))
    found, offset = set(), 0
    for delta, score in zip(tuned.deltas.values(), scores, strict=True):
        found |= {offset + int(index) for index in delta.indices}
        offset += len(score)
    assert len(found & expected) >= 0.99 * len(expected), "rounding may swap equals"
    assert all(p.requires_grad == name.startswith("delta") for name, p in tuned.trainable.items())
    trained(tuned)
    again = attach(bases.build(family), parse_method(fields), warm_start=False)
    again.load_state(tuned.state())
    assert torch.equal(again.model(IDS).logits, tuned.model(IDS).logits)


def test_sparse_needs_examples_to_look_at():
    with pytest.raises(UserError, match="looks at training examples before it starts"):
        attach(bases.build("llama"), parse_method("sparse"))
    model = bases.build("llama")
    attach(model, parse_method({"name": "sparse", "by": "random"}))


def test_norms_are_all_of_them_or_those_of_the_layers():
    everywhere = attach(bases.build("llama"), parse_method("norms")).selected
    assert len(everywhere) == 2 * 2 + 1
    assert len(attach(bases.build("llama"), parse_method({"name": "norms", "final": False})).selected) == 2 * 2


def test_peft_field_names_are_aliases():
    lora = parse_method({"name": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_rslora": True})
    assert lora == parse_method({"name": "lora", "rank": 4, "alpha": 8, "dropout": 0.1, "rslora": True})
    assert parse_method({"name": "prompt_tuning", "num_virtual_tokens": 5}).virtual_tokens == 5


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ("lroa", "no method named 'lroa'", "lora"),
        ({"name": "lora", "rnak": 4}, "rnak", "rank"),
        ({"name": "lora", "rank": 0}, "rank", ""),
        ({"rank": 4}, "needs a name", "method.name=lora"),
        ({"name": "prompt_tuning", "init": "text"}, "text", ""),
    ],
)
def test_a_method_that_is_none_is_named(data, message, hint):
    with pytest.raises(UserError) as caught:
        parse_method(data)
    assert message in str(caught.value)
    assert hint in str(caught.value)


def test_every_method_is_documented():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.family in ("baseline", "full", "selective", "reparametrising", "additive")
        assert method.paper.startswith("arXiv:")
        assert "" not in (method.equation, method.trains, method.learning_rate_source, method.__doc__)
        assert len(method.model_fields) <= 8
        assert method.learning_rate > 0 or name == "frozen"
        assert parse_method(method().configuration() if name != "bitfit" else {"name": name}).name == name
    assert len(METHODS) >= 24


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        (None, "lora", "'lora' is no method"),
        (torch.nn.Linear(2, 2), LoRA(rank=2), "Linear is no model of transformers"),
    ],
)
def test_attach_says_what_it_takes(model, method, message):
    with pytest.raises(UserError, match=message):
        attach(model or bases.build("llama", torch.float32), method)
