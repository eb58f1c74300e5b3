"""Multinomial logistic regression on standardized embeddings, with a choice of its regularization."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtsa_kit.data.labeled import stratified_split

SELECTION_FRACTION = 0.2
"""Fraction of the training images that C is chosen on."""
MAX_ITERATIONS = 1000
"""Maximum number of iterations of the solver."""
MAX_NEWTON_WEIGHTS = 1500
"""Maximum number of weights for Newton's method. It takes five steps where L-BFGS takes some hundred: a third of the
time at 192 features and 6 classes."""


@dataclass(frozen=True)
class LabeledVectors:
    """Embeddings and labels of one side of a split."""

    vectors: np.ndarray
    """Embeddings, (N, D)."""
    labels: np.ndarray
    """Class numbers, (N,)."""


def fit_logistic_regression(
    train: LabeledVectors, queries: np.ndarray, classes: int, c_values: Sequence[float], seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit logistic regression and score queries.

    Args:
        train: Training part.
        queries: (Q, D) embeddings.
        classes: Number of classes; those without training images are never predicted.
        c_values: Values of C to choose from, in ascending order; ties go to the first.
        seed: Seed of the part that C is chosen on.

    Returns:
        (Q, classes) log probabilities, and the columns `c`, `solver` and `converged` of the report.
    """
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped, unused-ignore]

    scaler = StandardScaler().fit(train.vectors.astype(np.float64))
    scaled = LabeledVectors(scaler.transform(train.vectors.astype(np.float64)), train.labels)
    held_out = stratified_split(scaled.labels, SELECTION_FRACTION, seed)
    c = c_values[0]
    if len(c_values) > 1 and held_out.any():
        rest = LabeledVectors(scaled.vectors[~held_out], scaled.labels[~held_out])
        correct = [
            int((fitted.predict(scaled.vectors[held_out]) == scaled.labels[held_out]).sum())
            for fitted in _fits(rest, c_values)
        ]
        c = c_values[int(np.argmax(correct))]
    fitted = next(_fits(scaled, (c,)))
    converged = bool(np.max(fitted.n_iter_) < MAX_ITERATIONS)
    scores = np.full((len(queries), classes), -np.inf)
    scores[:, fitted.classes_] = fitted.predict_log_proba(scaler.transform(queries.astype(np.float64)))
    return scores, {"c": c, "solver": fitted.solver, "converged": converged}


def _fits(part: LabeledVectors, c_values: Sequence[float]) -> Iterator[Any]:
    """Yield the regression fitted at each C; each fit starts from the weights of the previous one."""
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped, unused-ignore]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]

    small = part.vectors.shape[1] * len(np.unique(part.labels)) <= MAX_NEWTON_WEIGHTS
    solver = "newton-cholesky" if small else "lbfgs"
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True, solver=solver)
    for c in c_values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the report has a column for it
            yield model.set_params(C=c).fit(part.vectors, part.labels)
