// The smallest view. Data: name.
import { element, makeTip, stage } from "./shared/look.js";

const STYLE = `
.pellucid.hello { display: inline-block; }
.pellucid.hello p { margin: 0 0 8px; font-size: 16px; }
.pellucid.hello canvas { display: block; width: 256px; height: 24px; border: 1px solid var(--line); }
`;

function render({ model, el }) {
  const { name } = model.get("data");
  const canvas = element("canvas", {
    width: 33, height: 1, tabindex: "0", role: "img", "aria-label": "A strip of colours, from red over none to blue",
    on: { pointermove: () => told(), pointerleave: () => tip.hide(), focus: () => told(), blur: () => tip.hide() },
  });
  const view = stage(el, "hello", STYLE, (colours) => {
    const context = canvas.getContext("2d");
    for (let x = 0; x < 33; x++) {
      context.fillStyle = colours.css((x - 16) / 16);
      context.fillRect(x, 0, 1, 1);
    }
  });
  view.root.append(element("p", { text: `Hello, ${name}. Pictures show here.` }), canvas);
  const tip = makeTip(view.root);
  const told = () => tip.show([["Hovering works too."]], canvas.getBoundingClientRect());
  view.start();
  return view.stop;
}

export default { render };
