"""Two small real tokenizers of unlike conventions, trained on a few sentences."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "the cat sat on the mat and the cat ate the fish in the harbour",
    "Human: what is it? Assistant: it is a label. Label: ham Label: spam positive negative",
    "a review of the boat was positive, the weather was negative\n\nyes or no",
]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# shows the number of turns at the top, so that adding a turn changes what came before
COUNTING = "{{ messages | length }} turns\n{% for message in messages %}{{ message.content }}\n{% endfor %}"
REFUSING = "{% for message in messages %}{{ raise_exception('no system role') }}{% endfor %}"


@cache
def bytes_without_begin() -> PreTrainedTokenizerFast:
    """Byte-level merges as in GPT-2 and Qwen: no begin token, a ChatML template, <|im_end|> as the end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHATML)


@cache
def pieces_with_begin() -> PreTrainedTokenizerFast:
    """Sentence pieces as in Llama: a begin token before, a space put before the first word, no chat template."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    begin = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def with_template(template: str) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer with another chat template."""
    tokenizer = bytes_without_begin()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>", chat_template=template
    )


TOKENIZERS = {"bytes": bytes_without_begin, "pieces": pieces_with_begin}
