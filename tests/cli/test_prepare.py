import nibabel as nib
import numpy as np
import pytest

from adn_jax.cli.main import main
from adn_jax.data.cases import read_case
from adn_jax.data.manifest import read_manifest

GRID = ["--shape", "12", "24", "24", "--spacing-mm", "12", "8", "8", "--workers", "1"]


@pytest.fixture
def raw(tmp_path):
    """One round head, and one case that is no image."""
    edge = np.linspace(-100, 100, 40)
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(edge, edge, edge)))
    hu = np.select([radius < 75, radius < 85, radius < 90], [35, 900, 20], -1000)
    for name in ("good", "bad"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    ct = nib.Nifti1Image(hu.astype(np.int16), np.diag([5.1, 5.1, 5.1, 1]))
    ct.to_filename(tmp_path / "raw" / "good" / "ct.nii.gz")
    (tmp_path / "raw" / "bad" / "ct.nii.gz").write_bytes(b"no image")
    return tmp_path / "raw"


def test_good_cases_are_prepared_and_bad_ones_named(raw, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["prepare", str(raw), str(tmp_path / "out"), *GRID])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert "1 prepared case (" in said.out
    assert f"is in {tmp_path / 'out'}" in said.out
    assert "adn: bad is left out: " in said.err
    assert "is not a readable NIfTI file" in said.err
    case = read_case(tmp_path / "out" / "good")
    assert case.volume.shape == (12, 24, 24)
    assert case.spacing_mm == pytest.approx((12, 8, 8))


def test_cases_that_are_gone_are_named_and_kept(raw, tmp_path, capsys):
    (raw / "bad" / "ct.nii.gz").unlink()
    call = ["prepare", str(raw), str(tmp_path / "out"), *GRID]
    main(call)
    (tmp_path / "out" / "good").rename(tmp_path / "out" / "older")
    main(call)
    assert "adn: 1 prepared case in " in (said := capsys.readouterr().err)
    assert "and not used: older\n" in said
    assert (tmp_path / "out" / "older" / "case.json").is_file()


def test_without_a_bad_case_all_is_well(raw, tmp_path, capsys):
    (raw / "bad" / "ct.nii.gz").unlink()
    main(["prepare", str(raw), str(tmp_path / "out"), *GRID])
    said = capsys.readouterr()
    assert said.err == (
        "adn: no case is in the splits validation and test (1 case in all); training "
        "needs train and validation, evaluation the split that it scores.\n"
    )
    assert "flag: " not in said.out


def test_settings_come_from_a_recipe_and_flags_change_them(raw, tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from adn_jax.config import PrepareSettings, Recipe, SystemSettings\n"
        "def get_config():\n"
        "    settings = PrepareSettings((16, 16, 16), (10.0, 12.0, 12.0))\n"
        "    return Recipe('mine', system=SystemSettings(prepare=settings))\n"
    )
    (raw / "bad" / "ct.nii.gz").unlink()
    arguments = ["--recipe", str(recipe), "--window-hu", "0", "100", "--workers", "1"]
    main(["prepare", str(raw), str(tmp_path / "out"), *arguments])
    settings = read_manifest(tmp_path / "out").settings
    assert settings.shape == (16, 16, 16)
    assert settings.window_hu == (0.0, 100.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "nowhere is no folder"),
        (["raw/bad", "out"], "raw/bad holds no case"),
        (["raw", "out", "--recipe", "none.py"], "none.py does not exist"),
        (["raw", "out", "--window-hu", "80", "0"], "window_hu"),
        (["raw", "out", "--workers", "0"], "--workers is 0"),
        (["raw", "out", "--memory-gib", "0"], "--memory-gib is 0.0"),
        (["raw", "out", "--scheduler", "nowhere"], "no Dask scheduler answers at"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    raw, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(raw.parent)
    with pytest.raises(SystemExit) as caught:
        main(["prepare", *arguments])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("adn: ")
    assert said.count("\n") == 1


def test_a_single_case_is_pointed_to_its_parent(raw, capsys):
    with pytest.raises(SystemExit):
        main(["prepare", str(raw / "good"), "out"])
    assert (
        "holds no case; a raw data set has folders <case>/" in capsys.readouterr().err
    )


def test_unknown_option_has_a_hint(raw, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", str(raw), "out", "--shap", "1"])
    assert caught.value.code == 2
    assert "--shape" in capsys.readouterr().err
