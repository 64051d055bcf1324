// Attention patterns: heads as thumbnails, one of them large, and the text itself.
// Data: tokens, heads, causal, values (row by row; up to the diagonal if causal), least, most.
import { digits, element, makeTip, numbers, paintBar, stage } from "./shared/look.js";

const STYLE = `
.pellucid.attention .heads { display: flex; flex-wrap: wrap; gap: 6px; max-height: 236px; overflow: auto; padding: 4px; }
.pellucid.attention .heads button { padding: 4px; border: 1px solid var(--line); border-radius: 5px; background: var(--bg);
  cursor: pointer; font-size: 12px; line-height: 1.3; }
.pellucid.attention .heads button[aria-checked="true"] { border-color: var(--focus); box-shadow: 0 0 0 1px var(--focus); font-weight: 600; }
.pellucid.attention .heads canvas { display: block; width: 64px; height: 64px; image-rendering: pixelated; margin-bottom: 3px; }
.pellucid.attention .about { display: flex; flex-wrap: wrap; gap: 4px 20px; align-items: baseline; margin: 10px 0 6px; }
.pellucid.attention .about h3 { margin: 0; font-size: 15px; }
.pellucid.attention .scroll { overflow: auto; padding: 3px; max-width: 100%; }
.pellucid.attention .axes { display: inline-grid; grid-template: auto auto / auto auto; }
.pellucid.attention .sources { position: relative; }
.pellucid.attention .sources span { position: absolute; bottom: 2px; writing-mode: vertical-rl; transform: rotate(180deg); }
.pellucid.attention .destinations { position: relative; }
.pellucid.attention .destinations span { position: absolute; right: 4px; }
.pellucid.attention .axes .token { font-size: 12px; line-height: 1; }
.pellucid.attention .axes .at { color: var(--focus); font-weight: 700; }
.pellucid.attention .grid { position: relative; cursor: crosshair; outline-offset: 1px; touch-action: pan-x pan-y; }
.pellucid.attention .grid > canvas { display: block; width: 100%; height: 100%; image-rendering: pixelated; border: 0; box-shadow: 0 0 0 1px var(--line); }
.pellucid.attention .mark { position: absolute; pointer-events: none; outline: 2px solid #d29922; outline-offset: 0; }
.pellucid.attention .mark[hidden] { display: none; }
.pellucid.attention .text { margin: 12px 0 0; max-width: 110ch; line-height: 1.75; max-height: 16em; overflow: auto; }
.pellucid.attention .text .token { cursor: pointer; padding: 1px 0; border-radius: 2px; white-space: pre-wrap; overflow-wrap: anywhere; }
.pellucid.attention .text .at { outline: 2px solid #d29922; }
.pellucid.attention .help { margin: 8px 0 0; font-size: 12px; color: var(--muted); }
`;

const SIDE = 560; // CSS pixels that the large pattern takes, where each cell can have one or more
const THUMB = 64;
const LABEL = 14; // characters of a label

