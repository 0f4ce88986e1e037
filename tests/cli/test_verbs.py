"""Every verb through the real command, on a small random base."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.cli.command import tunewise
from tunewise.cli import VERBS
from tunewise.cli.recipes import gather
from tunewise.config import parse, read_yaml
from tunewise.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("train.steps=3", "train.batch_size=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path, reviews: Path) -> Path:
    """A finished LoRA run."""
    out = tmp_path_factory.mktemp("runs") / "lora"
    found = tunewise("train", "--model", base, "--data", reviews, "--out", out, *QUICK, "method.rank=2")
    assert found.code == 0, found.err
    return out


def test_help_is_quick_and_imports_no_torch() -> None:
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "tunewise", "--help"], check=True, capture_output=True)
        after = os.times()
        # processor time of the child: what the wall clock says on an idle machine
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5, seconds
    code = (
        "import sys, tunewise.cli; heavy = 'torch', 'transformers', 'scipy', 'numpy', 'huggingface_hub'; "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_report_is_written_without_torch() -> None:
    code = (
        "import sys, tunewise.report.page, tunewise.report.card, tunewise.report.export; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_planner_is_graded_without_torch(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    planned = {"n_trainable": 9, "adapter_bytes": 90, "train_memory_bytes": 5e6, "train_seconds": 50, "left_out": ""}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({**planned, "train_seconds": 60, "planned": planned}))
    (tmp_path / "run" / "recipe.yaml").write_text("model: tiny\nmethod: {name: lora}\n")
    (tmp_path / "run" / "DONE").touch()
    code = (
        f"import sys; sys.argv = ['tunewise', 'plan', '--grade', {str(tmp_path)!r}]\nfrom tunewise.cli import main\n"
        "try: main()\nfinally: print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "1 run that trained, planned and measured" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_typing_error_in_a_path_is_told_before_torch_is_imported() -> None:
    words = ["train", "--data", "nothing-there.csv"]
    for verb in (words, ["compare", *words[1:]], ["eval", "--model", "tiny", *words[1:]]):
        code = (
            f"import sys; sys.argv = ['tunewise', *{verb}]\nfrom tunewise.cli import main\ntry: main()\n"
            "finally: print([m for m in ('torch', 'transformers', 'scipy', 'numpy') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 2
        assert "no such file: nothing-there.csv" in done.stderr
        assert done.stdout == "[]\n"


def test_every_verb_has_help() -> None:
    names = [*VERBS, *(f"adapter {name}" for name in ("check", "merge", "show", "combine", "diff", "dial"))]
    assert len(names) >= 8
    for name in names:
        found = tunewise(*name.split(), "--help")
        assert found.code == 0
        assert ("--json" in found.out) != (name in ("serve", "studio")), name


@pytest.mark.parametrize("shape", ["reviews", "pairs", "chats"])
def test_a_file_of_every_shape_trains(shape: str, request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> None:
    data = request.getfixturevalue(shape)
    found = tunewise("train", "--model", base, "--data", data, "--out", tmp_path / "run", "--json", *QUICK)
    assert found.code == 0, found.err
    metrics = json.loads(found.out)
    assert metrics["steps"] == 3
    assert (tmp_path / "run" / "DONE").is_file()
    told = {"reviews": "label", "pairs": "completion", "chats": "messages"}[shape]
    assert told in found.err, "the shape is told"


def test_the_run_folder_is_whole_and_proved(run: Path) -> None:
    for name in ("recipe.yaml", "env.json", "log.jsonl", "adapter", "predictions.jsonl", "metrics.json", "DONE"):
        assert (run / name).exists(), name
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["proofs"]) >= 8
    assert "reloads_to_the_same_logits" in metrics["proofs"]
    assert all(proof["passed"] for proof in metrics["proofs"].values())


def test_a_finished_run_is_not_run_again(run: Path, base: Path, reviews: Path) -> None:
    before = (run / "metrics.json").stat().st_mtime_ns
    found = tunewise("train", "--model", base, "--data", reviews, "--out", run, *QUICK, "method.rank=2")
    assert found.code == 0
    assert (run / "metrics.json").stat().st_mtime_ns == before


def test_a_recipe_with_overrides(base: Path, reviews: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {base}\ndata: {reviews}\nmethod: {{name: lora, rank: 4}}\ntrain: {{steps: 9, batch_size: 4}}\n"
    )
    found = tunewise(
        "train", recipe, "train.steps=2", "train.learning_rate=2e-4", "--seed", "5", "--out", tmp_path / "run", "--json"
    )
    assert found.code == 0, found.err
    metrics = json.loads(found.out)
    assert (metrics["steps"], metrics["seed"]) == (2, 5)
    written = read_yaml(tmp_path / "run" / "recipe.yaml")
    assert written["train"]["learning_rate"] == 2e-4
    assert written["method"]["rank"] == 4


def test_eval_repeats_what_the_run_measured(run: Path) -> None:
    found = tunewise("eval", run, "--json")
    assert found.code == 0, found.err
    measured = json.loads((run / "metrics.json").read_text())["test"]
    again = json.loads(found.out)["metrics"]
    assert again == pytest.approx({name: measured[name] for name in again}, abs=1e-6)


def test_eval_of_a_bare_base_and_of_an_adapter(run: Path, base: Path, reviews: Path) -> None:
    bare = tunewise("eval", "--model", base, "--data", reviews, "--shots", "2", "--json")
    assert bare.code == 0, bare.err
    tuned = tunewise("eval", run / "adapter", "--model", base, "--data", reviews, "--json")
    assert tuned.code == 0, tuned.err
    assert json.loads(bare.out)["metrics"].keys() == json.loads(tuned.out)["metrics"].keys()
    told = tunewise("eval", run / "adapter", "--model", base, "--data", reviews, "--limit", "3").out
    assert re.search(r"accuracy [\d.]+ %  macro F1 [\d.]+ %", told)
    assert "3 rows of reviews" in told
    assert f"{base} with {run / 'adapter'}" in " ".join(told.split())


def test_eval_takes_the_fields_of_a_recipe_that_it_reads(base: Path, pairs: Path) -> None:
    words = ("eval", "--model", base, "--data", pairs, "dtype=float32")
    drawn = tunewise(*words, "generation.do_sample=true", "generation.top_k=4", "--seed", "3", "--json")
    assert drawn.code == 0, drawn.err
    found = json.loads(drawn.out)
    assert found["generation"] == {"do_sample": True, "temperature": 1.0, "top_k": 4, "top_p": 1.0}
    assert found["seed"] == 3
    refused = tunewise(*words, "generation.top_k=4")
    assert refused.code == 2
    assert "top_k=4 has no effect without do_sample=true" in refused.err


def test_adapter_check_show_and_merge(run: Path, tmp_path: Path) -> None:
    found = tunewise("adapter", "check", run, run / "adapter", "--json")
    assert found.code == 0, found.err
    proofs = json.loads(found.out)
    assert all(proof["passed"] for one in proofs.values() for proof in one.values())
    assert "passed" in tunewise("adapter", "check", run).out
    shown = tunewise("adapter", "show", run, "--json")
    assert json.loads(shown.out)["method"]["rank"] == 2
    merged = tunewise("adapter", "merge", run, "--out", tmp_path / "merged", "--json")
    assert merged.code == 0, merged.err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").num_parameters() > 0


def test_compare_and_report(base: Path, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = ("--methods", "frozen,lora", "--seeds", "0,1", "--out", out, *QUICK)
    found = tunewise("compare", "--model", base, "--data", reviews, *words)
    assert found.code == 0, found.err
    assert "take " in found.out.lower()
    assert (out / "report.html").is_file()
    assert len(list(out.rglob("DONE"))) == 4
    found = tunewise("report", out, "--out", tmp_path / "page.html", "--title", "Two ways")
    assert found.code == 0, found.err
    assert "<h1>Two ways</h1>" in (tmp_path / "page.html").read_text("utf-8")
    assert tunewise("report", out, "--out", tmp_path / "folder").code == 0
    assert "<h1>" in (tmp_path / "folder" / "report.html").read_text("utf-8")


def test_compare_tells_which_runs_diverged(base: Path, reviews: Path, tmp_path: Path) -> None:
    words = ("--methods", "frozen,lora", "--seeds", "0", "--out", tmp_path, *QUICK, "train.learning_rate=1e38")
    found = tunewise("compare", "--model", base, "--data", reviews, *words)
    assert found.code == 3
    assert "Take none yet: no way is better than always giving the most frequent answer" in found.out
    assert "adapter to ship" not in found.out
    assert "lora (1 of 1 lost)" in found.out
    assert "lora: 1 of 1 seeds diverged; the first: the loss is not finite at step 2 of 3" in found.out
    assert "lora seed 0" in found.err
    assert "diverged: " in found.err


@pytest.mark.usefixtures("few_embedded_rows")
def test_the_demo_from_end_to_end(base: Path, tmp_path: Path) -> None:
    # in this process: what workers find is what one process finds, which tests/comparison/test_grid.py holds
    found = tunewise("demo", "--model", base, "--seeds", "0", "--steps", "1", "--workers", "1", "--out", tmp_path)
    assert found.code == 0, found.err
    assert len(list(tmp_path.rglob("DONE"))) == 8
    page = (tmp_path / "report.html").read_text("utf-8")
    for label in ("zero-shot", "8-shot", "LoRA", "BitFit", "bottleneck", "prompt tuning", "top 2 layers", "full"):
        assert label in found.out
        assert f"</i>{label}" in page, label
    assert found.out.count("Sentiment:") == 4
    assert page.count('class="sample"') == 5
    assert found.err.count("task.yaml says") == 1, "what is told of the data is told once"


def test_methods() -> None:
    rows = json.loads(tunewise("methods", "--json").out)
    assert len(rows) >= 7
    text = tunewise("methods").out
    assert all(row["name"] in text and row["learning_rate_source"].split()[0] in text for row in rows)


def test_one_method_with_every_default_and_its_source() -> None:
    for row in json.loads(tunewise("methods", "--json").out):
        assert json.loads(tunewise("methods", row["name"], "--json").out) == row
        text = " ".join(tunewise("methods", row["name"]).out.split())
        for told in ("equation", "paper", "about"):
            assert row[told][:12].strip() in text, (row["name"], told)
        assert row["start"].split()[0] in text
        assert all(name in text and field["type"].split()[0] in text for name, field in row["fields"].items())
        assert text.count("source: ") == sum(bool(field["source"]) for field in row["fields"].values())


def test_how_a_field_is_written() -> None:
    lora = json.loads(tunewise("methods", "lora", "--json").out)["fields"]
    assert {name: lora[name]["type"] for name in ("rank", "roles", "layers", "dropout")} == {
        "rank": "int | {name: int}", "roles": "[str, ...]", "layers": "[int, ...] | null", "dropout": "float",
    }  # fmt: skip
    assert lora["init"]["type"] == "kaiming | gaussian | eva | pissa | olora | loftq | stored"
    assert lora["roles"]["default"] == ["q", "v"]
    assert lora["roles"]["source"] == "Hu et al. 2021, section 5.1; peft's for llama"
    assert lora["roles"]["meaning"].startswith("Roles of the sites: ")
    assert lora["layers"]["source"] == ""
    text = " ".join(tunewise("methods", "lora").out.split())
    assert "[q, v]" in text
    assert "null" in text
    assert "false" in text


def test_a_method_that_is_none_has_no_page() -> None:
    found = tunewise("methods", "lroa")
    assert found.code == 2
    assert "no method named 'lroa'" in found.err
    assert "did you mean 'lora'?" in found.err
    assert found.out == ""
    for option in ("--matrix", "--markdown"):
        assert tunewise("methods", "lora", option).code == 2


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(base: Path, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        "train",
        "--model",
        str(base),
        "--data",
        str(reviews),
        "--out",
        str(out),
        "train.steps=150",
        "train.batch_size=4",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "tunewise", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and not (out / "log.jsonl").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert f"tunewise {' '.join(words)}" in said
    found = tunewise(*words, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["steps"] == 150


def test_every_recipe_of_the_project_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewise.comparison import build_comparison
    from tunewise.comparison.protocol import is_comparison
    from tunewise.data.load import load_task
    from tunewise.run import Recipe

    monkeypatch.chdir(ROOT)
    recipes = sorted(Path("recipes").glob("*.yaml"))
    assert len(recipes) >= 6
    for path in recipes:
        fields = gather([str(path)], {})
        is_one_run = not is_comparison(fields)
        recipe = parse(Recipe, fields, where=str(path)) if is_one_run else build_comparison(fields).first
        assert load_task(recipe.data).test, path


def test_flags_win_over_the_recipe_and_overrides_over_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("c.csv", "d.csv"):
        (tmp_path / name).touch()  # that it is there is all that is asked here
    path = tmp_path / "recipe.yaml"
    path.write_text("model: a\ndata: {path: b.csv, train: 5}\nmethod: {name: lora, rank: 2}\nseed: 1\n")
    flags = {"model": None, "data": "c.csv", "method": "bitfit", "seed": 2}
    found = gather([str(path), "seed=3", "data.train=7"], flags)
    assert found == {"model": "a", "data": {"path": "c.csv", "train": 7}, "method": {"name": "bitfit"}, "seed": 3}
    assert gather([str(path), "method=lora", "data=d.csv"], {})["method"] == {"name": "lora", "rank": 2}
    with pytest.raises(UserError, match="cannot read"):
        gather(["seed=1", str(path)], {})


def test_a_method_in_one_word_lies_between_recipe_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: tiny:sentiment\nmethod: lora:rank=2:alpha=3\n")
    assert gather([str(path)], {})["method"] == {"name": "lora", "rank": 2, "alpha": 3}
    found = gather([str(path), "method.rank=5"], {"method": "lora:rank=4:dropout=0.1:quantise=nf4:train.steps=7"})
    assert found["method"] == {"name": "lora", "rank": 5, "alpha": 3, "dropout": 0.1}
    assert (found["quantise"], found["train"]) == ("nf4", {"steps": 7})
    assert gather(["method=bitfit:add=true", "data=tiny:sentiment"], {})["method"] == {"name": "bitfit", "add": True}


def test_python_takes_a_method_in_one_word_too() -> None:
    from tunewise.methods import parse_method
    from tunewise.run import build_recipe

    fields = {"data": "tiny:sentiment", "method": "lora:rank=4:alpha=8"}
    assert build_recipe(fields, {"method.rank": 2}).method == parse_method({"name": "lora", "rank": 2, "alpha": 8})
    assert parse_method("lora:rank=4") == parse_method({"name": "lora", "rank": 4})


def test_adapters_add_up_shrink_and_differ(run: Path, base: Path, tmp_path: Path) -> None:
    found = tunewise("adapter", "combine", run, run, "--weights", "1.0,1.0", "--out", tmp_path / "sum", "--json")
    assert found.code == 0, found.err
    summed = json.loads(found.out)
    assert summed["method"]["rank"] == 2
    assert summed["error"] < 1e-5
    rows = json.loads(tunewise("adapter", "diff", run, tmp_path / "sum", "--json").out)
    assert len(rows) == 4
    for row in rows.values():
        assert row["other_norm"] == pytest.approx(2 * row["norm"], rel=1e-4)
        assert row["cosine"] == pytest.approx(1.0, abs=1e-4)
    smaller = tunewise("adapter", "combine", run, "--rank", "1", "--out", tmp_path / "small")
    assert smaller.code == 0, smaller.err
    assert "a LoRA of rank 1 that misses the sum by" in smaller.out
    checked = tunewise("adapter", "check", tmp_path / "sum", "--json")
    assert checked.code == 0, checked.err
    assert "layers.0.q" in tunewise("adapter", "diff", run, tmp_path / "small").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "one"), "is no list of numbers"),
        (("--weights", "1,2"), "2 weights for 1 adapters"),
        (("--how", "tise"), "ties"),
        (("--how", "ties"), "--rank 16"),
        (("--how", "ties", "--density", "0", "--rank", "1"), "density=0.0"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(words: tuple[str, ...], message: str, run: Path, tmp_path: Path) -> None:
    found = tunewise("adapter", "combine", run, "--out", tmp_path / "sum", *words)
    assert found.code == 2
    assert message in found.err
    assert not (tmp_path / "sum").exists()
