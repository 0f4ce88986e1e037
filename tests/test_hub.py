"""Bases, data sets and adapters by their names on a hub, through the real clients, as a user has them."""

import io
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.data.test_benchmarks import rows_of
from tests.hub_server import Hub
from tests.hub_user import Outcome, as_user
from tests.small_base import write_base, write_reviews
from tunewise import files, hub
from tunewise.models import fingerprint
from tunewise.models.load import load_base

STEPS = ("train.steps=2", "train.batch_size=8")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
CARD = b"""---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
- config_name: short
  data_files: short.parquet
---
"""


BY_PEFT = """
import peft, torch, tunewise
base = tunewise.load_base("org/base", dtype="float32")
ids = torch.arange(3, 20)[None]
tuned = tunewise.load_adapter(base.model, {folder!r}, tokenizer=base.tokenizer)
ours = base.model(ids).logits.detach()
tuned.detach()
theirs = peft.PeftModel.from_pretrained(base.model, "org/pushed")(ids).logits
torch.testing.assert_close(theirs, ours)
assert tunewise.push({folder!r}, "org/by-python", revision="r1")["proof"]["passed"]
"""
BY_TRANSFORMERS = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
ids = AutoTokenizer.from_pretrained("org/merged")("the soup was", return_tensors="pt").input_ids
theirs, ours = (AutoModelForCausalLM.from_pretrained(place)(ids).logits for place in ("org/merged", {folder!r}))
assert torch.equal(theirs, ours)
"""


@dataclass
class World:
    """A hub with repositories, a user's folder, and what became of each command."""

    hub: Hub
    place: Path
    done: dict[str, Outcome] = field(default_factory=dict)

    def carry_out(self, commands: dict[str, tuple[str | Path, ...]], endpoint: str = "") -> None:
        """Commands by name, in one process; what a name in brackets stands for leaves nothing."""
        found = as_user(self.place / "home", endpoint or self.hub.url, list(commands.values()))
        named = [name for name in commands if not name.startswith("(")]
        self.done |= dict(zip(named, found, strict=True))

    def asked(self, name: str) -> list[str]:
        """The requests of one command."""
        done = self.done[name]
        return self.hub.asked(done.started, done.started + done.seconds)

    def refused(self, name: str, *told: str) -> str:
        """What was said by a command that ended with exit code 2, in words, at once."""
        done = self.done[name]
        assert done.code == 2, done.output
        assert "Traceback" not in done.output
        assert done.seconds < 8, done
        for each in told:
            assert each in done.output, done.output
        return done.output


def parquet(rows: Dataset) -> bytes:
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()


def train(model: str, out: Path, *words: str, data: str | Path = "") -> tuple[str | Path, ...]:
    return ("train", "--model", model, "--data", data or out.parent / "reviews.csv", "--out", out, *STEPS, *words)


