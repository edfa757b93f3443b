import numpy as np
import pytest
from scipy.special import expit

from adn_jax.data.known_lesions import (
    ENOUGH,
    FALSE_HEADS,
    KNOWN_LESIONS,
    HeadLesions,
    KnownLesions,
)
from adn_jax.errors import UserError

TRUTH = KnownLesions(0, 0, -17.0, 1.0, 16.0, least_ppv=0.0)


def heads(count, infarcts=0.6, seed=0):
    """Heads whose lesions are true as often as `TRUTH` says."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        size = int(rng.integers(0, 4))
        volume = rng.lognormal(2.0, 1.0, size)
        probability = rng.uniform(0.7, 1.0, size)
        hit = rng.uniform(size=size) < TRUTH.ppv(volume, probability)
        has_infarct = bool(hit.any() or rng.uniform() < infarcts - 0.4)
        yield HeadLesions(volume, probability, hit, has_infarct)


def test_what_lesions_were_drawn_by_is_learnt():
    known = KnownLesions.of(list(heads(6000)))
    assert known.heads == 6000
    assert known.per_log_ml == pytest.approx(TRUTH.per_log_ml, abs=0.15)
    assert known.per_probability == pytest.approx(TRUTH.per_probability, abs=1.5)
    for volume, probability in ((2.0, 0.8), (10.0, 0.9), (40.0, 0.95)):
        told, true = (one.ppv(volume, probability) for one in (known, TRUTH))
        assert told == pytest.approx(true, abs=0.03)


def test_a_lesion_of_other_heads_is_true_as_often_as_told():
    known = KnownLesions.of(list(heads(4000)))
    others = list(heads(10_000, seed=1))
    told = np.concatenate([known.ppv(one.volume_ml, one.probability) for one in others])
    hit = np.concatenate([one.hit for one in others])
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (told >= low) & (told < low + 0.25)
        assert hit[inside].mean() == pytest.approx(told[inside].mean(), abs=0.04)


def test_lesions_are_left_in_no_more_than_some_heads_without_infarct():
    found = list(heads(2000))
    known = KnownLesions.of(found)
    healthy = [one for one in found if not one.has_infarct]

    def marked(least):
        return np.mean(
            [
                (known.ppv(one.volume_ml, one.probability) >= least).any()
                for one in healthy
            ]
        )

    assert 0 < known.least_ppv < 1
    assert marked(known.least_ppv) <= FALSE_HEADS < marked(0.0)
    assert marked(known.least_ppv - 0.02) > FALSE_HEADS - 0.02


def test_too_few_lesions_tell_nothing():
    few = HeadLesions(np.ones(5), np.full(5, 0.8), np.ones(5, bool), has_infarct=True)
    false = few._replace(hit=np.zeros(5, bool), has_infarct=False)
    assert KnownLesions.of([]) is None
    assert KnownLesions.of([few] * ENOUGH) is None
    assert KnownLesions.of([false] * ENOUGH) is None
    known = KnownLesions.of([few] * 4 + [false] * 4)
    assert known.least_ppv == 0.0  # of four heads without infarct
    assert known.ppv(1.0, 0.8) == pytest.approx(0.5, abs=1e-3)


def test_it_is_read_as_it_was_written(tmp_path):
    known = KnownLesions.of(list(heads(200)))
    assert KnownLesions.read(tmp_path) is None
    known.write(tmp_path)
    assert KnownLesions.read(tmp_path) == known


@pytest.mark.parametrize("content", ["[1, 2]", '{"heads": 3}', '{"heads": "many"}'])
def test_damaged_notes_of_lesions_are_refused(tmp_path, content):
    (tmp_path / KNOWN_LESIONS).write_text(content)
    with pytest.raises(UserError, match=r"lesions\.json"):
        KnownLesions.read(tmp_path)


def test_ppv_grows_with_volume_and_probability():
    ppv = TRUTH.ppv(np.array([1.0, 10.0, 10.0]), np.array([0.8, 0.8, 0.9]))
    np.testing.assert_allclose(ppv, expit([-4.2, -4.2 + np.log(10), -2.6 + np.log(10)]))
