// A table that each column can sort. Data: rows, rows_name, columns (name, unit, values, low, high), sort.
import { digits, element, numbers, stage } from "./shared/look.js";

const STYLE = `
.pellucid.table .scroll { max-height: 32em; overflow: auto; border: 1px solid var(--line); border-radius: 5px; display: inline-block; max-width: 100%; }
.pellucid.table table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
.pellucid.table th, .pellucid.table td { padding: 3px 14px; text-align: right; border-bottom: 1px solid var(--line); background: var(--bg); }
.pellucid.table th:first-child { text-align: left; }
.pellucid.table tbody th { font-weight: 600; }
.pellucid.table thead th { position: sticky; top: 0; z-index: 1; background: var(--raised); vertical-align: bottom; }
.pellucid.table thead button { all: unset; cursor: pointer; font-weight: 600; }
.pellucid.table thead button:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
.pellucid.table thead .unit { display: block; font-size: 12px; font-weight: 400; color: var(--muted); }
.pellucid.table tbody tr:hover th, .pellucid.table tbody tr:hover td { background: var(--raised); }
.pellucid.table .interval { color: var(--muted); font-size: 12px; margin-left: 8px; display: inline-block; min-width: 9em; }
.pellucid.table .length { display: block; height: 3px; margin-top: 1px; }
@media print { .pellucid.table .scroll { max-height: none; overflow: visible; } }
`;

function render({ model, el }) {
  const data = model.get("data");
  const columns = data.columns.map((column) => {
    const parts = Object.fromEntries(["values", "low", "high"].filter((key) => column[key]).map((key) => [key, numbers(column[key])]));
    const top = parts.values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0) || 1;
    return { ...column, ...parts, top };
  });
  const NAME = -1; // the column of names; null: the rows as they came
  const by = { column: data.sort === null ? null : columns.findIndex((column) => column.name === data.sort), down: true };
  const lengths = [];
  const view = stage(el, "table", STYLE, (colours) => {
    for (const [bar, t] of lengths) bar.style.background = colours.css(t < 0 ? -0.66 : 0.66);
  });

  const rows = data.rows.map((name, i) => element("tr", {}, element("th", { scope: "row", text: name }), ...columns.map((column) => cellOf(column, i))));
  const heads = [{ name: data.rows_name || "name" }, ...columns].map((column, i) =>
    element("th", { scope: "col" },
      element("button", { type: "button", on: { click: () => sort(i - 1) } }, column.name, element("span", { class: "arrow", "aria-hidden": "true" })),
      ...(column.unit ? [element("span", { class: "unit", text: column.unit })] : [])),
  );
  const body = element("tbody");
  view.root.append(
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table; its column heads sort it", "data-lm-suppress-shortcuts": "true" },
      element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body)),
  );

  function cellOf(column, i) {
    const value = column.values[i];
    const cell = element("td", { title: Number.isNaN(value) ? "no value" : String(value) }, element("span", { class: "value", text: digits(value) }));
    if (column.low && !Number.isNaN(column.low[i])) {
      cell.append(element("span", { class: "interval", text: `[${digits(column.low[i])}, ${digits(column.high[i])}]` }));
    }
    if (value) {
      const bar = element("span", { class: "length", "aria-hidden": "true" });
      bar.style.width = `${(100 * Math.abs(value)) / column.top}%`;
      lengths.push([bar, value]);
      cell.append(bar);
    }
    return cell;
  }

  // Numbers begin with the largest, names with the first.
  function sort(column) {
    by.down = by.column === column ? !by.down : column !== NAME;
    by.column = column;
    order();
  }

  // What has no value comes last, either way; equal ones stay as they came.
  function order() {
    const places = data.rows.map((_, i) => i);
    const sign = by.down ? -1 : 1;
    if (by.column === NAME) {
      places.sort((a, b) => sign * data.rows[a].localeCompare(data.rows[b], undefined, { numeric: true }));
    } else if (by.column !== null) {
      const { values } = columns[by.column];
      const none = (i) => Number.isNaN(values[i]);
      places.sort((a, b) => none(a) - none(b) || (none(a) ? 0 : sign * (values[a] - values[b])));
    }
    heads.forEach((head, i) => {
      const here = by.column === i - 1;
      head.setAttribute("aria-sort", here ? (by.down ? "descending" : "ascending") : "none");
      head.querySelector(".arrow").textContent = here ? (by.down ? " ↓" : " ↑") : "";
    });
    body.replaceChildren(...places.map((i) => rows[i]));
  }

  order();
  view.start();
  return view.stop;
}

export default { render };
