from pathlib import Path

import pytest

from adn_jax.cli import predict as module
from adn_jax.cli.main import main


@pytest.fixture
def called(monkeypatch):
    """Calls of `predict_scans`; the scan `bad` fails."""
    calls = []

    def predict_scans(run, scans, out, *options):
        calls.append((run, scans, out, *options))
        return {
            scan: f"{scan} is bad; mend it." for scan in scans if scan.name == "bad"
        }

    monkeypatch.setattr(module, "predict_scans", predict_scans)
    return calls


def test_scans_reach_the_prediction(called, capsys):
    main(["predict", "RUN", "a.nii", "dicom", "--out", "O"])
    main(["predict", "RUN", "a.nii", "--out", "O", "--samples", "9"])
    main(["predict", "RUN", "a.nii", "--out", "O", "--tta.mirrored", "--poses", "4"])
    stated = ["--series", "native", "--hu-range", "-17", "80", "--no-viewer", "--dicom"]
    main(["predict", "RUN", "dicom", "--out", "O", *stated])
    run, out, one = Path("RUN"), Path("O"), (Path("a.nii"),)
    assert called == [
        (run, (*one, Path("dicom")), out, 0, {}, "", None, True, False),
        (run, one, out, 9, {}, "", None, True, False),
        (run, one, out, 0, {"mirrored": True, "copies": 4}, "", None, True, False),
        (run, (Path("dicom"),), out, 0, {}, "native", (-17, 80), False, True),
    ]
    out = "2 scans are in O\n" + 3 * "1 scan is in O\n"
    assert capsys.readouterr().out == out


def test_a_failed_scan_ends_with_code_2_after_the_others(called, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "RUN", "a.nii", "bad", "--out", "O"])
    assert stop.value.code == 2
    assert len(called) == 1
    output = capsys.readouterr()
    assert output.err == "adn: bad is bad; mend it.\n"
    assert output.out == "1 scan is in O\n"


@pytest.mark.usefixtures("called")
def test_scans_and_out_are_needed():
    for arguments in (["RUN", "a.nii"], ["RUN", "--out", "O"]):
        with pytest.raises(SystemExit) as stop:
            main(["predict", *arguments])
        assert stop.value.code == 2
