"""Entropies and margins in 60 digits, forgetting against a literal replay, correlations against SciPy."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from collections import OrderedDict, namedtuple
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from psgd_analysis import generalisation as gen
from psgd_analysis.generalisation import forgetting, statistics

RELAXED = settings(deadline=None, derandomize=True, max_examples=80)


def exactly(row, label):
    """Return entropy and cross-entropy of one row of logits, computed with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        x = [Decimal(float(v)) for v in row]
        e = [(v - max(x)).exp() for v in x]
        p = [v / sum(e) for v in e]
        h = -sum(v * v.ln() for v in p if v > 0)
        return float(h), float(-p[label].ln()) if p[label] > 0 else math.inf


def plain_margin(scores, label):
    others = [s for k, s in enumerate(scores) if k != label]
    return scores[label] - max(others)


def case(rng, backend, n=40, classes=10, scale=5.0):
    """Return logits as the backend has them, the same in float64, and labels; half of them are right."""
    logits = backend.asarray(scale * rng.standard_normal((n, classes)))
    exact = np.asarray(backend.numpy(logits), dtype=np.float64)
    labels = np.where(rng.random(n) < 0.5, exact.argmax(axis=1), rng.integers(0, classes, n))
    return logits, exact, labels, backend.asarray(labels)


# -- logits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
def test_entropy_and_loss_keep_their_relative_accuracy(backend, rng, scale):
    logits, exact, labels, own = case(rng, backend, scale=scale)
    expected = np.array([exactly(row, y) for row, y in zip(exact, labels, strict=True)])
    gaps = exact.max(axis=1) - exact.min(axis=1)
    tolerance = backend.eps * (8 + 2 * gaps)  # e^z is as accurate as z is absolutely
    for function, column in ((lambda x, y: gen.entropy(x), 0), (gen.cross_entropy, 1)):
        values = backend.numpy(backend.jit(function)(logits, own))
        assert values.dtype == backend.dtype_name
        error = np.abs(values - expected[:, column])
        assert np.all(error <= tolerance * expected[:, column] + np.finfo(backend.dtype_name).tiny)
    if scale == 20.0:
        assert expected[:, 0].min() < 1e-15  # far below what -sum p log p can resolve


def test_softmax_is_a_distribution_and_margins_are_differences(backend, rng):
    logits, exact, labels, own = case(rng, backend)
    p = backend.numpy(backend.jit(gen.softmax)(logits))
    expected = np.exp(exact - scipy.special.logsumexp(exact, axis=1, keepdims=True))
    np.testing.assert_allclose(p, expected, rtol=64 * backend.eps)
    margins = backend.numpy(backend.jit(gen.margin)(logits, own))
    wanted = [plain_margin(row, y) for row, y in zip(exact, labels, strict=True)]
    np.testing.assert_allclose(margins, wanted, atol=4 * backend.eps * np.abs(exact).max())
    lead = backend.numpy(gen.margin(logits))
    np.testing.assert_allclose(lead, np.diff(np.sort(exact, axis=1)[:, -2:])[:, 0], atol=40 * backend.eps)
    right = backend.numpy(backend.jit(gen.correct)(logits, own))
    assert right.dtype == bool
    np.testing.assert_array_equal(right, exact.argmax(axis=1) == labels)


def test_margin_by_hand(backend):
    scores = backend.asarray([[0.75, 0.125, 0.125], [0.25, 0.25, 0.5], [0.5, 0.5, 0.0]])
    assert backend.numpy(gen.margin(scores, backend.asarray([0, 0, 0]))).tolist() == [0.625, -0.25, 0.0]
    assert backend.numpy(gen.margin(scores)).tolist() == [0.625, 0.25, 0.0]


def test_two_classes_are_the_binary_entropy(backend):
    x = np.array([-3.0, -0.5, 0.0, 1.0, 6.0])
    logits = backend.asarray(np.stack([np.zeros_like(x), x], axis=1))
    expected = sum(scipy.special.entr(scipy.special.expit(s * x)) for s in (1, -1))
    np.testing.assert_allclose(backend.numpy(gen.entropy(logits)), expected, rtol=32 * backend.eps)


