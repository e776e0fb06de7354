"""The experiments on CIFAR-10: data in all forms, augmentation and imbalance by brute force, smoke runs."""

from __future__ import annotations

import dataclasses
import io
import math
import tarfile

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
pytest.importorskip("pytorch_optimizer", reason="needs pytorch_optimizer")

from psgd_analysis.reproduce import cifar10, data, models, training  # noqa: E402
from psgd_analysis.reproduce.claims import CONFIRMED, REFUTED, UNTESTED  # noqa: E402
from psgd_analysis.reproduce.experiment import Job  # noqa: E402
from psgd_analysis.reproduce.experiments import experiment  # noqa: E402
from psgd_analysis.reproduce.records import Record  # noqa: E402
from psgd_analysis.reproduce.training import Examples, examples_of  # noqa: E402
from psgd_analysis.reproduce.training.augment import augmented  # noqa: E402
from psgd_analysis.reproduce.training.changes import changed  # noqa: E402
from psgd_analysis.reproduce.within import Derived, better_derived, difference, spread  # noqa: E402

NAMES = ("cifar", "grid", "imbalance", "adversarial")


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("PSGD_DATA", raising=False)


# -- data ------------------------------------------------------------------------------------------------


def write_batches(folder, rng):
    """Write CIFAR-10's binary batches of ten pictures, and return the pixels of all."""
    folder.mkdir()
    written = []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        x, y = rng.integers(0, 256, (10, 3, 32, 32)).astype(np.uint8), rng.permutation(10)
        rows = b"".join(bytes([label]) + row.tobytes() for row, label in zip(x, y, strict=True))
        (folder / f"{name}.bin").write_bytes(rows)
        written.append(x.transpose(0, 2, 3, 1))
    return np.concatenate(written)


def write_jpegs(folder):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    with tarfile.open(folder / "cifar10-jpeg.tar", "w") as archive:
        for split, count in (("train", 10), ("test", 1)):
            for i in range(count):
                file = io.BytesIO()
                image.new("RGB", (32, 32), (20 * i, 10, 10)).save(file, "JPEG")
                entry = tarfile.TarInfo(f"{split}/cat/{i:04}.jpg")
                entry.size = len(file.getvalue())
                archive.addfile(entry, io.BytesIO(file.getvalue()))


def test_cifar_is_the_batches_or_the_jpeg_files_whichever_is_there(tmp_path, rng):
    write_jpegs(tmp_path)
    found = data.load("cifar10", tmp_path)
    assert found.name == "cifar10-jpeg"
    assert "CIFAR-10" in found.stands_in
    assert data.resolve("cifar10", tmp_path) == data.resolve("cifar10-jpeg", tmp_path)
    assert data.load("cifar10-perturbed", tmp_path).name == "cifar10-jpeg-noise"
    write_batches(tmp_path / "cifar10", rng)
    batches = data.load("cifar10", tmp_path)
    assert (batches.name, batches.stands_in) == ("cifar10", "")
    assert data.load("cifar10-perturbed", tmp_path).name == "cifar10-noise"
    keys = {
        Job("cifar", "smoke", "a", 0, {"data": "cifar10"}, dict([data.resolve(name, tmp_path)])).key
        for name in ("cifar10", "cifar10-jpeg")
    }
    assert len(keys) == 2
    with pytest.raises(data.Missing, match=r"CIFAR-10 is missing; put its batches"):
        data.load("cifar10", tmp_path / "cifar10" / "empty")


