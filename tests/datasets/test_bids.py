from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import read_case
from adn_jax.datasets.bids import find_bids, looks_like_bids
from adn_jax.errors import UserError
from adn_jax.prepare.dataset import prepare_dataset

ISLES = (
    "raw_data/{0}/ses-01/{0}_ses-01_ncct.nii.gz",
    "raw_data/{0}/ses-01/{0}_ses-01_cta.nii.gz",
    "raw_data/{0}/ses-01/perfusion-maps/{0}_ses-01_tmax.nii.gz",
    "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_cta.nii.gz",
    "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_lvo-msk.nii.gz",
    "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_cow-msk.nii.gz",
    "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_dwi.nii.gz",
    "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_lesion-msk.nii.gz",
    "phenotype/{0}/ses-02/{0}_ses-02_outcome.xlsx",
)
"""The files of a case of ISLES'24 as its Zenodo archive has them."""


def touch(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def isles(root: Path, *subjects: str) -> Path:
    return touch(root, *(file.format(name) for name in subjects for file in ISLES))


def only_case(root: Path):
    (case,) = find_bids(root).cases
    return case


def relative(root: Path, case) -> tuple[str, str | None]:
    lesion = case.lesion and str(case.lesion.relative_to(root))
    return str(case.scan.relative_to(root)), lesion


def test_isles_24(tmp_path):
    root = isles(tmp_path / "train", "sub-stroke0001", "sub-stroke0142")
    touch(root, "clinical_data-description.xlsx", "raw_data/sub-stroke0001/._sub-1.nii")
    stray = "derivatives/sub-stroke0142/ses-02/sub-stroke0142_ses-02_lesion-msk.nii"
    touch(root, stray)  # lies in the space of the MRI
    dataset = find_bids(tmp_path)
    assert dataset.folder == root
    assert dataset.splits is None
    assert dataset.left_out == {}
    assert dataset.remarks == ()
    for case, name in zip(
        dataset.cases, ("sub-stroke0001", "sub-stroke0142"), strict=True
    ):
        assert case.name == name
        expected = (ISLES[0].format(name), ISLES[7].format(name))
        assert relative(root, case) == expected
        assert case.brain is None
        assert case.tissue is None


def test_isles_24_as_the_challenge_gave_it(tmp_path):
    name = "sub-strokecase0009"
    lesion = f"derivatives/{name}/ses-0002/{name}_ses-0001_lesion-msk.nii.gz"
    scan = f"rawdata/{name}/ses-0001/{name}_ses-0001_ncct.nii.gz"
    touch(tmp_path, scan, lesion)
    assert relative(tmp_path, only_case(tmp_path)) == (scan, lesion)


def test_the_choice_is_recorded(tmp_path):
    scans = [f"sub-1/ses-{n}/ct/sub-1_ses-{n}_ct.nii.gz" for n in (2, 10)]
    touch(tmp_path, *scans)
    case = only_case(tmp_path)
    assert case.choice == {"chosen": {"scan": scans[0]}, "other_scans": [scans[1]]}


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["ses-1_ct", "ses-2_ct", "ses-2_lesion-msk"], "ses-2_ct"),
        (["ses-1_ct", "ses-2_ct", "ses-2_space-mni_lesion-msk"], "ses-1_ct"),
        (["ses-1_run-10_ct", "ses-1_run-2_ct"], "ses-1_run-2_ct"),
        (["run-1_ct", "run-2_ct", "run-2_desc-lesion_mask"], "run-2_ct"),
        (["ses-1_ce-iodine_ct", "ses-2_ct"], "ses-2_ct"),
        (["space-mni_ct", "run-2_ncct"], "run-2_ncct"),
        (["desc-preproc_CT", "T1w"], "desc-preproc_CT"),
        (["acq-CTA_ct", "acq-NCCT_ct"], "acq-NCCT_ct"),
        (["rec-bone_ct", "rec-soft_ct"], "rec-soft_ct"),
        (["desc-bone_ct", "desc-preproc_ct"], "desc-preproc_ct"),
        (["rec-B70f_ct", "rec-H30f_ct"], "rec-H30f_ct"),
        (["ses-24h_ct", "ses-baseline_ct"], "ses-baseline_ct"),
        (["ses-day7_ct", "ses-admission_ct"], "ses-admission_ct"),
        (["ses-fu_ct", "ses-01_ct"], "ses-01_ct"),
        (["ses-day7_ct", "ses-24h_ct"], "ses-24h_ct"),
        (["ses-acute_ct", "ses-subacute_ct"], "ses-acute_ct"),
    ],
)
def test_which_scan_is_taken(tmp_path, files, chosen):
    touch(tmp_path, *(f"sub-a/sub-a_{name}.nii.gz" for name in files))
    assert only_case(tmp_path).scan.name == f"sub-a_{chosen}.nii.gz"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("24h", "7d"),
        ("h24", "d7"),
        ("D0", "M3"),
        ("d1", "m3"),
        ("h0", "m3"),
        ("day0", "30"),
        ("day0", "90"),
        ("day1", "90"),
        ("Day1", "Follow"),
        ("24h", "2w"),
        ("24h", "1week"),
        ("24hr", "day7"),
        ("day1", "3mo"),
        ("12months", "2y"),
        ("year1", "m18"),
        ("week1", "30d"),
        ("30min", "24h"),
        ("90min", "2h"),
        ("0days", "1"),
        ("01", "24h"),
        ("1", "day1"),
        ("2", "M3"),
        ("day7", "oneMonth"),
        ("day-1", "day-30"),
        ("visit2day7", "visit1day30"),
        ("fu24h", "fu3m"),
        ("fuD7", "fuM3"),
        ("24hFU", "7dFU"),
        ("fu", "fu2"),
        ("fu1", "fu2"),
        ("day7", "fu1"),
        ("baseline", "day1"),
        ("baseline24h", "1"),
        ("pre24h", "post24h"),
        ("pre", "postop0h"),
        ("acute", "7d"),
        ("24h", "subacute"),
        ("subacute", "90d"),
        ("discharge", "M3"),
        ("stroke", "control"),
        ("d0", "t90"),
        ("ct1", "mri2"),
        ("1", "visit0day7"),
    ],
)
def test_the_first_session_by_name(tmp_path, first, later):
    for at, names in enumerate([(first, later), (later, first)]):
        root = tmp_path / str(at)
        for order, name in zip("ab", names, strict=True):
            touch(root, f"sub-1/{order}/sub-1_ses-{name}_ct.nii.gz")
        assert only_case(root).scan.name == f"sub-1_ses-{first}_ct.nii.gz"


