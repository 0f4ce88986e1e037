"""Log-probabilities of given answers under several lanes at once: one row holds the same prompts for each."""

from collections.abc import Iterator, Sequence

from tunewise.engine.packed_reading import reading, rows_of
from tunewise.engine.scoring import Likelihood, read_options
from tunewise.methods.lanes import Lanes, Part, Parts


def log_probabilities_by_lane(
    lanes: Lanes, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]
) -> list[list[list[float]]]:
    """For each lane what `option_log_probabilities` finds, inside the block of `lanes`.

    For decoders that read packed (`why_not_read`). Nothing is shared between prompts: what they begin with is another
    thing in every lane.
    """
    n_lanes, model = len(lanes.tuned), lanes.model
    found: list[list[list[float]]] = [[[] for _ in prompts] for _ in range(n_lanes)]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    n_behind = [sum(len(option) - 1 for option in of_prompt) for of_prompt in options]
    n_tokens = [len(prompt) + n for prompt, n in zip(prompts, n_behind, strict=True)]
    by_lanes = [[n_lanes * n for n in sizes] for sizes in (n_tokens, [n + 1 for n in n_behind])]
    with reading(model, ()) as reader:
        for indices in rows_of(*by_lanes, vocabulary):
            size, head_size = (sum(sizes[i] for i in indices) for sizes in (n_tokens, [n + 1 for n in n_behind]))
            parts = Parts(1, tuple(Part(number, size, head_size) for number in range(n_lanes)))
            with lanes.at(parts):
                scores = read_options(
                    reader, [prompts[i] for i in indices] * n_lanes, [options[i] for i in indices] * n_lanes
                )
            for number, of_lane in enumerate(_split(scores, len(indices))):
                for i, of_prompt in zip(indices, of_lane, strict=True):
                    found[number][i] = [option.log_probability for option in of_prompt]
    return found


def losses_by_lane(lanes: Lanes, documents: Sequence[Sequence[int]]) -> list[list[float]]:
    """For each lane the loss of each document in nats, summed over every token but its first; 0 for a single token."""
    told = [i for i, ids in enumerate(documents) if len(ids) > 1]
    found = log_probabilities_by_lane(lanes, [documents[i][:1] for i in told], [[documents[i][1:]] for i in told])
    losses = [[0.0] * len(documents) for _ in found]
    for of_lane, scores in zip(losses, found, strict=True):
        for i, (value,) in zip(told, scores, strict=True):
            of_lane[i] = -value
    return losses


def _split(rows: list[list[Likelihood]], size: int) -> Iterator[list[list[Likelihood]]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