function render({ model, el }) {
  const data = model.get("data");
  const n = data.tokens.length;
  const values = numbers(data.values);
  const size = data.values.shape[1];
  const weight = (head, q, k) => {
    if (!data.causal) return values[head * size + q * n + k];
    return k > q ? 0 : values[head * size + (q * (q + 1)) / 2 + k];
  };
  const whole = data.most <= 1 && data.least >= 0 ? 1 : Math.max(data.most, -data.least) || 1;
  const cell = Math.max(1, Math.min(28, Math.floor(SIDE / n)));
  const at = { head: 0, q: n - 1, k: 0, on: false };
  let colours;
  let range; // of the colours of the large pattern
  let waiting = null; // the next frame that will draw thumbnails

  const view = stage(el, "attention", STYLE, (now) => {
    colours = now;
    drawThumbs();
    drawHead();
  });
  const { root } = view;

  // Parts
  const thumbs = data.heads.map((name, head) =>
    element(
      "button",
      { type: "button", role: "radio", "aria-label": name, on: { click: () => choose(head) } },
      element("canvas", { width: Math.min(n, THUMB), height: Math.min(n, THUMB), "aria-hidden": "true" }),
      element("span", { text: name }),
    ),
  );
  const heads = element("div", { class: "heads", role: "radiogroup", "aria-label": "Heads", "data-lm-suppress-shortcuts": "true" }, ...thumbs);
  const title = element("h3");
  const bar = element("canvas", { class: "bar", "aria-hidden": "true" });
  const low = element("span");
  const high = element("span");
  const stretch = element("input", { type: "checkbox", on: { change: () => { drawThumbs(); drawHead(); } } });
  const pattern = element("canvas", { width: n, height: n, "aria-hidden": "true" });
  const markCell = element("div", { class: "mark", hidden: true });
  const tip = makeTip(root);
  tip.node.id = `tip-${Math.random().toString(36).slice(2)}`;
  const grid = element(
    "div",
    {
      class: "grid", tabindex: "0", role: "application", "aria-roledescription": "attention pattern",
      "aria-describedby": tip.node.id, "data-lm-suppress-shortcuts": "true",
    },
    pattern, markCell,
  );
  grid.style.width = grid.style.height = `${n * cell}px`;
  const labelled = cell >= 10;
  const [sources, destinations] = ["sources", "destinations"].map((name) => element("div", { class: name, "aria-hidden": "true" }));
  const axisLabels = { q: [], k: [] };
  if (labelled) labelAxes();
  const words = data.tokens.map((token, q) =>
    element("span", { class: "token", text: token, on: { pointerenter: () => row(q), click: () => { row(q); grid.focus(); } } }),
  );
  root.append(
    ...(data.heads.length > 1 ? [heads] : []),
    element("div", { class: "about" }, title,
      element("span", {}, low, " ", bar, " ", high),
      element("label", {}, stretch, " stretch the colours of each head"),
      element("span", { class: "muted", text: "rows: destination (query), columns: source (key)" })),
    element("div", { class: "scroll" },
      element("div", { class: "axes" },
        element("span"), sources, destinations, grid)),
    element("p", { class: "text", "aria-label": "The text; under the mouse, what a token attends to" },
      ...words.flatMap((word, i) => (data.tokens[i].endsWith("↵") ? [word, element("br")] : [word, element("wbr")]))),
    element("p", { class: "help", text:
      "Hover a cell for its weight, or a token to see where it looks. With the keyboard: arrows move the cell, Home and End go along the row, "
      + "Page Up and Page Down along the column" + (data.heads.length > 1 ? "; arrows among the thumbnails choose a head." : ".") }),
    tip.node,
  );

  function labelAxes() {
    for (const [axis, box] of [["k", sources], ["q", destinations]]) {
      const longest = Math.min(LABEL, Math.max(...data.tokens.map((token) => [...token].length)));
      box.style[axis === "k" ? "height" : "width"] = `${longest * 8 + 8}px`;
      data.tokens.forEach((token, i) => {
        const letters = [...token];
        const text = letters.length > LABEL ? letters.slice(0, LABEL - 1).join("") + "…" : token;
        const label = element("span", { class: "token", text });
        label.style[axis === "k" ? "left" : "top"] = `${i * cell + (cell - 12) / 2}px`;
        axisLabels[axis].push(label);
        box.append(label);
      });
    }
  }

  // Drawing
  function scale(head) {
    if (!stretch.checked) return { least: data.least, most: whole === 1 ? 1 : data.most, top: whole };
    let [least, most] = [0, 0];
    for (const value of values.subarray(head * size, (head + 1) * size)) {
      if (value < least) least = value;
      if (value > most) most = value;
    }
    return { least, most, top: Math.max(most, -least) || 1 };
  }

  function drawHead() {
    range = scale(at.head);
    const { least, most, top } = range;
    const context = pattern.getContext("2d");
    const image = context.createImageData(n, n);
    for (let q = 0, p = 0; q < n; q++) {
      for (let k = 0; k < n; k++, p += 4) {
        const rgb = colours.colour(weight(at.head, q, k) / top);
        image.data[p] = rgb[0];
        image.data[p + 1] = rgb[1];
        image.data[p + 2] = rgb[2];
        image.data[p + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
    paintBar(bar, colours, least, most, top);
    low.textContent = digits(least);
    high.textContent = digits(most);
    title.textContent = data.heads[at.head];
    grid.setAttribute("aria-label", `${data.heads[at.head]}, ${n} tokens; arrows move the cell`);
    thumbs.forEach((thumb, head) => {
      thumb.setAttribute("aria-checked", String(head === at.head));
      thumb.tabIndex = head === at.head ? 0 : -1;
    });
    paintText();
  }

  // A few at a time, so that the page answers in between.
  function drawThumbs() {
    cancelAnimationFrame(waiting);
    let head = 0;
    const some = () => {
      const until = performance.now() + 12;
      while (head < thumbs.length && performance.now() < until) drawThumb(head++);
      waiting = head < thumbs.length ? requestAnimationFrame(some) : null;
    };
    some();
  }

  // Of the weights that share a pixel, the largest: a stripe one cell wide must not be lost.
  function drawThumb(head) {
    const side = Math.min(n, THUMB);
    const largest = new Float32Array(side * side);
    for (let q = 0; q < n; q++) {
      const y = Math.floor((q * side) / n) * side;
      for (let k = 0; k < (data.causal ? q + 1 : n); k++) {
        const value = weight(head, q, k);
        const p = y + Math.floor((k * side) / n);
        if (Math.abs(value) > Math.abs(largest[p])) largest[p] = value;
      }
    }
    const { top } = scale(head);
    const context = thumbs[head].querySelector("canvas").getContext("2d");
    const image = context.createImageData(side, side);
    largest.forEach((value, p) => image.data.set([...colours.colour(value / top), 255], 4 * p));
    context.putImageData(image, 0, 0);
  }

  // Every token as strongly as the destination looks at it; plain while no destination is chosen.
  function paintText() {
    words.forEach((word, k) => {
      const value = at.on ? weight(at.head, at.q, k) / range.top : 0;
      word.style.background = value ? colours.css(value) : "";
      word.style.color = value ? colours.ink(value) : "";
      word.classList.toggle("at", at.on && k === at.q);
    });
  }

  // Choosing
  function choose(head) {
    at.head = head;
    drawHead();
    if (!tip.node.hidden) tell();
  }

  function row(q) {
    at.on = true;
    at.q = q;
    tip.hide();
    markCell.hidden = true;
    markLabels();
    paintText();
  }

  function go(q, k) {
    at.on = true;
    at.q = Math.max(0, Math.min(n - 1, q));
    at.k = Math.max(0, Math.min(n - 1, k));
    Object.assign(markCell.style, { left: `${at.k * cell}px`, top: `${at.q * cell}px`, width: `${cell}px`, height: `${cell}px` });
    markCell.hidden = false;
    markLabels();
    paintText();
    tell();
  }

  function markLabels() {
    axisLabels.q.forEach((label, i) => label.classList.toggle("at", at.on && i === at.q));
    axisLabels.k.forEach((label, i) => label.classList.toggle("at", at.on && i === at.k && !markCell.hidden));
  }

  function tell() {
    const word = (i) => element("span", { class: "token", text: data.tokens[i] });
    tip.show(
      [
        [`destination ${at.q}  `, word(at.q)],
        [`source ${at.k}  `, word(at.k)],
        [element("b", { class: "weight", text: digits(weight(at.head, at.q, at.k)) }), `  ${data.heads[at.head]}`],
      ],
      markCell.getBoundingClientRect(),
    );
  }

  function away() {
    at.on = false;
    tip.hide();
    markCell.hidden = true;
    markLabels();
    paintText();
  }

  let move = null; // the last place of the mouse; one frame takes one place
  grid.addEventListener("pointermove", (event) => {
    if (!move) requestAnimationFrame(() => { const place = move; move = null; if (place) go(...place); });
    const box = grid.getBoundingClientRect();
    move = [Math.floor((event.clientY - box.top) / cell), Math.floor((event.clientX - box.left) / cell)];
  });
  root.addEventListener("pointerleave", () => { move = null; away(); });
  grid.addEventListener("focus", () => grid.matches(":focus-visible") && go(at.q, at.k));
  grid.addEventListener("blur", away);
  grid.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.round(n / 10));
    const to = {
      ArrowUp: [at.q - 1, at.k], ArrowDown: [at.q + 1, at.k], ArrowLeft: [at.q, at.k - 1], ArrowRight: [at.q, at.k + 1],
      Home: [at.q, 0], End: [at.q, n - 1], PageUp: [at.q - page, at.k], PageDown: [at.q + page, at.k],
    }[event.key];
    if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    go(...to);
    markCell.scrollIntoView({ block: "nearest", inline: "nearest" });
    tell();
  });
  heads.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const last = thumbs.length - 1;
    const head = event.key === "Home" ? 0 : event.key === "End" ? last : step ? (at.head + step + last + 1) % (last + 1) : null;
    if (head === null) return;
    event.preventDefault();
    event.stopPropagation();
    choose(head);
    thumbs[head].focus();
  });
  view.start();
  return () => { cancelAnimationFrame(waiting); view.stop(); };
}

export default { render };
