"""Families of models that cannot be adapted rightly here, by `model_type`, and why."""

_WINDOWS = "its attention runs over windows and a few global tokens, through modules of their own"
_STAGES = "its stages differ in width, and there is no one stack of layers"
_RECURRENT = "it mixes tokens by a recurrence, and has no attention to act on"
REFUSED: dict[str, str] = {
    "albert": "its layers are one set of weights used again and again: a change in one layer is a change in all",
    **dict.fromkeys(("longformer", "led", "big_bird", "bigbird_pegasus", "longt5"), _WINDOWS),
    **dict.fromkeys(("swin", "swinv2", "convnext", "convnextv2", "pvt", "pvt_v2", "levit", "segformer"), _STAGES),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm", "recurrent_gemma"), _RECURRENT),
    "xlnet": "it reads two streams of positions with weights that are no linear modules",
    **dict.fromkeys(("xlm", "flaubert"), "the parts of its layers lie in lists of their own, and no layer is a module"),
    "funnel": "it pools tokens between its blocks, so that a place is not the same token in every layer",
    "mobilebert": "each of its layers holds four feed-forward parts and bottlenecks of another width between them",
}
