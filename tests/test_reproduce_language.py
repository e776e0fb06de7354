"""Language models of `psgd reproduce`: texts, tokens, carried states, dropout, masks, experiments."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch", reason="needs PyTorch")

from psgd_analysis.reproduce import carried, data, models, optimizers, training  # noqa: E402
from psgd_analysis.reproduce.experiment import Job  # noqa: E402
from psgd_analysis.reproduce.experiments import experiment  # noqa: E402
from psgd_analysis.reproduce.training import examples_of, masking, orders, rate_of  # noqa: E402
from psgd_analysis.reproduce.training.losses import IGNORED  # noqa: E402
from psgd_analysis.reproduce.transformer import Transformer  # noqa: E402

LSTM = {
    "model": "lstm",
    "model_settings": {"width": 6, "hidden": 5, "depth": 2},
    "data": "chain",
    "length": 12,
    "train": 50,
    "test": 33,
    "batch": 8,
    "order": "lanes",
    "epochs": 2,
    "optimizer": "sgd",
    "lr": 1.0,
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv("PSGD_DATA", raising=False)


def started(settings: dict[str, Any], seed: int = 0, **own: Any) -> training.NetworkTraining:
    return training.start(Job("test", "smoke", "cell", seed, {**settings, **own}), None)


# -- texts and tokens ----------------------------------------------------------------------------------------


def treebank(folder: Path) -> dict[str, list[str]]:
    """Write three files, and return their words."""
    folder.mkdir()
    found = {}
    for part, rest in (("train", "the <unk> sat"), ("valid", "a valid word"), ("test", "the cat sat")):
        line = f" {rest} on N mats \n"
        (folder / f"ptb.{part}.txt").write_text(line * 20)
        found[part] = [*line.split(), "<eos>"] * 20
    return found


def test_penn_treebank_is_read(tmp_path):
    words = treebank(tmp_path / "ptb")
    found = data.load("ptb", tmp_path)
    known = sorted({w for part in words.values() for w in part})
    assert (found.name, found.stands_in, found.classes) == ("ptb", "", len(known))
    for split in ("train", "test"):
        x, y = getattr(found, f"{split}_x"), getattr(found, f"{split}_y")
        assert [known[i] for i in x] == words[split][:-1]
        assert [known[i] for i in y] == words[split][1:]


def test_words_of_a_text_stand_in_for_penn_treebank_in_its_form(tmp_path):
    (tmp_path / "input.txt").write_text("O'er, The HILL -- the sea!\n\n--\n" * 40 + "Novel ends\n" * 2)
    found = data.load("ptb", tmp_path)
    assert found.name == data.resolve("ptb", tmp_path)[0] == "plain-words"
    assert "stands in for Penn Treebank" in found.stands_in
    known = ["<eos>", "hill", "o'er", "sea", "the", "<unk>"]
    line = [known.index(w) for w in ("o'er", "the", "hill", "the", "sea", "<eos>")]
    assert found.classes == len(known)
    whole = np.concatenate([found.train_x, found.train_y[-1:], found.test_x, found.test_y[-1:]])
    assert whole.tolist() == line * 40 + [5, 5, 0] * 2
    with pytest.raises(data.Missing, match="Penn Treebank is missing"):
        data.load("ptb", tmp_path / "nowhere")
    assert data.load("ptb").name == "chain"


def test_odd_treebanks(tmp_path):
    treebank(tmp_path / "ptb")
    (tmp_path / "ptb" / "ptb.valid.txt").write_text("few words\n")
    with pytest.raises(data.Unreadable, match="at least 100 words, got 3"):
        data.load("ptb", tmp_path)


def token_files(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    parts = rng.integers(0, 50_000, 3000), rng.integers(0, 50_000, 500)
    parts[1][7] = 50_256  # the largest is in the second file
    for name, tokens in zip(("train", "val"), parts, strict=True):
        tokens.astype("<u2").tofile(folder / f"{name}.bin")
    return parts


def test_tokens_stay_in_their_file(tmp_path):
    train, test = token_files(tmp_path / "openwebtext")
    found = data.load("tokens", tmp_path)
    assert found.classes == 50_257
    assert isinstance(found.train_x.base, np.memmap) or isinstance(found.train_x, np.memmap)
    wanted = b"".join(
        hashlib.sha256((tmp_path / "openwebtext" / f"{name}.bin").read_bytes()).digest()
        for name in ("train", "val")
    )
    assert found.hash == hashlib.sha256(wanted).hexdigest()
    # pieces at all places, as views of the file
    made = examples_of(found, length=16, stride=1)
    assert made.train_x.shape == made.train_y.shape == (3000 - 16, 16)
    assert made.train_x.data_ptr() == found.train_x.ctypes.data
    x, y = made.batch("train", torch.tensor([5, 2000]), torch.device("cpu"))
    assert x.dtype == y.dtype == torch.int64
    assert x.tolist() == [train[5:21].tolist(), train[2000:2016].tolist()]
    assert y.tolist() == [train[6:22].tolist(), train[2001:2017].tolist()]
    assert made.test_x.long().ravel().tolist() == test[: 499 // 16 * 16].tolist()


def test_a_part_of_a_text_is_its_first_pieces_which_follow_each_other():
    """A model that carries a state from piece to piece goes on reading."""
    text = data.load("chain")
    some = examples_of(text, train=7, test=3, length=20)
    assert np.array_equal(some.train_x.flatten(), text.train_x[:140])
    assert np.array_equal(some.train_y.flatten(), text.train_y[:140])
    assert np.array_equal(some.test_x.flatten(), text.test_x[:60])


@pytest.mark.parametrize("content", [b"", b"\0" * 199, b"\0" * 201])
def test_odd_tokens(tmp_path, content):
    for name in ("train", "val"):
        (tmp_path / f"{name}.bin").write_bytes(content)
    with pytest.raises(data.Unreadable, match=f"16 bits or more, not gzipped, got {len(content)} bytes"):
        data.load("tokens", tmp_path)


def test_a_piece_is_no_longer_than_the_text():
    with pytest.raises(ValueError, match="`length` must be at most"):
        started(LSTM, length=1_000_000)


# -- batches that go on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (14, 4), (3, 5), (7, 1), (50, 8)])
def test_each_batch_goes_on_where_the_last_one_ended(size, batch):
    lanes = orders.Lanes(size, batch, 0)
    for _ in range(2):
        assert not lanes.follows
        before = lanes.next()
        seen = before.tolist()
        for _ in range(lanes.per_epoch - 1):
            assert lanes.follows
            now = lanes.next()
            assert (now == before[: len(now)] + 1).all()
            before, seen = now, seen + now.tolist()
        assert sorted(seen) == list(range(size))


def test_places_are_drawn_evenly():
    drawn = orders.Drawn(10, 1000, 3)
    counts = np.bincount(torch.cat([drawn.next() for _ in range(20)]), minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-6
    assert orders.Drawn(10, 1000, 3).next().tolist() != orders.Drawn(10, 1000, 4).next().tolist()


# -- the LSTM ------------------------------------------------------------------------------------------------


def torch_lstm(model: torch.nn.Module) -> list[torch.nn.LSTM]:
    """Return PyTorch's layers with a model's weights."""
    found = []
    for layer in model.modules():
        if isinstance(layer, carried.Carrying):
            width, given = layer.remember.in_features, layer.read.in_features
            other = torch.nn.LSTM(given, width, batch_first=True, dtype=layer.read.weight.dtype)
            weights = (layer.read.weight, layer.remember.weight, layer.read.bias, layer.remember.bias)
            with torch.no_grad():
                for p, w in zip(other.parameters(), weights, strict=True):
                    p.copy_(w)
            found.append(other)
    return found


def through(layers: list[torch.nn.LSTM], model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    h = model.vectors[x]
    for layer in layers:
        h = layer(h)[0]
    return h @ model.vectors.T + model.bias


def test_the_lstm_is_torchs_and_goes_on():
    model = models.make("lstm", (9,), 7, {"width": 6, "hidden": 5, "depth": 2}, 0).double()
    x = torch.randint(7, (4, 18), generator=torch.Generator().manual_seed(1))
    wanted = through(torch_lstm(model), model, x)
    first, again = model(x[:, :9]), model(x[:, :9])
    assert torch.equal(first, again)  # it moves only when it is told to
    torch.testing.assert_close(first, wanted[:, :9])
    for part in carried.carrying(model):
        part.carry(part.after)
    torch.testing.assert_close(model(x[:, 9:]), wanted[:, 9:])
    torch.testing.assert_close(model(x[:3, 9:]), wanted[:3, 9:])  # a smaller batch: the first lanes


def test_the_training_carries_the_state_and_begins_each_epoch_with_zeros():
    """With a rate of zero the losses of an epoch are those of whole lanes, read at once."""
    made = started(LSTM, lr=1e-30, train=48)
    order = torch.arange(48).reshape(8, 6)
    x, y = (part[order].reshape(8, -1) for part in (made.examples.train_x, made.examples.train_y))
    logits = through(torch_lstm(made.model), made.model, x)
    wanted = float(torch.nn.functional.cross_entropy(logits.reshape(-1, 27), y.reshape(-1)).detach())
    for _ in range(2):
        assert made.advance()["train_loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_carrying_model_is_tested_lane_by_lane_and_left_as_it_was():
    made = started(LSTM, test=33)
    made.advance()
    made.one_step(made.next_batch())
    held = [part.get_extra_state() for part in carried.carrying(made.model)]
    loss, _ = made.evaluate("test")
    for part, before in zip(carried.carrying(made.model), held, strict=True):
        assert all(map(torch.equal, part.get_extra_state(), before))
    starts, ends = [0, 4, 8, 12, *range(15, 33, 3)], [4, 8, 12, *range(15, 34, 3)]  # 33 pieces in ten lanes
    layers, total = torch_lstm(made.model), 0.0
    for a, b in zip(starts, ends, strict=False):
        x, y = (part[a:b].reshape(1, -1) for part in (made.examples.test_x, made.examples.test_y))
        logits = through(layers, made.model, x)
        total += float(torch.nn.functional.cross_entropy(logits[0], y[0], reduction="sum").detach())
    assert loss == pytest.approx(total / (33 * 12), rel=1e-5)


@pytest.mark.parametrize(
    "own",
    [
        {"optimizer": "sgd"},
        {"optimizer": "psgd_lowrank", "optimizer_settings": {"source": "finite_difference"}, "step": 0.1},
        {"optimizer": "hessian_free"},
        {"optimizer": "lbfgs"},
    ],
)
def test_a_state_is_carried_from_where_the_step_began(own):
    """Whatever an optimiser evaluates: the state is that of the first pass, before the parameters moved."""
    made = started(LSTM, **own)
    indices = made.batches.next()
    layers = torch_lstm(made.model)
    h = made.model.vectors[made.examples.train_x[indices]]
    ends = []
    for layer in layers:
        h, end = layer(h)
        ends.append([part[0].detach() for part in end])
    made.one_step(indices)
    for part, end in zip(carried.carrying(made.model), ends, strict=True):
        for found, wanted in zip(part.get_extra_state(), end, strict=True):
            torch.testing.assert_close(found, wanted)


DROPS = {"words": 0.3, "inputs": 0.3, "between": 0.3, "outputs": 0.3, "weights": 0.3}


@pytest.mark.parametrize("which", DROPS)
def test_dropout_has_the_right_mean_and_is_off_in_tests(which):
    """Of everything that is linear in what is dropped: the mean over many draws is what there is without."""
    plain = models.make("lstm", (4,), 5, {"width": 3, "hidden": 4, "depth": 2}, 0).double()
    noisy = models.make("lstm", (4,), 5, {"width": 3, "hidden": 4, "depth": 2, which: 0.3}, 0).double()
    assert carried.is_noisy(noisy)
    assert not carried.is_noisy(plain)
    x = torch.tensor([[0, 1, 2, 1]])
    assert not torch.equal(noisy(x), plain(x))
    noisy.eval()
    assert torch.equal(noisy(x), plain(x))
    layers = [m for m in noisy.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p]
    assert len(layers) == (2 if which == "weights" else 1)
    layer = layers[0].train()
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack([layer(torch.ones(1, 6, 4)) for _ in range(4000)])
    assert set(drawn.unique().tolist()) <= {0.0, float(torch.tensor(1 / 0.7))}
    # five standard errors of the mean of 4000 draws, places counted as one
    assert abs(float(drawn.mean()) - 1) < 5 * math.sqrt(0.3 / 0.7 / 4000)
    if which in ("inputs", "between", "outputs"):  # locked: alike along the text
        assert (drawn == drawn[:, :, :1]).all()


def test_dropout_is_drawn_by_step_alone():
    settings = {**LSTM, "model_settings": {"width": 6, "inputs": 0.5}, "lr": 1e-30}
    one, other = started(settings), started(settings, optimizer="adam")
    losses = []
    for made in (one, other):
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        before = torch.get_rng_state()
        made.set_rates()
        losses.append([float(made.one_step(made.next_batch())[0]) for _ in range(2)])
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]
    # the same places with another number of the step
    again = started(settings)
    indices = again.batches.next()
    a = float(again.one_step(indices)[0])
    for part in carried.carrying(again.model):
        part.carry(())
    again._iterations += 1
    assert float(again.one_step(indices)[0]) != a


# -- transformers --------------------------------------------------------------------------------------------


def test_an_encoder_sees_both_sides_and_has_a_mask():
    model = Transformer((6,), 5, width=8, causal=False)
    x = torch.tensor([[0, 1, 5, 3, 4, 0]])  # 5 is the mask
    assert model(x).shape == (1, 6, 6)
    other = x.clone()
    other[0, 3] = 2
    moved = (model(x) != model(other)).any(-1)[0]
    assert moved.all()


def test_the_sizes_are_nanogpts():
    """10.65 million parameters for Shakespeare, 124 for GPT-2, as nanoGPT prints them, without positions."""

    def count(settings):
        made = models.make(
            "transformer", (settings["length"],), settings.pop("classes"), settings["model_settings"], 0
        )
        return sum(p.numel() for name, p in made.named_parameters() if name != "place")

    cells = {c.name: c.settings for c in experiment("gpt").plans["faithful"].cells}
    found = [count({**cells[f"{size}, AdamW"], "classes": 65}) for size in ("0.8M", "10.7M")]
    assert [round(n / 1e6, 2) for n in found] == [0.80, 10.65]
    tied = {"width": 768, "heads": 12, "depth": 12, "bias": False, "tied": True}
    with torch.device("meta"):
        assert round(count({"length": 1024, "classes": 50_304, "model_settings": tied}) / 1e6, 2) == 123.59


def test_initial_deviations_are_gpt2s():
    model = Transformer((8,), 200, width=64, heads=2, depth=8, deviation=0.02, tied=True)
    assert model.say[1].weight is model.read.weight
    for name, p in model.named_parameters():
        if p.ndim == 2:
            last = name.endswith(("answer.weight", "think.3.weight"))
            wanted = 0.02 / 4 if last else 0.02
            assert float(p.detach().std()) == pytest.approx(wanted, rel=5 / math.sqrt(2 * p.numel())), name
        elif "bias" in name:
            assert not p.any()


GPT = {
    **{key: value for key, value in LSTM.items() if key not in ("order", "model", "model_settings")},
    "model": "transformer",
    "model_settings": {"width": 8, "heads": 2, "depth": 1},
}


@pytest.mark.parametrize(
    "own",
    [
        {"optimizer": "psgd_lowrank", "step": 0.1, "lr": 0.01},
        {"optimizer": "adahessian"},
        {"optimizer": "hessian_free"},
        {"measures": {"hessian": {"examples": 4, "probes": 1, "steps": 6, "trace": 6, "top": 2}}},
    ],
)
def test_attention_is_differentiated_twice_for_whoever_asks(own):
    if own.get("optimizer") == "adahessian":
        pytest.importorskip("pytorch_optimizer")
    made = started(GPT, epochs=1, **own)
    made.advance()
    assert made.skipped == 0
    assert made.status == "done"
    assert made.final()["products"] > 0 or "eigenvalue" in made.final()


# -- masks ---------------------------------------------------------------------------------------------------


def test_masks_follow_the_binomial_law():
    n, classes = 200_000, 40
    x = torch.randint(classes, (n // 20, 20), generator=torch.Generator().manual_seed(5))
    given, asked = masking.mask(x, x, torch.Generator().manual_seed(6), classes=classes)
    chosen = asked != IGNORED
    assert torch.equal(asked[chosen], x[chosen])
    assert torch.equal(given[~chosen], x[~chosen])
    count = int(chosen.sum())
    masked = given[chosen] == classes
    other = (given[chosen] != x[chosen]) & ~masked
    for k, of, p in (
        (count, n, 0.15),
        (int(masked.sum()), count, 0.8),
        (int(other.sum()), count, 0.1 * (classes - 1) / classes),  # one at random may be the same
    ):
        assert stats.binomtest(k, of, p).pvalue > 1e-6, (k, of, p)
    drawn = np.bincount(given[chosen][other], minlength=classes)
    assert stats.chisquare(drawn).pvalue > 1e-6


MASKED = {
    **GPT,
    "model_settings": {"width": 8, "heads": 2, "depth": 1, "causal": False},
    "changes": [{"name": "masked"}],
    "augment": [{"name": "mask"}],
    "test": 400,
}


def test_only_places_that_are_asked_for_count():
    made = started(MASKED)
    x, y = made.examples.test_x, made.examples.test_y
    assert stats.binomtest(int((y != IGNORED).sum()), y.numel(), 0.15).pvalue > 1e-6
    made.model.eval()
    with torch.no_grad():
        p = made.model(x).double().log_softmax(-1)
    made.model.train()
    asked = [(i, j) for i, j in zip(*np.nonzero(y.numpy() != IGNORED), strict=True)]
    losses = [-float(p[i, j, y[i, j]]) for i, j in asked]
    right = [int(p[i, j].argmax()) == int(y[i, j]) for i, j in asked]
    loss, accuracy = made.evaluate("test")
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert accuracy == pytest.approx(100 * np.mean(right))
    # the test set is the same for all seeds, the masks of a batch are not the same twice
    assert torch.equal(started(MASKED, 1).examples.test_x, x)
    seen = []
    forward = made.model.forward
    made.model.forward = lambda z: (seen.append(z), forward(z))[1]
    indices = made.batches.next()
    _, _, places = made.one_step(indices)
    made.one_step(indices)
    assert not torch.equal(seen[0], seen[1])
    assert 0 < int(places) < seen[0].numel()


# -- rates, clip, perplexity ---------------------------------------------------------------------------------


def test_warm_up_and_cosine_are_nanogpts():
    rate = rate_of("lr", {"warmup": 0.5, "cosine": [1e-3, 1e-4]}, 4)
    found = [rate(part, (i + 1) / 50) for part in range(4) for i in range(50)]
    wanted = [
        1e-3 * t / 25 if t < 25 else 1e-4 + 9e-4 * (1 + math.cos(math.pi * (t - 25) / 175)) / 2
        for t in range(1, 201)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    with pytest.raises(ValueError, match="`lr` must have a warmup between 0 and its 4 parts, got 4"):
        rate_of("lr", {"warmup": 4, "cosine": [1, 0]}, 4)


def test_a_rate_that_moves_is_set_in_each_step():
    made = started(LSTM, lr={"warmup": 1, "cosine": [1.0, 0.0]})
    noted = []
    rates = made.steps.rates
    made.steps.rates = lambda lr, step=None: (noted.append(lr), rates(lr, step))
    per_epoch = made.batches.per_epoch
    made.advance()
    np.testing.assert_allclose(noted, (np.arange(per_epoch) + 1) / per_epoch)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_the_gradient_of_baselines_is_clipped_by_its_norm(clip):
    layer = torch.nn.Linear(3, 2)
    x = torch.randn(5, 3)
    grads = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    whole = torch.cat([g.ravel() for g in grads])
    before = torch.cat([p.detach().ravel() for p in layer.parameters()])
    steps = optimizers.make("sgd", layer, {"lr": 0.5, "clip": clip}, 0)
    steps.step(lambda: (layer(x).square().sum(), None))
    moved = before - torch.cat([p.detach().ravel() for p in layer.parameters()])
    wanted = 0.5 * whole * min(1.0, clip / float(whole.norm()))
    torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-6)


def test_perplexity_is_the_exponential_of_the_loss():
    made = started(LSTM, measures=["perplexity"], lr=3.0)
    metrics = [made.advance() for _ in range(2)]
    values = [math.exp(m["test_loss"]) for m in metrics]
    assert [m["perplexity"] for m in metrics] == values
    assert made.final()["perplexity"] == values[-1]
    assert made.final()["best_perplexity"] == min(values)


# -- the experiments -----------------------------------------------------------------------------------------

CELLS = [
    (name, cell.name)
    for name in ("lstm", "gpt", "openwebtext", "masked")
    for cell in experiment(name).plans["smoke"].cells
]


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_every_cell_learns_and_is_taken_up_bit_for_bit(name, cell):
    pytest.importorskip("pytorch_optimizer")
    e = experiment(name)
    (job,) = [job for job in e.jobs("smoke", [0], {}) if job.cell == cell]
    whole, left, again = (e.start(job, None) for _ in range(3))
    while whole.status == "going":
        whole.advance()
    left.advance()
    file = io.BytesIO()
    left.save(file)
    file.seek(0)
    torch.manual_seed(int(np.random.default_rng().integers(1000)))  # which must not matter
    again.load(file)
    while again.status == "going":
        again.advance()
    assert whole.status == again.status == "done"
    assert whole.final() == again.final()
    assert whole.final()["test_loss"] < started_loss(e, job)
    assert whole.skipped == 0


def started_loss(e: Any, job: Job) -> float:
    return float(e.start(job, None).evaluate("test")[0])
