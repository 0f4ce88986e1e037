"""What one more query costs: the tokens that are read before its answer, and the seconds it took here."""

from tunewise.evaluation.evaluate import Evaluation


def cost_of_a_query(found: Evaluation, n_virtual: int) -> dict[str, float]:
    """For metrics.json, means over the queries of an evaluation, each behind `n_virtual` positions.

    `prompt_tokens`: all that is read before an answer. `serving_tokens`: how many of them no bare question has, which
    are demonstrations, the separators behind them, and virtual tokens. `seconds_a_query`: as the evaluation took, which
    reads demonstrations once for all queries; of runs that were asked at once its share by tokens.
    """
    n = len(found.predictions)
    return {
        "prompt_tokens": round(n_virtual + found.n_read / n, 2),
        "serving_tokens": round(n_virtual + (found.n_read - found.n_bare) / n, 2),
        "seconds_a_query": round(found.seconds / n, 6),
    }