def test_noise_is_added_to_four_fifths_that_are_then_tested_on(tmp_path, rng):
    pixels = write_batches(tmp_path / "cifar10", rng)[:50]
    found = data.load("cifar10-perturbed", tmp_path)
    originals = {x.tobytes() for x in pixels}
    assert (len(found.train_x), len(found.test_x)) == (10, 40)
    left = [x for x in pixels if x.tobytes() not in {clean.tobytes() for clean in found.train_x}]
    assert {x.tobytes() for x in found.train_x} <= originals
    assert len(left) == 40
    nearest = [min(left, key=lambda x: np.abs(x.astype(int) - seen).max()) for seen in found.test_x]
    assert len({x.tobytes() for x in nearest}) == 40
    before, after = np.array(nearest).astype(int), found.test_x.astype(int)
    moved = after - before
    inside = (before >= 8) & (before <= 247)
    assert set(np.unique(moved[inside])) == {-8, 8}
    assert np.array_equal(after[~inside], np.clip(before + np.sign(moved) * 8, 0, 255)[~inside])
    assert abs((moved[inside] > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(inside.sum())


NTGA = ("x_val_cifar10", "y_val_cifar10", "x_train_cifar10_ntga_cnn_best", "y_train_cifar10")


def write_ntga(folder, rng, **other):
    """Write the arrays as NTGA's authors do: floats from 0 to 1, labels one-hot."""
    folder.mkdir(exist_ok=True)
    bytes_, labels = rng.integers(0, 256, (9, 32, 32, 3)), rng.integers(0, 10, 9)
    arrays = dict(
        zip(NTGA, (bytes_[:4] / 255, np.eye(10)[labels[:4]], bytes_[4:] / 255, labels[4:]), strict=True)
    )
    for name, array in (arrays | other).items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    return bytes_, labels


def test_the_published_perturbed_images_are_read(tmp_path, rng):
    images, labels = write_ntga(tmp_path / "cifar10-perturbed", rng)
    found = data.load("cifar10-perturbed", tmp_path)
    assert (found.name, found.stands_in) == ("cifar10-perturbed", "")
    np.testing.assert_array_equal(np.concatenate([found.train_x, found.test_x]), images)
    np.testing.assert_array_equal(np.concatenate([found.train_y, found.test_y]), labels)
    assert (len(found.train_x), found.train_x.dtype) == (4, np.uint8)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        (NTGA[0], np.zeros((4, 28, 28, 3)), r"shape \(32, 32, 3\)"),
        (NTGA[2], np.full((5, 32, 32, 3), 2.0), "from 0 to 1"),
        (NTGA[2], np.full((5, 32, 32, 3), np.nan), "from 0 to 1"),
        (NTGA[0], np.zeros((4, 32, 32, 3), int), "floats"),
        (NTGA[1], np.arange(3), "each of the 4 images"),
        (NTGA[3], np.arange(6, 11), "from 0 to 9"),
        (NTGA[3], np.full(5, np.nan), "from 0 to 9"),
        (NTGA[3], np.full(5, 1.5), "from 0 to 9"),
        (NTGA[3], np.full(5, "cat"), "from 0 to 9"),
        (NTGA[3], np.zeros((5, 10)), "from 0 to 9"),
        (NTGA[3], np.eye(12)[:5], "from 0 to 9"),
        (NTGA[3], np.array([{}] * 5), "not an array of NumPy"),
    ],
)
def test_odd_perturbed_images_are_refused(tmp_path, rng, name, array, words):
    write_ntga(tmp_path, rng, **{name: array})
    with pytest.raises(data.Unreadable, match=words) as caught:
        data.load("cifar10-perturbed", tmp_path)
    assert name in str(caught.value)


def test_digits_in_colour_are_the_digits_mixed_of_two_colours():
    found, grey = data.load("cifar10"), data.load("digits")
    assert found.name == "digits-colour"
    assert "CIFAR-10" in found.stands_in
    assert found.train_x.shape == (1500, 32, 32, 3)
    np.testing.assert_array_equal(found.train_y, grey.train_y)
    np.testing.assert_array_equal(found.train_x, found.train_x[:, ::4, ::4].repeat(4, 1).repeat(4, 2))
    middle = (np.arange(8) * 28 + 14) // 8
    share = np.rint(grey.train_x[:, middle][:, :, middle].reshape(1500, 64) * (16 / 255)) / 16
    pixels = found.train_x[:, ::4, ::4].reshape(1500, 64, 3).astype(float)
    for s, colours in zip(share[:50], pixels[:50], strict=True):
        columns = np.stack([1 - s, s], axis=1)
        (ground, colour), *_ = np.linalg.lstsq(columns, colours, rcond=None)
        # the best fit has no larger errors, taken together, than the colours that were rounded
        assert (np.square(columns @ [ground, colour] - colours).mean(axis=0) <= 0.25).all()
        assert (colour > ground).all()


# -- augmentation and imbalance --------------------------------------------------------------------------


def drawn(augment, x, seed=0):
    y = torch.arange(len(x))
    before = x.clone()
    found, labels = augmented(x, y, augment, torch.Generator().manual_seed(seed), classes=10)
    assert torch.equal(labels, y)
    assert torch.equal(x, before)
    return found


def test_crops_are_windows_of_the_image_with_a_border_each_as_likely():
    x = torch.rand(2500, 2, 5, 6, generator=torch.Generator().manual_seed(1)) + 0.1
    found = drawn([{"name": "crop", "padding": 2}], x)
    bordered = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = [bordered[:, :, i : i + 5, j : j + 6] for i in range(5) for j in range(5)]
    same = np.array([(window == found.numpy()).all(axis=(1, 2, 3)) for window in windows])
    assert (same.sum(axis=0) == 1).all()
    # of 25 places 100 each on average, with a standard deviation of 9.8
    assert (np.abs(same.sum(axis=1) - 100) < 50).all()
    assert not torch.equal(found, drawn([{"name": "crop", "padding": 2}], x, seed=1))


