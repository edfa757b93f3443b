"""The template: symmetric, closed where the skull is, open where the cord leaves."""

import numpy as np
import pytest

from adn_jax.phantom.template import (
    close_gaps,
    distance_to_surface,
    load_template,
    sample_template,
)


def test_the_template_is_symmetric_and_of_a_head_s_size():
    template = load_template()
    for values in (template.grey, template.brain_distance, template.head_distance):
        np.testing.assert_allclose(values, values[::-1], atol=1e-4)
    brain_ml = (template.brain_distance < 0).sum() * 27 / 1000
    assert 1700 < brain_ml < 2300
    assert (template.head_distance <= template.brain_distance + 2).all()


def test_the_brain_is_closed_but_for_the_cord():
    template = load_template()
    inside = template.brain_distance < 0
    lowest = np.argwhere(inside[:, :, 0])
    centre = lowest.mean(0) * 3 + template.distance_origin[:2]
    np.testing.assert_allclose(centre, (0, -45), atol=3)
    assert 0 < len(lowest) < 20
    assert not inside[:, :, -1].any()


def test_distances_to_a_ball_are_those_of_a_ball():
    axis = np.arange(-20, 21) * 2.0
    radius = np.sqrt(sum(np.meshgrid(axis**2, axis**2, axis**2)))
    distance = distance_to_surface(radius < 24, 2.0)
    shell = (radius > 10) & (radius < 38)
    error = distance[shell] - (radius[shell] - 24)
    assert np.abs(error).max() < 2.1  # a voxel
    assert abs(error.mean()) < 1


def test_closing_fills_gaps_narrower_than_the_ball():
    mask = np.zeros((30, 30, 30), bool)
    mask[8:22, 8:22, 8:22] = True
    mask[14:16] = False
    closed = close_gaps(mask, 3.0)
    assert closed[14:16, 11:19, 11:19].all()
    assert not closed[:6].any()


def test_sampling_is_trilinear_and_goes_on_at_the_edge():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    points = np.array([[10.0, 11.0, -99.0], [20.0, 21.0, 20.0], [30.0, 31.0, 30.0]])
    found = sample_template(values, np.array([10.0, 20.0, 30.0]), 2.0, points)
    assert found.tolist() == pytest.approx([0.0, 8.5, 0.0])
