"""The viewer's page read in a browser: what it shows lies where it says."""

import base64
import io

import numpy as np
import pytest
from PIL import Image as Picture

from adn_jax.inference.viewer import place_mirrored, write_viewer
from tests.inference.browser import PROGRAM, open_browser
from tests.inference.planted import CLOT_MM, INFARCT_MM, ORIENTATIONS, planted

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
    write_viewer(tmp_path / "viewer.html", scan, case, maps)
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
