from pathlib import Path

import pytest

from adn_jax.cli import predict as module
from adn_jax.cli.main import main
from adn_jax.inference.predict import Failure
from adn_jax.training.runs import BUNDLED


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Calls of `predict_scans` beside the run RUN; the scan `bad` fails, and of `half`
    the DICOM result."""
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "config.json").touch()
    (tmp_path / "a.nii").touch()
    monkeypatch.chdir(tmp_path)
    calls = []

    def predict_scans(run, scans, out, *options):
        calls.append((run, scans, out, *options))
        return {
            scan: Failure(f"{scan} is {scan.name}; mend it.", scan.name == "half")
            for scan in scans
            if scan.name in {"bad", "half"}
        }

    monkeypatch.setattr(module, "predict_scans", predict_scans)
    monkeypatch.setattr(module, "spread_scans", lambda _: None)
    return calls


def test_scans_reach_the_prediction(called, capsys):
    main(["predict", "RUN", "a.nii", "dicom", "--out", "O"])
    main(["predict", "RUN", "a.nii", "--out", "O", "--samples", "9"])
    main(["predict", "RUN", "a.nii", "--out", "O", "--tta.mirrored", "--poses", "4"])
    stated = ["--series", "native", "--hu-range", "-17", "80", "--no-viewer", "--dicom"]
    stated += ["--least-lesion-ml", "2", "--least-ppv", "0.6"]
    main(["predict", "RUN", "dicom", "--out", "O", *stated])
    run, out, one = Path("RUN"), Path("O"), [Path("a.nii")]
    copies, usual = {"mirrored": True, "copies": 4}, ("", None, True, False, None, None)
    assert called == [
        (run, [*one, Path("dicom")], out, 0, {}, *usual),
        (run, one, out, 9, {}, *usual),
        (run, one, out, 0, copies, *usual),
        (run, [Path("dicom")], out, 0, {}, "native", (-17, 80), False, True, 2.0, 0.6),
    ]
    out = "2 scans are in O\n" + 3 * "1 scan is in O\n"
    assert capsys.readouterr().out == out


def test_without_a_run_the_bundled_model_predicts_and_is_named(called, capsys):
    main(["predict", "a.nii", "--out", "O"])
    assert "the bundled model predicts" in capsys.readouterr().out
    for arguments in (["RUN", "a.nii"], ["a.nii", "--model", "RUN"]):
        main(["predict", *arguments, "--out", "O"])
    main(["predict", "a.nii", "--model", "bundled", "--out", "O"])
    models = [BUNDLED, Path("RUN"), Path("RUN"), BUNDLED]
    assert [call[:2] for call in called] == [(each, [Path("a.nii")]) for each in models]
    assert "bundled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["RUN", "a.nii", "--model", "RUN"], "leave one of them out"),
        (["RUN"], "no scan was given"),
    ],
)
def test_two_models_or_no_scan_are_refused(called, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        main(["predict", *arguments, "--out", "O"])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not called


def test_a_failed_scan_ends_with_code_2_after_the_others(called, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "RUN", "a.nii", "bad", "--out", "O"])
    assert stop.value.code == 2
    assert len(called) == 1
    output = capsys.readouterr()
    assert output.err == "adn: bad is bad; mend it.\n"
    assert output.out == "1 scan is in O\n"


@pytest.mark.usefixtures("called")
def test_a_scan_that_lacks_its_dicom_result_alone_is_there(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "RUN", "a.nii", "half", "bad", "--out", "O"])
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.err == "adn: half is half; mend it.\nadn: bad is bad; mend it.\n"
    assert output.out == "2 scans are in O\n"


@pytest.mark.usefixtures("called")
def test_the_last_line_tells_of_results_that_an_earlier_run_left(monkeypatch, capsys):
    failures = {
        Path("old"): Failure("old failed.", older_stay=True),
        Path("new"): Failure("new failed."),
    }
    monkeypatch.setattr(module, "predict_scans", lambda *_: failures)
    with pytest.raises(SystemExit):
        main(["predict", "RUN", "old", "new", "--out", "O"])
    assert (
        capsys.readouterr().out
        == "0 scans are in O, and results of an earlier run for 1\n"
    )


@pytest.mark.usefixtures("called")
def test_scans_are_needed():
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--out", "O"])
    assert stop.value.code == 2


def test_a_scan_alone_suffices(called):
    main(["predict", "a.nii"])
    assert called[0][:3] == (BUNDLED, [Path("a.nii")], Path("predictions"))


def test_a_mistyped_run_is_no_scan_for_the_bundled_model(called, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "RUNN", "a.nii"])
    assert stop.value.code == 2
    assert "RUNN is neither a run nor a scan" in capsys.readouterr().err
    assert not called


def test_a_link_to_nothing_names_its_target(tmp_path, capsys):
    (tmp_path / "scan").symlink_to("/absent/scan")
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "scan")])
    said = capsys.readouterr().err
    assert "scan is a link whose target is missing (/absent/scan)" in said
