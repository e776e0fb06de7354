"""Networks with kinks and jumps: exact products, differences and whitening side by side (open question 2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..claims import Claim, best, better
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import against, figure, rows
from ..within import better_within


@dataclass(frozen=True)
class Network:
    """A network, and the smooth one that it is held against; "" where it is smooth itself."""

    model: str
    settings: dict[str, str]
    control: str = ""


MLP, LENET = "MLP, tanh", "LeNet5, tanh, average pooling"
SIGN = "MLP, sign"

NETWORKS: dict[str, Network] = {
    MLP: Network("mlp", {"activation": "tanh"}),
    "MLP, softplus": Network("mlp", {"activation": "softplus"}),
    "MLP, ReLU": Network("mlp", {"activation": "relu"}, "MLP, softplus"),
    "MLP, hard tanh": Network("mlp", {"activation": "hardtanh"}, MLP),
    SIGN: Network("mlp", {"activation": "sign"}, MLP),
    LENET: Network("lenet5", {"activation": "tanh", "pooling": "average"}),
    "LeNet5, tanh, max pooling": Network("lenet5", {"activation": "tanh", "pooling": "max"}, LENET),
    "LeNet5, ReLU, max pooling": Network("lenet5", {"activation": "relu", "pooling": "max"}, LENET),
}

KINKED = [name for name, network in NETWORKS.items() if network.control and name != SIGN]

EXACT, DIFFERENCES, WHITENING = "PSGD, exact products", "PSGD, differences", "PSGD, whitening"


def psgd(source: str) -> dict[str, Any]:
    """Return the settings of PSGD with pairs of a source.

    A whitened gradient has a norm of about sqrt(n), which a clip of 10 would cut in every step.
    """
    settings = {"rank": 10, "clip": None if source == "whitening" else 10.0, "source": source}
    return {"optimizer": "psgd_lowrank", "step": 0.1, "optimizer_settings": settings}


METHODS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd"},
    "Adam": {"optimizer": "adam"},
    EXACT: psgd("hvp"),
    DIFFERENCES: psgd("finite_difference"),
    WHITENING: psgd("whitening"),
}

RATES = {
    "mlp": {"SGD": 0.3, "Adam": 3e-3, EXACT: 0.1, DIFFERENCES: 0.1, WHITENING: 1e-3},
    "lenet5": {"SGD": 0.1, "Adam": 3e-3, EXACT: 0.1, DIFFERENCES: 0.1, WHITENING: 1e-3},
}
"""By model; see the notes."""

BASELINES = ("SGD", "Adam")

SECONDS = {"mlp": {"sgd": 1e-3, "adam": 1.5e-3}, "lenet5": {"sgd": 6e-3, "adam": 7e-3}}
"""Of an iteration, roughly; PSGD's below."""

PSGD_SECONDS = {"mlp": 5e-3, "lenet5": 20e-3}


def name(network: str, method: str) -> str:
    """Return the name of a cell."""
    return f"{network}: {method}"


def method_of(cell: str) -> str:
    """Return the optimiser in the name of a cell."""
    return cell.partition(": ")[2]


def cells(
    epochs: int, train: int, networks: tuple[str, ...] = tuple(NETWORKS), **own: Any
) -> tuple[Cell, ...]:
    """Return a cell for each network and optimiser.

    Parameters
    ----------
    epochs, train : int
    networks : tuple of str
    **own
        Options of the measure `products`, and "test", the number of test images.
    """
    options = {key: value for key, value in own.items() if key != "test"}
    size = {"train": train, **({"test": own["test"]} if "test" in own else {})}
    found = []
    for network in networks:
        model = NETWORKS[network].model
        for method, settings in METHODS.items():
            shared = {
                "model": model,
                "model_settings": NETWORKS[network].settings,
                "data": "mnist",
                "batch": 64,
                "epochs": epochs,
                "measures": {"train": {}, "products": options},
                **size,
            }
            each = SECONDS[model].get(settings["optimizer"], PSGD_SECONDS[model])
            own_settings = {**shared, **settings, "lr": RATES[model][method]}
            found.append(Cell(name(network, method), own_settings, each * epochs * train / 64 + 3))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


QUESTION = "summary, open question 2"


def of_kinks(network: str) -> tuple[Claim, ...]:
    """Return the claims about a network with kinks."""
    exact, differences = name(network, EXACT), name(network, DIFFERENCES)
    control = NETWORKS[network].control
    return (
        Claim(
            f"{network}: differences are as close to exact products as with {control}, within a factor of 2",
            QUESTION,
            "in words",
            better("difference", exact, name(control, EXACT), larger=False, factor=2.0),
        ),
        Claim(
            f"{network}: P fitted to differences is as good as to exact products: its criterion on held-out "
            "products is at most 5 % more",
            QUESTION,
            "in words",
            better("criterion", differences, exact, larger=False, factor=1.05),
        ),
        Claim(
            f"{network}: the training loss with differences is at most 20 % above that with exact products",
            QUESTION,
            "in words",
            better("whole_train_loss", differences, exact, larger=False, factor=1.2),
        ),
        Claim(
            f"{network}: PSGD with exact products ends with a lower training loss than SGD and Adam",
            QUESTION,
            "in words",
            best("whole_train_loss", exact, [name(network, b) for b in BASELINES], larger=False),
        ),
    )


