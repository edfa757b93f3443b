import re
from dataclasses import fields, replace
from typing import get_type_hints

import pytest

from adn_jax.config import (
    AlignLossSettings,
    AlignmentNetSettings,
    AlignmentSettings,
    AugmentSettings,
    DeepMedicSettings,
    JointLossSettings,
    OptimizerSettings,
    PrepareSettings,
    Recipe,
    StageSettings,
    StreamSettings,
    SystemSettings,
    TtaSettings,
    UNetSettings,
)
from adn_jax.config.bounds import bounds_of
from adn_jax.config.serialization import (
    differing_fields,
    sections,
    settings_from_json,
    settings_to_json,
)
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError

RECIPE = Recipe(
    name="checks",
    system=SystemSettings(prepare=PrepareSettings(infarct_labels=(1,))),
    align=StageSettings(steps=3, optimizer=OptimizerSettings(clip_norm=1.0)),
)


def test_json_and_back_is_the_same_recipe():
    content = settings_to_json(RECIPE)
    assert content["system"]["prepare"]["shape"] == [40, 256, 256]
    assert settings_from_json(Recipe, content, "config") == RECIPE


def test_absent_fields_take_their_default():
    assert settings_from_json(Recipe, {"name": "a"}, "config") == Recipe(name="a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "a", "sead": 1}, "config has an unknown field 'sead'.*'seed'"),
        ({"name": "a", "joint": {"stps": 1}}, r"config\.joint .*'stps'.*'steps'"),
        ({}, "config is not complete .*name"),
        ({"name": "a", "joint": 3}, r"config\.joint is 3; a table"),
        ({"name": 5}, r"config\.name is 5; str is wanted"),
        ({"name": "a", "seed": 1.5}, r"config\.seed is 1\.5; int is wanted"),
        ({"name": "a", "seed": True}, r"config\.seed is True; int is wanted"),
        ({"name": "a", "threshold": "x"}, r"config\.threshold is 'x'; float"),
        ({"name": "a", "tissue_source": "mops"}, "'mops'; one of 'maps', 'network'"),
        (
            {"name": "a", "system": {"prepare": {"shape": [1, 2]}}},
            r"prepare\.shape is \[1, 2\]",
        ),
        ({"name": "a", "unet": {}}, "unknown field 'unet'"),
    ],
)
def test_wrong_json(content, message):
    with pytest.raises(UserError, match=message):
        settings_from_json(Recipe, content, "config")


