"""What the settings of Trainer, peft, trl, axolotl and LLaMA-Factory are called here, where it is something else."""

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
ANSWERS = {
    ONE_DEVICE: (
        "accelerator_config average_tokens_across_devices ddp_backend ddp_find_unused_parameters ddp_timeout deepspeed "
        "fsdp fsdp_config local_rank log_on_each_node mp_parameters ray_scope save_on_each_node tpu_num_cores"
    ),
    "train.checkpointing=true": "activation_offloading gradient_checkpointing_kwargs",
    "train.optimiser=adafactor": "adafactor",
    "adapter=FOLDER": "adapter_name_or_path create_new_adapter lora_model_dir",
    f"{MISSING} the tokenizer stays as it is": (
        "add_tokens eos_token new_special_tokens resize_vocab special_tokens split_special_tokens"
    ),
    "method.roles=[q,v], or all": (
        "additional_target exclude_modules lora_target lora_target_linear lora_target_modules target_modules "
        "target_parameters"
    ),
    f"{MISSING} one rank and one alpha for all sites": "alpha_pattern rank_pattern",
    f"{MISSING} the variants of LoRA are those that tunewise methods tells": "arrow_config relora_steps use_qalora",
    f"{NOTHING} data.trained_on=answers is so by itself": (
        "assistant_only_loss completion_only_loss instruction_template response_template"
    ),
    FROM_BASE: (
        "attention_dropout classifier_dropout config_name fan_in_fan_out hidden_dropout_prob inference_mode "
        "is_falcon_derived_model layers_pattern lora_fan_in_fan_out megatron_config model_type rope_scaling task_type "
        "tokenizer_name tokenizer_type use_fast_tokenizer"
    ),
    KERNELS: (
        "attn_implementation compile enable_liger_kernel flash_attention flash_attn low_cpu_mem_usage "
        "model_init_kwargs sdp_attention shift_attn tf32 torch_compile torchao torchdynamo use_cache use_liger "
        "use_liger_kernel use_unsloth use_unsloth_gc xformers_attention"
    ),
    "train.batch_size=N, of which tunewise plan tells the largest that fits": "auto_find_batch_size",
    f"{NOTHING} the same command goes on": (
        "auto_resume_from_checkpoints checkpoint_dir ckpt ignore_data_skip restore_callback_states_from_checkpoint "
        "resume resume_from_checkpoint"
    ),
    f"{MISSING} the optimisers are those that train.optimiser names": (
        "badam_mode galore_rank galore_target galore_update_proj_gap optim_target_modules use_apollo use_badam "
        "use_galore"
    ),
    "model=FOLDER_OR_NAME": "base_model model_name model_name_or_path pretrained_model_name_or_path",
    PREFERENCES: (
        "beta dpo_beta kl_coef loss_type max_completion_length max_prompt_length num_generations ppo_epochs "
        "precompute_ref_log_probs pref_beta pref_loss ref_model reference_model reward_model rl"
    ),
    "dtype=bfloat16": (
        "bf16 bf16_full_eval bnb_4bit_compute_dtype fp16 fp16_full_eval half_precision_backend mixed_precision "
        "precision pure_bf16 torch_dtype"
    ),
    f"{MISSING} LoRA trains no biases, method=bitfit trains them alone": "bias lora_bias",
    "quantise=nf4, or int8": (
        "bits bnb_4bit_quant_type bnb_config gptq nbits quant_type quantization_bit quantization_config "
        "quantization_method"
    ),
    "train.max_length=N": (
        "block_size cutoff_len max_seq_length max_source_length max_target_length sequence_len source_max_len "
        "target_max_len val_max_target_length"
    ),
    f"{NOTHING} the scales of nf4 and fp4 are quantised too": (
        "bnb_4bit_use_double_quant double_quant double_quantization"
    ),
    f"{NOTHING} big files are read row by row": "buffer_size streaming",
    "HF_HOME=FOLDER before the command": "cache_dir",
    EVERY_STEP: (
        "callbacks include_num_input_tokens_seen log_level logging_first_step logging_nan_inf_filter logging_steps "
        "logging_strategy plot_loss skip_memory_metrics"
    ),
    "data.template=NAME, or FILE.jinja": "chat_template chat_template_jinja tool_format",
    f"{NOTHING} the labels are those of the rows": "classes id2label label2id num_labels",
    "train.clip=NORM": "clip_grad_norm gradient_clipping",
    "data.metrics=METRIC,..., of which the first decides": (
        "compute_accuracy compute_metrics eval_metric metric_for_best_model"
    ),
    "method.init=kaiming, gaussian, pissa, olora, eva or loftq": (
        "corda_config eva_config init_lora_weights loftq_config pissa_convert pissa_init pissa_iter"
    ),
    "train.floor=SHARE of the peak": "cosine_min_lr_ratio",
    "seed=N": "data_seed full_determinism random_seed",
    TOKENISED: (
        "dataloader_num_workers dataloader_pin_memory dataset_batch_size dataset_kwargs dataset_num_proc "
        "dataset_prepared_path overwrite_cache preprocessing_num_workers"
    ),
    "data=FILE_OR_NAME": "dataset",
    "data=hf:OWNER/NAME:CONFIG": "dataset_config dataset_config_name",
    "data=FILE": "dataset_dir datasets train_dataset train_file",
    "data=hf:OWNER/NAME": "dataset_name",
    "data.splits.dev=NAME data.splits.test=NAME": "dataset_test_split eval_split test_split",
    "data.text=COLUMN": "dataset_text_field text_column text_column_name",
    "data.splits.train=NAME": "dataset_train_split train_split train_split_name",
    "TUNEWISE_DEVICE=cuda:1 before the command; a GPU is taken where there is one": "device device_map use_mps_device",
    f"{NOTHING} progress is told in lines where nobody looks at a terminal": "disable_tqdm",
    f"{MISSING} one learning rate for all layers": "discriminative_lr layer_lr_decay layerwise_lr_decay",
    f"{NOTHING} dev is looked at while training, and test once at the end": "do_eval",
    f"{NOTHING} predictions.jsonl has every test row": (
        "do_predict eval_table_size include_inputs_for_metrics predict_with_generate prediction_loss_only"
    ),
    f"{NOTHING} a method that trains is trained": "do_train",
    "train.patience=N": "early_stopping early_stopping_patience early_stopping_threshold min_delta",
    f"{MISSING} no averages of weights": "ema ema_decay swa",
    f"{NOTHING} how many rows are asked at once is found by itself": (
        "eval_accumulation_steps eval_batch_size eval_do_concat_batches per_device_eval_batch_size"
    ),
    "data=FOLDER, with train, dev and test files": "eval_dataset test_file validation_file",
    "data.split=[0.8,0.1,0.1]": "eval_dataset_size val_set_size val_size validation_split_percentage",
    "train.evaluate_every=EPOCHS, which may be a fraction": (
        "eval_delay eval_on_start eval_steps eval_strategy evals_per_epoch evaluation_strategy"
    ),
    f"{NOTHING} rows are packed without padding": (
        "eval_packing eval_sample_packing group_by_length packing_strategy pad_to_multiple_of pad_to_sequence_len "
        "padding_free sample_packing"
    ),
    "--out FOLDER": "experiment_name notes output_dir project run_id run_name",
    "tunewise adapter merge RUN --out FOLDER, after the run": "export_dir merge_lora",
    "method=ia3": "feedforward_modules init_ia3_weights",
    "method=lora, or another of tunewise methods": "finetuning_type lora peft_config peft_type use_lora use_peft",
    f"{MISSING} the loss is cross-entropy, with train.label_smoothing=SHARE and train.class_weights=balanced": (
        "focal_gamma loss loss_fn"
    ),
    "data.prompt=TEMPLATE, with columns in braces": "formatting_func prompt_template source_prefix",
    "method=top_layers method.layers=K": (
        "freeze_extra_modules freeze_layers freeze_trainable_layers freeze_trainable_modules unfreeze_layers "
        "unfrozen_parameters"
    ),
    "method=full": "full_finetune full_finetuning",
    "train.accumulation=N": "grad_accum gradient_accumulation",
    f"{NOTHING} each metric knows it; one of your own ends in :lower": "greater_is_better",
    PUSHED: "hub_always_push hub_model_id hub_private_repo hub_strategy push_to_hub push_to_hub_model_id",
    "hf auth login before the command": "hub_token token use_auth_token",
    f"{NOTHING} padding is never trained": "ignore_pad_token ignore_pad_token_for_loss pad_token",
    "data=MIXTURE.yaml, which says how its sources are mixed": "interleave_probs mix_strategy",
    "data.label=COLUMN": "label_column label_column_name label_names",
    "train.schedule=linear, cosine, constant, inverse_sqrt or warmup_stable_decay": (
        "learning_rate_scheduler lr_decay lr_scheduler lr_scheduler_name scheduler"
    ),
    f"{NOTHING} the best state on dev is kept; train.evaluate_every=null keeps the last": "load_best_model_at_end",
    "quantise=nf4": "load_in_4bit",
    "quantise=int8": "load_in_8bit",
    f"{NOTHING} the events lie in tensorboard, in the folder of the run": "logging_dir",
    "method.alpha=N": "lora_alpha",
    "method.dropout=SHARE": "lora_dropout",
    f"{NOTHING} a new head is trained and saved with every method, other modules are not": (
        "lora_modules_to_save modules_to_save"
    ),
    "method.rank=N": "lora_r lora_rank",
    f"{MISSING} one rate for A and one for B (method.b_rate), the embedding has none": "loraplus_lr_embedding",
    "train.learning_rate=RATE": "lr",
    "train.floor=SHARE of the peak, or train.decay=SHARE of the steps": "lr_scheduler_kwargs",
    "data.trained_on=last_answer": "mask_history",
    "data.dev=N": "max_eval_samples",
    f"{NOTHING} tunewise plan tells what fits": "max_memory max_memory_MB torch_empty_cache_steps",
    "max_new_tokens: N in the task.yaml of a folder, or --max-new-tokens of chat": "max_new_tokens",
    "data.test=N": "max_predict_samples",
    "data.train=N": "max_samples max_train_samples",
    "train.steps=N": "max_train_steps total_step total_steps",
    "train.batch_size=N": "micro_batch_size train_batch_size",
    f"{MISSING} nothing is mixed within a row": "mixup",
    "train.report_to=tensorboard": (
        "mlflow_tracking_uri tensorboard trackio_space_id use_swanlab wandb wandb_entity wandb_project wandb_run_id"
    ),
    "model=OWNER/NAME@REVISION": "model_revision revision",
    "train.epochs=N": "n_epochs num_epoch num_epochs",
    f"{MISSING} no noise on embeddings": "neftune neftune_noise_alpha",
    "TUNEWISE_DEVICE=cpu before the command": "no_cuda use_cpu",
    f"{MISSING} answers are greedy, or drawn by generation.do_sample": "num_beams repetition_penalty",
    "train.warmup_steps=N": "num_warmup_steps",
    "train.momentum=N, or train.beta1=N": "optim_args",
    "--out FOLDER, a new one": "overwrite_output_dir",
    "data.kind=classification, or regression": "problem_type",
    "method=lora quantise=nf4": "qlora use_qlora",
    f"{NOTHING} of a row only the columns that are told are read": "remove_unused_columns",
    "data.roles=[assistant,...]": "roles_to_train",
    f"{NOTHING} adapters are saved as safetensors, without the base": "save_only_model save_safetensors",
    "train.checkpoint_every=STEPS": "save_strategy saves_per_epoch",
    f"{NOTHING} the newest checkpoint is kept, and the best state": "save_total_limit",
    f"{NOTHING} rows are drawn in another order in each epoch": "shuffle shuffle_dataset",
    f"{NOTHING} the columns of the data say what is trained": "stage",
    f"{MISSING} bases are tuned, not made": "train_from_scratch",
    f"{NOTHING} the token that ends an answer is trained with it": "train_on_eos",
    "data.trained_on=everything": "train_on_inputs train_on_prompt",
    f"{MISSING} no single rows of the embedding, method=prompt_tuning trains virtual tokens": "trainable_token_indices",
    f"{MISSING} code of strangers is not run": "trust_remote_code",
    "method=dora": "use_dora",
}
"""What to type -> the names of it."""
ELSEWHERE = {name: told for told, names in ANSWERS.items() for name in names.split()}
"""Name -> what to type."""


def hint_for(names: Iterable[str]) -> str:
    """What to type for those of these names that others use; "" where none is known."""
    known = {name: ELSEWHERE[name] for name in names if name in ELSEWHERE}
    if len(known) > 1:
        return "; ".join(f"{name}: {told}" for name, told in known.items())
    return "".join(told if told.startswith((NOTHING, MISSING)) else f"write {told}" for told in known.values())