def test_flips_exchange_left_and_right_of_half_of_the_images():
    x = torch.rand(1000, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    found = drawn([{"name": "flip"}], x)
    kept, turned = (np.array([np.array_equal(a, b) for a, b in zip(found, other, strict=True)])
                    for other in (x, x.numpy()[..., ::-1]))  # fmt: skip
    assert (kept ^ turned).all()
    assert abs(turned.sum() - 500) < 80  # five standard deviations


def small(**own):
    setup = dataclasses.replace(cifar10.SMOKE, images=64, tested=20, epochs=2)
    settings = cifar10.settings(setup, own.pop("method", cifar10.SGD), **own)
    examples = examples_of(data.load("digits-colour"), train=64, test=20)
    return training.NetworkTraining(settings, 3, examples)


def seen(run, parts=2):
    """Return all that the network sees, in training and in tests."""
    found = {True: [], False: []}
    hook = lambda model, given: found[model.training].append(given[0].clone())  # noqa: E731
    run.model.register_forward_pre_hook(hook)
    for _ in range(parts):
        run.advance()
    return found[True], torch.cat(found[False])


def test_all_optimisers_see_the_same_crops_new_ones_each_epoch_and_tests_are_whole():
    trained, tested = seen(small())
    for method in (cifar10.LRA, cifar10.XMAT, cifar10.ADAM, cifar10.APOLLO):
        others, _ = seen(small(method=method), parts=1)
        assert all(torch.equal(a, b) for a, b in zip(trained, others, strict=False))
    pixels = [set(map(float, torch.cat(part).sum((1, 2, 3)))) for part in (trained[:2], trained[2:])]
    assert len(pixels[0] & pixels[1]) < 32
    assert torch.equal(tested, examples_of(data.load("digits-colour"), test=20).test_x.repeat(2, 1, 1, 1))


def test_a_batch_is_the_same_however_often_its_loss_is_taken():
    own = {"rank": 2, "source": "finite_difference"}
    trained, _ = seen(small(method=cifar10.LRA, optimizer_settings=own), parts=1)
    assert len(trained) == 4
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[2], trained[3])


def test_half_of_the_classes_are_reduced_tenfold():
    counts = np.array([30, 20, 44, 3, 100, 57, 10, 81, 25, 66])
    y = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(10), counts)))
    x = torch.arange(len(y)).reshape(-1, 1, 1, 1)
    given = Examples(x, y, x[:5], y[:5], 10)
    change = [{"name": "imbalance", "classes": 0.5, "kept": 0.1}]
    chosen = set()
    for seed in range(20):
        found = changed(given, change, seed)
        left = np.bincount(found.train_y, minlength=10)
        reduced = left < counts
        assert reduced.sum() == 5
        assert (left[reduced] == np.maximum(1, np.round(0.1 * counts[reduced]))).all()
        assert torch.equal(given.train_y[found.train_x.flatten()], found.train_y)
        assert (np.diff(found.train_x.flatten()) > 0).all()
        assert torch.equal(found.test_x, given.test_x)
        chosen.add(tuple(np.flatnonzero(reduced)))
    assert len(chosen) > 10
    assert torch.equal(changed(given, change, 0).train_x, changed(given, change, 0).train_x)


def test_colours_are_standardised_before_the_first_convolution():
    settings = {"widths": [4], "blocks": 1, "mean": [0.5, 0.4, 0.3], "deviation": [0.2, 0.25, 0.1]}
    plain = models.make("resnet", (3, 8, 8), 10, {"widths": [4], "blocks": 1}, 0)
    made = models.make("resnet", (3, 8, 8), 10, settings, 0)
    x = torch.rand(6, 3, 8, 8)
    units = (x.numpy() - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / np.reshape([0.2, 0.25, 0.1], (3, 1, 1))
    wanted = plain(torch.from_numpy(units.astype(np.float32)))
    np.testing.assert_allclose(made(x).detach(), wanted.detach(), atol=1e-5)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in plain.parameters())


# -- claims about several cells --------------------------------------------------------------------------


def records(values, status="done"):
    """Return runs of cells "a", "b", ..., a list of numbers for each seed."""
    return [
        Record("e", "reduced", cell, seed, {}, {}, f"{seed}{cell}", status, final={"accuracy": float(x)})
        for seed, row in enumerate(values)
        for cell, x in zip("abcd", row, strict=True)
    ]


