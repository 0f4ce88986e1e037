"""Random bases on disk with tokenizers of their own, and tasks that they can learn, for whole runs in a second."""

from pathlib import Path

import torch
from PIL import Image
from tokenizers import processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from tests.bytes_tokenizer import VOCABULARY, bytes_tokenizer
from tunewise.files import write_jsonl

QUICK = {"train.steps": 6, "train.batch_size": 8, "train.learning_rate": 1e-2}
TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
"""A chat template."""


def write_base(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """A two-layer Llama with context 96."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=96, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    bytes_tokenizer().save_pretrained(folder)
    return folder


def write_reviews(path: Path, n: int = 60) -> Path:
    """Rows of text and label; the label is told by one word."""
    rows = [f"the {'soup' if i % 3 else 'boat'} {i} was {'good' if i % 2 else 'bad'},{i % 2}" for i in range(n)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    return path


def write_place(folder: Path) -> Path:
    """A base and reviews to train it on: folder/base and folder/reviews.csv."""
    write_base(folder / "base")
    write_reviews(folder / "reviews.csv")
    return folder


def write_talker(folder: Path, chats: Path) -> Path:
    """A base with a chat template, in `folder`, and conversations to train it on, in the file `chats`."""
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = TURNS
    write_base(folder, seed=3)
    tokenizer.save_pretrained(folder)
    turns = [
        [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"boat {i}"}] for i in range(40)
    ]
    write_jsonl(chats, [{"messages": messages} for messages in turns])
    return folder


def write_place_with_texts(folder: Path, n_texts: int, n_counts: int) -> Path:
    """The same with folder/texts.jsonl, held-out text, and folder/counts.jsonl, a task whose answers are written."""
    texts = ({"text": f"the kitchen water number {i} was cold"} for i in range(n_texts))
    write_jsonl(folder / "texts.jsonl", texts)
    counts = ({"prompt": f"count {i}:", "completion": f" the {i} boat"} for i in range(n_counts))
    write_jsonl(folder / "counts.jsonl", counts)
    return write_place(folder)


def write_encoder(folder: Path) -> Path:
    """A two-layer BERT that no classifier has been put on, with a tokenizer that knows pairs."""
    tokenizer = bytes_tokenizer(begin=False)
    raw = tokenizer.backend_tokenizer
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    named = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=inputs, **named).save_pretrained(folder)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96, pad_token_id=0, initializer_range=0.1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    _save(BertModel, config, folder)
    return folder


def write_encoder_decoder(folder: Path) -> Path:
    """A T5 of two layers each, with a tokenizer that ends every text."""
    raw = bytes_tokenizer(begin=False).backend_tokenizer
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=2, decoder_start_token_id=0,
    )  # fmt: skip
    _save(T5ForConditionalGeneration, config, folder)
    return folder


def write_image_model(folder: Path) -> Path:
    """A two-layer ViT for pictures of 8 x 8 points."""
    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=4,
        initializer_range=0.1,
    )  # fmt: skip
    _save(ViTModel, config, folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def write_pictures(folder: Path, n: int = 20) -> Path:
    """Bright and dark pictures, a folder for each."""
    generator = torch.Generator().manual_seed(0)
    for label, low in (("bright", 150), ("dark", 0)):
        (folder / label).mkdir(parents=True)
        for number in range(n):
            points = torch.randint(low, low + 100, (8, 8, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(points.numpy()).save(folder / label / f"{number}.png")
    return folder


def _save(model: type[PreTrainedModel], config: PreTrainedConfig, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model(config).save_pretrained(folder)