def test_of_scans_that_could_all_be_meant_the_first_is_flagged(tmp_path):
    touch(tmp_path, *(f"sub-a/sub-a_acq-{name}_ct.nii.gz" for name in ("one", "two")))
    (flag,) = only_case(tmp_path).flags
    assert (
        flag
        == "2 scans could be meant; the first found is read, sub-a_acq-one_ct.nii.gz"
    )


@pytest.mark.parametrize(
    ("masks", "chosen"),
    [
        (["dseg", "label-lesion_mask"], "label-lesion_mask"),
        (["mask", "dseg"], "dseg"),
        (["desc-brain_mask", "desc-infarct_roi"], "desc-infarct_roi"),
        (["desc-tissue_dseg", "label-GM_probseg", "label-lesion_probseg"], None),
        (["space-MNI_lesion-msk"], None),
        (["space-ncct_lesion-msk", "lesion-msk"], "space-ncct_lesion-msk"),
        (["ses-9_space-ncct_lesion-msk", "lesion-msk"], "lesion-msk"),
        (["run-2_lesion-msk", "lesion"], "lesion"),
        (["desc-nonlesion_mask"], None),
        (["label-L_mask", "dseg"], "label-L_mask"),
        (["acq-thin_desc-lesion_mask"], None),
        (["rec-B70f_desc-lesion_mask", "label-lesion_mask"], "label-lesion_mask"),
        (["acq-dwi_space-ncct_lesion-msk"], "acq-dwi_space-ncct_lesion-msk"),
        (["ses-2_acq-dwi_lesion-msk"], "ses-2_acq-dwi_lesion-msk"),
        (["run-2_space-ncct_lesion-msk"], None),
        (["ses-2_run-2_lesion-msk"], "ses-2_run-2_lesion-msk"),
        (["rec-B70f_space-ncct_lesion-msk"], "rec-B70f_space-ncct_lesion-msk"),
    ],
)
def test_which_label_is_taken(tmp_path, masks, chosen):
    touch(tmp_path, "sub-a/sub-a_run-1_acq-thick_rec-H30f_ct.nii.gz")
    touch(tmp_path, *(f"derivatives/x/sub-a/sub-a_{name}.nii" for name in masks))
    lesion = only_case(tmp_path).lesion
    assert (lesion and lesion.name) == (chosen and f"sub-a_{chosen}.nii")


