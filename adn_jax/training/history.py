"""The paper's stop rule: the training Dice has stayed the same for some epochs."""

from dataclasses import dataclass
from itertools import pairwise

from adn_jax.config import StageSettings


@dataclass
class DiceHistory:
    """Sum of the training Dice of each epoch; plain numbers, saved as JSON."""

    steps_per_epoch: int
    sums: list[float]

    def add(self, step: int, dice: float) -> None:
        """Count the Dice of update number `step` (from 1)."""
        epoch = (step - 1) // self.steps_per_epoch
        self.sums.extend([0.0] * (epoch + 1 - len(self.sums)))
        self.sums[epoch] += dice

    def means(self, step: int) -> list[float]:
        """Mean Dice of every epoch that is complete after `step` updates."""
        complete = step // self.steps_per_epoch
        return [total / self.steps_per_epoch for total in self.sums[:complete]]

    def has_settled(
        self, step: int, settings: StageSettings, warm_start_steps: int = 0
    ) -> bool:
        """Whether the mean Dice moved less than the tolerance for `patience_epochs`.

        Epochs that touch the warm start do not count, nor does a Dice of 0, where
        training has not begun to find anything.
        """
        patience = settings.patience_epochs
        warm = -(-warm_start_steps // self.steps_per_epoch)
        means = self.means(step)[warm:]
        if patience == 0 or step % self.steps_per_epoch or len(means) <= patience:
            return False
        recent = means[-patience - 1 :]
        moves = [abs(b - a) for a, b in pairwise(recent)]
        return min(recent) > 0 and max(moves) <= settings.patience_tolerance
