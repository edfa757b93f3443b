from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.losses import disentanglement
from adn_jax.losses.recipes import DISENTANGLEMENT
from adn_jax.losses.segmentation import generalised_dice
from tests import golden
from tests.losses.arrays import golden_chain, random_chain

TERMS = list(DISENTANGLEMENT.values())


@pytest.mark.parametrize(
    ("term", "names"),
    [
        (disentanglement.size_in_asymmetry, ["dis_size"]),
        (disentanglement.symmetric_voxels, ["dis_asymmetry"]),
        (disentanglement.intrinsic_positive, ["dis_intrinsic"]),
        (disentanglement.tissue_one_way, ["dis_greywhite", "dis_csf"]),
    ],
)
def test_readings_of_the_code_give_its_values(term, names):
    expected = sum(float(golden.value(name)) for name in names)
    assert term(*golden_chain()) == pytest.approx(expected, rel=1e-5)


def paper_values(outputs, targets):
    """The paper's equations, written out in NumPy float64."""
    arrays = (outputs.asymmetry, outputs.pathological, targets.aligned_lesion)
    a, p, g = (np.asarray(array, np.float64) for array in arrays)
    grey, white, csf = np.moveaxis(np.asarray(targets.tissue) * (1 - g), -1, 0)
    charged = np.zeros(grey.shape)
    for index in np.ndindex(*grey.shape):
        opposite = (*index[:3], grey.shape[3] - 1 - index[3])
        charged[index] = (
            grey[index] * white[opposite] + white[index] * grey[opposite] + csf[index]
        )
    return {
        "tissue": (p[..., 0] * charged).mean(),
        "size": abs(p.mean() - g.mean()),
        "symmetric": (p * (1 - a)).mean(),
        "intrinsic": -abs((a - p).mean()),
    }


@pytest.mark.parametrize("chain", [random_chain, golden_chain])
def test_readings_of_the_paper_are_its_equations(chain):
    outputs, targets = chain()
    for name, expected in paper_values(outputs, targets).items():
        value = DISENTANGLEMENT[name](outputs, targets)
        assert value == pytest.approx(expected, rel=1e-5), name


def test_size_by_volume_is_the_relative_error_of_each_case():
    outputs, targets = random_chain()
    p, g = (
        np.asarray(each, np.float64).sum((1, 2, 3, 4))
        for each in (outputs.pathological, targets.aligned_lesion)
    )
    expected = np.mean(np.abs(p - g) / g)
    value = disentanglement.size_by_volume(outputs, targets)
    assert value == pytest.approx(expected, rel=1e-5)
    doubled = replace(outputs, pathological=2 * targets.aligned_lesion)
    assert disentanglement.size_by_volume(doubled, targets) == pytest.approx(1)


def test_size_by_volume_of_a_case_without_infarct_is_finite():
    outputs, targets = random_chain()
    nothing = replace(targets, aligned_lesion=0 * targets.aligned_lesion)

    def loss(pathological):
        changed = replace(outputs, pathological=pathological)
        return disentanglement.size_by_volume(changed, nothing)

    value, gradient = jax.value_and_grad(loss)(outputs.pathological)
    share = float(jnp.mean(outputs.pathological))
    assert value == pytest.approx(share / 1e-4, rel=1e-5)
    assert np.isfinite(gradient).all()


def test_infarct_is_the_loss_of_p_as_a_prediction():
    outputs, targets = random_chain()
    p, g = (
        np.asarray(each, np.float64)
        for each in (outputs.pathological, targets.aligned_lesion)
    )
    entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean()
    classes = [(p, g), (1 - p, 1 - g)]
    weights = [1 / true.sum() ** 2 for _, true in classes]
    both, sizes = (
        sum(w * f(p, g) for w, (p, g) in zip(weights, classes, strict=True))
        for f in (lambda p, g: (p * g).sum(), lambda p, g: (p + g).sum())
    )
    value = disentanglement.pathology_supervision(outputs, targets)
    assert value == pytest.approx(entropy + 1 - 2 * both / sizes, rel=1e-5)


def with_p(outputs, pathological):
    """The outputs with another P, which is D's output itself."""
    return replace(
        outputs, pathological_probability=pathological, pathological=pathological
    )


def test_only_infarct_asks_for_p():
    """Where P is small, more of it costs under the paper's terms, even on infarct."""
    outputs, targets = random_chain()
    small = 0.001 * outputs.pathological

    def slope(names):
        def loss(pathological):
            changed = with_p(outputs, pathological)
            return sum(DISENTANGLEMENT[name](changed, targets) for name in names)

        return np.asarray(jax.grad(loss)(small)) * small.size

    papers = slope(("tissue", "size", "symmetric", "intrinsic"))
    unlike = np.asarray(1 - outputs.asymmetry)
    tissue = slope(("tissue",))
    np.testing.assert_allclose(papers, unlike + tissue, rtol=1e-4, atol=1e-5)
    lesion = np.asarray(targets.aligned_lesion) > 0.5
    assert (papers[lesion] >= 0).all()
    assert (slope(("pathology_supervision",))[lesion] < 0).all()


