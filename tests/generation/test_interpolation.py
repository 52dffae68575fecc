# SPDX-License-Identifier: Apache-2.0
"""Paths between codes against the formula, number by number."""

import math

import numpy as np
import pytest

from cmim_hf.generation.interpolation import interpolate_codes


def loops(first, second, steps, method):
    """The formula for one pair of codes, in loops of Python floats."""
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    norm = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    angle = math.acos(dot / norm)
    path = []
    for step in range(steps):
        t = step / (steps - 1)
        weights = 1 - t, t
        if method == "spherical":
            weights = math.sin((1 - t) * angle), math.sin(t * angle)
            weights = tuple(weight / math.sin(angle) for weight in weights)
        path.append([weights[0] * a + weights[1] * b for a, b in zip(first, second, strict=True)])
    return np.array(path)


def pairs(rows, size, seed=0):
    return np.random.default_rng(seed).standard_normal((2, rows, size))


@pytest.mark.parametrize("method", ["linear", "spherical"])
@pytest.mark.parametrize(("steps", "size"), [(2, 96), (9, 2), (3, 96)])
def test_paths_follow_the_formula(method, steps, size):
    first, second = pairs(5, size)
    found = interpolate_codes(first, second, steps, method)
    assert found.shape == (5, steps, size) and found.dtype == np.float64
    for row, a, b in zip(found, first, second, strict=True):
        assert np.allclose(row, loops(a, b, steps, method), rtol=0, atol=1e-12)
    alone = interpolate_codes(first[2], second[2], steps, method)
    assert alone.shape == (steps, size) and np.array_equal(alone, found[2])


def test_linear_is_the_default_and_exact():
    found = interpolate_codes(np.array([0.0, 4.0]), np.array([2.0, 0.0]), 5)
    assert found.tolist() == [[0, 4], [0.5, 3], [1, 2], [1.5, 1], [2, 0]]


def test_a_quarter_circle():
    found = interpolate_codes(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 4, "spherical")
    angles = np.deg2rad([0, 30, 60, 90])
    assert np.allclose(found, np.stack((np.cos(angles), np.sin(angles)), 1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_the_ends_are_the_codes_in_their_own_type(dtype, method):
    first, second = pairs(50, 96).astype(dtype)
    found = interpolate_codes(first, second, 7, method)
    assert found.dtype == dtype
    rounding = 0 if method == "linear" else 4 * np.finfo(dtype).eps
    assert np.allclose(found[:, 0], first, rtol=rounding, atol=0)
    assert np.allclose(found[:, -1], second, rtol=rounding, atol=0)


def test_on_the_sphere_norms_stay_and_steps_are_equal_angles():
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) * 3 for x in pairs(20, 30))
    path = interpolate_codes(first, second, 9, "spherical")
    assert np.allclose(np.linalg.norm(path, axis=-1), 3, rtol=1e-12)
    cosines = (path[:, 1:] * path[:, :-1]).sum(axis=-1) / 9
    assert np.allclose(cosines, cosines[:, :1], rtol=1e-10)
    chord = interpolate_codes(first, second, 9)
    assert (np.linalg.norm(chord[:, 1:-1], axis=-1) < 2.99).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.5])
def test_parallel_codes_are_joined_by_the_line(dtype, factor):
    first = pairs(10, 96)[0].astype(dtype)
    second = (factor * first).astype(dtype)
    for ends in ((first, second), (second, first)):
        found = interpolate_codes(*ends, 5, "spherical")
        assert np.isfinite(found).all()
        assert np.array_equal(found, interpolate_codes(*ends, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_has_no_direction_and_paths_to_it_stay_on_the_ray(dtype):
    first = pairs(10, 96)[0].astype(dtype)
    with np.errstate(invalid="raise", divide="raise"):
        found = interpolate_codes(first, np.zeros_like(first), 5, "spherical")
    shares = found / first[:, None]
    assert np.allclose(shares, shares[..., :1], rtol=1e-4, atol=1e-6)
    assert (np.diff(shares[..., 0], axis=1) < 0).all()
    assert np.allclose(shares[:, [0, -1], 0], [1, 0], rtol=0, atol=1e-6)
    assert not interpolate_codes(0 * first, 0 * first, 5, "spherical").any()


def test_one_parallel_pair_leaves_the_others_of_a_batch_on_their_arcs():
    first, second = pairs(3, 8)
    second[1] = first[1]
    found = interpolate_codes(first, second, 5, "spherical")
    assert np.allclose(found[1], first[1], rtol=1e-14)
    for row in (0, 2):
        assert np.allclose(found[row], loops(first[row], second[row], 5, "spherical"), atol=1e-12)


def test_nearly_parallel_codes_lie_between_line_and_arc():
    first = pairs(1, 96)[0][0]
    for tilt in (1e-2, 1e-3, 1e-5, 1e-7):
        second = first + tilt * pairs(1, 96, seed=1)[0][0]
        found = interpolate_codes(first, second, 5, "spherical")
        line = interpolate_codes(first, second, 5)
        # the arc leaves its chord by about a share of (angle / 2)² / 2
        assert np.abs(found - line).max() <= 2 * tilt**2 * np.abs(first).max() + 1e-12


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_batches_of_any_shape_and_none(method):
    first, second = pairs(6, 4)
    expected = interpolate_codes(first, second, 3, method)
    found = interpolate_codes(first.reshape(2, 3, 4), second.reshape(2, 3, 4), 3, method)
    assert np.array_equal(found, expected.reshape(2, 3, 3, 4))
    assert interpolate_codes(first[:0], second[:0], 3, method).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), np.zeros(4), 3), r"one shape \(..., size\), got \(3,\) and \(4,\)"),
        ((np.zeros((2, 3)), np.zeros(3), 3), r"got \(2, 3\) and \(3,\)"),
        ((np.float64(1), np.float64(2), 3), r"got \(\) and \(\)"),
        ((np.zeros(3), np.zeros(3), 1), "at least 2, not 1"),
        ((np.zeros(3), np.zeros(3), 0), "at least 2, not 0"),
        ((np.zeros(3), np.zeros(3), 3, "cubic"), "method 'cubic'; choose one of linear, spherical"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        interpolate_codes(*arguments)
