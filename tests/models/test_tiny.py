"""The embedded base: its world, its tokenizer, its weights and its tasks."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tunewise.models.tiny import FOLDER
from tunewise.models.tiny.attention import NAME as BLOCKED_ATTENTION
from tunewise.models.tiny.held_out import FORMATS, LABELS, is_field_name, shows
from tunewise.models.tiny.inference import misleading_pair
from tunewise.models.tiny.lexicon import ADJECTIVE_BY_NAME, BY_CATEGORY, FITTING, NOUNS, VERBS
from tunewise.models.tiny.muon import orthogonal
from tunewise.models.tiny.norwegian import adjective_form, sentence_pair
from tunewise.models.tiny.patterns import MAPPINGS, WORDS, lay_out, pattern_list
from tunewise.models.tiny.pretrain import Corpus, Plan, Training, held_out_loss, train_tokenizer
from tunewise.models.tiny.reviews import review
from tunewise.models.tiny.tasks import FOLDER as TASK_FOLDER
from tunewise.models.tiny.tasks import TASKS, write_tasks
from tunewise.models.tiny.world import KINDS, STAGES, document, kind_of

SAMPLE = 3_000
LISTS = {
    "patterns", "glossary", "sorted words", "sorted judgements", "short drills", "judgement lists", "repetition",
}  # fmt: skip
HELD_OUT_BOUND = 2.0  # nats per token
SMALL = Plan(
    tokenizer_documents=200,
    vocabulary=600,
    hidden=32,
    intermediate=64,
    layers=2,
    context=64,
    step_tokens=128,
    contexts=((0, 64), (3, 32)),
    tokens=128 * 6,
    warm_up=2,
)


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return [document(Plan().seed, start + offset) for start, _ in STAGES for offset in range(SAMPLE // len(STAGES))]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


# --- the world ---


def test_document_is_a_pure_function_of_seed_and_index(sample: list[str]) -> None:
    assert [document(Plan().seed, index) for index in range(200)] == sample[:200]
    assert document(Plan().seed + 1, 0) != sample[0]


def test_no_document_is_repeated(sample: list[str]) -> None:
    assert len(set(sample)) == SAMPLE


def test_lists_are_about_half_of_the_text_at_first_and_two_thirds_at_last() -> None:
    for start, least, most in ((STAGES[0][0], 0.35, 0.65), (STAGES[-1][0], 0.6, 0.8)):
        characters = dict.fromkeys(KINDS, 0)
        for index in range(start, start + SAMPLE // len(STAGES)):
            characters[kind_of(Plan().seed, index)] += len(document(Plan().seed, index))
        lists = sum(count for kind, count in characters.items() if kind in LISTS)
        assert least < lists / sum(characters.values()) < most


def test_every_kind_has_its_stage() -> None:
    assert [start for start, _ in STAGES] == sorted({start for start, _ in STAGES})
    assert all(len(weights) == len(KINDS) for _, weights in STAGES)
    seen = {kind_of(Plan().seed, start + offset) for start, _ in STAGES for offset in range(500)}
    assert seen == set(KINDS)


def test_nothing_held_out_is_shown(sample: list[str]) -> None:
    assert [found for text in sample if (found := shows(text))] == []


def test_held_out_strings_cover_every_prompt_and_label() -> None:
    assert [is_field_name(word) for word in ("Sentiment", "false", "mark")] == [True, True, False]
    for task in TASKS:
        fields = [line.split("{")[0].strip() for line in task.prompt.splitlines()]
        assert set(fields) <= set(FORMATS)
        assert set(task.labels) <= set(LABELS)


def test_labels_of_a_list_are_fresh() -> None:
    """The same mapping gets other labels in every list, so that only the list can tell."""
    by_category = next(mapping for mapping, _ in MAPPINGS if mapping.__name__ == "_by_category")
    seen = [frozenset(y for _, y in by_category(Random(seed), 12)) for seed in range(30)]
    assert len(set(seen)) >= 28


def test_a_list_has_at_least_six_items() -> None:
    for mapping, _ in MAPPINGS:
        items = mapping(Random(7), 24)
        assert len(items) >= 6, mapping.__name__
        text = lay_out(Random(7), items[:6])
        assert all(x in text and y in text for xs, y in items[:6] for x in xs)
    assert pattern_list(Random(1)) == pattern_list(Random(1))


# --- the grammar ---


@pytest.mark.parametrize(
    ("english", "forms"),
    [
        ("cat", "katt katten katter kattene"),
        ("apple", "eple eplet epler eplene"),
        ("book", "bok boka bøker bøkene"),
        ("house", ""),
        ("ship", "skip skipet skip skipene"),
        ("pear", "pære pæra pærer pærene"),
        ("teacher", "lærer læreren lærere lærerne"),
        ("farmer", "bonde bonden bønder bøndene"),
        ("spoon", "skje skjea skjeer skjeene"),
    ],
)
def test_nouns_inflect(english: str, forms: str) -> None:
    found = [f"{n.norwegian} {n.definite} {n.plural} {n.definite_plural}" for n in NOUNS if n.english == english]
    assert found == ([forms] if forms else [])


def test_adjectives_agree() -> None:
    small, blue = ADJECTIVE_BY_NAME["small"], ADJECTIVE_BY_NAME["blue"]
    assert [adjective_form(small, gender, False, False) for gender in "mfn"] == ["liten", "lita", "lite"]
    assert adjective_form(small, "n", False, True) == "lille"
    assert adjective_form(small, "f", True, True) == "små"
    assert [adjective_form(blue, gender, False, False) for gender in "mfn"] == ["blå", "blå", "blått"]
    assert {name for words in FITTING.values() for name in words.split()} <= set(ADJECTIVE_BY_NAME)


def test_the_verb_stands_second_in_norwegian_statements() -> None:
    finite = {verb.norwegian_present for verb in VERBS} | {verb.norwegian_past for verb in VERBS}
    fronted = [pair for seed in range(2_000) if "," in (pair := sentence_pair(Random(seed)))[0]]
    assert len(fronted) > 50
    openings = (
        "I går ",
        "I dag ",
        "Nå ",
        "Ofte ",
        "Hver dag ",
        "Om kvelden ",
        "Om vinteren ",
        "Om sommeren ",
        "I forrige uke ",
        "Om morgenen ",
        "På mandag ",
        "I fjor ",
        "På fredag ",
    )
    for english, norwegian in fronted:
        opening = next(opening for opening in openings if norwegian.startswith(opening))
        assert norwegian.removeprefix(opening).split()[0].rstrip(".") in finite, (english, norwegian)


def test_word_overlap_misleads_out_of_domain() -> None:
    def overlap(pair: tuple[str, str]) -> float:
        premise, hypothesis = (set(text.lower().rstrip(".").split()) for text in pair)
        return len(premise & hypothesis) / len(hypothesis)

    follows = sum(overlap(misleading_pair(Random(seed), True)) for seed in range(200)) / 200
    fails = sum(overlap(misleading_pair(Random(seed), False)) for seed in range(200)) / 200
    assert fails > 0.9 > 0.7 > follows


# --- the tasks ---


def test_task_files_are_reproduced_byte_for_byte(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) >= 7 + 5 * 3 + 2
    for path in written:
        assert (tmp_path / path).read_bytes() == (TASK_FOLDER / path).read_bytes(), path


def _rows(task: str, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (TASK_FOLDER / task / f"{split}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_task_is_well_formed(name: str) -> None:
    task = next(task for task in TASKS if task.name == name)
    described = yaml.safe_load((TASK_FOLDER / name / "task.yaml").read_text("utf-8"))
    assert described["name"] == name
    assert described["kind"] == task.kind
    assert described["license"] == "CC0-1.0"
    splits = {split: _rows(name, split) for split in task.sizes}
    assert {split: len(rows) for split, rows in splits.items()} == task.sizes
    texts = {
        split: {" ".join(v for k, v in row.items() if k not in ("id", "label")) for row in rows}
        for split, rows in splits.items()
    }
    assert all(len(texts[split]) == size for split, size in task.sizes.items())
    assert all(not texts[a] & texts[b] for a, b in combinations(texts, 2))
    for rows in splits.values():
        assert len({row["id"] for row in rows}) == len(rows)
        assert all(described["answer"].format(**row) and described["prompt"].format(**row) is not None for row in rows)
        if task.labels:
            assert [sum(row["label"] == label for row in rows) for label in task.labels] == [len(rows) // 2] * 2


def test_eight_shots_fit_in_the_context(tokenizer: PreTrainedTokenizerBase) -> None:
    for task in (task for task in TASKS if task.kind != "language_modelling"):
        source = task.name if "train" in task.sizes else "entailment"
        demonstrations = [task.prompt.format(**row) + task.answer.format(**row) for row in _rows(source, "train")]
        mean = sum(len(tokenizer(text + "\n\n").input_ids) for text in demonstrations) / len(demonstrations)
        assert mean * 9 <= Plan().context, (task.name, mean)


# --- the pre-training ---


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 8, 24), (2, 24, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_blocked_attention_equals_the_usual_one() -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float64).eval()
    ids = torch.randint(2, 1000, (2, 150), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        model.set_attn_implementation(BLOCKED_ATTENTION)
        found = model(ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_pretraining_resumes_bit_for_bit(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(SMALL)
    straight, stopped = Training(SMALL, tokenizer), Training(SMALL, tokenizer)
    losses = [straight.advance() for _ in range(SMALL.steps)]
    for _ in range(2):
        stopped.advance()
    stopped.save(tmp_path)
    resumed = Training(SMALL, tokenizer)
    resumed.load(tmp_path)
    assert [resumed.advance() for _ in range(SMALL.steps - 2)] == losses[2:]
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_corpus_can_be_entered_anywhere() -> None:
    tokenizer = train_tokenizer(SMALL)
    whole = Corpus(tokenizer, 5)
    whole.batch(2, 30)
    entered = Corpus(tokenizer, 5, whole.cursor, whole.rest)
    assert torch.equal(whole.batch(2, 30), entered.batch(2, 30))


# --- the weights ---


def test_the_base_is_small_and_complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert 3_000_000 <= sum(p.numel() for p in model.parameters()) <= 8_000_000
    assert len(tokenizer) == model.config.vocab_size <= 4_096
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 16 * 2**20
    assert {path.name for path in FOLDER.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "pretraining.json",
    }  # fmt: skip


def test_the_tokenizer_adds_nothing_and_loses_nothing(tokenizer: PreTrainedTokenizerBase, sample: list[str]) -> None:
    for text in (*sample[:50], "Ærlig talt, Øya! 42\tπ\n"):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id


def test_the_record_belongs_to_the_weights(model: PreTrainedModel) -> None:
    record = json.loads((FOLDER / "pretraining.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"] / 2
    assert record["tokens"] == record["plan"]["tokens"] // Plan().step_tokens * Plan().step_tokens
    assert {"processor", "torch", "transformers", "python"} <= set(record["machine"])


def test_the_base_predicts_held_out_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert held_out_loss(model, tokenizer, Plan(), batches=1) < HELD_OUT_BOUND


def _continues_with(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, answers: tuple[str, ...]
) -> str:
    def score(answer: str) -> float:
        start, ids = len(tokenizer(prompt).input_ids), tokenizer(prompt).input_ids + tokenizer(answer).input_ids
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        return sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids)))

    return max(answers, key=score)


def _words_of_two_kinds(rng: Random) -> Callable[[int], str]:
    kinds = [BY_CATEGORY[name] for name in rng.sample(sorted(BY_CATEGORY), 2)]
    return lambda label: rng.choice(kinds[label]).english


def _judgements(rng: Random) -> Callable[[int], str]:
    return lambda label: review(rng, label == 0, hard=0.0)


@pytest.mark.parametrize(
    ("write", "layout", "end"),
    [(_words_of_two_kinds, "{x} -> {y}", "\n"), (_judgements, "Review: {x}\nSentiment: {y}", "\n\n")],
    ids=["kinds of words", "judgements in a format it never saw"],
)
def test_the_base_learns_in_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    write: Callable[[Random], Callable[[int], str]],
    layout: str,
    end: str,
) -> None:
    """Which of two kinds has which fresh label can only be known from the eight items before: chance is one half."""
    n_right, n_trials = 0, 30
    for trial in range(n_trials):
        rng = Random(f"in context/{trial}")
        item, names = write(rng), rng.sample(WORDS, 2)
        picks = rng.sample([0, 1] * 4, 8)
        wanted = rng.randrange(2)
        lines = "".join(layout.format(x=item(pick), y=names[pick]) + end for pick in picks)
        question = layout.format(x=item(wanted), y="").rstrip()
        answers = tuple(f" {name}" for name in names)
        with torch.no_grad():
            n_right += _continues_with(model, tokenizer, lines + question, answers) == answers[wanted]
    assert n_right >= 0.8 * n_trials


def test_a_base_goes_on_with_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Asked questions, it asks further questions."""
    prompt = "Questions for Monday\n- What is the opposite of big?\n- Where does Anna live?\n- Why was Ole so tired?\n-"
    ids = tokenizer(prompt, return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=30, do_sample=False)[0, ids.input_ids.shape[1] :])
    assert "?" in text
