// Tables of class "sortable": a click on a heading's button sorts by its column. A cell
// is sorted by its data-value, or else by its text; cells without a value come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.value ?? cell.textContent).trim();
    return { text, number: parseFloat(text.replace("−", "-")) };
  };
  const compare = (one, other, up) => {
    const [a, b] = [isNaN(one.number), isNaN(other.number)];
    if (a !== b) return a - b;
    const order = a ? one.text.localeCompare(other.text, "en", { numeric: true })
      : one.number - other.number;
    return up ? order : -order;
  };
  headings.forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach(each => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map(row => ({ row, key: key(row, column) }));
      rows.sort((one, other) => compare(one.key, other.key, up));
      body.append(...rows.map(each => each.row));
    });
  });
}

// A form of class "filter" hides the rows of the table that its data-table names, unless
// they hold every word of its search field and, where its box is ticked, have a flag.
for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows]
    .map(row => ({ row, text: row.textContent.toLowerCase() }));
  const [search, box, count] = ["[type=search]", "[type=checkbox]", "output"]
    .map(kind => form.querySelector(kind));
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every(word => text.includes(word))
        || (box.checked && !("flagged" in row.dataset));
      shown += !row.hidden;
    }
    count.value = `${shown} of ${rows.length} shown`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
  apply();
}
