// The page of one scan. Everything that says something of the scan stands in the HTML;
// this script draws, and reads out what lies under the cross.
(async () => {
  "use strict";
  const { Niivue, NVImage, DRAG_MODE } = niivue;
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const element = id => document.getElementById(id);
  const all = selector => [...document.querySelectorAll(selector)];
  const stage = element("stage"), canvas = element("canvas"), message = element("message");
  const lesions = all("#lesions button");
  const images = {};  // decoded volumes by name: "ct", layers, synthetic scans
  const [AXIAL, CORONAL, SAGITTAL] = [0, 1, 2];
  const CROSS_MM = 0.5;

  const viewer = new Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    isSliceMM: false,  // slices as they were taken, also where the gantry was tilted
    isOrientationTextVisible: false,
    crosshairColor: [1, 0.886, 0.478, 0.55],
    crosshairWidth: CROSS_MM,
    crosshairWidthUnit: "mm",
    crosshairGap: 14,  // half widths
    dragMode: DRAG_MODE.none,
    mouseEventConfig: {
      leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.pan },
      rightButton: DRAG_MODE.none, centerButton: DRAG_MODE.pan,
    },
    dragAndDropEnabled: false,
    clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "",
    logLevel: "error",
  });

  // ---- volumes -------------------------------------------------------------------

  async function decode(name, options) {
    const node = element(`volume-${name}`);
    const image = await NVImage.loadFromBase64(
      { base64: node.textContent, name: `${name}.nii.gz`, ...options });
    node.remove();
    return images[name] = image;
  }

  // Values below cal_min are clear of themselves (colormapType stays 0).
  function decodeLayer({ name, low, high, negative, opacity }) {
    const below = negative.R && { colormapNegative: `${name}-negative`, cal_minNeg: -low, cal_maxNeg: -high };
    return decode(name, { colormap: name, cal_min: low, cal_max: high, opacity, ...below });
  }

  function addColours({ name, colours, negative }) {
    const spread = table => table.R.map((_, i) => Math.round(255 * i / (table.R.length - 1)));
    const add = (key, table) => viewer.addColormap(key, { ...table, I: spread(table) });
    add(name, colours);
    if (negative.R) add(`${name}-negative`, negative);
  }

  // X + Q and X + P: the scan as it is, plus a map in HU-sized steps.
  function synthetic(name) {
    const key = `synthetic-${name}`, map = images[name];
    if (!images[key]) {
      const { scl_slope: slope, scl_inter: inter } = map.hdr, made = images.ct.clone();
      made.img = Int16Array.from(images.ct.img, (hu, i) =>
        Math.round(hu + settings.unit_hu * (map.img[i] * slope + inter)));
      images[key] = made;
    }
    return images[key];
  }

  const base = () => {
    const name = document.querySelector("[name=base]:checked")?.value;
    return name ? synthetic(name) : images.ct;
  };

  // One pass over all volumes: NiiVue's own setters would each draw everything anew.
  let hidden = false, waiting = false;
  function showNow() {
    const bottom = base();
    [bottom.cal_min, bottom.cal_max] = range;
    const ticked = all("[data-layer]:checked").map(box => images[box.dataset.layer]);
    viewer.volumes = [bottom, ...(hidden ? [] : ticked.filter(Boolean))];
    viewer.back = bottom;
    viewer.overlays = viewer.volumes.slice(1);
    viewer.updateGLVolume();
  }

  // Once a frame at most: it takes seconds where a processor draws.
  function show() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; showNow(); });
  }

  // ---- window --------------------------------------------------------------------

  let range = [...settings.windows[0]];
  function setWindow(low, high) {
    range = [low, Math.max(high, low + 1)];
    sayWindow();
    show();
  }

  function sayWindow() {
    [element("low").value, element("high").value] = range;
    all(".window").forEach((button, i) => button.setAttribute("aria-pressed",
      settings.windows[i].every((end, j) => end === range[j])));
  }

  function dragWindow(down) {
    if (down.button !== 2) return;
    down.stopPropagation();
    const [low, high] = range;
    const move = event => {
      const level = (low + high) / 2 - (event.clientY - down.clientY) / 4;
      const width = Math.max(4, high - low + (event.clientX - down.clientX) / 2);
      setWindow(Math.round(level - width / 2), Math.round(level + width / 2));
    };
    window.addEventListener("mousemove", move);
    window.addEventListener("mouseup", () => window.removeEventListener("mousemove", move), { once: true });
  }

  // ---- where the cross is --------------------------------------------------------

  const ofAll = settings.slice_count ? ` of ${settings.slice_count}` : "";
  const sliceName = at => `slice ${settings.slices[at[2]]}${ofAll}`;
  const number = (value, digits) => value.toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−");
  const voxel = () => viewer.frac2vox(viewer.scene.crosshairPos);
  const millimetres = () => viewer.frac2mm(viewer.scene.crosshairPos, 0, true);

  function goTo(mm) {
    viewer.scene.crosshairPos = viewer.mm2frac(mm, 0, true);  // true: also where axes lean
    viewer.createOnLocationChange();
    viewer.drawScene();
  }

  let lesion = -1;
  function goToLesion(next) {
    if (!lesions.length) return;
    lesion = (next + lesions.length) % lesions.length;
    lesions.forEach((button, i) => button.closest("tr").classList.toggle("chosen", i === lesion));
    goTo(JSON.parse(lesions[lesion].dataset.mm));
  }

  function readOut() {
    const at = voxel(), mm = millimetres();
    const said = [
      ["", sliceName(at)],
      ["", `${number(images.ct.getValue(...at), 0)} HU`],
    ];
    for (const { name, title, digits, unit, is_mask } of settings.layers) {
      if (is_mask || !images[name]) continue;
      said.push([title, `${number(images[name].getValue(...at), digits)} ${unit}`]);
    }
    const letters = ["LR", "PA", "IS"];
    said.push(["", letters.map((pair, i) =>
      `${pair[+(mm[i] > 0)]} ${Math.abs(mm[i]).toFixed(0)}`).join(", ") + " mm"]);
    element("read-out").replaceChildren(...said.map(([title, value]) => {
      const item = document.createElement("span"), strong = document.createElement("b");
      strong.textContent = value;
      item.append(title && `${title} `, strong);
      return item;
    }));
  }

  // ---- planes, marks, zoom -------------------------------------------------------

  const LETTERS = { [AXIAL]: "APRL", [CORONAL]: "SIRL", [SAGITTAL]: "SIAP" };

  function arrange() {
    const { clientWidth: width, clientHeight: height } = stage, gap = 0.006;
    const tiles = (...places) => places.map((position, sliceType) => ({ sliceType, position }));
    const alone = element("planes").getAttribute("aria-pressed") === "true";
    viewer.setCustomLayout(
      alone ? tiles([0, 0, 1, 1])
      : width > height
        ? tiles([0, 0, 0.62, 1], [0.62 + gap, 0, 0.38 - gap, 0.5 - gap], [0.62 + gap, 0.5, 0.38 - gap, 0.5])
        : tiles([0, 0, 1, 0.64], [0, 0.64 + gap, 0.5 - gap, 0.36 - gap], [0.5 + gap, 0.64 + gap, 0.5 - gap, 0.36 - gap]));
  }

  // NiiVue's letters are white on white bone, and it draws no ruler in this convention.
  function mark() {
    const ratio = viewer.uiData.dpr, at = voxel();
    element("marks").replaceChildren(...viewer.screenSlices.map(tile => {
      const [left, top, width, height] = tile.leftTopWidthHeight.map(one => one / ratio);
      const box = document.createElement("div");
      box.className = "tile";
      Object.assign(box.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
      const add = (kind, text) => {
        const letter = document.createElement("b");
        letter.className = kind;
        letter.textContent = text;
        return box.appendChild(letter);
      };
      [...LETTERS[tile.axCorSag]].forEach((text, i) => add(["top", "bottom", "left", "right"][i], text));
      if (tile.axCorSag === AXIAL) {
        add("slice", sliceName(at));
        const zoom = viewer.scene.pan2Dxyzmm[3];
        const bar = add("bar", ""), text = document.createElement("span");
        bar.style.width = `${50 * width / Math.abs(tile.fovMM[0]) * zoom}px`;
        text.textContent = "50 mm";
        bar.append(text);
      }
      return box;
    }));
  }

  function zoom(factor) {
    const pan = viewer.scene.pan2Dxyzmm, mm = millimetres();
    const next = factor ? Math.min(10, Math.max(0.5, pan[3] * factor)) : 1;
    const moved = factor ? [0, 1, 2].map(i => pan[i] + (next - pan[3]) * -mm[i]) : [0, 0, 0];
    viewer.setPan2Dxyzmm([...moved, next]);
  }

  function togglePlanes() {
    const button = element("planes");
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
    arrange();
  }

  // ---- keys ----------------------------------------------------------------------

  const tick = name => document.querySelector(`[data-layer=${name}]`)?.click();
  const step = by => viewer.moveCrosshairInVox(0, 0, by);
  const KEYS = {
    ArrowUp: () => step(1), ArrowDown: () => step(-1), PageUp: () => step(1), PageDown: () => step(-1),
    n: () => goToLesion(lesion + 1), p: () => goToLesion(lesion - 1),
    l: () => tick("lesion"), t: () => tick("label"), " ": () => { hidden = !hidden; show(); },
    x: () => viewer.setCrosshairWidth(viewer.opts.crosshairWidth ? 0 : CROSS_MM),
    a: togglePlanes, "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => zoom(0),
    ...Object.fromEntries(settings.windows.map((ends, i) => [i + 1, () => setWindow(...ends)])),
  };

  const MOVING = ["ArrowUp", "ArrowDown", "PageUp", "PageDown"];
  const OWN_KEYS = {  // of controls that have the focus
    "[type=number]": Object.keys(KEYS), "[type=range], .scroll": MOVING,
    "[type=radio]": [...MOVING, " "], "[type=checkbox], button, summary": [" "],
  };
  function press(event) {
    if (event.target === canvas) event.stopPropagation();  // NiiVue has keys of its own
    const control = Object.keys(OWN_KEYS).find(kind => event.target.matches(kind));
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (control && OWN_KEYS[control].includes(event.key)) return;
    if (!KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  }

  function listen() {
    const on = (target, kind, act, capture = false) => target.addEventListener(kind, act, { capture, passive: false });
    on(window, "keydown", press, true);
    on(window, "keyup", event => event.target === canvas && event.stopPropagation(), true);
    on(stage, "mousedown", dragWindow, true);
    on(stage, "dblclick", event => event.stopPropagation(), true);  // it would reset the window
    on(stage, "wheel", event => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      event.stopPropagation();
      zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    }, true);
    lesions.forEach((button, i) => on(button, "click", () => goToLesion(i)));
    all(".window").forEach((button, i) => on(button, "click", () => setWindow(...settings.windows[i])));
    all("#low, #high").forEach(input => on(input, "change",
      () => setWindow(+element("low").value, +element("high").value)));
    all("[data-layer], [name=base]").forEach(input => on(input, "change", async () => {
      hidden = false;
      await decoded;
      show();
    }));
    all("[data-opacity]").forEach(input => on(input, "input", () => {
      const image = images[input.dataset.opacity];
      if (image) image.opacity = +input.value;
      show();
    }));
    on(element("planes"), "click", togglePlanes);
    on(element("closer"), "click", () => zoom(1.25));
    on(element("farther"), "click", () => zoom(0.8));
    on(element("whole"), "click", () => zoom(0));
    new ResizeObserver(arrange).observe(stage);
  }

  // ---- start ---------------------------------------------------------------------

  let decoded = null;
  try {
    message.textContent = "Opening the scan …";
    await viewer.attachToCanvas(canvas);
  } catch {
    message.textContent = "This browser has no WebGL2, which the three planes need: the picture stands for the scan.";
    return;
  }
  settings.layers.forEach(addColours);
  await decode("ct", { colormap: "gray", cal_min: range[0], cal_max: range[1] });
  const [first, later] = [true, false].map(mask => settings.layers.filter(layer => layer.is_mask === mask));
  for (const layer of first) await decodeLayer(layer);
  document.body.classList.add("ready");
  arrange();
  sayWindow();
  showNow();
  const drawScene = viewer.drawScene.bind(viewer);
  viewer.drawScene = () => { drawScene(); mark(); };
  viewer.onLocationChange = readOut;
  listen();
  if (lesions.length) goToLesion(0);
  else readOut();
  decoded = (async () => {
    for (const layer of later) {
      await new Promise(done => setTimeout(done));  // the page answers in between
      await decodeLayer(layer);
    }
    readOut();
  })();
  await decoded;
  message.textContent = "";
  document.body.dataset.state = "ready";
  window.adnViewer = viewer;  // for tests and for the browser's console
})();
