// What draws the pictures of a page: it stands in for the notebook, and gives each view the model that a notebook would.
(() => {
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const sources = json("modules");
  const urls = {};

  const url = (name) => (urls[name] ??= URL.createObjectURL(new Blob([sources[name]], { type: "text/javascript" })));

  function bytes(text) {
    const letters = atob(text);
    const made = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) made[i] = letters.charCodeAt(i);
    return new DataView(made.buffer);
  }

  // Bytes came as text; views get them as a DataView, as from a notebook.
  function revived(value) {
    if (Array.isArray(value)) return typeof value[0] === "object" ? value.map(revived) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, key === "bytes" ? bytes(part) : revived(part)]));
  }

  async function draw(el) {
    const { module, data } = json(el.dataset.view);
    const values = { data: revived(data) };
    const still = () => {};
    const model = { get: (name) => values[name], set: still, save_changes: still, on: still, off: still, send: still };
    const view = await import(url(module));
    view.default.render({ model, el });
  }

  const media = ["(prefers-color-scheme: dark)", "print"].map((query) => matchMedia(query));
  const isDark = () => media[0].matches && !media[1].matches;

  function themed(layout, plain) {
    const [text, line] = isDark() ? ["#e6e8eb", "#4a535e"] : ["#1b1f24", "#c4cbd3"];
    const clear = "rgba(0,0,0,0)";
    const changes = {
      paper_bgcolor: clear, plot_bgcolor: clear, "font.color": text, "title.font.color": text,
      "modebar.bgcolor": clear, "modebar.color": line, "modebar.activecolor": text,
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) changes[`${axis}.${part}`] = line;
    }
    for (const shape of plain) changes[`shapes[${shape}].line.color`] = text;
    return changes;
  }

  // Plotly offers to send a chart to its makers; not from here.
  const SETTINGS = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };

  async function chart(el) {
    const { data, layout = {} } = json(el.dataset.chart);
    layout.xaxis ??= {};
    layout.yaxis ??= {};
    await Plotly.newPlot(el, data, layout, SETTINGS);
    const plain = (layout.shapes ?? []).map((shape, i) => (shape.line?.color ? -1 : i)).filter((i) => i >= 0);
    const look = () => Plotly.relayout(el, themed(el.layout, plain));
    await look();
    for (const query of media) query.addEventListener("change", look);
  }

  // One after the other, with a breath between them.
  async function all() {
    for (const el of document.querySelectorAll("[data-view], [data-chart]")) {
      try {
        await (el.dataset.view ? draw(el) : chart(el));
        el.dataset.drawn = "";
      } catch (error) {
        el.textContent = `This picture cannot be drawn here: ${error}`;
        console.error(error);
      }
      await new Promise((next) => setTimeout(next));
    }
    document.documentElement.dataset.drawn = "";
  }
  all();
})();
