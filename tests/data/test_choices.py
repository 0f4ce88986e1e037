"""Multiple choice, minimal pairs and questions with several right answers: which columns are taken, and for what."""

import json

import pytest

from tunewise.config import parse
from tunewise.data.choices import letter
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return name


def refusal(spec):
    with pytest.raises(UserError) as error:
        load_task(spec)
    return error.value


NAMES = ("crab", "boat", "lamp")
# rows of a public data set's shape; prompt, options and letter of the fourth row
SHAPES = {
    "mmlu": (
        lambda n: {"question": f"Which {n}?", "A": "crab", "B": "boat", "C": "lamp", "answer": "ABC"[n % 3]},
        "Which 3?\nAnswer:", (" crab", " boat", " lamp"), "A",
    ),
    "mmlu on the hub": (
        lambda n: {"question": f"Which {n}?", "subject": "sea", "choices": [*NAMES], "answer": n % 3},
        "Which 3?\nAnswer:", (" crab", " boat", " lamp"), "A",
    ),
    "arc": (
        lambda n: {
            "question": f"Which {n}?", "choices": {"text": [*NAMES], "label": [*"ABC"]}, "answerKey": "BCA"[n % 3]
        },
        "Which 3?\nAnswer:", (" crab", " boat", " lamp"), "B",
    ),
    "hellaswag": (
        lambda n: {"ctx": f"She takes {n} and", "endings": ["rows.", "sleeps."], "label": str(n % 2)},
        "She takes 3 and", (" rows.", " sleeps."), "B",
    ),
    "copa": (
        lambda n: {"premise": f"It rained {n}.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect"}
        | {"label": n % 2},
        "It rained 3.\neffect\nAnswer:", (" Wet.", " Dry."), "B",
    ),
    "piqa": (
        lambda n: {"goal": f"Cook {n}", "sol1": "boil", "sol2": "fry", "label": n % 2},
        "Cook 3\nAnswer:", (" boil", " fry"), "B",
    ),
    "winogrande": (
        lambda n: {"sentence": f"{n} _ barks.", "option1": "Kari", "option2": "Olav", "answer": str(n % 2 + 1)},
        "3 _ barks.\nAnswer:", (" Kari", " Olav"), "B",
    ),
    "siqa": (
        lambda n: {
            "context": f"Olav {n}.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z",
            "label": n % 3 + 1,
        },
        "Olav 3.\nWhy?\nAnswer:", (" x", " y", " z"), "A",
    ),
    "the answer's text": (
        lambda n: {"question": f"Which {n}?", "options": [*NAMES], "answer": NAMES[n % 3]},
        "Which 3?\nAnswer:", (" crab", " boat", " lamp"), "A",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_multiple_choice_is_recognised(name, here):
    row, prompt, options, right = SHAPES[name]
    task = load_task(write("rows.jsonl", [row(n) for n in range(30)]))
    assert (task.kind, task.labels, task.ledger.rejected) == ("multiple_choice", (), ())
    assert task.metrics == ("accuracy", "accuracy_norm", "ece", "brier")
    example = next(each for part in (task.train, task.dev, task.test) for each in part if each.line == 4)
    assert (example.prompt, task.options(example), example.label) == (prompt, options, right)
    assert example.answer == options[task.option_names(example).index(right)]
    assert "multiple choice" in task.ledger.detected


def test_a_csv_without_a_header_line_is_recognised_by_its_letters(here):
    (here / "quiz.csv").write_text("".join(f'"Is {n}, or not?",0,1,2,3,{"ABCD"[n % 4]}\n' for n in range(12)))
    task = load_task("quiz.csv")
    example = next(each for each in task.train if each.line == 2)
    assert (example.prompt, example.answer, example.label) == ("Is 1, or not?\nAnswer:", " 1", "B")


def test_what_only_looks_like_choices_is_none(here):
    talk = [{"question": f"q {n}", "options": ["yes", "no"], "answer": f"It is {n}, I think."} for n in range(20)]
    assert load_task(write("talk.jsonl", talk)).kind == "generation"
    letters = [{"text": f"t {n}", "label": "AB"[n % 2]} for n in range(20)]
    assert load_task(write("letters.jsonl", letters)).kind == "classification"


def test_columns_of_choices_are_named_and_answered_by_letter(here):
    rows = [{"asked": f"q {n}", "x": "one", "y": "two", "z": "three", "right": str(n % 3)} for n in range(30)]
    path = write("rows.jsonl", rows)
    named = DataConfig(path=path, text="asked", choices="x,y,z", label="right")
    assert load_task(named).train[0].prompt == f"q {load_task(named).train[0].line - 1}\nAnswer:"
    shown = named.model_copy(update={"text": None, "prompt": "{asked}\n{choices}\nAnswer:", "answer": " {letter}"})
    task = load_task(shown)
    example = next(each for part in (task.train, task.dev, task.test) for each in part if each.line == 2)
    assert example.prompt == "q 1\nA. one\nB. two\nC. three\nAnswer:"
    assert (example.answer, task.options(example)) == (" B", (" A", " B", " C"))


def test_rows_without_a_right_choice_are_in_the_ledger(here):
    rows = [{"question": f"q {n}", "choices": [*NAMES], "answer": n % 3} for n in range(30)]
    rows[2]["answer"] = 7
    rows[4]["choices"] = ["crab", " "]
    rows[6]["choices"] = ["crab"]
    rows[8]["question"] = ""
    rows[10]["choices"] = ["crab", "boat"]
    task = load_task(write("rows.jsonl", rows))
    assert [(note.line, note.reason) for note in task.ledger.rejected] == [
        (3, "its answer '7' is none of its 3 choices"),
        (5, "its choice B is empty"),
        (7, "it has no list of choices in choices"),
        (9, "it has no text in question"),
    ]
    assert {len(example.choices) for example in task.train} == {2, 3}


def test_letters_go_on_behind_z():
    assert [letter(number) for number in (0, 25, 26, 27, 51, 52)] == ["A", "Z", "AA", "AB", "AZ", "BA"]


def test_minimal_pairs_train_the_good_sentence(here):
    rows = [{"sentence_good": f"They {n} sleep.", "sentence_bad": f"They {n} sleeps.", "UID": "x"} for n in range(20)]
    task = load_task(write("pairs.jsonl", rows))
    assert (task.kind, task.metrics) == ("minimal_pairs", ("accuracy",))
    example = next(each for each in task.train if each.line == 1)
    assert (example.prompt, example.answer, example.label) == ("", "They 0 sleep.", "good")
    assert task.options(example) == ("They 0 sleep.", "They 0 sleeps.")
    assert task.option_names(example) == ("good", "bad")
    renamed = write("named.jsonl", [{"a": f"x {n}", "b": f"y {n}", "c": "z"} for n in range(20)])
    swapped = load_task(DataConfig(path=renamed, minimal_pair="b,a"))
    assert swapped.train[0].answer.startswith("y ")


SQUAD = {
    "data": [
        {
            "title": f"Sea {n}",
            "paragraphs": [
                {
                    "context": f"Crab {n} is red.",
                    "qas": [
                        {"id": f"{n}-1", "question": "Which colour?", "answers": [{"text": "red", "answer_start": 10}]},
                        {
                            "id": f"{n}-2", "question": "Who is red?",
                            "answers": [{"text": f"Crab {n}"}, {"text": "Crab"}, {"text": "Crab"}],
                        },
                    ],
                }
            ],
        }
        for n in range(10)
    ]
}  # fmt: skip


def test_questions_of_squad_keep_every_right_answer(here):
    (here / "squad.json").write_text(json.dumps(SQUAD))
    task = load_task("squad.json")
    assert (task.kind, task.metrics, task.ledger.trained) == ("generation", ("token_f1", "normalised_match"), 20)
    example = next(each for part in (task.train, task.dev, task.test) for each in part if each.id == "3-2")
    assert example.prompt == "Crab 3 is red.\nQuestion: Who is red?\nAnswer:"
    assert (example.answer, example.accepted) == (" Crab 3", ("Crab 3", "Crab"))
    hub = [
        {"context": f"c {n}", "question": "q?", "answers": {"text": ["x", "y"], "answer_start": [0, 1]}}
        for n in range(9)
    ]
    hub[5]["answers"] = {"text": [], "answer_start": []}
    task = load_task(write("hub.jsonl", hub))
    assert task.train[0].accepted == ("x", "y")
    assert [(note.line, note.reason) for note in task.ledger.rejected] == [(6, "its answer is empty")]


def test_metrics_are_those_named_or_told_by_the_answers(here):
    sums = [{"question": f"{n} + 1?", "answer": f"It is {n + 1}.\n#### {n + 1:,}"} for n in range(20)]
    path = write("sums.jsonl", sums)
    assert load_task(path).metrics == ("numeric_match", "rougeL", "chrf", "exact_match")
    assert load_task(DataConfig(path=path, metrics=("bleu",))).metrics == ("bleu",)
    assert parse(DataConfig, {"path": path, "metrics": "bleu, chrf"}).metrics == ("bleu", "chrf")
    scored = {example.line for example in (*load_task(path).dev, *load_task(path).test)}
    sums[min(set(range(1, 21)) - scored) - 1]["answer"] = "It is so."  # which is trained on, and not scored
    assert load_task(write("sums.jsonl", sums)).metrics == ("numeric_match", "rougeL", "chrf", "exact_match")
    sums[min(scored) - 1]["answer"] = "It is so."
    assert load_task(write("sums.jsonl", sums)).metrics == ("rougeL", "chrf", "exact_match")


def test_a_task_folder_of_choices_and_of_pairs(here):
    folder = here / "quiz"
    folder.mkdir()
    (folder / "task.yaml").write_text(
        'name: quiz\nkind: multiple_choice\nprompt: "{text}\\n{choices}\\nSo:"\nanswer: " {choice}"\nchoices: [a, b]\n'
    )
    write(str(folder / "test.jsonl"), [{"text": f"t {n}", "a": "x", "b": "y", "label": n % 2} for n in range(4)])
    task = load_task(folder)
    assert (task.test[1].prompt, task.test[1].answer) == ("t 1\nA. x\nB. y\nSo:", " y")
    (folder / "task.yaml").write_text('name: quiz\nkind: minimal_pairs\nprompt: ""\nanswer: "{a}"\nchoices: [a, c]\n')
    error = refusal(folder)
    assert error.message == f"no column of {folder}/test.jsonl named 'c'"
    (folder / "task.yaml").write_text('name: quiz\nkind: minimal_pairs\nprompt: ""\nanswer: "{a}"\nchoices: [a, b]\n')
    assert load_task(folder).test[0].choices == ("x", "y")
    (folder / "task.yaml").write_text('name: quiz\nkind: multiple_choice\nprompt: "{text}"\nanswer: " {choice}"\n')
    assert "does not say which columns hold the choices" in refusal(folder).message


def test_bad_choices_are_told(here):
    rows = [{"asked": f"q {n}", "x": "one", "y": "two", "right": "both"} for n in range(9)]
    path = write("rows.jsonl", rows)
    error = refusal(DataConfig(path=path, text="asked", choices="x,y", label="right"))
    assert error.message == "right of rows.jsonl does not tell which of x, y is right"
    assert "data.label=COLUMN" in error.hint
    assert refusal(DataConfig(path=path, choices="x,z", label="right")).message == "no column named 'z' in rows.jsonl"
    good = write("good.jsonl", [row | {"right": "AB"[n % 2]} for n, row in enumerate(rows)])
    bare = write("bare.jsonl", [{"x": f"{n}", "y": "two", "right": "AB"[n % 2]} for n in range(9)])
    assert refusal(DataConfig(path=bare, choices="x,y")).message == "no column of bare.jsonl is left to be asked"
    (here / "squad.json").write_text('{"data": [{"paragraphs": [{"qas": []}]}]}')
    assert refusal("squad.json").message == "squad.json, line 1: an article has a paragraph without context or qas"
    error = refusal(DataConfig(path=good, choices="x,y", label="right", answer=" yes"))
    assert error.message == "the answer ' yes' is the same for every choice"
    error = refusal(DataConfig(path=good, choices="x,y", label="right", prompt="{asked} {letter}"))
    assert "would contain its own answer" in error.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "a", "choices": "x,y", "completion": "z"}, "choices and completion are columns of different shapes"),
        ({"path": "a", "minimal_pair": "x"}, "minimal_pair should be two columns"),
        ({"path": "a", "minimal_pair": "x,y", "label": "z"}, "label and minimal_pair are columns of different shapes"),
        ({"path": "a", "metrics": []}, "metrics should name one or more"),
    ],
)
def test_bad_configurations_are_told(data, message):
    with pytest.raises(UserError) as error:
        parse(DataConfig, data)
    assert message in error.value.message
