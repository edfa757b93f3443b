from dataclasses import replace

import pytest

from adn_jax.config import JointLossSettings, StageSettings
from adn_jax.training.loop import DiceHistory

PATIENT = StageSettings(patience_epochs=2, patience_tolerance=0.01)


def history(epochs, steps_per_epoch=2):
    made = DiceHistory(steps_per_epoch, [])
    for epoch, dice in enumerate(epochs):
        for step in range(steps_per_epoch):
            made.add(epoch * steps_per_epoch + step + 1, dice)
    return made


def test_means_of_complete_epochs():
    made = DiceHistory(2, [])
    for step, dice in [(1, 0.2), (2, 0.4), (3, 0.9)]:
        made.add(step, dice)
    assert made.means(3) == pytest.approx([0.3])
    assert made.sums == pytest.approx([0.6, 0.9])


@pytest.mark.parametrize(
    ("epochs", "settled"),
    [
        ([0.5, 0.5, 0.5], True),
        ([0.1, 0.5, 0.505, 0.51], True),
        ([0.5, 0.5], False),
        ([0.5, 0.5, 0.52], False),
        ([0.5, 0.5, 0.5, 0.6], False),
        ([0.0, 0.0, 0.0], False),
    ],
)
def test_settled_when_the_mean_stayed_for_two_epochs(epochs, settled):
    made = history(epochs)
    assert made.has_settled(2 * len(epochs), PATIENT) is settled


def test_only_at_the_end_of_an_epoch():
    made = history([0.5, 0.5, 0.5, 0.5])
    assert not made.has_settled(7, PATIENT)
    assert made.has_settled(8, PATIENT)


def test_warm_start_does_not_count():
    made = history([0.5, 0.5, 0.5, 0.5])
    assert not made.has_settled(8, PATIENT, warm_start_steps=3)
    assert made.has_settled(8, PATIENT, warm_start_steps=2)


def test_there_is_no_warm_start_without_l_d():
    loss = JointLossSettings(warm_start_steps=3)
    assert loss.warm_steps == 3
    assert replace(loss, regularisation=0.0).warm_steps == 0


def test_no_patience_never_stops():
    assert not history([0.5] * 9).has_settled(18, StageSettings())