def fill(hub: Hub, place: Path) -> None:
    """Bases (in one file, in shards on a branch, and such as are refused), data sets and a peft adapter."""
    base = write_base(place / "base")
    hub.put("org/base", base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(place / "shards", max_shard_size="30KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / "shards" / name).write_bytes((base / name).read_bytes())
    hub.put("org/sharded", {"README.md": b"nothing on the main branch"})
    hub.put("org/sharded", place / "shards", branch="v2")
    hub.put("org/sharded", {"chat_template.jinja": TEMPLATE.encode()}, branch="v2")
    hub.put("org/planned", base)
    hub.put("org/gated", base, gated=True)
    hub.broken.add("org/broken")
    stale = {"tunewise.safetensors": b"of another method", "notes.txt": b"kept", "older/tunewise.safetensors": b"kept"}
    hub.put("org/stale", stale)
    hub.put("org/private", base, private=True)
    config = json.loads((base / "config.json").read_text())
    whole = {path.name: path.read_bytes() for path in base.iterdir() if path.suffix == ".json"}
    hub.put("org/pickled", {**whole, "pytorch_model.bin": b"\x80"})
    own = {**config, "model_type": "ours", "auto_map": {"AutoConfig": "configuration_ours.OursConfig"}}
    evil = f"open({str(place / 'ran')!r}, 'w')"
    hub.put("org/own-code", {"config.json": json.dumps(own).encode(), "configuration_ours.py": evil.encode()})
    tuned = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], base_model_name_or_path="org/base")
    )
    tuned.peft_config["default"].base_model_name_or_path = "org/base"
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    tuned.save_pretrained(place / "by-peft")
    hub.put("org/peft", place / "by-peft")
    reviews = Dataset.from_csv(str(write_reviews(place / "reviews.csv")), cache_dir=str(place / "cache"))
    reviews = reviews.cast_column("label", ClassLabel(names=["bad", "good"]))
    parts = {"train": parquet(reviews.select(range(40))), "test": parquet(reviews.select(range(40, 60)))}
    data = {f"data/{part}-00000-of-00001.parquet": content for part, content in parts.items()}
    rows = [{"text": f"short {i}", "label": str(i % 2)} for i in range(24)]
    hub.put(
        "org/reviews", {"README.md": CARD, **data, "short.parquet": parquet(Dataset.from_list(rows))}, kind="datasets"
    )
    lines = "\n".join(map(json.dumps, rows)).encode()
    hub.put("org/lines", {"train.jsonl": lines, "test.jsonl": lines.replace(b"short", b"long")}, kind="datasets")
    hub.put("org/gated-reviews", {"README.md": CARD, **data}, kind="datasets", gated=True)
    rte = {"train": rows_of("glue:rte")[:20], "validation": rows_of("glue:rte")[20:]}
    splits = {f"rte/{part}-00000-of-00001.parquet": parquet(Dataset.from_list(each)) for part, each in rte.items()}
    card = b"---\nconfigs:\n- config_name: rte\n  data_files:\n  - {split: train, path: rte/train-*}\n"
    card += b"  - {split: validation, path: rte/validation-*}\n---\n"
    hub.put("nyu-mll/glue", {"README.md": card, **splits}, kind="datasets")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What a user without a token does online, in one process."""
    place = tmp_path_factory.mktemp("hub")
    with Hub() as hub:
        fill(hub, place)
        found, out = World(hub, place), place / "x"
        lora = "method.rank=2"
        found.carry_out(
            {
                "plan": ("plan", "org/base", "--method", "lora", "--json"),
                "plan only": ("plan", "org/planned", "--method", "lora"),
                "train": train("org/base", place / "train", lora),
                "sharded": train("org/sharded@v2", place / "sharded", lora),
                "again": train("org/base", place / "again", lora, "seed=1"),
                "data": train("org/base", place / "data", lora, data="hf:org/reviews"),
                "config": train(
                    "org/base", place / "config", lora, "data.splits.train=train[:16]", data="hf:org/reviews:short@main"
                ),
                "lines": train("org/base", place / "lines", lora, data="hf:org/lines"),
                "glue": train("org/base", place / "glue", lora, data="glue:rte"),
                "peft": train(
                    "org/base", place / "peft", lora, "adapter=org/peft", "method.alpha=8", "method.roles=[q,v]"
                ),
                "eval": ("eval", "org/peft", "--data", place / "reviews.csv", "--json"),
                "misspelt": train("org/bsae", out),
                "gated": train("org/gated", out),
                "private": train("org/private", out),
                "revision": train("org/sharded@v3", out),
                "no model": train("org/sharded", out),
                "pickled": train("org/pickled", out),
                "own code": train("org/own-code", out),
                "adapter": train("org/peft", out),
                "broken": train("org/broken", out),
                "no adapter": train("org/base", out, "adapter=org/paft"),
                "no data": train("org/base", out, data="hf:org/revews"),
                "gated data": train("org/base", out, data="hf:org/gated-reviews"),
                "no revision of data": train("org/base", out, data="hf:org/reviews@v9"),
                "no token": ("adapter", "push", place / "train", "org/pushed", "--yes"),
                "(login)": ("token", "hf_writer"),
                "push": ("adapter", "push", place / "train", "org/pushed", "--private", "--yes", "--json"),
                "push branch": ("adapter", "push", place / "train", "org/pushed", "--revision", "seed0", "--yes"),
                "push stale": ("adapter", "push", place / "train", "org/stale", "--yes"),
                "not agreed": ("adapter", "push", place / "train", "org/never"),
                "public": ("adapter", "push", place / "train", "org/base", "--private", "--yes"),
                "others": ("adapter", "push", place / "train", "others/pushed", "--yes"),
                "no owner": ("adapter", "push", place / "train", "pushed", "--yes"),
                "check": ("adapter", "check", "org/pushed"),
                "by peft": ("python", BY_PEFT.format(folder=str(place / "train" / "adapter"))),
                "merge": ("adapter", "merge", "org/pushed@seed0", "--out", place / "merged"),
                "push merged": ("adapter", "push", place / "merged", "org/merged", "--yes"),
                "by transformers": ("python", BY_TRANSFORMERS.format(folder=str(place / "merged"))),
                "train on merged": train("org/merged", place / "on-merged", lora),
            }
        )
        yield found


@pytest.fixture(scope="module")
def cut_off(world: World) -> World:
    """What is left in a new process where the hub refuses the connection, and then by HF_HUB_OFFLINE."""
    place, out, lora = world.place, world.place / "x", "method.rank=2"
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    world.carry_out(
        {
            "cut": train("org/sharded@v2", place / "cut", lora, "seed=6", data="hf:org/reviews"),
            "cut adapter": ("adapter", "check", "org/peft"),
            "cut never": train("org/other", out),
            "cut revision": train("org/sharded@v1", out),
            "cut weights": train("org/gated", out),
            "cut plan": ("plan", "org/planned", "--method", "lora"),
            "cut after a plan": train("org/planned", out),
            "cut data": train("org/base", out, data="hf:org/other"),
            "cut revision of data": train("org/base", out, data="hf:org/reviews@v1"),
            "cut push": ("adapter", "push", place / "train", "org/never", "--yes"),
            "(offline)": ("offline",),
            "offline": train("org/base", place / "offline", lora, "seed=5", data="hf:org/reviews:short"),
            "offline never": train("org/other", out),
            "offline data": train("org/base", out, data="hf:org/other"),
            "offline push": ("adapter", "push", place / "train", "org/never", "--yes"),
        },
        endpoint=closed,
    )
    return world


def weights_in(requests: list[str]) -> list[str]:
    """The files of weights that were asked for."""
    return [each.rpartition("/")[2] for each in requests if each.endswith(".safetensors")]


def card(folder: Path) -> dict:
    told = files.read_json(folder / "adapter" / "tunewise.json")
    assert isinstance(told, dict)
    return told


def test_a_plan_fetches_the_configuration_alone(world: World) -> None:
    assert world.done["plan"].code == 0, world.done["plan"].output
    fetched = [each.rpartition("/")[2] for each in world.asked("plan") if "/resolve/" in each]
    assert set(fetched) == {"config.json"}
    assert not any("/cdn/" in each for each in world.asked("plan"))


@pytest.mark.parametrize("name", ["train", "sharded", "again", "data", "config", "lines", "glue", "peft"])
def test_a_run_by_hub_names_ends_proved(world: World, name: str) -> None:
    assert world.done[name].code == 0, world.done[name].output
    metrics = files.read_json(world.place / name / "metrics.json")
    assert isinstance(metrics, dict)
    assert len(metrics["proofs"]) >= 8
    assert all(proof["passed"] for proof in metrics["proofs"].values())


def test_what_is_fetched_is_the_base_of_the_folder_in_one_file_or_in_shards(world: World) -> None:
    here = load_base(str(world.place / "base"))
    for name in ("train", "sharded"):
        assert card(world.place / name)["base"]["fingerprint"] == here.fingerprint
        assert card(world.place / name)["tokenizer"] == fingerprint.of_tokenizer(here.tokenizer)
    assert set(weights_in(world.asked("train"))) == {"model.safetensors"}
    assert len(set(weights_in(world.asked("sharded")))) >= 3
    assert not weights_in(world.asked("again"))  # in the cache


def test_the_revision_and_its_chat_template_go_with_the_adapter(world: World) -> None:
    folder = world.place / "sharded"
    assert card(folder)["base"]["name"] == "org/sharded@v2"
    assert card(folder)["chat_template"] == fingerprint._digest(json.dumps(TEMPLATE))
    written = files.read_json(folder / "adapter" / "adapter_config.json")
    assert isinstance(written, dict)
    assert (written["base_model_name_or_path"], written["revision"]) == ("org/sharded", "v2")


def test_nothing_that_is_written_names_the_cache(world: World) -> None:
    home = str(world.place / "home")
    texts = [path for path in (world.place / "sharded").rglob("*") if path.suffix in (".json", ".yaml", ".jsonl")]
    assert len(texts) >= 6
    assert not [path for path in texts if home in path.read_text()]


def test_an_adapter_of_peft_is_evaluated_on_the_base_that_it_names(world: World) -> None:
    done = world.done["eval"]
    assert done.code == 0, done.output
    assert '"model": "org/base"' in done.output


def test_what_the_hub_refuses_is_told_in_words(world: World) -> None:
    world.refused("misspelt", "cannot load 'org/bsae'", "no repository of that name", "did you mean org/base?")
    world.refused("gated", "gated", f"{world.hub.url}/org/gated", "hf auth login")
    world.refused("private", "a private one", "hf auth login")
    world.refused("revision", "no revision 'v3'", "main, v2")
    world.refused("no model", "org/sharded is no model: it has no config.json")
    world.refused("broken", "the hub does not give it", "503")
    world.refused("adapter", "org/peft is an adapter", "adapter=org/peft")
    world.refused("no adapter", "cannot find the adapter org/paft", "did you mean org/peft?")
    world.refused("no data", "cannot fetch org/revews", "did you mean org/reviews?")
    world.refused("gated data", "gated", f"{world.hub.url}/datasets/org/gated-reviews", "hf auth login")
    world.refused("no revision of data", "no revision 'v9'", "it has main")


def test_no_pickle_and_no_code_is_fetched_or_run(world: World) -> None:
    world.refused("pickled", "org/pickled holds its weights as pytorch_model.bin, a pickle")
    assert not [each for each in world.asked("pickled") if "pytorch_model.bin" in each or "discussions" in each]
    world.refused("own code", "org/own-code is a model of its own code", "no code of a checkpoint is run")
    assert not [each for each in world.asked("own code") if "configuration_ours.py" in each]
    assert not (world.place / "ran").exists()


def test_a_second_start_needs_no_network_and_costs_no_time(cut_off: World) -> None:
    for name in ("cut", "cut plan", "cut adapter", "offline"):
        assert cut_off.done[name].code == 0, cut_off.done[name].output
        assert cut_off.asked(name) == []
    for name in ("cut never", "cut revision", "cut data", "cut push"):
        cut_off.refused(name, "does not answer")
    for name in ("offline never", "offline data", "offline push"):
        cut_off.refused(name, "HF_HUB_OFFLINE is set")
    cut_off.refused("cut revision of data", "its rows at v1 were not downloaded before")
    cut_off.refused("cut after a plan", "does not answer; no more than its configuration was downloaded before")
    cut_off.refused("cut weights", "cannot load 'org/gated'", "was not downloaded before")


def test_without_a_token_nothing_is_sent(world: World) -> None:
    world.refused("no token", "there is no token", "hf auth login")
    assert not [each for each in world.asked("no token") if not each.startswith(("HEAD", "GET"))]


def test_a_pushed_adapter_is_proved_from_the_hub(world: World) -> None:
    done = world.done["push"]
    assert done.code == 0, done.output
    told = json.loads(done.output[done.output.index("{\n") :])
    assert told["proof"] == {"files_changed": [], "logits_differ_by": 0.0, "passed": True}
    assert told["address"] == f"{world.hub.url}/org/pushed"
    there = world.hub.repositories["models", "org/pushed"]
    assert there.private
    sent = there.commits[told["commit"]]
    local = world.place / "train" / "adapter"
    assert {name for name in sent if name != ".gitattributes"} == {path.name for path in local.iterdir()} | {
        "README.md"
    }
    assert all(sent[path.name] == path.read_bytes() for path in local.iterdir())
    assert "note: probe.safetensors holds a few rows of the data" in done.output
    text = sent["README.md"].decode()
    assert "base_model: org/base\n" in text
    assert 'load_adapter(base.model, "org/pushed"' in text
    assert world.done["check"].code == 0, world.done["check"].output
    assert world.done["by peft"].code == 0, world.done["by peft"].output


def test_what_would_be_read_with_it_is_removed(world: World) -> None:
    done = world.done["push stale"]
    assert done.code == 0, done.output
    assert "tunewise.safetensors        removed" in done.output
    assert "there already, public" in done.output
    there = world.hub.repositories["models", "org/stale"]
    names = set(there.commits[there.refs["main"]])
    assert {"notes.txt", "older/tunewise.safetensors"} <= names
    assert "tunewise.safetensors" not in names
    assert "the same files, and the same logits" in done.output


def test_a_branch_is_made_for_a_revision(world: World) -> None:
    done = world.done["push branch"]
    assert done.code == 0, done.output
    assert "the same files, and the same logits" in done.output
    refs = world.hub.repositories["models", "org/pushed"].refs
    assert set(refs) == {"main", "seed0"}


def test_a_merged_model_goes_to_the_hub_and_is_a_base_there(world: World) -> None:
    for name in ("merge", "push merged", "by transformers", "train on merged"):
        assert world.done[name].code == 0, world.done[name].output
    assert "the same files, and the same logits" in world.done["push merged"].output
    there = world.hub.repositories["models", "org/merged"]
    text = there.commits[there.refs["main"]]["README.md"].decode()
    assert "\nbase_model: org/base\n" in text
    assert "\nbase_model_relation: finetune\n" in text


def test_nothing_is_sent_that_was_not_agreed_to(world: World) -> None:
    world.refused("not agreed", "nothing was sent", "--yes")
    world.refused("public", "everybody can read it", "--private")
    world.refused("others", "writer may not write to others/pushed")
    world.refused("no owner", "names no owner")
    assert {name for _, name in world.hub.repositories} >= {"org/pushed", "org/merged"}
    assert not {"org/never", "others/pushed"} & {name for _, name in world.hub.repositories}
    assert len(world.hub.repositories["models", "org/base"].commits) == 1


def test_files_of_an_older_commit_are_not_taken_for_those_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has the branch at commit a; the hub says that it is at b by now."""
    asked = []
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: "/cache/snapshots/a/config.json")
    monkeypatch.setattr(hub, "snapshot_download", lambda *names, **__: asked.append(names) or "/cache/snapshots/b")
    for commit, n_downloads in (("a", 0), ("b", 1)):
        found = hub.Repository("org/x", "", {"config.json": 3}, commit).fetch(["config.json"])
        assert (found, len(asked)) == (Path(f"/cache/snapshots/{commit}"), n_downloads)
