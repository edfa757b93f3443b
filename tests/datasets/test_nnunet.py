import json

import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import read_case
from adn_jax.datasets.nnunet import find_nnunet, looks_like_nnunet
from adn_jax.errors import UserError
from adn_jax.prepare.dataset import prepare_dataset

ABOUT = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "infarct": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def write_tree(root, *files, about=ABOUT):
    """Empty files, and `dataset.json` unless it is None."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if about is not None:
        (root / "dataset.json").write_text(json.dumps(about))
    return root


def labelled(*names):
    images = [f"imagesTr/{name}_0000.nii.gz" for name in names]
    return [*images, *(f"labelsTr/{name}.nii.gz" for name in names)]


@pytest.fixture
def root(tmp_path):
    test = ["imagesTs/c_0000.nii.gz", "imagesTs/d_0000.nii.gz", "labelsTs/c.nii.gz"]
    return write_tree(tmp_path / "Dataset501_ADN", *labelled("a", "b"), *test)


def by_name(dataset):
    return {case.name: case for case in dataset.cases}


def reason(dataset, name):
    with pytest.raises(UserError) as caught:
        by_name(dataset)[name].load(PrepareSettings(), ReadSettings())
    return str(caught.value)


def test_training_and_test_cases(root):
    dataset = find_nnunet(root)
    assert dataset.layout == "nnunet"
    assert dataset.splits == {"train": ["a", "b"], "test": ["c", "d"]}
    assert dataset.label_names == {1: "infarct"}
    assert dataset.label_rule((1,)) == ""
    cases = by_name(dataset)
    assert list(cases) == ["a", "b", "c", "d"]
    assert cases["a"].scan == root / "imagesTr/a_0000.nii.gz"
    assert cases["a"].lesion == root / "labelsTr/a.nii.gz"
    assert cases["c"].lesion == root / "labelsTs/c.nii.gz"
    assert cases["d"].lesion is None


def test_the_only_data_set_of_a_folder(root):
    assert looks_like_nnunet(root.parent)
    assert find_nnunet(root.parent).folder == root
    write_tree(root.parent / "Dataset502_B", *labelled("a"))
    with pytest.raises(UserError, match=r"holds 2 data sets \(Dataset501_ADN, Dataset"):
        find_nnunet(root.parent)


def test_fold_0_validates(root):
    folds = [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    splits = find_nnunet(root).splits
    assert splits == {"train": ["b"], "validation": ["a"], "test": ["c", "d"]}


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"train": ["a"]}, r"no list of folds"),
        ([], r"no list of folds"),
        ([{"train": ["a"]}], r"no list of folds"),
        ([{"train": ["a"], "val": ["c"]}], r"names 'c', which is no training case"),
    ],
)
def test_folds_that_do_not_fit(root, folds, message):
    (root / "splits_final.json").write_text(json.dumps(folds))
    with pytest.raises(UserError, match=message):
        find_nnunet(root)


def test_own_splits_win(root):
    splits = {"train": ["a", "c"], "test": ["b"]}
    (root / "splits.json").write_text(json.dumps(splits))
    assert find_nnunet(root).splits == splits


def test_the_ct_among_several_channels(root):
    names = {"0": "CTA", "1": "NCCT (as the CTA lies)", "2": "CT"}
    write_tree(root, about={**ABOUT, "channel_names": names})
    with pytest.raises(UserError, match=r"of which 2 are a plain CT by name; exact"):
        find_nnunet(root)
    names["2"] = "CT perfusion Tmax"
    write_tree(root, "imagesTr/a_0001.nii.gz", about={**ABOUT, "channel_names": names})
    dataset = find_nnunet(root)
    assert by_name(dataset)["a"].scan == root / "imagesTr/a_0001.nii.gz"
    assert "imagesTr/b_0001.nii.gz, the CT of b, is missing" in reason(dataset, "b")


def test_a_case_whose_files_do_not_fit_fails_alone(root):
    write_tree(
        root,
        "imagesTs/a_0000.nii.gz",
        "imagesTr/e_0000.nii.gz",
        "labelsTr/f.nii.gz",
        "labelsTr/._b.nii.gz",
    )
    dataset = find_nnunet(root)
    assert list(by_name(dataset)) == ["a", "b", "c", "d", "e", "f"]
    assert "among the training and the test cases" in reason(dataset, "a")
    assert "labelsTr/e.nii.gz, the label of e, is missing" in reason(dataset, "e")
    assert "imagesTr/f_0000.nii.gz, the CT of f, is missing" in reason(dataset, "f")
    assert dataset.splits == {"train": ["b", "e", "f"], "test": ["c", "d"]}
    assert by_name(dataset)["a"].files() == []


def test_images_without_a_number_are_told(root):
    for name in ("imagesTr/c3.nii.gz", "imagesTs/t2_0000.nii"):
        (root / name).touch()
    (remark,) = find_nnunet(root).remarks
    assert remark.endswith(": imagesTr/c3.nii.gz, imagesTs/t2_0000.nii")


def test_several_labels_are_named(root):
    labels = {"background": 0, "infarct": 1, "bleeding": 2}
    write_tree(root, about={**ABOUT, "labels": labels})
    assert find_nnunet(root).label_rule((1, 3)) == (
        "the label values are 1 infarct, 2 bleeding; as infarct count 1 "
        "(--infarct-labels)"
    )


def test_values_of_regions_have_the_names_of_all_of_them(root):
    labels = {"background": 0, "penumbra": [1, 2], "core": [2]}
    write_tree(root, about={**ABOUT, "labels": labels})
    assert find_nnunet(root).label_names == {1: "penumbra", 2: "penumbra and core"}
    labels = {"0": "background", "1": "infarct", "2": "infarct"}  # the first version
    write_tree(root, about={**ABOUT, "labels": labels})
    assert find_nnunet(root).label_names == {1: "infarct", 2: "infarct"}


def test_description_of_the_first_version(root):
    about = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "infarct"}}
    write_tree(root, about=about)
    dataset = find_nnunet(root)
    assert len(dataset.cases) == 4
    assert dataset.label_names == {1: "infarct"}
    assert dataset.label_rule((1,)) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("CTA", "perfusion: CBF", "CT angiography", "MRI_T1w", "DWI", "CT_contrast"),
        *("CECT", "ceCT", "CE-CT", "enhanced CT", "CT arterial"),
    ],
)
def test_an_only_channel_that_is_another_image_is_refused(root, name):
    write_tree(root, about={**ABOUT, "channel_names": {"0": name}})
    with pytest.raises(UserError, match="of which 0 are a plain CT by name"):
        find_nnunet(root)


@pytest.mark.parametrize(
    "name", ["image", "scan", "NCCT", "ct1", "CT (PET/CT)", "no contrast"]
)
def test_an_only_channel_of_any_other_name_is_the_ct(root, name):
    write_tree(root, about={**ABOUT, "channel_names": {"0": name}})
    assert len(find_nnunet(root).cases) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {}}, "lacks or spoils channel_names or labels"),
        ({"channel_names": {"CT": "0"}}, "exactly one is wanted"),
        ({"labels": None}, "lacks or spoils channel_names or labels"),
        ({"labels": {"background": 0, "infarct": 1, "ignore": 2}}, "label `ignore`"),
        ({"labels": {"background": 0, "infarct": "one"}}, "are no whole numbers"),
        ({"file_ending": ".nrrd"}, r"end in '\.nrrd'; convert them to NIfTI"),
        ({"dataset": {}}, "lists each case's files itself"),
    ],
)
def test_descriptions_that_cannot_be_read(root, change, message):
    write_tree(root, about={**ABOUT, **change})
    with pytest.raises(UserError, match=message):
        find_nnunet(root)


def test_what_is_no_nnunet_folder(tmp_path):
    assert not looks_like_nnunet(tmp_path)
    with pytest.raises(UserError, match="it has no imagesTr"):
        find_nnunet(tmp_path)
    write_tree(tmp_path, "imagesTr/a_0000.nii.gz", about=None)
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        find_nnunet(tmp_path)
    write_tree(tmp_path)
    with pytest.raises(UserError, match="has no labelsTr folder"):
        find_nnunet(tmp_path)
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "imagesTr" / "a_0000.nii.gz").rename(tmp_path / "imagesTr/a.nii.gz")
    with pytest.raises(UserError, match=r"holds no case; images are named <case>_0000"):
        find_nnunet(tmp_path)


def test_cases_are_prepared_under_their_names(head, small_grid, tmp_path):
    root = write_tree(tmp_path / "Dataset001_X", *labelled("case_1", "case_2"))
    for name in ("case_1", "case_2"):
        head.ct.to_filename(root / f"imagesTr/{name}_0000.nii.gz")
    head.lesion.to_filename(root / "labelsTr/case_1.nii.gz")
    manifest = prepare_dataset(root, tmp_path / "out", small_grid, workers=1)
    assert manifest.cases == ("case_1",)
    assert "is not a readable NIfTI file" in manifest.failed["case_2"]
    assert read_case(tmp_path / "out" / "case_1").lesion.any()
