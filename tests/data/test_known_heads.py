from dataclasses import replace

import numpy as np
import pytest

from adn_jax.config import PrepareSettings
from adn_jax.data.cases import PreparedCase
from adn_jax.data.known_heads import IN_WORDS, KNOWN_HEADS, KnownHeads, measure_head
from adn_jax.errors import UserError

SETTINGS = PrepareSettings(
    shape=(12, 40, 40), spacing_mm=(5.0, 3.0, 3.0), window_hu=(0.0, 80.0)
)


def head(seed=0, mean_hu=34.0, noise_hu=3.0, half_mm=48.0):
    """A cube of noise with edges along the grid's."""
    rng = np.random.default_rng(seed)
    brain = np.ones(SETTINGS.shape, np.uint8)
    for axis, spacing in enumerate(SETTINGS.spacing_mm):
        size = SETTINGS.shape[axis]
        far = abs(np.arange(size) - (size - 1) / 2) * spacing > half_mm
        brain[tuple(far if each == axis else slice(None) for each in range(3))] = 0
    hu = rng.normal(mean_hu, noise_hu, SETTINGS.shape).clip(0, 80)
    volume = (hu / 80 * brain).astype(np.float32)
    return PreparedCase("head", volume, brain, np.eye(4), {})


def bleeding(case, size_mm=24.0):
    """The case with a bright cube in its middle."""
    middle = tuple(
        slice(round((n - size_mm / mm) / 2), round((n + size_mm / mm) / 2))
        for n, mm in zip(SETTINGS.shape, SETTINGS.spacing_mm, strict=True)
    )
    volume = case.volume.copy()
    volume[middle] = 65 / 80
    return replace(case, volume=volume)


def test_measures_are_those_of_the_head_that_was_made():
    found = measure_head(head(), SETTINGS)
    voxels = 12 * 32 * 32
    assert found["volume_ml"] == pytest.approx(voxels * 45 / 1000)
    assert found["median_hu"] == pytest.approx(34, abs=0.1)
    assert found["dark_hu"] == pytest.approx(34 - 1.645 * 3, abs=0.2)
    assert found["bright_hu"] == pytest.approx(34 + 1.645 * 3, abs=0.2)
    assert found["noise_hu"] == pytest.approx(3, abs=0.1)
    assert found["bright_ml"] == 0
    bled = measure_head(bleeding(head()), SETTINGS)
    assert bled["bright_ml"] == pytest.approx(4 * 8 * 8 * 45 / 1000)


def test_bone_at_the_surface_is_no_bleeding():
    case = head()
    rim = case.volume.copy()
    inside = np.argwhere(case.brain)
    for axis in range(3):
        for end in (inside[:, axis].min(), inside[:, axis].max()):
            np.moveaxis(rim, axis, 0)[end] = 1
    assert measure_head(replace(case, volume=rim), SETTINGS)["bright_ml"] == 0


@pytest.fixture(scope="module")
def known():
    return KnownHeads.of(
        (head(seed, 32 + seed % 7, 2 + seed % 4, 44 + seed % 6) for seed in range(60)),
        SETTINGS,
    )


def test_heads_like_the_known_ones_are_not_flagged(known):
    assert known.heads == 60
    assert known.flags(head(99, 35, 3, 46), SETTINGS) == ()


@pytest.mark.parametrize(
    ("strange", "told"),
    [
        (head(1, mean_hu=50), "half of the brain is below 50.0 HU"),
        (head(1, noise_hu=9), "noise of 9"),
        (head(1, half_mm=30), "the brain has"),
        (bleeding(head(1)), "in the inner brain"),
    ],
    ids=["contrast medium", "noise", "small", "bleeding"],
)
def test_what_none_of_them_had_is_told(known, strange, told):
    flags = known.flags(strange, SETTINGS)
    assert any(told in flag for flag in flags)
    assert all("unlike the 60 heads" in flag for flag in flags)


def test_they_are_noted_in_a_run(known, tmp_path):
    assert KnownHeads.read(tmp_path) is None
    known.write(tmp_path)
    assert KnownHeads.read(tmp_path) == known
    assert set(known.ranges) == set(IN_WORDS)


@pytest.mark.parametrize(
    "content", ["[]", '{"heads": 3}', '{"heads": 3, "ranges": {"noise_hu": [1]}}']
)
def test_damaged_notes_of_heads_are_refused(tmp_path, content):
    (tmp_path / KNOWN_HEADS).write_text(content)
    with pytest.raises(UserError, match=r"heads\.json"):
        KnownHeads.read(tmp_path)


def test_no_head_to_measure_is_refused():
    with pytest.raises(UserError, match="no head to measure"):
        KnownHeads.of((), SETTINGS)


def test_an_empty_brain_is_refused():
    empty = np.zeros(SETTINGS.shape, np.uint8)
    with pytest.raises(UserError, match="no brain voxel"):
        measure_head(replace(head(), brain=empty), SETTINGS)
