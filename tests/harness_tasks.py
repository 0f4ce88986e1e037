"""Task files for lm-evaluation-harness with rows of their own beside them: nothing is fetched."""

import json
from pathlib import Path

CHOICE = """\
task: boats
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """\
task: boats_written
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}\\nAnswer:"
doc_to_target: answer
generation_kwargs: {until: ["\\n", " the"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
TEXT = """\
task: boats_text
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{answer}}. "
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""


def write_tasks(folder: Path, n: int = 12) -> Path:
    """A folder with the tasks boats, boats_written and boats_text, and their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    choices = ["yes", "no, it is dry", "perhaps"]
    rows = [
        {"question": f"Is boat {i} wet?", "answer": choices[i % 3], "choices": choices, "gold": i % 3} for i in range(n)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for name, text in (("choice", CHOICE), ("written", WRITTEN), ("text", TEXT)):
        (folder / f"{name}.yaml").write_text(text.replace("ROWS", str(folder / "rows.jsonl")), "utf-8")
    return folder
