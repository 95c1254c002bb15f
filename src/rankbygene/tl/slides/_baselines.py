"""Simple predictors of patients that every model of slides should be read against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from rankbygene.data import Bag, patient_folds
from rankbygene.data.bags._bags import stream
from rankbygene.nn._survival import breslow_hazard
from rankbygene.nn.losses import cox_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PENALTIES = (0.01, 0.1, 1.0, 10.0)
N_COMPONENTS = 32


def mean_features(bag: Bag) -> NDArray[np.float64]:
    """Mean over the tiles of a bag, read in blocks: ``[n_features]``."""
    total = sum(block.sum(0, dtype=np.float64) for block in stream(bag))
    return np.asarray(total) / bag.n_tiles


class MeanLogistic:
    """Logistic regression on the patient's mean features; its penalty is chosen on the training folds.

    Classes weigh the same, as in the default of the models.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def fit(self, features: NDArray[np.float64], outcomes: pd.DataFrame) -> MeanLogistic:
        """Fit on ``features`` ``[n, d]`` and the column ``label``."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        pipeline = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000)
        )
        folds = int(min(3, outcomes["label"].astype(str).value_counts().min()))
        grid = {"logisticregression__C": [1 / (penalty * 10) for penalty in PENALTIES]}
        splits = StratifiedKFold(folds, shuffle=True, random_state=0) if folds > 1 else 2
        self.search = GridSearchCV(pipeline, grid, scoring="neg_log_loss", cv=splits)
        self.search.fit(features, outcomes["label"].to_numpy(str))
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities ``[n, n_classes]``, in the order of ``classes``."""
        found = [str(name) for name in self.search.classes_]
        probabilities = np.zeros((len(features), len(self.classes)))
        probabilities[:, [self.classes.index(name) for name in found]] = self.search.predict_proba(
            features
        )
        return probabilities


class MajorityClass:
    """Shares of the classes among the training patients, whatever the slide."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def fit(self, features: NDArray[np.float64], outcomes: pd.DataFrame) -> MajorityClass:
        """Count the column ``label``."""
        shares = outcomes["label"].astype(str).value_counts(normalize=True)
        self.shares = shares.reindex(self.classes, fill_value=0.0).to_numpy(np.float64)
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Repeat the shares, ``[n, n_classes]``."""
        return np.tile(self.shares, (len(features), 1))


class CoxRidge:
    """Cox's model with a ridge penalty on principal components of the patient's mean features.

    The penalty is chosen by the partial likelihood on three folds of the training patients. With
    ``n_components=0`` it is the Kaplan-Meier-like curve that is the same for everybody.
    """

    def __init__(self, n_components: int = N_COMPONENTS) -> None:
        self.n_components = n_components

    def fit(self, features: NDArray[np.float64], outcomes: pd.DataFrame) -> CoxRidge:
        """Fit on ``features`` ``[n, d]`` and the columns ``time`` and ``event``."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        time = torch.tensor(outcomes["time"].to_numpy(np.float64))
        event = torch.tensor(outcomes["event"].to_numpy(bool))
        n_components = min(self.n_components, features.shape[1], len(features) // 2)
        self.beta = torch.zeros(n_components, dtype=torch.float64)
        if n_components:
            self.scale = make_pipeline(
                StandardScaler(), PCA(n_components, random_state=0), StandardScaler()
            ).fit(features)
            x = self._components(features)
            penalty = _choose_penalty(x, time, event, outcomes)
            self.beta = _fit_cox(x, time, event, penalty)
        self.times, self.hazard = breslow_hazard(self._risk(features), time, event)
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log hazard ``[n]``."""
        return self._risk(features).numpy()

    def predict_survival(
        self, features: NDArray[np.float64], times: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Probability to be without the event at each time, ``[n, n_times]``."""
        steps = np.concatenate([[0.0], self.hazard.numpy()])
        baseline = steps[np.searchsorted(self.times.numpy(), times, side="right")]
        return np.asarray(np.exp(-baseline * np.exp(self.predict(features))[:, None]))

    def _components(self, features: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.scale.transform(features), np.float64))

    def _risk(self, features: NDArray[np.float64]) -> torch.Tensor:
        if not len(self.beta):
            return torch.zeros(len(features), dtype=torch.float64)
        return self._components(features) @ self.beta


def _choose_penalty(
    x: torch.Tensor, time: torch.Tensor, event: torch.Tensor, outcomes: pd.DataFrame
) -> float:
    table = outcomes.assign(patient=np.arange(len(outcomes)).astype(str))
    folds = patient_folds(table, 3, time_key="time", event_key="event")
    fold_of = torch.from_numpy(folds.loc[table["patient"]].to_numpy())
    losses = []
    for penalty in PENALTIES:
        loss = 0.0
        for fold in range(3):
            inside = fold_of != fold
            beta = _fit_cox(x[inside], time[inside], event[inside], penalty)
            loss += float(cox_loss(x[~inside] @ beta, time[~inside], event[~inside]))
        losses.append(loss)
    return PENALTIES[int(np.argmin(losses))]


def _fit_cox(
    x: torch.Tensor, time: torch.Tensor, event: torch.Tensor, penalty: float
) -> torch.Tensor:
    beta = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([beta], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cox_loss(x @ beta, time, event) + penalty / 2 * (beta**2).sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return beta.detach()
