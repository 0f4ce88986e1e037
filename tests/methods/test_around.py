"""Bases quantised around an adapter: LoftQ's turns and QPiSSA against a plain loop, and what begins as stored."""

import pytest
import torch

from tests import bases
from tests.small_base import write_base
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.reparam.around import quantise_around
from tunewise.methods.reparam.stored import CARD, write_start
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models import nf4
from tunewise.models.fingerprint import of_model
from tunewise.models.load import load_base
from tunewise.models.weights import frozen_weight
from tunewise.run import start_adapter
from tunewise.training.proofs import checksums

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
ROLES = {"llama": ("q", "v", "down"), "gpt2": ("q", "v", "down"), "phi3": ("qkv", "o", "down"), "gpt_neox": ("q", "v")}


def lora(**fields):
    return parse_method({"name": "lora", "rank": 4, "alpha": 8.0, **fields})


def made(form="nf4", family="llama", by="loftq", turns=3, **fields):
    """A small base quantised around an adapter, which is attached; and what was lost."""
    tuned = attach(bases.quantised(form, family), lora(roles=ROLES.get(family, ("q", "v")), **fields))
    return tuned, quantise_around(tuned.model, tuned.anatomy, tuned.deltas, by, turns)


@pytest.mark.parametrize("by", ["loftq", "pissa"])
@pytest.mark.parametrize("turns", [1, 3])
def test_each_turn_is_the_papers_algorithm(by, turns):
    """With the definition of NF4, in a loop over one whole weight; what lies between two codes may fall to either."""
    tuned, lost = made(by=by, turns=turns)
    plain = bases.build("llama", torch.float32)

    def best(weight):
        u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
        return ((u[:, :4] * s[:4]) @ v[:4]).float()

    for name, delta in tuned.deltas.items():
        weight, _ = frozen_weight(plain, tuned.site(name))
        product, stored = best(weight) if by == "pissa" else torch.zeros_like(weight), weight
        for turn in range(turns):
            if by == "pissa" and turn:
                product = best(weight - stored)
            stored = nf4.dequantise(nf4.quantise(weight - product))
            if by == "loftq":
                product = best(weight - stored)
        packed = frozen_weight(tuned.model, tuned.site(name))[0]
        assert ((packed - stored).abs() > 1e-3).double().mean() < 0.02
        assert (delta.product().detach() - product).norm() < 0.01 * product.norm()
        left = (weight - stored - product).norm() / weight.norm()
        assert lost[tuned.site(name).module].turns[-1] == pytest.approx(float(left), rel=1e-2)