def test_extreme_logits_neither_overflow_nor_lose_the_tail(backend):
    big = 1e4
    logits = backend.asarray(
        [[big, -big, -big], [big, big, -big], [-big, -big, -big], [0.0, 0.0, -big], [1e30, -1e30, 0.0]]
    )
    labels = backend.asarray([1, 0, 2, 0, 0])
    np.testing.assert_allclose(
        backend.numpy(gen.entropy(logits)),
        [0.0, math.log(2), math.log(3), math.log(2), 0.0],
        rtol=4 * backend.eps,
    )
    np.testing.assert_allclose(
        backend.numpy(gen.cross_entropy(logits, labels)),
        [2 * big, math.log(2), math.log(3), math.log(2), 0.0],
        rtol=4 * backend.eps,
    )
    np.testing.assert_allclose(
        backend.numpy(gen.margin(gen.softmax(logits), labels)), [-1, 0, 0, 0, 1], atol=backend.eps
    )
    u = gen.uncertainty(logits, labels)
    assert u.correct == 1
    assert u.loss.max == pytest.approx(2 * big)


def test_minus_infinity_rules_a_class_out(backend):
    logits = backend.asarray([[1.0, 1.0, -np.inf]])
    np.testing.assert_allclose(backend.numpy(gen.entropy(logits)), [math.log(2)], rtol=4 * backend.eps)
    np.testing.assert_allclose(backend.numpy(gen.softmax(logits)), [[0.5, 0.5, 0.0]], rtol=4 * backend.eps)


def test_a_tie_is_correct_for_nobody(backend):
    logits = backend.asarray(np.zeros((3, 3)))
    labels = backend.asarray([0, 1, 2])
    assert not backend.numpy(gen.correct(logits, labels)).any()
    np.testing.assert_array_equal(backend.numpy(gen.margin(logits, labels)), 0)


def test_empty_batches_and_foreign_labels(backend):
    nothing = backend.asarray(np.zeros((0, 4)))
    none = backend.asarray(np.zeros(0, dtype=np.int64))
    for values in (gen.entropy(nothing), gen.margin(nothing), gen.cross_entropy(nothing, none)):
        assert backend.numpy(values).shape == (0,)
    assert backend.numpy(gen.softmax(nothing)).shape == (0, 4)
    logits, foreign = backend.asarray(np.eye(2)), backend.asarray([-1, 2])
    assert np.isnan(backend.numpy(gen.margin(logits, foreign))).all()
    assert np.isnan(backend.numpy(gen.cross_entropy(logits, foreign))).all()
    assert not backend.numpy(gen.correct(logits, foreign)).any()


def test_nan_stays_in_its_row(backend):
    logits = backend.asarray([[0.0, np.nan], [0.0, 1.0]])
    labels = backend.asarray([0, 1])
    for values in (gen.entropy(logits), gen.cross_entropy(logits, labels), gen.margin(logits, labels)):
        assert np.isnan(backend.numpy(values)).tolist() == [True, False]
    assert backend.numpy(gen.correct(logits, labels)).tolist() == [False, True]


@pytest.mark.parametrize(
    ("logits", "labels", "error", "match"),
    [
        (np.zeros(3), None, ValueError, r"`logits` must have shape \(n, C\) with C >= 2.*got \(3,\)"),
        (np.zeros((3, 1)), None, ValueError, "C >= 2 classes"),
        (np.zeros((3, 2), dtype=int), None, TypeError, "`logits` must be float32 or float64, got int64"),
        ([[0.0, 1.0]], None, TypeError, "`logits` must be an array.*got list"),
        (np.zeros((3, 2)), np.zeros(2, dtype=int), ValueError, r"`labels` must have shape \(3,\)"),
        (np.zeros((3, 2)), np.zeros((3, 2), dtype=int), ValueError, "turn one-hot rows into indices"),
        (np.zeros((3, 2)), np.zeros(3), TypeError, "`labels` must be integers, got float64"),
        (np.zeros((3, 2)), [0, 1, 0], TypeError, "`labels` must be an array.*got list"),
    ],
)
def test_wrong_logits_and_labels_are_refused(logits, labels, error, match):
    with pytest.raises(error, match=match):
        gen.uncertainty(logits, labels)
    with pytest.raises(error, match=match):
        gen.entropy(logits) if labels is None else gen.cross_entropy(logits, labels)


def test_libraries_do_not_mix():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="all arrays must come from one library"):
        gen.cross_entropy(np.zeros((2, 2)), torch.zeros(2, dtype=torch.int64))


# -- what the paper's table 6 can mean -------------------------------------------------------------------


def widest_entropy(margin, classes):
    """Return the largest entropy at a given margin: the best other probability, for all others."""
    q = (1 - margin) / classes
    p = np.array([margin + q] + [q] * (classes - 1))
    return float(scipy.special.entr(p).sum())


