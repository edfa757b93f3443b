import numpy as np

from adn_jax.benchmarks.job import draw_case, draw_cases

SHAPE = (8, 24, 32)


def test_a_head_has_brain_lesion_tissue_and_noise():
    case = draw_case(SHAPE, 3)
    volume, lesion, tissue = case["volume"], case["lesion"], case["tissue"]
    brain = volume > 0
    assert volume.shape == lesion.shape == tissue.shape == SHAPE
    assert 0 < volume.max() <= 1
    assert 0.2 < brain.mean() < 0.5
    assert set(np.unique(lesion)) == {0, 255}
    assert brain[lesion > 0].all()
    assert set(np.unique(tissue)) == {0, 1, 2, 3}
    assert (brain == (tissue > 0)).all()
    assert volume[tissue == 1].std() > 0.05


def test_the_lesion_is_darker_and_on_one_side():
    case = draw_case((8, 64, 64), 0)
    inside = case["lesion"] > 0
    around = (case["tissue"] == 2) & ~inside
    both = case["tissue"] == 2
    assert case["volume"][inside & both].mean() < case["volume"][around].mean() - 0.05
    left, right = np.split(inside.sum((0, 1)), 2)
    assert min(left.sum(), right.sum()) == 0


def test_cases_are_fixed_and_differ():
    one, again = draw_cases(SHAPE, 3), draw_cases(SHAPE, 3)
    assert all((one[name] == again[name]).all() for name in one)
    assert (one["case"] == [0, 1, 2]).all()
    assert (one["volume"][0] != one["volume"][1]).any()