EXPERIMENT = Experiment(
    name="kinks",
    title="Networks with kinks and jumps",
    sources=(QUESTION,),
    claim="Where activations have kinks, exact products and differences agree almost everywhere.",
    needs=("torch",),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(1, 192, (MLP, SIGN, "LeNet5, ReLU, max pooling"), test=64, examples=32, probes=4),
            1,
            "15 s",
            ("192 images, one epoch", "not all networks"),
        ),
        "reduced": Plan(
            cells(5, 5_000, test=2_000), 3, "20 min", ("5,000 of the 60,000 images, 5 of 10 epochs",)
        ),
        "faithful": Plan(cells(10, 60_000), 10, "9 h"),
    },
    start=start,
    columns=(
        Column("training loss", "whole_train_loss", ".2g"),
        Column("test accuracy, %", "accuracy", ".2f"),
        Column("differences off exact products by", "difference", ".2g"),
        Column("asymmetry, exact", "exact_asymmetry", ".2g"),
        Column("asymmetry, differences", "difference_asymmetry", ".2g"),
        Column("elements that are 0", "zero_elements", ".2f"),
        Column("products that are 0", "zero_products", ".2f"),
        Column("pairs refused", "refused", ".2g"),
        Column("criterion, exact", "criterion", ".2f"),
        Column("criterion, differences", "difference_criterion", ".2f"),
        Column("range of P, decades", "range", ".1f"),
    ),
    claims=(
        *(claim for network in KINKED for claim in of_kinks(network)),
        Claim(
            "Sign: exact products by the straight-through rule belong to a matrix that is more symmetric "
            "than that of differences",
            QUESTION,
            "in words",
            better_within(name(SIGN, EXACT), "exact_asymmetry", "difference_asymmetry", larger=False),
        ),
        Claim(
            "Sign: differences are farther from exact products than with tanh, tenfold and more",
            QUESTION,
            "in words",
            better("difference", name(SIGN, EXACT), name(MLP, EXACT), factor=10.0),
        ),
        *(
            Claim(
                f"Sign: {ours} ends with a lower training loss than SGD and Adam",
                QUESTION,
                "in words",
                best("whole_train_loss", name(SIGN, ours), [name(SIGN, b) for b in BASELINES], larger=False),
            )
            for ours in (EXACT, DIFFERENCES, WHITENING)
        ),
        Claim(
            "Sign: PSGD with exact products ends with a lower training loss than with differences",
            QUESTION,
            "in words",
            better("whole_train_loss", name(SIGN, EXACT), name(SIGN, DIFFERENCES), larger=False),
        ),
    ),
    contests=tuple(
        Contest(
            f"{about} of {network}",
            key,
            tuple(name(network, m) for m in (EXACT, DIFFERENCES, WHITENING)),
            tuple(name(network, b) for b in BASELINES),
            larger,
        )
        for network in NETWORKS
        for about, key, larger in (
            ("training loss", "whole_train_loss", False),
            ("test accuracy", "accuracy", True),
        )
    ),
    figures={
        "": figure(
            *(
                against(
                    "whole_train_loss",
                    "accuracy",
                    cells=[name(network, m) for m in METHODS],
                    log=(True, False),
                    title=network,
                    xlabel="training loss",
                    ylabel="test accuracy, %",
                )
                for network in NETWORKS
            ),
            named=method_of,
        ),
        "products": figure(
            rows(
                "difference",
                cells=[name(network, EXACT) for network in NETWORKS],
                log=True,
                title="with exact products",
                xlabel="differences off exact products by",
            ),
            rows(
                "range",
                cells=[name(n, m) for n in NETWORKS for m in (EXACT, DIFFERENCES, WHITENING)],
                title="P",
                xlabel="decades between the extreme eigenvalues",
            ),
            named=method_of,
        ),
    },
    notes=(
        "The sign has the straight-through gradient, that of hard tanh. Differentiated again by the same "
        "rule, it gives a matrix that is symmetric, as the rule is the chain rule with three functions for "
        "sign, its derivative and its second derivative; but that matrix is the derivative of no gradient. "
        "Differences are of the gradients as they are, which jump, and so need not be symmetric.",
        "Products are compared where training ended, on the first 256 test images, with 16 probes that are "
        "the "
        'same for all, in float32, by forward differences as `curvature="finite_difference"` takes them. The '
        "asymmetry is the root mean square of u^T H v - v^T H u in units of that of u^T H v: 0 for a "
        "symmetric matrix, about 1.4 for one without any relation.",
        "The criterion is that of P's best multiple on the held-out products in units of the identity's, so "
        "that whitening, which has another scale, can be compared: below 1 P is of use.",
        "Learning rates are constant, the best of one short scan (another seed, 3,000 images, 3 epochs, the "
        "MLP with ReLU): SGD of 0.1, 0.3; Adam of 0.001, 0.003; exact products of 0.1, 0.3; whitening of "
        "0.001, 0.003; differences have that of exact products. LeNet5 has the same but for SGD, of which "
        "0.3 was too much there.",
    ),
)
