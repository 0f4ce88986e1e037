"""What a file's rows are: recognised by the names of columns, then by their content, unless a configuration says it."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from tunewise.data.choices import ANSWERS, QUESTIONS, Choices, counting_of, detect_choices
from tunewise.data.config import DataConfig
from tunewise.data.readers import Row, columns, require
from tunewise.data.shapes import Shape, is_template, number_of
from tunewise.data.talk import detect_talk, named_talk
from tunewise.errors import UserError

TEXT = tuple(
    "text sentence content message review tweet utterance sms document comment body headline title "
    "question query input prompt".split()
)
LABEL = tuple("label labels category class intent sentiment gold_label label_text stars rating score target".split())
WORDS = tuple("tokens words".split())
TAGS = tuple("tags ner_tags pos_tags labels".split())
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("sentence_a", "sentence_b"),
    ("question", "passage"),
    ("question", "sentence"),
)
PROMPT = tuple("prompt question instruction query input source article document text".split())
COMPLETION = tuple("completion answer response output target summary reply".split())
ASKING = ("prompt", "question", "query")
EXTRA = ("input", "context")
NO_VALUES = ("nan", "inf", "infinity")
"""What stands in a column of values where there is none, whatever its case and sign."""


def detect(rows: Sequence[Row], config: DataConfig) -> Shape:
    """The shape of these rows, the columns that `config` names taking precedence; UserError when it cannot be told."""
    known = columns(rows)
    _refuse_unpaired(known, rows, config)
    if config.desirable:
        known.remove(require(config.desirable, known, config.path))
    shape = _named(known, rows, config) or _by_name(known, rows, config) or _by_content(known, rows)
    if shape is None:
        raise UserError(
            f"cannot tell what the columns of {config.path} mean: {', '.join(known)}",
            "say it: data.text=COLUMN data.label=COLUMN, or data.prompt=COLUMN data.completion=COLUMN, "
            "or data.text=COLUMN alone for plain text",
        )
    _refuse_what_changes_nothing(shape, config)
    _refuse_several_labels(shape, rows, config)
    if config.desirable:
        return replace(shape, desirable=config.desirable)
    return _valued(shape, rows, config)


def _refuse_what_changes_nothing(shape: Shape, config: DataConfig) -> None:
    """UserError for a named column that these rows, as they are taken, have no use for."""
    of_talks = {"system": config.system, "tools": config.tools, "history": config.history}
    unused = [] if shape.talk else [name for name, value in of_talks.items() if value]
    if config.rejected and not shape.rejected and not (shape.talk and shape.talk.rejected):
        unused.append("rejected")
    if config.desirable and shape.name not in ("prompt and completion", "messages"):
        unused.append("desirable")
    if unused:
        raise UserError(
            f"data.{unused[0]} changes nothing: {config.path} is taken as {shape.name}",
            "name the columns of the conversation too: data.messages=COLUMN, or data.prompt and data.completion",
        )


def _refuse_several_labels(shape: Shape, rows: Sequence[Row], config: DataConfig) -> None:
    """UserError where a row has a list of labels, or a 0 or 1 for each of them: a row is told one."""
    if shape.name not in ("text and label", "pair and label"):
        return
    lists = [row for row in rows if isinstance(row.fields.get(shape.answered), list)]
    several = next((row for row in lists if len(row.fields[shape.answered]) > 1), None)
    if several is not None:
        raise UserError(
            f"{config.path}, line {several.line}: {shape.answered} holds several labels, "
            f"{list(several.fields[shape.answered])}, and a row is told one: there is no multi-label classification",
            "make a column of each label, yes or no, and train one after another: data.label=COLUMN; or have a decoder "
            "write them as text: data.prompt=COLUMN data.completion=COLUMN",
        )


def _refuse_unpaired(known: Sequence[str], rows: Sequence[Row], config: DataConfig) -> None:
    """UserError for unpaired preferences, as KTO is trained on them, where nothing is said of their labels."""
    if config.desirable or config.label or not {"prompt", "completion", "label"} <= set(known):
        return
    judged = {str(row.fields.get("label", "")).lower() for row in rows} <= {"true", "false"}
    if judged:
        raise UserError(
            f"{config.path} holds unpaired preferences, as for KTO: label says of each completion whether it is "
            "desirable, and preferences are not trained here",
            "data.desirable=label trains on the desirable completions alone; to tell which they are, "
            "data.text=prompt,completion data.label=label",
        )


def _valued(shape: Shape, rows: Sequence[Row], config: DataConfig) -> Shape:
    """The same, its labels taken as values where they are numbers with fractions; whole numbers may be class ids."""
    if shape.name not in ("text and label", "pair and label"):
        return shape
    labels = [str(row.fields.get(shape.answered, "")).strip() for row in rows]
    numbers = [number for label in labels if (number := number_of(label)) is not None]
    if config.kind == "regression" and not numbers:
        raise UserError(
            f"no value in {shape.answered} of {config.path} is a number: {labels[0]!r}", "leave data.kind out"
        )
    # among values, NaN and infinities are rows to be rejected, and make no classes of the others
    n_values = len(numbers) + sum(label.lower().lstrip("+-") in NO_VALUES for label in labels)
    all_fractions = n_values == sum(map(bool, labels)) and any(number % 1 for number in numbers)
    if config.kind == "classification" or not (config.kind or all_fractions):
        return shape
    return Shape("text and value" if shape.name == "text and label" else "pair and value", shape.asked, shape.answered)


def _named(known: list[str], rows: Sequence[Row], config: DataConfig) -> Shape | None:
    """What the configuration says; columns it leaves out are looked for by name, then by content."""
    if talk := named_talk(known, rows, config):
        return Shape("messages", talk.asked, talk.answer, talk=talk)
    if config.tags:
        words = (config.text,) if config.text else _first(WORDS, known)
        for name in (*words, config.tags):
            require(name, known, config.path)
        return Shape("words and tags", words or _first(TEXT, known), config.tags)
    asked = _listed(config.text)
    if config.minimal_pair:
        return Shape("minimal pairs", tuple(require(name, known, config.path) for name in _listed(config.minimal_pair)))
    if config.choices:
        return _chosen(known, rows, config)
    if config.prompt and not is_template(config.prompt):
        asked = (config.prompt,)
    for name in (*asked, config.label, config.completion):
        if name:
            require(name, known, config.path)
    if config.label:
        others = [name for name in known if name != config.label]
        asked = asked or _pair(known) or _first(TEXT, others) or tuple(others[:1])
        return Shape("text and label" if len(asked) < 2 else "pair and label", asked, config.label)
    if config.rejected:
        return _preferred(known, config.completion or "", require(config.rejected, known, config.path), asked)
    if config.completion:
        others = [name for name in known if name != config.completion]
        return Shape("prompt and completion", asked or _first(PROMPT, others) or tuple(others[:1]), config.completion)
    if not asked:
        return None
    others = [name for name in known if name not in asked]
    if not config.text and (answer := _first(COMPLETION, others)):
        return Shape("prompt and completion", asked, answer[0])
    label = _first(LABEL, others) or tuple(name for name in others if _is_label(rows, name))
    if len(label) == 1:
        return Shape("text and label" if len(asked) < 2 else "pair and label", asked, label[0])
    if config.text and len(asked) == 1:
        return Shape("text", asked)
    return None


def _chosen(known: list[str], rows: Sequence[Row], config: DataConfig) -> Shape:
    """Multiple choice by the columns that are named, the question's and the answer's by name where they are not."""
    columns = _listed(config.choices)
    asked = _listed(config.text) or _listed("" if is_template(config.prompt) else config.prompt)
    others = [name for name in known if name not in columns]
    for name in (*columns, *asked, config.label):
        if name:
            require(name, known, config.path)
    answer = config.label or next(iter(_first(ANSWERS, others)), others[-1] if others else "")
    lower = {name.lower(): name for name in others if name != answer}
    found = next((names for names in QUESTIONS if all(name in lower for name in names)), tuple(lower)[:1])
    counting = counting_of(rows, columns, answer)
    if counting is None:
        raise UserError(
            f"{answer or 'no column'} of {config.path} does not tell which of {', '.join(columns)} is right",
            "name the column with the letter, number or text of the right one: data.label=COLUMN",
        )
    asked = asked or tuple(lower[name] for name in found)
    if not asked and not is_template(config.prompt):
        raise UserError(f"no column of {config.path} is left to be asked", "name one: data.text=COLUMN")
    return Shape("question and choices", asked, answer, Choices(columns, counting))


def _listed(columns: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in columns.split(",")) if columns else ()


def _preferred(known: Sequence[str], chosen: str, rejected: str, asked: tuple[str, ...] = ()) -> Shape | None:
    """Better and worse answers, in text, behind a prompt of their own column or the one that they begin with."""
    better = (chosen,) if chosen else _first(("chosen",), known)
    if not better:
        return None
    others = [name for name in known if name not in (*better, rejected)]
    return Shape(
        "prompt, chosen and rejected", asked or _first(PROMPT, others) or ("prompt",), better[0], rejected=rejected
    )


def _by_name(known: list[str], rows: Sequence[Row], config: DataConfig) -> Shape | None:
    if talk := detect_talk(known, rows, config):
        return Shape("messages", talk.asked, talk.answer, talk=talk)
    if found := detect_choices(known, rows):
        asked, choices, answered = found
        return Shape("question and choices", asked, answered, choices)
    if {"sentence_good", "sentence_bad"} <= set(known):
        return Shape("minimal pairs", ("sentence_good", "sentence_bad"))
    if (worse := _first(("rejected",), known)) and (shape := _preferred(known, "", worse[0])):
        return shape
    answers = _first(("answers", "answer"), known)
    if answers and (question := _first(("context",), known) + _first(("question",), known))[1:]:
        return Shape("context and question", question, answers[0])
    words, tags = _first(WORDS, known), _first(TAGS, known)
    if words and tags and any(all(isinstance(row.fields.get(name), list) for name in (*words, *tags)) for row in rows):
        return Shape("words and tags", words, tags[0])
    answer = _first(COMPLETION, known)
    if answer and (instruction := _first(("instruction",), known)):
        return Shape("instruction and response", (*instruction, *_first(EXTRA, known)), answer[0])
    label = _first(LABEL, known)
    # a question with an answer in words may have a category, too; true or false beside it judges the answer
    judged = bool(label) and {str(row.fields.get(label[0], "")).lower() for row in rows} <= {"true", "false"}
    if answer and not judged and not _is_label(rows, answer[0]) and (asked := _first(ASKING, known)):
        return Shape("prompt and completion", asked, answer[0])
    # "target" is a class in one file and a sentence in the next
    if label and (label[0].lower() != "target" or _is_label(rows, label[0])):
        if pair := _pair(known):
            return Shape("pair and label", pair, label[0])
        # a column of a few values ("question": cause or effect) is not what the model is asked
        if text := _first(TEXT, [name for name in known if name != label[0] and not _is_label(rows, name)]):
            return Shape("text and label", text, label[0])
    if answer and (prompt := _first(PROMPT, known)):
        return Shape("prompt and completion", prompt, answer[0])
    text = _first(("text",), known)
    return Shape("text", text) if text else None


def _by_content(known: list[str], rows: Sequence[Row]) -> Shape | None:
    """One column of few short values and one or two of text, or one column alone."""
    labels = [name for name in known if _is_label(rows, name)]
    texts = tuple(name for name in known if name not in labels)
    if len(labels) == 1 and len(texts) in (1, 2):
        return Shape("text and label" if len(texts) == 1 else "pair and label", texts, labels[0])
    return Shape("text", tuple(known)) if len(known) == 1 else None


def _is_label(rows: Sequence[Row], name: str) -> bool:
    """Whether a column's values are short and come again and again, four times each on average."""
    values = [row.fields.get(name, "") for row in rows]
    if not all(isinstance(value, str) and len(value) <= 40 for value in values):
        return False
    return len({str(value) for value in values}) * 4 <= len(values)


def _pair(known: Sequence[str]) -> tuple[str, ...]:
    lower = {name.lower(): name for name in known}
    return next(((lower[one], lower[two]) for one, two in PAIRS if one in lower and two in lower), ())


def _first(names: Collection[str], known: Sequence[str]) -> tuple[str, ...]:
    """The column that has the earliest of these names, as a tuple of one; empty where there is none."""
    lower = {name.lower(): name for name in reversed(known)}
    return next(((lower[name],) for name in names if name in lower), ())