def test_the_first_session_by_the_table_of_sessions(tmp_path):
    for session in ("a", "b"):
        touch(tmp_path, f"rawdata/sub-1/ses-{session}/sub-1_ses-{session}_ct.nii.gz")
    assert only_case(tmp_path).flags == (
        "there are scans of several sessions (a, b); by its name a is taken for the "
        "first",
    )
    rows = ["session_id\tacq_time", "ses-a\t2020-03-05T08:00:00", "ses-b\t2020-03-04"]
    table = tmp_path / "rawdata" / "sub-1" / "sub-1_sessions.tsv"
    table.write_text("\n".join(rows))
    case = only_case(tmp_path)
    assert (case.scan.name, case.flags) == ("sub-1_ses-b_ct.nii.gz", ())
    table.write_text("\n".join([*rows[:2], "ses-b\tn/a"]))
    assert only_case(tmp_path).scan.name == "sub-1_ses-a_ct.nii.gz"


def test_masks_of_the_mri_are_not_those_of_the_ct(tmp_path):
    touch(
        tmp_path,
        "sub-1/ct/sub-1_ct.nii.gz",
        "sub-1/anat/sub-1_T1w.nii.gz",
        "derivatives/x/sub-1/anat/sub-1_desc-brain_mask.nii.gz",
        "derivatives/x/sub-1/anat/sub-1_desc-lesion_mask.nii.gz",
    )
    case = only_case(tmp_path)
    assert (case.brain, case.lesion) == (None, None)
    moved = "derivatives/x/sub-1/anat/sub-1_space-ct_desc-lesion_mask.nii.gz"
    touch(tmp_path, moved)
    assert only_case(tmp_path).lesion == tmp_path / moved


def test_labels_on_the_grid_of_a_registered_scan(tmp_path):
    touch(tmp_path, "sub-a/sub-a_space-mni_ct.nii.gz", "sub-a/sub-a_lesion.nii.gz")
    assert only_case(tmp_path).lesion is None
    touch(tmp_path, "sub-a/sub-a_space-MNI_lesion.nii.gz")
    assert only_case(tmp_path).lesion.name == "sub-a_space-MNI_lesion.nii.gz"


def test_brain_and_tissue_beside_the_scan(tmp_path):
    made = [f"label-{name}_probseg" for name in ("GM", "WM", "CSF")]
    names = ["space-orig_desc-brain_mask", *made]
    touch(tmp_path, "rawdata/sub-a/ct/sub-a_ct.nii.gz")
    touch(tmp_path, *(f"derivatives/seg/sub-a/sub-a_{name}.nii.gz" for name in names))
    case = only_case(tmp_path)
    assert case.brain.name == "sub-a_space-orig_desc-brain_mask.nii.gz"
    assert {key: path.name for key, path in case.tissue.items()} == {
        "grey": "sub-a_label-GM_probseg.nii.gz",
        "white": "sub-a_label-WM_probseg.nii.gz",
        "csf": "sub-a_label-CSF_probseg.nii.gz",
    }


def test_two_labels_that_could_be_meant_refuse_the_case_alone(tmp_path):
    for name in ("a", "b"):
        touch(tmp_path, f"sub-{name}/sub-{name}_ct.nii.gz")
    touch(
        tmp_path,
        "derivatives/one/sub-a/sub-a_desc-lesion_mask.nii.gz",
        "derivatives/two/sub-a/sub-a_lesion-msk.nii.gz",
    )
    refused, good = find_bids(tmp_path).cases
    assert good.name == "sub-b"
    with pytest.raises(UserError) as caught:
        refused.load(PrepareSettings(), ReadSettings())
    assert str(caught.value) == (
        "sub-a_desc-lesion_mask.nii.gz and sub-a_lesion-msk.nii.gz could both belong "
        "to sub-a_ct.nii.gz; keep one of them."
    )