def test_table_6_lists_differences_of_probabilities_of_different_examples():
    # The largest probability is no margin: p_max = 0.144 needs an entropy of at least -ln 0.144.
    assert -math.log(0.144) > 1.545
    assert -math.log(0.3925) > 0.8975
    # A margin of 0.994 leaves less entropy than the least one of its row.
    assert widest_entropy(0.994, 10) == pytest.approx(0.045, abs=5e-4)
    logits = 12 * np.random.default_rng(1).standard_normal((4000, 10))
    h, m = gen.entropy(logits), gen.margin(gen.softmax(logits))
    assert all(a <= widest_entropy(b, 10) + 1e-12 for a, b in zip(h, m, strict=True))


# -- statistics that add up ------------------------------------------------------------------------------


@RELAXED
@given(
    values=st.lists(st.floats(-3, 3), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_distributions_of_the_parts_add_up_to_the_whole(values, cuts):
    edges = np.linspace(-1, 1, 9)
    x = np.array(values)
    parts = np.split(x, sorted(min(c, x.size) for c in cuts))
    total = gen.distribution(np.zeros(0), edges)
    for part in parts:
        total = total + gen.distribution(part, edges)
    assert total.count == x.size
    inside = (x >= -1) & (x <= 1)
    assert list(total.counts[1:-1]) == np.histogram(x[inside], edges)[0].tolist()
    assert (total.counts[0], total.counts[-1]) == ((x < -1).sum(), (x > 1).sum())
    if x.size:
        assert (total.min, total.max) == (x.min(), x.max())
        assert total.mean == pytest.approx(x.mean(), abs=1e-14)
        assert total.std == pytest.approx(x.std(), abs=1e-7)


def test_mean_of_tiny_entropies_keeps_its_digits():
    x = np.array([6e-18, 5e-16, 1e-10])
    parts = [gen.distribution(x[i : i + 1], statistics.ENTROPY_EDGES) for i in range(3)]
    assert (parts[0] + parts[1] + parts[2]).mean == pytest.approx(x.mean(), rel=1e-15)


def test_uncertainty_against_plain_formulas(backend, rng, monkeypatch):
    logits, exact, labels, own = case(rng, backend, n=50)
    expected = np.array([exactly(row, y) for row, y in zip(exact, labels, strict=True)])
    p = scipy.special.softmax(exact, axis=1)
    margins = np.array([plain_margin(row, y) for row, y in zip(p, labels, strict=True)])
    whole = gen.uncertainty(logits, own)
    monkeypatch.setattr(statistics, "_BLOCK", 250)  # 25 rows at a time
    for u in (whole, gen.uncertainty(logits, own)):
        for d, x in ((u.entropy, expected[:, 0]), (u.loss, expected[:, 1]), (u.margin, margins)):
            assert d.count == sum(d.counts) == 50
            for value, wanted in ((d.min, x.min()), (d.mean, x.mean()), (d.max, x.max()), (d.std, x.std())):
                assert value == pytest.approx(wanted, rel=400 * backend.eps, abs=40 * backend.eps)
        assert u.correct == int((exact.argmax(axis=1) == labels).sum())
        assert u.accuracy_error == pytest.approx(math.sqrt(u.accuracy * (1 - u.accuracy) / 50))
        assert (u.count, u.classes) == (50, 10)


def test_uncertainty_adds_up_over_batches_and_without_labels(rng):
    logits = rng.standard_normal((30, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 30).astype(np.uint8)
    whole = gen.uncertainty(logits, labels)
    total = sum(gen.uncertainty(logits[i : i + 8], labels[i : i + 8]) for i in range(0, 40, 8))
    assert total.correct == whole.correct
    assert total.entropy.counts == whole.entropy.counts
    assert total.margin.mean == pytest.approx(whole.margin.mean, rel=1e-12)
    nothing = gen.uncertainty(logits[:0], labels[:0])
    assert nothing + whole == whole + nothing == whole
    assert math.isnan(nothing.accuracy)
    unlabelled = gen.uncertainty(logits) + gen.uncertainty(logits)
    assert (unlabelled.loss, unlabelled.correct, unlabelled.count) == (None, None, 60)
    assert math.isnan(unlabelled.accuracy)
    assert unlabelled.margin.min >= 0


def test_uncertainty_of_a_tensor_with_history():
    torch = pytest.importorskip("torch")
    logits = torch.zeros((2, 4), requires_grad=True)
    u = gen.uncertainty(logits, torch.tensor([0, 1]))
    assert u.entropy.mean == pytest.approx(math.log(4), rel=1e-6)


def test_bad_values_are_found_by_row(monkeypatch):
    logits = np.zeros((50, 2))
    monkeypatch.setattr(statistics, "_BLOCK", 20)
    for bad in (np.nan, np.inf, -np.inf):
        logits[37, 1] = bad
        with pytest.raises(ValueError, match="`logits` must be finite, got NaN or infinity in row 37"):
            gen.uncertainty(logits)
    labels = np.zeros(50, dtype=int)
    labels[21] = 2
    with pytest.raises(ValueError, match=r"`labels` must be classes 0\.\.1, got 2 in row 21"):
        gen.uncertainty(np.zeros((50, 2)), labels)


def test_what_does_not_add_up_is_refused():
    two, three = gen.uncertainty(np.zeros((1, 2))), gen.uncertainty(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="`other` must have 2 classes too, got 3"):
        two + three
    with pytest.raises(ValueError, match="`other` must have labels where this one has"):
        two + gen.uncertainty(np.zeros((1, 2)), np.zeros(1, dtype=int))
    with pytest.raises(ValueError, match="`other` must have the same edges"):
        gen.distribution(np.zeros(1), [0, 1]) + gen.distribution(np.zeros(1), [0, 2])
    with pytest.raises(ValueError, match="`edges` must be at least two increasing numbers"):
        gen.distribution(np.zeros(1), [1, 0])
    with pytest.raises(ValueError, match="`values` must be finite, got nan for example 1"):
        gen.distribution([0.0, np.nan], [0, 1])
    with pytest.raises(TypeError):
        two + 1


# -- forgetting ------------------------------------------------------------------------------------------


def replay(n, presentations):
    """Return events, presentations, first learned by the definition: a list of verdicts per example."""
    history = [[] for _ in range(n)]
    for i, verdict in presentations:
        history[i].append(verdict)
    events = [sum(a and not b for a, b in itertools.pairwise(h)) for h in history]
    first = [h.index(True) + 1 if True in h else 0 for h in history]
    return events, [len(h) for h in history], first


def agrees(result, n, presentations):
    events, seen, first = replay(n, presentations)
    assert result.events.tolist() == events
    assert result.presentations.tolist() == seen
    assert result.first_learned.tolist() == first
    never = [f == 0 for f in first]
    assert result.never_learned.tolist() == never
    assert result.unforgettable.tolist() == [f > 0 and e == 0 for e, f in zip(events, first, strict=True)]
    assert result.scores.tolist() == [math.inf if x else e for x, e in zip(never, events, strict=True)]


@st.composite
def histories(draw):
    n = draw(st.integers(1, 6))
    one = st.tuples(st.integers(0, n - 1), st.booleans())
    return n, draw(st.lists(st.lists(one, max_size=9), max_size=8))


@RELAXED
@given(histories())
def test_forgetting_is_a_literal_replay_of_the_definition(history):
    n, batches = history
    state = forgetting.init(n)
    for batch in batches:
        indices = np.array([i for i, _ in batch], dtype=np.int64)
        verdicts = np.array([v for _, v in batch], dtype=bool)
        state = forgetting.update(state, verdicts, indices)
    presentations = [p for batch in batches for p in batch]
    agrees(forgetting.result(state), n, presentations)
    joined = forgetting.init(n)
    if presentations:
        joined = forgetting.update(
            joined, np.array([v for _, v in presentations]), np.array([i for i, _ in presentations])
        )
    for a, b in zip(state, joined, strict=True):
        np.testing.assert_array_equal(a, b)


def test_forgetting_on_every_library(backend, rng):
    n, presentations = 11, []
    state = forgetting.init(n, like=backend.asarray(0.0))
    update = backend.jit(forgetting.update)
    for epoch in range(6):
        verdicts = rng.random(n) < 0.6
        verdicts[3] = False
        if epoch % 3 == 0:
            state = update(state, backend.asarray(verdicts))
            presentations += enumerate(verdicts)
        else:  # mini-batches, some examples twice
            indices = rng.permutation(np.append(np.arange(n), [2, 2, 7, 3]))
            for part in np.split(indices, 3):
                seen = rng.random(part.size) < 0.5
                seen[part == 3] = False
                state = update(state, backend.asarray(seen), backend.asarray(part))
                presentations += zip(part, seen, strict=True)
    for array in state:
        backend.numpy(array)  # still on this library
    result = forgetting.result(state)
    agrees(result, n, presentations)
    assert result.scores[3] == math.inf
    assert result.finite_scores[3] == result.presentations.max()


def test_forgetting_by_hand():
    verdicts = np.array(
        [
            [1, 1, 1, 1],  # unforgettable
            [0, 1, 1, 1],  # learned late, unforgettable as well
            [1, 0, 1, 0],  # forgotten twice
            [0, 1, 0, 0],  # once
            [0, 0, 0, 0],  # never learned
        ],
        dtype=bool,
    )
    state = forgetting.init(5)
    for epoch in verdicts.T:
        state = forgetting.update(state, epoch)
    f = forgetting.result(state)
    assert f.scores.tolist() == [0, 0, 2, 1, math.inf]
    assert f.finite_scores.tolist() == [0, 0, 2, 1, 4]
    assert f.first_learned.tolist() == [1, 2, 1, 2, 0]
    assert f.unforgettable.tolist() == [True, True, False, False, False]
    assert f.pruning_order().tolist() == [0, 1, 3, 2, 4]
    assert f.pruning_order(ties=np.array([5.0, 1.0, 0, 0, 0])).tolist() == [1, 0, 3, 2, 4]
    assert "40.0 % unforgettable" in repr(f)
    with pytest.raises(ValueError, match="read-only"):
        f.events[0] = 1


def test_updates_leave_their_input_alone():
    state = forgetting.init(3)
    before = [np.array(x) for x in state]
    indices, verdicts = np.array([2, 0, 2]), np.array([True, False, False])
    for x in (*state, indices, verdicts):
        np.asarray(x).flags.writeable = False
    forgetting.update(state, verdicts, indices)
    forgetting.update(state, verdicts)
    for x, y in zip(state, before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_stray_indices_are_refused_or_counted(backend):
    state = forgetting.init(3, like=backend.asarray(0.0))
    for bad in (-1, 3):
        indices, verdicts = np.array([0, bad]), np.array([True, True])
        if backend.library == "array_api_compat.numpy":
            with pytest.raises(ValueError, match=rf"`indices` must lie in 0\.\.2, got {bad}"):
                forgetting.update(state, verdicts, indices)
        else:
            after = forgetting.update(state, backend.asarray(verdicts), backend.asarray(indices))
            with pytest.warns(UserWarning, match="1 presentations had indices outside"):
                result = forgetting.result(after)
            assert result.presentations.tolist() == [1, 0, 0]
            assert "1 presentations outside 0..2" in repr(result)


@pytest.mark.parametrize(
    ("correct", "indices", "error", "match"),
    [
        (
            np.ones(2, dtype=bool),
            None,
            ValueError,
            r"`correct` must have shape \(3,\), one for every example",
        ),
        (np.ones(3), None, TypeError, "`correct` must be bool, got float64"),
        (np.ones(2, dtype=bool), np.zeros(3, dtype=int), ValueError, r"`correct` must have shape \(3,\), as"),
        (np.ones(2, dtype=bool), np.zeros(2), TypeError, "`indices` must be integers.*got float64"),
        (np.ones((2, 1), dtype=bool), np.zeros((2, 1), dtype=int), ValueError, r"`indices` must be integers"),
        ([True], None, TypeError, "`correct` must be an array.*got list"),
    ],
)
def test_wrong_presentations_are_refused(correct, indices, error, match):
    with pytest.raises(error, match=match):
        forgetting.update(forgetting.init(3), correct, indices)


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_a_data_set_has_a_positive_size(n):
    with pytest.raises(ValueError, match="`n` must be a positive integer"):
        forgetting.init(n)


def test_memory_does_not_grow_with_epochs():
    n, classes, batch = 2_000, 10, 250
    logits = np.random.default_rng(0).standard_normal((n, classes)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, classes, n)
    orders = [np.random.default_rng(i).permutation(n) for i in range(3)]

    def train(epochs):
        state = forgetting.init(n)
        tracemalloc.start()
        for epoch in range(epochs):
            total = 0
            for indices in orders[epoch % 3].reshape(-1, batch):
                scores = np.roll(logits[indices], epoch, axis=1)
                total = total + gen.uncertainty(scores, labels[indices])
                state = forgetting.update(state, gen.correct(scores, labels[indices]), indices)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total.count == n
        assert state.presentations[0] == epochs
        return peak

    train(1)  # caches of the interpreter
    # the least of some, because other threads of the process may allocate meanwhile
    short, long = (min(train(epochs) for _ in range(3)) for epochs in (3, 20))
    assert long < 1.05 * short + 20_000
    assert long < 1_000_000


def test_memory_does_not_grow_with_the_number_of_examples(monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK", 10_000)

    def peak(n):
        logits, labels = np.zeros((n, 10), dtype=np.float32), np.zeros(n, dtype=int)
        tracemalloc.start()
        gen.uncertainty(logits, labels)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2_000)
    assert peak(40_000) < 1.05 * peak(2_000) + 20_000


# -- orders and subsets ----------------------------------------------------------------------------------


@RELAXED
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_pruning_order_sorts_by_score_then_tie_then_index(pairs):
    scores = np.array([a for a, _ in pairs], dtype=float)
    ties = np.array([b for _, b in pairs], dtype=float)
    expected = sorted(range(len(pairs)), key=lambda i: (*pairs[i], i))
    assert gen.pruning_order(scores, ties).tolist() == expected
    expected = sorted(range(len(pairs)), key=lambda i: (pairs[i][0], i))
    assert gen.pruning_order(scores).tolist() == expected


def test_entropy_subsets_by_hand(backend):
    s = gen.entropy_subsets(backend.asarray([0.5, 0.0, 2.0, 1.0, 0.25]), 2)
    assert s.high.tolist() == [2, 3]
    assert s.low.tolist() == [1, 4]
    assert (s.high_mean, s.low_mean, s.size) == (1.5, 0.125, 2)
    assert "2 of high entropy, mean 1.5 nats" in repr(s)


def test_wrong_scores_are_refused():
    with pytest.raises(ValueError, match="`scores` must not be NaN, got nan for example 1"):
        gen.pruning_order([0.0, np.nan])
    with pytest.raises(ValueError, match="`ties` must be as long as `scores`, 2, got 1"):
        gen.pruning_order([0.0, 1.0], [1.0])
    with pytest.raises(ValueError, match=r"shape \(n,\), got float64 of shape \(1, 2\)"):
        gen.pruning_order([[0.0, 1.0]])
    with pytest.raises(TypeError, match="`scores` must hold one real number per example"):
        gen.pruning_order(["a", "b"])
    with pytest.raises(ValueError, match="`entropies` must not be negative"):
        gen.entropy_subsets([0.0, -1.0], 1)
    for size in (0, 2, 1.0, True):
        with pytest.raises(ValueError, match="`size` must be an integer from 1 to 1"):
            gen.entropy_subsets([0.0, 1.0, 2.0], size)


# -- correlations ----------------------------------------------------------------------------------------


def plain_weighted_tau(x, y):
    """Return Vigna's weighted tau from all pairs, hyperbolic additive weights, both rankings averaged."""

    def one(first, second):
        order = sorted(range(len(x)), key=lambda i: (first[i], second[i]), reverse=True)
        rank = {i: r for r, i in enumerate(order)}

        def product(a, b):
            pairs = itertools.combinations(range(len(x)), 2)
            weights = ((1 / (1 + rank[i]) + 1 / (1 + rank[j]), i, j) for i, j in pairs)
            return sum(w * np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for w, i, j in weights)

        return product(x, y) / math.sqrt(product(x, x) * product(y, y))

    return (one(x, y) + one(y, x)) / 2


def test_correlations_against_scipy_and_definitions(backend, rng):
    x = rng.integers(0, 6, 40).astype(float)
    y = backend.asarray(x + 2 * rng.standard_normal(40))
    host = np.asarray(backend.numpy(y), dtype=np.float64)
    c = gen.correlate(backend.asarray(x), y)
    for ours, theirs in (
        (c.spearman, scipy.stats.spearmanr(x, host)),
        (c.pearson, scipy.stats.pearsonr(x, host)),
        (c.kendall, scipy.stats.kendalltau(x, host)),
    ):
        assert ours == (float(theirs.statistic), float(theirs.pvalue))
    ranks = [scipy.stats.rankdata(v) for v in (x, host)]
    assert c.spearman.statistic == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert c.pearson.statistic == pytest.approx(np.corrcoef(x, host)[0, 1])
    signs = np.sign(x[:, None] - x) * np.sign(host[:, None] - host)
    norm = math.sqrt(np.sum(x[:, None] != x) * np.sum(host[:, None] != host))
    assert c.kendall.statistic == pytest.approx(signs.sum() / norm)
    assert c.weighted_tau.statistic == pytest.approx(plain_weighted_tau(x, host))
    assert c.weighted_tau.pvalue is None


def test_permutation_p_value_against_all_permutations():
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    observed = abs(plain_weighted_tau(x, y))
    values = [abs(plain_weighted_tau(x, list(p))) for p in itertools.permutations(y)]
    exact = np.mean(np.array(values) >= observed - 1e-12)
    draws = 1500
    c = gen.correlate(x, y, permutations=draws, rng=np.random.default_rng(3))
    assert abs(c.weighted_tau.pvalue - exact) < 4 * math.sqrt(exact * (1 - exact) / draws)
    again = gen.correlate(x, y, permutations=draws, rng=np.random.default_rng(3))
    assert again == c


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "match"),
    [
        ([1.0, 2, 3], [1.0, 2], {}, ValueError, "`y` must be as long as `x`, 3, got 2"),
        ([1.0, 2], [1.0, 2], {}, ValueError, "at least 3 examples, got 2"),
        ([1.0, 1, 1], [1.0, 2, 3], {}, ValueError, "`x` must take more than one value, got 1.0"),
        ([1.0, 2, 3], [0.0, 0, 0], {}, ValueError, "`y` must take more than one value"),
        ([1.0, 2, np.inf], [1.0, 2, 3], {}, ValueError, "`x` must be finite, got inf.*finite_scores"),
        ([1.0, 2, 3], [1.0, np.nan, 3], {}, ValueError, "`y` must be finite, got nan for example 1"),
        ([1.0, 2, 3], [1.0, 2, 3], {"permutations": 9}, TypeError, "`rng` must be a numpy.random.Generator"),
        ([1.0, 2, 3], [1.0, 2, 3], {"permutations": -1}, ValueError, "`permutations` must be an integer"),
    ],
)
def test_wrong_correlations_are_refused(x, y, options, error, match):
    with pytest.raises(error, match=match):
        gen.correlate(np.array(x), np.array(y), **options)


# -- distance and gap ------------------------------------------------------------------------------------

Layer = namedtuple("Layer", "weight bias")


def test_distance_over_a_tree(backend, rng):
    shapes = [(3, 4), (4,), (), (0, 2)]
    start, stop = ([rng.standard_normal(s) for s in shapes] for _ in range(2))

    def tree(arrays):
        a, b, c, d = (backend.asarray(x) for x in arrays)
        return OrderedDict(layer=Layer(a, b), rest=[c, (d, None)])

    result = gen.distance_from_initialization(tree(stop), tree(start))
    flat = [np.concatenate([x.ravel() for x in arrays]) for arrays in (start, stop)]
    assert result.total == pytest.approx(np.linalg.norm(flat[1] - flat[0]), rel=8 * backend.eps)
    assert result.relative == pytest.approx(result.total / np.linalg.norm(flat[0]), rel=8 * backend.eps)
    assert result.size == 17
    assert [path for path, _ in result.leaves] == ["layer.weight", "layer.bias", "rest.0", "rest.1.0"]
    for (_, found), x, y in zip(result.leaves, stop, start, strict=True):
        assert found == pytest.approx(np.linalg.norm(x - y), rel=16 * backend.eps)


def test_distance_of_flat_parameters_in_any_size(backend, monkeypatch):
    ones = backend.asarray(np.full(3_001, 0.1))
    exact = float(backend.numpy(ones)[0]) * math.sqrt(3_001)
    zero = backend.asarray(np.zeros(3_001))
    monkeypatch.setattr("psgd_analysis.generalisation.distances._BLOCK", 1_500)
    result = gen.distance_from_initialization(ones, zero)
    assert result.total == pytest.approx(exact, rel=16 * backend.eps)
    assert result.relative == math.inf
    assert result.leaves == (("", result.total),)
    huge = backend.asarray(np.array([3e30, -4e30]))
    assert gen.distance_from_initialization(huge, zero[:2]).total == pytest.approx(5e30, rel=8 * backend.eps)
    tiny = backend.asarray(np.array([3e-30, 4e-30]))
    assert gen.distance_from_initialization(tiny, zero[:2]).total == pytest.approx(5e-30, rel=8 * backend.eps)
    same = gen.distance_from_initialization(ones, ones)
    assert (same.total, same.relative) == (0.0, 0.0)
    broken = backend.asarray(np.array([1.0, np.nan]))
    assert math.isnan(gen.distance_from_initialization(broken, zero[:2]).total)


def test_distance_of_a_torch_module():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(2, 2)
    start = {k: v.detach().clone() for k, v in layer.named_parameters()}
    with torch.no_grad():
        layer.bias += torch.tensor([3.0, 4.0])
    moved = gen.distance_from_initialization(dict(layer.named_parameters()), start)
    assert moved.total == pytest.approx(5, rel=1e-6)
    assert dict(moved.leaves)["weight"] == 0
    half = torch.ones(4, dtype=torch.bfloat16)
    assert gen.distance_from_initialization(half, 0 * half).total == 2


@pytest.mark.parametrize(
    ("params", "initial", "error", "match"),
    [
        ({"a": np.ones(2)}, {"b": np.ones(2)}, ValueError, "same tree, got 'a' in only one"),
        ({"a": np.ones(2)}, {"a": np.ones(3)}, ValueError, r"got \(3,\) for \(2,\) at 'a'"),
        (
            {"a": np.ones(2, dtype=int)},
            {"a": np.ones(2)},
            TypeError,
            "floating-point arrays, got int64 at 'a'",
        ),
        ([1.0], [2.0], TypeError, "`0` must be an array.*got float"),
        ({}, {}, ValueError, "at least one array, got an empty tree"),
    ],
)
def test_wrong_parameters_are_refused(params, initial, error, match):
    with pytest.raises(error, match=match):
        gen.distance_from_initialization(params, initial)


def sets(rng):
    labels = rng.integers(0, 5, 200)
    logits = rng.standard_normal((200, 5))
    sure = logits + 4 * np.eye(5)[labels]
    return gen.uncertainty(sure, labels), gen.uncertainty(logits[:50], labels[:50])


def test_gap_by_hand(rng):
    train, test = sets(rng)
    g = gen.gap(train, test)
    assert g.accuracy == train.correct / 200 - test.correct / 50
    a, b = train.accuracy, test.accuracy
    assert g.accuracy_error == pytest.approx(math.sqrt(a * (1 - a) / 200 + b * (1 - b) / 50))
    assert g.loss == test.loss.mean - train.loss.mean > 0
    assert g.entropy == test.entropy.mean - train.entropy.mean
    assert g.margin == train.margin.mean - test.margin.mean > 0
    with pytest.raises(ValueError, match="`train` must come from labelled examples, got no labels"):
        gen.gap(gen.uncertainty(np.zeros((2, 5))), test)
    with pytest.raises(ValueError, match="`test` must come from labelled examples, got no examples"):
        gen.gap(train, gen.uncertainty(np.zeros((0, 5)), np.zeros(0, dtype=int)))
    with pytest.raises(ValueError, match="`test` must have the 5 classes of `train`, got 2"):
        gen.gap(train, gen.uncertainty(np.zeros((2, 2)), np.zeros(2, dtype=int)))


# -- all results -----------------------------------------------------------------------------------------


def every_result(rng):
    train, test = sets(rng)
    state = forgetting.init(20)
    for _ in range(6):
        state = forgetting.update(state, rng.random(20) < 0.5)
    f = forgetting.result(state)
    h = np.abs(rng.standard_normal(20))
    return [
        train,
        gen.uncertainty(np.zeros((0, 3))),
        train.entropy,
        f,
        gen.correlate(f.events, h, names=("events <b>", "entropy")),
        gen.entropy_subsets(h, 5),
        gen.distance_from_initialization([np.ones(3)], [np.zeros(3)]),
        gen.gap(train, test),
    ]


def test_results_show_themselves_and_become_json(rng):
    for result in every_result(rng):
        text = repr(result)
        assert text.startswith(type(result).__name__)
        assert len(text) < 200
        assert "array(" not in text
        again = json.loads(json.dumps(result.as_dict(), allow_nan=False))
        assert again == result.as_dict()
        if not isinstance(result, gen.Distribution):
            html = result._repr_html_()
            assert html.startswith("<table>")
            assert "<b>" not in html


def test_empty_statistics_show_dashes():
    u = gen.uncertainty(np.zeros((0, 3)))
    assert repr(u) == "Uncertainty(no examples, 3 classes)"
    assert u._repr_html_().count("<td") == 10
    assert "–" in u._repr_html_()
    assert repr(u.entropy) == "Distribution(no values)"
    assert u.as_dict()["entropy"]["mean"] is None


def test_p_values_that_underflow_are_not_shown_as_zero():
    x = np.arange(3000.0)
    c = gen.correlate(x, x)
    assert c.spearman.pvalue == 0
    assert "&lt; 1e-300" in c._repr_html_()
    assert '<td style="text-align:right">–</td>' in c._repr_html_()  # no p-value for the weighted tau


def test_import_brings_no_heavy_library():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import psgd_analysis.generalisation; "
        "print([m for m in ('torch', 'jax', 'matplotlib', 'scipy.stats', 'numba') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "[]"
