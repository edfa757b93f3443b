// What the viewer's page uses of NiiVue.
export { Niivue, NVImage, SLICE_TYPE, SHOW_RENDER, DRAG_MODE } from "@niivue/niivue"