NARROW, WIDE = Derived("narrow", ("a", "b"), spread), Derived("wide", ("c", "d"), spread)
ROWS = [[90, 91, 80, 85], [92, 90.5, 70, 76], [90, 91.2, 81, 75.5], [88, 89, 66, 60]]


def test_spreads_are_compared_seed_by_seed():
    narrower = better_derived("accuracy", NARROW, WIDE, larger=False)
    found = narrower(records(ROWS))
    differences = np.array([1 - 5, 1.5 - 6, 1.2 - 5.5, 1 - 6])
    assert found.verdict == CONFIRMED
    assert f"{differences.mean():.2f}"[:4] in found.measured.replace("−", "-")
    assert better_derived("accuracy", WIDE, NARROW, larger=False)(records(ROWS)).verdict == REFUTED
    assert narrower(records(ROWS[:2])).verdict == UNTESTED
    assert narrower([r for r in records(ROWS) if r.cell != "d"]).verdict == UNTESTED
    cut = [dataclasses.replace(r, status="cut") if r.cell == "a" else r for r in records(ROWS)]
    assert narrower(cut).verdict == UNTESTED
    # where a run diverged there is no small spread: 3 of 4 seeds against it
    lost = [
        dataclasses.replace(r, status="diverged", final={}) if r.cell == "a" else r for r in records(ROWS)
    ]
    assert narrower(lost).verdict == REFUTED


def test_gains_are_compared_seed_by_seed():
    first, second = (Derived(n, cells, difference) for n, cells in (("ab", ("b", "a")), ("cd", ("d", "c"))))
    rows = [[1, 3, 1, 2], [1, 3.5, 1, 2.2], [1, 3.2, 1, 1.9], [1, 3.1, 1, 2.1]]
    assert better_derived("accuracy", first, second)(records(rows)).verdict == CONFIRMED
    assert better_derived("accuracy", second, first)(records(rows)).verdict == REFUTED


# -- the experiments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_an_experiment_names_is_in_its_plans(name):
    e = experiment(name)
    cells = {scale: [c.name for c in plan.cells] for scale, plan in e.plans.items()}
    faithful = set(cells["faithful"])
    assert set(cells["smoke"]) | set(cells["reduced"]) <= faithful
    assert all(len(set(names)) == len(names) for names in cells.values())
    assert all(set(column.paper) <= faithful for column in e.columns)
    assert all({*contest.psgd, *contest.baselines} <= faithful for contest in e.contests)
    for claim in e.claims:
        made = [
            Record(name, "faithful", cell, seed, {}, {}, "", "done", final={"accuracy": 90 + 0.1 * seed})
            for cell in faithful
            for seed in range(4)
        ]
        assert claim.judge(made).verdict != UNTESTED


def test_the_faithful_settings_are_the_papers():
    cells = {c.name: c.settings for c in experiment("cifar").plans["faithful"].cells}
    for name, settings in cells.items():
        assert settings["epochs"] == 200
        rate = training.rate_of("lr", settings["lr"], 200)
        first = {"PSGD": 0.02, "SGD,": 0.1, "Adam": 0.001, "Apol": 0.5}[name[:4]]
        if "stage" in name:
            assert [rate(k) for k in (0, 139, 140, 179, 180, 199)] == pytest.approx(
                [first] * 2 + [first / 10] * 2 + [first / 100] * 2
            )
        else:
            assert [rate(k) for k in (0, 100, 150)] == pytest.approx(
                [first, first / 2, first * (1 - math.sqrt(0.5)) / 2]
            )
        if name.startswith("PSGD"):
            assert settings["step"] == 0.01
            assert settings["optimizer_settings"]["every"] == 10
            assert 0.01 <= settings["l2"] <= 0.02
            assert "clip" not in settings["optimizer_settings"]


SMOKE = [job for name in NAMES for job in experiment(name).jobs("smoke", [0], {})]


@pytest.mark.parametrize("job", SMOKE, ids=lambda job: f"{job.experiment}: {job.cell}")
def test_smoke_runs_learn_and_are_taken_up_bit_for_bit(job):
    start = experiment(job.experiment).start
    whole, taken_up, file = start(job, None), start(job, None), io.BytesIO()
    losses = [whole.advance()["train_loss"] for _ in range(2)]
    whole.save(file)
    file.seek(0)
    taken_up.load(file)
    while whole.status == "going":
        losses.append(whole.advance()["train_loss"])
        taken_up.advance()
    assert taken_up.final() == whole.final()
    assert (whole.status, whole.skipped, len(losses)) == ("done", 0, 4)
    assert losses[-1] < losses[0] - 0.02
