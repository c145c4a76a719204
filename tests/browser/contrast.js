// Returns what of a page can hardly be read: texts and placeholders below 4.5 to 1 (large ones below 3), and symbols and
// boxes to tick below 3 (WCAG 2.2, 1.4.3 and 1.4.11). Colours are asked of a canvas, which knows every way to write one.
() => {
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const known = new Map();

  function rgba(colour) {
    if (!known.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [red, green, blue, alpha] = pen.getImageData(0, 0, 1, 1).data;
      known.set(colour, [red, green, blue, alpha / 255]);
    }
    return known.get(colour);
  }

  const over = ([r, g, b, a], below) => [r, g, b].map((part, index) => part * a + below[index] * (1 - a));

  const backgrounds = new Map([[null, [255, 255, 255]]]); // of elements, which have those of their parents below them
  function background(element) {
    if (!backgrounds.has(element)) {
      const own = rgba(getComputedStyle(element).backgroundColor);
      backgrounds.set(element, over(own, background(element.parentElement)));
    }
    return backgrounds.get(element);
  }

  function luminance(colour) {
    const [red, green, blue] = colour.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  function ratio(one, other) {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  }

  const faint = [];
  const check = (what, colour, below, least) => {
    const found = ratio(over(rgba(colour), below), below);
    if (found < least) faint.push(`${what}: ${found.toFixed(2)}`);
  };
  const isShown = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.data.trim();
    if (!text || element.closest("script, style, option, :disabled") || !isShown(element)) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) || style.fontFamily.includes("Symbols");
    check(text.slice(0, 40), style.color, background(element), isLarge ? 3 : 4.5);
  }
  for (const field of document.querySelectorAll("input, textarea, select")) {
    if (field.type === "hidden" || field.closest(":disabled") || !isShown(field)) continue;
    if (field.placeholder && !field.value)
      check(`placeholder of ${field.name}`, getComputedStyle(field, "::placeholder").color, background(field), 4.5);
    if (["checkbox", "radio"].includes(field.type) && !field.checked) {
      const style = getComputedStyle(field);
      if (style.appearance === "auto") continue; // drawn by the browser, which WCAG 1.4.11 leaves alone
      const edge = parseFloat(style.borderTopWidth) ? style.borderTopColor : style.backgroundColor;
      check(`box of ${field.name}`, edge, background(field.parentElement), 3);
    }
  }
  return faint;
}
