"""The viewer's page read in a browser: what it shows lies where it says."""

import base64
import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from adn_jax.config import PrepareSettings
from adn_jax.data.image import from_nifti
from adn_jax.evaluation.maps import CaseMaps
from adn_jax.evaluation.viewer import place_mirrored, write_viewer
from adn_jax.prepare.case import prepare_scan
from adn_jax.prepare.inputs import CaseInput
from adn_jax.prepare.read import RawScan
from tests.evaluation.browser import PROGRAM, open_browser

INFARCT_MM = np.array([-40.0, 26.0, 14.0])
"""Middle of what is found: on the patient's left, in front."""
CLOT_MM = np.array([28.0, -34.0, 14.0])
"""Middle of a white ball in the CT: on the right, at the back, at the same height."""
SETTINGS = PrepareSettings(shape=(24, 50, 44), spacing_mm=(6.0, 4.0, 4.0))
ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SAL", "AIR"]
TILT = np.deg2rad(18)

LISTEN = """
window.said = {}
const write = CanvasRenderingContext2D.prototype.fillText
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
    const [name, value] = String(text).split(" = ")
    window.said[name] = value === undefined ? x : Number(value)
    return write.call(this, text, x, y)
}
"""
CANVAS = "[...document.querySelectorAll('canvas')].find(one => one.offsetWidth > 100)"


def ball(places, centre, radius):
    return np.linalg.norm(places - centre, axis=-1) <= radius


def planted(codes, tilt=0.0):
    """A scan with the clot, stored in an orientation, and maps with the infarct."""
    shape, affine = (60, 68, 34), np.diag([3.0, 3.0, 5.0, 1.0])
    affine[:3, 3] = -np.diag(affine)[:3] * (np.array(shape) - 1) / 2
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine = turn @ affine
    places = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    brain = np.linalg.norm(places / [62, 80, 65], axis=-1) <= 1
    hu = np.where(brain, 30, -1000)
    hu[ball(places, CLOT_MM, 9)] = 79
    order = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    scan, mask = (
        from_nifti(nib.Nifti1Image(one, affine).as_reoriented(order), "scan")
        for one in (hu.astype(np.int16), brain.astype(np.uint8))
    )
    case = prepare_scan(CaseInput(RawScan("planted", scan), brain=mask), SETTINGS)
    index = np.moveaxis(np.indices(case.volume.shape), 0, -1)[..., ::-1]
    found = ball(nib.affines.apply_affine(case.affine, index), INFARCT_MM, 11)
    found = found.astype(np.float32)
    maps = CaseMaps(
        name="planted",
        spacing_mm=SETTINGS.spacing_mm,
        window_hu=SETTINGS.window_hu,
        threshold=0.5,
        volume=case.volume,
        prediction=found,
        aligned=case.volume,
        asymmetry=found,
        aligned_prediction=found,
    )
    return scan, case, maps


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def panel(page, sizes, name):
    """RGB of a panel of the canvas, and where it begins in CSS pixels."""
    data = page.run(f"{CANVAS}.toDataURL()").split(",")[1]
    pixels = np.asarray(
        Picture.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int
    )
    widths = np.array([sizes["Y"], sizes["X"], sizes["X"]])
    ends = np.rint(np.cumsum([0, *widths]) / widths.sum() * pixels.shape[1])
    place = ["sagittal", "coronal", "axial"].index(name)
    start, end = ends[place : place + 2].astype(int)
    return pixels[:, start:end], start


def click_on(page, sizes, name, colour):
    """Click into the middle of the coloured pixels of a panel; share of its width."""
    pixels, start = panel(page, sizes, name)
    red, blue = pixels[..., 0], pixels[..., 2]
    if colour == "white":
        chosen = pixels.min(axis=-1) > 220
    else:  # the map's colours go from red to yellow
        chosen = (red > 120) & (blue < 90) & (red > blue + 100)
    rows, columns = np.nonzero(chosen[40:-60])  # no letters, no numbers
    assert rows.size > 20, f"nothing {colour} is in the {name} panel"
    box = page.run(
        f"(() => {{ const c = {CANVAS}, b = c.getBoundingClientRect(); "
        "return [b.left, b.top, b.width / c.width, b.height / c.height] })()"
    )
    x, y = start + np.median(columns), 40 + np.median(rows)
    page.click(box[0] + x * box[2], box[1] + y * box[3])
    return np.median(columns) / pixels.shape[1]


def read_out(page):
    said = page.run("window.said")
    return np.array([said[axis] for axis in "xyz"])


@pytest.mark.parametrize(
    ("codes", "tilt"), [*((codes, 0.0) for codes in ORIENTATIONS), ("LPS", TILT)]
)
def test_a_click_reads_the_place_that_is_shown(browser, tmp_path, codes, tilt):
    scan, case, maps = planted(codes, tilt)
    write_viewer(tmp_path / "viewer.html", scan, case, maps, SETTINGS)
    page = browser
    page.open(tmp_path / "viewer.html", LISTEN)
    page.run(
        "new Promise(done => { const wait = () => 'z' in (window.said || {}) "
        "? done() : setTimeout(wait, 50); wait() })"
    )
    sizes = page.run(
        "JSON.parse([...document.scripts].map(one => one.text).join()"
        '.match(/"nbSlice": (\\{[^}]*\\})/)[1])'
    )
    assert np.linalg.norm(read_out(page) - INFARCT_MM) < 13, "it opens elsewhere"

    # The found infarct lies on the patient's left: on the right of what is shown.
    assert click_on(page, sizes, "axial", "red") > 0.6
    np.testing.assert_allclose(read_out(page)[:2], INFARCT_MM[:2], atol=4)
    assert click_on(page, sizes, "coronal", "red") > 0.6
    np.testing.assert_allclose(read_out(page), INFARCT_MM, atol=4)
    click_on(page, sizes, "sagittal", "red")
    np.testing.assert_allclose(read_out(page), INFARCT_MM, atol=4)
    letters = page.run("[window.said.R, window.said.L]")
    assert letters[0] < letters[1]

    # The same holds for the CT: a clot of the other side, at the back.
    assert click_on(page, sizes, "axial", "white") < 0.4
    np.testing.assert_allclose(read_out(page)[:2], CLOT_MM[:2], atol=4)
    assert click_on(page, sizes, "coronal", "white") < 0.4
    click_on(page, sizes, "sagittal", "white")
    np.testing.assert_allclose(read_out(page), CLOT_MM, atol=4)


@pytest.mark.parametrize("page", ["", '"nbSlice": {"X": 4, "Y": 3, "Z": 2}' * 2])
def test_a_page_of_another_kind_is_not_written(page):
    with pytest.raises(ValueError, match="nilearn's page"):
        place_mirrored(page, (2, 3, 4), np.eye(4), np.array([0, 1, 2]))