def test_the_cross_entropy_is_that_of_the_supervision():
    outputs, targets = random_chain()
    both = disentanglement.pathology_supervision(outputs, targets)
    overlap = generalised_dice(outputs.pathological_probability, targets.aligned_lesion)
    value = disentanglement.pathology_cross_entropy(outputs, targets)
    assert value == pytest.approx(float(both - overlap), rel=1e-5)


@pytest.mark.parametrize("infarct", [1.0, 0.0])
def test_a_missed_infarct_and_a_false_one_still_have_a_slope(infarct):
    """The overlap of a batch with an infarct that D is sure is none, and that of a
    batch without one, say next to nothing of D's logits; the cross-entropy does."""
    outputs, targets = random_chain()
    lesion = infarct * targets.aligned_lesion
    targets = replace(targets, aligned_lesion=lesion)
    logits = jnp.full_like(lesion, -8.0 if infarct else 0.0)

    def slope(term):
        def loss(logits):
            return term(with_p(outputs, jax.nn.sigmoid(logits)), targets)

        return abs(np.asarray(jax.grad(loss)(logits))).max() * logits.size

    def overlap(outputs, targets):
        return generalised_dice(
            outputs.pathological_probability, targets.aligned_lesion
        )

    entropy = slope(disentanglement.pathology_cross_entropy)
    assert entropy > 0.49
    assert slope(overlap) < 0.05 * entropy


def test_intrinsic_takes_the_difference_whatever_q_is():
    outputs, targets = random_chain()
    other = replace(outputs, anatomical=jnp.zeros_like(outputs.anatomical))
    for name in ("intrinsic", "intrinsic_positive"):
        term = DISENTANGLEMENT[name]
        assert term(other, targets) == term(outputs, targets)


def test_p_in_symmetric_voxels_is_charged_and_p_in_csf_too():
    outputs, targets = random_chain()
    alike = replace(outputs, asymmetry=jnp.zeros_like(outputs.asymmetry))
    mean = float(jnp.mean(outputs.pathological))
    for name in ("symmetric", "symmetric_voxels"):
        assert DISENTANGLEMENT[name](alike, targets) == pytest.approx(mean, rel=1e-6)
    no_lesion = jnp.zeros_like(targets.aligned_lesion)
    all_csf = jnp.zeros_like(targets.tissue).at[..., 2].set(1)
    for name in ("tissue", "tissue_one_way"):
        value = DISENTANGLEMENT[name](
            outputs, replace(targets, tissue=all_csf, aligned_lesion=no_lesion)
        )
        assert value == pytest.approx(mean, rel=1e-6)


def facing_tissue():
    """P at one grey voxel (0.8) and at the white one that it faces (0.4)."""
    outputs, targets = random_chain()
    left, right = (0, 0, 0, 0), (0, 0, 0, -1)
    blank = jnp.zeros_like(outputs.pathological)
    tissue = jnp.zeros_like(targets.tissue)
    return (
        replace(outputs, pathological=blank.at[left].set(0.8).at[right].set(0.4)),
        replace(
            targets,
            aligned_lesion=blank,
            tissue=tissue.at[(*left, 0)].set(1).at[(*right, 1)].set(1),
        ),
    )


def charge(term, outputs, targets):
    return float(term(outputs, targets)) * outputs.pathological.size


def test_tissue_charges_both_sides_and_one_way_only_white():
    chain = facing_tissue()
    assert charge(disentanglement.tissue, *chain) == pytest.approx(1.2)
    assert charge(disentanglement.tissue_one_way, *chain) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("infarcted", "both_ways", "one_way"), [(0, 0.0, 0.4), (-1, 0.0, 0.0)]
)
def test_infarcted_tissue_is_not_charged(infarcted, both_ways, one_way):
    outputs, targets = facing_tissue()
    lesion = targets.aligned_lesion.at[0, 0, 0, infarcted].set(1)
    chain = outputs, replace(targets, aligned_lesion=lesion)
    assert charge(disentanglement.tissue, *chain) == pytest.approx(both_ways)
    assert charge(disentanglement.tissue_one_way, *chain) == pytest.approx(one_way)


@pytest.mark.parametrize("term", TERMS)
def test_jit_equals_eager(term):
    chain = random_chain()
    assert jax.jit(term)(*chain) == pytest.approx(float(term(*chain)), rel=1e-6)


@pytest.mark.parametrize("name", list(DISENTANGLEMENT))
def test_gradient_by_p_is_the_finite_difference(name):
    outputs, targets = random_chain()

    @jax.jit
    def loss(pathological):
        return DISENTANGLEMENT[name](with_p(outputs, pathological), targets)

    p = outputs.pathological
    gradient = jax.grad(loss)(p)
    assert np.abs(gradient).max() > 0
    direction = jnp.sign(gradient) * 2e-3
    difference = (loss(p + direction) - loss(p - direction)) / 2
    assert jnp.sum(gradient * direction) == pytest.approx(float(difference), rel=2e-2)
