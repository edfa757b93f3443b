"""Outputs and targets of a chain that was never run, for the loss terms."""

import jax.numpy as jnp
import numpy as np

from adn_jax.geometry.rigid import Pose
from adn_jax.losses.alignment import AlignOutputs
from adn_jax.pipeline.adn import AdnOutputs, Targets
from adn_jax.pipeline.align import Alignment
from tests import golden

SHAPE = (2, 3, 4, 6, 1)


def random_map(seed, shape=SHAPE):
    drawn = np.random.default_rng(seed).random(shape, np.float32)
    return jnp.asarray(0.05 + 0.9 * drawn)


def one_hot_tissue(labels):
    """Grey, white and CSF from labels 1, 2, 3 `b z y x 1`."""
    channels = np.concatenate([labels == tissue for tissue in (1, 2, 3)], axis=-1)
    return jnp.asarray(channels, jnp.float32)


def make_outputs(aligned, pathological, prediction, aligned_prediction):
    mirrored = aligned[:, :, :, ::-1]
    asymmetry = jnp.maximum(mirrored - aligned, 0)
    batch = aligned.shape[0]
    identity = jnp.tile(jnp.eye(4, dtype=jnp.float32), (batch, 1, 1))
    return AdnOutputs(
        alignment=Alignment(Pose.identity(batch), identity, identity, "rigid"),
        aligned=aligned,
        mirrored=mirrored,
        asymmetry=asymmetry,
        pathological_probability=pathological,
        pathological=pathological,
        anatomical=asymmetry - pathological,
        salient=aligned + asymmetry - pathological,
        compensated=aligned + pathological,
        aligned_prediction=aligned_prediction,
        prediction=prediction,
    )


def random_chain(seed=0):
    """Outputs and targets with everything different from everything else."""
    maps = [random_map(10 * seed + index) for index in range(4)]
    lesions = [
        (random_map(10 * seed + index) > 0.7).astype(jnp.float32) for index in (4, 5)
    ]
    labels = np.random.default_rng(seed).integers(0, 4, SHAPE)
    targets = Targets(
        lesion=lesions[0],
        aligned_lesion=lesions[1],
        tissue=one_hot_tissue(labels),
    )
    return make_outputs(*maps), targets


def golden_chain():
    """The stored X, P, label and tissue of the authors' regularisers."""
    lesion = jnp.asarray(golden.value("dis_label"))
    pathological = jnp.asarray(golden.value("dis_P"))
    outputs = make_outputs(
        jnp.asarray(golden.value("dis_X")), pathological, pathological, pathological
    )
    tissue = one_hot_tissue(golden.value("dis_tissue"))
    return outputs, Targets(lesion=lesion, aligned_lesion=lesion, tissue=tissue)


def random_alignment(seed=0):
    """I, X, X', reconstruction, pose and search's pose, all different."""
    volume, aligned, back = (random_map(20 + 10 * seed + index) for index in range(3))
    random = np.random.default_rng(seed)
    drawn = jnp.asarray(random.uniform(-0.4, 0.4, (2, 2, 6)), jnp.float32)
    pose, search = (Pose(six[:, :3], six[:, 3:]) for six in drawn)
    return AlignOutputs(
        volume=volume,
        aligned=aligned,
        mirrored=aligned[:, :, :, ::-1],
        reconstruction=back,
        pose=pose,
        search_pose=search,
    )