def test_differing_fields_name_the_place_and_both_values():
    other = replace(RECIPE, seed=7, align=replace(RECIPE.align, batch=2))
    assert list(differing_fields(RECIPE, other)) == [
        "seed 0 -> 7",
        "align.batch 6 -> 2",
    ]
    assert not list(differing_fields(RECIPE, RECIPE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 7.0}, "threshold is 7.0; it has to be between 0 and 1"),
        ({"seed": -1}, "seed is -1"),
        ({"tta": TtaSettings(copies=-1)}, r"tta\.copies is -1"),
        ({"stream": StreamSettings(cut=1.5)}, r"stream\.cut is 1\.5"),
        (
            {"stream": StreamSettings(noise_hu=(5.0, 1.0))},
            r"stream\.noise_hu is \(5\.0, 1\.0\); .* a lowest and a highest",
        ),
        (
            {"stream": StreamSettings(infarct_rim_mm=(-6.0, 6.0))},
            r"stream\.infarct_rim_mm .* above 0",
        ),
        (
            {"stream": StreamSettings(hardening_hu=(-1.0, 6.0))},
            r"stream\.hardening_hu .* from 0 on",
        ),
        (
            {"stream": StreamSettings(cut_mm=(300.0, 300.0))},
            r"stream\.cut_mm .* at most 100",
        ),
        (
            {"stream": StreamSettings(infarcts=(0.5, 0.6))},
            r"stream\.infarcts .* add up to 1",
        ),
        ({"tta": TtaSettings(shift=1.0)}, r"tta\.shift is 1\.0"),
        (
            {"prepare": PrepareSettings(window_hu=(80.0, 0.0))},
            r"prepare\.window_hu is \(80",
        ),
        ({"prepare": PrepareSettings(shape=(0, 8, 8))}, r"prepare\.shape .*above 0"),
        (
            {"prepare": PrepareSettings(spacing_mm=(1.0, -1.0, 1.0))},
            r"prepare\.spacing_mm",
        ),
        ({"prepare": PrepareSettings(infarct_labels=())}, r"prepare\.infarct_labels"),
        (
            {"alignment_net": AlignmentNetSettings(widths=())},
            r"alignment_net\.widths is \(\)",
        ),
        (
            {
                "alignment_net": AlignmentNetSettings(
                    rotation_limit_deg=(0.0, 0.0, 200.0)
                )
            },
            r"alignment_net\.rotation_limit_deg",
        ),
        (
            {"alignment_net": AlignmentNetSettings(translation_limit=(-1.0, 0.0, 0.0))},
            "translation",
        ),
        ({"segment_net": UNetSettings(dropout=2.0)}, r"segment_net\.dropout is 2.0"),
        ({"disentangle_net": UNetSettings(widths=(8, 0))}, r"disentangle_net\.widths"),
        ({"segment_net": UNetSettings(outputs=0)}, r"segment_net\.outputs is 0"),
        (
            {"segment_net": UNetSettings(outputs=2)},
            r"segment_net\.outputs is 2; it has to be 1",
        ),
        (
            {"disentangle_net": UNetSettings(outputs=3)},
            r"disentangle_net\.outputs is 3; it has to be 1",
        ),
        (
            {"segment_net": DeepMedicSettings(steps=(1, 3, 3))},
            r"segment_net\.steps is \(1, 3, 3\); .* none of them twice",
        ),
        (
            {"stream": StreamSettings(infarct_quantiles_ml=(110.0, 12.0, 1.5))},
            r"stream\.infarct_quantiles_ml .* do not fall",
        ),
        ({"segment_net": UNetSettings(groups=0)}, r"segment_net\.groups is 0"),
        ({"segment_net": UNetSettings(prior=1.0)}, r"segment_net\.prior is 1.0"),
        ({"tissue_net": UNetSettings(outputs=1)}, r"tissue_net\.outputs is 1"),
        (
            {"alignment": AlignmentSettings(search_step_deg=0.0)},
            r"alignment\.search_step_deg is 0\.0; it has to be above 0",
        ),
        ({"alignment": AlignmentSettings(search_limit_deg=-1.0)}, "search_limit_deg"),
        ({"alignment": AlignmentSettings(refine_steps=-1)}, "refine_steps is -1"),
        ({"alignment": AlignmentSettings(refine_rate=0.0)}, "refine_rate is 0"),
        ({"align_loss": AlignLossSettings(mirror=-1.0)}, r"align_loss\.mirror is -1"),
        (
            {"joint_loss": JointLossSettings(warm_start_steps=-1)},
            r"joint_loss\.warm_start_steps is -1",
        ),
        (
            {"joint_loss": JointLossSettings(size=float("nan"))},
            r"joint_loss\.size is nan; a finite number",
        ),
        ({"joint": StageSettings(steps=-1)}, r"joint\.steps is -1"),
        ({"joint": StageSettings(batch=0)}, r"joint\.batch is 0"),
        ({"joint": StageSettings(validate_every=0)}, r"joint\.validate_every is 0"),
        ({"joint": StageSettings(patience_epochs=-1)}, r"joint\.patience_epochs"),
        ({"joint": StageSettings(patience_tolerance=-1.0)}, "patience_tolerance"),
        ({"align": StageSettings(patience_epochs=2)}, r"align\.patience_epochs is 2"),
        ({"tissue_source": "none"}, "L_tissue has a weight"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(UserError, match=message):
        check_recipe(RECIPE.with_fields(**changes))


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("segment_net", {"in_plane_levels": -1}, "is -1; .* at least 0"),
        ("segment_net", {"in_plane_levels": 4}, "is 4; with 4 widths .* at most 3"),
        ("segment_net", {"deep_supervision": 3}, "is 3; with 4 widths .* at most 2"),
        ("disentangle_net", {"in_plane_levels": 5}, "is 5; with 4 widths .* at most 3"),
        ("disentangle_net", {"deep_supervision": 1}, "is 1; .* to be 0, since only"),
        ("tissue_net", {"deep_supervision": 1}, "is 1; .* to be 0, since only"),
    ],
)
def test_impossible_levels(network, options, message):
    net = replace(dict(sections(RECIPE))[f"{network}."], widths=(2, 4, 8, 8), **options)
    with pytest.raises(UserError, match=rf"{network}\.{next(iter(options))} {message}"):
        check_recipe(RECIPE.with_fields(**{network: net}))
    most = {"in_plane_levels": 3}
    if network == "segment_net":
        most["deep_supervision"] = 2
    fitting = replace(net, **{"in_plane_levels": 0, "deep_supervision": 0, **most})
    check_recipe(RECIPE.with_fields(**{network: fitting}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"betas": (0.9, 1.0)},
        {"decay_power": -1.0},
        {"clip_norm": 0.0},
    ],
)
def test_impossible_optimizer(wrong):
    stage = StageSettings(optimizer=OptimizerSettings(**wrong))
    with pytest.raises(UserError, match=f"joint.optimizer.{next(iter(wrong))} is"):
        check_recipe(replace(RECIPE, joint=stage))


@pytest.mark.parametrize(
    "wrong", [{"gamma": 1.0}, {"rotation_deg": -1.0}, {"translation": -0.1}]
)
def test_impossible_augmentation(wrong):
    stage = StageSettings(augment=AugmentSettings(**wrong))
    with pytest.raises(UserError, match=f"joint.augment.{next(iter(wrong))} is"):
        check_recipe(replace(RECIPE, joint=stage))


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("asymmetry", "anatomical", "diference", "'diference'; one of 'difference'"),
        ("segment_net", "widths", [8, 16], r"widths is \[8, 16\]; a tuple is wanted"),
        ("prepare", "shape", (8, 8), r"prepare\.shape is \(8, 8\)"),
        ("joint", "steps", 1.5, r"joint\.steps is 1\.5; int is wanted"),
        ("joint", "optimizer", AugmentSettings(), r"optimizer is Augment.*a table of"),
        ("joint_loss", "extra", "module:function", "extra is 'module:function'"),
    ],
)
def test_wrong_types_of_a_python_config(section, name, value, message):
    recipe = Recipe(name="types")
    # No type checker stands between a user's config and the recipe.
    object.__setattr__(dict(sections(recipe))[f"{section}."], name, value)
    with pytest.raises(UserError, match=message):
        check_recipe(recipe)


def test_every_number_has_a_bound():
    for _, settings in sections(RECIPE):
        hints = get_type_hints(type(settings))
        numbers = {
            field.name
            for field in fields(settings)
            if re.search(r"\b(int|float)\b", str(hints[field.name]))
        }
        bounded = {name for name, _ in bounds_of(type(settings))}
        assert numbers <= bounded, f"{type(settings).__name__}: {numbers - bounded}"
