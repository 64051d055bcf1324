// A picture tells how high it is, and its frame becomes so.
addEventListener("message", ({ source, data }) => {
  if (typeof data?.pictureHeight !== "number") return;
  for (const frame of document.querySelectorAll("iframe.picture")) {
    if (frame.contentWindow === source) frame.style.height = `${Math.min(data.pictureHeight, 900)}px`;
  }
});
