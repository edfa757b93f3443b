"""What every comparison says first: data, cases, seeds, rules, steps, versions."""

from collections.abc import Mapping

from adn_jax.comparison.scores import Scores
from adn_jax.comparison.words import steps_text
from adn_jax.data.manifest import Manifest
from adn_jax.io.paths import spelled_out

GRIDS = {"native": "the scans' own grids", "prepared": "the prepared grid"}


def heading(scores: Scores, manifest: Manifest, split: str) -> dict[str, str]:
    """Facts by name, in the order in which they are shown."""
    settings = scores.systems[0].system.recipe.system.prepare
    summary = scores.systems[0].summaries[0]
    layout = f" ({manifest.layout})" if manifest.layout else ""
    shape, spacing = (
        " × ".join(f"{each:g}" for each in values)
        for values in (settings.shape, settings.spacing_mm)
    )
    low, high = settings.window_hu
    seeds = dict.fromkeys(seed for each in scores.systems for seed in each.seeds)
    return {
        "Data": f"{spelled_out(manifest.folder)}{layout}, split {split}, "
        f"{len(scores.cases)} cases",
        "Seeds": ", ".join(str(seed) for seed in sorted(seeds)),
        "Scored on": GRIDS[scores.grid],
        "Prepared grid": f"{shape} voxels of {spacing} mm (z, y, x), "
        f"window {low:g} to {high:g} HU",
        "Label rule": summary["label_rule"],
        "Empty masks": " ".join([summary["empty"]["rule"], *decided_by_rule(scores)]),
        "HD95": summary["hd95_convention"].partition(";")[0],
        "Steps": all_steps(scores),
        "Versions": versions_text(summary["versions"]),
    }


def decided_by_rule(scores: Scores) -> tuple[str, ...]:
    """A sentence on how many scores the rule for empty masks gives, if it gives any."""
    counts = {}
    for each in scores.systems:
        found = [summary["grids"][scores.grid]["empty"] for summary in each.summaries]
        counts[each.system.name] = sum(
            empty[kind] for empty in found for kind in ("label", "prediction", "both")
        )
    if not any(counts.values()):
        return ()
    listed = ", ".join(
        f"{name} {counts[name]} of {len(each.seeds) * len(scores.cases)}"
        for name, each in zip(counts, scores.systems, strict=True)
    )
    return (f"The rule for empty masks, not a measurement, gives these: {listed}.",)


def all_steps(scores: Scores) -> str:
    """Steps of the stages; systems with the same steps are named together."""
    groups: dict[str, list[str]] = {}
    for each in scores.systems:
        groups.setdefault(steps_text(each.system), []).append(each.system.name)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{', '.join(names)}: {steps}" for steps, names in groups.items())


def versions_text(versions: Mapping[str, str]) -> str:
    """Versions of the packages that make the numbers."""
    return ", ".join(f"{package} {number}" for package, number in versions.items())
