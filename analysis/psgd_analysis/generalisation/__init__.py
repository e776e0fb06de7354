"""Why a network generalises: uncertainty, forgetting and distance, as in section 5.4 and E.4 of the paper.

For one's own training runs, on the arrays of any library:

- `uncertainty` of logits: entropy (nats), margin, loss, accuracy; batches add up (tables 6 and 11). The
  verbs behind it, `softmax`, `entropy`, `cross_entropy`, `margin` and `correct`, work example by example;
- `forgetting`: events and forgettability after Toneva et al. (2018), counted online (table 7, figure 7);
- `correlate`: Spearman, Pearson, Kendall and weighted tau of two scores (table 10);
- `pruning_order`, `entropy_subsets`: which examples to keep (tables 7 and 11);
- `distance_from_initialization` of the parameters (table 11), `gap` between training and test set;
- `figures` and `charts`: one function per picture. Results show themselves in notebooks, `.plot()` and
  `.as_dict()`.
"""

from . import charts, figures, forgetting
from .correlations import Coefficient, Correlations, correlate
from .distances import Distance, distance_from_initialization
from .forgetting import Forgetting, ForgettingState
from .gaps import Gap, gap
from .logits import correct, cross_entropy, entropy, margin, softmax
from .statistics import (
    ENTROPY_EDGES,
    MARGIN_EDGES,
    Distribution,
    Uncertainty,
    distribution,
    uncertainty,
)
from .subsets import Subsets, entropy_subsets, pruning_order

__all__ = [
    "ENTROPY_EDGES",
    "MARGIN_EDGES",
    "Coefficient",
    "Correlations",
    "Distance",
    "Distribution",
    "Forgetting",
    "ForgettingState",
    "Gap",
    "Subsets",
    "Uncertainty",
    "charts",
    "correct",
    "correlate",
    "cross_entropy",
    "distance_from_initialization",
    "distribution",
    "entropy",
    "entropy_subsets",
    "figures",
    "forgetting",
    "gap",
    "margin",
    "pruning_order",
    "softmax",
    "uncertainty",
]