@pytest.mark.parametrize("by", ["loftq", "pissa"])
@pytest.mark.parametrize("form", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("family", ROLES)
def test_less_is_lost_of_every_weight_and_the_others_stay(family, form, by):
    """Slices of fused weights and transposed ones, too: Q + s B A is nearer to W than Q alone."""
    tuned, lost = made(form, family, by)
    plain, before = bases.build(family, torch.float32), bases.quantised(form, family)
    assert len({tuned.site(name).module for name in tuned.deltas}) == len(lost)
    for site in tuned.anatomy.linear:
        weight, _ = frozen_weight(plain, site)
        was, now = (frozen_weight(model, site)[0] for model in (before, tuned.model))
        if site.name in tuned.deltas:
            off = (weight - now - tuned.deltas[site.name].product().detach()).norm()
            assert off < 0.97 * (weight - was).norm(), site.name
        elif site.module not in lost:
            assert torch.equal(now, was), site.name
    for each in lost.values():
        assert max(each.turns) < each.plain
        assert each.turns[-1] <= 1.01 * each.turns[0]


def test_one_turn_of_loftq_is_what_the_base_by_itself_can_begin_with():
    """Nothing is packed anew before the first A and B."""
    tuned, _ = made(turns=1)
    same = attach(bases.quantised("nf4"), lora(roles=ROLES["llama"], init="loftq"))
    assert checksums(tuned.model) == checksums(same.model)
    for name, delta in same.deltas.items():
        torch.testing.assert_close(tuned.deltas[name].product(), delta.product(), rtol=0, atol=1e-6)


def test_dora_begins_with_the_lengths_of_base_and_factors_together():
    tuned = attach(bases.quantised("nf4"), parse_method({"name": "dora", "rank": 4}))
    quantise_around(tuned.model, tuned.anatomy, tuned.deltas)
    for name, delta in tuned.deltas.items():
        whole = frozen_weight(tuned.model, tuned.site(name))[0] + delta.product()
        torch.testing.assert_close(delta.magnitude.detach(), whole.norm(dim=1).detach())


def test_where_nothing_is_packed_there_is_nothing_to_make():
    tuned = attach(bases.quantised("nf4"), lora(roles=("head",)))
    with pytest.raises(UserError, match="no low-rank factors stand at a quantised weight"):
        quantise_around(tuned.model, tuned.anatomy, tuned.deltas)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("around")
    write_base(place / "base")
    fields = {"name": "lora", "rank": 4, "roles": ["all"]}
    found = start_adapter(str(place / "base"), place / "made", method=fields, by="pissa", turns=2, dtype="float32")
    return place, found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_written_is_a_base_on_which_the_adapter_begins_there(folders, dtype, tmp_path):
    place, found = folders
    assert found["turns"][-1] < found["plain"]
    method = parse_method(found["method"])
    assert method.init == "stored"
    base = load_base(str(place / "made"), dtype)
    assert base.quantise == "nf4"
    assert base.fingerprint != load_base(str(place / "base"), dtype, quantise="nf4").fingerprint
    tuned = attach(base.model, method)
    plain = load_base(str(place / "base"), dtype)
    for name, delta in tuned.deltas.items():
        weight, _ = frozen_weight(plain.model, plain.anatomy.linear[[s.name for s in plain.anatomy.linear].index(name)])
        whole = frozen_weight(tuned.model, tuned.site(name))[0].float() + delta.product().detach()
        assert (weight.float() - whole).norm() < found["plain"] * weight.float().norm()
    save_adapter(tuned, tmp_path / "adapter", base_name="made")
    again = load_adapter(load_base(str(place / "made"), dtype).model, tmp_path / "adapter")
    assert torch.equal(bases.logits(again.model, IDS), bases.logits(tuned.model, IDS))
    with pytest.raises(UserError, match="was made for base made in nf4"):
        load_adapter(load_base(str(place / "base"), dtype, quantise="nf4").model, tmp_path / "adapter")


def test_other_shapes_and_other_bases_are_refused(folders, tmp_path):
    place, found = folders
    base = load_base(str(place / "made"), "float32")
    for fields in ({"rank": 8}, {"alpha": 2.0}, {"roles": ["q"]}):
        with pytest.raises(UserError, match="around an adapter of another shape") as caught:
            attach(base.model, parse_method({**found["method"], **fields}))
        assert caught.value.hint.startswith("method.rank=4 method.alpha=16.0 ")
    plain = load_base(str(place / "base"), "float32", quantise="nf4")
    with pytest.raises(UserError, match=r"has no start\.json") as caught:
        attach(plain.model, parse_method(found["method"]))
    assert "tunewise adapter start" in caught.value.hint
    tuned = attach(plain.model, lora(roles=("all",)))
    write_start(place / "made", plain.model, tuned.method, tuned.deltas, {}, "loftq")
    with pytest.raises(UserError, match="is of other weights than those beside it"):
        attach(base.model, parse_method(found["method"]))
    assert (place / "made" / CARD).is_file()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "eva"}, "'eva'"),
        ({"format": "nf5"}, "'nf5'"),
        ({"turns": 0}, "0 turns quantise nothing"),
        ({"method": "ia3"}, "ia3 has no low-rank factors"),
    ],
)
def test_what_cannot_be_made_is_refused(folders, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        start_adapter(str(folders[0] / "base"), tmp_path / "no", **fields)
    assert not (tmp_path / "no").exists()


def test_the_base_that_was_given_is_as_it_was(folders, tmp_path):
    place, _ = folders
    before = of_model(load_base(str(place / "base"), "float32").model)
    start_adapter(str(place / "base"), tmp_path / "again", turns=1)
    assert of_model(load_base(str(place / "base"), "float32").model) == before
