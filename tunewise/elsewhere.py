"""What the settings of transformers' Trainer, trl and LLaMA-Factory are called here, where it is something else."""

from collections.abc import Iterable

NOTHING = "nothing to write:"
EVERY_STEP = f"{NOTHING} log.jsonl has every step, and from Python progress=WATCHER is told of it"
ELSEWHERE = {
    "adapter_name_or_path": "adapter=FOLDER",
    "assistant_only_loss": f"{NOTHING} data.trained_on=answers is so by itself",
    "bf16": "dtype=bfloat16",
    "block_size": "train.max_length=N",
    "completion_only_loss": f"{NOTHING} data.trained_on=answers is so by itself",
    "cutoff_len": "train.max_length=N",
    "dataset": "data=FILE_OR_NAME",
    "dataset_name": "data=hf:OWNER/NAME",
    "dataset_text_field": "data.text=COLUMN",
    "device_map": "TUNEWISE_DEVICE=cuda before the command",
    "do_eval": f"{NOTHING} dev is looked at while training, and test once at the end",
    "do_predict": f"{NOTHING} predictions.jsonl has every test row",
    "do_train": f"{NOTHING} a method that trains is trained",
    "early_stopping_patience": "train.patience=N",
    "eval_steps": "train.evaluate_every=EPOCHS, which may be a fraction",
    "eval_strategy": "train.evaluate_every=EPOCHS, which may be a fraction",
    "evaluation_strategy": "train.evaluate_every=EPOCHS, which may be a fraction",
    "finetuning_type": "method=lora, or another of tunewise methods",
    "fp16": "dtype=bfloat16",
    "load_best_model_at_end": f"{NOTHING} the best state on dev is kept; train.evaluate_every=null keeps the last",
    "load_in_4bit": "quantise=nf4",
    "load_in_8bit": "quantise=int8",
    "logging_steps": EVERY_STEP,
    "logging_strategy": EVERY_STEP,
    "lora_alpha": "method.alpha=N",
    "lora_dropout": "method.dropout=SHARE",
    "lora_r": "method.rank=N",
    "lora_rank": "method.rank=N",
    "lora_target": "method.roles=[q,v], or all",
    "lora_target_modules": "method.roles=[q,v], or all",
    "lr": "train.learning_rate=RATE",
    "lr_scheduler_kwargs": "train.floor=SHARE of the peak, or train.decay=SHARE of the steps",
    "max_eval_samples": "data.dev=N",
    "max_predict_samples": "data.test=N",
    "max_samples": "data.train=N",
    "max_seq_length": "train.max_length=N",
    "max_train_samples": "data.train=N",
    "model_name_or_path": "model=FOLDER_OR_NAME",
    "no_cuda": "TUNEWISE_DEVICE=cpu before the command",
    "num_warmup_steps": "train.warmup_steps=N",
    "optim_args": "train.momentum=N, or train.beta1=N",
    "output_dir": "--out FOLDER",
    "per_device_eval_batch_size": f"{NOTHING} how many rows are asked at once is found by itself",
    "quantization_bit": "quantise=nf4, or int8",
    "resume_from_checkpoint": f"{NOTHING} the same command goes on",
    "save_strategy": "train.checkpoint_every=STEPS",
    "stage": f"{NOTHING} the columns of the data say what is trained",
    "target_modules": "method.roles=[q,v], or all",
    "torch_dtype": "dtype=bfloat16",
    "train_file": "data=FILE",
    "train_on_inputs": "data.trained_on=everything",
    "use_cpu": "TUNEWISE_DEVICE=cpu before the command",
    "val_size": "data.split=[0.8,0.1,0.1]",
}
"""Name -> what to type."""


def hint_for(names: Iterable[str]) -> str:
    """What to type for those of these names that others use; "" where none is known."""
    known = {name: ELSEWHERE[name] for name in names if name in ELSEWHERE}
    if len(known) > 1:
        return "; ".join(f"{name}: {told}" for name, told in known.items())
    return "".join(told if told.startswith(NOTHING) else f"write {told}" for told in known.values())
