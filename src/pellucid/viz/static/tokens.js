// Text, each token coloured by its number. Data: tokens, breaks, values, name, least, most.
import { digits, element, makeTip, numbers, paintBar, stage } from "./shared/look.js";

const STYLE = `
.pellucid.tokens .about { margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 4px 16px; }
.pellucid.tokens .text { margin: 0; max-width: 110ch; line-height: 1.9; }
.pellucid.tokens .text .token { padding: 2px 0; border-radius: 2px; white-space: pre-wrap; overflow-wrap: anywhere; }
.pellucid.tokens .text .none { border-bottom: 1px dotted var(--muted); }
`;

function render({ model, el }) {
  const data = model.get("data");
  const values = numbers(data.values);
  const top = Math.max(data.most, -data.least) || 1;
  const view = stage(el, "tokens", STYLE, (colours) => {
    words.forEach((word, i) => {
      const t = values[i] / top;
      word.style.background = t ? colours.css(t) : "";
      word.style.color = t ? colours.ink(t) : "";
    });
    paintBar(bar, colours, data.least, data.most, top);
  });
  const { root } = view;
  const tip = makeTip(root);
  const bar = element("canvas", { class: "bar", "aria-hidden": "true" });
  const words = data.tokens.map((token, i) =>
    element("span", {
      class: Number.isNaN(values[i]) ? "token none" : "token", text: token, tabindex: i ? "-1" : "0",
      role: "img", "aria-label": `${i} ${token}: ${digits(values[i])}`,
      on: { pointerenter: () => tell(i), focus: () => tell(i), blur: () => tip.hide() },
    }),
  );
  const text = element(
    "p",
    {
      class: "text", role: "group", "aria-label": `Tokens with their ${data.name}; arrows move`,
      "data-lm-suppress-shortcuts": "true", on: { pointerleave: () => tip.hide(), keydown: move },
    },
    ...words.flatMap((word, i) => (data.breaks[i] ? [word, element("br")] : [word, element("wbr")])),
  );
  root.append(
    element("p", { class: "about" }, element("span", { text: data.name }),
      element("span", {}, digits(data.least), " ", bar, " ", digits(data.most))),
    text, tip.node,
  );

  function tell(i) {
    tip.show(
      [[`${i}  `, element("span", { class: "token", text: data.tokens[i] })],
        [`${data.name}  `, element("b", { class: "value", text: digits(values[i]) })]],
      words[i].getBoundingClientRect(),
    );
  }

  function move(event) {
    const from = words.indexOf(event.target);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: words.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (!words[to]) return;
    words[from].tabIndex = -1;
    words[to].tabIndex = 0;
    words[to].focus();
  }

  view.start();
  return view.stop;
}

export default { render };
