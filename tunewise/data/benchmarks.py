"""GLUE and SuperGLUE by name: what each task asks, in which words it is answered, and by which metrics it is judged.

`glue:rte` names the task; its rows come from `data.folder`, or from the Hugging Face hub. The public test rows have no
labels, so the validation rows serve as test, and a part of train, at most `DEV_ROWS` rows, as dev.

GLUE: Wang et al. 2019, arXiv:1804.07461, table 1. SuperGLUE: Wang et al. 2019, arXiv:1905.00537, table 1. Columns and
class ids are those of the hub's data sets nyu-mll/glue and aps/super_glue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunewise.data.choices import Choices
from tunewise.data.hub import hub_rows, parquet_rows
from tunewise.data.readers import Row, columns, read_rows
from tunewise.data.shapes import Kind, Shape
from tunewise.data.sources import files_of
from tunewise.data.template import Template
from tunewise.errors import UserError, missing, unknown

DEV_ROWS = 1_000
"""At most so many rows of train serve as dev, as in Karimi Mahabadi et al. 2021, arXiv:2106.04647, section 4."""
REPOSITORIES = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}
LABEL = "label"
SPELLINGS = ("validation", "valid", "val", "dev")
"""What files of the validation rows are called."""


def _word_first(fields: dict[str, str | list]) -> dict[str, str | list]:
    """WiC for a classifier: each sentence behind the word in question."""
    return {name: f"{fields['word']}: {fields[name]}" for name in ("sentence1", "sentence2")}


def _pronoun_marked(fields: dict[str, str | list]) -> dict[str, str | list]:
    """WSC: the pronoun between asterisks; its place is counted in words."""
    words, place, pronoun = str(fields["text"]).split(), str(fields["span2_index"]), str(fields["span2_text"]).split()
    if not place.isdecimal():
        raise UserError(f"span2_index, the number of a word, is {place!r}", "write it as a whole number")
    first = int(place)
    behind = first + len(pronoun)
    return {"text": " ".join([*words[:first], f"*{' '.join(words[first:behind])}*", *words[behind:]])}


def _joined(fields: dict[str, str | list]) -> dict[str, str | list]:
    """COPA as one sentence: the premise and what it is asked for, which either choice goes on from."""
    link = {"cause": "because", "effect": "so"}.get(str(fields["question"]))
    if link is None:
        raise UserError(f"question is {fields['question']!r}", "write cause or effect")
    choices = {name: str(fields[name]) for name in ("choice1", "choice2")}
    lowered = {name: text if text.startswith("I ") else text[:1].lower() + text[1:] for name, text in choices.items()}
    return {"premise": f"{str(fields['premise']).strip().removesuffix('.')} {link}", **lowered}


@dataclass(frozen=True)
class Benchmark:
    """One task. The first of `metrics` decides; where `words` is empty, the label is a value."""

    columns: tuple[str, ...]
    """What is asked, and what a classifier reads: one column, or two."""
    prompt: str
    classes: tuple[str, ...] = ()
    """The data set's own names of its classes, in the order of their ids."""
    words: tuple[str, ...] = ()
    """What stands for each class in a prompt; of choices, their numbers."""
    metrics: tuple[str, ...] = ("accuracy",)
    positive: str = ""
    """The word of the class whose F1 counts."""
    test: str = "validation"
    """The part that serves as test."""
    config: str = ""
    """The data set's configuration, where it is not named as the task is."""
    needs: tuple[str, ...] = ()
    """Columns that `derive` reads beside those of the prompt."""
    derive: Callable[[dict[str, str | list]], dict[str, str | list]] | None = None
    """A row's fields -> those of them that are rewritten before anything is made of them."""

    choices: tuple[str, ...] = ()
    """The columns of the answers among which one is chosen."""

    @property
    def kind(self) -> Kind:
        if self.choices:
            return "multiple_choice"
        return "classification" if self.words else "regression"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a task of these rows calls its classes."""
        return () if self.choices else self.words

    @property
    def shape(self) -> Shape:
        if self.choices:
            return Shape("question and choices", self.columns, LABEL, Choices(self.choices, "from 0"))
        alone = len(self.columns) == 1
        if self.kind == "regression":
            return Shape("text and value" if alone else "pair and value", self.columns, LABEL)
        return Shape("text and label" if alone else "pair and label", self.columns, LABEL)

    @property
    def template(self) -> Template:
        return Template(self.prompt, " {choice}" if self.choices else " {label}")


_PAIR, _PREMISE, _QUESTIONS = ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2")
_NO_YES, _YES_NO = ("no", "yes"), ("yes", "no")
_ENTAILED, _BOOLEAN = ("entailment", "not_entailment"), ("False", "True")
_F1 = ("f1", "accuracy")


def _ask(columns: tuple[str, ...], question: str) -> str:
    """The columns, a line each, and a question below them."""
    return "".join(f"{{{name}}}\n" for name in columns) + f"Question: {question}?\nAnswer:"


def _follows(columns: tuple[str, str]) -> Benchmark:
    prompt = _ask(columns[:1], f"does it follow that {{{columns[1]}}}\nyes or no")
    return Benchmark(columns, prompt, _ENTAILED, _YES_NO)


_MNLI = Benchmark(
    _PREMISE, _ask(_PREMISE, "given the first, is the second true, false or unclear"),
    ("entailment", "neutral", "contradiction"), ("true", "unclear", "false"), test="validation_matched",
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {
    "glue:cola": Benchmark(
        ("sentence",), _ask(("sentence",), "is this good English, yes or no"),
        ("unacceptable", "acceptable"), _NO_YES, ("mcc",),
    ),
    "glue:sst2": Benchmark(
        ("sentence",), "Review: {sentence}\nSentiment:", ("negative", "positive"), ("negative", "positive"),
    ),
    "glue:mrpc": Benchmark(
        _PAIR, _ask(_PAIR, "do these two say the same, yes or no"),
        ("not_equivalent", "equivalent"), _NO_YES, _F1, positive="yes",
    ),
    "glue:qqp": Benchmark(
        _QUESTIONS, _ask(_QUESTIONS, "do these two ask the same, yes or no"),
        ("not_duplicate", "duplicate"), _NO_YES, _F1, positive="yes",
    ),
    "glue:stsb": Benchmark(
        _PAIR, "{sentence1}\n{sentence2}\nSimilarity from 0 to 5:", metrics=("pearson", "spearman"),
    ),
    "glue:mnli": _MNLI,
    "glue:mnli_mismatched": replace(_MNLI, test="validation_mismatched", config="mnli"),
    "glue:qnli": Benchmark(
        ("question", "sentence"), _ask(("sentence",), "{question}\nIs the answer in the sentence, yes or no"),
        _ENTAILED, _YES_NO,
    ),
    "glue:rte": _follows(_PAIR),
    "glue:wnli": replace(_follows(_PAIR), classes=_ENTAILED[::-1], words=_NO_YES),
    "super_glue:boolq": Benchmark(
        ("question", "passage"), _ask(("passage",), "{question}, yes or no"), _BOOLEAN, _NO_YES,
    ),
    "super_glue:cb": replace(
        _MNLI, classes=("entailment", "contradiction", "neutral"), words=("true", "false", "unclear"),
        metrics=("accuracy", "macro_f1"), test="validation",
    ),
    "super_glue:copa": Benchmark(
        ("premise",), "{premise}", ("choice1", "choice2"), ("0", "1"), needs=("question",), derive=_joined,
        choices=("choice1", "choice2"),
    ),
    "super_glue:rte": _follows(_PREMISE),
    "super_glue:wic": Benchmark(
        _PAIR, _ask(_PAIR, "is the word before each sentence meant in the same sense in both, yes or no"),
        _BOOLEAN, _NO_YES, needs=("word",), derive=_word_first,
    ),
    "super_glue:wsc": Benchmark(
        ("text", "span1_text"), _ask(("text",), "is the one between asterisks {span1_text}, yes or no"),
        _BOOLEAN, _NO_YES, config="wsc.fixed", needs=("span2_index", "span2_text"), derive=_pronoun_marked,
    ),
}  # fmt: skip
THROUGH_THE_HARNESS = "ask the harness for it: tunewise eval RUN --harness {}"
LEFT_OUT = {
    "glue:ax": ("its labels are not public", "take glue:mnli, whose labels it shares"),
    "super_glue:multirc": (
        "its exact match counts questions, of which each has several rows", THROUGH_THE_HARNESS.format("multirc"),
    ),
    "super_glue:record": (
        "its questions have several right answers, of which the best match counts",
        THROUGH_THE_HARNESS.format("record"),
    ),
    "super_glue:axb": ("it is a diagnostic set without training rows", "take super_glue:rte, whose classes it shares"),
    "super_glue:axg": ("it is a diagnostic set without training rows", "take super_glue:rte, whose classes it shares"),
}  # fmt: skip


def is_benchmark(spec: str) -> bool:
    """Whether `spec` is a name of this kind, known or not."""
    return spec.partition(":")[0] in REPOSITORIES and ":" in spec


def benchmark_named(spec: str) -> Benchmark:
    """The task of that name; UserError for one that is left out, with the reason, and for one that is not known."""
    if spec in LEFT_OUT:
        reason, hint = LEFT_OUT[spec]
        raise UserError(f"{spec} cannot be had by name: {reason}", hint)
    if spec not in BENCHMARKS:
        raise unknown("benchmark", spec, BENCHMARKS)
    return BENCHMARKS[spec]


def benchmark_rows(spec: str, folder: str | None) -> dict[str, list[Row]]:
    """The rows of "train" and "test", each with its class as a word under `label`; "" where it has none.

    From files of `folder` (train.jsonl, validation.jsonl, or .json, .csv, .tsv, .parquet, there or in a folder named as
    the task), or else from the hub. UserError where there are none, or they have other columns or classes.
    """
    benchmark = benchmark_named(spec)
    rows = {}
    for part, wanted in (("train", "train"), ("test", benchmark.test)):
        files = [] if folder is None else _files(Path(folder), spec, wanted)
        source = ", ".join(map(str, files)) or f"{spec} on the hub"
        own = [row for file in files for row in _rows_of(file)]
        found = own if folder is not None else hub_rows(*_on_the_hub(spec), wanted)
        _check_columns(found, benchmark, spec, source)
        rows[part] = [_asked(row, benchmark, source) for row in found]
    return rows


def benchmark_files(spec: str, folder: str | None) -> list[Path]:
    """The files that `benchmark_rows` reads; none where it asks the hub."""
    wanted = ("train", benchmark_named(spec).test)
    return [] if folder is None else [file for part in wanted for file in _files(Path(folder), spec, part)]


def _on_the_hub(spec: str) -> tuple[str, str]:
    """(data set, configuration)."""
    suite, _, name = spec.partition(":")
    return REPOSITORIES[suite], BENCHMARKS[spec].config or name


def _files(folder: Path, spec: str, part: str) -> list[Path]:
    if not folder.is_dir():
        raise missing(folder)
    names = dict.fromkeys((_on_the_hub(spec)[1], spec.partition(":")[2]))
    place = next((folder / name for name in names if (folder / name).is_dir()), folder)
    stems = [part.replace("validation", spelling) for spelling in SPELLINGS] if part != "train" else [part]
    found = files_of(place, stems, part)
    if not found:
        raise UserError(
            f"{place} has no {part} rows of {spec}",
            f"put {part}.jsonl there (or .json, .csv, .tsv, .parquet), with the columns of {_on_the_hub(spec)[0]}",
        )
    return found


def _rows_of(file: Path) -> list[Row]:
    """With classes as their ids, which a benchmark has words of its own for."""
    return parquet_rows(file, class_names=False) if file.suffix == ".parquet" else read_rows(file)


def _check_columns(rows: Sequence[Row], benchmark: Benchmark, spec: str, source: str) -> None:
    known = columns(rows)
    slots = Template(benchmark.prompt, "").fields()
    wanted = dict.fromkeys((*slots, *benchmark.columns, *benchmark.needs, *benchmark.choices, LABEL))
    for name in wanted:
        if name not in known:
            raise UserError(
                f"{source} has no column {name!r}",
                f"{spec} has the columns {', '.join(wanted)}; there are {', '.join(known)}",
            )


def _asked(row: Row, benchmark: Benchmark, source: str) -> Row:
    """The row with its class in a word, and what is derived from it."""
    fields = dict(row.fields)
    if benchmark.derive is not None:
        fields |= benchmark.derive(fields)
    return Row(row.line, fields | {LABEL: _word(str(fields[LABEL]).strip(), benchmark, f"{source}, line {row.line}")})


def _word(label: str, benchmark: Benchmark, where: str) -> str:
    """The word of a class given by its id or by its name; "" where a row has no label (the hub writes -1)."""
    if label in ("", "-1", "-1.0"):
        return ""
    if not benchmark.words:
        return label
    for number, name in enumerate(benchmark.classes):
        if label.casefold() in (str(number), name.casefold()):
            return benchmark.words[number]
    ids = ", ".join(f"{number} ({name})" for number, name in enumerate(benchmark.classes))
    raise UserError(f"{where}: the label {label!r} is no class of the task", f"its classes are {ids}")
