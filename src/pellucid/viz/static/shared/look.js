// How all views look, and how they read their numbers: light and dark, colours, text of numbers, the tip.

const STYLE = `
.pellucid { --bg: #ffffff; --fg: #1b1f24; --muted: #57606a; --line: #d0d7de; --focus: #0550ae; --raised: #f6f8fa;
  background: var(--bg); color: var(--fg); color-scheme: light; position: relative; padding: 12px; border-radius: 6px;
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; box-sizing: border-box; }
.pellucid[data-theme="dark"] { --bg: #14171c; --fg: #e6e8eb; --muted: #a3adb8; --line: #3b434d; --focus: #79b8ff;
  --raised: #1f242b; color-scheme: dark; }
.pellucid *, .pellucid *::before { box-sizing: border-box; }
.pellucid button, .pellucid input { font: inherit; color: inherit; }
.pellucid :focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
.pellucid .token { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 13px; unicode-bidi: isolate; white-space: pre; }
.pellucid .muted { color: var(--muted); }
.pellucid .tip { position: absolute; z-index: 2; pointer-events: none; max-width: 32em; padding: 6px 9px; border-radius: 5px;
  background: var(--fg); color: var(--bg); box-shadow: 0 2px 8px #0006; white-space: pre; overflow: hidden; }
.pellucid .tip[hidden] { display: none; }
.pellucid .tip b { font-variant-numeric: tabular-nums; }
.pellucid .bar { display: inline-block; width: 120px; height: 12px; vertical-align: middle; border: 1px solid var(--line); }
@media print { .pellucid { padding: 0; } .pellucid .tip { display: none; } }
`;

/** An element; `attributes` may hold `text`, `on` (listeners), and anything HTML knows. Text is never read as HTML. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The typed array in a part of the data: `{kind, shape, bytes}`. */
export function numbers(part) {
  const { buffer, byteOffset, byteLength } = part.bytes;
  const copy = buffer.slice(byteOffset, byteOffset + byteLength); // a typed array must begin where its kind can
  return part.kind === "float64" ? new Float64Array(copy) : new Float32Array(copy);
}

/** A number as a person reads it: four digits. */
export function digits(number) {
  return Number.isNaN(number) ? "—" : String(Number(number.toPrecision(4)));
}

/** Whether the place of an element is dark: as the notebook around it says, else as the system says. */
function isDark(el) {
  if (matchMedia("print").matches) return false;
  const named = el.closest(".pellucid-light, .pellucid-dark");
  if (named) return named.classList.contains("pellucid-dark");
  const { body, documentElement: html } = document;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false"; // JupyterLab, Notebook 7
  if (body.dataset.vscodeThemeKind) return !body.dataset.vscodeThemeKind.endsWith("light"); // VS Code
  const theme = html.getAttribute("theme") || html.dataset.theme || body.dataset.theme; // Colab and others
  if (theme === "dark" || theme === "light") return theme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** The root of a view, inside `el`, styled. `draw(colours)` is called at once and whenever light and dark change. */
export function stage(el, name, css, draw) {
  const root = element("div", { class: `pellucid ${name}` }, element("style", { text: STYLE + css }));
  el.append(root);
  let dark;
  const look = () => {
    if (dark === isDark(root)) return;
    dark = isDark(root);
    root.dataset.theme = dark ? "dark" : "light";
    draw(palette(dark));
  };
  const media = ["print", "(prefers-color-scheme: dark)"].map((query) => matchMedia(query));
  const observer = new MutationObserver(look);
  return {
    root,
    start() {
      look();
      for (const query of media) query.addEventListener("change", look);
      for (const part of [document.documentElement, document.body]) observer.observe(part, { attributes: true });
    },
    stop() {
      for (const query of media) query.removeEventListener("change", look);
      observer.disconnect();
      root.remove();
    },
  };
}

const RAMPS = {
  light: { positive: ["#ffffff", "#9ecae1", "#3787c0", "#08306b"], negative: ["#ffffff", "#fcb499", "#e0532f", "#7a1208"] },
  dark: { positive: ["#14171c", "#1d4f86", "#4a9be0", "#e3f1ff"], negative: ["#14171c", "#7d3016", "#e2703f", "#ffe9dd"] },
};

/** Colours of numbers: `colour(t)` is `[red, green, blue]` for t from −1 over 0 (the ground) to 1. */
function palette(dark) {
  const ramps = RAMPS[dark ? "dark" : "light"];
  const steps = Object.fromEntries(Object.entries(ramps).map(([sign, stops]) => [sign, ramp(stops)]));
  const colour = (t) => {
    const place = Math.min(255, Math.round(255 * Math.abs(t)));
    return steps[t < 0 ? "negative" : "positive"][place];
  };
  const css = (t) => `rgb(${colour(t).join(" ")})`;
  return { dark, colour, css, ink: (t) => (luminance(colour(t)) > 0.18 ? "#000000" : "#ffffff") };
}

function ramp(stops) {
  const parts = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, step) => {
    const along = (step / 255) * (parts.length - 1);
    const from = Math.min(parts.length - 2, Math.floor(along));
    return parts[from].map((part, i) => Math.round(part + (parts[from + 1][i] - part) * (along - from)));
  });
}

/** Relative luminance, as WCAG 2 defines it. */
function luminance(rgb) {
  const [r, g, b] = rgb.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** What tells about the place under the mouse or the cursor. Readers of screens hear it. */
export function makeTip(root) {
  const tip = element("div", { class: "tip", role: "status", hidden: true });
  root.append(tip);
  root.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));
  return {
    node: tip,
    /** Below and right of a rectangle (as on the screen), or above and left where there is no room. */
    show(lines, near) {
      tip.replaceChildren(...lines.map((line) => element("div", {}, ...line)));
      tip.hidden = false;
      const home = root.getBoundingClientRect();
      const right = near.right + 10 + tip.offsetWidth > Math.min(home.right, innerWidth);
      const under = near.bottom + 10 + tip.offsetHeight > innerHeight;
      const left = right ? near.left - 10 - tip.offsetWidth : near.right + 10;
      const top = under ? near.top - 10 - tip.offsetHeight : near.bottom + 10;
      tip.style.left = `${Math.max(0, left - home.left)}px`;
      tip.style.top = `${top - home.top}px`;
    },
    hide: () => (tip.hidden = true),
  };
}

/** Paint a bar of colours from `least` to `most` of a scale. */
export function paintBar(canvas, colours, least, most, scale) {
  canvas.width = 120;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  for (let x = 0; x < 120; x++) {
    context.fillStyle = colours.css((least + ((most - least) * x) / 119) / scale);
    context.fillRect(x, 0, 1, 1);
  }
}
