"""What the settings of transformers' Trainer, trl and LLaMA-Factory are called here, where it is something else."""

from collections.abc import Iterable

NOTHING = "nothing to write:"
EVERY_STEP = f"{NOTHING} log.jsonl has every step, and from Python progress=WATCHER is told of it"
FROM_BASE = f"{NOTHING} it is found from the base"
KERNELS = f"{NOTHING} tunewise doctor tells which kernels were found to be faster"
MISSING = "there is no such thing here:"
ONE_DEVICE = f"{MISSING} a run is on one device, in one process"
PREFERENCES = (
    f"{MISSING} no losses of preferences; of rows with chosen and rejected answers the chosen ones are trained on"
)
PUSHED = "tunewise adapter push RUN OWNER/NAME, after the run"
TOKENISED = f"{NOTHING} rows are token ids before the first step"
ELSEWHERE = {
    "adapter_name_or_path": "adapter=FOLDER",
    "alpha_pattern": f"{MISSING} one rank and one alpha for all sites",
    "assistant_only_loss": f"{NOTHING} data.trained_on=answers is so by itself",
    "auto_find_batch_size": "train.batch_size=N, of which tunewise plan tells the largest that fits",
    "beta": PREFERENCES,
    "bf16": "dtype=bfloat16",
    "block_size": "train.max_length=N",
    "completion_only_loss": f"{NOTHING} data.trained_on=answers is so by itself",
    "cutoff_len": "train.max_length=N",
    "data_seed": "seed=N",
    "dataloader_num_workers": TOKENISED,
    "dataloader_pin_memory": TOKENISED,
    "dataset": "data=FILE_OR_NAME",
    "dataset_name": "data=hf:OWNER/NAME",
    "dataset_text_field": "data.text=COLUMN",
    "deepspeed": ONE_DEVICE,
    "device_map": "TUNEWISE_DEVICE=cuda before the command",
    "disable_tqdm": f"{NOTHING} progress is told in lines where nobody looks at a terminal",
    "do_eval": f"{NOTHING} dev is looked at while training, and test once at the end",
    "do_predict": f"{NOTHING} predictions.jsonl has every test row",
    "do_train": f"{NOTHING} a method that trains is trained",
    "dpo_beta": PREFERENCES,
    "early_stopping_patience": "train.patience=N",
    "eval_steps": "train.evaluate_every=EPOCHS, which may be a fraction",
    "eval_strategy": "train.evaluate_every=EPOCHS, which may be a fraction",
    "evaluation_strategy": "train.evaluate_every=EPOCHS, which may be a fraction",
    "fan_in_fan_out": FROM_BASE,
    "finetuning_type": "method=lora, or another of tunewise methods",
    "fp16": "dtype=bfloat16",
    "fsdp": ONE_DEVICE,
    "gradient_checkpointing_kwargs": "train.checkpointing=true",
    "greater_is_better": f"{NOTHING} each metric knows it; one of your own ends in :lower",
    "group_by_length": f"{NOTHING} rows are packed without padding",
    "hub_model_id": PUSHED,
    "inference_mode": FROM_BASE,
    "init_lora_weights": "method.init=kaiming, gaussian, pissa, olora, eva or loftq",
    "load_best_model_at_end": f"{NOTHING} the best state on dev is kept; train.evaluate_every=null keeps the last",
    "load_in_4bit": "quantise=nf4",
    "load_in_8bit": "quantise=int8",
    "logging_dir": f"{NOTHING} the events lie in tensorboard, in the folder of the run",
    "logging_first_step": EVERY_STEP,
    "logging_steps": EVERY_STEP,
    "logging_strategy": EVERY_STEP,
    "lora_alpha": "method.alpha=N",
    "lora_dropout": "method.dropout=SHARE",
    "lora_r": "method.rank=N",
    "lora_rank": "method.rank=N",
    "lora_target": "method.roles=[q,v], or all",
    "lora_target_modules": "method.roles=[q,v], or all",
    "loss_type": PREFERENCES,
    "lr": "train.learning_rate=RATE",
    "lr_scheduler_kwargs": "train.floor=SHARE of the peak, or train.decay=SHARE of the steps",
    "max_eval_samples": "data.dev=N",
    "max_predict_samples": "data.test=N",
    "max_samples": "data.train=N",
    "max_seq_length": "train.max_length=N",
    "max_train_samples": "data.train=N",
    "metric_for_best_model": "data.metrics=METRIC,..., of which the first decides",
    "model_name_or_path": "model=FOLDER_OR_NAME",
    "modules_to_save": f"{NOTHING} a new head is trained and saved with every method, other modules are not",
    "neftune_noise_alpha": f"{MISSING} no noise on embeddings",
    "no_cuda": "TUNEWISE_DEVICE=cpu before the command",
    "num_warmup_steps": "train.warmup_steps=N",
    "optim_args": "train.momentum=N, or train.beta1=N",
    "output_dir": "--out FOLDER",
    "overwrite_output_dir": "--out FOLDER, a new one",
    "per_device_eval_batch_size": f"{NOTHING} how many rows are asked at once is found by itself",
    "pref_beta": PREFERENCES,
    "pref_loss": PREFERENCES,
    "pure_bf16": "dtype=bfloat16",
    "push_to_hub": PUSHED,
    "quantization_bit": "quantise=nf4, or int8",
    "rank_pattern": f"{MISSING} one rank and one alpha for all sites",
    "remove_unused_columns": f"{NOTHING} of a row only the columns that are told are read",
    "resume_from_checkpoint": f"{NOTHING} the same command goes on",
    "run_name": "--out FOLDER",
    "save_strategy": "train.checkpoint_every=STEPS",
    "save_total_limit": f"{NOTHING} the newest checkpoint is kept, and the best state",
    "stage": f"{NOTHING} the columns of the data say what is trained",
    "target_modules": "method.roles=[q,v], or all",
    "task_type": FROM_BASE,
    "tf32": KERNELS,
    "torch_compile": KERNELS,
    "torch_dtype": "dtype=bfloat16",
    "train_file": "data=FILE",
    "train_on_inputs": "data.trained_on=everything",
    "use_cpu": "TUNEWISE_DEVICE=cpu before the command",
    "use_dora": "method=dora",
    "use_liger_kernel": KERNELS,
    "val_size": "data.split=[0.8,0.1,0.1]",
}
"""Name -> what to type."""


def hint_for(names: Iterable[str]) -> str:
    """What to type for those of these names that others use; "" where none is known."""
    known = {name: ELSEWHERE[name] for name in names if name in ELSEWHERE}
    if len(known) > 1:
        return "; ".join(f"{name}: {told}" for name, told in known.items())
    return "".join(told if told.startswith((NOTHING, MISSING)) else f"write {told}" for told in known.values())
