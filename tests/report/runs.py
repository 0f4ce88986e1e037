"""Hand-written run folders of the size and shape that real ones have, for pages and tables without training."""

import json
import math
import random
from pathlib import Path

ARMS = {
    # folder: (method, accuracy, spread, n_trainable, bytes, seconds, forgetting)
    "frozen-0a": ({"name": "frozen", "shots": 0}, 0.521, 0.0, 0, 0, 1.1, None),
    "frozen-8b": ({"name": "frozen", "shots": 8}, 0.702, 0.021, 0, 0, 4.8, 0.0),
    "lora-1c": (
        {"name": "lora", "rank": 8, "alpha": 16.0, "roles": ["q", "v"]},
        0.902,
        0.006,
        49_152,
        201_344,
        9.7,
        0.062,
    ),
    "bitfit-2d": ({"name": "bitfit"}, 0.861, 0.009, 9_216, 39_100, 8.4, 0.021),
    "bottleneck-3e": ({"name": "bottleneck", "bottleneck": 16}, 0.893, 0.011, 106_848, 431_200, 10.9, 0.057),
    "prompt_tuning-4f": ({"name": "prompt_tuning", "virtual_tokens": 16}, 0.742, 0.034, 4_096, 17_012, 9.9, 0.004),
    "top_layers-5a": ({"name": "top_layers", "layers": 2}, 0.884, 0.005, 1_583_616, 6_335_900, 6.1, 0.117),
    "full-6b": ({"name": "full"}, 0.909, 0.008, 5_771_520, 23_091_100, 16.2, 0.348),
}
LABELS = ("positive", "negative")
TEXTS = [
    ("I would not board that ferry again: cold soup, a wet bench and nobody to ask.\nThe verdict is", "negative"),
    ("Marit's bakery has the best waffles on the quay, and she remembers your name.\nThe verdict is", "positive"),
    ("The boat trip was short but the crew sang all the way, and the children loved it.\nThe verdict is", "positive"),
    ("Two hours of waiting for a herring that tasted of the bucket.\nThe verdict is", "negative"),
]


def write_runs(root: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Run folders below `root`, one an arm and seed; the same files on every call."""
    noise = random.Random(7)
    for arm, (method, accuracy, spread, n_trainable, n_bytes, seconds, forgetting) in ARMS.items():
        for seed in seeds:
            folder = root / "tiny-sentiment" / arm / f"seed{seed}"
            folder.mkdir(parents=True)
            score = round(100 * (accuracy + spread * (seed - 1)), 2)
            wrote = f"model: tiny\ndata: {{path: 'tiny:sentiment'}}\nmethod: {json.dumps(method)}\nseed: {seed}\n"
            (folder / "recipe.yaml").write_text(wrote)
            proof = {"passed": True, "value": 0.0, "tolerance": 0.0}
            proofs = (
                dict.fromkeys(("reloads_to_the_same_logits", "has_an_effect", "base_unchanged"), proof)
                if n_trainable
                else {}
            )
            change = None if forgetting is None else forgetting * (1 + 0.1 * (seed - 1))
            metrics = {
                "task": "sentiment", "method": method["name"], "seed": seed,
                "test": {"accuracy": score, "macro_f1": score - 0.4}, "dev": {"accuracy": score + 1.0},
                "retention": {"base": 2.114, "tuned": 2.114 + (change or 0), "change": change},
                "n_trainable": n_trainable, "adapter_bytes": n_bytes, "seconds": seconds + 0.3 * seed,
                "train_seconds": seconds * 0.7 if n_trainable else 0.0, "peak_bytes": 620_000_000 + 12 * n_trainable,
                "tokens": 61_440, "tokens_per_second": 5400.0, "steps": 189 if n_trainable else 0, "proofs": proofs,
            }  # fmt: skip
            (folder / "metrics.json").write_text(json.dumps(metrics))
            (folder / "env.json").write_text(
                json.dumps(
                    {"tunewise": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "threads": 1}
                )
            )
            steps = range(1, 190) if n_trainable else ()
            losses = [0.15 + 0.6 * (1.4 - accuracy) * math.exp(-s / 50) + noise.gauss(0, 0.03) for s in steps]
            lines = [{"step": s, "loss": round(max(v, 0.01), 4)} for s, v in zip(steps, losses)]
            if n_trainable:
                lines += [{"step": s, "dev": score - 40 / s, "best": s != 126} for s in (63, 126, 189)]
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            rows = [
                {
                    "id": f"test-{i}",
                    "prompt": text,
                    "expected": gold,
                    "predicted": gold if accuracy > 0.8 else "positive",
                    "correct": accuracy > 0.8 or gold == "positive",
                    "scores": {
                        name: -0.1 if name == (gold if accuracy > 0.8 else "positive") else -2.4 for name in LABELS
                    },
                }
                for i, (text, gold) in enumerate(TEXTS)
            ]
            (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "DONE").touch()
    return root
