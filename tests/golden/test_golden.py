import numpy as np

from tests import golden


def test_drawn_weights_match_the_recipe_of_the_stored_values(shared):
    recipe = {}
    exec((shared / "golden" / "fill.py").read_text(), recipe)
    for network in ("T", "resunet_f8", "unet_f8"):
        tsv = shared / "golden" / f"parameters_{network}.tsv"
        expected = recipe["fill"](str(tsv), 1003)
        drawn = golden.parameters(network, 1003)
        assert list(drawn) == list(expected)
        for name in expected:
            np.testing.assert_array_equal(drawn[name], expected[name])
    shape = (2, 1, 3, 4, 5)
    np.testing.assert_array_equal(
        golden.volume(7, shape), np.moveaxis(recipe["volume"](7, shape), 1, -1)
    )


def test_warm_start_total_is_segmentation_plus_ten_regularisations():
    total, segmentation, regularisation = golden.value("steps_total_seg_reg").T
    np.testing.assert_allclose(total, segmentation + 10 * regularisation, rtol=1e-6)
