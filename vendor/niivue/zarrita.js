// In place of zarrita, more than half of the bundle: the page opens no zarr archive.
const absent = name => () => { throw new Error(`${name}: zarr is not part of this bundle`) }
export const FetchStore = absent("FetchStore")
export const root = absent("root")
export const open = absent("open")
export const get = absent("get")
export const slice = absent("slice")
export const withConsolidated = absent("withConsolidated")
export const tryWithConsolidated = absent("tryWithConsolidated")