def test_what_the_report_should_say(tmp_path):
    touch(tmp_path, "sub-a/sub-a_ct.nii.gz", "sub-a/sub-a_dseg.nii.gz")
    touch(tmp_path, "sub-b/sub-b_ct.nii.gz", "sub-c/sub-c_lesion-msk.nii.gz")
    dataset = find_bids(tmp_path)
    assert dataset.left_out == {
        "sub-c": "it has no scan named *_ct.nii.gz or *_ncct.nii.gz."
    }
    missing, unnamed = dataset.remarks
    assert missing == (
        "1 of 2 cases have no lesion label on the scan's grid, neither beside the scan "
        f"nor in {tmp_path / 'derivatives'}."
    )
    assert unnamed.startswith("1 masks do not say what they show")
    assert unnamed.endswith("the first one sub-a_dseg.nii.gz.")


TABLE = "participant_id\tage\tsplit\nsub-a\t70\tTraining\nb\t60\tval\nsub-c\t1\tn/a\n"


def test_splits_of_the_participants_table(tmp_path):
    touch(tmp_path, *(f"sub-{name}/sub-{name}_ct.nii.gz" for name in "abc"))
    table = tmp_path / "participants.tsv"
    table.write_text(TABLE + "sub-nobody\t50\ttest\n", encoding="utf-8-sig")
    splits = find_bids(tmp_path).splits
    assert splits == {"train": ["sub-a"], "validation": ["sub-b"], "test": []}
    table.write_text(TABLE.replace("Training", "fold1"))
    with pytest.raises(UserError, match=r"participants.tsv has a split named 'fold1'"):
        find_bids(tmp_path)
    table.write_text("participant_id\nsub-a\n")
    assert find_bids(tmp_path).splits is None
    (tmp_path / "splits.json").write_text('{"train": ["sub-c"]}')
    assert find_bids(tmp_path).splits == {"train": ["sub-c"]}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("rawdata/participants.tsv", "participant_id\tSplit\nsub-a\ttest\n"),
        ("participants.tsv", "participant_id,split\nsub-a,test\n"),
    ],
)
def test_a_table_of_splits_is_found_as_it_is_written(tmp_path, place, text):
    touch(tmp_path, "rawdata/sub-a/sub-a_ct.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-a\t70\n")
    (tmp_path / place).write_text(text)
    assert find_bids(tmp_path).splits == {
        "train": [],
        "validation": [],
        "test": ["sub-a"],
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("sub-1\ttest\n", r"of none of the cases \(it names sub-1, the first case is"),
        ("sub-001\ttest\nsub-001\ttrain\n", "puts sub-001 into the splits test and"),
    ],
)
def test_a_table_of_splits_that_cannot_be_meant_is_refused(tmp_path, rows, message):
    touch(tmp_path, "sub-001/sub-001_ct.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tsplit\n" + rows)
    with pytest.raises(UserError, match=message):
        find_bids(tmp_path)


def test_what_is_no_bids_folder(tmp_path):
    assert not looks_like_bids(tmp_path)
    with pytest.raises(UserError, match="holds no data sets with folders of subjects"):
        find_bids(tmp_path)
    touch(tmp_path, "one/sub-a/anat/sub-a_T1w.nii.gz")
    assert looks_like_bids(tmp_path)
    with pytest.raises(UserError, match="has 1 subjects and no CT; scans are named"):
        find_bids(tmp_path)
    touch(tmp_path, "two/sub-a/sub-a_ct.nii.gz")
    with pytest.raises(UserError, match="holds 2 data sets with folders of subjects"):
        find_bids(tmp_path)


def test_prepared_from_isles_folders(head, small_grid, tmp_path):
    root = isles(tmp_path / "isles", "sub-stroke0001", "sub-stroke0002")
    for name in ("sub-stroke0001", "sub-stroke0002"):
        head.ct.to_filename(root / ISLES[0].format(name))
        head.lesion.to_filename(root / ISLES[7].format(name))
    other_grid = nib.Nifti1Image(np.zeros((30, 30, 20), np.uint8), np.eye(4))
    other_grid.to_filename(root / ISLES[7].format("sub-stroke0002"))
    manifest = prepare_dataset(root, tmp_path / "out", small_grid, workers=1)
    assert manifest.cases == ("sub-stroke0001",)
    assert (
        "the lesion label has 30 x 30 x 20 voxels" in manifest.failed["sub-stroke0002"]
    )
    case = read_case(tmp_path / "out" / "sub-stroke0001")
    assert case.lesion.any()
    assert case.source["chosen"]["lesion"] == ISLES[7].format("sub-stroke0001")
