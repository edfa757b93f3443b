// Makes ../../adn_jax/inference/templates/niivue.js, NOTICES and SHA256 beside this file:
//
//     npm ci && npm run build
//
// Nothing else of this project needs node. esbuild keeps no licence comment of what it
// bundles, so the notices of all that is inside stand at the head of the bundle.
import { createHash } from "node:crypto"
import { readFileSync, readdirSync, writeFileSync } from "node:fs"
import { build } from "esbuild"

const target = "../../adn_jax/inference/templates/niivue.js"
const options = {
  entryPoints: ["entry.js"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "niivue",
  charset: "ascii",
  target: "es2022",
  legalComments: "none",
  alias: { zarrita: "./zarrita.js" },
  loader: { ".png": "dataurl", ".jpg": "dataurl" },
  write: false,
  metafile: true,
}

const found = Object.keys((await build(options)).metafile.inputs)
  .map(path => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1])
const packages = [...new Set(found.filter(Boolean))].sort()

function notice(name) {
  const folder = `node_modules/${name}`
  const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`))
  const file = readdirSync(folder).find(each => /^licen[cs]e/i.test(each))
  // npm's tarball of NiiVue holds no licence: this is its repository's
  const path = file ? `${folder}/${file}` : `LICENSE.${name.split("/").at(-1)}`
  return `${name} ${version} (${license})\n\n${readFileSync(path, "utf8").trim()}\n`
}

const notices = packages.map(notice).join(`\n${"-".repeat(72)}\n\n`)
const banner = { js: `/*!\n${notices}*/` }
const [output] = (await build({ ...options, banner })).outputFiles
for (const end of ["</script", "<!--"])
  if (output.text.includes(end)) throw new Error(`the bundle holds ${end}: it would end the page's script`)

const sha256 = createHash("sha256").update(output.contents).digest("hex")
writeFileSync(target, output.contents)
writeFileSync("NOTICES", notices)
writeFileSync("SHA256", `${sha256}  niivue.js\n`)
console.log(`${target}: ${output.contents.length} bytes of ${packages.join(", ")}`)
